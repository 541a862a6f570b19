/** Counting and emptying the mailboxes of any account, over IMAP as the master user; over POP3 where IMAP is off. */
import { ImapFlow } from 'imapflow'
import { masterLogin } from './accounts.ts'
import { Failure, messageOf } from './cli.ts'
import { Pop3Session } from './pop3.ts'
import { enabledProtocols, type Settings } from './settings.ts'

/** Milliseconds that the server may stay silent. */
const TIMEOUT = 30_000

export interface MailboxCount {
  /** Messages in INBOX, which POP3 shows. */
  inbox: number
  /** Messages in all other folders, which only IMAP shows. */
  otherFolders: number
}

/** How many messages an account has. Throws a Failure when the server does not answer or refuses. */
export async function countMessages(settings: Settings, address: string): Promise<MailboxCount> {
  if (!enabledProtocols().imap) {
    const count = await overPop3(settings, address, async (session) => (await session.stat()).count)
    return { inbox: count, otherFolders: 0 }
  }
  return overImap(settings, address, async (client) => {
    const count = { inbox: 0, otherFolders: 0 }
    for (const { path } of await client.list()) {
      const { messages = 0 } = (await client.status(path, { messages: true })) || {}
      count[path.toUpperCase() === 'INBOX' ? 'inbox' : 'otherFolders'] += messages
    }
    return count
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
  return overImap(settings, address, async (client) => {
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

async function overImap<T>(settings: Settings, address: string, work: (client: ImapFlow) => Promise<T>): Promise<T> {
  const { user, password } = masterLogin(address)
  const client = new ImapFlow({
    host: settings.host,
    port: settings.ports.imap,
    secure: false,
    doSTARTTLS: false,
    auth: { user, pass: password },
    logger: false,
    connectionTimeout: TIMEOUT,
    greetingTimeout: TIMEOUT,
    socketTimeout: TIMEOUT,
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
      `IMAP on ${settings.host}:${settings.ports.imap} for ${address}: ${reason}. Is the server up? npm run status`,
    )
  } finally {
    client.close()
  }
}

async function overPop3<T>(
  settings: Settings,
  address: string,
  work: (session: Pop3Session) => Promise<T>,
): Promise<T> {
  const server = { host: settings.host, port: settings.ports.pop3, tls: 'none', timeout: TIMEOUT } as const
  const session = await Pop3Session.open(server, masterLogin(address))
  try {
    return await work(session)
  } finally {
    session.close()
  }
}
