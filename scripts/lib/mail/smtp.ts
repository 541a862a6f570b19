/**
 * An SMTP client (RFC 5321) whose sessions carry any number of messages, and which collects for each what the server
 * said to it; what that means is `smtp_delivery.ts`'s matter.
 *
 * nodemailer composes the messages; its own SMTP client is not used. It turns a lone CR in a message into a line end,
 * forgets which recipients were refused when the message fails later, does not tell how far a broken dialogue had come,
 * and takes nearly twice the CPU for each message.
 */
import type { Login } from '../accounts/accounts.ts'
import { type ExitName, Failure } from '../cli.ts'
import { isPositive, type Reply, SmtpConnection, type SmtpServer, type Tell } from './smtp_connection.ts'
import { type Delivery, deliveryOf, isDecided } from './smtp_delivery.ts'

/** Who sends and who receives, which the header need not say. An empty sender is the null sender of bounces. */
export interface Envelope {
  from: string
  to: string[]
}

/** What a session sends. */
export interface Parcel {
  envelope: Envelope
  bytes: Buffer
}

/** When to report to the sender (RFC 3461 section 4.1): `never`, or some of the others. */
export type Notify = ('never' | 'success' | 'failure' | 'delay')[]

export interface DeliveryOptions {
  notify?: Notify | undefined
  /**
   * The message that will be delivered next. Its envelope goes out together with this message, which RFC 2920 section
   * 3.1 allows in so many words, and saves it a round trip.
   */
  following?: Parcel | undefined
}

export interface SessionOptions {
  login: Login | undefined
  /** False: log in only where the server offers it. True: fail where it does not. */
  loginWasChosen: boolean
  tell?: Tell
}

/** A message slower than this on average is given up, in bytes per millisecond (100 kB/s). */
const SLOWEST = 100
/** Milliseconds to wait for the answer to QUIT, which changes nothing any more. */
const FAREWELL = 1_000

export class SmtpSession {
  readonly #server: SmtpServer
  readonly #connection: SmtpConnection
  #extensions: string[] = []
  #needsReset = false
  /** The message whose envelope is on its way already, and its lines. */
  #announced: { parcel: Parcel; lines: string } | undefined

  /** Connects, starts TLS where asked for, and logs in. Throws a Failure: `connection`, `tls`, `login`, `timeout`. */
  static async open(server: SmtpServer, { login, loginWasChosen, tell }: SessionOptions): Promise<SmtpSession> {
    const session = new SmtpSession(server, tell ?? (() => {}))
    try {
      await session.#greet()
      if (login && (loginWasChosen || session.offers('AUTH'))) await session.#login(login)
      return session
    } catch (error) {
      session.#connection.destroy()
      throw error
    }
  }

  private constructor(server: SmtpServer, tell: Tell) {
    this.#server = server
    this.#connection = new SmtpConnection(server, tell)
  }

  /** Whether the server's EHLO reply has an extension, such as DSN. */
  offers(extension: string): boolean {
    return this.#parameterOf(extension) !== undefined
  }

  /** False when the connection is gone and the next message needs another session. */
  get usable(): boolean {
    return this.#connection.usable
  }

  /**
   * Sends one message. Its bytes leave as they are, but for line ends: SMTP has CRLF alone (RFC 5321 section 2.3.8),
   * so a bare LF becomes CRLF, and a last line without line end gets one. Never throws: failures are results.
   */
  async deliver(parcel: Parcel, { notify, following }: DeliveryOptions = {}): Promise<Delivery> {
    const connection = this.#connection
    const { to } = parcel.envelope
    const announced = this.#announced?.parcel === parcel ? this.#announced : undefined
    const lines = announced?.lines ?? withCrlf(parcel.bytes)
    this.#announced = undefined
    // To MAIL FROM, to RCPT TO for each recipient, to DATA and to the message, as far as they come.
    const replies: Reply[] = []
    let handedOver = false
    let broken: Failure | undefined
    try {
      if (!announced) {
        if (!this.#fits(lines)) {
          const fact = `the message has ${lines.length} bytes; the server takes ${this.#largest} at most (SIZE)`
          throw connection.failure('message', fact)
        }
        connection.expectSilence()
        if (this.#needsReset) await this.#reset()
      }
      this.#needsReset = true
      await this.#sendEnvelope(this.#envelopeCommands(parcel.envelope, lines, notify), announced !== undefined, replies)
      if (!isDecided(to, replies)) {
        handedOver = true
        connection.sendMessage(lines, this.#announce(following, notify))
        replies.push(await connection.reply('the message', lines.length / SLOWEST))
      }
    } catch (error) {
      if (!(error instanceof Failure)) throw error
      broken = error
    }

    // A server that closes the connection says 421; one that waits for a message to nobody knows no way back.
    const isLeft = replies.some(({ code }) => code === 421) || (!handedOver && replies.at(-1)?.code === 354)
    if (isLeft) connection.destroy()
    const delivery = deliveryOf(to, { replies, handedOver, broken, usable: this.usable, where: connection.where })
    if (delivery.accepted.length > 0) this.#needsReset = false
    return delivery
  }

  /** Whether the server takes mail of the null envelope sender for a recipient: 2xx to RCPT TO. Nothing is sent. */
  async accepts(recipient: string): Promise<boolean> {
    await this.#command('sender', 'MAIL FROM:<>')
    this.#connection.send(`RCPT TO:<${recipient}>`)
    const reply = await this.#connection.reply('RCPT TO')
    this.#needsReset = true
    return isPositive(reply)
  }

  /** Says QUIT and drops the connection. */
  async close(): Promise<void> {
    if (this.usable) {
      this.#connection.send('QUIT')
      await this.#connection.reply('QUIT', FAREWELL - this.#server.timeout).catch(() => {})
    }
    this.#connection.destroy()
  }

  async #greet(): Promise<void> {
    const connection = this.#connection
    const greeting = await connection.reply('the connection')
    if (greeting.code !== 220) throw connection.failure('connection', `the connection refused: ${greeting.text}`)
    await this.#hello()
    if (this.#server.tls !== 'starttls') return
    if (!this.offers('STARTTLS')) throw connection.failure('tls', 'the server does not offer STARTTLS')
    await this.#command('tls', 'STARTTLS')
    connection.startTls()
    await this.#hello()
  }

  /** EHLO, or HELO where the server knows no EHLO (RFC 5321 section 3.2). */
  async #hello(): Promise<void> {
    const connection = this.#connection
    const name = connection.addressLiteral
    connection.send(`EHLO ${name}`)
    const reply = await connection.reply('EHLO')
    this.#extensions = isPositive(reply) ? reply.lines.slice(1).map((line) => line.slice(4).trim()) : []
    if (reply.code === 421) throw connection.failure('connection', `EHLO refused: ${reply.text}`)
    if (!isPositive(reply)) await this.#command('connection', `HELO ${name}`)
  }

  /** AUTH PLAIN (RFC 4616), or AUTH LOGIN where the server has only that (RFC 4954). */
  async #login({ user, password }: Login): Promise<void> {
    const mechanisms = (this.#parameterOf('AUTH') ?? '').toUpperCase().split(/\s+/)
    if (mechanisms.includes('PLAIN')) {
      await this.#command('login', `AUTH PLAIN ${base64(`\0${user}\0${password}`)}`, { shown: 'AUTH PLAIN ****' })
    } else if (mechanisms.includes('LOGIN')) {
      await this.#command('login', 'AUTH LOGIN', { expected: 334 })
      await this.#command('login', base64(user), { shown: '(the user)', expected: 334 })
      await this.#command('login', base64(password), { shown: '****' })
    } else {
      const offer = this.offers('AUTH') ? `offers only AUTH ${mechanisms.join(' ')}` : 'offers no login (AUTH)'
      const tls = this.#server.tls === 'none' && this.offers('STARTTLS') ? '--tls starttls, or ' : ''
      throw this.#connection.failure('login', `the server ${offer}. Try ${tls}--user '' for none`)
    }
  }

  /** Clears what a failed message left behind. A session that refuses even that is of no use. */
  async #reset(): Promise<void> {
    try {
      await this.#command('connection', 'RSET')
    } catch (error) {
      this.#connection.destroy()
      throw error
    }
  }

  /** The commands of the next message's envelope, where they may go out before the answer to this message. */
  #announce(parcel: Parcel | undefined, notify: Notify | undefined): string[] {
    if (!parcel || !this.offers('PIPELINING')) return []
    const lines = withCrlf(parcel.bytes)
    if (!this.#fits(lines)) return []
    this.#announced = { parcel, lines }
    return this.#envelopeCommands(parcel.envelope, lines, notify)
  }

  /** The largest message that the server takes (RFC 1870) is known before a byte is sent; 0 is no limit. */
  get #largest(): number {
    return Number(this.#parameterOf('SIZE') || 0)
  }

  #fits(lines: string): boolean {
    return this.#largest === 0 || lines.length <= this.#largest
  }

  #envelopeCommands({ from, to }: Envelope, lines: string, notify: Notify | undefined): string[] {
    const parameters = [
      this.offers('SIZE') ? ` SIZE=${lines.length}` : '',
      this.offers('8BITMIME') && /[\x80-\xff]/.test(lines) ? ' BODY=8BITMIME' : '',
      this.offers('SMTPUTF8') && /[^\x00-\x7f]/.test([from, ...to].join()) ? ' SMTPUTF8' : '',
    ]
    const dsn = notify ? ` NOTIFY=${notify.join().toUpperCase()}` : ''
    return [`MAIL FROM:<${from}>${parameters.join('')}`, ...to.map((address) => `RCPT TO:<${address}>${dsn}`), 'DATA']
  }

  /** Sends the commands up to DATA, as far as they make sense, and collects the replies. */
  async #sendEnvelope(commands: string[], isSent: boolean, replies: Reply[]): Promise<void> {
    // With PIPELINING (RFC 2920) they go out together, and the answers come in their order.
    const isPipelined = this.offers('PIPELINING')
    if (isPipelined && !isSent) this.#connection.send(...commands)
    for (const command of commands) {
      if (!isPipelined) {
        const isHopeless = command === 'DATA' && !replies.slice(1).some(isPositive)
        if (isHopeless) return
        this.#connection.send(command)
      }
      const reply = await this.#connection.reply(nameOf(command))
      replies.push(reply)
      if (reply.code === 421) return
      if (command.startsWith('MAIL') && !isPositive(reply) && !isPipelined) return
    }
  }

  /** The parameters behind an extension's keyword, an empty string where it has none, undefined where it is missing. */
  #parameterOf(extension: string): string | undefined {
    for (const line of this.#extensions) {
      const [, keyword = '', parameters = ''] = /^([\w-]+)[ =]?(.*)$/.exec(line) ?? []
      if (keyword.toUpperCase() === extension) return parameters
    }
    return undefined
  }

  /** Sends a command that only prepares; throws a Failure when it is refused. `shown` stands for it in the dialogue. */
  async #command(exit: ExitName, command: string, { shown = command, expected = 0 } = {}): Promise<void> {
    this.#connection.sendSecret(command, shown)
    const name = exit === 'login' ? 'AUTH' : nameOf(command)
    const reply = await this.#connection.reply(name)
    if (expected ? reply.code === expected : isPositive(reply)) return
    throw this.#connection.failure(exit, `${name} refused: ${reply.text}`)
  }
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64')
}

/** The command as people know it: without address, parameters and mechanism. */
function nameOf(command: string): string {
  return /^(?:MAIL FROM|RCPT TO|[A-Z]+)/.exec(command)?.[0] ?? command
}

/** A message with the line ends of SMTP, as a text of one character for each byte: so all other bytes stay. */
function withCrlf(message: Buffer): string {
  const lines = message.toString('latin1').replace(/\r?\n/g, '\r\n')
  return lines === '' || lines.endsWith('\r\n') ? lines : `${lines}\r\n`
}
