/**
 * The wire of POP3: bytes of a socket to status lines and multi-line replies (RFC 1939 section 3), exactly, however they
 * are cut into chunks; and a Failure for whatever breaks, refuses, stalls or speaks something else.
 */
import type { Socket } from 'node:net'
import { type ExitName, Failure } from '../cli.ts'
import { visibleLine } from './visible.ts'

export type TlsMode = 'none' | 'starttls' | 'implicit'

export interface Pop3Server {
  host: string
  port: number
  tls: TlsMode
  /** Milliseconds that the server may stay silent at any point. */
  timeout: number
}

/** A reply slower than this on average is given up, in bytes per millisecond (100 kB/s). */
const SLOWEST = 100
/** A status line has 512 bytes at most (RFC 2449 section 4); what goes on far beyond is no POP3. */
const LONGEST_LINE = 65_536

export const CRLF = Buffer.from('\r\n')
const TERMINATOR = Buffer.from('\r\n.\r\n')
const STUFFED_DOT = Buffer.from('\r\n.')

export class Pop3Wire {
  /** What an error on the socket means at this point. */
  phase: ExitName = 'connection'
  readonly #server: Pop3Server
  #socket: Socket | undefined
  #received: Buffer[] = []
  #broken: Failure | undefined
  #wake: () => void = () => {}

  constructor(server: Pop3Server) {
    this.#server = server
  }

  /** Listens to a socket, in place of the one before. */
  attach(socket: Socket): void {
    this.#socket = socket
    socket.on('data', (chunk) => {
      this.#received.push(chunk)
      this.#wake()
    })
    const breakWith = (reason: string) => {
      this.#broken ??= this.failure(this.phase, reason)
      this.#wake()
    }
    socket.on('error', (error) => breakWith(error.message))
    socket.on('end', () => breakWith('the server closed the connection'))
    socket.on('close', () => breakWith('the connection is closed'))
  }

  close(): void {
    this.#socket?.destroy()
  }

  /** Throws the Failure that broke the connection, if any did. */
  assertOpen(): void {
    if (this.#broken) throw this.#broken
  }

  /** True where bytes have come that no reply has taken. */
  get hasUnread(): boolean {
    return this.#received.length > 0
  }

  write(commands: string): void {
    this.assertOpen()
    this.#socket?.write(commands)
  }

  /** Waits for an event of the socket that no byte comes with. */
  async once(event: string): Promise<void> {
    let happened = false
    this.#socket?.once(event, () => {
      happened = true
      this.#wake()
    })
    const deadline = Date.now() + this.#server.timeout
    while (!happened) await this.#more(deadline)
  }

  /** Waits for more bytes (or another event) until the server has been silent too long or `deadline` has come. */
  async #more(deadline: number): Promise<void> {
    this.assertOpen()
    const { timeout } = this.#server
    const wait = Math.max(0, Math.min(timeout, deadline - Date.now()))
    let timer: NodeJS.Timeout | undefined
    const silent = await new Promise<boolean>((resolve) => {
      this.#wake = () => resolve(false)
      timer = setTimeout(() => resolve(true), wait)
    })
    clearTimeout(timer)
    if (!silent) return
    this.#broken = this.failure('timeout', `no complete reply within ${timeout / 1000} s`)
    this.close()
    throw this.#broken
  }

  /** Reads one line; its CRLF is not part of the result. Bytes after it stay for the next read. */
  async readLine(deadline = Date.now() + this.#server.timeout): Promise<Buffer> {
    for (;;) {
      const [bytes = Buffer.alloc(0), ...others] = this.#received
      const end = bytes.indexOf(CRLF)
      if (end >= 0) {
        const rest = bytes.subarray(end + 2)
        this.#received = rest.length > 0 ? [rest, ...others] : others
        return bytes.subarray(0, end)
      }
      if (bytes.length > LONGEST_LINE) throw this.strange('a reply without a line end')
      if (others.length > 0) this.#received = [Buffer.concat(this.#received)]
      else await this.#more(deadline)
    }
  }

  /** Reads the status line of a reply to `command`; gives what stands behind `+OK`. Throws where it is another. */
  async readStatus(command: string): Promise<string> {
    const line = await this.readLine()
    if (isError(line)) throw this.refusal('failed', `${command} refused`, line)
    if (!isOk(line)) throw this.strange(textOf(line))
    return textOf(line)
  }

  /** Reads a multi-line reply and gives its lines as bytes, dots unstuffed (RFC 1939 section 3). */
  async readBlock(command: string, size: number): Promise<Buffer> {
    await this.readStatus(command)
    const deadline = Date.now() + this.#server.timeout + size / SLOWEST
    // The terminator may be cut anywhere, so the seam between two chunks is searched too; and right behind the status
    // line it has no CRLF of its own in front.
    const chunks: Buffer[] = [CRLF]
    let tail = CRLF
    for (;;) {
      const chunk = this.#received.shift()
      if (!chunk) {
        await this.#more(deadline)
        continue
      }
      const inSeam = Buffer.concat([tail, chunk.subarray(0, TERMINATOR.length - 1)]).indexOf(TERMINATOR)
      const found = inSeam >= 0 ? inSeam - tail.length : chunk.indexOf(TERMINATOR)
      if (inSeam < 0 && found < 0) {
        chunks.push(chunk)
        tail = Buffer.concat([tail, chunk.subarray(-4)]).subarray(-4)
        continue
      }
      const used = found + TERMINATOR.length
      chunks.push(chunk.subarray(0, used))
      if (used < chunk.length) this.#received.unshift(chunk.subarray(used))
      const block = Buffer.concat(chunks)
      return unstuff(block.subarray(0, block.length - 3))
    }
  }

  failure(exit: ExitName, reason: string): Failure {
    const advice = exit === 'connection' ? ' Is the server up? npm run status' : ''
    return new Failure(exit, `POP3 on ${this.#server.host}:${this.#server.port}: ${reason}.${advice}`)
  }

  /** `line` is the status line with `-ERR`. */
  refusal(exit: ExitName, what: string, line: Buffer): Pop3Refusal {
    const reply = textOf(line)
    return new Pop3Refusal(exit, `POP3 on ${this.#server.host}:${this.#server.port}: ${what}: ${reply}`, reply)
  }

  /** The server speaks something that is not POP3. */
  strange(reply: string): Failure {
    return this.failure('connection', `not a POP3 reply: ${JSON.stringify(visibleLine(reply.slice(0, 100)))}`)
  }
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
}

/** Takes the dots off that RFC 1939 puts before lines beginning with one, in place. The block begins with a CRLF of ours. */
function unstuff(block: Buffer): Buffer {
  let length = 0
  let from = CRLF.length
  // The search begins at our own CRLF, to find a dot at the very beginning.
  let dot = block.indexOf(STUFFED_DOT)
  if (dot < 0) return block.subarray(from)
  while (dot >= 0) {
    length += block.copy(block, length, from, dot + 2)
    from = dot + STUFFED_DOT.length
    dot = block.indexOf(STUFFED_DOT, from)
  }
  length += block.copy(block, length, from)
  return block.subarray(0, length)
}

export function isOk(line: Buffer): boolean {
  return /^\+OK(?![^ ])/.test(line.toString('latin1'))
}

export function isError(line: Buffer): boolean {
  return /^-ERR(?![^ ])/.test(line.toString('latin1'))
}

/** What the server says behind its status indicator, fit to print. */
export function textOf(line: Buffer): string {
  return visibleLine(line.toString('utf8').replace(/^(\+OK|-ERR) ?/, ''))
}
