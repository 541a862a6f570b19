#!/bin/bash
# docker-mailserver runs this at the end of its set-up, before it starts the daemons. Here stands what depends on the
# environment and so cannot be said in the other files. The native engine knows it by itself.

# SSL_TYPE= (empty) is no TLS on any port; dovecot.cf and postfix-master.cf turn it on for theirs.
if [ -z "$SSL_TYPE" ]; then
  echo 'ssl = no' >>/etc/dovecot/local.conf
  postconf -P submission/inet/smtpd_tls_security_level=none
fi

# Dovecot takes every message that Postfix takes, with the lines that are added on the way. docker-mailserver gives it the
# limit in whole MB, and what lies between the two would be accepted and never delivered.
quota=/etc/dovecot/conf.d/90-quota.conf
if [ -f $quota ] && [ "${POSTFIX_MESSAGE_SIZE_LIMIT:=10240000}" -gt 0 ]; then
  sed -i "s/quota_max_mail_size =.*/quota_max_mail_size = $((POSTFIX_MESSAGE_SIZE_LIMIT + 1000000))B/" $quota
fi

# SMTP_ONLY=1 is without Dovecot, so nobody can check a password, and an smtpd with AUTH on would end at each connection.
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
# the end of a message. There a client that sends on behind DATA before its answer is refused, as a smuggled message does.
if [ -z "$(postconf -d smtpd_forbid_bare_newline 2>/dev/null)" ]; then
  postconf smtpd_data_restrictions=reject_unauth_pipelining
fi

# Mail keeps the headers that its application gave it; docker-mailserver drops X-Mailer and others on ports 587 and 465.
: >/etc/postfix/maps/sender_header_filter.pcre

# Dovecot reads the master user's password as its own user, also where the checkout was made with umask 077.
chmod o+x /tmp/docker-mailserver
chmod o+r /tmp/docker-mailserver/dovecot-master-users
