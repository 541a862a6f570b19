/** A wait in one request: the answer comes as soon as a mail matches. */
import type { Entry } from './entry.ts'
import { HttpError, refuse } from './guard.ts'
import type { Index } from './index.ts'
import { type Query, search } from './search.ts'

/** Seconds that a request may wait. */
const LONGEST = 600
/** Mails that are named where none matched. */
const INSTEAD = 20

/** Reads `wait=` (seconds) and `since=` (which mail is new enough). Refuses with 400 what makes no sense. */
export function parseWait(
  params: URLSearchParams,
  { arrivals }: Index,
): { seconds: number; isNew: (entry: Entry) => boolean } {
  const { wait = '0', ...others } = Object.fromEntries(params)
  // The plus sign of a zone that nobody encoded is a space.
  const since = (others.since ?? '').replace(/(:\d\d(?:\.\d+)?) (?=\d\d:?\d\d$)/, '$1+')
  const seconds = /^\d+(\.\d+)?$/.test(wait) ? Number(wait) : Number.NaN
  if (!(seconds <= LONGEST)) refuse(400, `wait=${wait}: write seconds, 0 to ${LONGEST}`)
  if (!params.has('since')) return { seconds, isNew: () => true }
  if (since === 'now') return { seconds, isNew: ({ arrival }) => arrival > arrivals }
  // ISO 8601 alone: what else Date.parse takes, it guesses at.
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(since) ? Date.parse(since) : Number.NaN
  if (Number.isNaN(time)) refuse(400, `since=${since}: write now, or a time as 2026-11-26T14:30:00Z`)
  return { seconds, isNew: ({ created }) => created >= time }
}

/**
 * The messages that match: those that are there, else the first that comes. Rejects with 404 and with what came instead
 * when the time is up; never settles when `signal` says that nobody listens any more.
 */
export function waitFor(
  index: Index,
  query: Query,
  seconds: number,
  isWanted: (entry: Entry) => boolean,
  summaryOf: (entry: Entry) => object,
  signal: AbortSignal,
): Promise<Entry[]> {
  const before = index.arrivals
  return new Promise((resolve, reject) => {
    const unfollow = index.follow('waiting')
    const lookAt = async (entries: Entry[]) => {
      const found = await search(index, query, entries.filter(isWanted))
      if (found.length > 0) end(() => resolve(found))
    }
    // While the server is away no body can be read; when it is back, all is looked at anew.
    const look = (entry: Entry) => void lookAt([entry]).catch(() => {})
    const lookAtAll = () => void lookAt(index.list()).catch(() => {})
    const end = (settle: () => void) => {
      clearTimeout(timer)
      index.off('new', look).off('update', look).off('server', lookAtAll)
      signal.removeEventListener('abort', leave)
      unfollow()
      settle()
    }
    const leave = () => end(() => {})
    const timer = setTimeout(() => {
      const came = index.list().filter(({ arrival }) => arrival > before)
      const facts = { Instead: came.slice(0, INSTEAD).map(summaryOf) }
      end(() => reject(new HttpError(404, `No matching mail within ${seconds} s`, facts)))
    }, seconds * 1_000)
    index.on('new', look).on('update', look).on('server', lookAtAll)
    signal.addEventListener('abort', leave)
    if (signal.aborted) leave()
    else lookAtAll()
  })
}
