/** dovecot.conf of the private Dovecot. */
import { domainOf, hostnameOf, LAYOUT, type NativeInput, type TlsFiles, VMAIL_ID } from './native_layout.ts'

/** dovecot.conf as docker-mailserver has it, with the user's `dovecot.cf` behind it. */
export function dovecotConf(input: NativeInput, tls: TlsFiles | undefined): string {
  const { environment, ports, stateDir } = input
  const path = (part: string) => `${stateDir}/${part}`
  const format = environment.DOVECOT_MAILBOX_FORMAT || 'maildir'
  const protocols = [
    environment.ENABLE_IMAP !== '0' && 'imap',
    environment.ENABLE_POP3 === '1' && 'pop3',
    'lmtp',
  ].filter((name): name is string => Boolean(name))
  const login = (name: 'pop3' | 'imap') => {
    const secured = `${name}s` as 'pop3s' | 'imaps'
    const implicit = tls ? `port = ${ports[secured]}\n    ssl = yes` : 'port = 0'
    return `service ${name}-login {
  chroot =
  inet_listener ${name} {
    port = ${ports[name]}
  }
  inet_listener ${secured} {
    ${implicit}
  }
}`
  }
  const quota = environment.ENABLE_QUOTAS !== '0'
  const mailboxLimit = Math.floor(Number(environment.POSTFIX_MAILBOX_SIZE_LIMIT || 0) / 1_000_000)
  const messageLimit = Number(environment.POSTFIX_MESSAGE_SIZE_LIMIT || 10_240_000)
  return `# Made anew at each start and reload from development-mail-server.env and docker-data/mail-server/config/.
protocols = ${protocols.join(' ')}
listen = ${input.bindAddress}
base_dir = ${path(LAYOUT.run)}
state_dir = ${path(LAYOUT.state)}
instance_name = development-mail-server
log_path = ${path(LAYOUT.log)}
log_timestamp = "%b %d %H:%M:%S ${hostnameOf(input)} "
postmaster_address = ${environment.POSTMASTER_ADDRESS || `postmaster@${domainOf(input)}`}
hostname = ${hostnameOf(input)}
# Dovecot's programs would ask the DNS for this machine's domain, and wait for it where it does not answer.
import_environment = $import_environment DOVECOT_HOSTDOMAIN=${hostnameOf(input)}

mail_location = ${format}:${path(LAYOUT.mail)}/%d/%n
mail_uid = ${VMAIL_ID}
mail_gid = ${VMAIL_ID}
first_valid_uid = ${VMAIL_ID}
namespace inbox {
  inbox = yes
${['Drafts', 'Junk', 'Sent', 'Trash'].map((name) => `  mailbox ${name} {\n    auto = subscribe\n    special_use = \\${name}\n  }`).join('\n')}
}

auth_mechanisms = plain login
passdb {
  driver = passwd-file
  args = scheme=SHA512-CRYPT username_format=%u ${path(LAYOUT.dovecot)}/userdb
}
userdb {
  driver = passwd-file
  args = username_format=%u ${path(LAYOUT.dovecot)}/userdb
}

${tls ? `ssl = yes\nssl_cert = <${tls.certificate}\nssl_key = <${tls.key}\nssl_min_protocol = TLSv1.2` : 'ssl = no'}

${login('imap')}
${login('pop3')}
service lmtp {
  unix_listener lmtp {
    mode = 0660
    user = postfix
    group = postfix
  }
}
service auth {
  unix_listener smtpd-auth {
    mode = 0660
    user = postfix
    group = postfix
  }
}
service anvil {
  chroot =
}
${
  quota
    ? `
mail_plugins = $mail_plugins quota
protocol imap {
  mail_plugins = $mail_plugins imap_quota
}
plugin {
  quota = count:User quota
  quota_vsizes = yes
  # As in user-patches.sh.
  quota_max_mail_size = ${messageLimit > 0 ? messageLimit + 1_000_000 : 0}B
  quota_rule = *:storage=${mailboxLimit}${mailboxLimit > 0 ? 'M' : ''}
}
`
    : ''
}
# Last, as in docker-mailserver: what it sets wins, but it cannot turn TLS on where SSL_TYPE turned it off.
!include_try ${path(LAYOUT.config)}/dovecot.cf
${tls ? '' : 'ssl = no\n'}`
}
