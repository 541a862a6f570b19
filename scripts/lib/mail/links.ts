/** HTML as a reader sees it, and the links of a mail. */
import { createRequire } from 'node:module'
import type { HtmlToTextOptions } from 'html-to-text'

/** Tags of HTML that are turned to text; a million in one another would take minutes. */
const MOST_TAGS = 50_000
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
/** Text, links and code of a mail are mostly wanted one after the other. */
let last = { html: '', text: '' }

/** html-to-text is loaded for the first HTML: that takes as long as reading a hundred mails. */
function marked(html: string): string {
  const load = () => createRequire(import.meta.url)('html-to-text') as typeof import('html-to-text')
  convert ??= load().compile(OPTIONS)
  const beginning = () =>
    html
      .split('<', MOST_TAGS)
      .join('<')
      .replace(/[\ufdd0-\ufdd2]/g, '')
  if (html !== last.html) last = { html, text: convert(beginning()) }
  return last.text
}

/** HTML as text. */
export function textOfHtml(html: string): string {
  return marked(html).replace(/\ufdd0[^\ufdd1]*\ufdd1|\ufdd2/g, '')
}

/** The absolute http and https links of a mail, once each, in the order of the mail. */
export function linksOf({ text, html }: { text: string | null; html: string | null }): string[] {
  return [...new Set([text ?? '', html === null ? '' : marked(html)].flatMap(linksIn))]
}

/** The target that an element names, with its own text, which is no link beside it; or a link in the text. */
const LINK = /\ufdd0[^\ufdd2]*|\bhttps?:\/\/[\wÀ-ɏͰ-ԯ.~:/?#[\]@!$&'()*+,;=%-]+/gi

function linksIn(text: string): string[] {
  return (text.match(LINK) ?? [])
    .map((link) => (link.startsWith(BEGIN) ? link.slice(1, link.indexOf(MIDDLE)) : withoutEnd(link)))
    .filter((link) => /^https?:\/\/[^\s/]/i.test(link))
}

/** What follows a sentence's end is not part of a link; a bracket that opens within it is, as in "/wiki/Mail_(post)". */
function withoutEnd(link: string): string {
  let end = link.length
  while (/[.,:;!?'*)\]]/.test(link.charAt(end - 1))) end--
  const isOpen = /[([][^()[\]]*$/.test(link.slice(0, end)) && /[)\]]/.test(link.charAt(end))
  return link.slice(0, isOpen ? end + 1 : end)
}
