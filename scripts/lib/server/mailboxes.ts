/** Counting and emptying the mailboxes of any account, over IMAP as the master user; over POP3 where IMAP is off. */
import { ImapFlow } from 'imapflow'
import { type Login, masterLogin } from '../accounts/accounts.ts'
import { Failure, messageOf } from '../cli.ts'
import { Pop3Session } from '../mail/pop3.ts'
import { enabledProtocols, type Settings } from '../settings.ts'

/** Milliseconds that the server may stay silent. */
const TIMEOUT = 30_000

export interface MailboxCount {
  /** Messages in INBOX, which POP3 shows. */
  inbox: number
  /** Messages in all other folders, which only IMAP shows. */
  otherFolders: number
}

/** How many messages an account has. Throws a Failure when the server refuses, or is silent for `timeout` milliseconds. */
export async function countMessages(settings: Settings, address: string, timeout = TIMEOUT): Promise<MailboxCount> {
  if (!enabledProtocols().imap) {
    const count = await overPop3(settings, address, async (session) => (await session.stat()).count, timeout)
    return { inbox: count, otherFolders: 0 }
  }
  const count = async (client: ImapFlow) => {
    const counted = { inbox: 0, otherFolders: 0 }
    for (const { path } of await client.list()) {
      const { messages = 0 } = (await client.status(path, { messages: true })) || {}
      counted[path.toUpperCase() === 'INBOX' ? 'inbox' : 'otherFolders'] += messages
    }
    return counted
  }
  return overImap(settings, masterLogin(address), count, timeout)
}

export interface MailboxUsage {
  /** Messages in all folders; in INBOX alone where IMAP is off. */
  messages: number
  bytes: number
  /** The quota that the server keeps to, in bytes; undefined where it has none or cannot be asked. */
  limit: number | undefined
}

/** How much an account's mailbox holds. Throws a Failure when the server does not answer or refuses. */
export async function usageOf(settings: Settings, address: string): Promise<MailboxUsage> {
  if (!enabledProtocols().imap) {
    const { count, bytes } = await overPop3(settings, address, (session) => session.stat())
    return { messages: count, bytes, limit: undefined }
  }
  return overImap(settings, masterLogin(address), async (client) => {
    const usage: MailboxUsage = { messages: 0, bytes: 0, limit: undefined }
    for (const { path, flags } of await client.list()) {
      if (flags.has('\\Noselect')) continue
      const { messages = 0, size = 0 } = (await client.status(path, { messages: true, size: true })) || {}
      usage.messages += messages
      usage.bytes += size
    }
    const quota = (await client.getQuota('INBOX')) || undefined
    usage.limit = quota?.storage?.limit
    return usage
  })
}

/** Deletes every message of an account in every folder; the folders stay. Gives the number of messages. */
export async function emptyMailbox(settings: Settings, address: string): Promise<number> {
  if (!enabledProtocols().imap) {
    return overPop3(settings, address, async (session) => {
      const messages = await session.list()
      for (const message of messages) await session.delete(message)
      await session.quit()
      return messages.length
    })
  }
  return overImap(settings, masterLogin(address), async (client) => {
    let deleted = 0
    for (const { path, flags } of await client.list()) {
      if (flags.has('\\Noselect')) continue
      const mailbox = await client.mailboxOpen(path)
      deleted += mailbox.exists
      if (mailbox.exists > 0) await client.messageDelete('1:*')
    }
    return deleted
  })
}

/** Logs in over IMAP, does `work`, and drops the connection. Throws a Failure when the server does not answer or refuses. */
export async function overImap<T>(
  settings: Settings,
  { user, password }: Login,
  work: (client: ImapFlow) => Promise<T>,
  timeout = TIMEOUT,
): Promise<T> {
  const client = new ImapFlow({
    host: settings.host,
    port: settings.ports.imap,
    secure: false,
    doSTARTTLS: false,
    auth: { user, pass: password },
    logger: false,
    connectionTimeout: timeout,
    greetingTimeout: timeout,
    socketTimeout: timeout,
  })
  // A broken connection also rejects what waits for it; without a listener the event would end the process.
  client.on('error', () => {})
  try {
    await client.connect()
    return await work(client)
  } catch (error) {
    const { responseText } = error as { responseText?: string }
    const reason = responseText ?? messageOf(error)
    throw new Failure(
      'connection',
      `IMAP on ${settings.host}:${settings.ports.imap} for ${user}: ${reason}. Is the server up? npm run status`,
    )
  } finally {
    client.close()
  }
}

async function overPop3<T>(
  settings: Settings,
  address: string,
  work: (session: Pop3Session) => Promise<T>,
  timeout = TIMEOUT,
): Promise<T> {
  const server = { host: settings.host, port: settings.ports.pop3, tls: 'none', timeout } as const
  const session = await Pop3Session.open(server, masterLogin(address))
  try {
    return await work(session)
  } finally {
    session.close()
  }
}
