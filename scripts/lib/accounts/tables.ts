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
    const words = entry.text
      .replace(/\s#.*$/, '')
      .toLowerCase()
      .split(/[\s,]+/)
    const [alias = '', ...recipients] = words.filter(Boolean)
    return recipients.length > 0 ? [{ ...entry, alias, recipients }] : []
  })
}

/** Adds a recipient to an alias, or the alias where it is new. */
export function withAlias(text: string, alias: string, recipient: string): string {
  const isThere = parseAliases(text).some((candidate) => candidate.alias === alias)
  if (!isThere) return withLine(text, `${alias} ${recipient}`)
  return withRecipients(text, (name, old) => (name === alias && !old.includes(recipient) ? [...old, recipient] : old))
}

/** Takes a recipient out of all aliases; an alias without recipients goes. */
export function withoutRecipient(text: string, recipient: string): string {
  return withRecipients(text, (_, old) => old.filter((candidate) => candidate !== recipient))
}

/** Writes the aliases whose recipients `edit` changes anew, each on one line. */
function withRecipients(text: string, edit: (alias: string, recipients: string[]) => string[]): string {
  const lines: (string | undefined)[] = text.split('\n')
  for (const { alias, recipients, lines: own, text: written } of parseAliases(text)) {
    const edited = edit(alias, recipients)
    if (edited.length === recipients.length) continue
    const [, name = alias, , note = ''] = /^([^\s,]+)(.*?)(\s#.*)?$/.exec(written) ?? []
    const end = lines[(own[0] ?? 1) - 1]?.endsWith('\r') ? '\r' : ''
    for (const line of own) lines[line - 1] = undefined
    if (edited.length > 0) lines[(own[0] ?? 1) - 1] = `${name} ${edited.join(', ')}${note}${end}`
  }
  return joined(lines)
}

/** The rule of a PCRE table that decides about an address: the first that matches (pcre_table(5)). */
function ruleFor(text: string, address: string): { entry: Entry; result: string } | undefined {
  const open: boolean[] = []
  for (const entry of entriesOf(text)) {
    if (/^endif\b/i.test(entry.text)) open.pop()
    const [, isIf, not, , source, flags = '', result = ''] =
      /^(if\s*)?(!?)\s*([^\w\s!])((?:\\.|(?!\3).)*)\3(\w*)\s*(.*)$/is.exec(entry.text) ?? []
    if (source === undefined) continue
    const matches = isMatch(source, flags, address) !== (not === '!')
    if (isIf) open.push(matches)
    else if (matches && !open.includes(false)) return { entry, result }
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

/** What a PCRE table says about an address; undefined where nothing matches. */
export function lookUp(text: string, address: string): string | undefined {
  return ruleFor(text, address)?.result
}

/** An address that stands for all of a domain that nobody has written a rule for. */
export function anyAt(domain: string): string {
  return `no-such-account@${domain}`
}

const patternFor = (domain: string) => `/@${domain.replaceAll('.', '\\.')}$/`

/** Whether a transport leaves mail to the virtual mailboxes: ":" changes nothing, the others say it in so many words. */
export function isVirtual(transport = ''): boolean {
  return /^(:|lmtp:|virtual:)/.test(transport)
}

/** Makes the transport table leave a domain to virtual_transport, unless it does so already. */
export function withVirtualDomain(text: string, domain: string): string {
  const rule = ruleFor(text, anyAt(domain))
  if (isVirtual(rule?.result)) return text
  const line = `${patternFor(domain).padEnd(43)} :`
  if (!rule) return withLine(text, line)
  // Behind the last entry in front of the one that catches it, so that this one keeps its comment.
  const [first = 1] = rule.entry.lines
  const above = entriesOf(text).findLast(({ lines }) => (lines[0] ?? 1) < first)
  return withLines(text, [[above?.lines.at(-1) ?? first - 1, line]])
}

/**
 * Keeps the pattern table from sending a domain's addresses to the catchall: an "if" around the rule that catches. A
 * table that does not catch the domain stays as it is.
 */
export function withException(text: string, domain: string, catchall: string): string {
  const rule = ruleFor(text, anyAt(domain))
  if (rule?.result.toLowerCase() !== catchall) return text
  const { lines } = rule.entry
  return withLines(text, [
    [lines.at(-1) ?? 1, 'endif'],
    [(lines[0] ?? 1) - 1, `if !${patternFor(domain)}`],
  ])
}

/** The lines that `withVirtualDomain` ("line") or `withException` ("if") has written, and their domains. */
export function domainLines(text: string, form: 'line' | 'if'): { domain: string; lines: number[] }[] {
  const open: Entry[] = []
  return entriesOf(text).flatMap((entry) => {
    if (/^if\b/i.test(entry.text)) open.push(entry)
    const begin = /^endif\b/i.test(entry.text) ? open.pop() : undefined
    const own = form === 'if' ? begin : entry
    const pattern = (form === 'if' ? /^if !(\S+)$/ : /^(\S+)\s+:$/).exec(own?.text ?? '')?.[1] ?? ''
    const domain = pattern.slice(2, -2).replaceAll('\\.', '.')
    if (!/^[a-z\d.-]+$/.test(domain) || patternFor(domain) !== pattern) return []
    return { domain, lines: begin ? [...begin.lines, ...entry.lines] : entry.lines }
  })
}

/** Takes back what `withVirtualDomain` or `withException` did. */
export function withoutDomain(text: string, domain: string, form: 'line' | 'if'): string {
  const own = domainLines(text, form).filter((lines) => lines.domain === domain)
  return withoutLines(
    text,
    own.flatMap(({ lines }) => lines),
  )
}

/** The domains of mydestination in `postfix-main.cf`, which cannot be virtual mailbox domains as well. */
export function localDomains(mainCf: string, hostname: string): string[] {
  const values = entriesOf(mainCf).flatMap(({ text }) => /^mydestination\s*=(.*)$/.exec(text)?.[1] ?? [])
  const parameters: Record<string, string> = {
    myhostname: hostname,
    mydomain: hostname.replace(/^[^.]+\.(?=[^.]+\.)/, ''),
  }
  const domains = (values.at(-1) ?? '$myhostname, localhost.$mydomain, localhost')
    .replace(/\$[{(]?(\w+)[)}]?/g, (_, name) => parameters[name] ?? '')
    .split(/[\s,]+/)
  return ['localhost', ...domains].filter(Boolean).map((domain) => domain.toLowerCase())
}

/** Adds a line at the end, in the text's own kind of line ends. */
export function withLine(text: string, line: string): string {
  const end = text.includes('\r\n') ? '\r\n' : '\n'
  return `${text}${text === '' || text.endsWith('\n') ? '' : end}${line}${end}`
}

/** Takes lines out, by their numbers from 1. */
export function withoutLines(text: string, numbers: number[]): string {
  return joined(text.split('\n').map((line, index) => (numbers.includes(index + 1) ? undefined : line)))
}

/** Lines as a text. Where the last one goes, the line above it keeps its end. */
function joined(lines: (string | undefined)[]): string {
  const left = lines.filter((line) => line !== undefined)
  return lines.at(-1) === undefined && left.length > 0 ? `${left.join('\n')}\n` : left.join('\n')
}

/** Adds lines, each behind the one of this number, the later ones first. */
function withLines(text: string, added: [number, string][]): string {
  const lines = text.split('\n')
  const end = text.includes('\r\n') ? '\r' : ''
  // Behind a last line without its end.
  if (added.some(([above]) => above === lines.length)) lines.push('')
  for (const [above, line] of added) lines.splice(above, 0, line + end)
  return lines.join('\n')
}
