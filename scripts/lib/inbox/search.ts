/** What a request asks for. Mailpit's search: words, "phrases", field:text, is:, has:, before:, after:, larger:, smaller:; - or ! negates; and a wait until it finds something. */
import { type Address, toEnvelope } from '../mail/addresses.ts'
import { fold, matchesAddress } from '../mail/filters.ts'
import { bccOf, type Entry, envelopeOf, isRead, tagsOf } from './entry.ts'
import { HttpError, refuse } from './guard.ts'
import type { Change, Index } from './index.ts'

/** Seconds that a request may wait. */
const LONGEST = 600
/** Mails that are named where none matched. */
const INSTEAD = 20

export type Test = (entry: Entry) => boolean

/** A word of a query. `text` may also stand in the body, which Dovecot knows. */
interface Word {
  test: Test
  isNegated: boolean
  text?: string
}
export type Query = Word[]

const envelope = (entry: Entry): Address[] => envelopeOf(entry).map((address) => ({ name: '', address }))
const PEOPLE: Record<string, (entry: Entry) => Address[]> = {
  'to:': (entry) => [...entry.to, ...envelope(entry)],
  'from:': ({ from }) => from,
  'cc:': ({ cc }) => cc,
  'bcc:': bccOf,
  'reply-to:': ({ replyTo }) => replyTo,
  'addressed:': (entry) => [entry.to, entry.cc, entry.bcc, entry.from, entry.replyTo, envelope(entry)].flat(),
}
const TEXTS: Record<string, (entry: Entry, value: string) => boolean> = {
  'subject:': ({ subject }, value) => fold(subject).includes(value),
  'message-id:': ({ messageId }, value) => fold(messageId).includes(value.replace(/^<|>$/g, '')),
  'tag:': (entry, value) => tagsOf(entry).some((tag) => fold(tag) === value),
}
const STATES: Record<string, Test> = {
  'is:read': isRead,
  'is:unread': (entry) => !isRead(entry),
  'is:tagged': (entry) => tagsOf(entry).length > 0,
  'has:attachment': ({ attachments }) => attachments > 0,
  'has:inline': ({ inline }) => inline > 0,
}

/** Reads a query; its dates are meant in `zone`, as "Asia/Tokyo", or this machine's. Refuses with 400 what has no sense. */
export function parseQuery(query: string, zone?: string): Query {
  if (/[^\P{Cc}\s]/u.test(query)) refuse(400, 'query: a control character is in it')
  if (query.split('"').length % 2 === 0) refuse(400, `query: a quotation mark is missing: ${query}`)
  const words =
    query.match(/(?:"[^"]*"|[^\s"])+/g) ?? refuse(400, 'query is empty. Write to:someone@example.com or words')
  return words.map((word) => {
    const isNegated = /^[-!]./.test(word)
    const [, name = '', value = ''] = /^[-!]?([a-z-]+):(.*)$/is.exec(word) ?? []
    const text = (isNegated ? word.slice(1) : word).replaceAll('"', '').replace(/\s+/g, ' ')
    const test = fieldTest(name.toLowerCase(), value.replaceAll('"', '').trim(), zone)
    if (typeof test === 'string') refuse(400, `query: ${word}: ${test}`)
    if (typeof test === 'function') return { test, isNegated }
    if (!text.trim()) refuse(400, 'query: an empty phrase would match every mail')
    const folded = fold(text)
    return { test: ({ words }) => words.includes(folded), isNegated, text }
  })
}

/** The test of a field; what is wrong with its value; or undefined for a name that is no field. */
function fieldTest(name: string, value: string, zone: string | undefined): Test | string | undefined {
  const [people, text] = [PEOPLE[`${name}:`], TEXTS[`${name}:`]]
  const lower = fold(value)
  if ((people || text) && value === '') return `write ${name}: and a text`
  if (people) {
    const isWhole = /^[^\s@]+@[^\s@]+$/.test(value)
    const isNamed = ({ name }: Address) => !isWhole && fold(name).includes(lower)
    // A header may have an internationalised domain in either form, a query as well.
    const wanted = isWhole ? toEnvelope(value.replace(/^<|>$/g, '')) : value
    const isWanted = (one: Address) => matchesAddress(wanted, isWhole ? toEnvelope(one.address) : one.address)
    // Most messages do not have it anywhere, which is seen at once.
    const rough = isWhole ? lower.replace(/@[^@]*$/, '') : lower
    return (entry) => entry.words.includes(rough) && people(entry).some((one) => isWanted(one) || isNamed(one))
  }
  if (text) return (entry) => text(entry, lower)
  if (name === 'is' || name === 'has') {
    return STATES[`${name}:${lower.replace(/s$/, '')}`] ?? `write ${Object.keys(STATES).join(', ')}`
  }
  if (name === 'larger' || name === 'smaller') {
    const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([km]?)b?$/.exec(lower) ?? []
    const bytes = Number(number) * { '': 1, k: 1024, m: 1024 ** 2 }[unit as '' | 'k' | 'm']
    if (Number.isNaN(bytes)) return 'write a number, as in larger:10k or smaller:2M'
    return ({ size }) => (name === 'larger' ? size > bytes : size < bytes)
  }
  if (name === 'before' || name === 'after') {
    const time = timeIn(value, zone)
    if (Number.isNaN(time)) return `write a date, as in ${name}:2026-11-26 or ${name}:"2026-11-26 14:30"`
    return ({ created }) => (name === 'before' ? created < time : created >= time)
  }
  return undefined
}

/** The milliseconds of a date. One that names no zone is meant in `zone`. */
function timeIn(text: string, zone: string | undefined): number {
  const time = Date.parse(/^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T00:00` : text)
  if (!zone || Number.isNaN(time) || /\d:\d.*(z|[+-]\d\d:?\d\d)$/i.test(text)) return time
  try {
    return 2 * time - Date.parse(new Date(time).toLocaleString('en-US', { timeZone: zone }))
  } catch {
    return refuse(400, `tz=${zone}: there is no such time zone`)
  }
}

/** Those of the messages that the query is true of. What the index knows is looked at first. */
export async function search(index: Index, query: Query, entries = index.all.list): Promise<Entry[]> {
  let found = entries
  const [inBodies, inHeads] = [query.filter(({ text }) => text), query.filter(({ text }) => !text)]
  for (const { test, isNegated } of inHeads) found = found.filter((entry) => test(entry) !== isNegated)
  for (const { test, isNegated, text = '' } of inBodies) {
    const open = found.filter((entry) => !test(entry))
    const hits = open.length > 0 ? await index.containing(open, text) : new Set()
    found = found.filter((entry) => (test(entry) || hits.has(entry)) !== isNegated)
  }
  return found
}

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
