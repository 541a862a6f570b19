/** Finds the mails that are wanted in mailboxes: those that are there, or by looking again until they are. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Login } from '../accounts/accounts.ts'
import { Failure } from '../cli.ts'
import { behind, type Filters } from './filters.ts'
import { Mail } from './mail.ts'
import { type Pop3Message, Pop3Refusal, type Pop3Server, Pop3Session } from './pop3.ts'

export interface Mailbox {
  account: string
  login: Login
  /** Which messages match, by UIDL: each is fetched once to find out. */
  verdicts: Map<string, boolean>
}

/** Milliseconds from the beginning of one look at a mailbox to the next: a mail is found well within 250 ms of being readable. */
const INTERVAL = 100
/** Mailboxes that are looked into at the same time, by one connection each. Dovecot takes 100 logins at once, and ten
 * connections of one user (mail_max_userip_connections). */
const AT_ONCE = 10

/** Opens a mailbox, does some work with the messages that are there, or the newest `limit` of them, and leaves. */
export async function visit<T>(
  server: Pop3Server,
  { login }: Mailbox,
  work: (session: Pop3Session, messages: Pop3Message[]) => Promise<T>,
  limit?: number,
): Promise<T> {
  const session = await Pop3Session.open(server, login)
  try {
    const result = await work(session, await session.list(limit))
    // Nothing is deleted by this session, so nothing depends on the server's answer.
    await session.quit().catch(() => {})
    return result
  } finally {
    session.close()
  }
}

/** The messages that match, oldest first, and of them the newest `limit`. */
export async function select(
  session: Pop3Session,
  messages: Pop3Message[],
  { verdicts }: Mailbox,
  { matchesHeader, matchesBody, last, unseenSince }: Filters,
  limit = last,
): Promise<Pop3Message[]> {
  const candidates = [...(unseenSince === undefined ? messages : behind(messages, unseenSince))].reverse()
  if (!matchesHeader && !matchesBody) {
    for (const { uidl } of candidates) if (!verdicts.has(uidl)) verdicts.set(uidl, true)
  }
  const selected: Pop3Message[] = []
  let next = 0
  const isEnough = () => {
    // Newest first, up to the first that is not judged yet.
    for (; selected.length < limit && next < candidates.length; next++) {
      const message = candidates[next] as Pop3Message
      const verdict = verdicts.get(message.uidl)
      if (verdict === undefined) return false
      if (verdict) selected.push(message)
    }
    return true
  }
  if (!isEnough()) {
    const unknown = candidates.slice(next).filter(({ uidl }) => !verdicts.has(uidl))
    for await (const [{ uidl }, raw] of session.each(unknown, matchesBody ? 'RETR' : 'TOP')) {
      const mail = new Mail(raw)
      verdicts.set(uidl, (matchesHeader?.(mail) ?? true) && (matchesBody?.(mail) ?? true))
      if (isEnough()) break
    }
  }
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
  /** The time of the call and when the wait ends, in milliseconds since 1970. */
  begin: number
  end: number
}

/**
 * Looks into the mailboxes until enough mails match: once by `firstLook`, which gives undefined when that was not
 * enough and there is time left; and again and again by `untilFound`. Both give how many mails match when it is over;
 * their UIDLs are in the verdicts then. A server that is not up yet, or busy, is tried again; what it said last is
 * thrown when it never answered in all the time.
 */
export function waitForMail(wait: Wait) {
  const old = new Set<Mailbox>()
  let failure: Failure | undefined
  let found: number | undefined

  async function look(): Promise<number | undefined> {
    try {
      found = await lookIntoAll(wait, old)
    } catch (error) {
      if (!isPassing(error)) throw error
      failure = error
    }
    if (found !== undefined && found >= wait.expect) return found
    if (Date.now() < wait.end) return undefined
    if (failure && found === undefined) throw failure
    return found
  }

  async function untilFound(): Promise<number> {
    let spent = 0
    for (;;) {
      // A session sees the mailbox as it was at login (RFC 1939 section 5), so each look is a connection of its own:
      // one at a time for a mailbox, and no more than ten a second.
      await sleep(Math.min(Math.max(INTERVAL - spent, INTERVAL / 4), Math.max(0, wait.end - Date.now())))
      const begin = Date.now()
      const result = await look()
      spent = Date.now() - begin
      if (result !== undefined) return result
    }
  }
  return { firstLook: look, untilFound }
}

async function lookIntoAll(wait: Wait, old: Set<Mailbox>): Promise<number> {
  const { mailboxes, filters, expect, onlyNew } = wait
  // A server that stops talking must not keep the wait much longer than its time.
  const timeout = Math.min(wait.server.timeout, Math.max(1_000, wait.end - Date.now()))
  const server = { ...wait.server, timeout }
  let found = 0
  for (let next = 0; next < mailboxes.length; next += AT_ONCE) {
    const looks = mailboxes.slice(next, next + AT_ONCE).map((mailbox) =>
      visit(server, mailbox, async (session, messages) => {
        if (onlyNew && !old.has(mailbox)) await markOld(session, messages, mailbox, wait.begin)
        old.add(mailbox)
        return (await select(session, messages, mailbox, filters, expect)).length
      }),
    )
    const results = await Promise.allSettled(looks)
    for (const result of results) {
      if (result.status === 'rejected') throw result.reason
      found += result.value
    }
  }
  return found
}

/** What the first look finds is old, but for mail that arrived after the call, in a later second. */
async function markOld(session: Pop3Session, messages: Pop3Message[], { verdicts }: Mailbox, begin: number) {
  let isOld = false
  for (const message of [...messages].reverse()) {
    const arrived: Date | undefined = isOld ? undefined : new Mail(await session.top(message)).arrived
    isOld ||= arrived === undefined || arrived.getTime() <= begin
    if (isOld) verdicts.set(message.uidl, false)
  }
}

/** True for a failure that may be gone at the next look: no connection, or a refusal for the moment. */
function isPassing(error: unknown): error is Failure {
  if (error instanceof Pop3Refusal) return error.isTemporary
  return error instanceof Failure && (error.exit === 'connection' || error.exit === 'timeout')
}
