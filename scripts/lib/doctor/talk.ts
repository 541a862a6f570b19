/** A conversation with a port, line by line, as the tables of "answers" have it. */
import { connect, type Socket } from 'node:net'
import { connect as connectTls, type TLSSocket } from 'node:tls'

/** What is said, and what has to come back: the whole reply, SMTP's of several lines included. `tls` begins TLS. */
export type Step = { say?: string; expect: RegExp; otherwise: string } | 'tls'

export class Unexpected extends Error {}

/**
 * Leads a conversation and gives the replies. Throws `Unexpected` for a reply that is not what it
 * should be, and for silence of `patience` milliseconds.
 */
export async function talk(host: string, port: number, steps: readonly Step[], patience: number): Promise<string[]> {
  let socket: Socket = connect({ host, port })
  let [text, broken, wake] = ['', '', () => {}]
  const listen = () => {
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
      wake()
    })
    socket.on('error', (error) => {
      broken ||= error.message
      wake()
    })
    socket.on('close', () => {
      broken ||= 'the server closed the connection'
      wake()
    })
  }
  listen()
  const wait = async (until: () => boolean, what: string) => {
    const timer = setTimeout(() => {
      broken ||= `no answer within ${patience / 1000} s`
      wake()
    }, patience)
    try {
      while (!until()) {
        if (broken) throw new Unexpected(`${what}: ${broken}`)
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    } finally {
      clearTimeout(timer)
    }
  }
  const replies: string[] = []
  try {
    for (const step of steps) {
      if (step === 'tls') {
        let isSecure = false
        socket.removeAllListeners()
        const tls: TLSSocket = connectTls({ socket, host, servername: 'localhost', rejectUnauthorized: false }, () => {
          isSecure = true
          wake()
        })
        socket = tls
        listen()
        await wait(() => isSecure, 'TLS failed')
        continue
      }
      if (step.say !== undefined) socket.write(`${step.say}\r\n`)
      // SMTP's last line has a space behind its code (RFC 5321 section 4.2.1); IMAP's begins with the tag.
      const tag = /^(\w\d?) [A-Z]/.exec(step.say ?? '')?.[1]
      const end = tag ? new RegExp(`^${tag} .*\\r\\n`, 'm') : /^(\d{3} |[+*]|-).*\r\n/m
      await wait(() => end.test(text), step.otherwise)
      const reply = text.trim()
      text = ''
      replies.push(reply)
      if (!step.expect.test(reply)) throw new Unexpected(`${step.otherwise}: "${reply.split('\r\n').at(-1)}"`)
    }
    return replies
  } finally {
    socket.on('error', () => {})
    socket.destroy()
  }
}
