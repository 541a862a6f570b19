/** A mail as a page of its own, which runs nothing, reaches nothing and reads nothing of ours. */
import type { Mail } from '../mail/mail.ts'

/**
 * A mail runs no script, has no origin, and loads nothing from elsewhere: then it need not be sanitised. The frame that
 * shows it has the same words in its "sandbox".
 */
export const MAIL_POLICY =
  "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; " +
  "font-src data:; base-uri 'none'; form-action 'none'"

/** Characters of a mail's HTML with its pictures in it. */
const LONGEST_HTML = 64_000_000

/** The HTML of a mail, fit to be sent with `MAIL_POLICY`. */
export function htmlOf(html: string, { attachments }: Mail): string {
  let length = html.length
  // A policy does not keep a browser from looking up names and opening connections that a <link> asks for. As the old
  // <bgsound>, which stands in the same places, it is nothing.
  const page = html.replace(/<link/gi, '<bgsound').replace(/\bcid:([^\s"'<>()]+)/gi, (reference, id: string) => {
    const picture = attachments.find(({ contentId }) => contentId !== '' && contentId === decoded(id))
    if (!picture) return reference
    // In a sandbox without an origin nothing is "self".
    const url = `data:${safeType(picture.type)};base64,${Buffer.from(picture.bytes).toString('base64')}`
    length += url.length
    return length > LONGEST_HTML ? reference : url
  })
  // A link opens a window of its own, and not in the frame of the mail.
  return page.replace(/^\s*(<!doctype[^>]*>)?/i, '$&<base target="_blank">')
}

/** A media type that may stand in a header, whatever the mail says. */
export function safeType(type: string): string {
  return /^[\w.+-]+\/[\w.+-]+$/.test(type) ? type : 'application/octet-stream'
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
