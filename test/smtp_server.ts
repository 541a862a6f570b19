/** An SMTP server of the tests' own, which misbehaves as told: for what a real server will not do. */
import type { Socket } from 'node:net'
import { type Listener, listen } from './listener.ts'

type Command = 'EHLO' | 'HELO' | 'STARTTLS' | 'AUTH' | 'MAIL' | 'RCPT' | 'DATA' | 'RSET' | 'QUIT'
export type Phase = 'connection' | 'message' | Command

export interface Received {
  to: string[]
  /** As it came, a byte a character. */
  message: string
}

/**
 * Decides the answer of a phase: a reply without its CRLF, `drop` to close the connection (also as the line behind a reply),
 * `stall` to say nothing more, `trickle` to begin a reply that has always another byte and no end; undefined for the usual
 * one. `count` says how often this phase came before.
 */
export type Script = (phase: Phase, line: string, count: number, connection: number) => string | undefined

const EXTENSIONS = ['PIPELINING', 'SIZE 10240000', 'AUTH PLAIN LOGIN', 'ENHANCEDSTATUSCODES', '8BITMIME', 'DSN']

export class SmtpServer {
  readonly #script: Script
  readonly #counts = new Map<Phase, number>()
  readonly #extensions: string[]
  #listener: Listener | undefined
  /** Every line of every client, in the order in which they came. */
  readonly commands: string[] = []
  /** The messages that were answered with 2xx. */
  readonly received: Received[] = []
  connections = 0

  private constructor(script: Script, extensions: string[]) {
    this.#script = script
    this.#extensions = extensions
  }

  static async start(
    script: Script = () => undefined,
    extensions = EXTENSIONS,
    port = 0,
    host?: string,
  ): Promise<SmtpServer> {
    const server = new SmtpServer(script, extensions)
    await server.listen(port, host)
    return server
  }

  async listen(port: number, host?: string): Promise<void> {
    this.#listener = await listen((socket) => this.#serve(socket), port, host)
  }

  get port(): number {
    return this.#listener?.port ?? 0
  }

  /** The options that send to this server. */
  get options(): string[] {
    return ['--host', '127.0.0.1', '--port', String(this.port)]
  }

  async stop(): Promise<void> {
    await this.#listener?.close()
  }

  #serve(socket: Socket): void {
    const connection = ++this.connections
    let input = Buffer.alloc(0)
    let isSilent = false
    let mode: 'commands' | 'login' | 'message' = 'commands'
    let hasSender = false
    let to: string[] = []

    /** Answers, and gives the first digit of the answer. */
    const answer = (phase: Phase, line: string, usual: string): string => {
      const count = this.#counts.get(phase) ?? 0
      this.#counts.set(phase, count + 1)
      const reply = this.#script(phase, line, count, connection) ?? usual
      if (reply === 'stall' || reply === 'trickle') isSilent = true
      if (reply === 'trickle') {
        const timer = setInterval(() => socket.write('2'), 50)
        socket.on('close', () => clearInterval(timer))
      }
      if (isSilent) return ''
      if (reply === 'drop') socket.destroy()
      else socket.write(`${reply.replace(/\ndrop$/, '').replaceAll('\n', '\r\n')}\r\n`)
      if (/^421|\ndrop$/.test(reply)) socket.end()
      return reply.charAt(0)
    }

    const obey = (line: string) => {
      this.commands.push(line)
      const isLogin = mode === 'login' || /^AUTH/i.test(line)
      const verb = (isLogin ? 'AUTH' : line.split(' ')[0]?.toUpperCase()) as Command
      const isWhole = /^AUTH PLAIN/.test(line) || (mode === 'login' && this.commands.at(-2) !== 'AUTH LOGIN')
      if (verb === 'MAIL') to = []
      const usual: Partial<Record<Command, string>> = {
        EHLO: ['250-scripted', ...this.#extensions.map((name) => `250-${name}`), '250 HELP'].join('\n'),
        HELO: '250 2.0.0 Ok',
        AUTH: isWhole ? '235 2.7.0 welcome' : '334 VXNlcm5hbWU6',
        MAIL: '250 2.1.0 Ok',
        RCPT: hasSender ? '250 2.1.5 Ok' : '503 5.5.1 MAIL first',
        DATA: to.length > 0 ? '354 go on' : '554 5.5.1 no valid recipients',
        RSET: '250 2.0.0 Ok',
        QUIT: '221 2.0.0 Bye',
      }
      const digit = answer(verb, line, usual[verb] ?? '502 5.5.2 not implemented')
      if (isLogin) mode = digit === '3' ? 'login' : 'commands'
      if (verb === 'MAIL') hasSender = digit === '2'
      if (verb === 'RCPT' && digit === '2') to.push(/<(.*?)>/.exec(line)?.[1] ?? '')
      if (verb === 'DATA' && digit === '3') mode = 'message'
      if (verb === 'QUIT' && !isSilent) socket.end()
    }

    /** Takes one command or one whole message off the input; false when there is none yet. */
    const step = (): boolean => {
      if (mode === 'message') {
        const end = input.indexOf('\r\n.\r\n')
        if (end < 0) return false
        const message = input.toString('latin1', 0, end + 2)
        input = input.subarray(end + 5)
        mode = 'commands'
        const digit = answer('message', '', `250 2.0.0 Ok: queued as Q${this.received.length + 1}`)
        if (digit === '2') this.received.push({ to, message })
        return true
      }
      const end = input.indexOf('\r\n')
      if (end < 0) return false
      const line = input.subarray(0, end).toString('utf8')
      input = input.subarray(end + 2)
      obey(line)
      return true
    }

    answer('connection', '', '220 scripted ESMTP')
    socket.on('data', (chunk) => {
      input = Buffer.concat([input, chunk])
      while (!isSilent && !socket.destroyed && step());
    })
  }
}
