/** The bytes of a message: composed from what a user wants to say, or taken from a file as they are. */
import { randomUUID } from 'node:crypto'
import type { MailComposerAttachment } from 'nodemailer/lib/mail-composer'
import { type Mailbox, parseAddressList, toEnvelope } from './addresses.ts'

export interface Message {
  bytes: Buffer
  /** With its angle brackets; null where a message that is sent as it is has none. */
  messageId: string | null
}

/** What a message is composed from. Texts and names are plain Unicode; encoding them is this module's matter. */
export interface Draft {
  from: Mailbox[]
  to: Mailbox[]
  cc: Mailbox[]
  replyTo: Mailbox[]
  subject: string
  text: string | undefined
  html: string | undefined
  /** An iCalendar text (RFC 5545); its METHOD goes into the Content-Type (RFC 6047). */
  calendar: string | undefined
  attachments: Attachment[]
  headers: { name: string; value: string }[]
  messageId: string | undefined
  inReplyTo: string | undefined
  /** A string of RFC 5322, which keeps its time zone, or a Date. */
  date: string | Date
}

export interface Attachment {
  filename: string
  content: Buffer
  /** The Content-ID that HTML names as `cid:...`; such a part is shown inline. */
  cid?: string
}

/** RFC 5322 section 2.1.1: lines should have 78 characters at most, and must not have more than 998. */
const [LINE, LONGEST_LINE] = [78, 998]

/** nodemailer's composer; loaded with the first message, as until then there may still be an error of usage. */
let nodemailer: Promise<[typeof import('nodemailer/lib/mail-composer'), typeof import('nodemailer/lib/mime-funcs')]>

/** Composes a message with CRLF line ends. There is no Bcc field: blind copies are the envelope's matter alone. */
export async function compose(draft: Draft): Promise<Message> {
  nodemailer ??= Promise.all([import('nodemailer/lib/mail-composer'), import('nodemailer/lib/mime-funcs')])
  const [{ default: MailComposer }, { encodeWord }] = await nodemailer
  const domain = toEnvelope(draft.from[0]?.address ?? '').split('@')[1] ?? 'localhost'
  const messageId = draft.messageId ?? `<${randomUUID()}@${domain}>`
  // nodemailer folds at spaces. ASCII that has none for longer than a line goes as encoded words (RFC 2047), which do.
  const headerOf = (key: string, value: string, longest: number) => {
    // Nor may a line have nothing but spaces.
    const isUnfoldable = /^[ -~]*$/.test(value) && new RegExp(`\\S{${longest}}| {60}`).test(value)
    return { key, value: isUnfoldable ? { prepared: true, foldLines: true, value: encodeWord(value, 'Q', 52) } : value }
  }
  // nodemailer writes "X-Myapp"; a header name leaves as it was typed.
  const typed = new Map(draft.headers.map(({ name }) => [name.toLowerCase(), name]))
  const composer = new MailComposer({
    from: draft.from,
    to: draft.to,
    cc: draft.cc,
    replyTo: draft.replyTo,
    messageId,
    date: draft.date,
    ...(draft.inReplyTo ? { inReplyTo: draft.inReplyTo } : {}),
    ...(draft.inReplyTo && !typed.has('references') ? { references: draft.inReplyTo } : {}),
    ...(draft.text === undefined ? {} : { text: withCrlf(draft.text) }),
    ...(draft.html === undefined ? {} : { html: withCrlf(draft.html) }),
    ...(draft.calendar === undefined ? {} : { alternatives: [calendarPart(draft.calendar)] }),
    attachments: draft.attachments.map(attachmentPart),
    headers: [
      headerOf('Subject', draft.subject, LINE - 'Subject: '.length),
      ...draft.headers.map(({ name, value }) => headerOf(name, value, LONGEST_LINE - `${name}: `.length)),
    ],
    normalizeHeaderKey: (key: string) => typed.get(key.toLowerCase()) ?? key,
    disableFileAccess: true,
    disableUrlAccess: true,
  })
  return { bytes: await composer.compile().build(), messageId }
}

/** Texts have CRLF line ends also below base64 (RFC 2046 section 4.1.1). */
function withCrlf(text: string): string {
  return text.replace(/\r\n?|\n/g, '\r\n')
}

function calendarPart(calendar: string): { contentType: string; content: string } {
  const method = /^METHOD:([A-Z-]+)\s*$/im.exec(calendar)?.[1]
  const parameter = method ? `; method=${method.toUpperCase()}` : ''
  return { contentType: `text/calendar; charset=utf-8${parameter}`, content: withCrlf(calendar) }
}

function attachmentPart({ filename, content, cid }: Attachment): MailComposerAttachment {
  return { filename, content, contentDisposition: cid ? 'inline' : 'attachment', ...(cid ? { cid } : {}) }
}

/** A message that is sent as it is, and what its header says. */
export interface PreparedMessage extends Message {
  /** Of Sender, else of From. */
  from: Mailbox[]
  /** Of To, Cc and Bcc. */
  to: Mailbox[]
  /** What stands before the header and is sent with it, such as "an mbox line"; undefined where nothing does. */
  before: string | undefined
}

/** What text editors and mailboxes put before a header. Line ends are those that leave: a lone CR becomes one as well. */
const BEFORE: [string, RegExp][] = [
  ['a byte order mark', /^\xef\xbb\xbf/],
  ['an mbox line ("From ...")', /^>?From [^\r\n]*(?:\r\n|\r|\n)/],
  ['a blank line', /^[ \t]*(?:\r\n|\r|\n)/],
]
const FIELD = /(?<![^\r\n])([!-9;-~]+)[ \t]*:([^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*)(?:\r\n|\r|\n|$)/g

/**
 * Prepares the bytes of a message for sending: they stay as they are, but for the Bcc and Resent-Bcc fields, which no
 * recipient may see (RFC 5322 sections 3.6.3 and 3.6.6). `readEnvelope` says whether the addresses in the header are
 * wanted. Throws an Error that names the field when an address in it is none.
 */
export function prepareEml(bytes: Buffer, readEnvelope: { sender: boolean; recipients: boolean }): PreparedMessage {
  // One character for each byte, so that positions and bytes stay what they are.
  let rest = bytes.toString('latin1')
  const found = new Set<string>()
  for (let known = BEFORE[0]; known; ) {
    known = BEFORE.find(([, pattern]) => pattern.test(rest))
    if (known) found.add(known[0])
    rest = known ? rest.replace(known[1], '') : rest
  }
  const begin = bytes.length - rest.length
  const end = /(\r\n|\r(?!\n)|\n)(?:\r\n|\r|\n)/.exec(rest)
  const header = end ? rest.slice(0, end.index + (end[1] ?? '').length) : rest
  const fields = [...header.matchAll(FIELD)].map(({ 0: all, 1: name = '', 2: value = '', index }) => {
    return { name: name.toLowerCase(), value: unfold(value), from: begin + index, to: begin + index + all.length }
  })
  const mailboxesOf = (...names: string[]) =>
    names.flatMap((name) =>
      fields.flatMap((field) => {
        try {
          return field.name === name ? parseAddressList(field.value) : []
        } catch (error) {
          throw new Error(`its ${name[0]?.toUpperCase()}${name.slice(1)} field has ${(error as Error).message}`)
        }
      }),
    )
  const senders = readEnvelope.sender ? mailboxesOf('sender') : []
  const kept: Buffer[] = []
  let at = 0
  for (const field of fields.filter(({ name }) => name === 'bcc' || name === 'resent-bcc')) {
    kept.push(bytes.subarray(at, field.from))
    at = field.to
  }
  return {
    bytes: at === 0 ? bytes : Buffer.concat([...kept, bytes.subarray(at)]),
    messageId: fields.find(({ name }) => name === 'message-id')?.value ?? null,
    from: readEnvelope.sender && senders.length === 0 ? mailboxesOf('from') : senders,
    to: readEnvelope.recipients ? mailboxesOf('to', 'cc', 'bcc') : [],
    before: found.size > 0 ? [...found].join(' and ') : undefined,
  }
}

/** A field's value on one line, as text: internationalised headers are UTF-8 (RFC 6532). */
function unfold(value: string): string {
  return Buffer.from(value.replace(/[\r\n]/g, ''), 'latin1')
    .toString('utf8')
    .trim()
}
