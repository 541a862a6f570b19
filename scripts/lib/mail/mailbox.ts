/** The mailboxes: a visit to one, the messages in it that are wanted, and the wait until they are there. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Login } from '../accounts/accounts.ts'
import { Failure, messageOf } from '../cli.ts'
import { claim } from './claim.ts'
import type { Filters } from './filters.ts'
import { readHeaders, readMail } from './mail.ts'
import { type Pop3Message, Pop3Refusal, type Pop3Server, Pop3Session } from './pop3.ts'
import { visibleLine } from './visible.ts'

export interface Mailbox {
  account: string
  login: Login
  /** Which messages match, by UIDL: each is fetched once to find out. */
  verdicts: Map<string, boolean>
  /** The messages at the last visit. */
  messages: Pop3Message[]
}

/** Milliseconds from the beginning of one look at a mailbox to the next: a mail is found well within 250 ms of being readable. */
const INTERVAL = 100
/** Milliseconds that a look takes for mail that was there before, so that a big mailbox does not hide what comes. */
const PATIENCE = 150
/** Mailboxes that are looked into at the same time, by one connection each. Dovecot takes 100 logins at once. */
const AT_ONCE = 10

/** Opens a mailbox, does some work with the messages that are there, or the newest `limit` of them, and leaves. */
export async function visit<T>(
  server: Pop3Server,
  mailbox: Mailbox,
  work: (session: Pop3Session, messages: Pop3Message[]) => Promise<T>,
  limit = Number.POSITIVE_INFINITY,
): Promise<T> {
  const session = await Pop3Session.open(server, mailbox.login)
  try {
    const messages = limit < Number.POSITIVE_INFINITY ? await session.list(limit) : await listAll(session, mailbox)
    const result = await work(session, messages)
    // Nothing is deleted by this session, so nothing depends on the server's answer.
    await session.quit().catch(() => {})
    return result
  } finally {
    session.close()
  }
}

/** Lists a mailbox; where all messages of the last visit are still in it, only those that came since are asked for. */
async function listAll(session: Pop3Session, mailbox: Mailbox): Promise<Pop3Message[]> {
  const known = mailbox.messages
  const { count } = known.length > 0 ? await session.stat() : { count: 0 }
  const [last, ...newer] = count >= known.length && count > 0 ? await session.list(count - known.length + 1) : []
  // A message that is gone from in front of it would have moved another to its place.
  const isSame = last !== undefined && last.uidl === known.at(-1)?.uidl
  mailbox.messages = isSame ? [...known, ...newer] : await session.list()
  return mailbox.messages
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
  const newestFirst = messages.toReversed()
  const isFiltered = matchesHeader !== undefined || matchesBody !== undefined
  const unknown = newestFirst.filter(({ uidl }) => isFiltered && !verdicts.has(uidl))
  const fetched = session.each(unknown, matchesBody ? 'RETR' : 'TOP')
  const selected: Pop3Message[] = []
  for (const message of newestFirst) {
    if (selected.length >= limit) break
    if (isFiltered && !verdicts.has(message.uidl)) {
      const next = Date.now() > end ? undefined : await fetched.next()
      if (!next || next.done) break
      const [{ uidl }, raw] = next.value
      // One that is not there any more was deleted by somebody else.
      const isMatch = raw !== undefined && (matchesHeader?.(readHeaders(raw)) ?? true)
      verdicts.set(uidl, isMatch && (matchesBody?.(await readMail(raw)) ?? true))
    }
    if (verdicts.get(message.uidl) ?? !isFiltered) selected.push(message)
  }
  await fetched.return(undefined)
  return selected.reverse()
}

export interface Wait {
  server: Pop3Server
  mailboxes: Mailbox[]
  filters: Filters
  /** How many matching mails are waited for, all mailboxes together. */
  expect: number
  /** Only mail that comes after `begin` counts. */
  onlyNew: boolean
  /** What is found will be deleted: it counts when no other reader is about to take it, and is this one's until `release`. */
  isForDeletion: boolean
  /** The time of the call and when the wait ends, in milliseconds since 1970. */
  begin: number
  end: number
}

/**
 * Looks into mailboxes until enough mails match. A server that is not up yet, or busy, is tried again; what it said last
 * is thrown when it never answered in all the time.
 */
export class Search {
  /** Another reader that deletes had the mailbox at the last look. */
  isHeld = false
  /** Lets other readers delete again. */
  release: () => void = () => {}
  readonly #wait: Wait
  /** The mailboxes whose old mail is marked already. */
  readonly #marked = new Set<Mailbox>()
  #failure: Failure | undefined
  #hasAnswered = false

  constructor(wait: Wait) {
    this.#wait = wait
  }

  /** How many mails match now; undefined where they are not enough and there is time left. */
  async look(): Promise<number | undefined> {
    const { expect, end, isForDeletion } = this.#wait
    const isLast = Date.now() >= end
    this.release()
    this.isHeld = false
    let found = 0
    try {
      found = await this.#lookIntoAll(isLast)
      if (found >= expect && isForDeletion) found = await this.#lookAlone(isLast)
      this.#hasAnswered = true
    } catch (error) {
      if (!isPassing(error)) throw error
      this.#failure = error
    }
    if (found >= expect) return found
    if (!isLast) return undefined
    if (this.#failure && !this.#hasAnswered) throw this.#failure
    return found
  }

  /** Looks again and again: one connection at a time for a mailbox, and no more than ten a second. */
  async untilFound(): Promise<number> {
    for (let spent = 0; ; ) {
      const pause = Math.max(INTERVAL - spent, INTERVAL / 4)
      await sleep(Math.min(pause, Math.max(0, this.#wait.end - Date.now())))
      const begin = Date.now()
      const found = await this.look()
      if (found !== undefined) return found
      spent = Date.now() - begin
    }
  }

  /** What was found may have gone to the reader before; so it is looked for once more when no other can delete it. */
  async #lookAlone(isLast: boolean): Promise<number> {
    const { mailboxes, server, expect } = this.#wait
    const release = await claim(claimsOf(server, mailboxes), Date.now())
    this.isHeld = release === undefined
    if (!release) return 0
    const found = await this.#lookIntoAll(isLast).catch((error) => {
      release()
      throw error
    })
    if (found >= expect) this.release = release
    else release()
    return found
  }

  /** A session sees the mailbox as it was at login (RFC 1939 section 5), so each look is a new one. */
  async #lookIntoAll(isLast: boolean): Promise<number> {
    const { mailboxes, filters, expect, onlyNew, begin, end } = this.#wait
    // A server that stops talking must not keep the wait much longer than its time.
    const timeout = Math.min(this.#wait.server.timeout, Math.max(1_000, end - Date.now()))
    let found = 0
    for (let next = 0; next < mailboxes.length; next += AT_ONCE) {
      const looks = mailboxes.slice(next, next + AT_ONCE).map((mailbox) =>
        visit({ ...this.#wait.server, timeout }, mailbox, async (session, messages) => {
          if (onlyNew && !this.#marked.has(mailbox)) await markOld(session, messages, mailbox, begin)
          this.#marked.add(mailbox)
          const until = isLast ? undefined : Date.now() + PATIENCE
          return (await select(session, messages, mailbox, filters, expect, until)).length
        }),
      )
      for (const result of await Promise.allSettled(looks)) {
        if (result.status === 'rejected') throw result.reason
        found += result.value
      }
    }
    return found
  }
}

/** The mailbox, of several, that has the newest of the mails that match. */
export async function newestOf(server: Pop3Server, mailboxes: Mailbox[], filters: Filters): Promise<Mailbox[]> {
  const arrivals = mailboxes.map((mailbox) =>
    visit(server, mailbox, async (session, messages) => {
      const [message] = await select(session, messages, mailbox, filters, 1)
      const header = message && (await session.top(message).catch(() => undefined))
      return (header && readHeaders(header).arrived?.getTime()) ?? 0
    }),
  )
  const times = await Promise.all(arrivals)
  return mailboxes.filter((_, index) => index === times.indexOf(Math.max(...times)))
}

/** The names by which one reader of a mailbox keeps the others from deleting, see `claim`. */
export function claimsOf({ host, port }: Pop3Server, mailboxes: Mailbox[]): string[] {
  return mailboxes.map(({ account }) => `${host}:${port} ${account.replace(/\*.*/, '').toLowerCase()}`).sort()
}

/** What the first look finds is old, but for mail that arrived after the call, in a later second. */
async function markOld(session: Pop3Session, messages: Pop3Message[], { verdicts }: Mailbox, begin: number) {
  const newestFirst = messages.toReversed()
  let newer = 0
  for (const message of newestFirst) {
    const arrived = readHeaders(await session.top(message).catch(() => Buffer.alloc(0))).arrived
    if (arrived === undefined || arrived.getTime() <= begin) break
    newer++
  }
  for (const { uidl } of newestFirst.slice(newer)) verdicts.set(uidl, false)
}

/** True for a failure that may be gone at the next look: no connection, or a refusal for the moment. */
function isPassing(error: unknown): error is Failure {
  if (error instanceof Pop3Refusal) return error.isTemporary
  return error instanceof Failure && (error.exit === 'connection' || error.exit === 'timeout')
}

/**
 * Deletes by UIDL in a session of its own: the session that showed them may have ended meanwhile, where somebody reads
 * the output in a pager, and an interruption before this deletes nothing. Gives how many were deleted; others had taken
 * the rest. Throws a Failure `kept` where the server does not confirm it.
 */
export async function deleteMails(
  server: Pop3Server,
  { account, login }: Mailbox,
  uidls: Set<string>,
): Promise<number> {
  if (uidls.size === 0) return 0
  try {
    const session = await Pop3Session.open(server, login)
    try {
      const messages = (await session.list()).filter(({ uidl }) => uidls.has(uidl))
      for (const message of messages) await session.delete(message)
      await session.quit()
      return messages.length
    } finally {
      session.close()
    }
  } catch (error) {
    // Without an answer to QUIT nobody knows for sure.
    const doubt = error instanceof Pop3Refusal ? '' : ', as far as can be told'
    const which = `${mails(uidls.size)} of ${visibleLine(account)}`
    throw new Failure('kept', `${messageOf(error)}\nThe server kept the mail that was to be deleted${doubt}: ${which}.`)
  }
}

/** "1 mail", "2 mails". */
export function mails(count: number): string {
  return `${count} mail${count === 1 ? '' : 's'}`
}
