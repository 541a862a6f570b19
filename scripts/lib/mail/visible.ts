/**
 * Text from mails and servers, made fit to print. What a terminal would obey (escape sequences, control characters) and
 * what would show a reader something else than what is there (bidi controls) becomes a visible escape.
 */
// C0, DEL and C1; the bidi controls of UAX 9; line and paragraph separator; the byte order mark.
const UNSAFE = /[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g
/** The same without tab and line feed. */
const UNSAFE_BUT_LAYOUT = new RegExp(UNSAFE.source.replace('\\0-\\x1f', '\\0-\\x08\\x0b-\\x1f'), 'g')

/** Text of several lines: line breaks and tabs stay, all else that is unsafe becomes `\x1b` or `\u202e`. */
export function visible(text: string): string {
  return text.replaceAll('\r\n', '\n').replace(UNSAFE_BUT_LAYOUT, escaped)
}

/** Text that has to stay on one line: a header field, a name, a server's reply. */
export function visibleLine(text: string): string {
  return text.replace(UNSAFE, escaped)
}

/** One line of JSON that is safe on a terminal as well: the unsafe characters stand in it as `\u009b`. */
export function jsonLine(value: unknown): string {
  return JSON.stringify(value).replace(UNSAFE, (character) => `\\u${hex(character, 4)}`)
}

function escaped(character: string): string {
  return character < '\u0100' ? `\\x${hex(character, 2)}` : `\\u${hex(character, 4)}`
}

function hex(character: string, digits: number): string {
  return character.charCodeAt(0).toString(16).padStart(digits, '0')
}
