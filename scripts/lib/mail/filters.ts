/** Which mails are wanted: the filters of pop_email, from the words of the command line to a test of a mail. */
import vm from 'node:vm'
import { Failure } from '../cli.ts'
import type { Address, Mail } from './mail.ts'
import type { Pop3Message } from './pop3.ts'

/** For `parseArgs`. A filter that is given twice has to match twice. */
export const FILTER_OPTIONS = {
  from: { type: 'string', multiple: true },
  to: { type: 'string', multiple: true },
  subject: { type: 'string', multiple: true },
  body: { type: 'string', multiple: true },
  'message-id': { type: 'string', multiple: true },
  since: { type: 'string' },
  last: { type: 'string' },
  'unseen-since': { type: 'string' },
} as const

const TEXT_FILTERS = ['from', 'to', 'subject', 'message-id', 'body'] as const
type TextFilter = (typeof TEXT_FILTERS)[number]
export type FilterValues = Partial<Record<TextFilter, string[]>> & {
  since?: string
  last?: string
  'unseen-since'?: string
}

export interface Filters {
  /** Tests what a header shows. Undefined where no filter asks for it. */
  matchesHeader: ((mail: Mail) => boolean) | undefined
  /** Tests what only the whole mail shows. */
  matchesBody: ((mail: Mail) => boolean) | undefined
  /** At most so many, the newest of those that match. */
  last: number
  /** Only messages behind this one in the mailbox. */
  unseenSince: string | undefined
}

/** Milliseconds that a user's regular expression may take on one mail. */
const PATIENCE = 1_000
const UNITS = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Reads the options; `now` is what `--since` counts from. Throws a usage Failure that names the option. */
export function parseFilters(values: FilterValues, now: number): Filters {
  const tests = { header: [] as ((mail: Mail) => boolean)[], body: [] as ((mail: Mail) => boolean)[] }
  for (const name of TEXT_FILTERS) {
    for (const text of values[name] ?? []) {
      const matches = parseText(`--${name}`, text)
      tests[name === 'body' ? 'body' : 'header'].push((mail) => textsOf(mail, name).some(matches))
    }
  }
  if (values.since !== undefined) {
    const [, number, unit] = /^(\d{1,9}(?:\.\d{1,3})?)([smhd])$/.exec(values.since) ?? []
    if (!number) throw new Failure('usage', `--since ${values.since}: write a number and s, m, h or d, as in 5m.`)
    // Times of arrival are whole seconds.
    const earliest = Math.floor((now - Number(number) * UNITS[unit as keyof typeof UNITS]) / 1_000) * 1_000
    tests.header.push(({ arrived }) => arrived !== undefined && arrived.getTime() >= earliest)
  }
  const unseenSince = values['unseen-since']
  // RFC 1939 section 7: 1 to 70 printable ASCII characters.
  if (unseenSince !== undefined && !/^[\x21-\x7e]{1,70}$/.test(unseenSince)) {
    throw new Failure('usage', `--unseen-since ${JSON.stringify(unseenSince)}: not a UIDL. --list shows them.`)
  }
  const all = (list: ((mail: Mail) => boolean)[]) =>
    list.length > 0 ? (mail: Mail) => list.every((matches) => matches(mail)) : undefined
  return {
    matchesHeader: all(tests.header),
    matchesBody: all(tests.body),
    last: values.last === undefined ? Number.POSITIVE_INFINITY : parseCount('--last', values.last),
    unseenSince,
  }
}

/** Reads a count of mails, 1 or more. Throws a usage Failure. */
export function parseCount(option: string, text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new Failure('usage', `${option} ${text}: a number of mails, 1 or more.`)
  return Number(text)
}

/**
 * The messages behind the one with this UIDL. Where that was deleted meanwhile, Dovecot's UIDLs still tell: 8 hex
 * digits of a UID that only grows, 8 of the mailbox's UIDVALIDITY. Throws a usage Failure where nothing tells.
 */
export function behind(messages: Pop3Message[], uidl: string): Pop3Message[] {
  const index = messages.findIndex((message) => message.uidl === uidl)
  if (index >= 0) return messages.slice(index + 1)
  const validity = /^[0-9a-f]{8}([0-9a-f]{8})$/.exec(uidl)?.[1]
  const isComparable = (other: string) => validity !== undefined && other.length === 16 && other.endsWith(validity)
  if (!messages.every((message) => isComparable(message.uidl))) {
    throw new Failure('usage', `--unseen-since ${uidl}: this mailbox has no mail of that UIDL. --list shows them.`)
  }
  return messages.filter((message) => message.uidl > uidl)
}

/** `/regex/flags`, or text that has to occur, in whatever letter case. */
function parseText(option: string, text: string): (candidate: string) => boolean {
  if (text === '') throw new Failure('usage', `${option} is empty and would match every mail. Leave it out for that.`)
  const [, pattern, flags = ''] = /^\/(.+)\/([a-z]*)$/s.exec(text) ?? []
  if (pattern === undefined) {
    const wanted = fold(text)
    return (candidate) => fold(candidate).includes(wanted)
  }
  let regex: RegExp
  try {
    // "g" and "y" would make the next test begin where the last one ended.
    regex = new RegExp(pattern, new RegExp('', flags).flags.replace(/[gy]/g, ''))
  } catch (error) {
    throw new Failure('usage', `${option} ${text}: ${(error as Error).message}.`)
  }
  // An expression like /(a+)+$/ can run for years. The sandbox is what gives it a deadline.
  const script = new vm.Script('regex.test(candidate)')
  const context = vm.createContext({ regex, candidate: '' })
  return (candidate) => {
    context.candidate = candidate
    try {
      return script.runInContext(context, { timeout: PATIENCE })
    } catch {
      throw new Failure('usage', `${option} ${text}: takes more than ${PATIENCE / 1000} s on one mail. Simplify it.`)
    }
  }
}

/** Equal for texts that differ in letter case, or in how an accent is composed. */
function fold(text: string): string {
  return text.normalize('NFC').toLowerCase()
}

/** What a filter looks at. An address is tried with its name and alone, so that `/^foo@/` finds it. */
function textsOf(mail: Mail, filter: TextFilter): string[] {
  const addresses = (list: Address[]) => list.flatMap(({ name, address }) => [`${name} <${address}>`, address])
  switch (filter) {
    case 'from':
      return [...addresses(mail.from), mail.header('from') ?? '']
    case 'to':
      return [...addresses(mail.to), mail.header('to') ?? '', mail.envelopeRecipient ?? '']
    case 'subject':
      return [mail.subject]
    case 'message-id':
      return [mail.messageId ?? '']
    case 'body':
      return [mail.readableText, mail.html ?? '']
  }
}
