/** Failures on demand: what an address with "+fail-..." is answered. The same for every engine. */
import { randomUUID } from 'node:crypto'
import type { Where } from './deliveries.ts'
import { RawClient } from './raw_client.ts'

/** One transaction: the replies to RCPT and, where one was accepted, to the message; the connection's end is none. */
export interface Dialogue {
  recipients: string[]
  message?: string
  /** Whether the server hung up. */
  closed: boolean
  /** Milliseconds until the last reply. */
  duration: number
  subject: string
}

/** What one address is answered, at RCPT and, where that accepts, behind DATA. */
export interface Row {
  /** What stands behind "+fail-". */
  fail: string
  recipient: RegExp
  message?: RegExp
  closes?: true
  /** Milliseconds that the server waits. */
  waits?: number
}

const OK = /^250 /

/** All rows with an answer that is always the same. */
export const ROWS: Row[] = [
  // Postfix tells the sender's fault from the recipient's by the last digit.
  { fail: '550', recipient: /^550 5\.1\.[17] .*no such user/ },
  { fail: '552', recipient: /^552 5\.2\.2 .*mailbox full/ },
  { fail: '451', recipient: /^451 4\.7\.1 .*try again later/ },
  ...[400, 450, 452, 499].map((code) => ({ fail: `${code}`, recipient: new RegExp(`^${code} 4\\.3\\.0 `) })),
  ...[500, 501, 554, 571, 599].map((code) => ({ fail: `${code}`, recipient: new RegExp(`^${code} 5\\.3\\.0 `) })),
  { fail: '421', recipient: /^421 4\.3\.2 /, closes: true },
  { fail: 'drop', recipient: /^421 4\.3\.2 /, closes: true },
  { fail: 'slow-2', recipient: OK, message: OK, waits: 2_000 },
  { fail: 'data-550', recipient: OK, message: /^550 5\.3\.0 / },
  { fail: 'data-554', recipient: OK, message: /^554 5\.3\.0 / },
  { fail: 'data-451', recipient: OK, message: /^451 4\.3\.0 / },
  { fail: 'data-452', recipient: OK, message: /^452 4\.3\.0 / },
  { fail: 'data-slow-2', recipient: OK, message: OK, waits: 2_000 },
  { fail: 'data-drop', recipient: OK, message: /^421 4\.3\.2 /, closes: true },
  { fail: 'data-421', recipient: OK, message: /^421 4\.3\.2 /, closes: true },
]

/** Sends one message over port 25 without a login. */
export async function transaction({ ports }: Where, from: string, to: string[]): Promise<Dialogue> {
  const begin = performance.now()
  const client = await RawClient.open(ports.smtp, /^220 .*\r\n/m)
  const dialogue: Dialogue = { recipients: [], closed: false, duration: 0, subject: `failure ${randomUUID()}` }
  /** The reply; undefined where the server has hung up. */
  const say = (command: string) => {
    client.write(`${command}\r\n`)
    return client.reply().catch(() => undefined)
  }
  try {
    await say('EHLO client.example')
    await say(`MAIL FROM:<${from}>`)
    for (const each of to) {
      const reply = await say(`RCPT TO:<${each}>`)
      if (reply) dialogue.recipients.push(reply)
    }
    if (dialogue.recipients.some((reply) => OK.test(reply)) && (await say('DATA'))?.startsWith('354')) {
      dialogue.message = await say(`Subject: ${dialogue.subject}\r\nFrom: <${from}>\r\n\r\nx\r\n.`)
    }
    dialogue.duration = performance.now() - begin
    dialogue.closed = (await say('NOOP')) === undefined
    return dialogue
  } finally {
    client.close()
  }
}
