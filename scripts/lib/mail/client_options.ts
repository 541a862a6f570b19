/**
 * The options that both mail clients share: which server, which login, how long to wait. Each value comes from its
 * option, the environment, `.env`, or the default, in this order.
 */
import type { Login } from '../accounts/accounts.ts'
import { Failure } from '../cli.ts'
import { parsePort, readSettings, type ServiceName, setting } from '../settings.ts'
import type { TlsMode } from './pop3.ts'

/** For `parseArgs`: `parseArgs({ options: { ...CLIENT_OPTIONS, ... } })`. */
export const CLIENT_OPTIONS = {
  host: { type: 'string' },
  port: { type: 'string' },
  user: { type: 'string' },
  password: { type: 'string' },
  'password-stdin': { type: 'boolean' },
  tls: { type: 'string' },
  timeout: { type: 'string' },
} as const

/** What `parseArgs` makes of CLIENT_OPTIONS. */
export interface ClientValues {
  host?: string
  port?: string
  user?: string
  password?: string
  'password-stdin'?: boolean
  tls?: string
  timeout?: string
}

export interface Client {
  server: { host: string; port: number; tls: TlsMode; timeout: number }
  /** Undefined when `--user ''` asks for no login. */
  login: Login | undefined
  /** False when neither option nor setting named the user: the login is the test account's. */
  loginWasChosen: boolean
}

type Protocol = keyof typeof PROTOCOLS

/** What differs between the two: the prefix of the variables, the ports by TLS mode, and the test account. */
const PROTOCOLS = {
  smtp: { prefix: 'SMTP', account: 'foo', ports: { none: 'smtp', starttls: 'submission', implicit: 'submissions' } },
  pop3: { prefix: 'POP3', account: 'bar', ports: { none: 'pop3', starttls: 'pop3', implicit: 'pop3s' } },
} as const satisfies Record<string, { prefix: string; account: string; ports: Record<TlsMode, ServiceName> }>

const TLS_MODES: readonly string[] = ['none', 'starttls', 'implicit'] satisfies TlsMode[]
/** Seconds. The upper bound keeps timers, which count milliseconds in 32 bits, from overflowing. */
const TIMEOUT = { default: 30, max: 86_400 }

/** The lines of `--help` about these options. */
export function explainClientOptions(protocol: Protocol): string {
  const { prefix, account } = PROTOCOLS[protocol]
  const noLogin = protocol === 'smtp' ? "; '' for no login" : ''
  return `Server and login (option, else environment, else .env, else the default):
  --host HOST            MAIL_HOST      where the development mail server listens
  --port PORT            ${prefix}_PORT      its port for the TLS mode
  --tls MODE             ${prefix}_TLS       none (default), starttls, or implicit; the certificate is not verified
  --user USER            ${prefix}_USER      ${account}@development-virtual.example.com${noLogin}
  --password PASSWORD    ${prefix}_PASSWORD  that of a known account, where it still is the initial one
  --password-stdin       the first line of stdin is the password
  --timeout SECONDS      MAIL_TIMEOUT   how long the server may stay silent (${TIMEOUT.default})`
}

/**
 * Resolves server and login, and reads the password from stdin where that is asked for. Throws a usage Failure that
 * names the option or the variable with the wrong value.
 */
export async function resolveClient(protocol: Protocol, values: ClientValues): Promise<Client> {
  const { prefix, account: accountName, ports } = PROTOCOLS[protocol]
  const settings = readSettings()

  const host = pick('--host', values.host, 'MAIL_HOST') ?? { name: 'MAIL_HOST', text: settings.host }
  if (!/^[^\s\0]+$/.test(host.text)) throw wrong(host, 'a host is a name or an IP address')
  const mode = pick('--tls', values.tls, `${prefix}_TLS`)
  if (mode && !TLS_MODES.includes(mode.text)) throw wrong(mode, `choose one of ${TLS_MODES.join(', ')}`)
  const tls = (mode?.text ?? 'none') as TlsMode
  // The variable of the port is the server's own, which the settings have checked already.
  const port = values.port === undefined ? settings.ports[ports[tls]] : parsePort('--port', values.port)
  const seconds = pick('--timeout', values.timeout, 'MAIL_TIMEOUT')
  const timeout = Number(seconds?.text ?? TIMEOUT.default)
  if (seconds && !(/^\d+(\.\d+)?$/.test(seconds.text) && timeout > 0 && timeout <= TIMEOUT.max)) {
    throw wrong(seconds, `a number of seconds, above 0 and up to ${TIMEOUT.max}`)
  }
  const server = { host: host.text, port, tls, timeout: timeout * 1000 }

  if (values.password !== undefined && values['password-stdin']) {
    throw new Failure('usage', '--password and --password-stdin: give the password once.')
  }
  const { VIRTUAL_DOMAIN } = await import('../accounts/accounts.ts')
  const chosen = pick('--user', values.user, `${prefix}_USER`)
  const user = chosen ?? { name: '--user', text: `${accountName}@${VIRTUAL_DOMAIN}` }
  if (user.text === '') {
    if (protocol === 'pop3') throw wrong(user, 'POP3 has no access without a login')
    return { server, login: undefined, loginWasChosen: true }
  }
  const password = values['password-stdin']
    ? { name: '--password-stdin', text: await passwordFromStdin() }
    : (pick('--password', values.password, `${prefix}_PASSWORD`) ?? (await initialPassword(user.text)))
  for (const { name, text } of [user, password]) {
    if (/[\r\n\0]/.test(text)) throw new Failure('usage', `${name}: a line break or NUL cannot be part of a login.`)
  }
  return { server, login: { user: user.text, password: password.text }, loginWasChosen: chosen !== undefined }
}

/** A value and what the user typed it as, for messages. */
interface Named {
  name: string
  text: string
}

function pick(option: string, value: string | undefined, variable: string): Named | undefined {
  if (value !== undefined) return { name: option, text: value }
  const text = setting(variable)
  return text === undefined ? undefined : { name: variable, text }
}

function wrong({ name, text }: Named, rule: string): Failure {
  return new Failure('usage', `${name}=${JSON.stringify(text).slice(1, -1)}: ${rule}. See --help.`)
}

/** The password of an account that still has its initial one. */
async function initialPassword(user: string): Promise<Named> {
  const { knownPassword, readAccounts } = await import('../accounts/accounts.ts')
  const account = readAccounts().find(({ address }) => address.toLowerCase() === user.toLowerCase())
  const password = account && knownPassword(account)
  if (!password) {
    throw new Failure(
      'usage',
      `No password is known for ${JSON.stringify(user)}. Give it: --password or --password-stdin`,
    )
  }
  return { name: '--password', text: password }
}

/** The first line of stdin. What comes behind it is left alone, so that a pipe may stay open. */
async function passwordFromStdin(): Promise<string> {
  if (process.stdin.isTTY) {
    throw new Failure('usage', '--password-stdin: stdin is the terminal. Pipe the password into it.')
  }
  let bytes = Buffer.alloc(0)
  for await (const chunk of process.stdin) {
    bytes = Buffer.concat([bytes, chunk])
    if (bytes.includes('\n')) break
  }
  const password = bytes.toString('utf8').split(/\r?\n/)[0]
  if (!password) throw new Failure('usage', '--password-stdin: stdin has no password in its first line.')
  return password
}
