/** Mailpit's search: words, "phrases", field:text, is:, has:, before:, after:, larger:, smaller:, negated by - or !. */

import { matchesAddress } from '../mail/filters.ts'
import type { Address } from '../mail/mail.ts'
import { refuse } from './guard.ts'
import { bccOf, type Entry, envelopeOf, type Index, isRead, tagsOf } from './index.ts'

type Test = (entry: Entry) => boolean

/** A word of a query: true of a mail or not, which for some only Dovecot can tell, who reads them. */
interface Word {
  test: Test
  isNegated: boolean
  /** Text that may stand anywhere in a mail. */
  text?: string
}

export type Query = Word[]

const envelope = (entry: Entry) => envelopeOf(entry).map((address) => ({ name: '', address }))
const PEOPLE: Record<string, (entry: Entry) => Address[]> = {
  to: (entry) => [...entry.to, ...envelope(entry)],
  from: ({ from }) => from,
  cc: ({ cc }) => cc,
  bcc: bccOf,
  'reply-to': ({ replyTo }) => replyTo,
  addressed: (entry) => [...entry.to, ...entry.cc, ...entry.bcc, ...entry.from, ...entry.replyTo, ...envelope(entry)],
}
const STATES: Record<string, Test> = {
  'is:read': isRead,
  'is:unread': (entry) => !isRead(entry),
  'is:tagged': (entry) => tagsOf(entry).length > 0,
  'has:attachment': ({ attachments }) => attachments > 0,
  'has:attachments': ({ attachments }) => attachments > 0,
  'has:inline': ({ inline }) => inline > 0,
  'has:inlines': ({ inline }) => inline > 0,
}
const UNITS: Record<string, number> = { '': 1, b: 1, k: 1024, kb: 1024, m: 1024 ** 2, mb: 1024 ** 2 }

/** Reads a query. `zone`: the time zone of its dates, as "Asia/Tokyo". Refuses with 400 what cannot be understood. */
export function parseQuery(text: string, zone?: string): Query {
  if ((text.match(/"/g)?.length ?? 0) % 2 === 1) refuse(400, `query: a quotation mark is missing: ${text}`)
  const words = [...text.matchAll(/(?:"[^"]*"|[^\s"])+/g)].map(([word]) => word)
  if (words.length === 0) refuse(400, 'query is empty. Write words, to:someone@example.com, subject:"two words" ...')
  return words.map((word) => {
    const isNegated = /^[-!]./.test(word)
    return { isNegated, ...parseWord(isNegated ? word.slice(1) : word, zone) }
  })
}

function parseWord(word: string, zone: string | undefined): { test: Test; text?: string } {
  const [, field = '', quoted = ''] = /^([a-z-]+):(.*)$/is.exec(word) ?? []
  const name = field.toLowerCase()
  const value = quoted.replaceAll('"', '').trim()
  const lower = value.toLowerCase()
  const bad = (advice: string) => refuse(400, `query: ${word}: ${advice}`)
  const needed = () => value || bad(`write ${name}: and a text behind it`)
  const people = PEOPLE[name]
  if (people) {
    needed()
    const isWhole = /^[^\s@]+@[^\s@]+$/.test(value)
    return {
      test: (entry) =>
        people(entry).some(
          (one) => matchesAddress(value, one.address) || (!isWhole && one.name.toLowerCase().includes(lower)),
        ),
    }
  }
  if (name === 'subject') {
    needed()
    return { test: ({ subject }) => subject.toLowerCase().includes(lower) }
  }
  if (name === 'message-id') {
    const id = needed().toLowerCase().replace(/^<|>$/g, '')
    return { test: ({ messageId }) => messageId.toLowerCase().includes(id) }
  }
  if (name === 'tag') {
    needed()
    return { test: (entry) => tagsOf(entry).some((tag) => tag.toLowerCase() === lower) }
  }
  if (name === 'is' || name === 'has') {
    return { test: STATES[`${name}:${lower}`] ?? bad(`write ${Object.keys(STATES).join(', ')}`) }
  }
  if (name === 'larger' || name === 'smaller') {
    const [, number, unit = ''] = /^(\d+(?:\.\d+)?)\s*([kmb]{0,2})$/.exec(lower) ?? []
    const bytes = Number(number) * (UNITS[unit] ?? Number.NaN)
    if (Number.isNaN(bytes)) bad('write a number, as in larger:10k or smaller:2M')
    return { test: ({ size }) => (name === 'larger' ? size > bytes : size < bytes) }
  }
  if (name === 'before' || name === 'after') {
    const time = timeIn(value, zone)
    if (Number.isNaN(time)) bad(`write a date, as in ${name}:2026-11-26 or ${name}:"2026-11-26 14:30"`)
    return { test: ({ created }) => (name === 'before' ? created < time : created >= time) }
  }
  const text = word.replaceAll('"', '')
  if (text.trim() === '') refuse(400, 'query: an empty phrase would match every mail')
  const wanted = text.toLowerCase()
  const stands = (where: string) => where.toLowerCase().includes(wanted)
  return {
    text,
    test: (entry) =>
      [entry.subject, entry.messageId].some(stands) ||
      PEOPLE.addressed?.(entry).some((one) => stands(one.name) || stands(one.address)) === true,
  }
}

/** The milliseconds of a date; one without a zone is meant in that zone, by default this machine's. */
function timeIn(text: string, zone: string | undefined): number {
  const hasZone = /(?:z|[+-]\d\d:?\d\d)$/i.test(text) && /\d:\d\d/.test(text)
  if (!/^\d{4}-\d\d?(-\d\d?)?/.test(text) || hasZone) return Date.parse(text)
  const local = Date.parse(`${text.includes(':') ? text : `${text} 00:00`}`)
  if (!zone || Number.isNaN(local)) return local
  try {
    const there = new Date(new Date(local).toLocaleString('en-US', { timeZone: zone })).getTime()
    return local + (local - there)
  } catch {
    return refuse(400, `tz=${zone}: no such time zone`)
  }
}

/** The messages that a query is true of, in their order. What the index knows is looked at first. */
export async function search(index: Index, query: Query, entries = index.list()): Promise<Entry[]> {
  let found = entries.filter((entry) =>
    query.every(({ test, isNegated, text }) => {
      const isTrue = test(entry)
      // A text that does not stand in the headers may stand in the body.
      return text === undefined || isTrue ? isTrue !== isNegated : true
    }),
  )
  for (const { text, test, isNegated } of query) {
    if (text === undefined || found.length === 0) continue
    const open = found.filter((entry) => !test(entry))
    const inBody = open.length > 0 ? await index.containing(open, text) : new Set()
    found = found.filter((entry) => (test(entry) || inBody.has(entry)) !== isNegated)
  }
  return found
}
