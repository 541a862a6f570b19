/** node-pop3 with its reading mended: whole replies, however their bytes are cut into chunks, and a word when the connection ends. */
import { isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import Pop3Command from 'node-pop3'
import type { ExitName, Failure } from '../cli.ts'
import type { TlsMode } from './client_options.ts'
import { visibleLine } from './visible.ts'

export interface Pop3Server {
  host: string
  port: number
  tls: TlsMode
  /** Milliseconds that the server may stay silent at any point. */
  timeout: number
}

/** A status line has 512 bytes at most (RFC 2449 section 4); what goes on far beyond is no POP3. */
const LONGEST_LINE = 65_536

/** Whoever waits for a reply. One of several lines ends, unless it is `-ERR`, with a line that has a dot alone. */
interface Waiting {
  isMultiLine: boolean
  resolve: (reply: Buffer) => void
  reject: (failure: Error) => void
}

/**
 * node-pop3 takes every chunk that comes for a reply. This reads its socket, however the bytes are cut, and hands whole
 * replies to whoever asked: node-pop3 itself (`connect`, `command`), or `ask`, which keeps the bytes as they are and may
 * be called again before the reply is there.
 */
export class WholeReplies extends Pop3Command {
  declare _socket: Socket | null
  /** When the last bytes came, in milliseconds since 1970. */
  lastHeard = 0
  readonly #failure: (exit: ExitName, reason: string) => Failure
  #lost: Failure | undefined
  #waiting: Waiting[] = []
  #toLibrary: (reply: Buffer) => void = () => {}
  /** What has come and no reply has taken yet lies in here from `#begin` to `#end`; up to `#searched` no reply ends. */
  #room = Buffer.alloc(0)
  #begin = 0
  #end = 0
  #searched = 0

  constructor({ host, port, tls }: Pop3Server, failure: (exit: ExitName, reason: string) => Failure) {
    // TLS knows no addresses as server names (RFC 6066 section 3), and a development server signs its own certificate.
    const servername = isIP(host) ? 'localhost' : host
    const tlsOptions = { rejectUnauthorized: false } as object
    super({ user: '', password: '', host, port, tls: tls === 'implicit', servername, tlsOptions })
    this.#failure = failure
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
    if (!isOk(greeting)) throw this.#failure('connection', `the server greets with "${textOf(greeting)}"`)
    this.#toLibrary(greeting)
    await connecting
  }

  override async command(...words: (string | number)[]): ReturnType<Pop3Command['command']> {
    if (this.#lost) throw this.#lost
    const replied = this.#reply().then(this.#toLibrary)
    return (await Promise.all([super.command(...words), replied]))[0]
  }

  /** Gives a command as it is; the bytes of its reply, the status line in front. Rejects like `command`. */
  async ask(command: string, isMultiLine = false): Promise<Buffer> {
    this._socket?.write(`${command}\r\n`)
    const reply = await this.#reply(isMultiLine)
    if (isOk(reply)) return reply
    throw new Error(textOf(reply))
  }

  /** Goes on over TLS (RFC 2595 section 4). */
  async secure(): Promise<void> {
    const plain = this._socket as Socket
    // Bytes behind the reply came unencrypted, perhaps from somebody in between (RFC 2595 section 2.4).
    if (this.#end > this.#begin) throw this.#failure('tls', 'the server sent data between STLS and TLS')
    plain.removeAllListeners('data')
    const socket = connectTls({ socket: plain, servername: this.servername, rejectUnauthorized: false })
    this._socket = socket
    this.#listen(socket)
    await new Promise<void>((resolve, reject) => {
      socket.once('secureConnect', resolve).once('close', () => reject(this.#lost))
    })
  }

  /** Ends the connection, and with this Failure everything that waits for a reply. */
  lose(exit: ExitName, reason: string): void {
    this.#lost ??= this.#failure(exit, reason)
    for (const { reject } of this.#waiting.splice(0)) reject(this.#lost)
    this._socket?.destroy()
  }

  #listen(socket: Socket): void {
    socket.on('data', (chunk: Buffer) => this.#take(chunk))
    socket.on('error', ({ message }) => this.lose(/SSL|TLS/.test(message) ? 'tls' : 'connection', message))
    socket.on('end', () => this.lose('connection', 'the server closed the connection'))
    socket.on('close', () => this.lose('connection', 'the connection is closed'))
  }

  #reply(isMultiLine = false): Promise<Buffer> {
    // As "-ERR Disconnected for inactivity." in front of the end: it answers no command.
    const unasked = this.#waiting.length === 0 ? this.#room.subarray(this.#begin, this.#end) : ''
    if (unasked.length > 0) this.lose('connection', `the server said ${quoted(textOf(Buffer.from(unasked)))} unasked`)
    return new Promise((resolve, reject) => {
      if (this.#lost) reject(this.#lost)
      else this.#waiting.push({ isMultiLine, resolve, reject })
      this.#deliver()
    })
  }

  #take(chunk: Buffer): void {
    this.lastHeard = Date.now()
    if (this.#end + chunk.length > this.#room.length) {
      const unread = this.#room.subarray(this.#begin, this.#end)
      // Room for more, so that a large reply is moved a few times and not with every chunk.
      this.#room = Buffer.allocUnsafe(chunk.length + Math.ceil(1.5 * unread.length))
      this.#searched -= this.#begin
      this.#begin = 0
      this.#end = unread.copy(this.#room)
    }
    this.#end += chunk.copy(this.#room, this.#end)
    this.#deliver()
  }

  /** Hands over the whole replies that are there. */
  #deliver(): void {
    for (let [first] = this.#waiting; first && this.#end > this.#begin; [first] = this.#waiting) {
      const room = this.#room.subarray(0, this.#end)
      const lineEnd = room.indexOf('\r\n', this.#begin)
      const line = room.toString('latin1', this.#begin, lineEnd < 0 ? this.#end : lineEnd)
      const isStrange = lineEnd < 0 ? line.length > LONGEST_LINE : !/^(\+OK|-ERR)( |$)/.test(line)
      if (isStrange) this.lose('connection', `not a POP3 reply: ${quoted(line)}`)
      if (isStrange || lineEnd < 0) return
      const terminator = first.isMultiLine && line.startsWith('+') ? '\r\n.\r\n' : '\r\n'
      const found = room.indexOf(terminator, Math.max(lineEnd, this.#searched))
      this.#searched = found < 0 ? this.#end - terminator.length + 1 : found + terminator.length
      if (found < 0) return
      const reply = room.subarray(this.#begin, this.#searched)
      this.#begin = this.#searched
      this.#waiting.shift()
      first.resolve(reply)
    }
  }
}

function isOk(reply: Buffer): boolean {
  return reply.toString('latin1', 0, 1) === '+'
}

/** What the server says behind the status of a reply of one line, fit to print. */
function textOf(reply: Buffer): string {
  return visibleLine(reply.toString('utf8').replace(/^(\+OK|-ERR) ?|\r\n$/g, ''))
}

/** The beginning of what a server sent, fit to print. */
export function quoted(text: string): string {
  return JSON.stringify(visibleLine(text.slice(0, 100)))
}

/**
 * The lines of a multi-line reply, in place: without the status line, the last dot, and the dots in front of lines that
 * begin with one (RFC 1939 section 3).
 */
export function unstuff(reply: Buffer): Buffer {
  const begin = reply.indexOf('\r\n') + 2
  let [from, end] = [begin, begin]
  for (let dot = reply.indexOf('\r\n.', begin - 2); dot >= 0; dot = reply.indexOf('\r\n.', from)) {
    end += reply.copy(reply, end, from, dot + 2)
    from = dot + 3
  }
  return reply.subarray(begin, end)
}
