/** A POP3 server that plays a part: what a real one will not do, or only after days. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSecureContext, type SecureContext, TLSSocket } from 'node:tls'
import type { TlsMode } from '../scripts/lib/mail/client_options.ts'
import { listen } from './listener.ts'

export interface Behaviour {
  messages?: Buffer[]
  /**
   * Replies in place of the usual ones, by command ("greeting" for the first line): `end` and `reset` end the connection,
   * undefined is silence.
   */
  replies?: Record<string, string | undefined>
  /** Writes a reply; the usual way is all at once. */
  write?: (socket: Socket, bytes: Buffer) => Promise<void>
  /** After STLS there is no handshake. */
  deafAfterStls?: boolean
}

/** Starts a server on a free port. `heard` collects what clients sent, a line each. */
export async function serve(tls: TlsMode, behaviour: Behaviour = {}) {
  const { messages = [], replies = {}, write } = behaviour
  const heard: string[] = []

  /** Obeys a client; gives what answers its commands. */
  function obey(plain: Socket, isSecure: boolean): (command: string) => Promise<void> {
    const socket = isSecure ? new TLSSocket(plain, { isServer: true, secureContext: certificate() }) : plain
    socket.on('error', () => {})
    const answer = async (command: string) => {
      const [word = ''] = command.split(' ')
      const reply = word in replies ? replies[word] : usualReply(command, messages)
      if (reply === undefined) return
      if (reply === 'reset') return void plain.resetAndDestroy()
      const bytes = Buffer.from(reply === 'end' ? '' : reply, 'latin1')
      if (write) await write(socket, bytes)
      else socket.write(bytes)
      if (reply === 'end' || word === 'QUIT') socket.end()
      if (word !== 'STLS' || !reply.startsWith('+OK') || behaviour.deafAfterStls) return
      socket.removeAllListeners('data')
      obey(plain, true)
    }
    let text = ''
    socket.on('data', async (chunk) => {
      text += chunk.toString('latin1')
      for (let end = text.indexOf('\r\n'); end >= 0; end = text.indexOf('\r\n')) {
        const command = text.slice(0, end)
        text = text.slice(end + 2)
        heard.push(command)
        await answer(command)
      }
    })
    return answer
  }

  const { port, connections, close } = await listen((socket) => void obey(socket, tls === 'implicit')('greeting'))
  return {
    heard,
    port,
    /** How to reach it; `timeout` in milliseconds. */
    at: (timeout = 5_000) => ({ host: '127.0.0.1', port, tls, timeout }),
    connections,
    close,
  }
}

function usualReply(command: string, messages: Buffer[]): string {
  const [word = '', number] = command.split(' ')
  const lines = (each: (message: Buffer, index: number) => string) => `+OK\r\n${messages.map(each).join('')}.\r\n`
  const message = messages[Number(number) - 1]
  switch (word) {
    case 'greeting':
    case 'STLS':
    case 'USER':
    case 'PASS':
    case 'DELE':
    case 'RSET':
    case 'QUIT':
      return '+OK as you wish\r\n'
    case 'CAPA':
      return '+OK\r\nPIPELINING\r\nUIDL\r\n.\r\n'
    case 'STAT':
      return `+OK ${messages.length} ${messages.reduce((sum, { length }) => sum + length, 0)}\r\n`
    case 'LIST':
      return lines(({ length }, index) => `${index + 1} ${length}\r\n`)
    case 'UIDL':
      return lines((_, index) => `${index + 1} uidl-${index + 1}\r\n`)
    case 'RETR':
    case 'TOP': {
      if (!message) return '-ERR no such message\r\n'
      const text = message.toString('latin1')
      const end = text.indexOf('\r\n\r\n')
      const wanted = word === 'TOP' && end >= 0 ? text.slice(0, end + 4) : text
      return `+OK\r\n${wanted.replace(/(?<=^|\r\n)\./g, '..')}${wanted === '' || wanted.endsWith('\r\n') ? '' : '\r\n'}.\r\n`
    }
    default:
      return '-ERR what?\r\n'
  }
}

let context: SecureContext | undefined

function certificate(): SecureContext {
  if (context) return context
  const dir = mkdtempSync(join(tmpdir(), 'certificate-'))
  const [key, cert] = [join(dir, 'key'), join(dir, 'cert')]
  const request = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  execFileSync('openssl', [...request, '-subj', '/CN=localhost', '-keyout', key, '-out', cert], { stdio: 'ignore' })
  context = createSecureContext({ key: readFileSync(key), cert: readFileSync(cert) })
  rmSync(dir, { recursive: true })
  return context
}
