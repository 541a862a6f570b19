/**
 * What docker-mailserver makes of its environment and configuration folder when it starts, made for a private
 * instance of Debian's Postfix and Dovecot. Pure: texts in, texts out.
 *
 * The container's paths are mapped onto the instance; the user's files keep their line numbers, so that a daemon's
 * complaint can be traced back to them.
 */
import { createHash } from 'node:crypto'
import { parseAccounts, parseQuotas } from './accounts.ts'
import { Failure } from './cli.ts'
import { HOSTNAME, type ServiceName } from './settings.ts'

/** The state folder's parts. Each daemon writes only into its own. */
export const LAYOUT = {
  /** Copy of the configuration folder with paths mapped (/tmp/docker-mailserver). */
  config: 'config',
  /** Postfix's config_directory (/etc/postfix). */
  postfix: 'postfix',
  /** Dovecot's configuration and its userdb (/etc/dovecot). */
  dovecot: 'dovecot',
  /** Mailboxes, <domain>/<user> (/var/mail). */
  mail: 'mail',
  /** Postfix's queue_directory. */
  queue: 'queue',
  /** Postfix's data_directory: caches, the tlsmgr's entropy. */
  data: 'data',
  /** Dovecot's base_dir with its sockets (/var/run/dovecot). */
  run: 'run',
  /** Dovecot's state_dir. */
  state: 'state',
  log: 'log/mail.log',
  key: 'tls/key.pem',
  certificate: 'tls/certificate.pem',
} as const

/** The uid and gid that own all mail, as in docker-mailserver. They need no name on this machine. */
export const VMAIL_ID = 5000

export interface NativeInput {
  /** The state folder, absolute. */
  stateDir: string
  bindAddress: string
  ports: Record<ServiceName, number>
  /** `development-mail-server.env`. */
  environment: Record<string, string>
  /** The text of a file of the configuration folder; undefined where there is none. */
  file: (name: string) => string | undefined
  /** The networks of this machine's interfaces as CIDR blocks, loopback left out. */
  networks: string[]
}

export interface NativeConfiguration {
  /** Files by their path below the state folder. */
  files: Record<string, string>
  /** One line each for what the native engine cannot honour. */
  notices: string[]
  /** False where SMTP_ONLY=1 leaves Dovecot out. */
  dovecot: boolean
  /** A field of all users, made of what the userdb says: Dovecot gives it when it has read this userdb. */
  userdbMarker: string
}

/** Variables that this module obeys. */
const HONOURED = new Set([
  'SMTP_ONLY',
  'ENABLE_POP3',
  'ENABLE_IMAP',
  'ENABLE_QUOTAS',
  'ENABLE_POSTFIX_VIRTUAL_TRANSPORT',
  'POSTFIX_MESSAGE_SIZE_LIMIT',
  'POSTFIX_MAILBOX_SIZE_LIMIT',
  'POSTFIX_DAGENT',
  'POSTFIX_INET_PROTOCOLS',
  'DOVECOT_INET_PROTOCOLS',
  'DOVECOT_MAILBOX_FORMAT',
  'POSTMASTER_ADDRESS',
  'PERMIT_DOCKER',
  'SSL_TYPE',
  'SSL_CERT_PATH',
  'SSL_KEY_PATH',
  'OVERRIDE_HOSTNAME',
])

/** Parameters of main.cf that make the instance private; the user's file cannot change them. */
const PRIVATE_PARAMETERS = [
  'queue_directory',
  'data_directory',
  'config_directory',
  'maillog_file',
  'maillog_file_prefixes',
  'inet_interfaces',
  'multi_instance_enable',
]

/**
 * Maps the container's paths in a text onto the state folder, line by line as it was.
 */
export function mapPaths(text: string, stateDir: string): string {
  const paths: Record<string, string> = {
    '/tmp/docker-mailserver': LAYOUT.config,
    '/etc/aliases': `${LAYOUT.postfix}/aliases`,
    '/etc/postfix': LAYOUT.postfix,
    '/etc/dovecot': LAYOUT.dovecot,
    '/var/run/dovecot': LAYOUT.run,
    '/run/dovecot': LAYOUT.run,
    '/var/spool/postfix': LAYOUT.queue,
    '/var/mail': LAYOUT.mail,
    '/var/log/mail': 'log',
  }
  const containerPath = new RegExp(`(?<![\\w./-])(?:${Object.keys(paths).join('|')})(?![\\w.-])`, 'g')
  return text.replace(containerPath, (path) => `${stateDir}/${paths[path]}`)
}

/** Makes all files of the instance. Throws a Failure that names file and line where a file cannot be understood. */
export function nativeConfiguration(input: NativeInput): NativeConfiguration {
  const { stateDir, environment } = input
  const path = (part: string) => `${stateDir}/${part}`
  const mapped = (name: string) => mapPaths(input.file(name) ?? '', stateDir)

  checkValues(environment)
  const dovecot = environment.SMTP_ONLY !== '1'
  const tls = tlsFiles(input)
  const accounts = parseAccounts(input.file('postfix-accounts.cf') ?? '')
  const aliases = dataLines(mapped('postfix-virtual.cf')).map((line) => line.split(/\s+/)[0] ?? '')
  const quotas =
    environment.ENABLE_QUOTAS === '0' ? new Map<string, string>() : parseQuotas(mapped('dovecot-quotas.cf'))
  const domains = [...accounts.map(({ address }) => address), ...aliases]
    .filter((address) => address.includes('@'))
    .map((address) => address.slice(address.lastIndexOf('@') + 1).toLowerCase())

  const own = mapped('postfix-main.cf')
  const overridden = new Set([...own.matchAll(/^([\w-]+)\s*=/gm)].map(([, name]) => name))
  const base = Object.entries(mainParameters(input, tls)).filter(([name]) => !overridden.has(name))
  const head = [
    '# Made anew at each start and reload from development-mail-server.env and docker-data/mail-server/config/.',
    ...base.map(([name, value]) => `${name} = ${value}`),
    '# From here on docker-data/mail-server/config/postfix-main.cf.',
  ]
  const tail = {
    queue_directory: path(LAYOUT.queue),
    data_directory: path(LAYOUT.data),
    maillog_file: path(LAYOUT.log),
    maillog_file_prefixes: stateDir,
    inet_interfaces: input.bindAddress,
    // Without Dovecot nobody can check a password, and smtpd refuses to run with AUTH on.
    ...(dovecot ? {} : { smtpd_sasl_auth_enable: 'no' }),
  }

  const files: Record<string, string> = {
    [`${LAYOUT.postfix}/main.cf`]: [...head, own.trimEnd(), ...parameterLines(tail), ''].join('\n'),
    [`${LAYOUT.postfix}/master.cf`]: masterCf(input, mapped('postfix-master.cf')),
    [`${LAYOUT.postfix}/vhost`]: [...new Set(domains)]
      .sort()
      .map((domain) => `${domain} -\n`)
      .join(''),
    [`${LAYOUT.postfix}/vmailbox`]: accounts.map(({ address }) => `${address} ${mailboxOf(address)}/\n`).join(''),
    [`${LAYOUT.postfix}/virtual`]: mapped('postfix-virtual.cf'),
    [`${LAYOUT.postfix}/aliases`]: `root: ${environment.POSTMASTER_ADDRESS || `postmaster@${domainOf(input)}`}\n${mapped('postfix-aliases.cf')}`,
  }
  if (input.file('postfix-regexp.cf') !== undefined) files[`${LAYOUT.postfix}/regexp`] = mapped('postfix-regexp.cf')
  const users = accounts.map(({ address, hash, attributes }) => {
    const quota = quotas.get(address.toLowerCase())
    const extra = [attributes, quota && `userdb_quota_rule=*:bytes=${quota}`].filter(Boolean).join(' ')
    return `${address}:${hash}:${VMAIL_ID}:${VMAIL_ID}::${path(LAYOUT.mail)}/${mailboxOf(address)}/home::${extra}`
  })
  const userdbMarker = createHash('sha256').update(users.join()).digest('hex').slice(0, 16)
  if (dovecot) {
    files[`${LAYOUT.dovecot}/dovecot.conf`] = dovecotConf(input, tls)
    files[`${LAYOUT.dovecot}/userdb`] = users.map((user) => `${user} userdb_marker=${userdbMarker}\n`).join('')
  }
  return { files, dovecot, userdbMarker, notices: noticesOf(environment, overridden) }
}

/** Throws a Failure for a value that no daemon would take, or only with a riddle in the log. */
function checkValues(environment: Record<string, string>): void {
  const network = [/^(ipv4|all)$/, 'ipv4 or all: BIND_ADDRESS is an IPv4 address'] as const
  const bytes = [/^\d+$/, 'a number of bytes'] as const
  const rules: Record<string, readonly [RegExp, string]> = {
    POSTFIX_INET_PROTOCOLS: network,
    DOVECOT_INET_PROTOCOLS: network,
    DOVECOT_MAILBOX_FORMAT: [/^(maildir|sdbox|mdbox)$/, 'maildir, sdbox or mdbox'],
    POSTFIX_MESSAGE_SIZE_LIMIT: bytes,
    POSTFIX_MAILBOX_SIZE_LIMIT: bytes,
  }
  for (const [name, [pattern, allowed]] of Object.entries(rules)) {
    const value = environment[name]
    if (value && !pattern.test(value)) {
      throw new Failure('failed', `development-mail-server.env: ${name}=${value} should be ${allowed}.`)
    }
  }
}

/** main.cf as docker-mailserver has it before `postfix-main.cf` is read. */
function mainParameters(input: NativeInput, tls: TlsFiles | undefined): Record<string, string> {
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

function masterCf(input: NativeInput, changes: string): string {
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

function dovecotConf(input: NativeInput, tls: TlsFiles | undefined): string {
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
  const megabytes = (bytes: string | undefined, otherwise: number) => Math.floor(Number(bytes || otherwise) / 1_000_000)
  const mailboxLimit = megabytes(environment.POSTFIX_MAILBOX_SIZE_LIMIT, 0)
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
  quota_max_mail_size = ${megabytes(environment.POSTFIX_MESSAGE_SIZE_LIMIT, 10_240_000)}M
  quota_rule = *:storage=${mailboxLimit}${mailboxLimit > 0 ? 'M' : ''}
}
`
    : ''
}
# Last, as in docker-mailserver: what it sets wins, but it cannot turn TLS on where SSL_TYPE turned it off.
!include_try ${path(LAYOUT.config)}/dovecot.cf
${tls ? '' : 'ssl = no\n'}`
}

interface TlsFiles {
  key: string
  certificate: string
  /** For smtpd_tls_chain_files: the key, then the certificate. */
  chain: string
}

/** Where key and certificate lie, by docker-mailserver's rules for SSL_TYPE; undefined where TLS is off. */
function tlsFiles(input: NativeInput): TlsFiles | undefined {
  const { environment, stateDir } = input
  const pair = (key: string, certificate: string) => ({ key, certificate, chain: `${key} ${certificate}` })
  const ssl = `${stateDir}/${LAYOUT.config}/ssl/${hostnameOf(input)}`
  switch (environment.SSL_TYPE || '') {
    case '':
      return undefined
    case 'snakeoil':
      return pair(`${stateDir}/${LAYOUT.key}`, `${stateDir}/${LAYOUT.certificate}`)
    case 'self-signed':
      return pair(`${ssl}-key.pem`, `${ssl}-cert.pem`)
    case 'custom':
      return { key: `${ssl}-full.pem`, certificate: `${ssl}-full.pem`, chain: `${ssl}-full.pem` }
    case 'manual':
      return pair(
        mapPaths(environment.SSL_KEY_PATH ?? '', stateDir),
        mapPaths(environment.SSL_CERT_PATH ?? '', stateDir),
      )
    default:
      throw new Failure(
        'failed',
        `development-mail-server.env: SSL_TYPE=${environment.SSL_TYPE} is not for the native engine. Use snakeoil, self-signed, custom, manual, or nothing for no TLS.`,
      )
  }
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

function noticesOf(environment: Record<string, string>, parameters: Set<string | undefined>): string[] {
  const isOff = (value: string) => value === '' || value === '0' || value === 'none'
  const unknown = Object.entries(environment).filter(([name, value]) => !HONOURED.has(name) && !isOff(value))
  const notices: string[] = []
  if (unknown.length > 0) {
    const names = unknown.map(([name, value]) => `${name}=${value}`).join(', ')
    notices.push(`development-mail-server.env: the native engine does without ${names}.`)
  }
  const fixed = PRIVATE_PARAMETERS.filter((name) => parameters.has(name))
  if (fixed.length > 0) notices.push(`postfix-main.cf: the native engine sets ${fixed.join(', ')} itself.`)
  return notices
}

/** The lines of a file that are neither empty nor comments. */
function dataLines(text: string): string[] {
  return text.split(/\r?\n/).filter((line) => !/^\s*(#|$)/.test(line))
}

function parameterLines(parameters: Record<string, string>): string[] {
  return Object.entries(parameters).map(([name, value]) => `${name} = ${value}`)
}

/** Where an account's mail lies below the mail folder: `domain/user`. */
export function mailboxOf(address: string): string {
  const at = address.lastIndexOf('@')
  return `${address.slice(at + 1)}/${address.slice(0, at)}`
}

function hostnameOf({ environment }: NativeInput): string {
  return environment.OVERRIDE_HOSTNAME || HOSTNAME
}

/** docker-mailserver's domain name: the host name without its first label, or all of it where that leaves one label. */
function domainOf(input: NativeInput): string {
  const labels = hostnameOf(input).split('.')
  return labels.length > 2 ? labels.slice(1).join('.') : labels.join('.')
}
