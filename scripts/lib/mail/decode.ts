/**
 * Bytes of a mail to text: charsets by their label or by a guess, and encoded words (RFC 2047). Bytes come as a string
 * of one character a byte.
 */
import { isUtf8 } from 'node:buffer'
import { createRequire } from 'node:module'

/** What decoding has to know of the mail, and what it finds wrong with it. */
export interface Decoding {
  /** The beginning of the mail. Bytes without a label are probably in the charset that it names first. */
  mail: string
  warnings: Set<string>
}

/** iconv-lite is loaded for the mail that needs it: it takes as long as reading fifty mails. */
let loaded: typeof import('iconv-lite') | undefined
function iconv(): typeof import('iconv-lite') {
  loaded ??= createRequire(import.meta.url)('iconv-lite') as typeof import('iconv-lite')
  return loaded
}

/** No label, or one that promises no more than ASCII. */
const NO_LABEL = /^$|^(us-?)?ascii$|^ansi_x3\.4-19\d\d$|^(x-)?unknown|^[78]-?bit$|^binary$|^default$|^none$/
/** In these, bytes of ASCII are something else. */
const NO_ASCII = /utf-?(?!-?8)|ucs|unicode/
/** What senders mean by labels that iconv-lite does not know, or takes by the word. */
const TABLES: [RegExp, string][] = [
  [/utf8|65001$/, 'utf-8'],
  [/2022jp|5022\d$|^junet$/, 'iso-2022-jp'],
  [/s(hift)?jis/, 'cp932'],
  [/eucjp|(51|20)932$/, 'euc-jp'],
  [/gb|936$|^chinese$/, 'gb18030'],
  [/88591$|latin1$|^l1$|^ansi$|819$/, 'windows-1252'],
  [/88599$|latin5$|^l5$/, 'windows-1254'],
  [/^tis|885911$/, 'windows-874'],
  [/^(unicode|(iso10646)?ucs2)$/, 'utf-16'],
]

/** One name for all the labels of a charset; undefined for an unknown one. */
function charsetOf(label: string): string | undefined {
  const short = label.toLowerCase().replace(/^x-(ms-)?|:\d{4}$|[^a-z\d]/g, '')
  const table = TABLES.find(([pattern]) => pattern.test(short))?.[1]
  return table ?? (iconv().encodingExists(short) ? short : undefined)
}

const utf8 = new TextDecoder()

function decodeAs(charset: string, binary: string): string {
  if (charset === 'utf-8') return utf8.decode(Buffer.from(binary, 'latin1'))
  if (charset !== 'iso-2022-jp') return iconv().decode(Buffer.from(binary, 'latin1'), charset)
  // Encoded words begin and end in ASCII, where the standard forbids to switch to nothing.
  return new TextDecoder(charset).decode(Buffer.from(binary.replace(/\x1b\([BJ](?=\x1b)/g, ''), 'latin1'))
}

const isAsciiAlone = (binary: string) => !/[^\0-\x7f]/.test(binary)
/** ESC $ B and the like switch to kanji in ISO-2022-JP (RFC 1468); in other text nobody writes them. */
const isKanji = (binary: string) => /\x1b\$(?:[@B]|\(D)/.test(binary) && isAsciiAlone(binary)

/**
 * Decodes a text. Bytes that do not fit the label become replacement marks (U+FFFD). An unknown label is a warning,
 * and its text is guessed like one without a label.
 */
export function decodeText(binary: string, label: string, decoding: Decoding): string {
  const name = label.trim().toLowerCase()
  const isUnicode = NO_ASCII.test(name)
  if (!isUnicode && !/[^\0-\x7f]|\x1b/.test(binary)) return binary
  const isUnlabelled = NO_LABEL.test(name)
  if (/^(\xff\xfe|\xfe\xff)/.test(binary) && (isUnicode || isUnlabelled || name.startsWith('utf'))) {
    return decodeAs('utf-16', binary)
  }
  const charset = isUnlabelled ? undefined : charsetOf(name)
  if (!charset && !isUnlabelled) decoding.warnings.add(`unknown charset "${name.slice(0, 40)}"`)
  // Labelled as the one and written in the other.
  const isOther = charset === 'iso-2022-jp' ? !isAsciiAlone(binary) : charset === 'utf-8' && isKanji(binary)
  return charset && !isOther ? decodeAs(charset, binary) : guess(binary, decoding.mail)
}

/** Text without a label: UTF-8, ISO-2022-JP, what the mail names elsewhere, or what the bytes look like. */
function guess(binary: string, mail: string): string {
  if (isKanji(binary)) return decodeAs('iso-2022-jp', binary)
  const sample = binary.slice(0, 100_000)
  const text = decodeAs('utf-8', sample)
  // Cut off in the middle of a character, or with a few bytes of something else, it is UTF-8 nevertheless.
  const [right, wrong] = [/[\x80-\ufffc]/g, /\ufffd/g].map((pattern) => text.match(pattern)?.length ?? 0)
  if (binary.startsWith('\xef\xbb\xbf') || (right ?? 0) > (wrong ?? 0) * 4) return decodeAs('utf-8', binary)
  const [, label = ''] = /charset\s*=\s*["']?([^\s"';]+)/i.exec(mail) ?? []
  const named = NO_LABEL.test(label.toLowerCase()) ? undefined : charsetOf(label)
  const isFit = named && !/^utf|2022/.test(named) && !isBroken(decodeAs(named, sample))
  return decodeAs(isFit ? named : likely(sample), binary)
}

/** A mark of failure; at the very end it is only a character that was cut in two. */
const isBroken = (text: string) => /\ufffd./s.test(text)

/** Russian, Japanese and Chinese by their looks, or else Western. */
function likely(binary: string): string {
  const share = (pattern: RegExp) =>
    (binary.match(pattern)?.join('').length ?? 0) / binary.replace(/[\0-\x7f]+/g, '').length
  // Western words have one such letter among others; whole words of them are Russian.
  if (share(/[\xc0-\xff]*[\xe0-\xff]{3,}/g) > 0.7) return 'windows-1251'
  const candidates = ['euc-jp']
  // The letters of Western languages are where Shift_JIS has its rare kanji.
  if (share(/[\x81-\x9f]+/g) >= 0.4) candidates.push('cp932')
  if (/^([\0-\x7f]|[\xa1-\xf7][\xa1-\xfe])*.?$/s.test(binary)) candidates.push('gb18030')
  const found = candidates.find((name) => {
    const text = decodeAs(name, binary)
    const sideBySide = text.match(/[\u3001-\u30ff\u4e00-\u9fff\uff01-\uff5e]{2,}/g)?.join('').length ?? 0
    return !isBroken(text) && sideBySide * 2 > text.replace(/[\0-\x7f]+/g, '').length
  })
  return found ?? 'windows-1252'
}

/** An encoded word: charset, language (RFC 2231), encoding, text. Bytes that are not ASCII should not be there, and are. */
const WORD = String.raw`=\?[^?\s]{1,200}\?[bq]\?[^?]*\?=`
/** What is decoded as one: raw ISO-2022-JP, in which "=?" may be half a kanji, or encoded words side by side. */
const UNIT = new RegExp(String.raw`(\x1b\$[@B].*?(?:\x1b\([BJ]|$))|${WORD}(?:\s*${WORD})*`, 'gis')

/** Decodes a header field's value. `word` gets the text of encoded words side by side and gives what stands for them. */
export function decodeHeader(binary: string, decoding: Decoding, word = (text: string) => text): string {
  if (!/=\?|[^\0-\x7f]|\x1b\$/.test(binary)) return binary
  let text = ''
  let at = 0
  for (const { 0: unit, 1: kanji, index } of binary.matchAll(UNIT)) {
    text += decodeText(binary.slice(at, index), '', decoding)
    text += kanji === undefined ? word(decodeWords(unit, decoding)) : decodeAs('iso-2022-jp', kanji)
    at = index + unit.length
  }
  return text + decodeText(binary.slice(at), '', decoding)
}

/** Words of one charset are joined as bytes, those of one encoding even before that: senders cut them anywhere. */
function decodeWords(unit: string, decoding: Decoding): string {
  const runs: { charset: string; label: string; words: { encoding: string; text: string }[] }[] = []
  for (const [, label = '', letter = '', text = ''] of unit.matchAll(/=\?([^?*\s]*)[^?\s]*\?([bq])\?([^?]*)\?=/gi)) {
    const encoding = letter.toLowerCase()
    const charset = charsetOf(label) ?? label
    if (runs.at(-1)?.charset !== charset) runs.push({ charset, label, words: [] })
    const words = runs.at(-1)?.words ?? []
    const last = words.at(-1)
    if (last?.encoding === encoding) last.text += text
    else words.push({ encoding, text })
  }
  const texts = runs.map(({ label, words }) => {
    const bytes = words.map(({ encoding, text }) =>
      encoding === 'b' ? fromBase64(text) : fromHex(text.replaceAll('_', ' ')),
    )
    const binary = bytes.join('')
    // Raw bytes in a word are UTF-8 where they can be, whatever the label says.
    const isRaw = !isAsciiAlone(unit) && isUtf8(Buffer.from(binary, 'latin1'))
    return decodeText(binary, isRaw ? 'utf-8' : label, decoding)
  })
  return texts.join('')
}

/** "=E3" as a byte. */
export function fromHex(text: string): string {
  return text.replace(/=([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
}

/** "=" ends a unit; some programs write several units one after the other. */
export function fromBase64(text: string): string {
  return text
    .split(/=+/)
    .map((unit) => Buffer.from(unit, 'base64').toString('latin1'))
    .join('')
}
