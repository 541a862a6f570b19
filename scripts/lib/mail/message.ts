/** Composes messages from what a user wants to say. */
import { randomUUID } from 'node:crypto'
import type { MailComposerAttachment, MailComposerOptions } from 'nodemailer/lib/mail-composer'
import { type Address, toEnvelope } from './addresses.ts'

export interface Message {
  bytes: Buffer
  /** With its angle brackets; null where a message that was not composed here has none. */
  messageId: string | null
}

/** What a message is composed from: nodemailer's options, of which these are other. Texts and names are plain Unicode. */
export interface Draft extends Omit<MailComposerOptions, 'headers' | 'bcc'> {
  from: Address[]
  subject: string
  text?: string
  html?: string
  messageId?: string
  /** An iCalendar text (RFC 5545); its METHOD goes into the Content-Type (RFC 6047). */
  calendar?: string
  /** One with a `cid`, which HTML names as `cid:...`, is shown inline. */
  attachments?: MailComposerAttachment[]
  headers?: { name: string; value: string }[]
}

/** RFC 5322 section 2.1.1: lines should have 78 characters at most, and must not have more than 998. */
const [LINE, LONGEST_LINE] = [78, 998]

/** nodemailer's composer; loaded with the first message, as until then there may still be an error of usage. */
let nodemailer: Promise<[typeof import('nodemailer/lib/mail-composer'), typeof import('nodemailer/lib/mime-funcs')]>

/** Composes a message with CRLF line ends. There is no Bcc field: blind copies are the envelope's matter alone. */
export async function compose(draft: Draft): Promise<Message> {
  nodemailer ??= Promise.all([import('nodemailer/lib/mail-composer'), import('nodemailer/lib/mime-funcs')])
  const [{ default: MailComposer }, { encodeWord }] = await nodemailer
  const { subject, calendar, attachments = [], headers = [], ...rest } = draft
  const domain = toEnvelope(draft.from[0]?.address ?? '').split('@')[1] ?? 'localhost'
  const messageId = draft.messageId ?? `<${randomUUID()}@${domain}>`
  // nodemailer folds at spaces. ASCII that has none for longer than a line goes as encoded words (RFC 2047), which do.
  const headerOf = (key: string, value: string, longest: number) => {
    // Nor may a line have nothing but spaces.
    const isUnfoldable = /^[ -~]*$/.test(value) && new RegExp(`\\S{${longest}}| {60}`).test(value)
    return { key, value: isUnfoldable ? { prepared: true, foldLines: true, value: encodeWord(value, 'Q', 52) } : value }
  }
  // nodemailer writes "X-Myapp"; a header name leaves as it was typed.
  const typed = new Map(headers.map(({ name }) => [name.toLowerCase(), name]))
  const composer = new MailComposer({
    ...rest,
    messageId,
    references: typed.has('references') ? undefined : rest.inReplyTo,
    text: withCrlf(rest.text),
    html: withCrlf(rest.html),
    alternatives: calendar === undefined ? [] : [calendarPart(calendar)],
    attachments: attachments.map((each) => ({ ...each, contentDisposition: each.cid ? 'inline' : 'attachment' })),
    headers: [
      headerOf('Subject', subject, LINE - 'Subject: '.length),
      ...headers.map(({ name, value }) => headerOf(name, value, LONGEST_LINE - `${name}: `.length)),
    ],
    normalizeHeaderKey: (key: string) => typed.get(key.toLowerCase()) ?? key,
    disableFileAccess: true,
    disableUrlAccess: true,
  })
  return { bytes: await composer.compile().build(), messageId }
}

/** Texts have CRLF line ends also below base64 (RFC 2046 section 4.1.1). */
function withCrlf<T extends string | undefined>(text: T): T {
  return text?.replace(/\r\n?|\n/g, '\r\n') as T
}

function calendarPart(calendar: string): { contentType: string; content: string } {
  const method = /^METHOD:([A-Z-]+)\s*$/im.exec(calendar)?.[1]
  const parameter = method ? `; method=${method.toUpperCase()}` : ''
  return { contentType: `text/calendar; charset=utf-8${parameter}`, content: withCrlf(calendar) }
}
