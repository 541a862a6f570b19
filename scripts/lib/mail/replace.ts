/**
 * Replacing in texts of any length. V8 keeps all matches of one call until its end, a gigabyte for a text of 20 million
 * escape characters; so long texts are worked on in pieces.
 */

/** Characters. */
const PIECE = 100_000

/** Like `text.replace`, for a pattern of one character. */
export function replaceInPieces(text: string, pattern: RegExp, replacement: (match: string) => string): string {
  // Mostly there is nothing to replace, and finding that out is much cheaper than replacing.
  return inPieces(text, (piece) => (piece.search(pattern) < 0 ? piece : piece.replace(pattern, replacement)))
}

/** CRLF as LF. */
export function withLineFeeds(text: string): string {
  return text.includes('\r\n') ? inPieces(text, (piece) => piece.split('\r\n').join('\n')) : text
}

/** Gives the text itself where no piece changes. A piece never ends between CR and LF. */
function inPieces(text: string, work: (piece: string) => string): string {
  if (text.length <= PIECE) return work(text)
  const pieces: string[] = []
  let isChanged = false
  for (let at = 0; at < text.length; ) {
    const end = text.charAt(at + PIECE - 1) === '\r' ? at + PIECE + 1 : at + PIECE
    const piece = text.slice(at, end)
    const done = work(piece)
    isChanged ||= done !== piece
    pieces.push(done)
    at = end
  }
  return isChanged ? pieces.join('') : text
}
