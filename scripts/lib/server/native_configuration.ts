/**
 * The configuration of the native engine. The base settings are files (docker-data/native/), the user's are those that
 * docker-mailserver reads (docker-data/mail-server/config/); this fills in paths, ports and the environment's values, and has
 * postconf(1) do the rest, as docker-mailserver does.
 */
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { isIPv6 } from 'node:net'
import { join } from 'node:path'
import { parseAccounts, parseQuotas } from '../accounts/accounts.ts'
import { Failure } from '../cli.ts'
import { CONFIG_DIR, enabledProtocols, readProjectFile, readServerEnvironment, type Settings } from '../settings.ts'
import { base, checkValues, type Environment, mapPaths, noticesOf } from './native_environment.ts'
import { $ } from './shell.ts'

/** Parameters of main.cf that make the instance private; the user's file cannot change them. */
const PRIVATE = [
  ...['queue_directory', 'data_directory', 'maillog_file', 'maillog_file_prefixes', 'inet_interfaces'],
  ...['multi_instance_enable', 'config_directory', 'inet_protocols'],
]

/** The uid and gid that own all mail, as in docker-mailserver. They need no name on this machine. */
export const VMAIL_ID = 5000
/** The same number stands in user-patches.sh, with its reason. */
const SMTPD_LIMIT = 600

/** What SMTP_ANY_LOGIN=0 takes out of Dovecot's files; the lines behind it stay where they are. */
const ANY_LOGIN = /^# SMTP_ANY_LOGIN begins[\s\S]*?^# SMTP_ANY_LOGIN ends.*/m

export interface NativeConfiguration {
  /** One line each for what the native engine cannot honour. */
  notices: string[]
  /** False where SMTP_ONLY=1 leaves Dovecot out. */
  dovecot: boolean
  /** A field of all users, made of what the userdb says: Dovecot gives it when it has read this userdb. */
  userdbMarker: string
}

/**
 * Makes all files of the instance below `folder` (config/, postfix/, dovecot/), for the state folder of the settings, which
 * their texts name. Throws a Failure with file and line where one cannot be understood.
 */
export async function makeConfiguration(
  settings: Settings,
  folder: string,
  environment: Environment = readServerEnvironment(),
): Promise<NativeConfiguration> {
  checkValues(environment)
  const hasDovecot = environment.SMTP_ONLY !== '1'
  rmSync(folder, { recursive: true, force: true })
  for (const part of ['config', 'postfix', 'dovecot']) mkdirSync(join(folder, part), { recursive: true, mode: 0o700 })
  const write = (name: string, text: string) => writeFileSync(join(folder, name), text)

  copyConfiguration(folder, settings.stateDir, environment)
  const file = (name: string) => readOr(join(folder, 'config', name))
  const own = logicalLines(file('postfix-main.cf'))
  const main = mainCf(settings, environment, own)
  write('postfix/main.cf', main)
  // A main.cf that is younger than two seconds makes each program wait, in case it is still being written.
  const past = new Date(Date.now() - 10_000)
  utimesSync(join(folder, 'postfix', 'main.cf'), past, past)
  const [minor] = await Promise.all([
    dovecotMinor(),
    makeMasterCf(settings, environment, join(folder, 'postfix'), file('postfix-master.cf')),
  ])
  const { users, ...tables } = accountTables(settings, environment, file, minor)
  for (const [name, text] of Object.entries(tables)) write(`postfix/${name}`, text)
  const userdbMarker = createHash('sha256').update(users.join()).digest('hex').slice(0, 16)
  if (hasDovecot) {
    write('dovecot/userdb', users.map((user) => `${user} userdb_marker=${userdbMarker}\n`).join(''))
    write('dovecot/dovecot.conf', dovecotConf(settings, environment, minor >= 4))
  }
  const notices = noticesOf(
    environment,
    PRIVATE.filter((name) => own.some((line) => line.name === name)),
  )
  return { dovecot: hasDovecot, userdbMarker, notices }
}

/** The minor number of the installed Dovecot: 3 for 2.3, 4 for 2.4. */
async function dovecotMinor(): Promise<number> {
  const { stdout } = await $({ timeout: 10_000 })`dovecot --version`
  return Number(/^2\.(\d+)/.exec(stdout)?.[1] ?? 3)
}

/** Throws a Failure where Postfix or Dovecot cannot read the settings below a folder. */
export async function tryConfiguration(folder: string, { dovecot }: NativeConfiguration): Promise<void> {
  const trials = [
    // Whatever program of Postfix: each reads main.cf first.
    $({ timeout: 20_000 })`postmap -c ${folder}/postfix -q x static:y`,
    // All of it is read for one setting; "-n" would ask the DNS for this machine's name.
    ...(dovecot ? [$({ timeout: 20_000 })`doveconf -c ${folder}/dovecot/dovecot.conf protocols`] : []),
  ]
  const failed = (await Promise.all(trials)).filter(({ exitCode }) => exitCode !== 0)
  if (failed.length > 0) throw new Failure('failed', failed.map(({ stderr }) => stderr).join('\n'))
}

/** A copy of the configuration folder with the container's paths mapped, each line where it was. */
function copyConfiguration(folder: string, stateDir: string, environment: Environment): void {
  const names = existsSync(CONFIG_DIR) ? (readdirSync(CONFIG_DIR, { recursive: true }) as string[]) : []
  // Without these two the daemons would start and lack what the project is for.
  for (const name of ['postfix-main.cf', 'postfix-accounts.cf']) {
    readProjectFile('docker-data', 'mail-server', 'config', name)
  }
  cpSync(CONFIG_DIR, join(folder, 'config'), {
    recursive: true,
    filter: (path) => !/\.(lock|tmp)$|\/certificate\.pem$/.test(path),
  })
  // A table that is not there would make every recipient a temporary failure.
  for (const name of ['postfix-virtual.cf', 'postfix-regexp.cf']) {
    if (!names.includes(name)) writeFileSync(join(folder, 'config', name), '')
  }
  for (const name of names) {
    const copy = join(folder, 'config', name)
    const bytes = /\.(cf|pcre|cnf)$|_maps$/.test(name) && existsSync(copy) ? readFileSync(copy) : undefined
    if (!bytes || bytes.includes(0)) continue
    const text = mapPaths(bytes.toString('utf8'), stateDir)
    writeFileSync(
      copy,
      environment.SMTP_ANY_LOGIN === '0' ? text.replace(ANY_LOGIN, (block) => block.replace(/.+/g, '')) : text,
    )
  }
}

/** What docker-mailserver makes of accounts, aliases and quotas: Postfix's tables by name, and the lines of Dovecot's userdb. */
function accountTables(
  { stateDir }: Settings,
  environment: Environment,
  file: (name: string) => string,
  minor: number,
) {
  const accounts = parseAccounts(file('postfix-accounts.cf'))
  const aliases = logicalLines(file('postfix-virtual.cf')).map(({ text }) => text.split(/\s+/)[0] ?? '')
  const quotas = environment.ENABLE_QUOTAS === '0' ? new Map() : parseQuotas(file('dovecot-quotas.cf'))
  const domains = [...accounts.map(({ address }) => address), ...aliases]
    .filter((address) => address.includes('@'))
    .map((address) => address.slice(address.lastIndexOf('@') + 1).toLowerCase())
  const field = minor >= 4 ? 'userdb_quota_storage_size=' : 'userdb_quota_rule=*:bytes='
  const users = accounts.map(({ address, hash, attributes }) => {
    const quota = quotas.get(address.toLowerCase())
    const extra = [attributes, quota && `${field}${quota}`].filter(Boolean).join(' ')
    return `${address}:${hash}:${VMAIL_ID}:${VMAIL_ID}::${stateDir}/mail/${mailboxOf(address)}::${extra}`
  })
  return {
    vhost: [...new Set(domains)]
      .sort()
      .map((domain) => `${domain}\n`)
      .join(''),
    vmailbox: accounts.map(({ address }) => `${address} ${mailboxOf(address)}/\n`).join(''),
    users,
  }
}

/** Where an account's mail lies below the mail folder: `domain/user`. */
export function mailboxOf(address: string): string {
  const at = address.lastIndexOf('@')
  return `${address.slice(at + 1)}/${address.slice(0, at)}`
}

function dovecotConf(settings: Settings, environment: Environment, is24: boolean): string {
  const [name, own] = is24 ? ['dovecot-2.4.conf', 'dovecot-2.4.cf'] : ['dovecot-2.3.conf', 'dovecot.cf']
  const { imap, pop3 } = enabledProtocols(environment)
  const protocols = [imap && 'imap', pop3 && 'pop3', 'lmtp'].filter(Boolean).join(' ')
  const text = base(name, settings, environment)
    .replace(/^protocols = .*$/m, `protocols = ${protocols}`)
    .replace(environment.ENABLE_QUOTAS === '0' ? /^# --- Quota[\s\S]*?(?=^# --- )/m : /^$/, '')
    // Relative, so that the settings can be tried in another folder.
    .replace(/^!include(_try)? \S*dovecot(-2\.4)?\.cf$/m, `!include_try ../config/${own}`)
  // Without certificate the files that it names need not be there, and the user's file cannot turn TLS on again.
  return environment.SSL_TYPE ? text : `${text.replace(/^ssl\w* = .*$/gm, '')}ssl = no\n`
}

/** main.cf: the base, then what the environment says, the user's lines, and what makes the instance private; the last wins. */
function mainCf(settings: Settings, environment: Environment, own: LogicalLine[]): string {
  const without = own.find(({ name }) => name === '')
  if (without) {
    const where = `docker-data/mail-server/config/postfix-main.cf, line ${without.line}`
    throw new Failure('failed', `${where}: "${without.text}" should be "parameter = value".`)
  }
  const start = logicalLines(base('main.cf', settings, environment))
  const tls = Boolean(environment.SSL_TYPE)
  const lines = (values: Record<string, string>) =>
    Object.entries(values).map(([name, value]) => ({ name, text: `${name} = ${value}` }))
  const parameters = new Map<string, string>()
  for (const { name, text } of [
    ...start,
    ...lines({
      virtual_transport: mapPaths(environment.POSTFIX_DAGENT || 'lmtp:unix:/var/run/dovecot/lmtp', settings.stateDir),
      message_size_limit: environment.POSTFIX_MESSAGE_SIZE_LIMIT || '10240000',
      virtual_mailbox_limit: environment.POSTFIX_MAILBOX_SIZE_LIMIT || '0',
    }),
    ...own,
    ...start.filter((line) => PRIVATE.includes(line.name)),
    ...lines({
      inet_protocols: isIPv6(settings.bindAddress) ? 'all' : environment.POSTFIX_INET_PROTOCOLS || 'all',
      // Without Dovecot nobody can check a password, and smtpd refuses to run with AUTH on.
      ...(environment.SMTP_ONLY === '1' ? { smtpd_sasl_auth_enable: 'no' } : {}),
      ...(tls ? {} : { smtpd_tls_security_level: 'none', smtpd_tls_chain_files: '' }),
    }),
  ]) {
    parameters.set(name, text)
  }
  return `${[...parameters.values()].join('\n')}\n`
}

/** Debian's own master.cf on the instance's ports, without the services that could carry mail away. */
async function makeMasterCf(settings: Settings, environment: Environment, folder: string, changes: string) {
  cpSync('/usr/share/postfix/master.cf.dist', join(folder, 'master.cf'))
  const { bindAddress, ports } = settings
  const host = isIPv6(bindAddress) ? `[${bindAddress}]` : bindAddress
  const inet = (port: number) => `${host}:${port}/inet`
  const [smtp, submission, submissions] = [inet(ports.smtp), inet(ports.submission), inet(ports.submissions)]
  const services = (await postconf(folder, ['-M'])).split('\n').map((line) => line.split(/\s+/))
  const outward = services.filter(([, , , , , , , program]) => program === 'smtp' || program === 'pipe')
  const [auth, tls] = [environment.SMTP_ONLY !== '1', Boolean(environment.SSL_TYPE)]
  await postconf(folder, ['-MX', 'smtp/inet', ...outward.map(([name, type]) => `${name}/${type}`)])
  await postconf(folder, [
    '-M',
    ...[smtp, submission, submissions].map((name) => `${name}=${name.replace('/', ' ')} n - n - ${SMTPD_LIMIT} smtpd`),
  ])
  await postconf(folder, ['-F', '*/*/chroot=n', 'lmtp/unix/command=lmtp flags=O'])
  const authenticated = [
    `smtpd_sasl_auth_enable=${auth ? 'yes' : 'no'}`,
    'smtpd_reject_unlisted_recipient=no',
    'smtpd_sasl_authenticated_header=yes',
    'smtpd_client_restrictions=permit_sasl_authenticated,reject',
    'smtpd_relay_restrictions=permit_sasl_authenticated,reject',
  ]
  await postconf(folder, [
    '-P',
    ...[submission, submissions].flatMap((name) => authenticated.map((option) => `${name}/${option}`)),
    `${submission}/syslog_name=postfix/submission`,
    `${submissions}/syslog_name=postfix/submissions`,
    `${submissions}/smtpd_tls_wrappermode=${tls ? 'yes' : 'no'}`,
    ...masterChanges(changes, { 'smtpd/pass': smtp, 'submission/inet': submission, 'submissions/inet': submissions }),
    // A level of "may" asks for a certificate; where the environment turned TLS off, no line may turn it on again.
    ...(tls ? [] : [smtp, submission, submissions].map((name) => `${name}/smtpd_tls_security_level=none`)),
  ])
}

/** The lines of postfix-master.cf (service/type/parameter=value) with this instance's names of the services on ports. */
function masterChanges(text: string, names: Record<string, string>): string[] {
  const known: Record<string, string> = {
    ...names,
    'smtp/inet': names['smtpd/pass'] ?? '',
    // Releases up to 10 call port 465 smtps.
    'smtps/inet': names['submissions/inet'] ?? '',
    'lmtp/unix': 'lmtp/unix',
    'local/unix': 'local/unix',
    'cleanup/unix': 'cleanup/unix',
    'qmgr/unix': 'qmgr/unix',
  }
  return logicalLines(text).map(({ text: change, line }) => {
    const [, service = '', option = ''] = /^([^/\s]+\/[^/\s]+)\/(\w+\s*=.*)$/.exec(change) ?? []
    if (known[service]) return `${known[service]}/${option}`
    const where = `docker-data/mail-server/config/postfix-master.cf line ${line}`
    throw new Failure(
      'failed',
      `${where}: "${change}" names no service. Those known: ${Object.keys(known).join(', ')}.`,
    )
  })
}

async function postconf(folder: string, args: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await $({ timeout: 20_000 })`postconf -c ${folder} ${args}`
  if (exitCode !== 0) throw new Failure('failed', `postconf ${args[0]} failed: ${stderr.trim()}`)
  return stdout.trim()
}

interface LogicalLine {
  /** What stands in front of "=", or nothing. */
  name: string
  text: string
  /** Its first line, from 1. */
  line: number
}

/** The logical lines of a file of Postfix's (postconf(5)): comments and empty lines left out, continuations joined. */
function logicalLines(text: string): LogicalLine[] {
  const lines: LogicalLine[] = []
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (/^\s*(#|$)/.test(line)) continue
    const last = lines.at(-1)
    if (/^\s/.test(line) && last) last.text += ` ${line.trim()}`
    else lines.push({ name: /^([\w.-]+)\s*=/.exec(line)?.[1] ?? '', text: line.trim(), line: index + 1 })
  }
  return lines
}

/** A file's text; an empty one where it cannot be read. */
export function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
