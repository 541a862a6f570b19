/** The mailboxes: a visit to one, the messages in it that are wanted, and the wait until they are there. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Login } from '../accounts/accounts.ts'
import { Failure, messageOf } from '../cli.ts'
import type { Filters } from './filters.ts'
import { type Pop3Message, Pop3Refusal, type Pop3Server, Pop3Session } from './pop3.ts'
import type { Listed } from './views.ts'
import { visibleLine } from './visible.ts'

export interface Mailbox {
  account: string
  login: Login
  /** Which messages match, by UIDL: each is fetched once to find out. */
  verdicts: Map<string, boolean>
}

/** Milliseconds from one look at a mailbox to the next: a mail is found well within 250 ms of being readable. */
const INTERVAL = 100
/** Milliseconds that a look takes for mail that was there before, so that a big mailbox does not hide what comes. */
const PATIENCE = 150
/** How many mails of a mailbox are named when the wait was in vain. */
const INSTEAD = 10

/** Opens a mailbox, does some work with the messages that are there, and leaves. */
export async function visit<T>(
  server: Pop3Server,
  { login }: Mailbox,
  work: (session: Pop3Session, messages: Pop3Message[]) => Promise<T>,
): Promise<T> {
  const session = await Pop3Session.open(server, login)
  try {
    const result = await work(session, await session.list())
    // Nothing is deleted by this session, so nothing depends on the server's answer.
    await session.quit().catch(() => {})
    return result
  } finally {
    session.close()
  }
}

/**
 * The messages that match, oldest first, and of them the newest `limit`. Looks at the newest first, and no longer than
 * until `end` (milliseconds since 1970), when it may have found fewer than there are.
 */
export async function select(
  session: Pop3Session,
  messages: Pop3Message[],
  { verdicts }: Mailbox,
  { matchesHeader, matchesBody }: Filters,
  limit: number,
  end = Number.POSITIVE_INFINITY,
): Promise<Pop3Message[]> {
  if (!matchesHeader && !matchesBody) return messages.filter(({ uidl }) => verdicts.get(uidl) ?? true).slice(-limit)
  const { readHeaders, readMail } = await import('./mail.ts')
  const newestFirst = messages.toReversed()
  const unknown = newestFirst.filter(({ uidl }) => !verdicts.has(uidl))
  const fetched = session.each(unknown, matchesBody ? 'RETR' : 'TOP')
  const selected: Pop3Message[] = []
  for (const message of newestFirst) {
    if (selected.length >= limit) break
    if (!verdicts.has(message.uidl)) {
      const next = Date.now() > end ? undefined : await fetched.next()
      if (!next || next.done) break
      const [{ uidl }, raw] = next.value
      // One that is not there any more was deleted by somebody else.
      const isMatch = raw !== undefined && (matchesHeader?.(readHeaders(raw)) ?? true)
      verdicts.set(uidl, isMatch && (matchesBody?.(readMail(raw)) ?? true))
    }
    if (verdicts.get(message.uidl)) selected.push(message)
  }
  await fetched.return(undefined)
  return selected.reverse()
}

/**
 * What is waited for: so many matching mails, all mailboxes together, until `end`, and whether only those count that come
 * after `begin`, the call (milliseconds since 1970).
 */
export interface Wait {
  expect: number
  onlyNew: boolean
  begin: number
  end: number
}

/**
 * A search for mails that match: `look` tells how many there are now, `lookOn` when they are enough or the time is up.
 * A server that is not up yet, or busy, is tried again; what it said last is thrown when it never answered.
 */
export function searchFor(
  { expect, onlyNew, begin, end }: Wait,
  server: Pop3Server,
  mailboxes: Mailbox[],
  filters: Filters,
) {
  /** The mailboxes whose old mail is marked already. */
  const marked = new Set<Mailbox>()
  let hasAnswered = false

  /** A session sees the mailbox as it was at login (RFC 1939 section 5), so each look is a new one. */
  async function look(): Promise<number> {
    const now = Date.now()
    // A server that stops talking must not keep the wait much longer than its time.
    const timeout = Math.min(server.timeout, Math.max(2_000, end - now))
    let found = 0
    try {
      for (const mailbox of mailboxes) {
        await visit({ ...server, timeout }, mailbox, async (session, messages) => {
          if (onlyNew && !marked.has(mailbox)) await markOld(session, messages, mailbox, begin)
          marked.add(mailbox)
          const until = now >= end ? undefined : Date.now() + PATIENCE
          found += (await select(session, messages, mailbox, filters, expect, until)).length
        })
      }
      hasAnswered = true
      return found
    } catch (error) {
      if (!isPassing(error) || (now >= end && !hasAnswered)) throw error
      return 0
    }
  }

  /** Looks no more than ten times a second, and once when the time is up. */
  async function lookOn(): Promise<number> {
    for (;;) {
      await sleep(Math.max(0, Math.min(INTERVAL, end - Date.now())))
      const isOver = Date.now() >= end
      const found = await look()
      if (found >= expect || isOver) return found
    }
  }
  return { look, lookOn }
}

/** The headers of the newest messages of these mailboxes, for a list; says how many messages there are. */
export async function headersOf(server: Pop3Server, mailboxes: Mailbox[], say: (line: string) => void) {
  const { readHeaders } = await import('./mail.ts')
  const found: Listed[] = []
  for (const mailbox of mailboxes) {
    const { account } = mailbox
    await visit(server, mailbox, async (session, messages) => {
      say(`${visibleLine(account)}: ${mails(messages.length)}${messages.length > INSTEAD ? ', the newest:' : ''}`)
      for await (const [message, raw] of session.each(messages.slice(-INSTEAD), 'TOP')) {
        if (raw) found.push({ account, isOneOfMany: mailboxes.length > 1, message, mail: readHeaders(raw) })
      }
    })
  }
  return found
}

/** The mailbox, of several, that has the newest of the mails that match. */
export async function newestOf(server: Pop3Server, mailboxes: Mailbox[], filters: Filters): Promise<Mailbox[]> {
  let newest = { time: -1, mailboxes: [] as Mailbox[] }
  for (const mailbox of mailboxes) {
    await visit(server, mailbox, async (session, messages) => {
      const [message] = await select(session, messages, mailbox, filters, 1)
      const time = message ? await arrival(session, message) : -1
      if (time > newest.time) newest = { time, mailboxes: [mailbox] }
    })
  }
  return newest.mailboxes
}

/** When a message arrived, in milliseconds since 1970; 0 where nothing says so, or another reader has deleted it. */
async function arrival(session: Pop3Session, message: Pop3Message): Promise<number> {
  const { readHeaders } = await import('./mail.ts')
  const header = await session.top(message).catch(() => Buffer.alloc(0))
  return readHeaders(header).arrived?.getTime() ?? 0
}

/** What the first look finds is old, but for mail that arrived after the call, in a later second. */
async function markOld(session: Pop3Session, messages: Pop3Message[], { verdicts }: Mailbox, begin: number) {
  const old = [...messages]
  for (let message = old.at(-1); message && (await arrival(session, message)) > begin; message = old.at(-1)) old.pop()
  for (const { uidl } of old) verdicts.set(uidl, false)
}

/** True for a failure that may be gone at the next look: no connection, or a refusal for the moment. */
function isPassing(error: unknown): boolean {
  if (!(error instanceof Failure)) return false
  return /^(connection|timeout)$/.test(error.exit) || (error instanceof Pop3Refusal && error.isTemporary)
}

/**
 * Deletes by UIDL in a session of its own: the session that showed them may have ended meanwhile, where somebody reads
 * the output in a pager, and an interruption before this deletes nothing. Gives how many were deleted; others had taken
 * the rest. Throws a Failure `kept` where the server does not confirm it.
 */
export async function deleteMails(server: Pop3Server, mailbox: Mailbox, uidls: Set<string>): Promise<number> {
  if (uidls.size === 0) return 0
  let session: Pop3Session | undefined
  try {
    session = await Pop3Session.open(server, mailbox.login)
    const messages = (await session.list()).filter(({ uidl }) => uidls.has(uidl))
    for (const message of messages) await session.delete(message)
    await session.quit()
    return messages.length
  } catch (error) {
    // Without an answer to QUIT nobody knows for sure.
    const doubt = error instanceof Pop3Refusal ? '' : ', as far as can be told'
    const which = `${mails(uidls.size)} of ${visibleLine(mailbox.account)}`
    throw new Failure('kept', `${messageOf(error)}\nThe server kept the mail that was to be deleted${doubt}: ${which}.`)
  } finally {
    session?.close()
  }
}

/** "1 mail", "2 mails". */
export function mails(count: number): string {
  return `${count} mail${count === 1 ? '' : 's'}`
}
