/**
 * Postfix's tables: aliases (`postfix-virtual.cf`), patterns (`postfix-regexp.cf`) and transports
 * (`postfix-transport_maps`). Pure: texts in, texts out; what somebody else wrote stays byte for byte.
 */

/** A logical line: a line that begins with white space continues the one above, comments in between or not. */
export interface Entry {
  text: string
  /** Its lines' numbers in the file, from 1. */
  lines: number[]
}

/** The entries of a table. Without `continued` each line is one: the files that are not Postfix's. */
export function entriesOf(text: string, continued = true): Entry[] {
  const entries: Entry[] = []
  for (const [index, line] of text.split('\n').entries()) {
    // What Postfix takes for white space, and no more: a byte order mark is a part of its line.
    const trimmed = line.replace(/^[ \t\r\f\v]+|[ \t\r\f\v]+$/g, '')
    if (trimmed === '' || trimmed.startsWith('#')) continue
    const above = entries.at(-1)
    if (!continued || !/^[ \t\r\f\v]/.test(line)) {
      entries.push({ text: trimmed, lines: [index + 1] })
    } else if (above) {
      above.text += ` ${trimmed}`
      above.lines.push(index + 1)
    }
  }
  return entries
}

export interface Alias extends Entry {
  /** The alias's address, or `@domain` for all addresses of a domain that have no line of their own. */
  alias: string
  recipients: string[]
}

/** The aliases of a virtual(5) table, in lower case. What stands behind a "#" was meant as a comment. */
export function parseAliases(text: string): Alias[] {
  return entriesOf(text).flatMap((entry) => {
    const words = entry.text.replace(/\s#.*$/, '').toLowerCase()
    const [alias = '', ...recipients] = words.split(/[ \t\r,]+/).filter(Boolean)
    return recipients.length > 0 ? [{ ...entry, alias, recipients }] : []
  })
}

/** Adds a recipient to an alias, or the alias where it is new. */
export function withAlias(text: string, alias: string, recipient: string): string {
  if (!parseAliases(text).some((other) => other.alias === alias)) return withLine(text, `${alias} ${recipient}`)
  return withRecipients(text, (name, old) => (name === alias && !old.includes(recipient) ? [...old, recipient] : old))
}

/** Takes a recipient out of all aliases; an alias without recipients goes. */
export function withoutRecipient(text: string, recipient: string): string {
  return withRecipients(text, (_, old) => old.filter((other) => other !== recipient))
}

/** Writes the aliases whose recipients `edit` changes anew, each on one line. */
function withRecipients(text: string, edit: (alias: string, recipients: string[]) => string[]): string {
  let after = text
  // From the end, so that the numbers of the lines above still hold.
  for (const { alias, recipients, lines, text: written } of parseAliases(text).reverse()) {
    const edited = edit(alias, recipients)
    if (edited.length === recipients.length) continue
    after = withoutEntries(after, [{ lines }])
    const [, name, note = ''] = /^([^\s,]+).*?(\s#.*)?$/.exec(written) ?? []
    if (edited.length > 0) after = withLine(after, `${name} ${edited.join(', ')}${note}`, (lines[0] ?? 1) - 1)
  }
  return after
}

/** The rule of a PCRE table that decides about an address: the first that matches (pcre_table(5)). */
export function lookUp(text: string, address: string): (Entry & { result: string }) | undefined {
  const open: boolean[] = []
  for (const entry of entriesOf(text)) {
    if (/^endif\b/i.test(entry.text)) open.pop()
    const [, isIf, not, , source, flags = '', result = ''] =
      /^(if\s*)?(!?)\s*([^\w\s!])((?:\\.|(?!\3).)*)\3(\w*)\s*(.*)$/is.exec(entry.text) ?? []
    if (source === undefined) continue
    const matches = isMatch(source, flags, address) !== (not === '!')
    if (isIf) open.push(matches)
    else if (matches && !open.includes(false)) return { ...entry, result }
  }
  return undefined
}

function isMatch(source: string, flags: string, address: string): boolean {
  try {
    // Postfix matches without regard to case unless "i" turns that off.
    return new RegExp(source, flags.includes('i') ? '' : 'i').test(address)
  } catch {
    return false
  }
}

/** An address that stands for all of a domain that nobody has written a rule for. */
export const anyAt = (domain: string) => `no-such-account@${domain}`

const patternFor = (domain: string) => `/@${domain.replaceAll('.', '\\.')}$/`

/** Makes the transport table leave a domain to virtual_transport, unless it does so already. */
export function withVirtualDomain(text: string, domain: string): string {
  const rule = lookUp(text, anyAt(domain))
  // ":" changes nothing, the others say it in so many words.
  if (/^(:|lmtp:|virtual:)/.test(rule?.result ?? '')) return text
  const line = `${patternFor(domain).padEnd(43)} :`
  if (!rule) return withLine(text, line)
  // Behind the last entry in front of the one that catches it, so that this one keeps its comment.
  const [first = 1] = rule.lines
  const above = entriesOf(text).findLast(({ lines }) => (lines[0] ?? 1) < first)
  return withLine(text, line, above?.lines.at(-1) ?? first - 1)
}

/**
 * Keeps the pattern table from sending a domain's addresses to the catchall: an "if" around the rule that catches. A
 * table that does not catch the domain stays as it is.
 */
export function withException(text: string, domain: string, catchall: string): string {
  const rule = lookUp(text, anyAt(domain))
  if (rule?.result.toLowerCase() !== catchall) return text
  const closed = withLine(text, 'endif', rule.lines.at(-1))
  return withLine(closed, `if !${patternFor(domain)}`, (rule.lines[0] ?? 1) - 1)
}

/** The lines that `withVirtualDomain` or `withException` has written, and their domains. */
export function domainLines(text: string): { name: string; lines: number[] }[] {
  const open: Entry[] = []
  return entriesOf(text).flatMap((entry) => {
    const begin = /^endif\b/i.test(entry.text) ? open.pop() : undefined
    if (/^if\b/i.test(entry.text)) open.push(entry)
    const [, pattern = ''] = (begin ? /^if !(\S+)$/ : /^(\S+)\s+:$/).exec((begin ?? entry).text) ?? []
    const domain = pattern.slice(2, -2).replaceAll('\\.', '.')
    if (!/^[a-z\d.-]+$/.test(domain) || patternFor(domain) !== pattern) return []
    return [{ name: domain, lines: begin ? [...begin.lines, ...entry.lines] : entry.lines }]
  })
}

/** Adds a line behind the one of this number, or at the end. */
export function withLine(text: string, line: string, above?: number): string {
  const lines = linesOf(text === '' || text.endsWith('\n') ? text : `${text}\n`)
  lines.splice(above ?? lines.length, 0, `${line}\n`)
  return lines.join('')
}

/** Takes out the lines of these entries. */
export function withoutEntries(text: string, entries: { lines: number[] }[]): string {
  const gone = new Set(entries.flatMap(({ lines }) => lines))
  return linesOf(text)
    .filter((_, index) => !gone.has(index + 1))
    .join('')
}

/** Lines with their ends. */
const linesOf = (text: string) => text.split(/(?<=\n)/)
