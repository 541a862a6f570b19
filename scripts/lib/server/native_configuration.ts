/**
 * The configuration of the native engine. The base settings are files (docker-data/native/), the user's are those that
 * docker-mailserver reads (docker-data/mail-server/config/); this fills in paths, ports and the environment's values, and
 * has postconf(1) do the rest, as docker-mailserver does.
 */
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { isIPv6 } from 'node:net'
import { dirname, join, relative } from 'node:path'
import { CATCHALL, parseAccounts, parseQuotas } from '../accounts/accounts.ts'
import { domainOf, domainsOf } from '../accounts/changes.ts'
import { type Entry, entriesOf } from '../accounts/tables.ts'
import { Failure } from '../cli.ts'
import {
  CONFIG_DIR,
  enabledProtocols,
  HOSTNAME,
  hostOf,
  isSmtpOnly,
  ROOT,
  readProjectFile,
  readServerEnvironment,
  type Settings,
} from '../settings.ts'
import { readOr } from './processes.ts'
import { $ } from './shell.ts'

const CONFIG = relative(ROOT, CONFIG_DIR)
/** The uid and gid that own all mail, as in docker-mailserver. They need no name on this machine. */
export const VMAIL_ID = 5000

/** Files of the configuration folder that are no part of the configuration. */
const NO_CONFIGURATION = /\.(lock|tmp)$|^certificate\.pem$/
/** Files that may name the container's paths. */
const TEXT = /\.(cf|pcre|cnf)$|_maps$|^dovecot-master-users$/
/** What SMTP_ANY_LOGIN=0 takes out of Dovecot's files; the lines behind it stay where they are. */
const ANY_LOGIN = /^# SMTP_ANY_LOGIN begins[\s\S]*?^# SMTP_ANY_LOGIN ends.*/m
/** Where the part of main.cf begins that the user's file cannot change. */
const OWN = '# --- An instance of its own'

/** The variables of development-mail-server.env. */
export type Environment = Record<string, string>

/** Where the container's paths lie in the state folder. */
const PATHS: Record<string, string> = {
  '/tmp/docker-mailserver': 'config',
  '/etc/aliases': 'postfix/aliases',
  '/etc/postfix': 'postfix',
  '/etc/dovecot': 'dovecot',
  '/var/run/dovecot': 'run',
  '/run/dovecot': 'run',
  '/var/spool/postfix': 'queue',
  '/var/mail': 'mail',
  '/var/log/mail': 'log',
}
const CONTAINER_PATH = new RegExp(`(?<![\\w./-])(?:${Object.keys(PATHS).join('|')})(?![\\w.-])`, 'g')

/**
 * Makes all files of the instance below `folder` (config/, postfix/, dovecot/), for the state folder of the settings, which
 * their texts name. Gives whether Dovecot is part of it: SMTP_ONLY=1 leaves it out. Throws a Failure that names the file
 * where one cannot be read or understood.
 */
export async function makeConfiguration(
  settings: Settings,
  folder: string,
  environment: Environment = readServerEnvironment(),
): Promise<boolean> {
  checkValues(environment)
  const dovecot = !isSmtpOnly(environment)
  rmSync(folder, { recursive: true, force: true })
  for (const part of ['config', 'postfix', 'dovecot']) mkdirSync(join(folder, part), { recursive: true, mode: 0o700 })
  const write = (name: string, text: string) => writeFileSync(join(folder, name), text)
  copyConfiguration(folder, settings.stateDir, environment)
  for (const name of ['main.cf', 'master.cf']) write(`postfix/${name}`, base(name, settings, environment))
  await changePostfix(folder, settings, environment)
  const { stdout: version } = await $({ timeout: 10_000 })`dovecot --version`
  const isNew = !version.startsWith('2.3')
  const { users, ...tables } = accountTables(folder, settings, environment, isNew)
  for (const [name, text] of Object.entries(tables)) write(`postfix/${name}`, text)
  if (dovecot) {
    write('dovecot/userdb', users)
    write('dovecot/dovecot.conf', dovecotConf(settings, environment, isNew))
  }
  return dovecot
}

/** Whether a program found something wrong. One that is not there (127), before npm start has installed it, found nothing. */
const isRefused = ({ exitCode }: { exitCode: number | null }) => exitCode !== 0 && exitCode !== 127

/** Throws a Failure where Postfix or Dovecot cannot read the settings below a folder. */
export async function tryConfiguration(folder: string, dovecot: boolean): Promise<void> {
  // Whatever program of Postfix: each reads main.cf first.
  const postfix = await $({ timeout: 20_000 })`postmap -c ${folder}/postfix -q x static:y`
  if (isRefused(postfix)) throw complaint(folder, 'postfix-main.cf', postfix.stderr)
  if (!dovecot) return
  // Asked for one setting, it would pass over a brace that is not closed. With a domain it does not ask the DNS for one.
  const env = { ...process.env, DOVECOT_HOSTDOMAIN: HOSTNAME }
  const read = await $({ timeout: 20_000, env })`doveconf -c ${folder}/dovecot/dovecot.conf -n`
  if (isRefused(read)) throw new Failure('failed', read.stderr.trim())
}

/** A copy of the configuration folder with the container's paths mapped, each line where it was. */
function copyConfiguration(folder: string, stateDir: string, environment: Environment): void {
  const copy = join(folder, 'config')
  // A table that is not there would make every recipient a temporary failure.
  for (const name of ['postfix-virtual.cf', 'postfix-regexp.cf']) writeFileSync(join(copy, name), '')
  // Without these two the daemons would start and lack what the project is for.
  for (const name of new Set(['postfix-main.cf', 'postfix-accounts.cf', ...namesBelow(CONFIG_DIR)])) {
    if (NO_CONFIGURATION.test(name)) continue
    const [from, to] = [join(CONFIG_DIR, name), join(copy, name)]
    mkdirSync(dirname(to), { recursive: true })
    if (TEXT.test(name)) {
      const text = mapPaths(readProjectFile(CONFIG, name), stateDir)
      const isOpen = environment.SMTP_ANY_LOGIN !== '0'
      writeFileSync(to, isOpen ? text : text.replace(ANY_LOGIN, (block) => block.replace(/.+/g, '')))
    } else if (statSync(from, { throwIfNoEntry: false })?.isFile()) copyFileSync(from, to)
  }
}

/**
 * Puts the user's lines over those of the base, and what the environment turns off over both: postfix-main.cf as
 * "parameter = value", postfix-master.cf as "service/type/parameter=value".
 */
async function changePostfix(folder: string, { bindAddress, ports }: Settings, environment: Environment) {
  const [path, tls] = [join(folder, 'postfix/main.cf'), Boolean(environment.SSL_TYPE)]
  const main = readOr(path)
  const lines = [
    ...entriesOf(main),
    ...userLines(folder, 'postfix-main.cf'),
    ...entriesOf(main.slice(main.indexOf(OWN))),
    // Without Dovecot nobody can check a password, and smtpd refuses to run with AUTH on.
    ...(isSmtpOnly(environment) ? [{ text: 'smtpd_sasl_auth_enable = no' }] : []),
    ...(tls ? [] : [{ text: 'smtpd_tls_security_level = none' }, { text: 'smtpd_tls_chain_files =' }]),
  ]
  const last = new Map(lines.map(({ text }) => [/^[^\s=]*/.exec(text)?.[0], text]))
  writeFileSync(path, [...last.values(), ''].join('\n'))
  // A main.cf that is younger than two seconds makes each program wait, in case it is still being written.
  utimesSync(path, 0, Date.now() / 1000 - 10)
  const at = (name: 'smtp' | 'submission' | 'submissions') => `${hostOf(bindAddress)}:${ports[name]}/inet/`
  const renamed = userLines(folder, 'postfix-master.cf').map(({ text }) =>
    text
      .replace(/^(smtpd\/pass|smtp\/inet)\//, at('smtp'))
      .replace(/^submission\/inet\//, at('submission'))
      // Releases up to 10 call port 465 smtps.
      .replace(/^(submissions|smtps)\/inet\//, at('submissions')),
  )
  // A level of "may" asks for a certificate; where the environment turned TLS off, no line turns it on again.
  const words = renamed.filter((text) => tls || !text.includes('/smtpd_tls_security_level'))
  const { exitCode, stderr } = await $({ timeout: 20_000 })`postconf -c ${folder}/postfix -P ${words}`
  if (words.length > 0 && (isRefused({ exitCode }) || /unmatched/.test(stderr)))
    throw complaint(folder, 'postfix-master.cf', stderr)
}

function userLines(folder: string, name: string): Entry[] {
  return entriesOf(readOr(join(folder, 'config', name)))
}

/** What Postfix says against a file of the user's, with the line whose text it quotes. */
function complaint(folder: string, name: string, stderr: string): Failure {
  const line = userLines(folder, name).find(({ text }) => stderr.includes(text))?.lines[0]
  return new Failure('failed', `${CONFIG}/${name}${line ? ` line ${line}` : ''}: ${stderr.trim()}`)
}

/** What docker-mailserver makes of accounts, aliases and quotas: Postfix's tables, and the lines of Dovecot's userdb. */
function accountTables(folder: string, { stateDir }: Settings, environment: Environment, isNew: boolean) {
  const file = (name: string) => readOr(join(folder, 'config', name))
  const accounts = parseAccounts(file('postfix-accounts.cf'))
  const quotas = environment.ENABLE_QUOTAS === '0' ? new Map() : parseQuotas(file('dovecot-quotas.cf'))
  const [own, aliases] = ['postfix-accounts.cf', 'postfix-virtual.cf'].map(file)
  const domains = domainsOf({ 'postfix-accounts.cf': own ?? '', 'postfix-virtual.cf': aliases ?? '' })
  const field = isNew ? 'userdb_quota_storage_size=' : 'userdb_quota_rule=*:bytes='
  const users = accounts.map(({ address, hash, attributes }) => {
    const quota = quotas.get(address.toLowerCase())
    const extra = [attributes, quota && `${field}${quota}`].filter(Boolean).join(' ')
    return `${address}:${hash}:${VMAIL_ID}:${VMAIL_ID}::${stateDir}/mail/${mailboxOf(address)}::${extra}`
  })
  // Dovecot tells this field of an account once it has read this userdb.
  const marker = createHash('sha256').update(users.join()).digest('hex').slice(0, 16)
  const vhost = [...domains].sort().map((domain) => `${domain}\n`)
  const vmailbox = accounts.map(({ address }) => `${address} ${mailboxOf(address)}/\n`)
  return {
    vhost: vhost.join(''),
    vmailbox: vmailbox.join(''),
    users: users.map((user) => `${user} userdb_marker=${marker}\n`).join(''),
  }
}

/** Where an account's mail lies below the mail folder: `domain/user`. */
export function mailboxOf(address: string): string {
  return `${domainOf(address)}/${address.slice(0, address.lastIndexOf('@'))}`
}

/** `mailboxOf` for a removal; undefined where somebody has written an address by hand that leads elsewhere. */
export function removableMailboxOf(address: string): string | undefined {
  const parts = mailboxOf(address).split('/')
  return parts.length === 2 && !parts.some((part) => /^\.{0,2}$/.test(part)) ? parts.join('/') : undefined
}

function dovecotConf(settings: Settings, environment: Environment, isNew: boolean): string {
  const text = base(isNew ? 'dovecot-2.4.conf' : 'dovecot-2.3.conf', settings, environment)
  const quotas = environment.ENABLE_QUOTAS === '0' ? text.replace(/^# --- Quota[\s\S]*?(?=^# --- )/m, '') : text
  // Without certificate the files that it names need not be there, and the user's file cannot turn TLS on again.
  return environment.SSL_TYPE ? quotas : `${quotas.replace(/^ssl\w* = .*$/gm, '')}ssl = no\n`
}

/** The paths of all files and folders below a folder, from there; none where it is not there. */
export function namesBelow(folder: string): string[] {
  const isFolder = statSync(folder, { throwIfNoEntry: false })?.isDirectory()
  return isFolder ? (readdirSync(folder, { recursive: true }) as string[]) : []
}

/** Maps the container's paths in a text onto the state folder, each line where it was. */
export function mapPaths(text: string, stateDir: string): string {
  return text.replace(CONTAINER_PATH, (path) => `${stateDir}/${PATHS[path]}`)
}

/** Fills the placeholders of a file of docker-data/native. */
export function base(name: string, settings: Settings, environment: Environment): string {
  const { stateDir, bindAddress, ports } = settings
  const [messageLimit, mailboxLimit] = [
    Number(environment.POSTFIX_MESSAGE_SIZE_LIMIT || 10_240_000),
    Number(environment.POSTFIX_MAILBOX_SIZE_LIMIT || 0),
  ]
  const { imap, pop3 } = enabledProtocols(environment)
  const tls = tlsFiles(environment, stateDir)
  const values: Record<string, string | number> = {
    STATE: stateDir,
    HOSTNAME: hostnameOf(environment),
    BIND_ADDRESS: bindAddress,
    INET_PROTOCOLS: isIPv6(bindAddress) ? 'all' : 'ipv4',
    SMTP: `${hostOf(bindAddress)}:${ports.smtp}`,
    SUBMISSION: `${hostOf(bindAddress)}:${ports.submission}`,
    SUBMISSIONS: `${hostOf(bindAddress)}:${ports.submissions}`,
    LOGINS: isSmtpOnly(environment) ? 'no' : 'yes',
    TLS: tls ? 'yes' : 'no',
    // Through Docker's network every client comes from a trusted one.
    NETWORKS: /^(connected-networks|network|host)$/.test(environment.PERMIT_DOCKER ?? '') ? '0.0.0.0/0 [::]/0' : '',
    POSTMASTER_ADDRESS: environment.POSTMASTER_ADDRESS || CATCHALL,
    PROTOCOLS: [imap && 'imap', pop3 && 'pop3', 'lmtp'].filter(Boolean).join(' '),
    MAILBOX_FORMAT: environment.DOVECOT_MAILBOX_FORMAT || 'maildir',
    MESSAGE_SIZE: messageLimit,
    // Room for the lines that are added on the way: what Postfix takes, Dovecot takes as well.
    MESSAGE_LIMIT: messageLimit > 0 ? `${messageLimit + 1_000_000}B` : 0,
    MAILBOX_LIMIT: mailboxLimit > 0 ? `${mailboxLimit}B` : 0,
    POP3_PORT: ports.pop3,
    POP3S_PORT: tls ? ports.pop3s : 0,
    IMAP_PORT: ports.imap,
    IMAPS_PORT: tls ? ports.imaps : 0,
    TLS_LEVEL: tls ? 'may' : 'none',
    TLS_KEY: tls?.[0] ?? '',
    TLS_CERTIFICATE: tls?.[1] ?? '',
    TLS_CHAIN: [...new Set(tls)].join(' '),
  }
  const text = readProjectFile('docker-data', 'native', name)
  return text.replace(/@([A-Z0-9_]+)@/g, (placeholder, key) => String(values[key] ?? placeholder))
}

/** The server's host name. */
export const hostnameOf = (environment: Environment) => environment.OVERRIDE_HOSTNAME || HOSTNAME

/** Where key and certificate lie, by docker-mailserver's rules for SSL_TYPE; undefined where TLS is off. */
export function tlsFiles(environment: Environment, stateDir: string): [string, string] | undefined {
  const ssl = `${stateDir}/config/ssl/${hostnameOf(environment)}`
  const mapped = (path = '') => mapPaths(path, stateDir)
  const files: Record<string, [string, string]> = {
    snakeoil: [`${stateDir}/tls/key.pem`, `${stateDir}/tls/certificate.pem`],
    'self-signed': [`${ssl}-key.pem`, `${ssl}-cert.pem`],
    custom: [`${ssl}-full.pem`, `${ssl}-full.pem`],
    manual: [mapped(environment.SSL_KEY_PATH), mapped(environment.SSL_CERT_PATH)],
  }
  return files[environment.SSL_TYPE ?? '']
}

/** What the daemons would refuse, or only with a riddle in the log, unless it is like this. */
const VALUES: [name: string, right: RegExp, words: string][] = [
  [
    'SSL_TYPE',
    /^(snakeoil|self-signed|custom|manual)$/,
    'snakeoil, self-signed, custom, manual, or nothing for no TLS',
  ],
  ['OVERRIDE_HOSTNAME', /^(?!-)[\w-]+(\.[\w-]+)+$/, 'a host name with its domain'],
  ['DOVECOT_MAILBOX_FORMAT', /^(maildir|sdbox|mdbox)$/, 'maildir, sdbox or mdbox'],
  ['SMTP_ANY_LOGIN', /^[01]$/, '0 or 1'],
  ['POSTFIX_MESSAGE_SIZE_LIMIT', /^\d+$/, 'a number of bytes'],
  ['POSTFIX_MAILBOX_SIZE_LIMIT', /^\d+$/, 'a number of bytes'],
]

/** Throws a usage Failure for a wrong value. */
function checkValues(environment: Environment): void {
  for (const [name, right, words] of VALUES) {
    const value = environment[name]
    if (value && !right.test(value))
      throw new Failure('usage', `development-mail-server.env: ${name}=${value} should be ${words}.`)
  }
}
