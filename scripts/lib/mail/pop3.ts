/** A POP3 client (RFC 1939) that gives every message byte for byte and never waits for ever: node-pop3, its reading mended. */
import type { Login } from '../accounts/accounts.ts'
import { type ExitName, Failure, messageOf } from '../cli.ts'
import type { TlsMode } from './client_options.ts'
import { visibleLine } from './visible.ts'
import { type Pop3Server, quoted, unstuff, WholeReplies } from './whole_replies.ts'

export type { Pop3Server, TlsMode }

/** One message as the server lists it: its number in this session, its unique id (UIDL), its size in bytes. */
export interface Pop3Message {
  number: number
  uidl: string
  size: number
}

/** The server answered `-ERR`, in the words of `reply`. The session goes on. */
export class Pop3Refusal extends Failure {
  readonly reply: string

  constructor(exit: ExitName, message: string, reply: string) {
    super(exit, message)
    this.reply = reply
  }

  /** Worth another try, by the response codes of RFC 2449 section 8 and RFC 3206. */
  get isTemporary(): boolean {
    return /^\[(IN-USE|LOGIN-DELAY|SYS\/TEMP)/i.test(this.reply)
  }

  /** The message was there at login, and another session has deleted it: "Message 1 expunged." as Dovecot says. */
  get isGone(): boolean {
    return !this.reply.startsWith('[') && /expunged|deleted|no such message/i.test(this.reply)
  }
}

/** A reply slower than this on average is given up, in bytes per millisecond (100 kB/s). */
const SLOWEST = 100
/** From so many messages on it is worth a round trip to ask for PIPELINING. */
const MANY = 20
/** Up to so many of the newest messages are listed one by one. */
const FEW = 100
/** Bytes of messages that are asked for before they can be read. */
const AHEAD = 262_144

export class Pop3Session {
  readonly #server: Pop3Server
  readonly #pop3: WholeReplies

  private constructor(server: Pop3Server) {
    this.#server = server
    this.#pop3 = new WholeReplies(server, (exit, reason) => this.#failure(exit, reason))
  }

  /**
   * Connects and logs in. Throws a Failure: `connection`, `tls`, `timeout`, or `login` when the server refuses. The
   * server's certificate is not verified.
   */
  static async open(server: Pop3Server, { user, password }: Login): Promise<Pop3Session> {
    if (/[\r\n\0]/.test(user + password)) {
      throw new Failure('usage', 'A line break or NUL cannot be part of a login over POP3.')
    }
    const session = new Pop3Session(server)
    const pop3 = session.#pop3
    try {
      await session.#within(pop3.connect())
      if (server.tls === 'starttls') {
        await session.#accepted(pop3.command('STLS'), 'the server refuses STLS', 'tls')
        await session.#within(pop3.secure())
      }
      // node-pop3 trims its commands, and a login may have spaces at its ends.
      for (const command of [`USER ${user}`, `PASS ${password}`]) {
        await session.#accepted(pop3.ask(command), `login refused for ${visibleLine(user)}`, 'login')
      }
      return session
    } catch (error) {
      session.close()
      throw error
    }
  }

  /** The number of messages in the mailbox and their bytes (STAT). */
  async stat(): Promise<{ count: number; bytes: number }> {
    const text = await this.#line('STAT')
    const [, count, bytes] = /^(\d+) (\d+)/.exec(text) ?? []
    if (count) return { count: Number(count), bytes: Number(bytes) }
    throw this.#failure('connection', `STAT is answered with ${quoted(text)}`)
  }

  /**
   * The messages of the mailbox, oldest first (UIDL and LIST), or the newest `limit` of them. A few of many are asked for
   * by their numbers: the listing of 50,000 messages takes longer than all the rest of a short session.
   */
  async list(limit = Number.POSITIVE_INFINITY): Promise<Pop3Message[]> {
    const { count } = limit <= FEW ? await this.stat() : { count: 0 }
    const few = count > limit ? Array.from({ length: limit }, (_, index) => count - limit + 1 + index) : []
    const sizes = new Map(await this.#listed('LIST', few))
    return (await this.#listed('UIDL', few)).map(([number, uidl]) => {
      const size = Number(sizes.get(number))
      if (Number.isSafeInteger(size)) return { number, uidl, size }
      throw this.#failure('connection', `LIST has no size for message ${number}`)
    })
  }

  /** What LIST or UIDL says: of the messages with these numbers, or of all. */
  async #listed(command: 'LIST' | 'UIDL', numbers: number[]): Promise<[number, string][]> {
    const lines: string[] = []
    for (const number of numbers) lines.push(await this.#line(command, number))
    if (numbers.length === 0) lines.push(...(await this.#block(command)).toString('latin1').split('\r\n').slice(0, -1))
    return lines.map((line, index) => {
      const [, number, value] = /^(\d+) +(\S+)/.exec(line) ?? []
      if (value && Number(number) === (numbers[index] ?? Number(number))) return [Number(number), value]
      throw this.#failure('connection', `${command} lists ${quoted(line)}`)
    })
  }

  /** A whole message, exactly the bytes that the server stores with CRLF line ends (RETR). */
  retrieve({ number, size }: Pop3Message): Promise<Buffer> {
    return this.#block(`RETR ${number}`, size)
  }

  /** The header and the first `lines` lines of the body (TOP), as bytes. */
  top({ number, size }: Pop3Message, lines = 0): Promise<Buffer> {
    return this.#block(`TOP ${number} ${lines}`, size)
  }

  /**
   * Many whole messages (RETR) or headers (TOP) in the order given; undefined for what another session has deleted. Small
   * ones are asked for before the ones in front of them have come, where the server knows PIPELINING (RFC 2449 section
   * 6.6): that saves a round trip for each. No other command can be given until the loop over them is left.
   */
  async *each(messages: Pop3Message[], command: 'RETR' | 'TOP'): AsyncGenerator<[Pop3Message, Buffer | undefined]> {
    const mayPipeline = messages.length >= MANY && (await this.#knowsPipelining())
    const asked: { message: Pop3Message; block: Promise<Buffer> }[] = []
    let ahead = 0
    try {
      for (let next = 0; next < messages.length || asked.length > 0; ) {
        for (; next < messages.length; next++) {
          const message = messages[next] as Pop3Message
          if (asked.length > 0 && !(mayPipeline && ahead + message.size <= AHEAD)) break
          const block = this.#pop3.ask(`${command} ${message.number}${command === 'TOP' ? ' 0' : ''}`, true)
          // Nobody waits for it yet, and its failure is told when somebody does.
          block.catch(() => {})
          asked.push({ message, block })
          ahead += message.size
        }
        const { message, block } = asked.shift() as (typeof asked)[0]
        ahead -= message.size
        const refused = `${command} ${message.number} refused`
        yield [message, await this.#accepted(block, refused, 'failed', message.size).then(unstuff, unlessGone)]
      }
    } finally {
      // Left early: what is still coming must not be taken for the reply to another command.
      for (const { message, block } of asked) await this.#within(block, message.size).catch(() => {})
    }
  }

  async #knowsPipelining(): Promise<boolean> {
    const capabilities = await this.#block('CAPA').catch((error) => {
      if (error instanceof Pop3Refusal) return ''
      throw error
    })
    return /^PIPELINING\r?$/im.test(capabilities.toString('latin1'))
  }

  /** Marks a message for deletion; the server deletes it at `quit` and only then (DELE). */
  async delete({ number }: Pop3Message): Promise<void> {
    await this.#line('DELE', number)
  }

  /** Ends the session; marked messages are deleted. Throws a Failure when the server does not confirm it. */
  async quit(): Promise<void> {
    await this.#line('QUIT').finally(() => this.close())
  }

  /** Drops the connection; without `quit` before, the server keeps everything. */
  close(): void {
    this.#pop3.lose('connection', 'the connection is closed')
  }

  /** Gives a command with a reply of one line; what stands behind its status. */
  async #line(...words: (string | number)[]): Promise<string> {
    return (await this.#accepted(this.#pop3.command(...words), `${words.join(' ')} refused`))[0]
  }

  /** Gives a command with a reply of several lines; their bytes. */
  async #block(command: string, size = 0): Promise<Buffer> {
    return unstuff(await this.#accepted(this.#pop3.ask(command, true), `${command} refused`, 'failed', size))
  }

  /** Waits for a reply; throws a refusal, `what` happened and the server's words, where it is `-ERR`. */
  async #accepted<T>(reply: Promise<T>, what: string, exit: ExitName = 'failed', size = 0): Promise<T> {
    try {
      return await this.#within(reply, size)
    } catch (error) {
      if (error instanceof Failure) throw error
      const words = visibleLine(messageOf(error))
      const advice = exit === 'login' ? '\nSee which accounts there are: npm run add-account -- --list' : ''
      throw new Pop3Refusal(exit, `${this.#name}: ${what}: ${words}${advice}`, words)
    }
  }

  /** Waits for something of `size` bytes; gives the connection up when the server is silent too long, or far too slow. */
  #within<T>(reply: Promise<T>, size = 0): Promise<T> {
    const { timeout } = this.#server
    const begin = Date.now()
    let timer: NodeJS.Timeout | undefined
    const look = () => {
      const silentSince = Math.max(begin, this.#pop3.lastHeard)
      const left = Math.min(silentSince, begin + size / SLOWEST) + timeout - Date.now()
      if (left > 0) timer = setTimeout(look, left)
      else this.#pop3.lose('timeout', `no complete reply within ${timeout / 1000} s`)
    }
    look()
    return reply.finally(() => clearTimeout(timer))
  }

  get #name(): string {
    return `POP3 on ${this.#server.host}:${this.#server.port}`
  }

  #failure(exit: ExitName, reason: string): Failure {
    const advice = exit === 'connection' ? ' Is the server up? npm run status' : ''
    return new Failure(exit, `${this.#name}: ${reason}.${advice}`)
  }
}

function unlessGone(error: unknown): undefined {
  if (!(error instanceof Pop3Refusal && error.isGone)) throw error
}
