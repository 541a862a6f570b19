/** A client that says exactly the bytes that it is told to. Each of its waits has a deadline. */
import { EventEmitter } from 'node:events'
import { connect, type Socket } from 'node:net'

/** The last line of a reply of SMTP, POP3 or IMAP, or of IMAP's and POP3's answer to AUTH. */
export const REPLY = {
  smtp: /^\d{3} .*\r\n/m,
  pop3: /^(\+OK|-ERR|\+ ).*\r\n/m,
  imap: /^(\* (OK|BYE|PREAUTH)|\w+ (OK|NO|BAD)|\+).*\r\n/m,
}
/** Milliseconds for the server to answer. */
const PATIENCE = 60_000

export class RawClient {
  readonly #socket: Socket
  #text = ''
  #closed = false
  /** Why there was no connection, or none any more. */
  #problem = ''
  /** Emits 'change' whenever the server may have done what somebody waits for. */
  readonly #changes = new EventEmitter()

  constructor(port: number) {
    const changed = () => this.#changes.emit('change')
    this.#socket = connect({ host: '127.0.0.1', port })
      .on('data', (chunk) => {
        this.#text += chunk.toString('latin1')
        changed()
      })
      .on('drain', changed)
      .on('close', () => {
        this.#closed = true
        changed()
      })
      // A reset is an end like others.
      .on('error', ({ message }) => {
        this.#problem = message
      })
  }

  /** Connects and waits for the greeting. */
  static async open(port: number, greeting: RegExp): Promise<RawClient> {
    const client = new RawClient(port)
    try {
      await client.reads(greeting)
      return client
    } catch (error) {
      client.close()
      throw error
    }
  }

  /** What has arrived and was not read yet. */
  get text(): string {
    return this.#text
  }

  get isClosed(): boolean {
    return this.#closed
  }

  /** Waits until `pattern` has arrived, and takes everything up to here. Throws when the server closes before that. */
  async reads(pattern: RegExp, patience = PATIENCE): Promise<string> {
    await this.#until(`${pattern}`, () => pattern.test(this.#text) || this.#closed, patience)
    const text = this.#text
    if (!pattern.test(text)) throw new Error(`the connection is closed: ${this.#problem}${text}`)
    this.#text = ''
    return text
  }

  /** The next reply of SMTP, all its lines (RFC 5321 section 4.2.1); what stands behind it stays. */
  async reply(): Promise<string> {
    const whole = /^(?:\d{3}-.*\r\n)*\d{3}(?: .*)?\r\n/
    await this.#until('a reply', () => whole.test(this.#text) || this.#closed)
    const [reply] = whole.exec(this.#text) ?? []
    if (!reply) throw new Error(`the connection is closed: ${this.#text}`)
    this.#text = this.#text.slice(reply.length)
    return reply.trimEnd()
  }

  /** Sends a line and waits for the reply to it. */
  async say(command: string, pattern: RegExp): Promise<string> {
    this.write(`${command}\r\n`)
    return await this.reads(pattern)
  }

  /** Sends text as latin1, so that '\xff' is one byte. */
  write(bytes: string | Buffer): void {
    this.#socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes)
  }

  /** Sends `chunk` again and again, as fast as the server takes it; ends early where the server hangs up. */
  async flood(chunk: Buffer, times: number): Promise<void> {
    const isDrained = () => this.#closed || !this.#socket.writableNeedDrain
    for (let sent = 0; sent < times && !this.#closed; sent++) {
      if (!this.#socket.write(chunk)) await this.#until('room for more', isDrained)
    }
  }

  /** Waits for the server to hang up; gives what it said until then. */
  async ends(): Promise<string> {
    await this.#until('the server to hang up', () => this.#closed)
    return this.#text
  }

  close(): void {
    this.#socket.destroy()
  }

  #until(what: string, condition: () => boolean, patience = PATIENCE): Promise<void> {
    return new Promise((resolve, reject) => {
      const check = () => condition() && end(resolve)
      const timer = setTimeout(() => {
        end(() => reject(new Error(`${what}: not within ${patience} ms; the server said: ${this.#text.slice(-1_000)}`)))
      }, patience)
      const end = (settle: () => void) => {
        clearTimeout(timer)
        this.#changes.off('change', check)
        settle()
      }
      this.#changes.on('change', check)
      check()
    })
  }
}
