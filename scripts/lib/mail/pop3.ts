/** A POP3 client (RFC 1939) that gives every message byte for byte and never waits for ever: node-pop3, its reading mended. */
import { once } from 'node:events'
import { isIP, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { connect as connectTls } from 'node:tls'
import Pop3Command from 'node-pop3'
import type { Login } from '../accounts/accounts.ts'
import { type ExitName, Failure } from '../cli.ts'
import type { Client } from './client_options.ts'
import { visibleLine } from './visible.ts'

/** Where the server is; `timeout` is the milliseconds that it may stay silent at any point. */
export type Pop3Server = Client['server']

/** One message as the server lists it: its number in this session, its unique id (UIDL), its size in bytes. */
export interface Pop3Message {
  number: number
  uidl: string
  size: number
}

/** The server answered `-ERR`. The session goes on. */
export class Pop3Refusal extends Failure {
  /** Worth another try, by the response codes of RFC 2449 section 8 and RFC 3206. */
  readonly isTemporary: boolean
  /** The message was there at login, and another session has deleted it: "Message 1 expunged." as Dovecot says. */
  readonly isGone: boolean

  constructor(exit: ExitName, message: string, reply: string) {
    super(exit, message)
    this.isTemporary = /^\[(IN-USE|LOGIN-DELAY|SYS\/TEMP)/i.test(reply)
    this.isGone = !reply.startsWith('[') && /expunged|deleted|no such message/i.test(reply)
  }
}

/** A reply slower than this on average is given up, in bytes per millisecond (100 kB/s). */
const SLOWEST = 100
/** Bytes of messages that are asked for at once. */
const AHEAD = 262_144

/** node-pop3 takes every chunk for a reply. This reads its socket in its place and hands it whole ones; messages stay bytes. */
export class Pop3Session extends Pop3Command {
  declare _socket: Socket | null
  readonly #server: Pop3Server
  readonly #name: string
  #lost: Failure | undefined
  #toLibrary: (reply: Buffer) => void = () => {}
  /** What has come and is not read lies in here from `#begin` to `#end`. */
  #room = Buffer.alloc(0)
  #begin = 0
  #end = 0

  private constructor(server: Pop3Server) {
    const { host, port, tls } = server
    // TLS knows no addresses as server names (RFC 6066 section 3), and a development server signs its own certificate.
    const tlsOptions = { rejectUnauthorized: false, servername: isIP(host) ? 'localhost' : host } as object
    super({ user: '', password: '', host, port, tls: tls === 'implicit', tlsOptions })
    this.#server = server
    this.#name = `POP3 on ${host}:${port}`
  }

  /** Connects and logs in. Throws a Failure: `connection`, `tls`, `timeout`, or `login` when the server refuses. */
  static async open(server: Pop3Server, { user, password }: Login): Promise<Pop3Session> {
    if (/[\r\n\0]/.test(user + password)) throw new Failure('usage', 'A login over POP3 has no line break or NUL.')
    const session = new Pop3Session(server)
    try {
      await session.connect()
      if (server.tls === 'starttls') await session.#secure()
      for (const command of [`USER ${user}`, `PASS ${password}`]) {
        // node-pop3 trims its commands, and a login may have spaces at its ends.
        session.#write(command)
        await session.#accepted(`login refused for ${visibleLine(user)}`, false, 'login')
      }
      return session
    } catch (error) {
      session.close()
      throw error
    }
  }

  /** Connects, and waits for the greeting; `open` is the way in. */
  override async connect(): Promise<void> {
    // It makes the socket at once, so that no byte can come before this listens.
    const connecting = super.connect()
    connecting.catch(() => {})
    const socket = this._socket as Socket
    this.#toLibrary = socket.listeners('data')[0] as (reply: Buffer) => void
    this.#listen(socket)
    this.#toLibrary(await this.#accepted('it greets with a refusal', false, 'connection'))
    await connecting
  }

  /** Gives a command by node-pop3: what stands behind the status of the reply, and its lines. */
  override async command(...words: (string | number)[]): ReturnType<Pop3Command['command']> {
    if (this.#lost) throw this.#lost
    const answered = super.command(...words)
    const [isMultiLine, exit] = [/^(LIST|UIDL)$/.test(words.join(' ')), words[0] === 'STLS' ? 'tls' : 'failed'] as const
    this.#toLibrary(await this.#accepted(`${words.join(' ')} refused`, isMultiLine, exit))
    return answered
  }

  /** Goes on over TLS (STLS, RFC 2595 section 4). */
  async #secure(): Promise<void> {
    await this.command('STLS')
    // Bytes behind the reply came unencrypted, perhaps from somebody in between (RFC 2595 section 2.4).
    if (this.#end > this.#begin) throw this.#failure('tls', 'the server sent data between STLS and TLS')
    const plain = this._socket as Socket
    plain.setTimeout(0).removeAllListeners('data')
    const socket = connectTls({ socket: plain, ...(this.tlsOptions as object) })
    this._socket = socket
    this.#listen(socket)
    socket.once('secureConnect', () => this.emit('more'))
    await once(this, 'more')
    if (this.#lost) throw this.#lost
  }

  /** The number of messages in the mailbox and their bytes (STAT). */
  async stat(): Promise<{ count: number; bytes: number }> {
    const [info] = await this.command('STAT')
    const [count = 0, bytes = 0] = info.split(' ').map(Number)
    return { count, bytes }
  }

  /** The messages of the mailbox, oldest first (LIST and UIDL). */
  async list(): Promise<Pop3Message[]> {
    const sizes = new Map(await this.#listed('LIST'))
    return (await this.#listed('UIDL')).map(([number, uidl]) => {
      const size = Number(sizes.get(number))
      if (Number.isSafeInteger(size)) return { number: Number(number), uidl, size }
      throw this.#failure('connection', `LIST has no size for message ${number}`)
    })
  }

  /** What LIST or UIDL says of all messages: number and value. */
  async #listed(command: 'LIST' | 'UIDL'): Promise<[string, string][]> {
    const lines = (await text((await this.command(command))[1])).split('\r\n').filter(Boolean)
    return lines.map((line) => {
      const [, number, value] = /^(\d+) +(\S+)/.exec(line) ?? []
      if (number && value) return [number, value]
      throw this.#failure('connection', `${command} lists ${quoted(line)}`)
    })
  }

  /** A whole message, exactly the bytes that the server stores with CRLF line ends (RETR). */
  retrieve({ number }: Pop3Message): Promise<Buffer> {
    return this.#block(`RETR ${number}`)
  }

  /** The header of a message (TOP), as bytes. */
  top({ number }: Pop3Message): Promise<Buffer> {
    return this.#block(`TOP ${number} 0`)
  }

  /**
   * Many whole messages (RETR) or headers (TOP) in the order given; undefined for what another session has deleted. Where
   * the server knows PIPELINING (RFC 2449 section 6.6), many small ones are asked for at once: that saves a round trip and
   * a system call for each. No other command can be given until the loop over them is left.
   */
  async *each(messages: Pop3Message[], command: 'RETR' | 'TOP'): AsyncGenerator<[Pop3Message, Buffer | undefined]> {
    const capabilities = messages.length > 2 ? await this.#block('CAPA').catch(() => '') : ''
    const most = /^PIPELINING\r?$/im.test(capabilities.toString()) ? AHEAD : 0
    for (let next = 0; next < messages.length; ) {
      const begin = next
      let size = messages[next++]?.size ?? 0
      while (size + (messages[next]?.size ?? AHEAD) < most) size += messages[next++]?.size ?? 0
      const asked = messages.slice(begin, next)
      this.#write(...asked.map(({ number }) => `${command} ${number}${command === 'TOP' ? ' 0' : ''}`))
      try {
        for (let message = asked.shift(); message; message = asked.shift()) {
          const reply = this.#accepted(`${command} ${message.number} refused`, true).then(unstuff)
          yield [message, await reply.catch(unlessGone)]
        }
      } finally {
        // Left early: what is still coming must not be taken for the reply to another command.
        for (const _ of asked) await this.#reply(true).catch(() => {})
      }
    }
  }

  /** Marks a message for deletion; the server deletes it at `quit` and only then (DELE). */
  async delete({ number }: Pop3Message): Promise<void> {
    await this.command('DELE', number)
  }

  /** Ends the session; marked messages are deleted. Throws a Failure when the server does not confirm it. */
  async quit(): Promise<void> {
    await this.command('QUIT').finally(() => this.close())
  }

  /** Drops the connection; without `quit` before, the server keeps everything. */
  close(): void {
    this.#lose('connection', 'the connection is closed')
  }

  /** The bytes of a reply of several lines. */
  async #block(command: string): Promise<Buffer> {
    this.#write(command)
    return unstuff(await this.#accepted(`${command} refused`, true))
  }

  #write(...commands: string[]): void {
    this._socket?.write(commands.map((command) => `${command}\r\n`).join(''))
  }

  /** The next reply; throws a refusal, `what` happened and the server's words, where it is `-ERR`. */
  async #accepted(what: string, isMultiLine: boolean, exit: ExitName = 'failed'): Promise<Buffer> {
    const reply = await this.#reply(isMultiLine)
    if (reply.toString('latin1', 0, 1) === '+') return reply
    const words = visibleLine(reply.toString().replace(/^-ERR ?|\r\n$/g, ''))
    throw new Pop3Refusal(exit, `${this.#name}: ${what}: ${words}`, words)
  }

  /** The next whole reply as bytes. One of several lines ends, unless it is `-ERR`, with a line that has a dot alone. */
  async #reply(isMultiLine: boolean): Promise<Buffer> {
    const end = Date.now() + this.#server.timeout
    for (let searched = 0; ; ) {
      const unread = this.#room.subarray(this.#begin, this.#end)
      const lineEnd = unread.indexOf('\r\n')
      const line = unread.toString('latin1', 0, lineEnd)
      const isReply = /^(\+OK|-ERR)( |$)/.test(line)
      if (lineEnd >= 0 && !isReply) throw this.#lose('connection', `not a POP3 reply: ${quoted(line)}`)
      const terminator = isMultiLine && line.startsWith('+') ? '\r\n.\r\n' : '\r\n'
      const found = isReply ? unread.indexOf(terminator, Math.max(lineEnd, searched)) : -1
      if (found >= 0) {
        this.#begin += found + terminator.length
        return unread.subarray(0, found + terminator.length)
      }
      searched = unread.length - terminator.length + 1
      if (Date.now() > end + unread.length / SLOWEST) this.#lose('timeout')
      if (this.#lost) throw this.#lost
      await once(this, 'more')
    }
  }

  #listen(socket: Socket): void {
    socket.removeAllListeners('data').on('data', (chunk: Buffer) => this.#take(chunk))
    // OpenSSL's own words are in `reason`.
    socket.on('error', ({ message, reason = message }: Error & { reason?: string }) =>
      /SSL|TLS/.test(message)
        ? this.#lose('tls', `TLS (${this.#server.tls}) failed: ${reason}`)
        : this.#lose('connection', reason),
    )
    // node-pop3 forgets its socket at either, and knows only "no-socket" afterwards.
    for (const end of ['end', 'close'])
      socket.on(end, () => this.#lose('connection', 'the server closed the connection'))
    socket.setTimeout(this.#server.timeout).on('timeout', () => {
      const { bytesRead } = socket
      // A process that was busy itself finds now what has come meanwhile.
      setImmediate(() => {
        if (this.listenerCount('more') > 0 && socket.bytesRead === bytesRead) this.#lose('timeout')
      })
    })
  }

  #take(chunk: Buffer): void {
    if (this.#end + chunk.length > this.#room.length) {
      const unread = this.#room.subarray(this.#begin, this.#end)
      // Room for more, so that a large reply is moved a few times and not with every chunk.
      this.#room = Buffer.allocUnsafe(chunk.length + Math.ceil(1.5 * unread.length))
      this.#begin = 0
      this.#end = unread.copy(this.#room)
    }
    this.#end += chunk.copy(this.#room, this.#end)
    this.emit('more')
  }

  /** Ends the connection with a Failure, which whoever waits throws. */
  #lose(exit: ExitName, reason = `no complete reply within ${this.#server.timeout / 1000} s`): Failure {
    this.#lost ??= this.#failure(exit, reason)
    this._socket?.destroy()
    this.emit('more')
    return this.#lost
  }

  #failure(exit: ExitName, reason: string): Failure {
    const advice = exit === 'connection' ? ' Is the server up? npm run status' : ''
    return new Failure(exit, `${this.#name}: ${reason}.${advice}`)
  }
}

/** The beginning of what a server sent, fit to print. */
const quoted = (line: string) => JSON.stringify(visibleLine(line.slice(0, 100)))

/** The lines of a reply, without the dots that stand in front of those that begin with one (RFC 1939 section 3). */
function unstuff(reply: Buffer): Buffer {
  const lines = reply.subarray(reply.indexOf('\r\n') + 2, -3)
  if (lines[0] !== 0x2e && !lines.includes('\r\n.')) return lines
  return Buffer.from(lines.toString('latin1').replace(/^\.|(?<=\r\n)\./g, ''), 'latin1')
}

function unlessGone(error: unknown): undefined {
  if (!(error instanceof Pop3Refusal && error.isGone)) throw error
}
