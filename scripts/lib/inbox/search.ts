/** Mailpit's search: words, "phrases", field:text, is:, has:, before:, after:, larger:, smaller:; - or ! negates. */
import { type Address, toEnvelope } from '../mail/addresses.ts'
import { fold, matchesAddress } from '../mail/filters.ts'
import { bccOf, type Entry, envelopeOf, isRead, tagsOf } from './entry.ts'
import { refuse } from './guard.ts'
import type { Index } from './index.ts'

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
