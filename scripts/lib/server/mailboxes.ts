/**
 * The accounts as the running server has them: makes changes live and waits until its clients see them, counts and empties
 * mailboxes, over IMAP as the master user or, where IMAP is off, over POP3.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { ImapFlow } from 'imapflow'
import { type Login, masterLogin, parseAccounts, parseQuotas } from '../accounts/accounts.ts'
import { aliasesOf, domainOf } from '../accounts/changes.ts'
import { readConfiguration } from '../accounts/configuration.ts'
import { Failure, messageOf, step } from '../cli.ts'
import { Pop3Session } from '../mail/pop3.ts'
import { SmtpSession } from '../mail/smtp.ts'
import { enabledProtocols, type Settings } from '../settings.ts'
import { chooseEngine } from './choose.ts'
import type { Engine } from './engine.ts'
import { isAnswering, silentProtocols } from './proof.ts'
import { assertRootInReach } from './root.ts'

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
  const byPop3 = async (session: Pop3Session) => {
    const { count, bytes } = await session.stat()
    return { inbox: count, otherFolders: 0, bytes }
  }
  const byImap = async (client: ImapFlow) => {
    const usage: MailboxUsage = { inbox: 0, otherFolders: 0, bytes: 0 }
    for (const { path, status } of await client.list({ statusQuery: { messages: true, size: true } })) {
      usage[/^inbox$/i.test(path) ? 'inbox' : 'otherFolders'] += status?.messages ?? 0
      usage.bytes += status?.size ?? 0
    }
    const quota = (await client.getQuota('INBOX')) || undefined
    return { ...usage, limit: quota?.storage?.limit }
  }
  const login = masterLogin(address)
  return enabledProtocols().imap
    ? overImap(settings, login, byImap, timeout)
    : overPop3(settings, login, byPop3, timeout)
}

/** Deletes every message of an account in every folder; the folders stay. Gives the number of messages. */
export async function emptyMailbox(settings: Settings, address: string): Promise<number> {
  const byPop3 = async (session: Pop3Session) => {
    const messages = await session.list()
    for (const message of messages) await session.delete(message)
    return messages.length
  }
  const byImap = async (client: ImapFlow) => {
    let deleted = 0
    for (const { path, status } of await client.list({ statusQuery: { messages: true } })) {
      if (!status?.messages) continue
      deleted += (await client.mailboxOpen(path)).exists
      await client.messageDelete('1:*')
    }
    return deleted
  }
  const login = masterLogin(address)
  return enabledProtocols().imap ? overImap(settings, login, byImap) : overPop3(settings, login, byPop3)
}

/** Whether a login opens a mailbox, over POP3 or, where that is off, over IMAP. False also when nobody answers. */
export async function canLogIn(settings: Settings, login: Login): Promise<boolean> {
  const { pop3, imap } = enabledProtocols()
  try {
    if (pop3) await overPop3(settings, login, async () => {})
    else if (imap) await overImap(settings, login, async () => {})
    return true
  } catch (error) {
    if (error instanceof Failure) return false
    throw error
  }
}

/** Whether the server accepts mail for an address: a reply of 2xx to RCPT TO on port 25. */
export async function acceptsRecipient({ host, ports }: Settings, address: string): Promise<boolean> {
  try {
    const server = { host, port: ports.smtp, tls: 'none', timeout: TIMEOUT } as const
    const session = await SmtpSession.open(server, { login: undefined, loginWasChosen: false })
    const accepts = (await session.replyTo(address)).startsWith('2')
    await session.close()
    return accepts
  } catch {
    return false
  }
}

/** Logs in over POP3, does `work`, and deletes what that has marked. */
async function overPop3<T>(
  { host, ports }: Settings,
  login: Login,
  work: (session: Pop3Session) => Promise<T>,
  timeout = TIMEOUT,
): Promise<T> {
  const session = await Pop3Session.open({ host, port: ports.pop3, tls: 'none', timeout }, login)
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
    throw new Failure('connection', `${fact}. See: npm run doctor`)
  } finally {
    client.close()
  }
}

/** Milliseconds for the server to take a change. docker-mailserver needs 6 s, and longer when it is at work. */
const PATIENCE = 60_000
/** Milliseconds between two looks at the server; a refused recipient is a line in its log. */
const INTERVAL = 100
export interface Server {
  /** Undefined where none can be used here, such as Docker without its client. */
  engine: Engine | undefined
  running: boolean
}

/** The engine, and whether its server is up: by its own word or, since another user may have started it, by its ports. */
export async function serverOf(settings: Settings): Promise<Server> {
  const engine = await chooseEngine(settings).catch(() => undefined)
  return { engine, running: (await engine?.isRunning()) || (await isAnswering(settings)) }
}

/** Throws a Failure, before anything is changed, where a running server could not take a change. `secret` is not shown. */
export async function assertTakesChanges(settings: Settings, server: Server, secret?: string): Promise<void> {
  await assertAnswers(settings, server, 'Nothing was changed.')
  if (server.running && server.engine?.name === 'native') await assertRootInReach(secret)
}

/** Throws a Failure where a native server runs and does not answer; a container may be restarting itself. */
async function assertAnswers(settings: Settings, { engine, running }: Server, state: string): Promise<void> {
  if (!running || engine?.name !== 'native') return
  const silent = await silentProtocols(settings)
  if (silent.length === 0) return
  const fact = `${state} The mail server runs and does not answer: ${silent.join(', ')}.`
  throw new Failure('connection', `${fact} Start it anew: npm stop && npm start`)
}

/**
 * Tells a running server about a change that is written, and waits until all conditions hold, one after the other. Gives
 * the seconds that took, or undefined when no server runs. Throws a Failure when it takes too long.
 */
export async function bringIntoEffect(
  settings: Settings,
  server: Server,
  address: string,
  conditions: (() => Promise<boolean>)[],
): Promise<string | undefined> {
  if (!server.running) return undefined
  await assertAnswers(settings, server, `${address} is written.`)
  const begin = performance.now()
  await step('Waiting until the server has taken the change', async () => {
    try {
      // docker-mailserver looks at its configuration files every two seconds by itself.
      await server.engine?.reload()
    } catch (error) {
      throw new Failure('failed', `${address} is written, and the server has not taken it: ${messageOf(error)}`)
    }
    for (const holds of conditions) {
      while (!(await holds())) {
        if (performance.now() - begin > PATIENCE) {
          const fact = `${address} is written, and the server has not taken it in ${PATIENCE / 1000} s`
          throw new Failure('timeout', `${fact} (port ${settings.ports.smtp}). See: npm run doctor`)
        }
        await sleep(INTERVAL)
      }
    }
  })
  return ((performance.now() - begin) / 1000).toFixed(1)
}

const BYTES: Record<string, number> = { B: 1, k: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

/** A quota as docker-mailserver writes it. Throws a usage Failure. */
export function parseQuota(text: string): string {
  const [, digits = '', unit] = /^(\d{1,15})([bkmgt]?)$/i.exec(text) ?? []
  const letter = Object.keys(BYTES).find((name) => name.toLowerCase() === unit?.toLowerCase())
  if (letter) return `${Number(digits)}${letter}`
  if (digits && Number(digits) === 0) return '0'
  throw new Failure('usage', `--quota ${JSON.stringify(text)}: a number with B, k, M, G or T (10M), or 0 for no limit.`)
}

/** Whether the server keeps to a quota. IMAP tells it in units of 1,024 bytes (RFC 2087). */
export async function hasQuota(settings: Settings, address: string, quota: string): Promise<boolean> {
  if (!enabledProtocols().imap) return true
  const kibibytes = Math.floor((Number.parseInt(quota, 10) * (BYTES[quota.slice(-1)] ?? 0)) / 1024)
  const usage = await usageOf(settings, address).catch(() => undefined)
  return usage !== undefined && (usage.limit ?? 0) === kibibytes * 1024
}

/** All accounts, with what lies in their mailboxes where the server runs. What cannot be counted is said. */
export async function accountRows(settings: Settings, say: (line: string) => void) {
  const isRunning = await isAnswering(settings)
  const configuration = readConfiguration()
  const quotas = parseQuotas(configuration['dovecot-quotas.cf'])
  const rows = []
  for (const account of parseAccounts(configuration['postfix-accounts.cf'], 'postfix-accounts.cf', say)) {
    const address = account.address.toLowerCase()
    const usage = isRunning ? await usageOf(settings, address).catch((error) => say(messageOf(error))) : undefined
    const messages = usage ? usage.inbox + usage.otherFolders : null
    const bytes = usage?.bytes ?? null
    const aliases = aliasesOf(configuration, address)
    rows.push({ address, domain: domainOf(address), quota: quotas.get(address) ?? null, aliases, messages, bytes })
  }
  return { isRunning, rows }
}
