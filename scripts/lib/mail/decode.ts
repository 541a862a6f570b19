/** Bytes of a mail to text: charsets by their label or by a guess, and encoded words (RFC 2047). */
import { isAscii, isUtf8 } from 'node:buffer'
import { createRequire } from 'node:module'

/** What decoding has to know of the mail, and what it finds wrong with it. */
export interface Decoding {
  /** The first charset that the mail names: what bytes without a label are probably in. */
  hint: string | undefined
  warnings: Set<string>
}

type Decoder = (bytes: Uint8Array) => string

/** iconv-lite is loaded for the mail that needs it: it takes as long as reading fifty mails. */
let loaded: typeof import('iconv-lite') | undefined
function iconv(): typeof import('iconv-lite') {
  loaded ??= createRequire(import.meta.url)('iconv-lite') as typeof import('iconv-lite')
  return loaded
}

/** No label, or one that promises no more than ASCII. */
const NO_LABEL = /^$|^(us-?)?ascii$|^ansi_x3\.4-19\d\d$|^(x-)?unknown|^[78]-?bit$|^binary$|^default$|^none$/
/** What senders mean by their labels, mostly a superset of the standard that is named; iconv-lite knows the others. */
const TABLES: [RegExp, string][] = [
  [/utf[-_ ]?8|65001$/, 'utf-8'],
  [/2022-?jp|5022\d$|^junet$/, 'iso-2022-jp'],
  [/euc[-_]?jp|(51|20)932$/, 'euc-jp'],
  [/s(hift)?[-_]?jis|31j$|kanji|932$/, 'cp932'],
  [/^ks_?c|euc[-_]?kr|949$|^uhc$|^korean$/, 'cp949'],
  [/gb[k_]?\d*$|^gb|936$|^chinese$/, 'gb18030'],
  [/big-?5|950$/, 'big5-hkscs'],
  [/8859[-_]?1(:\d+)?$|latin-?1$|^l1$|1252$|^ansi$|819$/, 'cp1252'],
  [/8859[-_]?9|latin-?5$|^l5$/, 'cp1254'],
  [/^tis|874$|8859[-_]?11/, 'cp874'],
  [/^(unicode|utf-?16|(iso-10646-)?ucs-?2)$/, 'utf-16'],
]

const decoders = new Map<string, { name: string; decode: Decoder } | undefined>()

/** The decoder of a label and one name for all the labels of its charset; undefined for an unknown one. */
function decoderOf(label: string): { name: string; decode: Decoder } | undefined {
  if (decoders.has(label)) return decoders.get(label)
  const decoder = findDecoder(label)
  // A mail may make up any number of labels.
  if (decoders.size < 1_000) decoders.set(label, decoder)
  return decoder
}

function findDecoder(label: string): { name: string; decode: Decoder } | undefined {
  const short = label.replace(/^x-(ms-)?|^cs(?=iso|euc|shift|big)/, '').replace(/^(ms|ibm|win(dows)?)[-_]?(?=\d)/, 'cp')
  const name = TABLES.find(([pattern]) => pattern.test(short))?.[1] ?? short
  if (name === 'utf-8') return { name, decode: (bytes) => utf8.decode(bytes) }
  if (name === 'iso-2022-jp') return { name, decode: fromIso2022jp }
  if (/^(internal|hex|base64|binary)/.test(name) || !iconv().encodingExists(name)) return undefined
  return { name, decode: (bytes) => decodeAs(name, bytes) }
}

const decodeAs = (name: string, bytes: Uint8Array) => iconv().decode(bufferOf(bytes), name)
const bufferOf = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
const binaryOf = (bytes: Uint8Array) => bufferOf(bytes).toString('latin1')
const utf8 = new TextDecoder()

/** ESC $ B and the like switch to kanji in ISO-2022-JP (RFC 1468); in other text nobody writes them. */
const KANJI = /\x1b\$(?:[@B]|\(D)/
const isKanji = (bytes: Uint8Array) => bytes.includes(0x1b) && isAscii(bytes) && KANJI.test(binaryOf(bytes))

/** ISO-2022-JP is EUC-JP with the high bits taken away; that has the characters of its supersets as well. */
function fromIso2022jp(bytes: Uint8Array): string {
  const eucJp = Buffer.allocUnsafe(bytes.length * 2)
  let [length, behind, charset] = [0, 0, '(B']
  const convert = (end: number) => {
    const isAsciiSet = /^\([BJH]/.test(charset)
    for (let at = behind; at < end; at++) {
      const byte = bytes[at] as number
      const isShifted = !isAsciiSet && byte > 0x20 && byte < 0x7f
      if (isShifted && charset === '(I') eucJp[length++] = 0x8e
      if (isShifted && charset === '$(D' && (at - behind) % 2 === 0) eucJp[length++] = 0x8f
      eucJp[length++] = isShifted ? byte | 0x80 : byte
    }
  }
  for (const { 0: sequence, 1: next = '', index } of binaryOf(bytes).matchAll(/\x1b(\$[@B]|\$\([@BD]|\([BJIH])/g)) {
    convert(index)
    charset = next
    behind = index + sequence.length
  }
  convert(bytes.length)
  return decodeAs('euc-jp', eucJp.subarray(0, length))
}

/**
 * Decodes a text. Bytes that do not fit the label become replacement marks (U+FFFD). An unknown label is a warning,
 * and its text is guessed like one without a label.
 */
export function decodeText(bytes: Uint8Array, label: string, { hint, warnings }: Decoding): string {
  const name = label.trim().toLowerCase()
  const [first, second] = bytes
  if (/^$|utf|ucs|unicode|ascii/.test(name)) {
    if (first === 0xff && second === 0xfe) return new TextDecoder('utf-16le').decode(bytes)
    if (first === 0xfe && second === 0xff) return new TextDecoder('utf-16be').decode(bytes)
  }
  if (NO_LABEL.test(name)) return guess(bytes, hint)
  const decoder = decoderOf(name)
  if (!decoder) {
    warnings.add(`unknown charset "${name.slice(0, 40)}"`)
    return guess(bytes, hint)
  }
  // Labelled as the one and written in the other.
  const isOther = decoder.name === 'iso-2022-jp' ? !isAscii(bytes) : decoder.name === 'utf-8' && isKanji(bytes)
  return isOther ? guess(bytes, undefined) : decoder.decode(bytes)
}

/** Text without a label: UTF-8, ISO-2022-JP, what the mail names elsewhere, EUC-JP, Shift_JIS, or else windows-1252. */
function guess(bytes: Uint8Array, hint: string | undefined): string {
  if (isKanji(bytes)) return fromIso2022jp(bytes)
  if (isUtf8(bytes)) return utf8.decode(bytes)
  // Cut off in the middle of a character, or with a few bytes of something else.
  const sample = bytes.subarray(0, 100_000)
  const text = utf8.decode(sample)
  if ((text.match(/[\x80-\ufffc]/g)?.length ?? 0) > (marks(text) - 1) * 4) return utf8.decode(bytes)
  const hinted = hint === undefined || NO_LABEL.test(hint) ? undefined : decoderOf(hint)
  if (hinted && !/^utf|2022/.test(hinted.name) && !isBroken(hinted.decode(sample))) return hinted.decode(bytes)
  return decodeAs(japaneseOf(sample) ?? 'cp1252', bytes)
}

/** A mark of failure; at the very end it is only a character that was cut in two. */
const isBroken = (text: string) => /\ufffd./s.test(text)

/** EUC-JP or Shift_JIS, where the bytes make sense as that: most of what is not ASCII is kanji and kana side by side. */
function japaneseOf(bytes: Uint8Array): string | undefined {
  const high = binaryOf(bytes).replace(/[\0-\x7f]+/g, '')
  // The letters of Western languages are where Shift_JIS has its rare kanji.
  const isWestern = high.replace(/[^\x81-\x9f]+/g, '').length < high.length * 0.4
  return (isWestern ? ['euc-jp'] : ['euc-jp', 'cp932']).find((name) => {
    const text = decodeAs(name, bytes)
    const sideBySide = text.match(/[\u3001-\u30ff\u4e00-\u9fff\uff01-\uff5e]{2,}/g)?.join('').length ?? 0
    return !isBroken(text) && sideBySide * 2 > text.replace(/[\0-\x7f]+/g, '').length
  })
}

/** An encoded word: charset, language (RFC 2231), encoding, text. Bytes that are not ASCII should not be there, and are. */
const WORD = String.raw`=\?[^?\s]{1,200}\?[bq]\?[^?]*\?=`
/** What is decoded as one: raw ISO-2022-JP, in which "=?" may be half a kanji, or encoded words side by side. */
const UNIT = new RegExp(String.raw`(\x1b\$[@B].*?(?:\x1b\([BJ]|$))|${WORD}(?:\s*${WORD})*`, 'gis')

/**
 * Decodes a header field's value, given as one character a byte. `word` gets the text of encoded words that stand side
 * by side and gives what stands for them.
 */
export function decodeHeader(binary: string, decoding: Decoding, word = (text: string) => text): string {
  if (!/=\?|[^\0-\x7f]|\x1b\$/.test(binary)) return binary
  let text = ''
  let at = 0
  const bare = (end: number) => {
    if (end > at) text += guess(Buffer.from(binary.slice(at, end), 'latin1'), decoding.hint)
  }
  for (const { 0: unit, 1: kanji, index } of binary.matchAll(UNIT)) {
    bare(index)
    text += kanji === undefined ? word(decodeWords(unit, decoding)) : fromIso2022jp(Buffer.from(kanji, 'latin1'))
    at = index + unit.length
  }
  bare(binary.length)
  return text
}

interface Word {
  label: string
  encoding: string
  text: string
}

/** Words of one charset are joined as bytes first: senders cut them anywhere, also in the middle of a character. */
function decodeWords(unit: string, decoding: Decoding): string {
  const runs: Word[][] = []
  for (const [, label = '', encoding = '', text = ''] of unit.matchAll(/=\?([^?*\s]*)[^?\s]*\?([bq])\?([^?]*)\?=/gi)) {
    const word = { label: label.toLowerCase(), encoding: encoding.toLowerCase(), text }
    const last = runs.at(-1)
    if (last?.[0] && nameOf(last[0].label) === nameOf(word.label)) last.push(word)
    else runs.push([word])
  }
  return runs
    .map((run) => {
      // Some cut the base64 itself, so that only the texts of the words in a row can be decoded.
      const [apart = '', joined = ''] = [run, joinTexts(run)].map((words) => decodeRun(words, decoding))
      return marks(joined) < marks(apart) ? joined : apart
    })
    .join('')
}

const nameOf = (label: string) => decoderOf(label)?.name ?? label
const marks = (text: string) => text.split('\ufffd').length

function joinTexts(run: Word[]): Word[] {
  const joined: Word[] = []
  for (const word of run) {
    const last = joined.at(-1)
    if (last && last.encoding === word.encoding) last.text += word.text
    else joined.push({ ...word })
  }
  return joined
}

function decodeRun(words: Word[], decoding: Decoding): string {
  const bytes = Buffer.concat(
    words.map(({ encoding, text }) => (encoding === 'b' ? Buffer.from(text, 'base64') : fromQ(text))),
  )
  // Raw bytes in a word are UTF-8 where they can be, whatever the label says.
  const isRaw = words.some(({ text }) => /[^\0-\x7f]/.test(text)) && isUtf8(bytes)
  return decodeText(bytes, isRaw ? 'utf-8' : (words[0]?.label ?? ''), decoding)
}

function fromQ(text: string): Buffer {
  const binary = text
    .replaceAll('_', ' ')
    .replace(/=([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
  return Buffer.from(binary, 'latin1')
}
