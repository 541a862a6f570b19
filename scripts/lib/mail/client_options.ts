/**
 * The options that both mail clients share: which server, which login, how long to wait. Each value comes from its
 * option, the environment, `.env`, or the default, in this order.
 */
import { isIPv6 } from 'node:net'
import type { Login } from '../accounts/accounts.ts'
import { Failure, type Io } from '../cli.ts'
import { parsePort, readSettings, setting } from '../settings.ts'

/** The kinds of options that `parseArgs` knows. */
export const ONE = { type: 'string' } as const
export const MANY = { type: 'string', multiple: true } as const
export const FLAG = { type: 'boolean' } as const

/** For `parseArgs`: `parseArgs({ options: { ...CLIENT_OPTIONS, ... } })`. */
export const CLIENT_OPTIONS = {
  ...{ host: ONE, port: ONE, user: ONE, password: ONE, tls: ONE, timeout: ONE, 'password-stdin': FLAG },
} as const

/** What `parseArgs` makes of CLIENT_OPTIONS. */
export type ClientValues = { [name in keyof typeof CLIENT_OPTIONS]?: name extends 'password-stdin' ? boolean : string }

export type TlsMode = 'none' | 'starttls' | 'implicit'

export interface Client {
  /** The time out in milliseconds. */
  server: { host: string; port: number; tls: TlsMode; timeout: number }
  /** Undefined when `--user ''` asks for no login. */
  login: Login | undefined
  /** False when neither option nor setting named the user: the login is the test account's. */
  loginWasChosen: boolean
}

/** What differs between the two: the prefix of the variables, the ports by TLS mode, and the test account. */
const PROTOCOLS = {
  smtp: { prefix: 'SMTP', account: 'foo', ports: { none: 'smtp', starttls: 'submission', implicit: 'submissions' } },
  pop3: { prefix: 'POP3', account: 'bar', ports: { none: 'pop3', starttls: 'pop3', implicit: 'pop3s' } },
} as const

type Protocol = keyof typeof PROTOCOLS

const TLS_MODES = ['none', 'starttls', 'implicit'] as const satisfies TlsMode[]
/** The ports that stand for a TLS mode wherever a server has not moved them (RFC 8314 section 7.3, RFC 6409). */
const KNOWN_PORTS: Record<number, TlsMode> = { 465: 'implicit', 587: 'starttls', 995: 'implicit' }
/** Seconds. Timers count milliseconds in 32 bits, and must not overflow. */
const [TIMEOUT, LONGEST_TIMEOUT] = [30, 86_400]

/** The lines of `--help` about these options. */
export function explainClientOptions(protocol: Protocol): string {
  const { prefix, account } = PROTOCOLS[protocol]
  const isSmtp = protocol === 'smtp'
  return `Server and login (option, else environment, else .env, else the default):
  --host HOST            MAIL_HOST      where the development mail server listens
  --port PORT            ${prefix}_PORT      its port for the TLS mode
  --tls MODE             ${prefix}_TLS       none, starttls or implicit; the certificate is not verified. Default: what
                                        --port is for (${isSmtp ? '465 implicit, 587 starttls' : '995 implicit'}), else none
  --user USER            ${prefix}_USER      ${account}@development-virtual.example.com${isSmtp ? "; '' for no login" : ''}
  --password PASSWORD    ${prefix}_PASSWORD  that of a known account, where it still is the initial one
  --password-stdin       the first line of stdin is the password
  --timeout SECONDS      MAIL_TIMEOUT   how long each answer of the server may take (${TIMEOUT})`
}

/** Resolves server and login. Throws a usage Failure that names the option or the variable with the wrong value. */
export async function resolveClient(
  protocol: Protocol,
  values: ClientValues,
  io: Pick<Io, 'stdin' | 'say'>,
): Promise<Client> {
  const { prefix, account, ports } = PROTOCOLS[protocol]
  const settings = readSettings()
  const host = pick('--host', values.host, 'MAIL_HOST') ?? { name: 'MAIL_HOST', text: settings.host }
  if (!isIPv6(host.text)) {
    match(typed(host), host.text, /^[^\s\0/:]+$/, 'a host is a name or an IP address; its port goes to --port')
  }

  const given = values.port === undefined ? undefined : parsePort('--port', values.port)
  const mode = pick('--tls', values.tls, `${prefix}_TLS`)
  if (mode) match(typed(mode), mode.text, /^(none|starttls|implicit)$/, `choose one of ${TLS_MODES.join(', ')}`)
  // What a port stands for, first on this server and then everywhere.
  const known = TLS_MODES.find((name) => settings.ports[ports[name]] === given) ?? KNOWN_PORTS[given ?? 0] ?? 'none'
  const tls = (mode?.text as TlsMode | undefined) ?? known
  if (!mode && tls !== 'none') io.say(`--port ${given}: that is the port for TLS, so --tls ${tls}.`)
  // The variable of the port is the server's own, which the settings have checked already.
  const port = given ?? settings.ports[ports[tls]]

  const limit = pick('--timeout', values.timeout, 'MAIL_TIMEOUT') ?? { name: '--timeout', text: String(TIMEOUT) }
  const seconds = /^\d+(\.\d+)?$/.test(limit.text) ? Number(limit.text) : 0
  if (seconds <= 0 || seconds > LONGEST_TIMEOUT) {
    throw wrong(typed(limit), `a number of seconds, above 0 and up to ${LONGEST_TIMEOUT}`)
  }
  const server = { host: host.text, port, tls, timeout: seconds * 1000 }

  if (values.password !== undefined && values['password-stdin']) {
    throw new Failure('usage', '--password and --password-stdin: give the password once.')
  }
  const chosen = await chosenUser(protocol, values)
  if (chosen === '') return { server, login: undefined, loginWasChosen: true }
  const { VIRTUAL_DOMAIN } = await import('../accounts/accounts.ts')
  const user = chosen ?? `${account}@${VIRTUAL_DOMAIN}`
  const password = values['password-stdin']
    ? await passwordFromStdin(io.stdin)
    : (pick('--password', values.password, `${prefix}_PASSWORD`)?.text ?? (await initialPassword(user)))
  return { server, login: { user, password }, loginWasChosen: chosen !== undefined }
}

/** The user that option or setting names, by address or by local part; undefined where none is named. */
export async function chosenUser(protocol: Protocol, values: ClientValues): Promise<string | undefined> {
  const user = pick('--user', values.user, `${PROTOCOLS[protocol].prefix}_USER`)?.text
  if (!user || user.includes('@')) return user
  const { readAccounts } = await import('../accounts/accounts.ts')
  const named = readAccounts().filter(({ address }) => address.toLowerCase().startsWith(`${user.toLowerCase()}@`))
  return named.length === 1 ? named[0]?.address : user
}

/** The groups of a pattern in a value. Where it does not match: a usage Failure with what was typed, and the rule. */
export function match(typed: string, value: string, pattern: RegExp, rule: string): string[] {
  const groups = pattern.exec(value)
  if (!groups) throw wrong(typed, rule)
  return groups.slice(1)
}

const wrong = (typed: string, rule: string) => new Failure('usage', `${typed}: ${rule}. See --help.`)

/** A value, and what the user typed in front of it. */
interface Named {
  name: string
  text: string
}

const typed = ({ name, text }: Named) => `${name}=${JSON.stringify(text).slice(1, -1)}`

function pick(option: string, value: string | undefined, variable: string): Named | undefined {
  if (value !== undefined) return { name: option, text: value }
  const text = setting(variable)
  return text === undefined ? undefined : { name: variable, text }
}

/** The password of an account that still has its initial one. */
async function initialPassword(user: string): Promise<string> {
  const { knownPassword, readAccounts } = await import('../accounts/accounts.ts')
  const account = readAccounts().find(({ address }) => address.toLowerCase() === user.toLowerCase())
  const password = account && knownPassword(account)
  if (password) return password
  const who = `${JSON.stringify(user)}${account ? '' : ', which has no account here'}`
  throw new Failure('usage', `No password is known for ${who}. Give it: --password or --password-stdin`)
}

/** The first line of stdin. What comes behind it is left alone, so that a pipe may stay open. */
async function passwordFromStdin(stdin: Io['stdin']): Promise<string> {
  if (stdin.isTTY) throw new Failure('usage', '--password-stdin: stdin is the terminal. Pipe the password into it.')
  const { createInterface } = await import('node:readline')
  const lines = createInterface({ input: stdin })
  const { value: password } = await lines[Symbol.asyncIterator]().next()
  lines.close()
  if (!password) throw new Failure('usage', '--password-stdin: stdin has no password in its first line.')
  return password
}
