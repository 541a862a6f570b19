/** main.cf and master.cf of the private Postfix, as docker-mailserver makes them before it reads the user's files. */
import { Failure } from '../cli.ts'
import type { ServiceName } from '../settings.ts'
import { domainOf, hostnameOf, LAYOUT, mapPaths, type NativeInput, type TlsFiles } from './native_layout.ts'

/** main.cf as docker-mailserver has it before `postfix-main.cf` is read. */
export function mainParameters(input: NativeInput, tls: TlsFiles | undefined): Record<string, string> {
  const { environment, stateDir } = input
  const path = (part: string) => `${stateDir}/${part}`
  const regexp = input.file('postfix-regexp.cf') !== undefined ? ` pcre:${path(LAYOUT.postfix)}/regexp` : ''
  const security: Record<string, string> = tls
    ? { smtpd_tls_security_level: 'may', smtpd_tls_chain_files: tls.chain, smtpd_tls_loglevel: '1' }
    : { smtpd_tls_security_level: 'none' }
  return {
    compatibility_level: '2',
    myhostname: hostnameOf(input),
    mydomain: domainOf(input),
    smtpd_banner: '$myhostname ESMTP',
    biff: 'no',
    append_dot_mydomain: 'no',
    mydestination: '$myhostname, localhost.$mydomain, localhost',
    mynetworks: trustedNetworks(input),
    inet_protocols: environment.POSTFIX_INET_PROTOCOLS || 'all',
    recipient_delimiter: '+',
    relayhost: '',
    alias_maps: `hash:${path(LAYOUT.postfix)}/aliases`,
    alias_database: `hash:${path(LAYOUT.postfix)}/aliases`,
    virtual_mailbox_domains: `texthash:${path(LAYOUT.postfix)}/vhost`,
    virtual_mailbox_maps: `texthash:${path(LAYOUT.postfix)}/vmailbox`,
    virtual_alias_maps: `texthash:${path(LAYOUT.postfix)}/virtual${regexp}`,
    virtual_transport: mapPaths(environment.POSTFIX_DAGENT || 'lmtp:unix:/var/run/dovecot/lmtp', stateDir),
    message_size_limit: environment.POSTFIX_MESSAGE_SIZE_LIMIT || '10240000',
    mailbox_size_limit: environment.POSTFIX_MAILBOX_SIZE_LIMIT || '0',
    virtual_mailbox_limit: environment.POSTFIX_MAILBOX_SIZE_LIMIT || '0',
    smtpd_helo_required: 'yes',
    smtpd_delay_reject: 'yes',
    disable_vrfy_command: 'yes',
    smtputf8_enable: 'no',
    smtpd_relay_restrictions: 'permit_mynetworks permit_sasl_authenticated defer_unauth_destination',
    smtpd_discard_ehlo_keywords: 'silent-discard, dsn',
    smtpd_sasl_auth_enable: 'no',
    smtpd_sasl_type: 'dovecot',
    smtpd_sasl_path: path(`${LAYOUT.run}/smtpd-auth`),
    smtpd_sasl_security_options: 'noanonymous',
    smtpd_sasl_local_domain: '$mydomain',
    broken_sasl_auth_clients: 'yes',
    ...security,
  }
}

/**
 * Clients at once on each SMTP port. A client takes one process of smtpd (1.6 MB), and a hundred of them, the default,
 * are taken up by as many connections that nobody ends. The same number stands in `user-patches.sh`.
 */
const SMTPD_LIMIT = 600

/** The services of Postfix: name, type, private, unprivileged, chroot, wakeup, process limit, program. */
const MASTER_SERVICES = `
pickup     unix       n  -  n  60    1  pickup
cleanup    unix       n  -  n  -     0  cleanup
qmgr       unix       n  -  n  300   1  qmgr
tlsmgr     unix       -  -  n  1000? 1  tlsmgr
rewrite    unix       -  -  n  -     -  trivial-rewrite
bounce     unix       -  -  n  -     0  bounce
defer      unix       -  -  n  -     0  bounce
trace      unix       -  -  n  -     0  bounce
verify     unix       -  -  n  -     1  verify
flush      unix       n  -  n  1000? 0  flush
proxymap   unix       -  -  n  -     -  proxymap
proxywrite unix       -  -  n  -     1  proxymap
smtp       unix       -  -  n  -     -  smtp
relay      unix       -  -  n  -     -  smtp
showq      unix       n  -  n  -     -  showq
error      unix       -  -  n  -     -  error
retry      unix       -  -  n  -     -  error
discard    unix       -  -  n  -     -  discard
local      unix       -  n  n  -     -  local
virtual    unix       -  n  n  -     -  virtual
lmtp       unix       -  -  n  -     -  lmtp
anvil      unix       -  -  n  -     1  anvil
scache     unix       -  -  n  -     1  scache
postlog    unix-dgram n  -  n  -     1  postlogd`

/** master.cf: the standard services, on the instance's own ports, with the lines of `postfix-master.cf`. Throws a Failure. */
export function masterCf(input: NativeInput, changes: string): string {
  const authenticated = {
    smtpd_sasl_auth_enable: input.environment.SMTP_ONLY === '1' ? 'no' : 'yes',
    smtpd_reject_unlisted_recipient: 'no',
    smtpd_sasl_authenticated_header: 'yes',
    smtpd_client_restrictions: 'permit_sasl_authenticated,reject',
    smtpd_relay_restrictions: 'permit_sasl_authenticated,reject',
    smtpd_discard_ehlo_keywords: '',
  }
  const tls = Boolean(input.environment.SSL_TYPE)
  const services = new Map<string, { fields: string; options: Record<string, string> }>()
  const inet = (name: ServiceName, options: Record<string, string>) =>
    services.set(`${name}/inet`, { fields: `${input.ports[name]} inet n - n - ${SMTPD_LIMIT} smtpd`, options })
  inet('smtp', {})
  const encrypt = tls ? 'encrypt' : 'none'
  inet('submission', { syslog_name: 'postfix/submission', smtpd_tls_security_level: encrypt, ...authenticated })
  const wrapped = { syslog_name: 'postfix/submissions', smtpd_tls_wrappermode: tls ? 'yes' : 'no' }
  inet('submissions', { ...wrapped, ...authenticated })
  for (const fields of MASTER_SERVICES.trim().split('\n')) {
    const [name, type] = fields.split(/\s+/)
    services.set(`${name}/${type}`, { fields, options: {} })
  }
  // One "service/type/parameter=value" a line, as docker-mailserver hands them to "postconf -P".
  for (const [index, line] of changes.split('\n').entries()) {
    if (!/^[0-9a-z]/.test(line)) continue
    const [, service = '', parameter = '', value = ''] = /^([^/\s]+\/[^/\s]+)\/(\w+)\s*=\s*(.*?)\s*$/.exec(line) ?? []
    // Releases up to 10 call port 465 smtps.
    const entry = services.get(service.replace(/^smtps\//, 'submissions/'))
    if (!entry) {
      const known = [...services.keys()].filter((name) => name.endsWith('/inet')).join(', ')
      const file = 'docker-data/mail-server/config/postfix-master.cf'
      throw new Failure('failed', `${file} line ${index + 1}: "${line}" names no service. Those on a port: ${known}.`)
    }
    entry.options[parameter] = value
  }
  // A level of "may" asks for a certificate; where the environment turned TLS off, no line may turn it on again.
  if (!tls) Object.assign(services.get('submission/inet')?.options ?? {}, { smtpd_tls_security_level: 'none' })
  const option = ([name, value]: [string, string]) =>
    `  -o ${/\s/.test(value) ? `{ ${name} = ${value} }` : `${name}=${value}`}`
  const blocks = [...services.values()].map(({ fields, options }) => [fields, ...Object.entries(options).map(option)])
  return `${blocks.flat().join('\n')}\n`
}

/** mynetworks by PERMIT_DOCKER. Loopback stands for the container itself; this machine's networks for Docker's. */
function trustedNetworks({ environment, networks }: NativeInput): string {
  switch (environment.PERMIT_DOCKER || 'none') {
    case 'connected-networks':
    case 'network':
    case 'host':
      return ['127.0.0.0/8', ...networks].join(' ')
    case 'container':
      return '127.0.0.0/8'
    default:
      return ''
  }
}

/** Parameters as the lines of main.cf. */
export function parameterLines(parameters: Record<string, string>): string[] {
  return Object.entries(parameters).map(([name, value]) => `${name} = ${value}`)
}
