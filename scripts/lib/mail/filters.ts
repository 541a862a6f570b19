/** Which mails are wanted: the filters of pop_email, from the words of the command line to a test of a mail. */
import { Failure } from '../cli.ts'
import { MANY, match, ONE } from './client_options.ts'
import type { Headers, Mail } from './mail.ts'

/** For `parseArgs`. A filter that is given twice has to match twice. */
export const FILTER_OPTIONS = {
  ...{ from: MANY, to: MANY, subject: MANY, body: MANY, 'message-id': MANY, since: ONE, last: ONE },
} as const

const HEADER_FILTERS = ['from', 'to', 'subject', 'message-id'] as const
type HeaderFilter = (typeof HEADER_FILTERS)[number]
export type FilterValues = Partial<Record<HeaderFilter | 'body', string[]>> & { since?: string; last?: string }

export interface Filters {
  /** Tests what a header shows. Undefined where no filter asks for it. */
  matchesHeader: ((mail: Headers) => boolean) | undefined
  /** Tests what only the whole mail shows. */
  matchesBody: ((mail: Mail) => boolean) | undefined
  /** At most so many, the newest of those that match. */
  last: number
}

/** In milliseconds. */
const UNITS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Reads the options; `now` is what `--since` counts from. Throws a usage Failure that names the option. */
export function parseFilters({ since, last, ...values }: FilterValues, now: number): Filters {
  const patterns = (name: HeaderFilter | 'body') => (values[name] ?? []).map((text) => parseText(`--${name}`, text))
  const header = HEADER_FILTERS.flatMap((name) =>
    patterns(name).map((pattern) => (mail: Headers) => testHeader(mail, name, pattern)),
  )
  const body = patterns('body')
  if (since !== undefined) {
    const age = parseTime(`--since ${since}`, since, 'write a number and s, m, h or d, as in 5m')
    // Times of arrival are whole seconds.
    const earliest = Math.floor((now - age) / 1_000) * 1_000
    header.push(({ arrived }) => arrived !== undefined && arrived.getTime() >= earliest)
  }
  return {
    matchesHeader: header.length > 0 ? (mail) => header.every((matches) => matches(mail)) : undefined,
    matchesBody:
      body.length > 0
        ? (mail) => body.every(({ test }) => test(mail.readableText) || test(mail.html ?? ''))
        : undefined,
    last: last === undefined ? Number.POSITIVE_INFINITY : parseCount('--last', last),
  }
}

/** The milliseconds of a time with its unit. Throws a usage Failure with the rule. */
export function parseTime(typed: string, text: string, rule: string): number {
  const [number, unit = ''] = match(typed, text, /^(\d{1,9}(?:\.\d+)?)(ms|s|m|h|d)$/, rule)
  return Number(number) * (UNITS[unit] ?? 1)
}

/** Reads a count of mails, 1 or more. Throws a usage Failure. */
export function parseCount(option: string, text: string): number {
  match(`${option} ${text}`, text, /^[1-9]\d{0,8}$/, 'a number of mails, 1 or more')
  return Number(text)
}

/** What was asked for: a test of a text and, where it is an address, that address, folded. */
export interface Pattern {
  test: (text: string) => boolean
  address: string | undefined
}

/** `/regex/flags`, or text that has to occur, in whatever letter case. Throws a usage Failure that names the option. */
export function parseText(option: string, text: string): Pattern {
  if (text === '') throw new Failure('usage', `${option} is empty and would match every mail. Leave it out for that.`)
  const [, pattern, flags = ''] = /^\/(.+)\/([a-z]*)$/s.exec(text) ?? []
  if (pattern === undefined) {
    const wanted = fold(text)
    return { test: (candidate) => fold(candidate).includes(wanted), address: givenAddress(text) }
  }
  try {
    // "g" and "y" would make the next test begin where the last one ended.
    const regex = new RegExp(pattern, new RegExp('', flags).flags.replace(/[gy]/g, ''))
    return { test: (candidate) => regex.test(candidate), address: undefined }
  } catch (error) {
    throw new Failure('usage', `${option} ${text}: ${(error as Error).message}.`)
  }
}

/**
 * Whether an address is the one that is given, `ann@shop.example`, or has the part that is given: `ann@`, `@shop.example`,
 * `shop`. Of `ann@shop` the part before the @ is whole.
 */
export function matchesAddress(pattern: string, address: string): boolean {
  const given = givenAddress(pattern)
  return given === undefined ? fold(address).includes(fold(pattern)) : isGiven(given, address)
}

function isGiven(given: string, address: string): boolean {
  const candidate = withoutQuotes(fold(address))
  return candidate === given || (!/@.*[.\]]/.test(given) && candidate.startsWith(given))
}

/** Of a caught mail to several, each of them has a copy in the catchall: whether this one is another's. */
function isForAnother({ headers, envelopeRecipient, to, cc }: Headers, address: string): boolean {
  const owner = headers.find(({ name }) => name.toLowerCase() === 'delivered-to')?.value ?? ''
  const recipient = fold(envelopeRecipient)
  if (recipient === '' || isGiven(address, recipient) || fold(owner) === recipient) return false
  return [...to, ...cc].some((one) => fold(one.address) === recipient)
}

/** The address in `ann@shop.example` or `Doe, Ann <ann@shop.example>`, folded; undefined for a part of one. */
function givenAddress(text: string): string | undefined {
  const [, address] = /^(?:[^<>]*<)?((?:"[^"]*"|[^\s@<>",]+)@[^\s@<>",]+?)>?$/.exec(text.trim()) ?? []
  return address === undefined ? undefined : withoutQuotes(fold(address))
}

const withoutQuotes = (address: string) => address.replace(/^"(.*)"@/, '$1@')

/** Equal for texts that differ in letter case, or in how an accent is composed. */
export const fold = (text: string) => text.normalize('NFC').toLowerCase()

/** An address is tried with its name and alone, so that `/^foo@/` finds it; a whole one is compared whole. */
function testHeader(mail: Headers, filter: HeaderFilter, { test, address }: Pattern): boolean {
  if (filter === 'subject') return test(mail.subject)
  if (filter === 'message-id') return test(mail.messageId)
  if (filter === 'to' && address !== undefined && isForAnother(mail, address)) return false
  const recorded = mail.envelopeRecipient === '' ? [] : [{ name: '', address: mail.envelopeRecipient }]
  const list = filter === 'from' ? mail.from : [...mail.to, ...recorded]
  if (address !== undefined) return list.some((one) => isGiven(address, one.address))
  const field = mail.headers.find(({ name }) => name.toLowerCase() === filter)?.value ?? ''
  return test(field) || list.some((one) => test(`${one.name} <${one.address}>`) || test(one.address))
}
