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
    const { count } = await overPop3(settings, address, (session) => session.stat(), timeout)
    return { inbox: count, otherFolders: 0 }
  }
  const folders = await overImap(settings, masterLogin(address), (client) => foldersOf(client), timeout)
  const sum = (isInbox: boolean) =>
    folders.reduce((all, { path, messages }) => all + ((path === 'INBOX') === isInbox ? messages : 0), 0)
  return { inbox: sum(true), otherFolders: sum(false) }
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
    const folders = await foldersOf(client, { size: true })
    const sum = (of: 'messages' | 'size') => folders.reduce((all, folder) => all + folder[of], 0)
    const quota = (await client.getQuota('INBOX')) || undefined
    return { messages: sum('messages'), bytes: sum('size'), limit: quota?.storage?.limit }
  })
}

/** All folders with their messages and, where asked for, the bytes in them. */
async function foldersOf(client: ImapFlow, what: { size?: boolean } = {}) {
  const folders = []
  for (const { path, flags } of await client.list()) {
    if (flags.has('\\Noselect')) continue
    const { messages = 0, size = 0 } = (await client.status(path, { messages: true, ...what })) || {}
    folders.push({ path: /^inbox$/i.test(path) ? 'INBOX' : path, messages, size })
  }
  return folders
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
    for (const { path, messages } of await foldersOf(client)) {
      if (messages === 0) continue
      deleted += (await client.mailboxOpen(path)).exists
      await client.messageDelete('1:*')
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
    const fact = `IMAP on ${settings.host}:${settings.ports.imap} for ${user}: ${responseText ?? messageOf(error)}`
    throw new Failure('connection', `${fact}. Is the server up? npm run status`)
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
