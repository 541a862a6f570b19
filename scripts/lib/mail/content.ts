/** The content of a part of a mail: its transfer encoding taken off (RFC 2045), its text decoded. */
import { decodeText } from './charset.ts'
import type { Part } from './mime.ts'
import { withLineFeeds } from './replace.ts'

/** Characters of format=flowed that are joined; longer texts stay as they are. */
const LONGEST_FLOWED = 2_000_000

const LF = 0x0a
const CR = 0x0d

/** The content of a part, its transfer encoding taken off. Broken base64 is decoded as far as it goes and noted. */
export function contentOf({ encoding, body }: Part, problems: Set<string>): Buffer {
  if (encoding === 'base64') return fromBase64(body, problems)
  if (encoding === 'quoted-printable') return fromQuotedPrintable(body)
  return body
}

function fromBase64(body: Buffer, problems: Set<string>): Buffer {
  let digits = 0
  let others = 0
  // Not for...of, which takes ten times as long here.
  for (let at = 0; at < body.length; at++) {
    const kind = BASE64[body[at] as number]
    if (kind === 1) digits++
    else if (kind === 2) others++
  }
  if (digits % 4 !== 0 || others > 0) problems.add('broken base64')
  // "=" ends a unit; some programs write several units one after the other.
  const text = body.toString('latin1')
  const decoded = Buffer.allocUnsafe(Math.ceil((digits * 3) / 4))
  let length = 0
  for (let at = 0; at < text.length; ) {
    const pad = text.indexOf('=', at)
    const end = pad < 0 ? text.length : pad
    if (end > at) length += decoded.write(text.slice(at, end), length, 'base64')
    at = end + 1
  }
  return decoded.subarray(0, length)
}

/** What each byte is in base64: 1 a digit or padding, 0 white space, 2 neither. */
const BASE64 = Uint8Array.from({ length: 256 }, (_, byte) => {
  const character = String.fromCharCode(byte)
  return /[A-Za-z0-9+/=]/.test(character) ? 1 : /\s/.test(character) ? 0 : 2
})

function fromQuotedPrintable(body: Buffer): Buffer {
  const decoded = Buffer.allocUnsafe(body.length)
  let length = 0
  for (let at = 0; at < body.length; at++) {
    const byte = body[at] as number
    if (byte === 0x3d) {
      // "=" at a line's end joins it with the next; "=E3" is a byte; any other "=" stands for itself.
      const lineFeed = body[at + 1] === LF ? 1 : body[at + 1] === CR && body[at + 2] === LF ? 2 : 0
      const hex = body.toString('latin1', at + 1, at + 3)
      if (lineFeed > 0) at += lineFeed
      else if (/^[0-9A-Fa-f]{2}$/.test(hex)) {
        decoded[length++] = Number.parseInt(hex, 16)
        at += 2
      } else decoded[length++] = byte
    } else decoded[length++] = byte
  }
  return decoded.subarray(0, length)
}

/** The text of a text part, with the line breaks as LF. */
export function textOf(part: Part, problems: Set<string>): string {
  const decoded = decodeText(contentOf(part, problems), part.charset, problems)
  const text = withLineFeeds(decoded)
  const isFlowed = part.flowed && part.type === 'text/plain' && text.length < LONGEST_FLOWED
  return isFlowed ? unflow(text, part.delsp) : text
}

/** Joins the lines that format=flowed broke behind a space (RFC 3676 section 4), but for quoted ones and "-- ". */
function unflow(text: string, delsp: boolean): string {
  // A line may begin with a space that was stuffed in.
  const joined = text.replace(delsp ? /(^>.*\n|^-- \n)| \n ?/gm : /(^>.*\n|^-- \n)|(?<= )\n ?/gm, '$1')
  return joined.replace(/^ /gm, '')
}
