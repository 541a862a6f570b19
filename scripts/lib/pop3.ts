/**
 * A POP3 client (RFC 1939, STLS of RFC 2595) that gives every message byte for byte and never waits for ever.
 *
 * node-pop3 connects and speaks the commands with a one-line reply. Its reading of longer replies is not used: it
 * decodes bytes as UTF-8, keeps stuffed dots, and depends on how a reply is cut into chunks. This module reads the
 * socket itself, hands node-pop3 whole status lines, and keeps the longer replies.
 */
import { isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import Pop3Command from 'node-pop3'
import type { Login } from './accounts.ts'
import { type ExitName, Failure } from './cli.ts'

export type TlsMode = 'none' | 'starttls' | 'implicit'

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

/** A reply slower than this on average is given up, in bytes per millisecond (100 kB/s). */
const SLOWEST = 100
/** A status line has 512 bytes at most (RFC 2449 section 4); what goes on far beyond is no POP3. */
const LONGEST_LINE = 65_536

const CRLF = Buffer.from('\r\n')
const TERMINATOR = Buffer.from('\r\n.\r\n')
const STUFFED_DOT = Buffer.from('\r\n.')

/** The parts of node-pop3 that its types leave out. */
type Library = Pop3Command & {
  _socket: Socket | null
  command(...words: string[]): Promise<[string, unknown]>
}

export class Pop3Session {
  readonly #server: Pop3Server
  readonly #library: Library
  #socket: Socket
  /** node-pop3's own reader of the socket, which gets whole status lines. */
  #toLibrary: (line: Buffer) => void = () => {}
  #received: Buffer[] = []
  #broken: Failure | undefined
  #wake: () => void = () => {}
  /** What an error on the socket means at this point. */
  #phase: ExitName = 'connection'

  private constructor(server: Pop3Server) {
    this.#server = server
    this.#library = new Pop3Command({
      user: '',
      password: '',
      host: server.host,
      port: server.port,
      tls: server.tls === 'implicit',
      tlsOptions: { rejectUnauthorized: false },
      // TLS knows no addresses as server names (RFC 6066 section 3).
      servername: isIP(server.host) ? 'localhost' : server.host,
    }) as Library
    // Refusals reach the caller as rejections; without a listener the event would end the process as well.
    this.#library.on('error', () => {})
    this.#socket = undefined as unknown as Socket
  }

  /**
   * Connects and logs in. Throws a Failure: `connection`, `tls`, `timeout`, or `login` when the server refuses. The
   * server's certificate is not verified: a development server signs its own.
   */
  static async open(server: Pop3Server, login: Login): Promise<Pop3Session> {
    for (const [name, value] of Object.entries(login)) {
      if (/[\r\n\0]/.test(value)) throw new Failure('usage', `${name}: a line break or NUL cannot be sent over POP3.`)
    }
    const session = new Pop3Session(server)
    try {
      await session.#connect()
      if (server.tls === 'starttls') await session.#startTls()
      await session.#login(login)
      return session
    } catch (error) {
      session.close()
      throw error
    }
  }

  /** The messages of the mailbox, oldest first (UIDL and LIST). */
  async list(): Promise<Pop3Message[]> {
    const sizes = new Map(this.#pairs(await this.#readBlock('LIST')))
    return this.#pairs(await this.#readBlock('UIDL')).map(([number, uidl]) => {
      const size = Number(sizes.get(number))
      if (!Number.isSafeInteger(size)) throw this.#strange(`LIST has no size for message ${number}`)
      return { number: Number(number), uidl, size }
    })
  }

  /** The number of messages in the mailbox and their bytes (STAT). */
  async stat(): Promise<{ count: number; bytes: number }> {
    const [, count, bytes] = /^(\d+) (\d+)/.exec(await this.#ask('STAT', () => this.#library.STAT())) ?? []
    if (!count) throw this.#strange('STAT without numbers')
    return { count: Number(count), bytes: Number(bytes) }
  }

  /** A whole message, exactly the bytes that the server stores with CRLF line ends (RETR). */
  async retrieve(message: Pop3Message): Promise<Buffer> {
    return this.#readBlock(`RETR ${message.number}`, message.size)
  }

  /** The header and the first `lines` lines of the body (TOP), as bytes. */
  async top(message: Pop3Message, lines = 0): Promise<Buffer> {
    return this.#readBlock(`TOP ${message.number} ${lines}`, message.size)
  }

  /** Marks a message for deletion; the server deletes it at `quit` and only then (DELE). */
  async delete(message: Pop3Message): Promise<void> {
    await this.#ask(`DELE ${message.number}`, () => this.#library.DELE(message.number))
  }

  /** Takes back every `delete` of this session (RSET). */
  async reset(): Promise<void> {
    await this.#ask('RSET', () => this.#library.RSET())
  }

  /** Ends the session; marked messages are deleted. Throws a Failure when the server does not confirm it. */
  async quit(): Promise<void> {
    try {
      await this.#ask('QUIT', () => this.#library.QUIT())
    } finally {
      this.close()
    }
  }

  /** Drops the connection; without `quit` before, the server keeps everything. */
  close(): void {
    this.#socket.destroy()
  }

  async #connect(): Promise<void> {
    // node-pop3 makes the socket before its first await, so that no byte can come before this reader is in place.
    const connecting = this.#library.connect()
    connecting.catch(() => {})
    this.#attach(this.#library._socket as Socket)
    if (this.#server.tls === 'implicit') {
      // A TLSSocket reports the TCP connection first; what fails after it is TLS.
      this.#socket.once('connect', () => {
        this.#phase = 'tls'
      })
      this.#socket.once('secureConnect', () => {
        this.#phase = 'connection'
      })
    }
    const greeting = await this.#readLine()
    if (!isOk(greeting)) throw this.#failure('connection', `the server greets with "${greeting.toString('latin1')}"`)
    this.#toLibrary(Buffer.concat([greeting, CRLF]))
    await connecting
  }

  async #startTls(): Promise<void> {
    const reply = await this.#send('STLS')
    if (!isOk(reply)) throw this.#failure('tls', `the server refuses STLS: ${textOf(reply)}`)
    // Bytes behind the reply came unencrypted, perhaps from somebody in between (RFC 2595 section 2.4).
    if (this.#received.length > 0) throw this.#failure('tls', 'the server sent data between STLS and TLS')
    const plain = this.#socket
    plain.removeAllListeners('data')
    this.#phase = 'tls'
    const { host } = this.#server
    const servername = isIP(host) ? 'localhost' : host
    const socket = connectTls({ socket: plain, servername, rejectUnauthorized: false })
    this.#library._socket = socket
    this.#attach(socket)
    let secure = false
    socket.once('secureConnect', () => {
      secure = true
      this.#wake()
    })
    while (!secure) await this.#more(Date.now() + this.#server.timeout)
    this.#phase = 'connection'
  }

  async #login({ user, password }: Login): Promise<void> {
    try {
      await this.#ask('USER', () => this.#library.command('USER', user))
      await this.#ask('PASS', () => this.#library.command('PASS', password))
    } catch (error) {
      if (!(error instanceof Pop3Refusal)) throw error
      throw this.#failure('login', `login refused for ${user}: ${error.reply}`)
    }
  }

  /** Takes over a socket: bytes come to this module, node-pop3's reader of them is kept aside. */
  #attach(socket: Socket): void {
    this.#socket = socket
    const [reader] = socket.listeners('data')
    if (reader) this.#toLibrary = (line) => reader.call(socket, line)
    socket.removeAllListeners('data')
    socket.on('data', (chunk) => {
      this.#received.push(chunk)
      this.#wake()
    })
    const breakWith = (reason: string) => {
      this.#broken ??= this.#failure(this.#phase, reason)
      this.#wake()
    }
    socket.on('error', (error) => breakWith(error.message))
    socket.on('end', () => breakWith('the server closed the connection'))
    socket.on('close', () => breakWith('the connection is closed'))
  }

  /** Waits for more bytes (or another event) until the server has been silent too long or `deadline` has come. */
  async #more(deadline: number): Promise<void> {
    if (this.#broken) throw this.#broken
    const { timeout } = this.#server
    const wait = Math.max(0, Math.min(timeout, deadline - Date.now()))
    let timer: NodeJS.Timeout | undefined
    const silent = await new Promise<boolean>((resolve) => {
      this.#wake = () => resolve(false)
      timer = setTimeout(() => resolve(true), wait)
    })
    clearTimeout(timer)
    if (!silent) return
    this.#broken = this.#failure('timeout', `no complete reply within ${timeout / 1000} s`)
    this.close()
    throw this.#broken
  }

  /** Reads one line; its CRLF is not part of the result. Bytes after it stay for the next read. */
  async #readLine(deadline = Date.now() + this.#server.timeout): Promise<Buffer> {
    for (;;) {
      const bytes = Buffer.concat(this.#received)
      const end = bytes.indexOf(CRLF)
      if (end >= 0) {
        const rest = bytes.subarray(end + 2)
        this.#received = rest.length > 0 ? [rest] : []
        return bytes.subarray(0, end)
      }
      this.#received = bytes.length > 0 ? [bytes] : []
      if (bytes.length > LONGEST_LINE) throw this.#strange('a reply without a line end')
      await this.#more(deadline)
    }
  }

  async #send(command: string): Promise<Buffer> {
    if (this.#broken) throw this.#broken
    this.#socket.write(`${command}\r\n`)
    return this.#readLine()
  }

  /** Lets node-pop3 send a command with a one-line reply. Gives the reply without its status indicator. */
  async #ask(command: string, send: () => Promise<unknown>): Promise<string> {
    if (this.#broken) throw this.#broken
    const sent = send()
    sent.catch(() => {})
    const line = await this.#readLine()
    if (!isOk(line) && !isError(line)) throw this.#strange(textOf(line))
    this.#toLibrary(Buffer.concat([line, CRLF]))
    await sent.catch(() => {})
    if (isError(line)) throw new Pop3Refusal(this.#where(), command, textOf(line))
    return textOf(line)
  }

  /** Sends a command with a multi-line reply and gives its lines as bytes, dots unstuffed (RFC 1939 section 3). */
  async #readBlock(command: string, size = 0): Promise<Buffer> {
    const status = await this.#send(command)
    if (isError(status)) throw new Pop3Refusal(this.#where(), command, textOf(status))
    if (!isOk(status)) throw this.#strange(textOf(status))
    const deadline = Date.now() + this.#server.timeout + size / SLOWEST
    // The terminator may be cut anywhere, and right behind the status line it has no CRLF of its own in front:
    // so each chunk is searched together with the four bytes before it.
    const chunks: Buffer[] = [CRLF]
    let tail = CRLF
    for (;;) {
      const chunk = this.#received.shift()
      if (!chunk) {
        await this.#more(deadline)
        continue
      }
      const window = Buffer.concat([tail, chunk])
      const found = window.indexOf(TERMINATOR)
      if (found < 0) {
        chunks.push(chunk)
        tail = Buffer.from(window.subarray(-4))
        continue
      }
      const used = found + TERMINATOR.length - tail.length
      chunks.push(chunk.subarray(0, used))
      if (used < chunk.length) this.#received.unshift(chunk.subarray(used))
      const block = Buffer.concat(chunks)
      return unstuff(block.subarray(0, block.length - 3))
    }
  }

  #pairs(block: Buffer): [string, string][] {
    return block
      .toString('latin1')
      .split('\r\n')
      .filter((line) => line !== '')
      .map((line) => {
        const [, number, value] = /^(\d+) +(\S+)/.exec(line) ?? []
        if (!number || !value) throw this.#strange(line)
        return [number, value]
      })
  }

  #where(): string {
    return `POP3 on ${this.#server.host}:${this.#server.port}`
  }

  #failure(exit: ExitName, reason: string): Failure {
    const advice = exit === 'connection' ? ' Is the server up? npm run status' : ''
    return new Failure(exit, `${this.#where()}: ${reason}.${advice}`)
  }

  /** The server speaks something that is not POP3. */
  #strange(reply: string): Failure {
    return this.#failure('connection', `not a POP3 reply: ${JSON.stringify(reply.slice(0, 100))}`)
  }
}

/** The server answered `-ERR`. The session goes on. */
export class Pop3Refusal extends Failure {
  /** The server's words, without `-ERR`. */
  readonly reply: string

  constructor(where: string, command: string, reply: string) {
    super('failed', `${where}: ${command} refused: ${reply}`)
    this.reply = reply
  }
}

/** Takes the dots off that RFC 1939 puts before lines beginning with one. The block begins with a CRLF of ours. */
function unstuff(block: Buffer): Buffer {
  const plain = Buffer.allocUnsafe(block.length)
  let length = 0
  let from = CRLF.length
  // The search begins at our own CRLF, to find a dot at the very beginning.
  let dot = block.indexOf(STUFFED_DOT)
  while (dot >= 0) {
    length += block.copy(plain, length, from, dot + 2)
    from = dot + STUFFED_DOT.length
    dot = block.indexOf(STUFFED_DOT, from)
  }
  length += block.copy(plain, length, from)
  return plain.subarray(0, length)
}

function isOk(line: Buffer): boolean {
  return /^\+OK(?![^ ])/.test(line.toString('latin1'))
}

function isError(line: Buffer): boolean {
  return /^-ERR(?![^ ])/.test(line.toString('latin1'))
}

function textOf(line: Buffer): string {
  return line.toString('utf8').replace(/^(\+OK|-ERR) ?/, '')
}
