/** The parts of a mail: which are in which (RFC 2046), what they are called, and their content (RFC 2045, 2183, 2231). */
import PostalMime from 'postal-mime'
import { type Decoding, decodeHeader, decodeText } from './decode.ts'

/** A mail whose header was found. */
export interface Opened {
  bytes: Buffer
  /** The header, one character a byte. */
  head: string
  /** Where the body begins. */
  body: number
}

/** A part that is no multipart. */
export interface Part {
  type: string
  charset: string
  /** format=flowed of RFC 3676; with delsp=yes the space goes as well. */
  flowed: '' | 'flowed' | 'delsp'
  disposition: string
  name: string
  contentId: string
  /** Content-Transfer-Encoding, in lower case. */
  encoding: string
  /** Still encoded. */
  body: Buffer
  /** The multipart/alternative that it belongs to, whose parts say the same in several types. */
  slot: object | undefined
  section: string
}

/** What is used of postal-mime's tree: it knows delimiters, folding, comments and quotes, and which part is in which. */
interface Node {
  childNodes: Node[]
  state: 'header' | 'body' | 'finished'
  headers: { key: string; value: string }[]
  headerLines: string[]
  contentType: { value: string; parsed: Structured; multipart: string | false }
  contentDisposition: { value: string; parsed: Structured }
  contentTransferEncoding: { encoding: string }
  contentId?: string
  setupContentDecoder(): void
  processHeaders(): void
}
interface Structured {
  value: string
  params: Record<string, string>
}
interface Parser {
  root: Node
  currentNode: Node
  processLine(line: Uint8Array, isFinal: boolean): Promise<void>
}

const DASH = 0x2d
/** The warning that a multipart has no closing delimiter. */
export const CUT_OFF = 'cut off: a multipart has no end'
/** So many parts are shown, and noted. */
const UNUSUAL = 1_000

/**
 * The parts of a mail. postal-mime gets the lines of headers and what may be a delimiter alone, and the bodies stay where
 * they are: it would decode the text by itself, after UTF-8, and take 3 s for 20 MB.
 */
export async function partsOf({ bytes: raw, head, body }: Opened, decoding: Decoding): Promise<Part[]> {
  const limits = { maxNestingDepth: Number.MAX_SAFE_INTEGER, maxHeadersSize: Number.MAX_SAFE_INTEGER }
  const parser = new PostalMime(limits) as unknown as Parser
  const { root } = parser
  const parts: Part[] = []
  let isTooDeep = false
  root.setupContentDecoder = () => {}
  root.headerLines = head.split(/\r?\n(?![ \t])/).filter((line) => /^content-/i.test(line))
  root.processHeaders()
  root.state = 'body'
  const begins = new Map([[root, body]])
  const ends = new Map<Node, number>()
  try {
    for (let at = root.contentType.multipart ? body : raw.length; at < raw.length; ) {
      const node = parser.currentNode
      node.setupContentDecoder = () => {}
      if (node.state !== 'header' && (raw[at] !== DASH || raw[at + 1] !== DASH)) {
        at = raw.indexOf('\n--', at, 'latin1') + 1 || raw.length
        continue
      }
      const behind = raw.indexOf('\n', at, 'latin1') + 1 || raw.length
      const line = raw.toString('latin1', at, behind).replace(/\r?\n$/, '')
      await parser.processLine(Buffer.from(line), false)
      if (parser.currentNode !== node) ends.set(node, ends.get(node) ?? endOfLineBefore(raw, at))
      else if (node.state === 'body' && !begins.has(node)) begins.set(node, behind)
      at = behind
    }
  } catch {
    // postal-mime closes parts by recursion, for which the stack is too small at some thousands of levels.
    isTooDeep = true
    decoding.warnings.add('too many levels of parts')
  }
  if (parser.currentNode.state === 'header') parser.currentNode.processHeaders()
  collect()
  return parts

  /** Not by recursion: a mail may have more levels than the stack. */
  function collect(): void {
    const open: [Node, string, object | undefined][] = [[parser.root, '', undefined]]
    for (let next = open.pop(); next; next = open.pop()) {
      const [node, section, slot] = next
      const { multipart, parsed } = node.contentType
      // Cut off behind a delimiter.
      if (section && node.headers.length === 0 && !begins.has(node)) continue
      if (multipart && node.childNodes.length > 0) {
        if (node.state !== 'finished' && !isTooDeep) decoding.warnings.add(CUT_OFF)
        const inner = multipart.toLowerCase() === 'alternative' ? node : slot
        const prefix = section && `${section}.`
        const { childNodes } = node
        for (let at = childNodes.length; at > 0; at--) open.push([childNodes[at - 1] as Node, `${prefix}${at}`, inner])
        continue
      }
      parts.push(partOf(node, section || '1', slot))
      if (multipart && (begins.get(node) ?? raw.length) < raw.length) {
        decoding.warnings.add(`a multipart without ${parsed.params.boundary ? 'parts' : 'a boundary'}`)
      }
    }
    if (parts.length > UNUSUAL) decoding.warnings.add(`${parts.length} parts`)
  }

  function partOf(node: Node, section: string, slot: object | undefined): Part {
    const { multipart, parsed } = node.contentType
    const { charset = '', format = '', delsp = '' } = parsed.params
    const begin = begins.get(node) ?? raw.length
    return {
      type: !multipart && /^[^\s;/]+\/[^\s;/]+$/.test(parsed.value) ? parsed.value : 'text/plain',
      charset,
      flowed: !/^flowed$/i.test(format) ? '' : /^yes$/i.test(delsp) ? 'delsp' : 'flowed',
      disposition: node.contentDisposition.parsed.value,
      name: fileName(node.contentDisposition.value, decoding) || fileName(node.contentType.value, decoding),
      contentId: decodeHeader(node.contentId ?? '', decoding).replace(/^<|>$/g, ''),
      encoding: node.contentTransferEncoding.encoding,
      body: raw.subarray(begin, Math.max(begin, ends.get(node) ?? raw.length)),
      slot,
      section,
    }
  }
}

/** The line break before a delimiter belongs to the delimiter (RFC 2046 section 5.1.1). */
function endOfLineBefore(raw: Buffer, at: number): number {
  return at - (raw[at - 1] !== 0x0a ? 0 : raw[at - 2] === 0x0d ? 2 : 1)
}

/**
 * The file name in a Content-Disposition or a Content-Type: plain, in sections with a charset (RFC 2231), or as encoded
 * words in quotes, which RFC 2047 forbids and mail has.
 */
function fileName(field: string, decoding: Decoding): string {
  if (!/name/i.test(field)) return ''
  let plain: string | undefined
  let [label, binary] = ['', '']
  const sections: [number, boolean, string][] = []
  for (const [, key = '', quoted, bare = ''] of field.matchAll(PARAMETER)) {
    const parameter = /^(?:file)?name(?:\*(\d{1,4}))?(\*)?$/i.exec(key)
    if (!parameter) continue
    const [, number, star] = parameter
    const value = quoted === undefined ? bare.trim() : quoted.replace(/\\(["\\])/g, '$1')
    if (number === undefined && !star) plain ??= value
    else sections.push([Number(number ?? 0), star !== undefined, value])
  }
  for (const [index, [, isEncoded, value]] of sections.sort(([one], [other]) => one - other).entries()) {
    const [, charset, rest] = (index === 0 && isEncoded && /^([^']*)'[^']*'(.*)$/s.exec(value)) || []
    label = charset ?? label
    const text = rest ?? value
    const unescaped = (hex: string) => String.fromCharCode(Number.parseInt(hex.slice(1), 16))
    binary += isEncoded ? text.replace(/%[0-9a-f]{2}/gi, unescaped) : text
  }
  if (label) return decodeText(Buffer.from(binary, 'latin1'), label, decoding)
  return decodeHeader(binary || (plain ?? ''), decoding)
}
const PARAMETER = /;\s*([^=;\s]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))/gs

/** The content of a part, its transfer encoding taken off (RFC 2045 section 6) as far as it goes. */
export function contentOf({ encoding, body }: Pick<Part, 'encoding' | 'body'>, decoding: Decoding): Buffer {
  if (encoding === 'base64') return fromBase64(body, decoding)
  return encoding === 'quoted-printable' ? fromQuotedPrintable(body, decoding) : body
}

function fromBase64(body: Buffer, { warnings }: Decoding): Buffer {
  const text = body.toString('latin1')
  // Mailing lists add their lines in plain text.
  const end = text.search(/(?<=(?:=|\n)[ \t]*\r?\n)(?=[^\n]{0,200}[^A-Za-z0-9+/=\s])/)
  const encoded = end < 0 ? text : text.slice(0, end)
  const digits = encoded.replace(/[^A-Za-z0-9+/=]+/g, '')
  if (end >= 0 || digits.length % 4 !== 0 || /[^A-Za-z0-9+/=\s]/.test(encoded)) warnings.add('broken base64')
  // "=" ends a unit; some programs write several units one after the other.
  return Buffer.concat(digits.split(/=+/).map((unit) => Buffer.from(unit, 'base64')))
}

/** "=E3" is a byte; "=" at a line's end joins it with the next; any other "=" is wrong and stands for itself. */
function fromQuotedPrintable(body: Buffer, { warnings }: Decoding): Buffer {
  const decoded = Buffer.allocUnsafe(body.length)
  let [length, behind] = [0, 0]
  const matches = body.toString('latin1').matchAll(/=(?:([0-9a-f]{2})|([ \t]*(?:\r?\n|$)))?/gi)
  for (const { 0: match, 1: hex, 2: softBreak, index } of matches) {
    length += body.copy(decoded, length, behind, index)
    behind = index + match.length
    if (softBreak !== undefined) continue
    if (hex === undefined) warnings.add('broken quoted-printable')
    decoded[length++] = hex === undefined ? 0x3d : Number.parseInt(hex, 16)
  }
  length += body.copy(decoded, length, behind)
  return decoded.subarray(0, length)
}
