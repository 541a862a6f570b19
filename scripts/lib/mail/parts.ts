/** The parts of a mail: which are in which (RFC 2046), what they are called, and their content (RFC 2045, 2183, 2231). */
import { parseHeaderValue } from 'nodemailer/lib/mime-funcs'
import { type Decoding, decodeHeader, fromBase64, fromHex } from './decode.ts'

export interface Header {
  name: string
  value: string
}

/** A header, and where the body behind it begins. */
export interface Entity {
  /** Unfolded, still one character a byte. */
  fields: Header[]
  body: number
}

export interface Part extends Entity {
  /** Where the body ends; undefined for the end of the mail. */
  end: number | undefined
  type: string
  /** Of its Content-Type. */
  params: Record<string, string>
  disposition: string
  name: string
  contentId: string
  /** The multipart/alternative that it belongs to, whose parts say the same in several types. */
  slot: Part | undefined
  /** "2", "1.3", see Attachment. */
  section: string
  /** Of a multipart alone. Its `type` is that of a text, as it is shown as one where it cannot be taken apart. */
  subtype: string | undefined
  delimiter: string | undefined
  /** How many parts it has. */
  count: number
}

/** What is broken at the end of such a mail is that once more. */
const CUT_OFF = 'cut off: a multipart has no end'
/** So many multiparts in one another; what is deeper is shown as it stands. */
const DEEPEST = 100

/** A mail as one character a byte, with a line break before it, so that every line has one; and its own header. */
export function opened(raw: Uint8Array): { mail: string; root: Entity; decoding: Decoding } {
  const mail = `\n${Buffer.from(raw.buffer, raw.byteOffset, raw.length).toString('latin1')}`
  return { mail, root: entityAt(mail, 0), decoding: { mail: mail.slice(0, 65_536), warnings: new Set() } }
}

/** Reads the header behind the line break at a place: as far as an empty line, or, that of a part, a delimiter. */
function entityAt(mail: string, at: number): Entity {
  const end = at === 0 ? /\n\r?\n/g : /\n(?:\r?\n|(?=--))/g
  end.lastIndex = at
  const match = end.exec(mail)
  const fields: Header[] = []
  for (const line of mail.slice(at + 1, match?.index).split(/\r?\n(?![ \t])/)) {
    const colon = line.indexOf(':')
    const name = line.slice(0, Math.max(colon, 0)).trimEnd()
    if (name === '' || /\s/.test(name)) continue
    const value = line.slice(colon + 1).trim()
    fields.push({ name, value: value.includes('\n') ? value.replace(/\r?\n[ \t]/g, ' ') : value })
  }
  return { fields, body: match ? end.lastIndex : mail.length }
}

/** What is no multipart, in its order. What is broken is shown as far as it goes, and noted. */
export function partsOf(mail: string, root: Entity, decoding: Decoding): Part[] {
  let current = partOf(root, undefined, decoding)
  const parts = [current]
  const open = current.delimiter ? [current] : []
  const lines = /\n--([^\r\n]*)/g
  lines.lastIndex = root.body - 1
  for (const { 0: all, 1: rest = '', index } of open.length > 0 ? mail.matchAll(lines) : []) {
    const line = rest.trimEnd()
    const closed = line.endsWith('--') ? line.slice(0, -2) : line
    const at = open.findLastIndex(({ delimiter, count }) => delimiter === line || (delimiter === closed && count > 0))
    const parent = open[at]
    if (!parent) continue
    const isClosing = line !== parent.delimiter
    // The line break before a delimiter belongs to the delimiter (RFC 2046 section 5.1.1).
    const end = mail[index - 1] === '\r' ? index - 1 : index
    for (const ended of [current, ...open.splice(isClosing ? at : at + 1)]) ended.end ??= end
    const next = mail.indexOf('\n', index + all.length)
    if (isClosing || next < 0 || next + 1 === mail.length) continue
    current = partOf(entityAt(mail, next), parent, decoding)
    parts.push(current)
    if (current.delimiter && open.length < DEEPEST) open.push(current)
  }
  const shown = parts.filter(({ count }) => count === 0)
  if (open.some(({ count }) => count > 0)) decoding.warnings.add(CUT_OFF)
  else if (shown.some(({ subtype, body, end = mail.length }) => subtype && body < end)) {
    decoding.warnings.add('a multipart that cannot be taken apart')
  }
  return shown
}

/** What the header of a part says. */
function partOf(entity: Entity, parent: Part | undefined, decoding: Decoding): Part {
  const field = firstOf(entity.fields, 'content-type')
  const { value, params } = parametersOf(field)
  const [type = '', kind, subtype = ''] = /^([^\s;/]+)\/([^\s;/]+)$/.exec(value.toLowerCase()) ?? []
  // Sections and those with a charset (RFC 2231) come as an encoded word.
  for (const key of ['boundary', 'charset']) {
    if (params[key]?.startsWith('=?')) params[key] = decodeHeader(params[key], decoding)
  }
  const { boundary } = params
  const section = parent ? `${parent.section}${parent.section && '.'}${++parent.count}` : ''
  const disposition = firstOf(entity.fields, 'content-disposition')
  const usual = parent?.subtype === 'digest' ? 'message/rfc822' : 'text/plain'
  return {
    fields: entity.fields,
    body: entity.body,
    end: undefined,
    type: kind === undefined || kind === 'multipart' ? usual : type,
    params,
    disposition: parametersOf(disposition).value.toLowerCase(),
    name: fileName(disposition, decoding) || fileName(field, decoding),
    contentId: decodeHeader(firstOf(entity.fields, 'content-id'), decoding).replace(/^<|>$/g, ''),
    slot: parent?.subtype === 'alternative' ? parent : parent?.slot,
    section,
    subtype: kind === 'multipart' ? subtype : undefined,
    delimiter: kind === 'multipart' && boundary ? boundary.trimEnd() : undefined,
    count: 0,
  }
}

/** Whether a field has a name, which is given in lower case. Most names have another length. */
export function isNamed({ name }: Header, wanted: string): boolean {
  return name.length === wanted.length && name.toLowerCase() === wanted
}

/** The value of the first field of a name. */
export function firstOf(fields: Header[], wanted: string): string {
  return fields.find((field) => isNamed(field, wanted))?.value ?? ''
}

function parametersOf(field: string): { value: string; params: Record<string, string> } {
  return field === '' ? { value: '', params: {} } : parseHeaderValue(field, { stripComments: true })
}

/**
 * The file name in a Content-Disposition or a Content-Type: plain, in sections with a charset (RFC 2231), or as encoded
 * words in quotes, which RFC 2047 forbids and mail has.
 */
function fileName(field: string, decoding: Decoding): string {
  if (!/name/i.test(field)) return ''
  const prepared = field
    // Sections come out as an encoded word, but where there is a plain name beside them, which is for old programs.
    .replace(/(;\s*(?:file)?)name(?=\*[\d*]*\s*=)/gi, '$1long')
    .replace(/(long(?:\*0)?\*=\s*"?)(?:'')?(?=[^';]*(?:;|$))/, "$1utf-8''")
    // Half a kanji of raw ISO-2022-JP, or a path of Windows.
    .replace(/\\["\\]|\\/g, (found) => (found === '\\' ? '\\\\' : found))
  // What looks like a comment is "report (1).pdf" without its quotes.
  const { params } = parseHeaderValue(prepared)
  return decodeHeader(params.filelong ?? params.long ?? params.filename ?? params.name ?? '', decoding)
}

/** The content of a part, one character a byte, its transfer encoding taken off (RFC 2045 section 6) as far as it goes. */
export function contentOf(mail: string, part: Part, { warnings }: Decoding): string {
  const body = mail.slice(part.body, part.end)
  const encoding = firstOf(part.fields, 'content-transfer-encoding')
  const warn = (isBroken: boolean, what: string) => isBroken && !warnings.has(CUT_OFF) && warnings.add(`broken ${what}`)
  if (/base64/i.test(encoding)) {
    // Mailing lists add their lines in plain text.
    const footer = body.search(/(?<=(?:=|\n)[ \t]*\r?\n)(?=[^\n]{0,200}[^A-Za-z0-9+/=\s])/)
    const encoded = footer < 0 ? body : body.slice(0, footer)
    const digits = encoded.replace(/[^A-Za-z0-9+/=]+/g, '')
    warn(footer >= 0 || digits.length % 4 !== 0 || /[^A-Za-z0-9+/=\s]/.test(encoded), 'base64')
    return fromBase64(digits)
  }
  if (!/quoted-printable/i.test(encoding)) return body
  // "=" at a line's end joins it with the next; any other that is no byte is wrong and stands for itself.
  const joined = body.replace(/=[ \t]*(?:\r?\n|$)/g, '')
  warn(/=(?![0-9a-f]{2})/i.test(joined), 'quoted-printable')
  return fromHex(joined)
}
