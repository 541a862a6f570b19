/** Texts of a piece that is repeated until a parser that goes back over its input would need minutes. */
import fc from 'fast-check'

const WORDS =
  '( < " \\ , ; = @ =? ?= & &# <a <!-- <style </ href= a 1 code コード http:// http://a. . - : <<a> --b \xff %'
const PIECE = fc.constantFrom(...WORDS.split(' '), ' ', '\t', '12345 ', '<a ', '=\r\n', '\r\n ', '\r\n', '\0')
export const PUMPED = fc.tuple(PIECE, PIECE, PIECE).map(([a, b, end]) => `${a}${(a + b).repeat(15_000)}${end}`)
