/** Waits in one request: the answer comes as soon as a mail matches. */
import { HttpError, refuse } from './guard.ts'
import type { Entry, Index } from './index.ts'
import { type Query, search } from './search.ts'

/** Seconds that a request may wait. */
const LONGEST = 600
/** Mails that are named where none matched. */
const SHOWN = 20

export interface Wait {
  seconds: number
  /** Whether a mail is new enough. */
  isNewer: (entry: Entry) => boolean
}

/** Reads `wait` and `since` of a request. Refuses with 400 what cannot be understood. */
export function parseWait(params: URLSearchParams, index: Index): Wait {
  const wait = params.get('wait')
  const since = params.get('since')
  const seconds = Number(wait ?? 0)
  if (wait !== null && (!/^\d+(\.\d+)?$/.test(wait) || seconds > LONGEST)) {
    refuse(400, `wait=${wait}: write seconds, 0 to ${LONGEST}`)
  }
  if (since === null) return { seconds, isNewer: () => true }
  const before = index.arrivals
  if (since === 'now') return { seconds, isNewer: ({ arrival }) => arrival > before }
  // ISO 8601 alone: what else Date.parse takes is guesswork.
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(since) ? Date.parse(since) : Number.NaN
  if (Number.isNaN(time)) refuse(400, `since=${since}: write now, or a time as 2026-11-26T14:30:00Z`)
  return { seconds, isNewer: ({ created }) => created >= time }
}

/**
 * The messages that match, newest first: those that are there, else the first that comes in time. Refuses with 404 and what
 * came instead when the time is up; gives up silently when `signal` says that nobody listens any more.
 */
export async function waitFor(
  index: Index,
  query: Query,
  { seconds, isNewer }: Wait,
  isWanted: (entry: Entry) => boolean,
  summary: (entry: Entry) => unknown,
  signal: AbortSignal,
): Promise<Entry[]> {
  const begin = index.arrivals
  const isCandidate = (entry: Entry) => isNewer(entry) && isWanted(entry)
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer)
      index.waiting--
      index.off('new', look).off('update', look).off('server', lookAtAll)
      signal.removeEventListener('abort', end)
    }
    const lookAt = async (entries: Entry[]) => {
      const found = await search(index, query, entries.filter(isCandidate))
      if (found.length === 0) return
      end()
      resolve(found)
    }
    // While the server is away a body cannot be read; when it is back, all is looked at anew.
    const look = (entry: Entry) => void lookAt([entry]).catch(() => {})
    const lookAtAll = () => void lookAt(index.list()).catch(() => {})
    const timer = setTimeout(() => {
      end()
      const instead = index.list().filter(({ arrival }) => arrival > begin)
      const facts = { Instead: instead.slice(0, SHOWN).map(summary) }
      reject(new HttpError(404, `No matching mail within ${seconds} s`, facts))
    }, seconds * 1_000)
    index.waiting++
    index.on('new', look).on('update', look).on('server', lookAtAll)
    signal.addEventListener('abort', end)
    index.hurry()
    // What came before somebody listened.
    lookAtAll()
  })
}
