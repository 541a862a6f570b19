/**
 * The structure of a mail: its header fields and its parts (RFC 5322, 2045, 2046, 2183, 2231), out of raw bytes.
 *
 * Not left to postal-mime, which takes 3 s and 700 MB for a text of 20 MB, refuses deep or wide mails as a whole, and
 * does not tell an unknown charset or broken base64. Here every step is one pass over the bytes without recursion, a
 * part's body is a view of the mail until somebody wants its content, and whatever is wrong is noted, never thrown.
 */
import { decodeHeader, decodeText } from './charset.ts'

/** A header field. The value is unfolded, one character a byte; `decodeHeader` makes text of it. */
export interface Field {
  name: string
  /** The name in lower case. */
  key: string
  value: string
}

/** A part that is no multipart. */
export interface Part {
  /** Media type, in lower case: "text/plain". */
  type: string
  charset: string | undefined
  /** format=flowed of RFC 3676, and its delsp=yes. */
  flowed: boolean
  delsp: boolean
  disposition: string
  /** As the sender wrote it, decoded: not fit to be the name of a file here. */
  filename: string | undefined
  /** Content-ID without its angle brackets. */
  cid: string | undefined
  /** Content-Transfer-Encoding, in lower case. */
  encoding: string
  /** The encoded body. */
  body: Buffer
  /** Equal for the parts of one multipart/alternative, which say the same in several types. */
  slot: object
}

export interface Mime {
  fields: Field[]
  parts: Part[]
  /** The first charset that the mail names: what its raw 8-bit header fields are probably in. */
  charset: string | undefined
  /** What is wrong with the mail, each once. */
  problems: Set<string>
}

/** Beyond these a mail is shown and noted as unusual; Postfix itself refuses 100 levels (mime_nesting_limit). */
const UNUSUAL = { levels: 100, parts: 1_000 }
/** Beyond these the rest of a mail is left out. */
const LIMIT = { levels: 10_000, parts: 100_000, header: 1_000_000, field: 100_000 }
/** The fields that are kept, once each, wherever they stand in a header that is too long. */
const ESSENTIAL = /^(from|to|cc|date|subject|message-id|content-(type|disposition|transfer-encoding|id))$/

/** First letters of those, in lower case, and what a folded line begins with (a tab is 0x29 with that bit set). */
const ESSENTIAL_INITIAL = new Set([...Buffer.from('ftcdsm '), 0x29])

const LF = 0x0a
const CR = 0x0d
const DASH = 0x2d

interface Multipart {
  boundary: string
  /** What the boundary meant before: an inner multipart may have the same one. */
  shadowed: number | undefined
  slot: object | undefined
  preamble: number
  parts: number
}

/** Takes a mail apart. Also for a header alone, as TOP gives it. */
export function parseMime(raw: Buffer): Mime {
  const charset = /charset\s*=\s*["']?([^\s"';]+)/i.exec(raw.toString('latin1', 0, 65_536))?.[1]
  const mime: Mime = { fields: [], parts: [], charset, problems: new Set() }
  const open: Multipart[] = []
  const boundaries = new Map<string, number>()
  let [fields, start] = readFields(raw, 0, boundaries, mime.problems)
  mime.fields = fields
  let deepest = 0

  for (;;) {
    const part = describePart(fields, mime)
    const slot = open.at(-1)?.slot
    const isOpened = part.boundary !== undefined && open.length < LIMIT.levels
    if (isOpened) {
      const boundary = part.boundary as string
      open.push({
        boundary,
        shadowed: boundaries.get(boundary),
        slot: part.type === 'multipart/alternative' ? {} : slot,
        preamble: start,
        parts: 0,
      })
      boundaries.set(boundary, open.length - 1)
      deepest = Math.max(deepest, open.length)
    }
    const delimiter = findDelimiter(raw, start, boundaries)
    const end = delimiter ? endOfLineBefore(raw, delimiter.at, start) : raw.length
    if (!isOpened) mime.parts.push({ ...part, body: raw.subarray(start, end), slot: slot ?? {} })

    // Closes what ends here; behind a closing delimiter comes an epilogue, up to the next delimiter further out.
    let next = delimiter
    for (;;) {
      const level = next ? next.level : -1
      while (open.length > level + 1) close(open.pop() as Multipart, end)
      if (!next?.isLast) break
      close(open.pop() as Multipart, end)
      next = findDelimiter(raw, next.behind, boundaries)
    }
    const parent = open.at(-1)
    if (!next || !parent) break
    if (mime.parts.length >= LIMIT.parts) {
      mime.problems.add(`more than ${LIMIT.parts} parts; the rest is left out`)
      break
    }
    parent.parts++
    ;[fields, start] = readFields(raw, next.behind, boundaries, mime.problems)
  }
  if (deepest > UNUSUAL.levels) mime.problems.add(`${deepest} levels of nesting`)
  if (mime.parts.length > UNUSUAL.parts && mime.parts.length < LIMIT.parts)
    mime.problems.add(`${mime.parts.length} parts`)
  return mime

  function close(multipart: Multipart, end: number): void {
    if (multipart.shadowed === undefined) boundaries.delete(multipart.boundary)
    else boundaries.set(multipart.boundary, multipart.shadowed)
    if (multipart.parts > 0) return
    mime.problems.add('a multipart without parts')
    const body = raw.subarray(multipart.preamble, Math.max(multipart.preamble, end))
    mime.parts.push({ ...describePart([], mime), body, slot: multipart.slot ?? {} })
  }
}

/** Reads header fields up to the blank line or, where that is missing, a delimiter. Gives where the body begins. */
function readFields(
  raw: Buffer,
  start: number,
  boundaries: Map<string, number>,
  problems: Set<string>,
): [Field[], number] {
  const fields: Field[] = []
  const seen = new Set<string>()
  let field: Field | undefined
  let at = start
  while (at < raw.length) {
    if (delimiterAt(raw, at, boundaries)) break
    const lineFeed = raw.indexOf(LF, at)
    const behind = lineFeed < 0 ? raw.length : lineFeed + 1
    const end = lineFeed < 0 ? raw.length : lineFeed - (raw[lineFeed - 1] === CR && lineFeed > at ? 1 : 0)
    if (end === at) {
      at = behind
      break
    }
    const isLong = at - start > LIMIT.header
    if (isLong && !ESSENTIAL_INITIAL.has((raw[at] as number) | 0x20)) {
      // Most of a header that is too long ends here, without a string for each line.
      problems.add('the header is too long and was cut')
      field = undefined
      at = behind
      continue
    }
    const line = raw.toString('latin1', at, Math.min(end, at + LIMIT.field))
    if (end - at > LIMIT.field) problems.add('a header field is too long and was cut')
    at = behind
    if (/^[ \t]/.test(line)) {
      if (!field) continue
      if (field.value.length + line.length > LIMIT.field) problems.add('a header field is too long and was cut')
      // Folded with a tab or with a space: a space.
      else field.value += line.replace(/^\t/, ' ')
      continue
    }
    const [, name, value] = /^([^\s:]+)[ \t]*:(.*)$/s.exec(line) ?? []
    field = name === undefined || value === undefined ? undefined : { name, key: name.toLowerCase(), value }
    if (!field) continue
    const { key } = field
    const isFirstEssential = ESSENTIAL.test(key) && !seen.has(key)
    if (isFirstEssential) seen.add(key)
    if (!isLong || isFirstEssential) {
      fields.push(field)
      continue
    }
    problems.add('the header is too long and was cut')
    field = undefined
  }
  for (const each of fields) each.value = each.value.trim()
  return [fields, at]
}

interface Delimiter {
  at: number
  /** Where the line behind it begins. */
  behind: number
  /** Which open multipart it belongs to. */
  level: number
  /** It has two dashes at its end and closes the multipart. */
  isLast: boolean
}

/** The next line from `from`, a line's beginning, that is a delimiter of an open multipart (RFC 2046 section 5.1.1). */
function findDelimiter(raw: Buffer, from: number, boundaries: Map<string, number>): Delimiter | undefined {
  if (boundaries.size === 0) return undefined
  for (let at = from; at < raw.length; ) {
    const delimiter = delimiterAt(raw, at, boundaries)
    if (delimiter) return delimiter
    const lineFeed = raw.indexOf('\n--', at, 'latin1')
    if (lineFeed < 0) return undefined
    at = lineFeed + 1
  }
  return undefined
}

function delimiterAt(raw: Buffer, at: number, boundaries: Map<string, number>): Delimiter | undefined {
  if (boundaries.size === 0 || raw[at] !== DASH || raw[at + 1] !== DASH) return undefined
  const lineFeed = raw.indexOf(LF, at)
  const behind = lineFeed < 0 ? raw.length : lineFeed + 1
  // A boundary has 70 characters at most; longer ones are met, very long ones are not.
  if (behind - at > 1_000) return undefined
  const line = raw.toString('latin1', at + 2, behind).trimEnd()
  const level = boundaries.get(line)
  if (level !== undefined) return { at, behind, level, isLast: false }
  const last = line.endsWith('--') ? boundaries.get(line.slice(0, -2)) : undefined
  return last === undefined ? undefined : { at, behind, level: last, isLast: true }
}

/** The line break before a delimiter belongs to the delimiter. */
function endOfLineBefore(raw: Buffer, at: number, start: number): number {
  let end = at
  if (end > start && raw[end - 1] === LF) end--
  if (end > start && raw[end - 1] === CR) end--
  return end
}

function describePart(
  fields: Field[],
  { charset, problems }: Mime,
): Omit<Part, 'body' | 'slot'> & { boundary?: string } {
  const field = (name: string) => fields.find(({ key }) => key === name)?.value ?? ''
  const decode = (binary: string) => decodeHeader(binary, charset, problems)
  const type = parameters(field('content-type'), charset, problems)
  const disposition = parameters(field('content-disposition'), charset, problems)
  const media = /^[^\s;/]+\/[^\s;/]+$/.test(type.value) ? type.value.toLowerCase() : 'text/plain'
  const boundary = type.values.get('boundary')?.trimEnd()
  if (media.startsWith('multipart/') && !boundary) problems.add('a multipart without a boundary')
  const filename = disposition.values.get('filename') ?? type.values.get('name')
  const cid = decode(field('content-id')).replace(/^<|>$/g, '')
  return {
    type: media.startsWith('multipart/') && !boundary ? 'text/plain' : media,
    charset: type.values.get('charset'),
    flowed: type.values.get('format')?.toLowerCase() === 'flowed',
    delsp: type.values.get('delsp')?.toLowerCase() === 'yes',
    disposition: disposition.value.toLowerCase(),
    filename: filename || undefined,
    cid: cid || undefined,
    encoding: /[\w-]+/.exec(field('content-transfer-encoding').toLowerCase())?.[0] ?? '',
    ...(media.startsWith('multipart/') && boundary ? { boundary } : {}),
  }
}

/**
 * The value and the parameters of a structured field. Knows continuations and charsets of RFC 2231, and encoded words
 * in quotes, which RFC 2047 forbids and mail has.
 */
function parameters(binary: string, charset: string | undefined, problems: Set<string>) {
  const values = new Map<string, string>()
  const sections = new Map<string, { text: string; isEncoded: boolean }[]>()
  for (const [, name = '', quoted, bare = ''] of binary.matchAll(
    /;\s*([^=;\s]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))/g,
  )) {
    const text = quoted === undefined ? bare.trim() : quoted.replace(/\\(["\\])/g, '$1')
    const [, base = '', number, star] = /^([^*]*)(?:\*(\d{1,4}))?(\*)?$/.exec(name.toLowerCase()) ?? []
    if (number === undefined && !star) {
      // charset=us-ascii (a comment): these have no blanks, and the first of two wins.
      const bareWord = /^(charset|boundary|format|delsp)$/.test(base) && quoted === undefined
      const value = bareWord ? (/^[^\s(]*/.exec(text)?.[0] ?? '') : decodeHeader(text, charset, problems)
      if (!values.has(base)) values.set(base, value)
      continue
    }
    const list = sections.get(base) ?? []
    list[Number(number ?? 0)] ??= { text, isEncoded: star !== undefined }
    sections.set(base, list)
  }
  for (const [name, list] of sections) values.set(name, joinSections(list, charset, problems))
  return { value: /^[^;\s(]*/.exec(binary)?.[0] ?? '', values }
}

/** Puts `name*0*=utf-8'ja'%E3; name*1*=%81; name*2=x` together: bytes first, as a character may be cut in two. */
function joinSections(
  sections: { text: string; isEncoded: boolean }[],
  charset: string | undefined,
  problems: Set<string>,
): string {
  const [, label, rest] = /^([^']*)'[^']*'(.*)$/s.exec(sections[0]?.isEncoded ? sections[0].text : '') ?? []
  let binary = ''
  for (const section of sections) {
    if (!section) break
    const text = section === sections[0] ? (rest ?? section.text) : section.text
    binary += section.isEncoded
      ? text.replace(/%([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)))
      : text
  }
  return label ? decodeText(Buffer.from(binary, 'latin1'), label, problems) : decodeHeader(binary, charset, problems)
}
