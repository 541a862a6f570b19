/** The options of send_email that say what to send and to whom: checked, files read, and made into messages. */
import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { buffer } from 'node:stream/consumers'
import type { parseArgs } from 'node:util'
import { BAR, FOO } from '../accounts/accounts.ts'
import { Failure, type Io, messageOf } from '../cli.ts'
import { UNREADABLE } from '../settings.ts'
import { type Address, parseAddressList, problemOfAddress, toEnvelope } from './addresses.ts'
import { MANY, match, ONE } from './client_options.ts'
import type { Envelope, Outgoing } from './delivery.ts'
import { compose, type Draft, type Message } from './message.ts'

/** The options that only a composed message has; `--eml` is sent as it is. */
const COMPOSE_OPTIONS = {
  ...{ 'reply-to': MANY, subject: ONE, text: ONE, html: ONE, attach: MANY, inline: MANY, calendar: ONE, header: MANY },
  ...{ 'message-id': ONE, 'in-reply-to': ONE, date: ONE },
} as const
/** For `parseArgs`. */
export const MAIL_OPTIONS = {
  ...{ from: MANY, to: MANY, cc: MANY, bcc: MANY, 'envelope-from': ONE, 'envelope-to': MANY, eml: ONE },
  ...COMPOSE_OPTIONS,
} as const
export type MailValues = ReturnType<typeof parseArgs<{ options: typeof MAIL_OPTIONS }>>['values']

/** Header fields that have an option of their own, and those that only a message sent as it is may choose. */
const OWN_OPTION = /^(?:resent-(?=bcc))?(from|to|cc|bcc|reply-to|subject|date|message-id|in-reply-to)$/i
const OF_EML = /^(?:mime-version|content-(?:type|transfer-encoding|disposition))$/i

const SUBJECT = 'テストメール: 開発用メールサーバーから、ふうーがバーに送るメールの、とても長い件名です'
const testText = () => `バーさん、こんにちは。\n\nこのメールは ${new Date().toISOString()} に送られました。\n\nふうー\n`

/** How options become messages beyond their own values. */
export interface MailContext {
  /** With `--count`: `{n}` stands for the message's number. */
  numbered: boolean
  /** The user of the login, who is the sender where no other is named and the name is an address. */
  user: string | undefined
  io: Pick<Io, 'stdin' | 'say'>
}

/**
 * Checks the options, reads the files that they name, and gives the function that makes message `n`. Throws a usage
 * Failure that names the option, before anything is sent.
 */
export async function mailMaker(values: MailValues, context: MailContext): Promise<(n: number) => Promise<Outgoing>> {
  const composing = Object.keys(COMPOSE_OPTIONS).find((name) => values[name as keyof typeof COMPOSE_OPTIONS])
  if (values.eml !== undefined && composing) {
    throw new Failure('usage', `--${composing}: --eml sends the message as it is. Leave one of the two out.`)
  }
  const make =
    values.eml === undefined ? await readDraft(values, context) : await readReady(values, values.eml, context)
  // The first message stands for all: the numbers that replace {n} cannot break an address or a header.
  make(1)
  return async (n) => {
    const { envelope, message } = make(n)
    return { envelope, ...('bytes' in message ? message : await compose(message)) }
  }
}

async function readDraft(values: MailValues, context: MailContext) {
  const text = await readText('text', values.text, context)
  const html = await readText('html', values.html, context)
  const calendar = values.calendar === undefined ? undefined : decode('calendar', readFile('calendar', values.calendar))
  const attachments = [...(values.attach ?? []).map(readAttachment), ...(values.inline ?? []).map(readInline)]
  const headers = (values.header ?? []).map(readHeader)
  const date = values.date === undefined ? undefined : readDate(values.date)
  const hasContent = [text, html, calendar].some((part) => part !== undefined)
  return (n: number): { envelope: Envelope; message: Draft } => {
    const { fill, list, envelopeOf } = numbered(values, context, n)
    const from = list('from') ?? [defaultSender(context)]
    const to = list('to') ?? (isAddressed(values) ? [] : [{ name: 'バー', address: BAR }])
    const cc = list('cc') ?? []
    const message: Draft = {
      ...{ from, to, cc, replyTo: list('reply-to') },
      subject: fill(values.subject ?? SUBJECT),
      text: hasContent ? text && fill(text) : testText(),
      html: html && fill(html),
      ...{ calendar, attachments, date },
      headers: headers.map(({ name, value }) => ({ name, value: fill(value) })),
      messageId: readMessageId('message-id', values['message-id'] && fill(values['message-id'])),
      inReplyTo: readMessageId('in-reply-to', values['in-reply-to']),
    }
    return { envelope: envelopeOf(from, [...to, ...cc, ...(list('bcc') ?? [])]), message }
  }
}

async function readReady(values: MailValues, path: string, context: MailContext) {
  const { prepareEml } = await import('./eml.ts')
  const bytes = path === '-' ? await buffer(context.io.stdin) : readFile('eml', path)
  const { addressesIn, before, ...message } = prepareEml(bytes)
  const needsSender = values.from === undefined && values['envelope-from'] === undefined
  let senders: Address[] = []
  let recipients: Address[] = []
  try {
    if (needsSender) senders = addressesIn('Sender')
    if (needsSender && senders.length === 0) senders = addressesIn('From')
    if (!isAddressed(values)) recipients = ['To', 'Cc', 'Bcc'].flatMap(addressesIn)
  } catch (error) {
    throw new Failure('usage', `--eml ${path}: ${messageOf(error)}. Name the envelope: --from, --to`)
  }
  if (!isAddressed(values) && recipients.length === 0) {
    throw new Failure('usage', `--eml ${path}: no recipient in its To, Cc and Bcc. Name one: --to`)
  }
  if (before) {
    context.io.say(`--eml ${path} begins with ${before}, which is sent as well: servers may take the header for text.`)
  }
  return (n: number): { envelope: Envelope; message: Message } => {
    const { list, envelopeOf } = numbered(values, context, n)
    const from = list('from') ?? [...senders, defaultSender(context)]
    const to = (['to', 'cc', 'bcc'] as const).flatMap((name) => list(name) ?? [])
    return { message, envelope: envelopeOf(from, [...recipients, ...to]) }
  }
}

/** Whether an option names any recipient; then neither bar nor the header of a ready message is one. */
function isAddressed({ to, cc, bcc, 'envelope-to': envelopeTo }: MailValues): boolean {
  return [to, cc, bcc, envelopeTo].some((list) => list !== undefined)
}

/** Reads the values as message `n` has them. */
function numbered(values: MailValues, context: MailContext, n: number) {
  const fill = (text: string) => (context.numbered ? text.replaceAll('{n}', String(n)) : text)

  /** The addresses of an option, undefined where it is not given. */
  function list(option: 'from' | 'to' | 'cc' | 'bcc' | 'reply-to' | 'envelope-from' | 'envelope-to') {
    if (values[option] === undefined) return undefined
    try {
      const addresses = [values[option]].flat().flatMap((text) => parseAddressList(fill(text)))
      if (addresses.length === 0) throw new Error('no address in it')
      return addresses
    } catch (error) {
      throw new Failure('usage', `--${option} ${messageOf(error)}.`)
    }
  }

  function envelopeOf(senders: Address[], recipients: Address[]): Envelope {
    const to = (list('envelope-to') ?? recipients).map(({ address }) => toEnvelope(address))
    // The null sender, which nothing bounces to (RFC 5321 section 4.5.5).
    const isNull = /^(?:\s*|<>)$/.test(values['envelope-from'] ?? 'not given')
    const given = isNull ? [] : list('envelope-from')
    if (given && given.length > 1) throw new Failure('usage', '--envelope-from: an envelope has one sender.')
    return { from: toEnvelope((given ?? senders)[0]?.address ?? ''), to: [...new Set(to)] }
  }
  return { fill, list, envelopeOf }
}

function defaultSender({ user = FOO }: MailContext): Address {
  // A master user's login, "account*master", is no address.
  const isAddress = /^[^*]+@[^*]+$/.test(user) && !problemOfAddress(user)
  return isAddress && user.toLowerCase() !== FOO ? { name: '', address: user } : { name: 'ふうー', address: FOO }
}

type Option = keyof typeof MAIL_OPTIONS

/** The bytes of a file that an option names. */
function readFile(option: Option, path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    const fact = UNREADABLE[(error as NodeJS.ErrnoException).code ?? ''] ?? messageOf(error)
    throw new Failure('usage', `--${option} ${JSON.stringify(path)}: ${fact}. Nothing was sent.`)
  }
}

/** A text: the value itself, `@FILE`, or `-` for stdin. */
async function readText(option: 'text' | 'html', value: string | undefined, { io }: MailContext) {
  if (value === '-') return decode(option, await buffer(io.stdin))
  return value?.startsWith('@') ? decode(option, readFile(option, value.slice(1))) : value
}

function decode(option: Option, bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new Failure('usage', `--${option}: the text is not UTF-8. Convert it, or send the file: --attach`)
  }
}

function readAttachment(path: string) {
  return { filename: basename(path), content: readFile('attach', path) }
}

function readInline(value: string) {
  const rule = 'write CID=FILE; a CID is ASCII without spaces and <>'
  const [cid = '', path = ''] = match(typed('inline', value), value, /^([!-;=?-~]+?)=(.+)$/, rule)
  return { filename: basename(path), content: readFile('inline', path), cid }
}

function readHeader(text: string): { name: string; value: string } {
  const rule = "write 'Name: value'; a name is ASCII without spaces"
  const [name = '', value = ''] = match(typed('header', text), text, /^([!-9;-~]+):\s*(\S.*)$/, rule)
  const option = OF_EML.test(name) ? 'eml' : OWN_OPTION.exec(name)?.[1]?.toLowerCase()
  if (option) throw new Failure('usage', `--header ${name}: this field has its own option, --${option}.`)
  return { name, value }
}

function readMessageId(option: 'message-id' | 'in-reply-to', value: string | undefined): string | undefined {
  if (value === undefined) return undefined
  const rule = 'write <unique@domain>, ASCII without spaces'
  return `<${match(typed(option, value), value.trim(), /^<?([!-;=?-~]+)>?$/, rule)[0]}>`
}

const typed = (option: Option, value: string) => `--${option} ${JSON.stringify(value)}`

const RFC_5322_DATE = /^(?:[A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d(?::\d\d)? (?:[+-]\d{4}|GMT|UT)$/
const ISO_8601_DATE = /^\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?$/

/** A date of RFC 5322 stays as it was typed, with its time zone. */
function readDate(value: string): string | Date {
  const date = Number.isNaN(Date.parse(value)) ? 'none' : value
  const rule = "write 'Tue, 1 Jul 2025 09:00:00 +0900' or 2025-07-01T09:00+09:00"
  if (!RFC_5322_DATE.test(date)) match(typed('date', value), date, ISO_8601_DATE, rule)
  return RFC_5322_DATE.test(date) ? value : new Date(value)
}
