/** The options of send_email that say what to send and to whom: checked, files read, and made into messages. */
import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { BAR, FOO } from '../accounts/accounts.ts'
import { Failure, type Io, messageOf } from '../cli.ts'
import { type Mailbox, parseAddressList, problemOfAddress, toEnvelope } from './addresses.ts'
import type { Outgoing } from './bulk.ts'
import type { Envelope } from './delivery.ts'
import { prepareEml } from './eml.ts'
import { type Attachment, compose, type Draft } from './message.ts'

const MANY = { type: 'string', multiple: true } as const
const ONE = { type: 'string' } as const

/** The options that only a composed message has; `--eml` is sent as it is. */
const COMPOSE_OPTIONS = {
  'reply-to': MANY,
  subject: ONE,
  text: ONE,
  html: ONE,
  attach: MANY,
  inline: MANY,
  calendar: ONE,
  header: MANY,
  'message-id': ONE,
  'in-reply-to': ONE,
  date: ONE,
} as const

/** For `parseArgs`. */
export const MAIL_OPTIONS = {
  from: MANY,
  to: MANY,
  cc: MANY,
  bcc: MANY,
  ...COMPOSE_OPTIONS,
  eml: ONE,
  'envelope-from': MANY,
  'envelope-to': MANY,
} as const

type MailOption = keyof typeof MAIL_OPTIONS
export type MailValues = {
  [name in MailOption]?: (typeof MAIL_OPTIONS)[name] extends typeof MANY ? string[] : string
}

/** Header fields that an option writes, or that the structure of the message needs. */
const RESERVED: Record<string, string> = {
  from: '--from',
  to: '--to',
  cc: '--cc',
  bcc: '--bcc',
  'reply-to': '--reply-to',
  subject: '--subject',
  date: '--date',
  'message-id': '--message-id',
  'in-reply-to': '--in-reply-to',
  'mime-version': '--eml',
  'content-type': '--eml',
  'content-transfer-encoding': '--eml',
  'content-disposition': '--eml',
  'resent-bcc': '--bcc',
}

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
  const composing = (Object.keys(COMPOSE_OPTIONS) as MailOption[]).find((name) => values[name] !== undefined)
  if (values.eml !== undefined && composing) {
    throw new Failure('usage', `--${composing}: --eml sends the message as it is. Leave one of the two out.`)
  }
  // The first message stands for all: the numbers that replace {n} cannot break an address or a header.
  if (values.eml !== undefined) {
    const make = await readReady(values, values.eml, context)
    make(1)
    return async (n) => make(n)
  }
  const make = await readDraft(values, context)
  make(1)
  return async (n) => {
    const { envelope, draft } = make(n)
    return { envelope, ...(await compose(draft)) }
  }
}

async function readDraft(
  values: MailValues,
  context: MailContext,
): Promise<(n: number) => { envelope: Envelope; draft: Draft }> {
  const text = await readText('text', values.text, context)
  const html = await readText('html', values.html, context)
  const calendar = values.calendar === undefined ? undefined : decode('calendar', readFile('calendar', values.calendar))
  const attachments = [...(values.attach ?? []).map(readAttachment), ...(values.inline ?? []).map(readInline)]
  const headers = (values.header ?? []).map(readHeader)
  const date = values.date === undefined ? undefined : readDate(values.date)
  const inReplyTo = readMessageId('in-reply-to', values['in-reply-to'])
  const hasContent = [text, html, calendar].some((part) => part !== undefined)
  return (n) => {
    const fill = filler(context, n)
    const list = addressReader(values, fill)
    const draft: Draft = {
      from: list('from') ?? [defaultSender(context)],
      to: list('to') ?? (isAddressed(values) ? [] : [{ name: 'バー', address: BAR }]),
      cc: list('cc') ?? [],
      replyTo: list('reply-to') ?? [],
      subject: fill(values.subject ?? SUBJECT),
      text: hasContent ? text && fill(text) : testText(),
      html: html && fill(html),
      calendar,
      attachments,
      headers: headers.map(({ name, value }) => ({ name, value: fill(value) })),
      messageId: readMessageId('message-id', values['message-id'] && fill(values['message-id'])),
      inReplyTo,
      date: date ?? new Date(),
    }
    const envelope = envelopeOf(values, fill, draft.from, [...draft.to, ...draft.cc, ...(list('bcc') ?? [])])
    return { envelope, draft }
  }
}

async function readReady(values: MailValues, path: string, context: MailContext): Promise<(n: number) => Outgoing> {
  const bytes = path === '-' ? await buffer(context.io.stdin) : readFile('eml', path)
  const needed = {
    sender: values.from === undefined && values['envelope-from'] === undefined,
    recipients: !isAddressed(values),
  }
  let message: ReturnType<typeof prepareEml>
  try {
    message = prepareEml(bytes, needed)
  } catch (error) {
    throw new Failure('usage', `--eml ${path}: ${messageOf(error)}. Name the envelope: --from, --to`)
  }
  if (needed.recipients && message.to.length === 0) {
    throw new Failure('usage', `--eml ${path}: no recipient in its To, Cc and Bcc. Name one: --to`)
  }
  if (message.before) {
    context.io.say(
      `--eml ${path} begins with ${message.before}, which is sent as well: servers may take the header for text.`,
    )
  }
  return (n) => {
    const fill = filler(context, n)
    const list = addressReader(values, fill)
    const from = list('from') ?? (message.from.length > 0 ? message.from : [defaultSender(context)])
    const to = needed.recipients ? message.to : (['to', 'cc', 'bcc'] as const).flatMap((name) => list(name) ?? [])
    return { envelope: envelopeOf(values, fill, from, to), bytes: message.bytes, messageId: message.messageId }
  }
}

/** Whether an option names any recipient; then neither bar nor the header of a ready message is one. */
function isAddressed({ to, cc, bcc, 'envelope-to': envelopeTo }: MailValues): boolean {
  return [to, cc, bcc, envelopeTo].some((list) => list !== undefined)
}

type Fill = (text: string) => string

function filler({ numbered }: MailContext, n: number): Fill {
  return (text) => (numbered ? text.replaceAll('{n}', String(n)) : text)
}

/** Reads address lists: undefined where the option is not given. */
function addressReader(values: MailValues, fill: Fill) {
  return (
    option: 'from' | 'to' | 'cc' | 'bcc' | 'reply-to' | 'envelope-from' | 'envelope-to',
  ): Mailbox[] | undefined => {
    const lists = values[option]
    if (lists === undefined) return undefined
    try {
      const mailboxes = lists.flatMap((text) => parseAddressList(fill(text)))
      if (mailboxes.length === 0) throw new Error('no address in it')
      return mailboxes
    } catch (error) {
      throw new Failure('usage', `--${option} ${messageOf(error)}.`)
    }
  }
}

function envelopeOf(values: MailValues, fill: Fill, senders: Mailbox[], recipients: Mailbox[]): Envelope {
  const list = addressReader(values, fill)
  const to = list('envelope-to') ?? recipients
  // The null sender, which nothing bounces to (RFC 5321 section 4.5.5).
  const isNull = /^(?:\s*|<>)$/.test(values['envelope-from']?.[0] ?? 'not given')
  const [sender, ...more] = isNull ? [] : (list('envelope-from') ?? senders.slice(0, 1))
  if (more.length > 0) throw new Failure('usage', '--envelope-from: an envelope has one sender.')
  return { from: toEnvelope(sender?.address ?? ''), to: [...new Set(to.map(({ address }) => toEnvelope(address)))] }
}

function defaultSender({ user = FOO }: MailContext): Mailbox {
  // A master user's login, "account*master", is no address.
  const isAddress = /^[^*]+@[^*]+$/.test(user) && !problemOfAddress(user)
  return isAddress && user.toLowerCase() !== FOO ? { name: '', address: user } : { name: 'ふうー', address: FOO }
}

/** The bytes of a file that an option names. */
function readFile(option: MailOption, path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const fact = { ENOENT: 'no such file', EISDIR: 'a folder, not a file', EACCES: 'no permission to read it' }[
      code ?? ''
    ]
    throw new Failure('usage', `--${option} ${JSON.stringify(path)}: ${fact ?? messageOf(error)}. Nothing was sent.`)
  }
}

/** A text: the value itself, `@FILE`, or `-` for stdin. */
async function readText(
  option: 'text' | 'html',
  value: string | undefined,
  { io }: MailContext,
): Promise<string | undefined> {
  if (value === '-') return decode(option, await buffer(io.stdin))
  if (value?.startsWith('@')) return decode(option, readFile(option, value.slice(1)))
  return value
}

function decode(option: MailOption, bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new Failure('usage', `--${option}: the text is not UTF-8. Convert it, or send the file: --attach`)
  }
}

function readAttachment(path: string): Attachment {
  return { filename: basename(path), content: readFile('attach', path) }
}

function readInline(value: string): Attachment {
  const [, cid, path] = /^([!-;=?-~]+?)=(.+)$/.exec(value) ?? []
  if (!cid || !path) {
    throw new Failure(
      'usage',
      `--inline ${JSON.stringify(value)}: write CID=FILE; a CID is ASCII without spaces and <>.`,
    )
  }
  return { filename: basename(path), content: readFile('inline', path), cid }
}

function readHeader(text: string): { name: string; value: string } {
  const [, name, value] = /^([!-9;-~]+):\s*(\S.*)$/.exec(text) ?? []
  if (!name || !value) {
    throw new Failure('usage', `--header ${JSON.stringify(text)}: write 'Name: value'; a name is ASCII without spaces.`)
  }
  const option = RESERVED[name.toLowerCase()]
  if (option) throw new Failure('usage', `--header ${name}: this field has its own option, ${option}.`)
  return { name, value }
}

function readMessageId(option: 'message-id' | 'in-reply-to', value: string | undefined): string | undefined {
  if (value === undefined) return undefined
  const [, id] = /^<?([!-;=?-~]+)>?$/.exec(value.trim()) ?? []
  if (!id)
    throw new Failure('usage', `--${option} ${JSON.stringify(value)}: write <unique@domain>, ASCII without spaces.`)
  return `<${id}>`
}

const RFC_5322_DATE = /^(?:[A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d(?::\d\d)? (?:[+-]\d{4}|GMT|UT)$/
const ISO_8601_DATE = /^\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?$/

/** A date of RFC 5322 stays as it was typed, with its time zone. */
function readDate(value: string): string | Date {
  const date = new Date(value)
  const isRfc5322 = RFC_5322_DATE.test(value)
  if (Number.isNaN(date.getTime()) || !(isRfc5322 || ISO_8601_DATE.test(value))) {
    throw new Failure(
      'usage',
      `--date ${JSON.stringify(value)}: write 'Tue, 1 Jul 2025 09:00:00 +0900' or 2025-07-01T09:00+09:00.`,
    )
  }
  return isRfc5322 ? value : date
}
