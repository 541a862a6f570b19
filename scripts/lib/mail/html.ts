/** What a reader gets out of HTML without a browser: its text and its links. One pass, whatever the input. */

export interface HtmlContent {
  /** The text, with line breaks where blocks begin. */
  text: string
  /** The targets of all links, in order, with the character references decoded. */
  links: string[]
}

/** Elements whose content is no text. */
const HIDDEN = /^(script|style|title|template)$/
/** Elements that begin a new line; two lines where a paragraph ends. */
const LINE = /^(br|div|tr|li|ul|ol|table|section|article|header|footer|blockquote|dt|dd|hr|pre)$/
const PARAGRAPH = /^(p|h[1-6])$/

/** The named character references that mails use, name and character; HTML has 2,200, the rest stays as it is. */
const NAMED = new Map(
  `amp & lt < gt > quot " apos ' copy © reg ® trade ™ hellip … middot · bull • ndash – mdash — lsquo ‘ rsquo ’ sbquo ‚
  ldquo “ rdquo ” bdquo „ laquo « raquo » lsaquo ‹ rsaquo › larr ← rarr → uarr ↑ darr ↓ times × divide ÷ deg ° plusmn ±
  frac12 ½ sect § para ¶ euro € pound £ yen ¥ cent ¢ equals = quest ? colon : sol / num # percnt % lowbar _ auml ä ouml ö
  uuml ü Auml Ä Ouml Ö Uuml Ü szlig ß eacute é egrave è agrave à ccedil ç ntilde ñ aring å oslash ø aelig æ check ✓`
    .split(/\s+/)
    .flatMap((word, index, words) => (index % 2 === 0 ? [[word, words[index + 1] as string] as const] : [])),
)
for (const name of ['nbsp', 'ensp', 'emsp', 'thinsp']) NAMED.set(name, ' ')
for (const name of ['shy', 'zwnj', 'zwj']) NAMED.set(name, '')

/** Decodes character references: `&amp;`, `&#64;`, `&#x40;`. Unknown ones stay as they are. */
export function decodeReferences(text: string): string {
  return text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|([a-z][a-z0-9]{1,8}));?/gi, (whole, decimal, hex, name) => {
    // Without the semicolon only the oldest names count: "?a=1&section=2" has none.
    if (name) return whole.endsWith(';') || /^(amp|lt|gt|quot|nbsp)$/.test(name) ? (NAMED.get(name) ?? whole) : whole
    const code = decimal ? Number(decimal) : Number.parseInt(hex, 16)
    return code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : '\ufffd'
  })
}

/** Reads HTML as a mail program shows it, as far as text goes. */
export function readHtml(html: string): HtmlContent {
  const pieces: string[] = []
  const links: string[] = []
  const endOfTag = tagEnds(html)
  let at = 0
  while (at < html.length) {
    const tag = html.indexOf('<', at)
    // White space is layout of the source; what shows is one space.
    pieces.push(decodeReferences(html.slice(at, tag < 0 ? html.length : tag).replace(/\s+/g, ' ')))
    const end = tag < 0 ? -1 : endOfTag(tag)
    // A tag or comment that never ends hides what follows, as in a browser.
    if (end < 0) break
    at = end
    if (end === tag + 1) pieces.push('<')
    const [, slash, name = ''] = /^<(\/?)([a-z][a-z0-9]*)/i.exec(html.slice(tag, tag + 20)) ?? []
    const element = name.toLowerCase()
    if (PARAGRAPH.test(element)) pieces.push('\n\n')
    else if (LINE.test(element)) pieces.push(element === 'li' && !slash ? '\n* ' : '\n')
    else if (element === 'td' || element === 'th') pieces.push(' ')
    else if (!slash && HIDDEN.test(element)) at = endOfElement(html, element, end)
    if (!slash && (element === 'a' || element === 'area')) {
      const target = attribute(html.slice(tag, end), 'href')
      if (target !== undefined) links.push(target)
    }
  }
  const lines = pieces
    .join('')
    .split('\n')
    .map((line) => line.trim())
  return {
    text: lines
      .join('\n')
      .replace(/\n{3,}/g, '\n\n')
      .trim(),
    links,
  }
}

/** Tags of one text in which a quote may open and never close; each takes a search through the rest of the text. */
const UNCLOSED = 20

/** Gives a function that says where the tag (or comment) that begins at `tag` ends, or -1. */
function tagEnds(html: string): (tag: number) => number {
  let unclosed = 0
  return (tag) => {
    const end = unclosed < UNCLOSED ? endOfTag(html, tag) : undefined
    if (end !== undefined) return end
    unclosed++
    return html.indexOf('>', tag) + 1 || -1
  }
}

/** A ">" in a quoted attribute does not end a tag. Gives undefined where a quote opens and never closes. */
function endOfTag(html: string, tag: number): number | undefined {
  if (html.startsWith('<!--', tag)) {
    const end = html.indexOf('-->', tag + 4)
    return end < 0 ? -1 : end + 3
  }
  if (!/[a-z/!?]/i.test(html.charAt(tag + 1))) return tag + 1
  const stop = /["'>]/g
  stop.lastIndex = tag
  for (let found = stop.exec(html); found; found = stop.exec(html)) {
    if (found[0] === '>') return found.index + 1
    // A quote opens behind "="; elsewhere it is a stray one.
    if (!/=\s*$/.test(html.slice(Math.max(tag, found.index - 10), found.index))) continue
    const quote = html.indexOf(found[0], found.index + 1)
    if (quote < 0) return undefined
    stop.lastIndex = quote + 1
  }
  return -1
}

function endOfElement(html: string, element: string, from: number): number {
  const closing = new RegExp(`</${element}`, 'gi')
  closing.lastIndex = from
  return closing.exec(html)?.index ?? html.length
}

function attribute(tag: string, name: string): string | undefined {
  const [, double, single, bare] =
    new RegExp(`[\\s"'/]${name}\\s*=\\s*(?:"([^"]*)"|'([^']*)'|([^\\s>]*))`, 'i').exec(tag) ?? []
  const value = double ?? single ?? bare
  // Browsers take line breaks and tabs out of a URL.
  return value === undefined
    ? undefined
    : decodeReferences(value)
        .replace(/[\t\r\n]/g, '')
        .trim()
}
