/** A mail's HTML as a page of its own, which runs nothing, reaches nothing and reads nothing of ours. */
import { unescape as decoded } from 'node:querystring'
import type { Mail } from '../mail/mail.ts'

/**
 * A mail runs no script, has no origin, and loads nothing from elsewhere: then it need not be sanitised. The frame that
 * shows it has the same words in its "sandbox".
 */
export const MAIL_POLICY =
  "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; " +
  "font-src data:; base-uri 'none'; form-action 'none'"

/** Characters of a mail's HTML with its pictures in it. */
const LONGEST = 64_000_000

/** The HTML of a mail, fit to be sent with `MAIL_POLICY`. In a frame (`isEmbedded`) its links open windows of their own. */
export function htmlOf(html: string, { attachments }: Mail, isEmbedded: boolean): string {
  const urlOf = ({ type, bytes }: Mail['attachments'][number]) =>
    `data:${safeType(type)};base64,${bytes.toString('base64')}`
  const pictures = new Map(
    attachments.filter(({ contentId }) => contentId).map((file) => [file.contentId, urlOf(file)]),
  )
  let room = LONGEST - html.length
  const page = html
    // No policy keeps a browser from looking up names and opening connections where a <link> asks for it, and Chromium
    // connects for a frame before it asks the policy. As the old <bgsound>, which stands in the same places, they ask for
    // nothing.
    .replace(/<(?:link|i?frame|fencedframe|portal|object|embed)(?![a-z])/gi, '<bgsound')
    // In a sandbox without an origin nothing is "self", and pictures have to stand in the page.
    .replace(/\bcid:([^\s"'<>()]+)/gi, (reference, id: string) => {
      const url = pictures.get(id) ?? pictures.get(decoded(id)) ?? reference
      room -= url.length
      return room > 0 ? url : reference
    })
  // Of two attributes of a name the first counts.
  return isEmbedded ? page.replace(/<(a|area)(?=\s)/gi, '<$1 target="_blank" rel="noreferrer noopener"') : page
}

/** A media type that may stand in a header, whatever the mail says. */
export function safeType(type: string): string {
  return /^[\w.+-]+\/[\w.+-]+$/.test(type) ? type : 'application/octet-stream'
}

/** The last part of a name that may be a path, without what could end a line. */
export function safeName(name: string): string {
  return name.replace(/^.*[/\\]/s, '').replace(/[\x00-\x1f\x7f]/g, '')
}
