/** The bytes of a message: composed from what a user wants to say, or taken from a file as they are. */
import { randomUUID } from 'node:crypto'
import type { MailComposerAttachment, MailComposerOptions } from 'nodemailer/lib/mail-composer'
import type MimeNode from 'nodemailer/lib/mime-node'
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
  priority: Priority | undefined
}

export interface Attachment {
  filename: string
  content: Buffer
  /** The Content-ID that HTML names as `cid:...`; such a part is shown inline. */
  cid?: string
}

export type Priority = keyof typeof PRIORITIES

/** The headers that mail clients read; Importance is of RFC 4021, the other two are older usage. */
export const PRIORITIES = {
  high: { 'X-Priority': '1 (Highest)', 'X-MSMail-Priority': 'High', Importance: 'high' },
  normal: {},
  low: { 'X-Priority': '5 (Lowest)', 'X-MSMail-Priority': 'Low', Importance: 'low' },
}

const [LF, CR] = [0x0a, 0x0d]

export type Compose = (draft: Draft) => Message

/**
 * Loads nodemailer's composer and gives the function that makes a message of a draft, with CRLF line ends. There is no
 * Bcc field: blind copies are the envelope's matter alone.
 */
export async function loadComposer(): Promise<Compose> {
  const [{ default: Composer }, base64, qp] = await Promise.all([
    import('nodemailer/lib/mail-composer'),
    import('nodemailer/lib/base64'),
    import('nodemailer/lib/qp'),
  ])
  return (draft) => {
    const { mail, messageId } = mailOf(draft)
    return { bytes: withLineEnd(render(new Composer(mail).compile(), { base64, qp })), messageId }
  }
}

/** The bytes with their last line complete, as nodemailer completes it: an attached message may end in the midst of CRLF. */
export function withLineEnd(bytes: Buffer): Buffer {
  if (bytes.at(-1) === LF) return bytes
  return Buffer.concat([bytes, Buffer.from(bytes.at(-1) === CR ? '\n' : '\r\n')])
}

interface Encoders {
  base64: Pick<typeof import('nodemailer/lib/base64'), 'encode' | 'wrap'>
  qp: Pick<typeof import('nodemailer/lib/qp'), 'encode' | 'wrap'>
}

/**
 * The bytes of a MIME tree, as its own `build()` makes them. That goes through a chain of streams for every part, which
 * takes longer than all else about a small message; here every part is in memory already.
 */
export function render(node: MimeNode, encoders: Encoders): Buffer {
  const parts: Buffer[] = [Buffer.from(`${node.buildHeaders()}\r\n\r\n`)]
  const content = (node.content ?? '') as string | Buffer
  const encoding = node.getTransferEncoding()
  if (node.multipart) {
    const children = node.childNodes.map((child) => render(child, encoders))
    for (const [index, child] of children.entries()) {
      parts.push(Buffer.from(`${index > 0 ? '\r\n' : ''}--${node.boundary}\r\n`), child)
    }
    parts.push(Buffer.from(`\r\n--${node.boundary}--\r\n`))
  } else if (encoding === 'base64') {
    parts.push(Buffer.from(encoders.base64.wrap(encoders.base64.encode(content))))
  } else if (encoding === 'quoted-printable') {
    parts.push(Buffer.from(encoders.qp.wrap(encoders.qp.encode(content))))
  } else {
    parts.push(Buffer.from(content as string))
  }
  return Buffer.concat(parts)
}

function mailOf(draft: Draft): { mail: MailComposerOptions; messageId: string } {
  const domain = toEnvelope(draft.from[0]?.address ?? '').split('@')[1] ?? 'localhost'
  const messageId = draft.messageId ?? `<${randomUUID()}@${domain}>`
  const headers: [string, string][] = [
    ...Object.entries<string>(PRIORITIES[draft.priority ?? 'normal']),
    ...draft.headers.map(({ name, value }): [string, string] => [name, value]),
  ]
  // nodemailer writes "X-Myapp"; a header name leaves as it was typed.
  const typed = new Map(headers.map(([name]) => [name.toLowerCase(), name]))
  const mail: MailComposerOptions = {
    from: draft.from,
    to: draft.to,
    cc: draft.cc,
    replyTo: draft.replyTo,
    subject: draft.subject,
    messageId,
    date: draft.date,
    ...(draft.inReplyTo ? { inReplyTo: draft.inReplyTo } : {}),
    ...(draft.inReplyTo && !typed.has('references') ? { references: draft.inReplyTo } : {}),
    ...(draft.text === undefined ? {} : { text: withCrlf(draft.text) }),
    ...(draft.html === undefined ? {} : { html: withCrlf(draft.html) }),
    ...(draft.calendar === undefined ? {} : { alternatives: [calendarPart(draft.calendar)] }),
    attachments: draft.attachments.map(attachmentPart),
    headers: headers.map(([key, value]) => ({ key, value })),
    normalizeHeaderKey: (key: string) => typed.get(key.toLowerCase()) ?? key,
    disableFileAccess: true,
    disableUrlAccess: true,
  }
  return { mail, messageId }
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

/** A message that is sent as it is, and what its header says about the envelope. */
export interface PreparedMessage extends Message {
  /** Of Sender, else of From. */
  from: Mailbox[]
  /** Of To, Cc and Bcc. */
  to: Mailbox[]
}

/**
 * Prepares the bytes of a message for sending: they stay as they are, but for the Bcc fields, which no recipient may
 * see (RFC 5322 section 3.6.3). `readEnvelope` says whether the addresses in the header are wanted. Throws an Error
 * that names the field when an address in it is none.
 */
export function prepareEml(bytes: Buffer, readEnvelope: { sender: boolean; recipients: boolean }): PreparedMessage {
  // One character for each byte, so that positions and bytes stay what they are.
  const text = bytes.toString('latin1')
  const end = /^\r?\n|\n\r?\n/.exec(text)
  const headerLength = end ? end.index + 1 : text.length
  const header = text.slice(0, headerLength)
  const fields = [...header.matchAll(/(?<![^\n])([!-9;-~]+)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)(?:\n|$)/g)]
  const valuesOf = (name: string) =>
    fields.filter(([, field]) => field?.toLowerCase() === name).map(([, , value]) => unfold(value ?? ''))
  const mailboxesOf = (...names: string[]) =>
    names.flatMap((name) =>
      valuesOf(name).flatMap((value) => {
        try {
          return parseAddressList(value)
        } catch (error) {
          throw new Error(`its ${name[0]?.toUpperCase()}${name.slice(1)} field has ${(error as Error).message}`)
        }
      }),
    )
  const senders = readEnvelope.sender ? mailboxesOf('sender') : []
  return {
    bytes: withoutFields(bytes, fields, 'bcc'),
    messageId: valuesOf('message-id')[0] ?? null,
    from: readEnvelope.sender && senders.length === 0 ? mailboxesOf('from') : senders,
    to: readEnvelope.recipients ? mailboxesOf('to', 'cc', 'bcc') : [],
  }
}

/** A field's value on one line, as text: internationalised headers are UTF-8 (RFC 6532). */
function unfold(value: string): string {
  return Buffer.from(value.replace(/\r?\n/g, ''), 'latin1').toString('utf8').trim()
}

function withoutFields(bytes: Buffer, fields: RegExpMatchArray[], name: string): Buffer {
  const rest: Buffer[] = []
  let from = 0
  for (const field of fields) {
    if (field[1]?.toLowerCase() !== name) continue
    rest.push(bytes.subarray(from, field.index))
    from = (field.index ?? 0) + field[0].length
  }
  return from === 0 ? bytes : Buffer.concat([...rest, bytes.subarray(from)])
}
