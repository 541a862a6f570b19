/**
 * A POP3 client (RFC 1939, STLS of RFC 2595) that gives every message byte for byte and never waits for ever.
 *
 * node-pop3 connects and speaks most commands with a one-line reply. Its reading of replies is not used: it decodes
 * bytes as UTF-8, keeps stuffed dots, and depends on how a reply is cut into chunks. Pop3Wire reads the socket, hands
 * node-pop3 whole status lines, and keeps the longer replies.
 */
import { isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import Pop3Command from 'node-pop3'
import type { Login } from '../accounts/accounts.ts'
import { Failure } from '../cli.ts'
import { CRLF, isError, isOk, Pop3Refusal, type Pop3Server, Pop3Wire, textOf } from './pop3_wire.ts'
import { visibleLine } from './visible.ts'

export { Pop3Refusal, type Pop3Server, type TlsMode } from './pop3_wire.ts'

/** One message as the server lists it: its number in this session, its unique id (UIDL), its size in bytes. */
export interface Pop3Message {
  number: number
  uidl: string
  size: number
}

/** From so many messages on it is worth a round trip to ask for PIPELINING. */
const MANY = 20
/** Up to so many of the newest messages are listed one by one. */
const FEW = 100
/** Bytes of messages that are asked for before they can be read; what they are kept in is memory of ours. */
const AHEAD = 262_144

/** The parts of node-pop3 that its types leave out. */
type Library = Pop3Command & {
  _socket: Socket | null
}

export class Pop3Session {
  readonly #server: Pop3Server
  readonly #wire: Pop3Wire
  readonly #library: Library
  /** node-pop3's own reader of the socket, which gets whole status lines. */
  #toLibrary: (line: Buffer) => void = () => {}

  private constructor(server: Pop3Server) {
    this.#server = server
    this.#wire = new Pop3Wire(server)
    this.#library = new Pop3Command({
      user: '',
      password: '',
      host: server.host,
      port: server.port,
      tls: server.tls === 'implicit',
      tlsOptions: { rejectUnauthorized: false },
      servername: serverName(server),
    }) as Library
    // Refusals reach the caller as rejections; without a listener the event would end the process as well.
    this.#library.on('error', () => {})
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

  /**
   * The messages of the mailbox, oldest first (UIDL and LIST), or the newest `limit` of them. A few of many are asked for
   * by their numbers: the listing of 50,000 messages takes longer than all the rest of a short session.
   */
  async list(limit = Number.POSITIVE_INFINITY): Promise<Pop3Message[]> {
    if (limit <= FEW) {
      const { count } = await this.stat()
      const first = Math.max(1, count - limit + 1)
      if (first > 1) return this.#listOneByOne(first, count)
    }
    const sizes = new Map(this.#pairs(await this.#askBlock('LIST')))
    return this.#pairs(await this.#askBlock('UIDL')).map(([number, uidl]) => {
      const size = Number(sizes.get(number))
      if (!Number.isSafeInteger(size)) throw this.#wire.strange(`LIST has no size for message ${number}`)
      return { number: Number(number), uidl, size }
    })
  }

  async #listOneByOne(first: number, last: number): Promise<Pop3Message[]> {
    const messages: Pop3Message[] = []
    for (let number = first; number <= last; number++) {
      const size = Number(await this.#listed('LIST', number))
      if (!Number.isSafeInteger(size)) throw this.#wire.strange(`LIST has no size for message ${number}`)
      messages.push({ number, uidl: await this.#listed('UIDL', number), size })
    }
    return messages
  }

  /** What LIST or UIDL says of one message. */
  async #listed(command: 'LIST' | 'UIDL', number: number): Promise<string> {
    const line = await this.#send(`${command} ${number}`)
    if (isError(line)) throw this.#wire.refusal('failed', `${command} refused`, line)
    const [, same, value] = /^(\d+) +(\S+)/.exec(textOf(line)) ?? []
    if (!isOk(line) || Number(same) !== number || !value) throw this.#wire.strange(textOf(line))
    return value
  }

  /** The number of messages in the mailbox and their bytes (STAT). */
  async stat(): Promise<{ count: number; bytes: number }> {
    const [, count, bytes] = /^(\d+) (\d+)/.exec(await this.#ask('STAT', () => this.#library.STAT())) ?? []
    if (!count) throw this.#wire.strange('STAT without numbers')
    return { count: Number(count), bytes: Number(bytes) }
  }

  /** A whole message, exactly the bytes that the server stores with CRLF line ends (RETR). */
  async retrieve(message: Pop3Message): Promise<Buffer> {
    return this.#askBlock(`RETR ${message.number}`, message.size)
  }

  /** The header and the first `lines` lines of the body (TOP), as bytes. */
  async top(message: Pop3Message, lines = 0): Promise<Buffer> {
    return this.#askBlock(`TOP ${message.number} ${lines}`, message.size)
  }

  /**
   * Many whole messages (RETR) or headers (TOP), in the order given. Small ones are asked for before the ones in front of
   * them have come, where the server knows PIPELINING (RFC 2449 section 6.6): that saves a round trip for each. No
   * other command can be given until the loop over them is left.
   */
  async *each(messages: Pop3Message[], command: 'RETR' | 'TOP'): AsyncGenerator<[Pop3Message, Buffer]> {
    const mayPipeline = messages.length >= MANY && (await this.#knowsPipelining())
    const asked: Pop3Message[] = []
    let ahead = 0
    try {
      for (let next = 0; next < messages.length || asked.length > 0; ) {
        let commands = ''
        for (; next < messages.length; next++) {
          const message = messages[next] as Pop3Message
          if (asked.length > 0 && !(mayPipeline && ahead + message.size <= AHEAD)) break
          commands += `${command} ${message.number}${command === 'TOP' ? ' 0' : ''}\r\n`
          asked.push(message)
          ahead += message.size
        }
        if (commands !== '') this.#wire.write(commands)
        const message = asked.shift() as Pop3Message
        ahead -= message.size
        yield [message, await this.#wire.readBlock(`${command} ${message.number}`, message.size)]
      }
    } finally {
      // Left early: what is still coming must not be taken for the reply to another command.
      for (const message of asked) await this.#wire.readBlock(command, message.size).catch(() => {})
    }
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
    this.#wire.close()
  }

  async #connect(): Promise<void> {
    // node-pop3 makes the socket before its first await, so that no byte can come before this reader is in place.
    const connecting = this.#library.connect()
    connecting.catch(() => {})
    const socket = this.#library._socket as Socket
    const [reader] = socket.listeners('data')
    if (reader) this.#toLibrary = (line) => reader.call(socket, line)
    socket.removeAllListeners('data')
    this.#wire.attach(socket)
    if (this.#server.tls === 'implicit') {
      // A TLSSocket reports the TCP connection first; what fails after it is TLS.
      socket.once('connect', () => {
        this.#wire.phase = 'tls'
      })
      socket.once('secureConnect', () => {
        this.#wire.phase = 'connection'
      })
    }
    const greeting = await this.#wire.readLine()
    if (!isOk(greeting)) {
      const words = visibleLine(greeting.toString('latin1', 0, 100))
      throw this.#wire.failure('connection', `the server greets with "${words}"`)
    }
    this.#toLibrary(Buffer.concat([greeting, CRLF]))
    await connecting
  }

  async #startTls(): Promise<void> {
    const reply = await this.#send('STLS')
    if (!isOk(reply)) throw this.#wire.failure('tls', `the server refuses STLS: ${textOf(reply)}`)
    // Bytes behind the reply came unencrypted, perhaps from somebody in between (RFC 2595 section 2.4).
    if (this.#wire.hasUnread) throw this.#wire.failure('tls', 'the server sent data between STLS and TLS')
    const plain = this.#library._socket as Socket
    plain.removeAllListeners('data')
    this.#wire.phase = 'tls'
    const socket = connectTls({ socket: plain, servername: serverName(this.#server), rejectUnauthorized: false })
    this.#library._socket = socket
    this.#wire.attach(socket)
    await this.#wire.once('secureConnect')
    this.#wire.phase = 'connection'
  }

  async #login({ user, password }: Login): Promise<void> {
    // Not by node-pop3, which trims its commands: a password may end with a space.
    for (const command of [`USER ${user}`, `PASS ${password}`]) {
      const line = await this.#send(command)
      if (isError(line)) throw this.#wire.refusal('login', `login refused for ${visibleLine(user)}`, line)
      if (!isOk(line)) throw this.#wire.strange(textOf(line))
    }
  }

  async #knowsPipelining(): Promise<boolean> {
    try {
      return /^PIPELINING\r?$/im.test((await this.#askBlock('CAPA')).toString('latin1'))
    } catch (error) {
      if (error instanceof Pop3Refusal) return false
      throw error
    }
  }

  async #send(command: string): Promise<Buffer> {
    this.#wire.write(`${command}\r\n`)
    return this.#wire.readLine()
  }

  /** Lets node-pop3 send a command with a one-line reply. Gives the reply without its status indicator. */
  async #ask(command: string, send: () => Promise<unknown>): Promise<string> {
    this.#wire.assertOpen()
    const sent = send()
    sent.catch(() => {})
    const line = await this.#wire.readLine()
    if (!isOk(line) && !isError(line)) throw this.#wire.strange(textOf(line))
    this.#toLibrary(Buffer.concat([line, CRLF]))
    await sent.catch(() => {})
    if (isError(line)) throw this.#wire.refusal('failed', `${command} refused`, line)
    return textOf(line)
  }

  /** Sends a command with a multi-line reply and gives its lines as bytes. */
  async #askBlock(command: string, size = 0): Promise<Buffer> {
    this.#wire.write(`${command}\r\n`)
    return this.#wire.readBlock(command, size)
  }

  #pairs(block: Buffer): [string, string][] {
    return block
      .toString('latin1')
      .split('\r\n')
      .filter((line) => line !== '')
      .map((line) => {
        const [, number, value] = /^(\d+) +(\S+)/.exec(line) ?? []
        if (!number || !value) throw this.#wire.strange(line)
        return [number, value]
      })
  }
}

/** For SNI. TLS knows no addresses as server names (RFC 6066 section 3). */
function serverName({ host }: Pop3Server): string {
  return isIP(host) ? 'localhost' : host
}
