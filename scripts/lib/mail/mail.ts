/** A mail as it is shown: who, when, what, with which attachments (RFC 5322, 2045 to 2047, 2183, 2231). */
import { addressParser } from 'postal-mime'
import { type Decoding, decodeHeader, decodeText } from './decode.ts'
import { beginningOf, textOfHtml } from './links.ts'
import { CUT_OFF, contentOf, type Opened, type Part, partsOf } from './parts.ts'
import { withLineFeeds } from './replace.ts'

export interface Address {
  /** Display name, or an empty string. */
  name: string
  address: string
}

export interface Header {
  name: string
  /** Unfolded and decoded. */
  value: string
}

/** What the header of a mail says. Everything is text as the sender meant it, unsafe characters included. */
export interface Headers {
  /** Every field, in order. */
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
  readableText: string
  attachments: Attachment[]
}

/** Reads a whole mail. Never rejects: whatever the bytes are, they are shown as far as it goes, and `warnings` says why. */
export async function readMail(raw: Uint8Array): Promise<Mail> {
  const { decoding, ...mail } = opened(raw)
  const header = headersOf(mail.head, decoding)
  const found = await partsOf(mail, decoding)
  const parts = found.map((part) => ({ ...part, isText: isText(part, found.length === 1) }))
  const texts = parts
    .filter(({ isText }) => isText)
    .map((part) => ({ isHtml: part.type === 'text/html', slot: part.slot, text: textOf(part, decoding) }))
  const plain = texts.filter(({ isHtml }) => !isHtml)
  const html = texts.filter(({ isHtml }) => isHtml)
  const attachments = parts
    .filter(({ isText, name, slot }) => !isText || (name !== '' && !slot))
    .map(({ name, type, contentId, disposition, section, ...part }) => ({
      name,
      type,
      contentId,
      inline: disposition === 'inline' || (disposition !== 'attachment' && contentId !== ''),
      part: section,
      bytes: contentOf(part, decoding),
    }))
  const isBlank = plain.every(({ text }) => !/\S/.test(text))
  return {
    ...header,
    text: plain.length === 0 ? null : isBlank ? '' : plain.map(({ text }) => text).join('\n'),
    html: html.length === 0 ? null : html.map(({ text }) => text).join('\n'),
    readableText: readable(texts, decoding),
    attachments,
    warnings: warningsOf(decoding),
  }
}

/** Where a mail was cut off, what is broken at its end is that once more. */
function warningsOf({ warnings }: Decoding): string[] {
  return [...warnings].filter((warning) => !warnings.has(CUT_OFF) || !/^(broken|a multipart)/.test(warning))
}

/** The same without the body, for a view that needs no more. Also for a header alone, as TOP gives it. */
export function readHeaders(raw: Uint8Array): Headers {
  const { head, decoding } = opened(raw)
  return headersOf(head, decoding)
}

/** Bytes of a header that are read, at its beginning and its end. */
const LONG_HEADER = { begin: 1_000_000, end: 100_000 }

/** The mail, and its header as one character a byte; what is in the middle of an endless header is left out. */
function opened(raw: Uint8Array): Opened & { decoding: Decoding } {
  let bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.length)
  const warnings = new Set<string>()
  const blankLines = ['\n\n', '\n\r\n'].map((lines) => bytes.indexOf(lines)).filter((at) => at >= 0)
  let end = /^\r?\n/.test(bytes.toString('latin1', 0, 2)) ? 0 : Math.min(...blankLines, bytes.length)
  if (end > LONG_HEADER.begin + LONG_HEADER.end) {
    warnings.add('the header is longer than 1 MB and was cut in its middle')
    const rest = bytes.subarray(bytes.indexOf('\n', end - LONG_HEADER.end))
    end = LONG_HEADER.begin + end - (bytes.length - rest.length)
    bytes = Buffer.concat([bytes.subarray(0, LONG_HEADER.begin), rest])
  }
  const hint = /charset\s*=\s*["']?([^\s"';]+)/i.exec(bytes.toString('latin1', 0, 65_536))?.[1]?.toLowerCase()
  const blankLine = (end === 0 ? /^\r?\n/ : /^\n\r?\n/).exec(bytes.toString('latin1', end, end + 3))?.[0] ?? ''
  return { bytes, head: bytes.toString('latin1', 0, end), body: end + blankLine.length, decoding: { hint, warnings } }
}

function headersOf(head: string, decoding: Decoding): Headers {
  const fields = fieldsOf(head)
  const headers = fields.map(({ name, value }) => ({ name, value: decodeHeader(value, decoding) }))
  const first = (wanted: string) => headers.find(({ name }) => name.toLowerCase() === wanted)?.value
  const addresses = (wanted: string) =>
    fields.filter(({ name }) => name.toLowerCase() === wanted).flatMap(({ value }) => addressesOf(value, decoding))
  const date = dateOf(first('date'))
  return {
    headers,
    from: addresses('from'),
    to: addresses('to'),
    cc: addresses('cc'),
    bcc: addresses('bcc'),
    replyTo: addresses('reply-to'),
    subject: first('subject') ?? '',
    messageId: first('message-id') ?? '',
    date,
    arrived: dateOf(first('received')?.split(';').at(-1)) ?? date,
    envelopeRecipient: envelopeRecipient(headers),
    warnings: [...decoding.warnings],
  }
}

/** The header's fields, unfolded, one character a byte. */
function fieldsOf(head: string): Header[] {
  return head.split(/\r?\n(?![ \t])/).flatMap((line) => {
    const [, name, value] = /^([^\s:]+)[ \t]*:(.*)$/s.exec(line) ?? []
    return name === undefined || value === undefined ? [] : [{ name, value: value.replace(/\r?\n[ \t]/g, ' ').trim() }]
  })
}

/** An address list. What encoded words and brackets hold (a comma, "<", ":") is no syntax: placeholders stand for them. */
function addressesOf(binary: string, decoding: Decoding): Address[] {
  const words: string[] = []
  const hide = (text: string) => `\ufdd0${words.push(text) - 1}\ufdd1`
  const list = decodeHeader(binary, decoding, hide).replace(/\[[^\s[\]"]*\]/g, hide)
  const restore = (text: string) => text.replace(/\ufdd0(\d+)\ufdd1/g, (_, index) => words[index] ?? '')
  return addressParser(list, { flatten: true }).map(({ name, address }) => ({
    name: restore(name),
    address: restore(address ?? ''),
  }))
}

/** Comments, as in "(UTC)", are no part of a date (RFC 5322 section 3.3). */
function dateOf(text = ''): Date | undefined {
  const date = new Date(
    text
      .slice(-200)
      .replace(/\([^()]*\)/g, '')
      .trim(),
  )
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
function textOf(part: Part, decoding: Decoding): string {
  const text = withLineFeeds(decodeText(contentOf(part, decoding), part.charset, decoding))
  if (!part.flowed || part.type !== 'text/plain' || text.length > 2_000_000) return text
  // Joins the lines that were broken behind a space (RFC 3676 section 4), but for quoted ones and "-- ".
  const soft = part.flowed === 'delsp' ? /(^>.*\n|^-- \n)| \n ?/gm : /(^>.*\n|^-- \n)|(?<= )\n ?/gm
  return text.replace(soft, '$1').replace(/^ /gm, '')
}

interface Text {
  isHtml: boolean
  slot: object | undefined
  text: string
}

/** The texts in their order; of an alternative the plain one, unless a template left it blank. */
function readable(texts: Text[], { warnings }: Decoding): string {
  const has = (slot: object | undefined, isWanted: (text: Text) => boolean) =>
    slot !== undefined && texts.some((text) => text.slot === slot && isWanted(text))
  const isBlank = ({ text }: Text) => !/\S/.test(text)
  const shown = texts.filter((text) =>
    text.isHtml
      ? !has(text.slot, (other) => !other.isHtml && !isBlank(other))
      : !(isBlank(text) && has(text.slot, ({ isHtml }) => isHtml)),
  )
  const isLong = shown.some(({ isHtml, text }) => isHtml && beginningOf(text).length < text.length)
  if (isLong) warnings.add('very long HTML, of which the beginning is shown as text')
  return shown.map(({ isHtml, text }) => (isHtml ? textOfHtml(text) : text)).join('\n')
}
