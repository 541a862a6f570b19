/**
 * What docker-mailserver makes of its environment and configuration folder when it starts, made for a private
 * instance of Debian's Postfix and Dovecot. Pure: texts in, texts out.
 *
 * The container's paths are mapped onto the instance; the user's files keep their line numbers, so that a daemon's
 * complaint can be traced back to them.
 */
import { createHash } from 'node:crypto'
import { parseAccounts, parseQuotas } from '../accounts/accounts.ts'
import { Failure } from '../cli.ts'
import { dovecotConf } from './native_dovecot.ts'
import { domainOf, LAYOUT, mailboxOf, mapPaths, type NativeInput, tlsFiles, VMAIL_ID } from './native_layout.ts'
import { mainParameters, masterCf, parameterLines } from './native_postfix.ts'

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
    OVERRIDE_HOSTNAME: [/^(?!-)[\w-]+(\.[\w-]+)+$/, 'a host name with its domain'],
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
