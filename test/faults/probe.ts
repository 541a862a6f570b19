/** A client that speaks just enough SMTP, POP3 and IMAP to look at a server: its lines, its TLS, its certificate. */
import { connect, isIP, type Socket } from 'node:net'
import { performance } from 'node:perf_hooks'
import { connect as connectTls, type PeerCertificate, type TLSSocket } from 'node:tls'
import { messageOf } from '../../scripts/lib/cli.ts'

export interface ProbeServer {
  host: string
  port: number
  /** TLS from the first byte on. */
  implicit: boolean
  /** Milliseconds that the whole conversation may wait for the server. Time in which this process was busy is none. */
  timeout: number
}

/** Milliseconds that this process has waited for something to happen; grows only while its event loop is idle. */
const idle = () => performance.eventLoopUtilization().idle

export class Probe {
  #socket: Socket
  #text = ''
  #error: Error | undefined
  #wake: () => void = () => {}
  readonly #server: ProbeServer
  readonly #deadline: number

  private constructor(server: ProbeServer) {
    this.#server = server
    this.#deadline = idle() + server.timeout
    const { host, port, implicit } = server
    this.#socket = implicit ? connectTls({ host, port, ...tlsOptions(host) }) : connect({ host, port })
    this.#listen()
  }

  /** Connects; the greeting is the first line to read. Throws an Error when the connection or its TLS fails. */
  static async open(server: ProbeServer): Promise<Probe> {
    const probe = new Probe(server)
    await probe.#event(server.implicit ? 'secureConnect' : 'connect')
    return probe
  }

  /** The next line without its end. Throws an Error when none comes in time or the server closes. */
  async line(): Promise<string> {
    for (;;) {
      const end = this.#text.indexOf('\n')
      if (end >= 0) {
        const line = this.#text.slice(0, end).replace(/\r$/, '')
        this.#text = this.#text.slice(end + 1)
        return line
      }
      if (this.#text.length > 100_000) throw new Error('a line without an end')
      await this.#more()
    }
  }

  /** Lines up to the one that matches, which is the last. */
  async linesUntil(last: RegExp): Promise<string[]> {
    const lines: string[] = []
    for (;;) {
      const line = await this.line()
      lines.push(line)
      if (last.test(line)) return lines
      if (lines.length > 1_000) throw new Error(`no end after "${line}"`)
    }
  }

  /** An SMTP reply, all its lines (RFC 5321 section 4.2.1). */
  reply(): Promise<string[]> {
    return this.linesUntil(/^\d{3}(?: |$)/)
  }

  send(line: string): void {
    this.#socket.write(`${line}\r\n`)
  }

  /** Begins TLS on the open connection. */
  async startTls(): Promise<void> {
    const plain = this.#socket
    plain.removeAllListeners()
    this.#text = ''
    this.#socket = connectTls({ socket: plain, ...tlsOptions(this.#server.host) })
    this.#listen()
    await this.#event('secureConnect')
  }

  /** The server's certificate, once TLS is there. */
  certificate(): PeerCertificate {
    return (this.#socket as TLSSocket).getPeerCertificate()
  }

  close(): void {
    this.#socket.destroy()
  }

  #listen(): void {
    this.#socket
      .on('data', (chunk) => {
        this.#text += chunk.toString('latin1')
        this.#wake()
      })
      .on('error', (error) => this.#break(error))
      .on('close', () => this.#break(new Error('the server closed the connection')))
  }

  #break(error: Error): void {
    this.#error ??= new Error(messageOf(error))
    this.#wake()
  }

  async #event(name: 'connect' | 'secureConnect'): Promise<void> {
    let happened = false
    this.#socket.once(name, () => {
      happened = true
      this.#wake()
    })
    try {
      while (!happened) await this.#more()
    } catch (error) {
      this.close()
      throw error
    }
  }

  /** Waits for something to happen, until the deadline. */
  async #more(): Promise<void> {
    let happened = false
    let wake = () => {}
    this.#wake = () => {
      happened = true
      wake()
    }
    for (let left = this.#left(); !happened && !this.#error && left > 0; left = this.#left()) {
      let timer: NodeJS.Timeout | undefined
      await new Promise<void>((resolve) => {
        wake = resolve
        timer = setTimeout(resolve, left)
      })
      clearTimeout(timer)
    }
    if (this.#error) throw this.#error
    if (happened) return
    this.close()
    throw new Error(`no answer within ${this.#server.timeout / 1000} s`)
  }

  #left(): number {
    return this.#deadline - idle()
  }
}

/** Any certificate will do: a development server signs its own. TLS knows no addresses as server names (RFC 6066). */
function tlsOptions(host: string) {
  return { rejectUnauthorized: false, servername: isIP(host) ? 'localhost' : host }
}
