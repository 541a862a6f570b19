/** An SMTP client (RFC 5321) on nodemailer's SMTPConnection: a deadline for each answer, an outcome for each message. */
import { isAscii } from 'node:buffer'
import { connect } from 'node:net'
import { Readable } from 'node:stream'
import type { NodemailerError } from 'nodemailer/lib/errors'
import SMTPConnection, { type SMTPConnectionEnvelope } from 'nodemailer/lib/smtp-connection'
import { type ExitName, Failure } from '../cli.ts'
import type { Client } from './client_options.ts'
import { type Delivery, type Outgoing, onOneLine, queueIdOf, refusalOf } from './delivery.ts'
import { visibleLine } from './visible.ts'

export interface SessionOptions extends Omit<Client, 'server'> {
  /** Gets the dialogue line by line, secrets masked, fit for a terminal. */
  tell?: ((line: string) => void) | undefined
}

/** nodemailer's errors, with what Node and OpenSSL have in theirs. */
type SmtpError = NodemailerError & { reason?: string; errors?: Error[] }
/** nodemailer keeps its books in the envelope that it is given. */
type Books = Partial<SMTPConnectionEnvelope> & { mailError?: SmtpError }
type Done<T> = (error?: Error | null, result?: T) => void

/** Bytes of a message that are given to the socket at a time. */
const PIECE = 65_536
/** Milliseconds to wait for the answer to QUIT, which changes nothing any more. */
const FAREWELL = 1_000
/** nodemailer's own limits, out of the way: they count silence, and a server that sends a byte now and then is not silent. */
const NEVER = 2 ** 31 - 1
const COMMAND = /^[A-Z]{4,8}(?= |$)/
const KNOWN_LOGIN = /^\d{3}[ -]AUTH[ =].*\b(?:PLAIN|LOGIN|CRAM-MD5)\b/i
/** The reply that a refused command gets names the phase that failed. */
const PHASES: Record<string, ExitName> = {
  STARTTLS: 'tls',
  AUTH: 'login',
  'MAIL FROM': 'sender',
  'RCPT TO': 'allRecipients',
  DATA: 'message',
}

export class SmtpSession {
  readonly #server: Client['server']
  readonly #connection: SMTPConnection
  readonly #tell: SessionOptions['tell']
  #user = ''
  #isConnected = false
  /** What was said last. */
  #command = 'the connection'
  /** The lines of the EHLO reply behind its first. */
  #extensions: string[] = []
  #needsReset = false
  #timer: NodeJS.Timeout | undefined
  /** Ends the step under way. */
  #fail: (error: Error) => void = () => {}

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
      // A development server signs its own certificate, so there is no need to read all authorities of the world.
      tls: { rejectUnauthorized: false, ca: [] },
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
    // What nodemailer still has to say about the reply that ended it goes first.
    this.#connection.once('end', () => setImmediate(() => this.#fail(new Error('the server closed the connection'))))
  }

  /** False when the connection is gone and the next message needs another session. */
  get usable(): boolean {
    return !this.#connection.destroyed
  }

  /** Whether the server's EHLO reply has an extension, such as DSN. */
  offers(extension: string): boolean {
    return this.#extensions.some((line) => line.slice(4).split(/[ =]/)[0]?.toUpperCase() === extension)
  }

  /** Sends one message; `notify` is a list of `success`, `failure` and `delay`, or `never`. Never throws: failures are results. */
  async deliver({ envelope: { from, to }, bytes }: Outgoing, notify?: string): Promise<Delivery> {
    const dsn = notify ? { notify } : undefined
    const books: Books = { from, to, dsn, size: bytes.length, use8BitMime: !isAscii(bytes) }
    const refused = () => (books.rejectedErrors ?? []).map((each) => refusalOf(each.recipient, each.response))
    const pieces = Readable.from(this.#piecesOf(bytes))
    try {
      if (this.#needsReset) await this.#step((done) => this.#connection.reset(done))
      this.#needsReset = true
      const send = (done: Done<{ response: string }>) => this.#connection.send(books, pieces, done)
      const { response } = await this.#step(send)
      this.#needsReset = false
      const some = refused().length > 0
      return {
        exit: some ? 'someRecipients' : 'ok',
        reply: onOneLine(response),
        queueId: queueIdOf(response),
        accepted: books.accepted ?? [],
        refused: refused(),
        problem: some ? `${this.#where}: ${refused().length} of ${to.length} recipients were refused.` : null,
        untaken: false,
      }
    } catch (thrown) {
      let error = thrown as SmtpError
      const { mailError, rejectedErrors = [] } = books
      const verdict = mailError ?? (rejectedErrors.length === to.length ? rejectedErrors.at(-1) : undefined)
      // What was refused stays refused when the connection breaks behind it.
      if (!error.responseCode || error.command === 'CONN') error = verdict ?? error
      const { exit, message } = this.#explain(error)
      // 421 is about the connection, any other reply is about the message (RFC 5321 section 3.8).
      const isBroken = exit === 'connection' || exit === 'timeout' || error.responseCode === 421
      if (isBroken) this.#connection.close()
      const reply = error.responseCode ? onOneLine(`${error.response}`) : null
      const handedOver = pieces.readableDidRead
      return {
        ...{ exit, reply, queueId: null, accepted: [] },
        // Behind a refused sender all recipients are refused, and not for themselves.
        refused: exit === 'sender' ? [] : refused(),
        problem: handedOver && !reply ? `${message} Whether the server took the message is not known.` : message,
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
      clearTimeout(this.#timer)
    }
    this.#connection.close()
  }

  async #login({ user, password }: NonNullable<Client['login']>): Promise<void> {
    this.#user = user
    if (!this.#extensions.some((line) => KNOWN_LOGIN.test(line))) {
      throw this.#failure('login', "the server offers no login (AUTH) of a known kind. Try another --tls, or --user ''")
    }
    await this.#step((done) => this.#connection.login({ credentials: { user, pass: password } }, done))
  }

  /** A message in pieces, which are asked for when the server has said that it may come. */
  *#piecesOf(bytes: Buffer): Generator<Buffer> {
    this.#command = 'the message'
    this.#tell?.(`> (the message, ${bytes.length} bytes)`)
    for (let at = 0; at < bytes.length; at += PIECE) {
      // The server has taken the one before.
      this.#timer?.refresh()
      yield bytes.subarray(at, at + PIECE)
    }
  }

  /** One step of nodemailer's. It ends as well when the connection breaks or an answer is late. */
  #step<T>(begin: (done: Done<T>) => void): Promise<T> {
    const { timeout } = this.#server
    return new Promise<T>((resolve, reject) => {
      this.#fail = reject
      this.#timer = setTimeout(() => {
        const missing = this.#isConnected ? `answer to ${this.#command}` : 'connection'
        reject(this.#failure('timeout', `no ${missing} within ${timeout / 1000} s (--timeout)`))
        this.#connection.close()
      }, timeout)
      begin((error, result) => (error ? reject(error) : resolve(result as T)))
    }).finally(() => clearTimeout(this.#timer))
  }

  #said(command: string): void {
    this.#tell?.(`> ${visibleLine(masked(command))}`)
    this.#command = COMMAND.exec(command)?.[0] ?? this.#command
  }

  #heard(reply: string): void {
    const lines = reply.split('\n')
    for (const line of lines) this.#tell?.(`< ${visibleLine(line)}`)
    if (this.#command === 'EHLO') this.#extensions = lines.slice(1)
    // A login of many questions has one deadline for all of them.
    if (!reply.startsWith('334')) this.#timer?.refresh()
  }

  /** What an error of nodemailer's means: the phase by the command that was refused, or the connection. */
  #explain(error: SmtpError): Failure {
    if (error instanceof Failure) return error
    const { code, command = '', message, reason, response, responseCode } = error
    if (response && !responseCode) {
      return this.#failure('connection', `not an SMTP reply: ${JSON.stringify(response.slice(0, 100))}`)
    }
    const name = command.split(' ')[0] === 'AUTH' ? 'AUTH' : command
    if (response) {
      if (name === 'STARTTLS' && !this.offers(name)) return this.#failure('tls', 'the server does not offer STARTTLS')
      const what = { AUTH: `login as ${this.#user}`, CONN: 'connection', DATA: 'message' }[name] ?? name
      return this.#failure(PHASES[name] ?? 'connection', `${what} refused: ${onOneLine(response)}`)
    }
    // Larger than the server's SIZE (RFC 1870), or a login that it cannot even begin.
    if (code === 'EMESSAGE') return this.#failure('message', `${message} (SIZE)`)
    if (code === 'EAUTH') return this.#failure('login', `login as ${this.#user}: ${message}`)
    if (this.#isConnected && this.#connection.upgrading) {
      return this.#failure('tls', `TLS (${this.#server.tls}) failed: ${reason ?? message}`)
    }
    // A name with several addresses has an error for each, and none for all.
    const facts = message || error.errors?.map((each) => each.message).join(', ')
    return this.#failure('connection', code === 'ECONNECTION' ? 'the server closed the connection' : `${facts}`)
  }

  get #where(): string {
    return `SMTP on ${this.#server.host}:${this.#server.port}`
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
