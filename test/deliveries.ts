/** The delivery table: which mailbox the mail of a recipient ends in. The same for every engine. */
import { randomUUID } from 'node:crypto'
import SMTPConnection from 'nodemailer/lib/smtp-connection'
import { BAR, CATCHALL, FOO, type Login, masterLogin, readAccounts } from '../scripts/lib/accounts/accounts.ts'
import type { TlsMode } from '../scripts/lib/mail/client_options.ts'
import { type Pop3Message, Pop3Session } from '../scripts/lib/mail/pop3.ts'
import type { Settings } from '../scripts/lib/settings.ts'
import { until } from './harness.ts'
import { sendRaw } from './smtp_raw.ts'

/** Where to find the server: the part of the settings that a client needs. */
export type Where = Pick<Settings, 'host' | 'ports'>

const VIRTUAL = 'development-virtual.example.com'
const SERVER = 'development-mail-server.example.com'

/** Foreign addresses, those with the names of Unix users included; local addresses, and the server's own name. */
const CAUGHT = [
  ...['someone', 'root', 'postmaster', 'foo', '""', '"two words"'].map((user) => `${user}@gmail.com`),
  ...['mail', 'daemon', 'backup', 'list', 'www-data', 'owner-news'].map((user) => `${user}@client.jp`),
  ...['news@acme.co', 'Foo.Bar+tag@Client.JP', 'user@[1.2.3.4]', 'user@xn--eckwd4c7cu47r2wf.example'],
  ...[`user@sub.${VIRTUAL}`, `user@not-${VIRTUAL}`, `user@${VIRTUAL}.evil.example`],
  // local(8) would write mail for the first to /var/mail/root, and return mail for "" above.
  ...['"\\\\root"@gmail.com', 'x@localhost', 'bareuser', 'root', `anyone@${SERVER}`, `postmaster@${SERVER}`, CATCHALL],
]
const BARS = [
  ...[BAR, `BAR@${VIRTUAL}`, `bar@${VIRTUAL.toUpperCase()}`, `bar+tag@${VIRTUAL}`, `bar@${VIRTUAL}.`],
  `"bar"@${VIRTUAL}`,
]

/** Envelope recipient and the mailbox that gets its mail, or the reply that refuses it. */
export const DELIVERIES: { to: string; mailbox?: string; refused?: RegExp }[] = [
  ...CAUGHT.map((to) => ({ to, mailbox: CATCHALL })),
  ...BARS.map((to) => ({ to, mailbox: BAR })),
  { to: FOO, mailbox: FOO },
  { to: `nobodyhere@${VIRTUAL}`, refused: /^550 5\.1\.1 / },
]

export interface Delivered {
  /** The server's reply to RCPT where it refused. */
  refusal?: string
  /** The mailboxes that the message was found in, one entry a copy. */
  mailboxes: string[]
  /** The message as the last of them has it. */
  source: string
}

/** Connects with nodemailer's SMTP client, which takes any envelope. */
export async function smtpClient({ host, ports }: Where, port = ports.smtp): Promise<SMTPConnection> {
  const connection = new SMTPConnection({ host, port, ignoreTLS: true, socketTimeout: 20_000 })
  connection.on('error', () => {})
  await new Promise<void>((resolve, reject) => {
    connection.once('error', reject)
    connection.connect(() => resolve())
  })
  return connection
}

/**
 * Sends one message to each recipient over port 25, without a login, from a foreign sender, and finds each in the
 * mailboxes of all accounts.
 */
export async function deliverAll(where: Where, recipients: string[]): Promise<Map<string, Delivered>> {
  const results = new Map<string, Delivered>()
  const subjects = new Map<string, string>()
  for (const to of recipients) {
    const subject = randomUUID()
    const result: Delivered = { mailboxes: [], source: '' }
    results.set(to, result)
    subjects.set(subject, to)
    const message = Buffer.from(`Subject: ${subject}\r\nFrom: customer\r\nTo: <${to}>\r\n\r\nHello\r\n`)
    await sendRaw(where.ports.smtp, to, message, 'customer@shop.example').catch(({ message }) => {
      result.refusal = message
      subjects.delete(subject)
    })
  }
  await until('every accepted message in a mailbox', async () => {
    for (const { address } of readAccounts()) {
      for (const source of await messagesOf(where, address)) {
        const subject = /^Subject: (.*)\r$/m.exec(source)?.[1] ?? ''
        const result = results.get(subjects.get(subject) ?? '')
        if (!result || result.mailboxes.includes(address)) continue
        result.mailboxes.push(address)
        result.source = source
      }
    }
    return [...subjects.values()].every((to) => (results.get(to)?.mailboxes.length ?? 0) > 0)
  }).catch(() => {})
  return results
}

/** Does something in an account's mailbox, as the master user. What it deletes is gone afterwards. */
export async function visit<T>(
  { host, ports }: Where,
  address: string,
  work: (session: Pop3Session, list: Pop3Message[]) => Promise<T>,
): Promise<T> {
  const session = await Pop3Session.open({ host, port: ports.pop3, tls: 'none', timeout: 20_000 }, masterLogin(address))
  try {
    const result = await work(session, await session.list())
    await session.quit()
    return result
  } finally {
    session.close()
  }
}

/** All messages of an account, as the bytes on the wire read as latin1. */
export async function messagesOf(where: Where, address: string): Promise<string[]> {
  return visit(where, address, async (session, list) => {
    const sources = []
    for (const message of list) {
      // Dovecot's retention may have taken it meanwhile.
      const source = await session.retrieve(message).catch(() => undefined)
      if (source) sources.push(source.toString('latin1'))
    }
    return sources
  })
}

/** nodemailer's options as an application would write them, for one port and TLS mode. */
export function nodemailerOptions(port: number, tls: TlsMode, login?: Login) {
  return {
    host: '127.0.0.1',
    port,
    secure: tls === 'implicit',
    ignoreTLS: tls === 'none',
    requireTLS: tls === 'starttls',
    tls: { rejectUnauthorized: false },
    ...(login ? { auth: { user: login.user, pass: login.password } } : {}),
  }
}

/** Sends one message over port 25 without a login; gives the error that refused it. Throws where there is no server. */
export async function send(ports: Settings['ports'], to: string, subject: string, body = 'x'): Promise<Error | null> {
  const message = Buffer.from(`Subject: ${subject}\r\nFrom: <${FOO}>\r\n\r\n${body}\r\n`)
  return sendRaw(ports.smtp, to, message, FOO).then(
    () => null,
    (error) => {
      if (/^[45]\d\d/.test(error.message)) return error
      throw error
    },
  )
}

/** The envelope recipient of a message as it lies in a mailbox: the topmost field, since others may be forged. */
export function originalRecipient(source: string): string | undefined {
  return /^X-Original-To: (.*)\r$/m.exec(source)?.[1]
}

/** The subjects of messages, sorted. */
export function subjectsOf(sources: string[]): string[] {
  return sources.map((source) => /^Subject: (.*)\r$/m.exec(source)?.[1] ?? '').sort()
}
