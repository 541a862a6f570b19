#!/bin/bash
# docker-mailserver runs this at the end of its set-up, before it starts the daemons. Here stands what depends on the
# environment or the release and so cannot be said in the other files. The native engine does the same by itself.

config=/tmp/docker-mailserver

# No way out: without an SMTP client in master.cf Postfix cannot connect to another server.
postconf -MX smtp/unix relay/unix
# Each mail says in X-Original-To which address it was sent to, also caught mail.
postconf -F 'lmtp/unix/command=lmtp flags=O'

# Releases up to 10 check DKIM and DMARC whatever the environment says, and ask the DNS for it.
if [ "$ENABLE_OPENDKIM" = 0 ] && [ -n "$(postconf -h dkim_milter 2>/dev/null)" ]; then
  postconf dkim_milter= dmarc_milter=
fi

# Dovecot 2.4, in releases from 16 on, has another syntax. docker-mailserver copies dovecot.cf to local.conf, up to
# release 10 after this script, so Dovecot reads a copy of its own in the place of that.
dovecot=/etc/dovecot/development.conf
case $(dovecot --version) in
  2.3*) cp $config/dovecot.cf $dovecot ;;
  *) cp $config/dovecot-2.4.cf $dovecot ;;
esac
sed -i 's/^!include_try local\.conf$/!include_try development.conf/' /etc/dovecot/dovecot.conf

# SMTP_ANY_LOGIN=0: only the server's own accounts log in.
if [ "$SMTP_ANY_LOGIN" = 0 ]; then
  sed -i '/^# SMTP_ANY_LOGIN begins/,/^# SMTP_ANY_LOGIN ends/d' $dovecot
fi

# The certificate of SSL_TYPE=snakeoil has all names that clients call this server by, and stays the same. The image's
# own is made with the image and for another name. Clients that want to trust it find it in the configuration folder.
if [ "$SSL_TYPE" = snakeoil ]; then
  tls=/var/mail-state/tls
  name=$(postconf -h myhostname)
  if ! openssl x509 -noout -checkhost "$name" -in $tls/certificate.pem 2>/dev/null | grep -q 'does match'; then
    mkdir -p -m 700 $tls
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -extensions usr_cert \
      -subj "/CN=$name" -addext extendedKeyUsage=serverAuth \
      -addext "subjectAltName=DNS:localhost,DNS:$name,DNS:development-mail-server,IP:127.0.0.1,IP:::1" \
      -keyout $tls/key.pem -out $tls/certificate.pem 2>/dev/null
  fi
  install -m 640 -g ssl-cert $tls/key.pem /etc/ssl/private/ssl-cert-snakeoil.key
  install -m 644 $tls/certificate.pem /etc/ssl/certs/ssl-cert-snakeoil.pem
  install -m 644 $tls/certificate.pem $config/certificate.pem
fi

# SSL_TYPE= (empty) is no TLS on any port; dovecot.cf and postfix-master.cf turn it on for theirs.
if [ -z "$SSL_TYPE" ]; then
  echo 'ssl = no' >>$dovecot
  postconf -P submission/inet/smtpd_tls_security_level=none
fi

# Dovecot takes every message that Postfix takes, with the lines that are added on the way. docker-mailserver gives it
# the limit in whole MB, and what lies between the two would be accepted and never delivered.
quota=/etc/dovecot/conf.d/90-quota.conf
if [ -f $quota ] && [ "${POSTFIX_MESSAGE_SIZE_LIMIT:=10240000}" -gt 0 ]; then
  sed -i -E "s/quota_(max_)?mail_size =.*/quota_\1mail_size = $((POSTFIX_MESSAGE_SIZE_LIMIT + 1000000))B/" $quota
fi

# SMTP_ONLY=1 is without Dovecot, so nobody can check a password, and an smtpd with AUTH on would end at each
# connection.
if [ "$SMTP_ONLY" = 1 ]; then
  postconf smtpd_sasl_auth_enable=no
fi

# Up to 600 clients at once on each SMTP port: each takes one process of smtpd (1.6 MB), and a hundred of them, the
# default, are taken up by as many connections that nobody ends. Releases up to 10 call port 465 smtps.
for service in smtpd/pass submission/inet submissions/inet smtps/inet; do
  if [ -n "$(postconf -M "$service" 2>/dev/null)" ]; then
    postconf -F "$service/process_limit=600"
  fi
done

# Postfix 3.5 of releases up to 10 does not know smtpd_forbid_bare_newline (see postfix-main.cf) and takes <LF>.<LF> for
# the end of a message. There a client that sends on behind DATA before its answer is refused, as a smuggled message
# does.
if [ -z "$(postconf -d smtpd_forbid_bare_newline 2>/dev/null)" ]; then
  postconf smtpd_data_restrictions=reject_unauth_pipelining
fi

# Mail keeps the headers that its application gave it; docker-mailserver drops X-Mailer and others on ports 587 and 465.
: >/etc/postfix/maps/sender_header_filter.pcre

# Dovecot reads the master user's password as its own user, also where the checkout was made with umask 077; and so does
# Postfix with the tables that it reads from here.
chmod o+x $config
chmod o+r $config/dovecot-master-users $config/postfix-transport_maps $config/*.pcre
