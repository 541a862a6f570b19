/**
 * The configuration of the native engine. The base settings are files (docker-data/native/), the user's are those that
 * docker-mailserver reads (docker-data/mail-server/config/); this fills in paths, ports and the environment's values, and
 * has postconf(1) do the rest, as docker-mailserver does.
 */
import { createHash } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { parseAccounts, parseQuotas } from '../accounts/accounts.ts'
import { domainOf, domainsOf } from '../accounts/changes.ts'
import { entriesOf } from '../accounts/tables.ts'
import { Failure } from '../cli.ts'
import { CONFIG_DIR, readProjectFile, readServerEnvironment, type Settings } from '../settings.ts'
import { base, checkValues, type Environment, hostOf, mapPaths, noticesOf } from './native_environment.ts'
import { $ } from './shell.ts'

const CONFIG = 'docker-data/mail-server/config'

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
  write('postfix/main.cf', base('main.cf', settings, environment))
  const fixed = await changeMainCf(environment, join(folder, 'postfix'), file('postfix-main.cf'))
  const [minor] = await Promise.all([
    dovecotMinor(),
    makeMasterCf(settings, environment, join(folder, 'postfix'), file('postfix-master.cf')),
  ])
  const { users, ...tables } = accountTables(settings, environment, file, minor)
  for (const [name, text] of Object.entries(tables)) write(`postfix/${name}`, text)
  const userdbMarker = createHash('sha256').update(users.join()).digest('hex').slice(0, 16)
  if (hasDovecot) {
    write('dovecot/userdb', users.map((user) => `${user} userdb_marker=${userdbMarker}\n`).join(''))
    write('dovecot/dovecot.conf', dovecotConf(settings, environment, minor))
  }
  return { dovecot: hasDovecot, userdbMarker, notices: noticesOf(environment, fixed) }
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
  // Without these two the daemons would start and lack what the project is for.
  for (const name of ['postfix-main.cf', 'postfix-accounts.cf']) readProjectFile(CONFIG, name)
  const copy = join(folder, 'config')
  // A table that is not there would make every recipient a temporary failure.
  for (const name of ['postfix-virtual.cf', 'postfix-regexp.cf']) writeFileSync(join(copy, name), '')
  cpSync(CONFIG_DIR, copy, {
    recursive: true,
    dereference: true,
    filter: (path) => !/\.(lock|tmp)$|\/certificate\.pem$/.test(path) && !statSync(path).isFIFO(),
  })
  const isOpen = environment.SMTP_ANY_LOGIN !== '0'
  for (const name of filesBelow(copy).filter((name) => /\.(cf|pcre|cnf)$|_maps$/.test(name))) {
    const bytes = readFileSync(join(copy, name))
    if (bytes.includes(0)) continue
    const text = mapPaths(bytes.toString('utf8'), stateDir)
    writeFileSync(join(copy, name), isOpen ? text : text.replace(ANY_LOGIN, (block) => block.replace(/.+/g, '')))
  }
}

/** What docker-mailserver makes of accounts, aliases and quotas: Postfix's tables, and the lines of Dovecot's userdb. */
function accountTables(
  { stateDir }: Settings,
  environment: Environment,
  file: (name: string) => string,
  minor: number,
) {
  const accounts = parseAccounts(file('postfix-accounts.cf'))
  const quotas = environment.ENABLE_QUOTAS === '0' ? new Map() : parseQuotas(file('dovecot-quotas.cf'))
  const [own, aliases] = ['postfix-accounts.cf', 'postfix-virtual.cf'].map(file)
  const domains = domainsOf({ 'postfix-accounts.cf': own ?? '', 'postfix-virtual.cf': aliases ?? '' })
  const field = minor >= 4 ? 'userdb_quota_storage_size=' : 'userdb_quota_rule=*:bytes='
  const users = accounts.map(({ address, hash, attributes }) => {
    const quota = quotas.get(address.toLowerCase())
    const extra = [attributes, quota && `${field}${quota}`].filter(Boolean).join(' ')
    return `${address}:${hash}:${VMAIL_ID}:${VMAIL_ID}::${stateDir}/mail/${mailboxOf(address)}::${extra}`
  })
  const vhost = [...domains].sort().map((domain) => `${domain}\n`)
  const vmailbox = accounts.map(({ address }) => `${address} ${mailboxOf(address)}/\n`)
  return { vhost: vhost.join(''), vmailbox: vmailbox.join(''), users }
}

/** Where an account's mail lies below the mail folder: `domain/user`. */
export function mailboxOf(address: string): string {
  return `${domainOf(address)}/${address.slice(0, address.lastIndexOf('@'))}`
}

function dovecotConf(settings: Settings, environment: Environment, minor: number): string {
  const text = base(minor >= 4 ? 'dovecot-2.4.conf' : 'dovecot-2.3.conf', settings, environment).replace(
    environment.ENABLE_QUOTAS === '0' ? /^# --- Quota[\s\S]*?(?=^# --- )/m : /^$/,
    '',
  )
  // Without certificate the files that it names need not be there, and the user's file cannot turn TLS on again.
  return environment.SSL_TYPE ? text : `${text.replace(/^ssl\w* = .*$/gm, '')}ssl = no\n`
}

/**
 * Writes the user's lines over those of the base, and what the environment turns off over both. Gives the parameters that
 * the user's file cannot set.
 */
async function changeMainCf(environment: Environment, folder: string, text: string): Promise<string[]> {
  const own = entriesOf(text).map((entry) => ({ ...entry, name: /^([\w.-]+)\s*=/.exec(entry.text)?.[1] ?? '' }))
  const without = own.find(({ name }) => name === '')
  if (without) {
    const where = `${CONFIG}/postfix-main.cf, line ${without.lines[0]}`
    throw new Failure('failed', `${where}: "${without.text}" should be "parameter = value".`)
  }
  const changes = [
    ...own.flatMap((line) => (PRIVATE.includes(line.name) ? [] : [line.text])),
    // Without Dovecot nobody can check a password, and smtpd refuses to run with AUTH on.
    ...(environment.SMTP_ONLY === '1' ? ['smtpd_sasl_auth_enable = no'] : []),
    ...(environment.SSL_TYPE ? [] : ['smtpd_tls_security_level = none', 'smtpd_tls_chain_files =']),
  ]
  // A main.cf that is younger than two seconds makes each program wait, in case it is still being written.
  const age = () => utimesSync(join(folder, 'main.cf'), 0, Date.now() / 1000 - 10)
  age()
  if (changes.length > 0) await postconf(folder, ['-e', ...changes])
  age()
  return PRIVATE.filter((name) => own.some((line) => line.name === name))
}

/** Debian's own master.cf on the instance's ports, without the services that could carry mail away. */
async function makeMasterCf(settings: Settings, environment: Environment, folder: string, changes: string) {
  cpSync('/usr/share/postfix/master.cf.dist', join(folder, 'master.cf'))
  const { bindAddress, ports } = settings
  const names = [ports.smtp, ports.submission, ports.submissions].map((port) => `${hostOf(bindAddress)}:${port}/inet`)
  const [smtp = '', submission = '', submissions = ''] = names
  const services = (await postconf(folder, ['-M'])).split('\n').map((line) => line.split(/\s+/))
  const outward = services.filter(([, , , , , , , program]) => program === 'smtp' || program === 'pipe')
  const [auth, tls] = [environment.SMTP_ONLY !== '1', Boolean(environment.SSL_TYPE)]
  const smtpd = names.map((name) => `${name}=${name.replace('/', ' ')} n - n - ${SMTPD_LIMIT} smtpd`)
  await postconf(folder, ['-MX', 'smtp/inet', ...outward.map(([name, type]) => `${name}/${type}`)])
  await postconf(folder, ['-M', ...smtpd])
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
    ...masterChanges(changes, smtp, submission, submissions),
    // A level of "may" asks for a certificate; where the environment turned TLS off, no line may turn it on again.
    ...(tls ? [] : names.map((name) => `${name}/smtpd_tls_security_level=none`)),
  ])
}

/** The lines of postfix-master.cf (service/type/parameter=value) with this instance's names of the services on ports. */
function masterChanges(text: string, smtp: string, submission: string, submissions: string): string[] {
  const known: Record<string, string> = {
    ...{ 'smtpd/pass': smtp, 'smtp/inet': smtp, 'submission/inet': submission, 'submissions/inet': submissions },
    // Releases up to 10 call port 465 smtps.
    'smtps/inet': submissions,
    ...{
      'lmtp/unix': 'lmtp/unix',
      'local/unix': 'local/unix',
      'cleanup/unix': 'cleanup/unix',
      'qmgr/unix': 'qmgr/unix',
    },
  }
  return entriesOf(text).map(({ text: change, lines }) => {
    const [, service = '', option = ''] = /^([^/\s]+\/[^/\s]+)\/(\w+\s*=.*)$/.exec(change) ?? []
    if (known[service]) return `${known[service]}/${option}`
    const where = `${CONFIG}/postfix-master.cf line ${lines[0]}`
    const names = Object.keys(known).join(', ')
    throw new Failure('failed', `${where}: "${change}" names no service. Those known: ${names}.`)
  })
}

/** NORANDOMIZE: else "postconf -e" appends its lines in another order each time, and a changed file means a reload. */
async function postconf(folder: string, args: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await $({ timeout: 20_000 })`env NORANDOMIZE=1 postconf -c ${folder} ${args}`
  if (exitCode !== 0) throw new Failure('failed', `postconf ${args[0]} failed: ${stderr.trim()}`)
  return stdout.trim()
}

/** The paths of all files below a folder, from there. */
export function filesBelow(folder: string): string[] {
  const names = existsSync(folder) ? (readdirSync(folder, { recursive: true }) as string[]) : []
  return names.filter((name) => statSync(join(folder, name), { throwIfNoEntry: false })?.isFile())
}

/** A file's text; an empty one where it cannot be read. */
export function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
