/** A POP3 client (RFC 1939) that gives every message byte for byte and never waits for ever: node-pop3, its reading mended. */
import { isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import Pop3Command from 'node-pop3'
import type { Login } from '../accounts/accounts.ts'
import { type ExitName, Failure, messageOf } from '../cli.ts'
import type { TlsMode } from './client_options.ts'
import { visibleLine } from './visible.ts'

export type { TlsMode }

export interface Pop3Server {
  host: string
  port: number
  tls: TlsMode
  /** Milliseconds that the server may stay silent at any point. */
  timeout: number
}

/** One message as the server lists it: its number in this session, its unique id (UIDL), its size in bytes. */
export interface Pop3Message {
  number: number
  uidl: string
  size: number
}

/** The server answered `-ERR`. The session goes on. */
export class Pop3Refusal extends Failure {
  /** The server's words, without `-ERR`. */
  readonly reply: string

  constructor(exit: ExitName, message: string, reply: string) {
    super(exit, message)
    this.reply = reply
  }

  /** Worth another try, by the response codes of RFC 2449 section 8 and RFC 3206. */
  get isTemporary(): boolean {
    return /^\[(IN-USE|LOGIN-DELAY|SYS\/TEMP)/i.test(this.reply)
  }

  /** The message was there at login, and another session has deleted it since: "Message 1 expunged." says Dovecot. */
  get isGone(): boolean {
    return /expunged|deleted|no such message|no message/i.test(this.reply) && !this.reply.startsWith('[')
  }
}

/** A reply slower than this on average is given up, in bytes per millisecond (100 kB/s). */
const SLOWEST = 100
/** A status line has 512 bytes at most (RFC 2449 section 4); what goes on far beyond is no POP3. */
const LONGEST_LINE = 65_536
/** From so many messages on it is worth a round trip to ask for PIPELINING. */
const MANY = 20
/** Up to so many of the newest messages are listed one by one. */
const FEW = 100
/** Bytes of messages that are asked for before they can be read; what they are kept in is memory of ours. */
const AHEAD = 262_144

const PLUS = 0x2b
const STUFFED_DOT = '\r\n.'

interface Asked {
  /** The reply to a command like RETR: unless it is `-ERR` it ends with a line that has a dot alone. */
  isMultiLine: boolean
  resolve: (reply: Buffer) => void
  reject: (failure: Error) => void
}

/**
 * node-pop3 takes each chunk that comes for a reply. This reads the socket in its place, however the bytes are cut, and
 * hands whole replies to whoever asked: node-pop3 itself (`connect`, `command`), or `ask`, which keeps the bytes as they
 * are and may be called again before the reply is there.
 */
class WholeReplies extends Pop3Command {
  declare _socket: Socket | null
  /** When the last bytes came, in milliseconds since 1970. */
  lastHeard = 0
  readonly #fail: (exit: ExitName, reason: string) => Failure
  #lost: Failure | undefined
  #asked: Asked[] = []
  #toLibrary: (reply: Buffer) => void = () => {}
  /** What has come and is no whole reply yet lies in here from `#begin` to `#end`. */
  #room = Buffer.alloc(0)
  #begin = 0
  #end = 0
  /** Up to here no end of a reply was found. */
  #searched = 0

  constructor({ host, port, tls }: Pop3Server, fail: (exit: ExitName, reason: string) => Failure) {
    // TLS knows no addresses as server names (RFC 6066 section 3), and a development server signs its own certificate.
    const servername = isIP(host) ? 'localhost' : host
    const tlsOptions = { rejectUnauthorized: false } as object
    super({ user: '', password: '', host, port, tls: tls === 'implicit', servername, tlsOptions })
    this.#fail = fail
    // Refusals reach the caller as rejections; without a listener the event would end the process as well.
    this.on('error', () => {})
  }

  override async connect(): Promise<void> {
    // It makes the socket at once, so that no byte can come before this listens.
    const connecting = super.connect()
    connecting.catch(() => {})
    const socket = this._socket as Socket
    const [handle] = socket.listeners('data')
    if (handle) this.#toLibrary = (reply) => handle.call(socket, reply)
    socket.removeAllListeners('data')
    this.#listen(socket)
    const greeting = await this.#reply()
    if (!isOk(greeting)) throw this.#fail('connection', `the server greets with "${textOf(greeting)}"`)
    this.#toLibrary(greeting)
    await connecting
  }

  /** A command with a reply of one line, by node-pop3. */
  override async command(...words: (string | number)[]): ReturnType<Pop3Command['command']> {
    if (this.#lost) throw this.#lost
    const replied = this.#reply().then(this.#toLibrary)
    const [result] = await Promise.all([super.command(...words), replied])
    return result
  }

  /** Sends a command and gives the bytes of its reply, the status line in front. */
  ask(command: string, isMultiLine = false): Promise<Buffer> {
    this._socket?.write(`${command}\r\n`)
    return this.#reply(isMultiLine)
  }

  /** Goes on over TLS (RFC 2595 section 4). */
  async secure(): Promise<void> {
    const plain = this._socket as Socket
    // Bytes behind the reply came unencrypted, perhaps from somebody in between (RFC 2595 section 2.4).
    if (this.#end > this.#begin) throw this.#fail('tls', 'the server sent data between STLS and TLS')
    plain.removeAllListeners('data')
    const socket = connectTls({ socket: plain, servername: this.servername, rejectUnauthorized: false })
    this._socket = socket
    this.#listen(socket)
    await new Promise<void>((resolve, reject) => {
      socket.once('secureConnect', resolve)
      socket.once('close', () => reject(this.#lost))
    })
  }

  /** Ends the connection, and with this Failure everything that waits for a reply. */
  lose(exit: ExitName, reason: string): void {
    this.#lost ??= this.#fail(exit, reason)
    for (const { reject } of this.#asked.splice(0)) reject(this.#lost)
    this._socket?.destroy()
  }

  #listen(socket: Socket): void {
    socket.on('data', (chunk: Buffer) => this.#take(chunk))
    socket.on('error', ({ message }) => this.lose(/SSL|TLS/.test(message) ? 'tls' : 'connection', message))
    socket.on('end', () => this.lose('connection', 'the server closed the connection'))
    socket.on('close', () => this.lose('connection', 'the connection is closed'))
  }

  #reply(isMultiLine = false): Promise<Buffer> {
    const reply = new Promise<Buffer>((resolve, reject) => {
      if (this.#lost) reject(this.#lost)
      else this.#asked.push({ isMultiLine, resolve, reject })
    })
    // Of several that were asked for, nobody waits yet for the later ones.
    reply.catch(() => {})
    this.#deliver()
    return reply
  }

  #take(chunk: Buffer): void {
    this.lastHeard = Date.now()
    if (this.#begin === this.#end) this.#begin = this.#end = this.#searched = 0
    const size = this.#end - this.#begin + chunk.length
    if (this.#end + chunk.length > this.#room.length) {
      this.#move(this.#room.subarray(this.#begin, this.#end), Math.max(AHEAD, Math.ceil(1.5 * size)))
    }
    this.#end += chunk.copy(this.#room, this.#end)
    this.#deliver()
  }

  /** What no reply has taken yet goes on in another room of `size` bytes. */
  #move(unread: Buffer, size: number): void {
    this.#room = Buffer.allocUnsafe(size)
    this.#searched -= this.#begin
    this.#begin = 0
    this.#end = unread.copy(this.#room)
  }

  /** Hands over the whole replies that are there. */
  #deliver(): void {
    for (let [asked] = this.#asked; asked && this.#end > this.#begin; [asked] = this.#asked) {
      const room = this.#room.subarray(0, this.#end)
      const lineEnd = room.indexOf('\r\n', this.#begin)
      const line = room.toString('latin1', this.#begin, lineEnd < 0 ? this.#end : lineEnd)
      const isStrange = lineEnd < 0 ? line.length > LONGEST_LINE : !/^(\+OK|-ERR)( |$)/.test(line)
      if (isStrange) this.lose('connection', `not a POP3 reply: ${JSON.stringify(visibleLine(line.slice(0, 100)))}`)
      if (isStrange || lineEnd < 0) return
      const terminator = asked.isMultiLine && line.startsWith('+') ? '\r\n.\r\n' : '\r\n'
      const found = room.indexOf(terminator, Math.max(lineEnd, this.#searched))
      if (found < 0) {
        this.#searched = this.#end - terminator.length + 1
        return
      }
      const reply = room.subarray(this.#begin, found + terminator.length)
      this.#begin = this.#searched = found + terminator.length
      this.#asked.shift()
      // A large one takes the room with it, and the bytes behind it move.
      if (reply.length > AHEAD) this.#move(this.#room.subarray(this.#begin, this.#end), AHEAD)
      asked.resolve(reply.length > AHEAD ? reply : Buffer.from(reply))
    }
  }
}

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
    try {
      await session.#within(session.#pop3.connect())
      if (server.tls === 'starttls') {
        await session.#ask('STLS', 'tls')
        await session.#within(session.#pop3.secure())
      }
      // Not by node-pop3, which trims its commands: a password may end with a space.
      const refused = `login refused for ${visibleLine(user)}`
      await session.#ask(`USER ${user}`, 'login', refused)
      await session.#ask(`PASS ${password}`, 'login', refused)
      return session
    } catch (error) {
      session.close()
      throw error
    }
  }

  /** The number of messages in the mailbox and their bytes (STAT). */
  async stat(): Promise<{ count: number; bytes: number }> {
    const text = await this.#command('STAT')
    const [, count, bytes] = /^(\d+) (\d+)/.exec(text) ?? []
    if (!count) throw this.#failure('connection', `STAT is answered with ${JSON.stringify(visibleLine(text))}`)
    return { count: Number(count), bytes: Number(bytes) }
  }

  /**
   * The messages of the mailbox, oldest first (UIDL and LIST), or the newest `limit` of them. A few of many are asked for
   * by their numbers: the listing of 50,000 messages takes longer than all the rest of a short session.
   */
  async list(limit = Number.POSITIVE_INFINITY): Promise<Pop3Message[]> {
    const count = limit <= FEW ? (await this.stat()).count : 0
    const few = count > limit ? Array.from({ length: limit }, (_, index) => count - limit + 1 + index) : undefined
    const listed = async (command: 'LIST' | 'UIDL') => {
      const replies = few
        ? few.map((number) => this.#ask(`${command} ${number}`))
        : [this.#block(command).then((block) => block.toString('latin1'))]
      return (await Promise.all(replies))
        .join('\r\n')
        .split('\r\n')
        .filter(Boolean)
        .map((line) => {
          const [, number, value] = /^(\d+) +(\S+)/.exec(line) ?? []
          if (number && value) return [Number(number), value] as const
          throw this.#failure('connection', `${command} lists ${JSON.stringify(visibleLine(line))}`)
        })
    }
    const sizes = new Map(await listed('LIST'))
    return (await listed('UIDL')).map(([number, uidl]) => {
      const size = Number(sizes.get(number))
      if (Number.isSafeInteger(size)) return { number, uidl, size }
      throw this.#failure('connection', `LIST has no size for message ${number}`)
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
    const asked: { message: Pop3Message; reply: Promise<Buffer> }[] = []
    let ahead = 0
    try {
      for (let next = 0; next < messages.length || asked.length > 0; ) {
        for (; next < messages.length; next++) {
          const message = messages[next] as Pop3Message
          if (asked.length > 0 && !(mayPipeline && ahead + message.size <= AHEAD)) break
          const reply = this.#pop3.ask(`${command} ${message.number}${command === 'TOP' ? ' 0' : ''}`, true)
          asked.push({ message, reply })
          ahead += message.size
        }
        const { message, reply } = asked.shift() as (typeof asked)[0]
        ahead -= message.size
        yield [message, await this.#read(reply, `${command} ${message.number}`, message.size).catch(unlessGone)]
      }
    } finally {
      // Left early: what is still coming must not be taken for the reply to another command.
      for (const { message, reply } of asked) await this.#within(reply, message.size).catch(() => {})
    }
  }

  /** Marks a message for deletion; the server deletes it at `quit` and only then (DELE). */
  async delete({ number }: Pop3Message): Promise<void> {
    await this.#command('DELE', number)
  }

  /** Ends the session; marked messages are deleted. Throws a Failure when the server does not confirm it. */
  async quit(): Promise<void> {
    try {
      await this.#command('QUIT')
    } finally {
      this.close()
    }
  }

  /** Drops the connection; without `quit` before, the server keeps everything. */
  close(): void {
    this.#pop3.lose('connection', 'the connection is closed')
  }

  async #knowsPipelining(): Promise<boolean> {
    const capabilities = await this.#block('CAPA').catch((error) => {
      if (error instanceof Pop3Refusal) return ''
      throw error
    })
    return /^PIPELINING\r?$/im.test(capabilities.toString('latin1'))
  }

  /** Gives a command with a reply of one line; the reply's text, without its status. */
  async #command(...words: (string | number)[]): Promise<string> {
    try {
      const [text] = await this.#within(this.#pop3.command(...words))
      return text
    } catch (error) {
      if (error instanceof Failure) throw error
      throw this.#refusal('failed', `${words.join(' ')} refused`, messageOf(error))
    }
  }

  /** The same for a command that node-pop3 would change. */
  async #ask(command: string, exit: ExitName = 'failed', refused = `${command} refused`): Promise<string> {
    const reply = await this.#within(this.#pop3.ask(command))
    if (!isOk(reply)) throw this.#refusal(exit, refused, textOf(reply))
    return textOf(reply)
  }

  /** The bytes of a reply of several lines. */
  #block(command: string, size = 0): Promise<Buffer> {
    return this.#read(this.#pop3.ask(command, true), command, size)
  }

  async #read(replied: Promise<Buffer>, command: string, size: number): Promise<Buffer> {
    const reply = await this.#within(replied, size)
    if (isOk(reply)) return unstuff(reply)
    throw this.#refusal('failed', `${command} refused`, textOf(reply))
  }

  /** Waits for something of `size` bytes; gives the connection up when the server is silent too long, or far too slow. */
  async #within<T>(reply: Promise<T>, size = 0): Promise<T> {
    const { timeout } = this.#server
    const begin = Date.now()
    let timer: NodeJS.Timeout | undefined
    const look = () => {
      const silentFrom = Math.max(begin, this.#pop3.lastHeard)
      const left = Math.min(silentFrom, begin + size / SLOWEST) + timeout - Date.now()
      if (left > 0) timer = setTimeout(look, left)
      else this.#pop3.lose('timeout', `no complete reply within ${timeout / 1000} s`)
    }
    look()
    return reply.finally(() => clearTimeout(timer))
  }

  #failure(exit: ExitName, reason: string): Failure {
    const advice = exit === 'connection' ? ' Is the server up? npm run status' : ''
    return new Failure(exit, `POP3 on ${this.#server.host}:${this.#server.port}: ${reason}.${advice}`)
  }

  #refusal(exit: ExitName, what: string, reply: string): Pop3Refusal {
    const advice = exit === 'login' ? '\nSee which accounts there are: npm run add-account -- --list' : ''
    const { host, port } = this.#server
    return new Pop3Refusal(exit, `POP3 on ${host}:${port}: ${what}: ${visibleLine(reply)}${advice}`, reply)
  }
}

function unlessGone(error: unknown): undefined {
  if (!(error instanceof Pop3Refusal && error.isGone)) throw error
}

function isOk(reply: Buffer): boolean {
  return reply[0] === PLUS
}

/** What the server says behind the status of a reply of one line, fit to print. */
function textOf(reply: Buffer): string {
  return visibleLine(reply.toString('utf8').replace(/^(\+OK|-ERR) ?|\r\n$/g, ''))
}

/** The bytes of a multi-line reply: without its status line and its last line, and the dots that RFC 1939 section 3 puts
 * before lines beginning with one taken off, in place. */
function unstuff(reply: Buffer): Buffer {
  // The status line's CRLF stands in front, to find a dot at the very beginning.
  const from = reply.indexOf('\r\n') + 2
  const last = reply.length - 3
  let length = from
  let copied = from
  for (let dot = reply.indexOf(STUFFED_DOT, from - 2); dot >= 0 && dot + 2 < last; ) {
    length += reply.copy(reply, length, copied, dot + 2)
    copied = dot + 3
    dot = reply.indexOf(STUFFED_DOT, copied)
  }
  length += reply.copy(reply, length, copied, last)
  return reply.subarray(from, length)
}
