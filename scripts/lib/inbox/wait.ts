/** A wait in one request: the answer comes as soon as a mail matches. */
import type { Entry } from './entry.ts'
import { HttpError, refuse } from './guard.ts'
import type { Change, Index } from './index.ts'
import { type Query, search, type Test } from './search.ts'

/** Seconds that a request may wait. */
const LONGEST = 600
/** Mails that are named where none matched. */
const INSTEAD = 20

/** Reads `wait=` (seconds) and `since=` (which mail is new enough). Refuses with 400 what makes no sense. */
export function parseWait(params: URLSearchParams, { arrivals }: Index): { seconds: number; isNew: Test } {
  const { wait = '0', since = '' } = Object.fromEntries(params)
  const seconds = /^\d+(\.\d+)?$/.test(wait) ? Number(wait) : Number.NaN
  if (!(seconds <= LONGEST)) refuse(400, `wait=${wait}: write seconds, 0 to ${LONGEST}`)
  if (!params.has('since')) return { seconds, isNew: () => true }
  if (since === 'now') return { seconds, isNew: ({ arrival }) => arrival > arrivals }
  // ISO 8601 alone: what else Date.parse takes, it guesses at. The plus sign of a zone that nobody encoded is a space.
  const iso = since.replace(/(:\d\d(?:\.\d+)?) (?=\d\d:?\d\d$)/, '$1+')
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(iso) ? Date.parse(iso) : Number.NaN
  if (Number.isNaN(time)) refuse(400, `since=${since}: write now, or a time as 2026-11-26T14:30:00Z`)
  return { seconds, isNew: ({ created }) => created >= time }
}

/**
 * The messages that match: those that are there, else the first that comes. Rejects with 404 and with what came instead
 * when the time is up, or when `gone` says that nobody listens any more.
 */
export async function waitFor(
  index: Index,
  query: Query,
  seconds: number,
  isWanted: Test,
  summaryOf: (entry: Entry) => object,
  gone: AbortSignal,
): Promise<Entry[]> {
  const before = index.arrivals
  let settle: (found: Entry[]) => void = () => {}
  const over = new Promise<Entry[]>((resolve) => {
    settle = resolve
  })
  const look = async ({ type, entry }: Change) => {
    const entries = type === 'server' ? index.all.list : entry && type !== 'delete' ? [entry] : []
    // While the server is away no body can be read; when it is back, all is looked at anew.
    const found = await search(index, query, entries.filter(isWanted)).catch(() => [])
    if (found.length > 0) settle(found)
  }
  const timer = setTimeout(() => settle([]), seconds * 1_000)
  gone.addEventListener('abort', () => settle([]))
  const unfollow = index.follow('waiting')
  index.on('change', look)
  if (gone.aborted) settle([])
  else void look({ type: 'server' })

  const found = await over
  clearTimeout(timer)
  index.off('change', look)
  unfollow()
  if (found.length > 0) return found
  const came = index.all.list.filter(({ arrival }) => arrival > before)
  throw new HttpError(404, `No matching mail within ${seconds} s`, { Instead: came.slice(0, INSTEAD).map(summaryOf) })
}
