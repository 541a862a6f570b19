/** A client that says exactly the bytes that it is told to. Each of its waits has a deadline. */
import { EventEmitter } from 'node:events'
import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'

/** The last line of a reply of SMTP, POP3 or IMAP, or of IMAP's and POP3's answer to AUTH. */
export const REPLY = {
  smtp: /^\d{3} .*\r\n/m,
  pop3: /^(\+OK|-ERR|\+ ).*\r\n/m,
  imap: /^(\* (OK|BYE|PREAUTH)|\w+ (OK|NO|BAD)|\+).*\r\n/m,
}
/** Milliseconds for the server to answer. */
const PATIENCE = 60_000

export class RawClient {
  #socket: Socket
  #text = ''
  #closed = false
  /** Emits 'change' whenever the server may have done what somebody waits for. */
  readonly #changes = new EventEmitter()

  constructor(port: number) {
    this.#socket = this.#listenTo(connect({ host: '127.0.0.1', port }))
  }

  /** Connects and waits for the greeting. */
  static async open(port: number, greeting: RegExp, patience = PATIENCE): Promise<RawClient> {
    const client = new RawClient(port)
    try {
      await client.reads(greeting, patience)
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
    if (!pattern.test(text)) throw new Error(`the connection is closed: ${text}`)
    this.#text = ''
    return text
  }

  /** The next reply of SMTP, all its lines (RFC 5321 section 4.2.1); what stands behind it stays. */
  async reply(patience = PATIENCE): Promise<string> {
    const whole = /^(?:\d{3}-.*\r\n)*\d{3}(?: .*)?\r\n/
    await this.#until('a reply', () => whole.test(this.#text) || this.#closed, patience)
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
    for (let sent = 0; sent < times && !this.#closed; sent++) {
      if (!this.#socket.write(chunk)) await this.#until('room for more', () => this.#isDrained())
    }
  }

  /** Waits for the server to hang up; gives what it said until then. */
  async ends(patience = PATIENCE): Promise<string> {
    await this.#until('the server to hang up', () => this.#closed, patience)
    return this.#text
  }

  /** The TLS handshake behind STARTTLS or STLS. What arrived in plaintext is dropped. */
  async startTls(): Promise<void> {
    const plain = this.#socket
    plain.removeAllListeners('data')
    this.#text = ''
    const secure = connectTls({ socket: plain, rejectUnauthorized: false })
    this.#socket = this.#listenTo(secure)
    let isSecure = false
    secure.once('secureConnect', () => {
      isSecure = true
      this.#changes.emit('change')
    })
    await this.#until('the TLS handshake', () => isSecure || this.#closed)
    if (!isSecure) throw new Error('the connection is closed within the TLS handshake')
  }

  close(): void {
    this.#socket.destroy()
  }

  #isDrained(): boolean {
    return this.#closed || !this.#socket.writableNeedDrain
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

  #listenTo<T extends Socket>(socket: T): T {
    const changed = () => this.#changes.emit('change')
    socket.on('data', (chunk) => {
      this.#text += chunk.toString('latin1')
      changed()
    })
    socket.on('drain', changed)
    socket.on('close', () => {
      this.#closed = true
      changed()
    })
    // A reset is an end like others.
    socket.on('error', () => {})
    return socket
  }
}
