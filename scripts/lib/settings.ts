/**
 * The settings: what `.env.example` documents, read from the environment and from `.env`, checked, with defaults.
 * Compose reads the same names from the same places, so both agree about every port.
 */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { isIP } from 'node:net'
import { dirname, isAbsolute, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'dotenv'
import { Failure, messageOf, nearestOf, say } from './cli.ts'

/** The project's folder. Everything is found from here, whatever the current directory. */
export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
/** The configuration folder, which docker-mailserver sees as /tmp/docker-mailserver. */
export const CONFIG_DIR = join(ROOT, 'docker-data', 'mail-server', 'config')
/** The container's name, and the server's name on the Compose network. */
export const CONTAINER = 'development-mail-server'
/** The server's host name where OVERRIDE_HOSTNAME does not say otherwise; `docker-compose.yml` says the same. */
export const HOSTNAME = 'development-mail-server.example.com'

/** The ports of the server: the variable that moves each, where it stands in the container, and what speaks there. */
export const SERVICES = {
  smtp: { variable: 'SMTP_PORT', port: 25, protocol: 'SMTP', tls: 'none' },
  submission: { variable: 'SUBMISSION_PORT', port: 587, protocol: 'SMTP submission', tls: 'none or STARTTLS' },
  submissions: { variable: 'SUBMISSIONS_PORT', port: 465, protocol: 'SMTP submission', tls: 'implicit' },
  pop3: { variable: 'POP3_PORT', port: 110, protocol: 'POP3', tls: 'none or STARTTLS' },
  pop3s: { variable: 'POP3S_PORT', port: 995, protocol: 'POP3', tls: 'implicit' },
  imap: { variable: 'IMAP_PORT', port: 143, protocol: 'IMAP', tls: 'none or STARTTLS' },
  imaps: { variable: 'IMAPS_PORT', port: 993, protocol: 'IMAP', tls: 'implicit' },
} as const

export type ServiceName = keyof typeof SERVICES
export const SERVICE_NAMES = Object.keys(SERVICES) as ServiceName[]

const ENGINES = ['auto', 'docker', 'native'] as const
type EngineName = (typeof ENGINES)[number]

export interface Settings {
  /** The IP address that the ports listen on. */
  bindAddress: string
  /** The address that clients on this machine connect to. */
  host: string
  ports: Record<ServiceName, number>
  /** The inbox's port; 0 turns it off. */
  inboxPort: number
  engine: EngineName
  /** The native engine's own folder, absolute. */
  stateDir: string
  dmsVersion: string
}

/** All settings: names that `.env` and the environment may have. */
export const NAMES: readonly string[] = [
  ...Object.values(SERVICES).map(({ variable }) => variable),
  ...['BIND_ADDRESS', 'INBOX_PORT', 'MAIL_SERVER_ENGINE', 'MAIL_SERVER_STATE_DIR', 'DMS_VERSION'],
  ...['MAIL_HOST', 'MAIL_TIMEOUT', 'SMTP_TLS', 'SMTP_USER', 'SMTP_PASSWORD', 'POP3_TLS', 'POP3_USER', 'POP3_PASSWORD'],
]

let dotEnv: Record<string, string> | undefined

/**
 * A setting's value: the real environment first, then `.env`. Empty counts as not set, as in Compose's `${X:-...}`.
 * Throws a usage Failure where `.env` is there and cannot be read.
 */
export function setting(name: string): string | undefined {
  dotEnv ??= readDotEnv(join(ROOT, '.env'))
  return process.env[name] || dotEnv[name] || undefined
}

function readDotEnv(path: string): Record<string, string> {
  if (!existsSync(path)) return {}
  const values = parse(readText(path, 'Compose reads it as well. Mend it, or begin anew: cp .env.example .env'))
  for (const name of Object.keys(values).filter((name) => !NAMES.includes(name))) {
    const meant = nearestOf(name, NAMES, name.length < 10 ? 1 : 2)
    if (meant) say(`.env: ${name} is no setting of this project and has no effect. Did you mean ${meant}?`)
  }
  return values
}

/** Why a file cannot be read, by the code of the error: half a sentence. */
export const UNREADABLE: Record<string, string> = {
  ENOENT: 'there is no such file',
  EISDIR: 'it is a folder and not a file',
  EACCES: 'this user may not read it',
  ENOTDIR: 'a part of its path is a file and not a folder',
  ELOOP: 'its symbolic links lead in a circle',
}

/** A file's bytes. Throws where it is a pipe or a device, which might be waited for without an end, and without Ctrl-C. */
export function readBytes(path: string): Buffer {
  const found = statSync(path)
  if (!found.isFile() && !found.isDirectory()) throw new Error('it is a pipe or a device and not a file')
  return readFileSync(path)
}

/**
 * The text of a file that a user may have written. Throws a usage Failure with `advice` where it cannot be read or is
 * no UTF-8, which is what PowerShell's ">" writes.
 */
export function readText(path: string, advice: string): string {
  try {
    const text = readBytes(path).toString('utf8')
    if (text.includes('\0')) throw new Error('it is UTF-16 or binary; save it as UTF-8')
    return text.replace(/^\ufeff/, '')
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    const next = code === 'EACCES' ? `See who may: ls -l ${path}` : advice
    throw new Failure('usage', `${relative(process.cwd(), path)}: ${UNREADABLE[code] ?? messageOf(error)}. ${next}`)
  }
}

/** The text of a file that comes with the project. Throws a usage Failure that says how to bring it back. */
export function readProjectFile(...path: string[]): string {
  const file = join(ROOT, ...path)
  return readText(file, `Bring it back: git checkout -- ${relative(process.cwd(), file)}`)
}

/** Reads a port number. `name` is what the user typed it as: a variable or an option. Throws a usage Failure. */
export function parsePort(name: string, text: string): number {
  const port = Number(text)
  if (/^\d{1,5}$/.test(text) && port >= 1 && port <= 65535) return port
  const advice = name.startsWith('--') ? 'See --help.' : 'Correct it in .env or the environment.'
  throw new Failure('usage', `${name}=${text}: a port is a number from 1 to 65535. ${advice}`)
}

/** All settings, checked. Throws a usage Failure that names the variable and its value. */
export function readSettings(): Settings {
  const wrong = (name: string, fact: string, value = setting(name)) =>
    new Failure('usage', `${name}=${value}: ${fact}.`)
  const bindAddress = setting('BIND_ADDRESS') ?? '127.0.0.1'
  if (!isIP(bindAddress)) throw wrong('BIND_ADDRESS', 'not an IP address. Use 127.0.0.1, or correct it in .env')
  const engine = ENGINES.find((name) => name === (setting('MAIL_SERVER_ENGINE') ?? 'auto'))
  if (!engine) throw wrong('MAIL_SERVER_ENGINE', 'no such engine. Use auto, docker or native')
  const stateDir = setting('MAIL_SERVER_STATE_DIR') ?? '/var/lib/development-mail-server'
  if (!isAbsolute(stateDir)) {
    const path = resolve(ROOT, stateDir)
    throw wrong('MAIL_SERVER_STATE_DIR', `not an absolute path. Write ${path}, or correct it in .env`)
  }
  const taken = new Map<number, string>()
  const take = (variable: string, standard: number) => {
    const port = parsePort(variable, setting(variable) ?? String(standard))
    const other = taken.get(port)
    if (other) throw wrong(variable, `${other} has this port already. Give each its own in .env`, String(port))
    taken.set(port, variable)
    return port
  }
  const ports = SERVICE_NAMES.map((name) => [name, take(SERVICES[name].variable, SERVICES[name].port)] as const)
  return {
    bindAddress,
    host: { '0.0.0.0': '127.0.0.1', '::': '::1' }[bindAddress] ?? bindAddress,
    ports: Object.fromEntries(ports) as Settings['ports'],
    inboxPort: setting('INBOX_PORT') === '0' ? 0 : take('INBOX_PORT', 8025),
    engine,
    stateDir: resolve(stateDir),
    dmsVersion: setting('DMS_VERSION') ?? '15.1.0',
  }
}

/** The variables of `development-mail-server.env`, which docker-mailserver and the native engine obey. */
export function readServerEnvironment(): Record<string, string> {
  return parse(readProjectFile('development-mail-server.env'))
}

/** Whether SMTP_ONLY=1 leaves out Dovecot: no mailboxes, and nobody can log in. */
export function isSmtpOnly(environment = readServerEnvironment()): boolean {
  return environment.SMTP_ONLY === '1'
}

/** Which protocols the environment file turns on, by docker-mailserver's defaults (POP3 off, IMAP on). */
export function enabledProtocols(environment = readServerEnvironment()): { smtp: true; pop3: boolean; imap: boolean } {
  const mailboxes = !isSmtpOnly(environment)
  const { ENABLE_POP3, ENABLE_IMAP } = environment
  return { smtp: true, pop3: mailboxes && ENABLE_POP3 === '1', imap: mailboxes && ENABLE_IMAP !== '0' }
}

/** The services that the environment file turns on. Without a certificate 465 speaks plain SMTP, and 995 and 993 are closed. */
export function enabledServices(environment = readServerEnvironment()): ServiceName[] {
  const { pop3, imap } = enabledProtocols(environment)
  const tls = Boolean(environment.SSL_TYPE)
  const enabled: Partial<Record<ServiceName, boolean>> = { pop3, imap, pop3s: pop3 && tls, imaps: imap && tls }
  return SERVICE_NAMES.filter((name) => enabled[name] ?? true)
}

/** The rows of the table of ports: address and port, protocol, TLS mode, for what the environment file turns on. */
export function portRows({ bindAddress, ports }: Settings, environment = readServerEnvironment()): string[][] {
  const tlsOf = (name: ServiceName) => (environment.SSL_TYPE ? SERVICES[name].tls : 'none')
  const at = (name: ServiceName) => `${hostOf(bindAddress)}:${ports[name]}`
  return enabledServices(environment).map((name) => [at(name), SERVICES[name].protocol, tlsOf(name)])
}

/** An address as it stands in front of a port. */
export const hostOf = (address: string) => (address.includes(':') ? `[${address}]` : address)
