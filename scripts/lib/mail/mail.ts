/** A mail as it is shown: who, when, what, with which attachments; and what one looks for in it: links and codes. */
import { addressParser } from 'postal-mime'
import { decodeHeader } from './charset.ts'
import { contentOf, textOf } from './content.ts'
import { readHtml } from './html.ts'
import { type Mime, type Part, parseMime } from './mime.ts'

export interface Address {
  /** Display name, or an empty string. */
  name: string
  address: string
}

export interface Attachment {
  /** As the sender wrote it: not fit to be the name of a file here. */
  name: string | null
  /** Media type, in lower case. */
  type: string
  /** Content-ID without its angle brackets, by which HTML refers to it. */
  cid: string | null
  content(): Buffer
}

export interface Header {
  name: string
  /** Unfolded and decoded. */
  value: string
}

/** Characters that HTML is turned to text from, and that links and codes are looked for in. */
const LONGEST_TEXT = 2_000_000

/** Everything is text as the sender meant it, unsafe characters included: print it by `visible`. */
export class Mail {
  readonly attachments: Attachment[]
  readonly #mime: Mime
  readonly #texts: Part[]

  /** `raw` is a whole mail, or its header alone as TOP gives it. Never throws, whatever the bytes are. */
  constructor(raw: Buffer) {
    this.#mime = parseMime(raw)
    const { parts, problems } = this.#mime
    this.#texts = parts.filter((part) => isText(part, parts.length === 1))
    this.attachments = parts
      .filter((part) => part.filename !== undefined || !this.#texts.includes(part))
      .map((part) => ({
        name: part.filename ?? null,
        type: part.type,
        cid: part.cid ?? null,
        content: () => contentOf(part, problems),
      }))
  }

  get headers(): Header[] {
    return this.#mime.fields.map(({ name, value }) => ({ name, value: this.#decodeHeader(value) }))
  }

  get from(): Address[] {
    return this.#addresses('from')
  }

  get to(): Address[] {
    return this.#addresses('to')
  }

  get cc(): Address[] {
    return this.#addresses('cc')
  }

  get subject(): string {
    return this.header('subject') ?? ''
  }

  /** With its angle brackets. */
  get messageId(): string | undefined {
    return this.header('message-id') || undefined
  }

  /** When the sender wrote it (Date). */
  get date(): Date | undefined {
    return dateOf(this.header('date'))
  }

  /** When this server received it (the topmost Received; Date where there is none). A whole second. */
  get arrived(): Date | undefined {
    return dateOf(this.header('received')?.split(';').at(-1)) ?? this.date
  }

  /** Whom the envelope was for, as the server recorded it. */
  get envelopeRecipient(): string | undefined {
    return envelopeRecipient(this.headers)
  }

  /** What is wrong with the mail, in words; complete once everything that is wanted of it was read. */
  get problems(): string[] {
    return [...this.#mime.problems]
  }

  /** The decoded value of the first field of that name, given in lower case. */
  header(name: string): string | undefined {
    const field = this.#mime.fields.find(({ key }) => key === name)
    return field && this.#decodeHeader(field.value)
  }

  /** The text parts, or undefined where the mail has none; the HTML stands in for text where it is alone. */
  get text(): string | undefined {
    const plain = this.#texts.filter(({ type }) => type === 'text/plain')
    if (plain.length === 0) return undefined
    return plain.every((part) => this.#isBlank(part)) ? '' : this.readableText
  }

  get html(): string | undefined {
    const parts = this.#texts.filter(({ type }) => type === 'text/html')
    return parts.length > 0 ? parts.map((part) => this.#decode(part)).join('\n') : undefined
  }

  /** What a reader sees: the text, and that of HTML that has no text beside it. */
  get readableText(): string {
    const hasHtml = new Set(this.#texts.filter(({ type }) => type === 'text/html').map(({ slot }) => slot))
    // A template's text part may have been left blank.
    const plain = this.#texts.filter(
      (part) => part.type === 'text/plain' && !(hasHtml.has(part.slot) && this.#isBlank(part)),
    )
    const hasPlain = new Set(plain.map(({ slot }) => slot))
    const shown = this.#texts.filter(
      (part) => plain.includes(part) || (part.type === 'text/html' && !hasPlain.has(part.slot)),
    )
    return shown
      .map((part) =>
        part.type === 'text/html' ? readHtml(this.#bounded(this.#decode(part))).text : this.#decode(part),
      )
      .join('\n')
  }

  /** Every link, once: those of the HTML, then those that stand in the text. */
  get links(): string[] {
    const html = this.html
    const targets = html === undefined ? [] : readHtml(this.#bounded(html)).links
    const text = this.#texts.filter(({ type }) => type === 'text/plain').map((part) => this.#decode(part))
    const wanted = targets.filter((target) => target !== '' && !/^(#|cid:|data:|javascript:)/i.test(target))
    return [...new Set([...wanted, ...linksInText(this.#bounded(text.join('\n')))])]
  }

  /** The one-time code: from the text, or else the HTML, or else the subject. */
  get code(): string | undefined {
    const inHtml = () => readHtml(this.#bounded(this.html ?? '')).text
    return codeIn(this.readableText.slice(0, LONGEST_TEXT)) ?? codeIn(inHtml()) ?? codeIn(this.subject)
  }

  #isBlank(part: Part): boolean {
    return !/\S/.test(this.#decode(part))
  }

  /** As much of a text as is taken apart. */
  #bounded(text: string): string {
    if (text.length <= LONGEST_TEXT) return text
    this.#mime.problems.add(`more than ${LONGEST_TEXT / 1e6} million characters; the rest was not searched`)
    return text.slice(0, LONGEST_TEXT)
  }

  #decode(part: Part): string {
    return textOf(part, this.#mime.problems)
  }

  #decodeHeader(value: string): string {
    return decodeHeader(value, this.#mime.charset, this.#mime.problems)
  }

  #addresses(name: string): Address[] {
    return this.#mime.fields
      .filter(({ key }) => key === name)
      .flatMap(({ value }) => {
        // Encoded words stay for the parser: what they hold (a comma, "<") must not count as syntax.
        const text = /[^\0-\x7f]|\x1b/.test(value) ? this.#decodeHeader(value) : value
        return addressParser(text, { flatten: true }).map(({ name, address }) => ({ name, address: address ?? '' }))
      })
  }
}

/** What is meant to be read at once. A file name alone does not speak against it, where nothing else is to be read. */
function isText({ type, disposition, filename }: Part, isAlone: boolean): boolean {
  if ((type !== 'text/plain' && type !== 'text/html') || disposition === 'attachment') return false
  return filename === undefined || disposition === 'inline' || isAlone
}

/** Comments, as in "(UTC)", are no part of a date (RFC 5322 section 3.3). */
function dateOf(text: string | undefined): Date | undefined {
  const date = new Date(
    (text ?? '')
      .slice(-200)
      .replace(/\([^()]*\)/g, '')
      .trim(),
  )
  return Number.isNaN(date.getTime()) ? undefined : date
}

/**
 * The address that the mail was sent to. The trace that this server wrote ends with the line that says how the mail
 * came in; only what stands above it counts, as the sender may have written anything below. For caught mail local(8)
 * recorded the recipient in a Delivered-To below the mailbox's own. Where an alias led to the mailbox, the line
 * itself has the address, unless the mail had several recipients.
 */
function envelopeRecipient(headers: Header[]): string | undefined {
  const recipients: string[] = []
  for (const { name, value } of headers) {
    if (/^delivered-to$/i.test(name)) recipients.push(value)
    if (!/^received$/i.test(name)) continue
    // "by HOST (Postfix) with ESMTP id ... for <a@b>; date", or "(Postfix, from userid 0)" by sendmail(1). The mail
    // that local(8) hands on and LMTP have their own lines, above.
    if (!/\(Postfix\)\s+with\s|\(Postfix, from userid/.test(value)) continue
    const [, original] = /\sid\s+\S+\s+for\s+<([^<>\s]+)>;/.exec(value) ?? []
    return recipients.length > 1 ? recipients.at(-1) : (original ?? recipients[0])
  }
  return recipients[0]
}

/** Links in plain text: RFC 3986's characters behind "scheme://". What follows a sentence's end is not part of one. */
function linksInText(text: string): string[] {
  const found = text.match(/\b[a-z][a-z0-9+.-]{1,30}:\/\/[\w.~:/?#[\]@!$&'()*+,;=%-]+/gi) ?? []
  return found.map((link) => {
    // A bracket that opens within the link may close it, as in "/wiki/Mail_(disambiguation)".
    let open = link.split('(').length - link.split(')').length
    let end = link.length
    for (; /[.,:;!?'*_)]/.test(link.charAt(end - 1)); end--) {
      if (link.charAt(end - 1) !== ')') continue
      if (open >= 0) break
      open++
    }
    return link.slice(0, end)
  })
}

/** What has digits and is no code: links, addresses, dates with a month's name, years in Japanese, phone numbers. */
const NO_CODE = [
  /\b[a-z][a-z0-9+.-]{1,30}:\/\/\S+|\bwww\.\S+|(?<![^\s<>@])[^\s<>@]{1,64}@[\w.-]{1,255}/gi,
  /\b(?:\d{1,2}(?:st|nd|rd|th)?[ .]{1,2})?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}[ .,]{1,2}(?:\d{1,2}(?:st|nd|rd|th)?[ ,]{1,2})?\d{4}\b/gi,
  /\d{4}年/g,
  /[+(]\d[\d() .-]{6,20}\d|\b0\d{1,4}[ -]\d{1,4}[ -]\d{3,4}\b/g,
  /[#$€£¥]\s?\d+|(?:©|\(c\))\s?\d{4}/gi,
]
/** Joined to nothing: no letter, digit or underscore beside it, no "12:3456", "1,234", "2026-11-22" or "3.1415". */
const ALONE = /(?<![A-Za-z0-9_])(?<![A-Za-z0-9][-./,+]|\d:)\d{4,8}(?![A-Za-z0-9_])(?![-./,:+][A-Za-z0-9])/
/** The first run of 4 to 8 digits, whatever it belongs to, as long as no letter or digit touches it. */
const ANY = /(?<![A-Za-z0-9_])\d{4,8}(?![A-Za-z0-9_])/

/** The first run of 4 to 8 digits that stands alone, as ASCII digits; one out of a date or a link only without better. */
export function codeIn(text: string): string | undefined {
  // A code stands at the beginning; a mail of 20 MB is not searched to its end.
  const ascii = text
    .slice(0, 1_000_000)
    .replace(/[\uff10-\uff19]/g, (digit) => String.fromCharCode(digit.charCodeAt(0) - 0xff10 + 0x30))
  const bare = NO_CODE.reduce((rest, pattern) => rest.replace(pattern, ' | '), ascii)
  return (ALONE.exec(bare) ?? ANY.exec(ascii))?.[0]
}
