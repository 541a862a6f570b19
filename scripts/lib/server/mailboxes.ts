/** Counting and emptying the mailboxes of any account, over IMAP as the master user; over POP3 where IMAP is off. */
import { ImapFlow } from 'imapflow'
import { type Login, masterLogin } from '../accounts/accounts.ts'
import { Failure, messageOf } from '../cli.ts'
import { Pop3Session } from '../mail/pop3.ts'
import { enabledProtocols, type Settings } from '../settings.ts'

/** Milliseconds that the server may stay silent. */
const TIMEOUT = 30_000

export interface MailboxUsage {
  /** Messages in INBOX, which POP3 shows. */
  inbox: number
  /** Messages in all other folders, which only IMAP shows. */
  otherFolders: number
  bytes: number
  /** The quota that the server keeps to, in bytes; undefined where it has none or cannot be asked. */
  limit?: number | undefined
}

/** How much an account's mailbox holds. Throws a Failure when the server refuses, or is silent for `timeout` milliseconds. */
export async function usageOf(settings: Settings, address: string, timeout = TIMEOUT): Promise<MailboxUsage> {
  if (!enabledProtocols().imap) {
    return overPop3(settings, address, timeout, async (session) => {
      const { count, bytes } = await session.stat()
      return { inbox: count, otherFolders: 0, bytes }
    })
  }
  return overImap(
    settings,
    masterLogin(address),
    async (client) => {
      const usage: MailboxUsage = { inbox: 0, otherFolders: 0, bytes: 0 }
      for (const { path, status } of await client.list({ statusQuery: { messages: true, size: true } })) {
        usage[/^inbox$/i.test(path) ? 'inbox' : 'otherFolders'] += status?.messages ?? 0
        usage.bytes += status?.size ?? 0
      }
      const quota = (await client.getQuota('INBOX')) || undefined
      return { ...usage, limit: quota?.storage?.limit }
    },
    timeout,
  )
}

/** Deletes every message of an account in every folder; the folders stay. Gives the number of messages. */
export async function emptyMailbox(settings: Settings, address: string): Promise<number> {
  if (!enabledProtocols().imap) {
    return overPop3(settings, address, TIMEOUT, async (session) => {
      const messages = await session.list()
      for (const message of messages) await session.delete(message)
      return messages.length
    })
  }
  return overImap(settings, masterLogin(address), async (client) => {
    let deleted = 0
    for (const { path, status } of await client.list({ statusQuery: { messages: true } })) {
      if (!status?.messages) continue
      deleted += (await client.mailboxOpen(path)).exists
      await client.messageDelete('1:*')
    }
    return deleted
  })
}

/** Opens an account's mailbox over POP3, does `work`, and deletes what that has marked. */
async function overPop3<T>(
  { host, ports }: Settings,
  address: string,
  timeout: number,
  work: (session: Pop3Session) => Promise<T>,
): Promise<T> {
  const session = await Pop3Session.open({ host, port: ports.pop3, tls: 'none', timeout }, masterLogin(address))
  try {
    const result = await work(session)
    await session.quit()
    return result
  } finally {
    session.close()
  }
}

/** Logs in over IMAP, does `work`, and drops the connection. Throws a Failure when the server does not answer or refuses. */
export async function overImap<T>(
  { host, ports }: Pick<Settings, 'host' | 'ports'>,
  { user, password }: Login,
  work: (client: ImapFlow) => Promise<T>,
  timeout = TIMEOUT,
): Promise<T> {
  const timeouts = { connectionTimeout: timeout, greetingTimeout: timeout, socketTimeout: timeout }
  const where = { host, port: ports.imap, secure: false, doSTARTTLS: false, ...timeouts }
  const client = new ImapFlow({ ...where, auth: { user, pass: password }, logger: false })
  // A broken connection also rejects what waits for it; without a listener the event would end the process.
  client.on('error', () => {})
  try {
    await client.connect()
    return await work(client)
  } catch (error) {
    const { responseText } = error as { responseText?: string }
    const fact = `IMAP on ${host}:${ports.imap} for ${user}: ${responseText ?? messageOf(error)}`
    throw new Failure('connection', `${fact}. Is the server up? npm run status`)
  } finally {
    client.close()
  }
}
