/** A mail as it is shown: who, when, what, with which attachments (RFC 5322, 2045 to 2047, 2183, 2231). */
import addressParser from 'nodemailer/lib/addressparser'
import type { Address } from './addresses.ts'
import { type Decoding, decodeHeader, decodeText } from './decode.ts'
import { textOfHtml } from './links.ts'
import { contentOf, type Entity, firstOf, type Header, isNamed, opened, type Part, partsOf } from './parts.ts'

/** What the header of a mail says. Everything is text as the sender meant it, unsafe characters included. */
export interface Headers {
  /** Every field, in order, unfolded and decoded. */
  headers: Header[]
  from: Address[]
  to: Address[]
  cc: Address[]
  bcc: Address[]
  replyTo: Address[]
  subject: string
  /** With its angle brackets; empty where there is none. */
  messageId: string
  /** When the sender wrote it (Date). */
  date: Date | undefined
  /** When this server received it (the topmost Received; Date where there is none). A whole second. */
  arrived: Date | undefined
  /** Whom the envelope was for, as the server recorded it in X-Original-To; empty where it did not. */
  envelopeRecipient: string
  /** What is wrong with the mail, in words, each once. A good mail has none. */
  warnings: string[]
}

export interface Attachment {
  /** As the sender wrote it: not fit to be the name of a file here. Empty where it has none. */
  name: string
  /** Media type, in lower case. */
  type: string
  /** Content-ID without its angle brackets, by which HTML refers to it; or empty. */
  contentId: string
  /** Meant to be shown within the text. */
  inline: boolean
  /** Which part of the mail it is, as IMAP counts: "2", "1.3" (RFC 3501 section 6.4.5). */
  part: string
  bytes: Buffer
}

export interface Mail extends Headers {
  /** The text parts, or null where the mail has none. */
  text: string | null
  html: string | null
  /** What a reader sees: the text, and that of HTML that has no text beside it. */
  readonly readableText: string
  attachments: Attachment[]
}

interface Text {
  type: string
  slot: Part | undefined
  text: string
}

/** Reads a whole mail. Never throws: whatever the bytes are, they are shown as far as it goes; `warnings` says why. */
export function readMail(raw: Uint8Array): Mail {
  const { mail, root, decoding } = opened(raw)
  const header = headersOf(root, decoding)
  const parts = partsOf(mail, root, decoding)
  const isAlone = parts.length === 1
  const texts = parts
    .filter((part) => isText(part, isAlone))
    .map((part) => ({ type: part.type, slot: part.slot, text: textOf(mail, part, decoding) }))
  const attachments = parts
    .filter((part) => !isText(part, isAlone) || (part.name !== '' && !part.slot))
    .map((part) => attachmentOf(part, contentOf(mail, part, decoding)))
  const shown = texts.filter((text) => isShown(text, texts))
  const plain = joined(texts, 'text/plain')
  return {
    ...header,
    text: plain && isBlank(plain) ? '' : plain,
    html: joined(texts, 'text/html'),
    // Turning HTML into text takes longer than all the rest, and not every view asks for it.
    get readableText() {
      return shown.map(({ type, text }) => (type === 'text/html' ? textOfHtml(text) : text)).join('\n')
    },
    attachments,
    warnings: [...decoding.warnings],
  }
}

function attachmentOf({ name, type, contentId, disposition, section }: Part, content: string): Attachment {
  const inline = disposition === 'inline' || (disposition !== 'attachment' && contentId !== '')
  return { name, type, contentId, inline, part: section || '1', bytes: Buffer.from(content, 'latin1') }
}

function joined(texts: Text[], wanted: string): string | null {
  const found = texts.filter(({ type }) => type === wanted)
  return found.length > 0 ? found.map(({ text }) => text).join('\n') : null
}

/** The same without the body, for a view that needs no more. Also for a header alone, as TOP gives it. */
export function readHeaders(raw: Uint8Array): Headers {
  const { root, decoding } = opened(raw)
  return headersOf(root, decoding)
}

function headersOf({ fields }: Entity, decoding: Decoding): Headers {
  const headers = fields.map(({ name, value }) => ({ name, value: decodeHeader(value, decoding) }))
  const date = dateOf(firstOf(headers, 'date'))
  return {
    headers,
    from: addressesOf(fields, 'from', decoding),
    to: addressesOf(fields, 'to', decoding),
    cc: addressesOf(fields, 'cc', decoding),
    bcc: addressesOf(fields, 'bcc', decoding),
    replyTo: addressesOf(fields, 'reply-to', decoding),
    subject: firstOf(headers, 'subject'),
    messageId: firstOf(headers, 'message-id'),
    date,
    arrived: dateOf(firstOf(headers, 'received').split(';').at(-1)) ?? date,
    envelopeRecipient: envelopeRecipient(headers),
    warnings: [...decoding.warnings],
  }
}

/** The addresses of all fields of a name. What encoded words hold is no syntax (a comma, "<"): placeholders stand for it. */
function addressesOf(fields: Header[], wanted: string, decoding: Decoding): Address[] {
  const words: string[] = []
  const hidden = (text: string) => `\ufdd0${words.push(text) - 1}\ufdd1`
  const restored = (text: string) => text.replace(/\ufdd0(\d+)\ufdd1/g, (_, index) => words[index] ?? '')
  const lists = fields
    .filter((field) => isNamed(field, wanted))
    .map(({ value }) => decodeHeader(value, decoding, hidden))
  return addressParser(lists.join(','), { flatten: true }).map(({ name, address }) => ({
    name: restored(name),
    address: restored(address),
  }))
}

/** Comments, as in "(UTC)", are no part of a date (RFC 5322 section 3.3). */
function dateOf(text = ''): Date | undefined {
  const date = new Date(text.slice(-200).replace(/\([^()]*\)/g, ''))
  return Number.isNaN(date.getTime()) ? undefined : date
}

/** Postfix writes X-Original-To above the line that says how the mail came in; below it stands what the sender wrote. */
function envelopeRecipient(headers: Header[]): string {
  for (const { name, value } of headers) {
    if (/^x-original-to$/i.test(name)) return value
    // "by HOST (Postfix) with ESMTP id ..." or, by sendmail(1), "(Postfix, from userid 0)".
    if (/^received$/i.test(name) && /\(Postfix\)\s+with\s|\(Postfix, from userid/.test(value)) break
  }
  return ''
}

/** What is meant to be read at once. A file name alone does not speak against it where nothing else is to be read. */
function isText({ type, disposition, name, slot }: Part, isAlone: boolean): boolean {
  if ((type !== 'text/plain' && type !== 'text/html') || disposition === 'attachment') return false
  return name === '' || disposition === 'inline' || slot !== undefined || isAlone
}

/** The text of a text part, with the line breaks as LF. */
function textOf(mail: string, part: Part, decoding: Decoding): string {
  const { type, params } = part
  const text = decodeText(contentOf(mail, part, decoding), params.charset ?? '', decoding).replaceAll('\r\n', '\n')
  if (type !== 'text/plain' || !/^flowed$/i.test(params.format ?? '')) return text
  // Joins the lines that were broken behind a space (RFC 3676 section 4), but for quoted ones and "-- ".
  const isSpaceGone = /^yes$/i.test(params.delsp ?? '')
  const soft = isSpaceGone ? /(^>.*\n|^-- \n)| \n ?/gm : /(^>.*\n|^-- \n)|(?<= )\n ?/gm
  return text.replace(soft, '$1').replace(/^ /gm, '')
}

const isBlank = (text: string) => !/\S/.test(text)

/** Of an alternative only the plain text is shown, unless a template left it blank. */
function isShown({ type, slot, text }: Text, texts: Text[]): boolean {
  const others = slot ? texts.filter((other) => other.slot === slot && other.type !== type) : []
  return type === 'text/html' ? others.every((other) => isBlank(other.text)) : others.length === 0 || !isBlank(text)
}
