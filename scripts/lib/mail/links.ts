/** HTML as a reader sees it, and the links of a mail. */
import { createRequire } from 'node:module'
import type { HtmlToTextOptions } from 'html-to-text'

/** Characters of text in which links are looked for, and characters and tags of HTML that are turned to text. */
const LONGEST = { text: 2_000_000, tags: 50_000 }
/** What stands around a link in a text of HTML: characters that Unicode keeps for a program's own use. */
const [BEGIN, MIDDLE, END] = ['\ufdd0', '\ufdd1', '\ufdd2']

const OPTIONS: HtmlToTextOptions = {
  wordwrap: false,
  // It works by recursion.
  limits: { maxDepth: 500 },
  formatters: {
    link(element, walk, builder) {
      const target = (element.attribs.href ?? '').replace(/[\t\r\n\ufdd0-\ufdd2]/g, '').trim()
      builder.addInline(`${BEGIN}${target}${MIDDLE}`, { noWordTransform: true })
      walk(element.children, builder)
      builder.addInline(END, { noWordTransform: true })
    },
    cell(element, walk, builder) {
      walk(element.children, builder)
      builder.addInline(' ')
    },
  },
  selectors: [
    ...['a', 'area'].map((selector) => ({ selector, format: 'link' })),
    ...['td', 'th'].map((selector) => ({ selector, format: 'cell' })),
    { selector: 'tr', format: 'block' },
    { selector: 'img', format: 'skip' },
    ...['h1', 'h2', 'h3', 'h4', 'h5', 'h6'].map((selector) => ({ selector, options: { uppercase: false } })),
  ],
}

let convert: ((html: string) => string) | undefined

/** html-to-text is loaded for the first HTML: that takes as long as reading a hundred mails. */
function marked(html: string): string {
  const load = () => createRequire(import.meta.url)('html-to-text') as typeof import('html-to-text')
  convert ??= load().compile(OPTIONS)
  return convert(beginningOf(html).replace(/[\ufdd0-\ufdd2]/g, ''))
}

/** As much of HTML as is turned to text; the parser would take minutes for a million tags in one another. */
export function beginningOf(html: string): string {
  let at = -1
  for (let tags = 0; tags <= LONGEST.tags; tags++) {
    at = html.indexOf('<', at + 1)
    if (at < 0) return html.slice(0, LONGEST.text)
  }
  return html.slice(0, Math.min(at, LONGEST.text))
}

/** HTML as text. */
export function textOfHtml(html: string): string {
  return marked(html).replace(/\ufdd0[^\ufdd1]*\ufdd1|\ufdd2/g, '')
}

/** The texts of a mail, null where it has none. */
interface Bodies {
  text: string | null
  html: string | null
}

/** The absolute http and https links of a mail, once each, in the order of the mail. */
export function linksOf(mail: Bodies): string[] {
  return allLinksOf(mail).filter((link) => /^https?:\/\/[^\s/]/i.test(link))
}

/** Every link, with mailto: and the like and relative ones. */
export function allLinksOf(mail: Bodies): string[] {
  const found = [...linksIn(mail.text ?? ''), ...linksIn(mail.html === null ? '' : marked(mail.html))]
  return [...new Set(found)].filter((link) => link !== '' && !/^(#|cid:|data:|javascript:)/i.test(link))
}

/** RFC 3986's characters and the letters of Europe behind "scheme://", or the target that an element names; its own text is no link beside it. */
const LINK = /\ufdd0([^\ufdd1]*)\ufdd1[^\ufdd2]*|\b[a-z][a-z0-9+.-]{1,30}:\/\/[\wÀ-ɏͰ-ԯ.~:/?#[\]@!$&'()*+,;=%-]+/gi

function linksIn(text: string): string[] {
  return [...text.slice(0, LONGEST.text).matchAll(LINK)].map(([link, target]) => target ?? withoutEnd(link))
}

/** What follows a sentence's end is not part of a link; a bracket that opens within it is, as in "/wiki/Mail_(post)". */
function withoutEnd(link: string): string {
  const count = (character: string) => link.split(character).length - 1
  const unopened = new Map([
    [')', count(')') - count('(')],
    [']', count(']') - count('[')],
  ])
  let end = link.length
  for (; end > 0; end--) {
    const last = link.charAt(end - 1)
    const surplus = unopened.get(last)
    if (surplus === undefined ? !/[.,:;!?'*_]/.test(last) : surplus <= 0) break
    if (surplus !== undefined) unopened.set(last, surplus - 1)
  }
  return link.slice(0, end)
}
