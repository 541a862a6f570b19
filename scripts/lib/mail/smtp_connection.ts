/**
 * A connection to an SMTP server: commands out, whole replies in, each within a deadline. It knows lines, TLS and what
 * went wrong; what the commands mean is `smtp.ts`'s matter.
 */
import { connect, isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { type ExitName, Failure } from '../cli.ts'
import type { TlsMode } from './pop3.ts'
import { visibleLine } from './visible.ts'

export interface SmtpServer {
  host: string
  port: number
  tls: TlsMode
  /** Milliseconds that the server may stay silent at any point. */
  timeout: number
}

/** Gets the dialogue line by line, secrets masked. */
export type Tell = (who: 'client' | 'server', line: string) => void

/** An answer of the server, all of its lines. */
export interface Reply {
  code: number
  /** The answer on one line, with its codes, fit for a terminal. */
  text: string
  lines: string[]
}

/** Longer than any reply; what goes on beyond is no SMTP. */
const LONGEST_REPLY = 65_536

export class SmtpConnection {
  readonly #server: SmtpServer
  readonly #tell: Tell
  #socket: Socket
  /** What came and was not read yet, one character for each byte. */
  #input = ''
  #broken: { exit: ExitName; reason: string } | undefined
  #wake: () => void = () => {}
  /** What an error on the socket means at this point. */
  #phase: ExitName = 'connection'

  /** Begins to connect; the first `reply` is the greeting, or throws what went wrong. */
  constructor(server: SmtpServer, tell: Tell) {
    this.#server = server
    this.#tell = tell
    const { host, port, tls } = server
    this.#socket = tls === 'implicit' ? connectTls({ host, port, ...tlsOptions(host) }) : connect({ host, port })
    // A TLSSocket reports the TCP connection first; what fails between that and secureConnect is TLS.
    if (tls === 'implicit') this.#socket.once('connect', () => this.#enter('tls'))
    this.#attach()
  }

  /** False when the connection is gone. */
  get usable(): boolean {
    return !this.#broken && !this.#socket.destroyed
  }

  /** This end's address as EHLO has it (RFC 5321 section 4.1.3). */
  get addressLiteral(): string {
    const { localAddress = '127.0.0.1' } = this.#socket
    return isIP(localAddress) === 6 ? `[IPv6:${localAddress}]` : `[${localAddress}]`
  }

  /** Sends commands in one go. */
  send(...commands: string[]): void {
    for (const command of commands) this.#tell('client', command)
    this.#socket.write(`${commands.join('\r\n')}\r\n`)
  }

  /** Sends a secret; `shown` stands for it in the dialogue. */
  sendSecret(command: string, shown: string): void {
    this.#tell('client', shown)
    this.#socket.write(`${command}\r\n`)
  }

  /**
   * Sends the lines of a message, one character for each byte, with a dot before each that begins with one, and the
   * final dot (RFC 5321 section 4.5.2); and behind it, in the same go, the commands of the next.
   */
  sendMessage(lines: string, commands: string[]): void {
    this.#tell('client', `(the message, ${lines.length} bytes)`)
    for (const command of commands) this.#tell('client', command)
    const behind = commands.map((command) => `${Buffer.from(command).toString('latin1')}\r\n`).join('')
    this.#socket.write(`${lines.replace(/(?<![^\n])\./g, '..')}.\r\n${behind}`, 'latin1')
  }

  /**
   * The next answer of the server, to `command`. Throws a Failure when none is complete within the server's timeout and
   * `more` milliseconds, when the connection breaks before, and when it is not SMTP.
   */
  async reply(command: string, more = 0): Promise<Reply> {
    const deadline = Date.now() + this.#server.timeout + more
    for (;;) {
      const reply = this.#takeReply()
      if (reply) return reply
      if (this.#input.length > LONGEST_REPLY) throw this.#strange(this.#input)
      if (this.#broken) {
        const { exit, reason } = this.#broken
        const isDuring = exit !== 'tls' && command !== 'the connection'
        throw this.failure(exit, `${reason}${isDuring ? ` before the answer to ${command}` : ''}`)
      }
      await this.#more(deadline, command)
    }
  }

  /** Throws a Failure when the server said something that nobody asked for: all answers after it would be off by one. */
  expectSilence(): void {
    if (this.#input !== '' && !this.#input.startsWith('421')) throw this.#strange(this.#input)
  }

  /** Goes over to TLS, after the server agreed to STARTTLS. */
  startTls(): void {
    // Bytes behind the reply came unencrypted, perhaps from somebody in between (RFC 3207 section 6).
    if (this.#input !== '') throw this.failure('tls', 'the server sent data between STARTTLS and TLS')
    this.#socket.removeAllListeners('data')
    this.#socket = connectTls({ socket: this.#socket, ...tlsOptions(this.#server.host) })
    this.#enter('tls')
    this.#attach()
  }

  destroy(): void {
    this.#socket.destroy()
  }

  /** A Failure that says which server, and for a lost connection what to look at. */
  failure(exit: ExitName, reason: string): Failure {
    const advice = exit === 'connection' ? ' Is the server up? npm run status' : ''
    const tls = exit === 'tls' && this.#broken ? `TLS (${this.#server.tls}) failed: ` : ''
    return new Failure(exit, `${this.where}: ${tls}${visibleLine(reason)}.${advice}`)
  }

  get where(): string {
    return `SMTP on ${this.#server.host}:${this.#server.port}`
  }

  #enter(phase: ExitName): void {
    this.#phase = phase
  }

  #attach(): void {
    const socket = this.#socket
    // Commands go out in the groups that they belong to; waiting for more to send would only delay them.
    socket.setNoDelay(true)
    socket.on('data', (chunk) => {
      this.#input += chunk.toString('latin1')
      this.#wake()
    })
    socket.once('secureConnect', () => this.#enter('connection'))
    const breakWith = (reason: string) => {
      this.#broken ??= { exit: this.#phase, reason }
      this.#wake()
    }
    // OpenSSL's own words are in `reason`; the message has its file names as well.
    socket.on('error', (error: Error & { reason?: string }) => breakWith(error.reason ?? error.message))
    socket.on('end', () => breakWith('the server closed the connection'))
    socket.on('close', () => breakWith('the connection is closed'))
  }

  /** Takes a reply of one line or several off the input; undefined while it is not complete. */
  #takeReply(): Reply | undefined {
    const lines: string[] = []
    for (let from = 0; ; ) {
      const end = this.#input.indexOf('\n', from)
      if (end < 0) return undefined
      const line = Buffer.from(this.#input.slice(from, end).replace(/\r$/, ''), 'latin1').toString('utf8')
      from = end + 1
      if (!/^\d{3}(?:[ -]|$)/.test(line)) throw this.#strange(line)
      lines.push(line)
      if (line[3] === '-') continue
      this.#input = this.#input.slice(from)
      for (const each of lines) this.#tell('server', each)
      return { code: Number(line.slice(0, 3)), text: onOneLine(lines), lines }
    }
  }

  /** Waits for more bytes, or for the end of the connection. */
  async #more(deadline: number, command: string): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const isLate = await new Promise<boolean>((resolve) => {
      this.#wake = () => resolve(false)
      timer = setTimeout(() => resolve(true), Math.max(0, deadline - Date.now()))
    })
    clearTimeout(timer)
    if (!isLate) return
    const missing = this.#socket.connecting ? 'connection' : `answer to ${command}`
    this.#broken = { exit: 'timeout', reason: `no ${missing} within ${this.#server.timeout / 1000} s (--timeout)` }
    this.#socket.destroy()
    throw this.failure('timeout', this.#broken.reason)
  }

  /** The server speaks something that is not SMTP: nothing after it can be trusted. */
  #strange(reply: string): Failure {
    this.#socket.destroy()
    return this.failure('connection', `not an SMTP reply: ${JSON.stringify(reply.slice(0, 100))}`)
  }
}

/** A development server signs its own certificate. TLS knows no addresses as server names (RFC 6066 section 3). */
function tlsOptions(host: string) {
  return { servername: isIP(host) ? 'localhost' : host, rejectUnauthorized: false }
}

/** The codes of the lines after the first say nothing new. */
function onOneLine([first = '', ...rest]: string[]): string {
  const more = rest.map((line) => line.slice(4).replace(/^[245]\.\d+\.\d+ /, ''))
  return visibleLine([first.replace(/^(\d{3})-/, '$1 '), ...more].join(' '))
}

/** Whether a reply says yes: 2xx (RFC 5321 section 4.2.1). */
export function isPositive(reply: Reply | undefined): boolean {
  return reply !== undefined && reply.code >= 200 && reply.code < 300
}
