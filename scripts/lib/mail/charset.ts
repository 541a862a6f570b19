/** Bytes of a mail to text: by the label that they carry, with fallbacks for what real mail does instead. */
import { isAscii, isUtf8 } from 'node:buffer'
import { decodeWords } from 'postal-mime'

/** Labels in mail that TextDecoder does not know, and what it calls the same encoding. */
const ALIASES: [RegExp, string][] = [
  [/^(cp|ibm|windows|x-ms-cp)-?_?932$|^(x-)?(shift|s)[-_]?jis/, 'shift_jis'],
  [/^(x-)?euc[-_]?jp|^cp51932$/, 'euc-jp'],
  // The supersets too: what is beyond plain ISO-2022-JP in them becomes a replacement mark.
  [/^(cs)?iso[-_]?2022[-_]?jp|^cp5022[012]$|^junet$/, 'iso-2022-jp'],
  [/^(cp|ms|windows|ibm)-?936$/, 'gbk'],
  [/^(cp|ms|ibm)-?949$|^uhc$/, 'euc-kr'],
  [/^(cp|ms|windows|ibm)-?950$/, 'big5'],
  [/^(cp|ms|ibm)-?(874|125\d)$/, 'windows-$2'],
]
/** No label, or one that promises no more than ASCII: UTF-8 where it is valid. */
const NO_LABEL = /^$|^(us-)?ascii$|^ansi_x3\.4-19\d\d$|^utf-?8$|^(x-)?unknown|^(7|8)bit$|^binary$|^default$/
/** ESC $ B and ESC $ @ switch to kanji in ISO-2022-JP (RFC 1468); in other text nobody writes them. */
const KANJI = /\x1b\$[@B]/

/** The beginning of an encoded word (RFC 2047), with the language that RFC 2231 adds. */
const ENCODED_WORD = /=\?([^?*\s]{1,100})(?:\*[^?\s]{0,100})?\?[bq]\?/gi

const utf8 = new TextDecoder()
const iso2022jp = new TextDecoder('iso-2022-jp')

/**
 * What windows-1252 has at 0x80 to 0x9f. Node 20 decodes it as ISO-8859-1, which has control characters there
 * (nodejs/node issue 56542), and so do the labels that the Encoding Standard counts as windows-1252.
 */
const WINDOWS_1252 = '€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ'

/** The decoder of a label, or undefined for an unknown one. */
function decoderOf(label: string): ((bytes: Buffer) => string) | undefined {
  let name = label
  for (const [pattern, encoding] of ALIASES) {
    const match = pattern.exec(label)
    if (match) name = encoding.replace('$2', match[2] ?? '')
  }
  try {
    const decoder = new TextDecoder(name)
    return (bytes) =>
      decoder.encoding === 'windows-1252' ? mendWindows1252(decoder.decode(bytes)) : decoder.decode(bytes)
  } catch {
    return undefined
  }
}

function mendWindows1252(text: string): string {
  return text.replace(/[\x80-\x9f]/g, (character) => WINDOWS_1252.charAt(character.charCodeAt(0) - 0x80))
}

/**
 * Decodes a text. Bytes that do not fit the label become replacement marks (U+FFFD). An unknown label goes into
 * `problems`, and the text is taken for UTF-8, or for windows-1252 where it cannot be that.
 */
export function decodeText(bytes: Buffer, label: string | undefined, problems: Set<string>): string {
  const name = (label ?? '').trim().toLowerCase()
  if (NO_LABEL.test(name)) {
    const isIso2022jp = isAscii(bytes) && KANJI.test(bytes.toString('latin1'))
    return (isIso2022jp ? iso2022jp : utf8).decode(bytes)
  }
  const decoder = decoderOf(name)
  if (decoder) return decoder(bytes)
  problems.add(`unknown charset "${name.slice(0, 40)}"`)
  return isUtf8(bytes) ? utf8.decode(bytes) : mendWindows1252(bytes.toString('latin1'))
}

/**
 * Decodes a header field's value, given as one character a byte: encoded words (RFC 2047), plain UTF-8 (RFC 6532),
 * ISO-2022-JP as it stands. Other bytes are against the rules; they are taken for `charset`, which the text has.
 */
export function decodeHeader(binary: string, charset: string | undefined, problems: Set<string>): string {
  if (!binary.includes('=?') && !/[^\0-\x7f]|\x1b/.test(binary)) return binary
  let text = binary
  if (/[^\0-\x7f]|\x1b/.test(binary)) {
    const bytes = Buffer.from(binary, 'latin1')
    text = decodeText(bytes, isUtf8(bytes) ? 'utf-8' : charset, problems)
  }
  let words = decodeWords(text)
  for (const [, label = ''] of text.matchAll(ENCODED_WORD)) {
    const name = label.toLowerCase()
    const decoder = decoderOf(name)
    if (!decoder) problems.add(`unknown charset "${name.slice(0, 40)}"`)
    // Euro sign: a decoder that gives it for 0x80 is windows-1252, and decodeWords left control characters.
    else if (decoder(Buffer.of(0x80)) === '€') words = mendWindows1252(words)
  }
  return words
}
