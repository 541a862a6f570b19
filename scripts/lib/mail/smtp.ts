/** An SMTP client (RFC 5321) on nodemailer's SMTPConnection: a deadline for each reply, an outcome for each message. */
import { isAscii } from 'node:buffer'
import { connect } from 'node:net'
import SMTPConnection, { type SMTPEnvelope } from 'nodemailer/lib/smtp-connection'
import { type ExitName, Failure } from '../cli.ts'
import type { Client } from './client_options.ts'
import { type Delivery, type Notify, onOneLine, type Parcel, queueIdOf, refusalOf } from './delivery.ts'
import { visibleLine } from './visible.ts'

export interface SessionOptions extends Omit<Client, 'server'> {
  /** Gets the dialogue line by line, secrets masked, fit for a terminal. */
  tell?: ((line: string) => void) | undefined
}

/** nodemailer's errors, as far as they are read here. */
interface SmtpError extends Error {
  code?: string
  /** The command that was refused; CONN where the connection broke. */
  command?: string
  response?: string
  recipient?: string
  /** OpenSSL's own words. */
  reason?: string
  errors?: Error[]
}

type Done<T> = (error?: Error | null, result?: T) => void
type Books = SMTPEnvelope & { mailError?: SmtpError; accepted?: string[]; rejectedErrors?: SmtpError[] }

/** A message slower than this on average is given up, in bytes per millisecond (100 kB/s). */
const SLOWEST = 100
/** Milliseconds to wait for the answer to QUIT, which changes nothing any more. */
const FAREWELL = 1_000
/** nodemailer's own limits, out of the way: they count silence, and a server that sends a byte now and then is not silent. */
const NEVER = 2 ** 31 - 1
const COMMAND = /^(?:EHLO|HELO|STARTTLS|AUTH|MAIL FROM|RCPT TO|DATA|RSET|QUIT)\b/
/** The reply that a refused command gets names the phase that failed. */
const PHASES: Record<string, ExitName> = {
  STARTTLS: 'tls',
  AUTH: 'login',
  'MAIL FROM': 'sender',
  'RCPT TO': 'allRecipients',
  DATA: 'message',
  'the message': 'message',
}

export class SmtpSession {
  readonly #server: Client['server']
  readonly #connection: SMTPConnection
  readonly #tell: SessionOptions['tell']
  readonly #where: string
  #user = ''
  /** What the server has still to answer, in order, and what it answered last. */
  #waiting = ['the connection']
  #answered = 'the connection'
  /** The EHLO reply, behind its first line. */
  #extensions = ''
  #messageSize = 0
  #isConnected = false
  #needsReset = false
  #timer: NodeJS.Timeout | undefined
  /** Ends the step under way. */
  #fail: (error: Error) => void = () => {}
  /** False when the connection is gone and the next message needs another session. */
  usable = true

  /** Connects, starts TLS where asked for, and logs in. Throws a Failure: `connection`, `tls`, `login`, `timeout`. */
  static async open(server: Client['server'], { login, loginWasChosen, tell }: SessionOptions): Promise<SmtpSession> {
    const session = new SmtpSession(server, tell)
    try {
      await session.#step<void>((done) => session.#connection.connect(done))
      if (login && (loginWasChosen || session.offers('AUTH'))) await session.#login(login)
      return session
    } catch (error) {
      session.#connection.close()
      throw session.#explain(error as SmtpError)
    }
  }

  private constructor(server: Client['server'], tell: SessionOptions['tell']) {
    const { host, port, tls } = server
    this.#server = server
    this.#tell = tell
    this.#where = `SMTP on ${host}:${port}`
    const none = () => {}
    const socket = connect({ host, port }).once('connect', () => {
      this.#isConnected = true
    })
    // Every command and every whole reply passes here, secrets masked.
    const debug = ({ tnx }: { tnx?: string }, line: string) => {
      if (tnx === 'client') this.#said(line)
      if (tnx === 'server') this.#heard(line)
    }
    this.#connection = new SMTPConnection({
      ...{ host, port, connection: socket },
      secure: tls === 'implicit',
      requireTLS: tls === 'starttls',
      ignoreTLS: tls === 'none',
      tls: { rejectUnauthorized: false }, // A development server signs its own certificate.
      ...{ connectionTimeout: NEVER, greetingTimeout: NEVER, socketTimeout: NEVER, socketCloseTimeout: FAREWELL },
      maxResponseSize: 65_536,
      // Beside sending, nodemailer has one door for commands of one's own: a kind of login that it does not know.
      customAuth: {
        ASK: async ({ auth, sendCommand }) => {
          await sendCommand('MAIL FROM:<>')
          await sendCommand(`RCPT TO:<${auth.user}>`)
        },
      },
      transactionLog: true,
      logger: { debug, level: none, trace: none, info: none, warn: none, error: none, fatal: none },
    })
    this.#connection.on('error', (error) => this.#fail(error))
    this.#connection.once('end', () => {
      this.usable = false
      clearTimeout(this.#timer)
      // What nodemailer still has to say about the reply that ended it goes first.
      setImmediate(() => this.#fail(new Error('the server closed the connection')))
    })
  }

  /** Whether the server's EHLO reply has an extension, such as DSN. */
  offers(extension: string): boolean {
    return this.#parameterOf(extension) !== undefined
  }

  /** Sends one message. Never throws: failures are results. */
  async deliver({ envelope: { from, to }, bytes }: Parcel, notify?: Notify): Promise<Delivery> {
    // nodemailer keeps its books in the envelope that it is given.
    const envelope: Books = {
      ...{ from, to, size: bytes.length, use8BitMime: !isAscii(bytes) },
      ...(notify ? { dsn: { notify } } : {}),
    }
    const refusals = () => (envelope.rejectedErrors ?? []).map((each) => refusalOf(each.recipient, each.response))
    this.#messageSize = bytes.length
    this.#waiting = []
    this.#answered = ''
    try {
      // The largest message that the server takes (RFC 1870) is known before a byte is sent; 0 is no limit.
      const largest = Number(this.#parameterOf('SIZE') || 0)
      if (largest > 0 && bytes.length > largest) {
        const fact = `the message has ${bytes.length} bytes; the server takes ${largest} at most (SIZE)`
        throw this.#failure('message', fact)
      }
      if (this.#needsReset) await this.#step((done) => this.#connection.reset(done))
      const send = (done: Done<{ response: string }>) => this.#connection.send(envelope, bytes, done)
      const { response } = await this.#step(send)
      this.#needsReset = false
      const refused = refusals()
      const some = `${this.#where}: ${refused.length} of ${to.length} recipients were refused.`
      return {
        exit: refused.length > 0 ? 'someRecipients' : 'ok',
        reply: onOneLine(response),
        queueId: queueIdOf(response),
        accepted: envelope.accepted ?? [],
        refused,
        problem: refused.length > 0 ? some : null,
        untaken: false,
      }
    } catch (thrown) {
      // What was refused stays refused when the connection breaks behind it.
      const { mailError, rejectedErrors = [] } = envelope
      const verdict = mailError ?? (rejectedErrors.length === to.length ? rejectedErrors.at(-1) : undefined)
      const error = (thrown as SmtpError).response ? thrown : (verdict ?? thrown)
      const { response } = error as SmtpError
      const { exit, message } = this.#explain(error as SmtpError)
      const handedOver = [this.#waiting[0], this.#answered].includes('the message')
      // 421 and a refused RSET are about the connection, any other reply is about the message (RFC 5321 section 3.8).
      const isBroken = response ? response.startsWith('421') || this.#answered === 'RSET' : exit !== 'message'
      if (isBroken) this.#connection.close()
      this.#needsReset = true
      return {
        exit,
        reply: response ? onOneLine(response) : null,
        queueId: null,
        accepted: [],
        // Behind a refused sender all recipients are refused, and not for themselves.
        refused: exit === 'sender' ? [] : refusals(),
        problem: handedOver && !response ? `${message} Whether the server took the message is not known.` : message,
        untaken: isBroken && !handedOver,
      }
    }
  }

  /** The server's reply to RCPT TO for a recipient, with the null envelope sender. Nothing is sent. */
  async replyTo(recipient: string): Promise<string> {
    await this.#step((done) => this.#connection.login({ method: 'ASK', user: recipient, pass: '' }, done))
    this.#needsReset = true
    return onOneLine(String(this.#connection.lastServerResponse))
  }

  /** Says QUIT and drops the connection. */
  async close(): Promise<void> {
    if (this.usable) {
      await new Promise<void>((resolve) => {
        this.#timer = setTimeout(resolve, FAREWELL)
        this.#fail = () => resolve()
        this.#connection.quit()
      })
    }
    this.#connection.close()
  }

  async #login({ user, password }: NonNullable<Client['login']>): Promise<void> {
    const offered = this.#parameterOf('AUTH')
    if (!/\b(?:PLAIN|LOGIN|CRAM-MD5)\b/i.test(offered ?? '')) {
      const offer = offered === undefined ? 'offers no login (AUTH)' : `offers only AUTH ${offered}`
      const tls = this.#server.tls === 'none' && this.offers('STARTTLS') ? '--tls starttls, or ' : ''
      throw this.#failure('login', `the server ${offer}. Try ${tls}--user '' for none`)
    }
    this.#user = user
    await this.#step((done) => this.#connection.login({ credentials: { user, pass: password } }, done))
  }

  /** One step of nodemailer's. It ends as well when the connection breaks or a reply is late. */
  #step<T>(begin: (done: Done<T>) => void): Promise<T> {
    this.#expectReply(this.#server.timeout)
    return new Promise<T>((resolve, reject) => {
      this.#fail = reject
      begin((error, result) => (error ? reject(error) : resolve(result as T)))
    }).finally(() => clearTimeout(this.#timer))
  }

  #expectReply(milliseconds: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      const missing = this.#isConnected ? `answer to ${this.#waiting[0] ?? 'the TLS handshake'}` : 'connection'
      this.#fail(this.#failure('timeout', `no ${missing} within ${this.#server.timeout / 1000} s (--timeout)`))
      this.#connection.close()
    }, milliseconds)
  }

  #said(command: string): void {
    this.#tell?.(`> ${visibleLine(masked(command))}`)
    this.#waiting.push(COMMAND.exec(command)?.[0] ?? 'AUTH')
  }

  #heard(reply: string): void {
    if (!this.usable) return
    const lines = reply.split('\n')
    for (const line of lines) this.#tell?.(`< ${visibleLine(line)}`)
    this.#answered = this.#waiting.shift() ?? 'nothing'
    if (!lines.every((line) => /^\d{3}(?:[ -]|$)/.test(line))) {
      this.#fail(this.#failure('connection', `not an SMTP reply: ${JSON.stringify(reply.slice(0, 100))}`))
      this.#connection.close()
      return
    }
    if (this.#answered === 'EHLO') this.#extensions = reply.startsWith('2') ? lines.slice(1).join('\n') : ''
    const isMessageNext = this.#answered === 'DATA' && /^[23]/.test(reply)
    if (isMessageNext) {
      this.#waiting.unshift('the message')
      this.#tell?.(`> (the message, ${this.#messageSize} bytes)`)
    }
    // A login of many questions has one deadline for all of them.
    const more = isMessageNext ? this.#messageSize / SLOWEST : 0
    if (!reply.startsWith('334')) this.#expectReply(this.#server.timeout + more)
  }

  /** The parameters behind an extension's keyword, an empty string where it has none, undefined where it is missing. */
  #parameterOf(extension: string): string | undefined {
    const match = new RegExp(`^\\d{3}[ -]${extension}(?:[ =](.*?))?\\s*$`, 'im').exec(this.#extensions)
    return match ? (match[1] ?? '') : undefined
  }

  /** What an error of nodemailer's means: the phase by the command that was refused, or the connection. */
  #explain(error: SmtpError): Failure {
    if (error instanceof Failure) return error
    const { code, command = '', message, reason, response } = error
    if (response) {
      const refused = command === 'CONN' ? this.#answered : command.replace(/^AUTH .*/, 'AUTH')
      const name = code === 'EMESSAGE' ? 'the message' : refused
      if (name === 'STARTTLS' && !this.offers(name)) return this.#failure('tls', 'the server does not offer STARTTLS')
      const what = name === 'AUTH' ? `login as ${this.#user}` : name
      return this.#failure(PHASES[name] ?? 'connection', `${what} refused: ${onOneLine(response)}`)
    }
    if (code === 'EAUTH') return this.#failure('login', `login as ${this.#user}: ${message}`)
    if (this.#isConnected && this.#connection.upgrading) {
      return this.#failure('tls', `TLS (${this.#server.tls}) failed: ${reason ?? message}`)
    }
    const [waiting = 'the connection'] = this.#waiting
    const before = waiting === 'the connection' ? '' : ` before the answer to ${waiting}`
    // A name with several addresses has an error for each, and none for all.
    const facts = message || error.errors?.map((each) => each.message).join(', ')
    const fact = code && code !== 'ECONNECTION' ? facts : 'the server closed the connection'
    return this.#failure('connection', `${fact}${before}`)
  }

  #failure(exit: ExitName, reason: string): Failure {
    const advice: Partial<Record<ExitName, string>> = {
      connection: ' Is the server up? npm run status',
      login: ' The accounts: npm run add-account -- --list',
    }
    return new Failure(exit, `${this.#where}: ${visibleLine(reason)}.${advice[exit] ?? ''}`)
  }
}

/** nodemailer writes "secret" in the place of one, in base64 as the rest. */
function masked(command: string): string {
  const [last = ''] = /\S+$/.exec(command) ?? []
  return Buffer.from(last, 'base64').includes('/* secret */') ? `${command.slice(0, -last.length)}****` : command
}
