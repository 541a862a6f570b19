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
  const imap = async (client: ImapFlow) => {
    const folders = await foldersOf(client)
    const inbox = folders.find(({ path }) => path === 'INBOX')?.messages ?? 0
    return { inbox, otherFolders: sumOf(folders, 'messages') - inbox }
  }
  const pop3 = async (session: Pop3Session) => ({ inbox: (await session.stat()).count, otherFolders: 0 })
  return inMailbox(settings, address, { imap, pop3 }, timeout)
}

export interface MailboxUsage {
  /** Messages in all folders; in INBOX alone where IMAP is off. */
  messages: number
  bytes: number
  /** The quota that the server keeps to, in bytes; undefined where it has none or cannot be asked. */
  limit?: number | undefined
}

/** How much an account's mailbox holds. Throws a Failure when the server does not answer or refuses. */
export async function usageOf(settings: Settings, address: string): Promise<MailboxUsage> {
  const imap = async (client: ImapFlow) => {
    const folders = await foldersOf(client, { size: true })
    const quota = (await client.getQuota('INBOX')) || undefined
    return {
      messages: sumOf(folders, 'messages'),
      bytes: sumOf(folders, 'size'),
      limit: quota?.storage?.limit,
    }
  }
  const pop3 = async (session: Pop3Session) => {
    const { count, bytes } = await session.stat()
    return { messages: count, bytes }
  }
  return inMailbox<MailboxUsage>(settings, address, { imap, pop3 })
}

/** Deletes every message of an account in every folder; the folders stay. Gives the number of messages. */
export async function emptyMailbox(settings: Settings, address: string): Promise<number> {
  const imap = async (client: ImapFlow) => {
    let deleted = 0
    for (const { path } of (await foldersOf(client)).filter(({ messages }) => messages > 0)) {
      deleted += (await client.mailboxOpen(path)).exists
      await client.messageDelete('1:*')
    }
    return deleted
  }
  const pop3 = async (session: Pop3Session) => {
    const messages = await session.list()
    for (const message of messages) await session.delete(message)
    await session.quit()
    return messages.length
  }
  return inMailbox(settings, address, { imap, pop3 })
}

interface Folder {
  path: string
  messages: number
  size: number
}

const sumOf = (folders: Folder[], what: 'messages' | 'size') => folders.reduce((sum, folder) => sum + folder[what], 0)

/** All folders with their messages and, where asked for, the bytes in them. */
async function foldersOf(client: ImapFlow, what: { size?: boolean } = {}): Promise<Folder[]> {
  const folders = []
  for (const { path, flags } of await client.list()) {
    if (flags.has('\\Noselect')) continue
    const { messages = 0, size = 0 } = (await client.status(path, { messages: true, ...what })) || {}
    folders.push({ path: /^inbox$/i.test(path) ? 'INBOX' : path, messages, size })
  }
  return folders
}

/** Opens an account's mailbox as the master user: over IMAP or, where that is off, over POP3. */
async function inMailbox<T>(
  settings: Settings,
  address: string,
  work: { imap: (client: ImapFlow) => Promise<T>; pop3: (session: Pop3Session) => Promise<T> },
  timeout = TIMEOUT,
): Promise<T> {
  const login = masterLogin(address)
  if (enabledProtocols().imap) return overImap(settings, login, work.imap, timeout)
  const session = await Pop3Session.open(
    { host: settings.host, port: settings.ports.pop3, tls: 'none', timeout },
    login,
  )
  try {
    return await work.pop3(session)
  } finally {
    session.close()
  }
}

/** Logs in over IMAP, does `work`, and drops the connection. Throws a Failure when the server does not answer or refuses. */
export async function overImap<T>(
  { host, ports }: Settings,
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
