/** HTML as a reader sees it, and the links of a mail. */
import { compile } from 'html-to-text'
import type { Mail } from './mail.ts'

/** Characters of HTML that are turned to text, and of text in which links are looked for. */
export const LONGEST = 2_000_000
/** What stands around a link in a text of HTML: characters that Unicode keeps for a program's own use. */
const [BEGIN, MIDDLE, END] = ['\ufdd0', '\ufdd1', '\ufdd2']

const convert = compile({
  wordwrap: false,
  limits: { maxInputLength: LONGEST },
  formatters: {
    link(element, walk, builder) {
      const target = (element.attribs.href ?? '').replace(/[\t\r\n\ufdd0-\ufdd2]/g, '').trim()
      builder.addInline(`${BEGIN}${target}${MIDDLE}`, { noWordTransform: true })
      walk(element.children, builder)
      builder.addInline(END, { noWordTransform: true })
    },
  },
  selectors: [
    ...['a', 'area'].map((selector) => ({ selector, format: 'link' })),
    { selector: 'img', format: 'skip' },
    ...['h1', 'h2', 'h3', 'h4', 'h5', 'h6'].map((selector) => ({ selector, options: { uppercase: false } })),
  ],
})
const marked = (html: string) => convert(html.slice(0, LONGEST).replace(/[\ufdd0-\ufdd2]/g, ''))

/** HTML as text, as far as `LONGEST`. */
export function textOfHtml(html: string): string {
  return marked(html).replace(/\ufdd0[^\ufdd1]*\ufdd1|\ufdd2/g, '')
}

/** The absolute http and https links of a mail, once each, in the order of the mail. */
export function linksOf(mail: Mail): string[] {
  return allLinksOf(mail).filter((link) => /^https?:\/\/[^\s/]/i.test(link))
}

/** Every link, with mailto: and the like and relative ones. */
export function allLinksOf(mail: Mail): string[] {
  const found = [...linksIn(mail.text ?? ''), ...linksIn(mail.html === null ? '' : marked(mail.html))]
  return [...new Set(found)].filter((link) => link !== '' && !/^(#|cid:|data:|javascript:)/i.test(link))
}

/** RFC 3986's characters behind "scheme://", or the target that an element names; its own text is no link beside it. */
const LINK = /\ufdd0([^\ufdd1]*)\ufdd1[^\ufdd2]*|\b[a-z][a-z0-9+.-]{1,30}:\/\/[\w.~:/?#[\]@!$&'()*+,;=%-]+/gi

function linksIn(text: string): string[] {
  return [...text.slice(0, LONGEST).matchAll(LINK)].map(([link, target]) => target ?? withoutEnd(link))
}

/** What follows a sentence's end is not part of a link; a bracket that opens within it is, as in "/wiki/Mail_(post)". */
function withoutEnd(link: string): string {
  let open = link.split('(').length - link.split(')').length
  let end = link.length
  for (; /[.,:;!?'*_)\]]/.test(link.charAt(end - 1)); end--) {
    if (link.charAt(end - 1) !== ')') continue
    if (open >= 0) break
    open++
  }
  return link.slice(0, end)
}
