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

export interface Alias {
  /** The alias's address, or `@domain` for all addresses of a domain that have no line of their own. */
  alias: string
  recipients: string[]
  lines: number[]
}

/** The aliases of a virtual(5) table, in lower case. What stands behind a "#" was meant as a comment. */
export function parseAliases(text: string): Alias[] {
  return entriesOf(text).flatMap(({ text: entry, lines }) => {
    const [alias = '', ...recipients] = entry
      .replace(/\s#.*$/, '')
      .toLowerCase()
      .split(/[\s,]+/)
      .filter(Boolean)
    return recipients.length > 0 ? [{ alias, recipients, lines }] : []
  })
}

/** Adds a recipient to an alias, or the alias where it is new. */
export function withAlias(text: string, alias: string, recipient: string): string {
  const existing = parseAliases(text).find((candidate) => candidate.alias === alias)
  if (!existing) return withLine(text, `${alias} ${recipient}`)
  if (existing.recipients.includes(recipient)) return text
  const lines = text.split('\n')
  const last = (existing.lines.at(-1) ?? 1) - 1
  lines[last] = (lines[last] ?? '').replace(/,?(\s+#.*)?\s*$/, (end) => `,${recipient}${end.replace(/^,/, '')}`)
  return lines.join('\n')
}

/** Takes a recipient out of all aliases; an alias without recipients goes. */
export function withoutRecipient(text: string, recipient: string): string {
  const lines: (string | undefined)[] = text.split('\n')
  for (const { recipients, lines: own } of parseAliases(text)) {
    if (!recipients.includes(recipient)) continue
    const goes = recipients.every((candidate) => candidate === recipient)
    for (const [position, line] of own.entries()) {
      const old = lines[line - 1] ?? ''
      // The alias itself, or the white space that makes the line a continuation.
      const start = (position === 0 ? /^\S+[ \t]*/ : /^[ \t]+/).exec(old)?.[0] ?? ''
      const rest = old
        .slice(start.length)
        .replace(/([ \t,]*)([^\s,]+)/g, (all, _, token: string) => (token.toLowerCase() === recipient ? '' : all))
      if (start + rest === old && !goes) continue
      const left = rest.replace(/^[ \t,]+/, '')
      lines[line - 1] = goes || (position > 0 && left.trim() === '') ? undefined : start + left
    }
  }
  return joined(lines)
}

/** One rule of a PCRE table (pcre_table(5)). */
interface Rule {
  entry: Entry
  negated: boolean
  pattern: RegExp | undefined
  result: string
  /** The "if"s around it, the outermost first. */
  within: Rule[]
  /** The "endif" of an "if". */
  end?: Entry
}

/** A table's rules and its "if"s, each in its place. */
function rulesOf(text: string): { rules: Rule[]; conditions: Rule[] } {
  const [rules, conditions, open]: Rule[][] = [[], [], []]
  for (const entry of entriesOf(text)) {
    if (/^endif\b/i.test(entry.text)) {
      const condition = open?.pop()
      if (condition) condition.end = entry
      continue
    }
    const [, isIf, not = '', , source = '', flags = '', result = ''] =
      /^(if\s*)?(!?)\s*([^\w\s!])((?:\\.|(?!\3).)*)\3(\w*)\s*(.*)$/is.exec(entry.text) ?? []
    const rule = { entry, negated: not === '!', pattern: patternOf(source, flags), result, within: [...(open ?? [])] }
    if (isIf) open?.push(rule)
    ;(isIf ? conditions : rules)?.push(rule)
  }
  return { rules: rules ?? [], conditions: conditions ?? [] }
}

function patternOf(source: string, flags: string): RegExp | undefined {
  try {
    // Postfix matches without regard to case unless "i" turns that off.
    return new RegExp(source, flags.includes('i') ? '' : 'i')
  } catch {
    return undefined
  }
}

function holds({ pattern, negated }: Rule, address: string): boolean {
  return pattern !== undefined && pattern.test(address) !== negated
}

/** The rule that decides about an address: the first that matches. */
function ruleFor(text: string, address: string): Rule | undefined {
  return rulesOf(text).rules.find((rule) => [...rule.within, rule].every((part) => holds(part, address)))
}

/** What a PCRE table says about an address; undefined where nothing matches. */
export function lookUp(text: string, address: string): { result: string; line: number } | undefined {
  const rule = ruleFor(text, address)
  return rule && { result: rule.result, line: rule.entry.lines[0] ?? 1 }
}

/** An address that stands for all of a domain that nobody has written a rule for. */
export function anyAt(domain: string): string {
  return `no-such-account@${domain}`
}

const patternFor = (domain: string) => `/@${domain.replaceAll('.', '\\.')}$/`

/** Whether a transport leaves mail to the virtual mailboxes: ":" changes nothing, the others say it in so many words. */
export function isVirtual(transport: string | undefined): boolean {
  return /^(:|lmtp:|virtual:)/.test(transport ?? '')
}

/** Makes the transport table leave a domain to virtual_transport, unless it does so already. */
export function withVirtualDomain(text: string, domain: string): string {
  const rule = ruleFor(text, anyAt(domain))
  if (isVirtual(rule?.result)) return text
  const line = `${patternFor(domain).padEnd(43)} :`
  if (!rule) return withLine(text, line)
  // Behind the last entry in front of the one that catches it, so that this one keeps its comment.
  const first = (rule.within[0] ?? rule).entry.lines[0] ?? 1
  const above = entriesOf(text).findLast(({ lines }) => (lines[0] ?? 1) < first)
  return withLines(text, [[above?.lines.at(-1) ?? first - 1, line]])
}

/** Takes back what `withVirtualDomain` did. */
export function withoutVirtualDomain(text: string, domain: string): string {
  return withoutLines(
    text,
    virtualDomainLines(text).flatMap((own) => (own.domain === domain ? own.lines : [])),
  )
}

/** The lines of the form that `withVirtualDomain` writes, and their domains. */
export function virtualDomainLines(text: string): { domain: string; lines: number[] }[] {
  return entriesOf(text).flatMap(({ text: entry, lines }) => {
    const domain = domainOfPattern(/^(\/@\S+\$\/)\s+:$/.exec(entry)?.[1])
    return domain ? [{ domain, lines }] : []
  })
}

/**
 * Keeps the pattern table from sending a domain's addresses to the catchall: an "if" around the rule that catches, and
 * inside those of the other domains. A table that does not catch the domain stays as it is.
 */
export function withException(text: string, domain: string, catchall: string): string {
  const rule = ruleFor(text, anyAt(domain))
  if (rule?.result.toLowerCase() !== catchall) return text
  const parts = [...rule.within, rule]
  const inner = parts.find((part) => !domainOfException(part)) ?? rule
  const outer = parts[parts.indexOf(inner) - 1]
  const end = (inner === rule ? rule.entry : inner.end)?.lines.at(-1)
  if (end === undefined) return text
  const above = outer ? (outer.entry.lines.at(-1) ?? 0) : (inner.entry.lines[0] ?? 1) - 1
  return withLines(text, [
    [end, 'endif'],
    [above, `if !${patternFor(domain)}`],
  ])
}

/** Takes back what `withException` did. */
export function withoutException(text: string, domain: string): string {
  return withoutLines(
    text,
    exceptionLines(text).flatMap((own) => (own.domain === domain ? own.lines : [])),
  )
}

/** The pairs of the form that `withException` writes, and their domains. */
export function exceptionLines(text: string): { domain: string; lines: number[] }[] {
  return rulesOf(text).conditions.flatMap((condition) => {
    const domain = domainOfException(condition)
    return domain && condition.end ? [{ domain, lines: [...condition.entry.lines, ...condition.end.lines] }] : []
  })
}

function domainOfException({ entry }: Rule): string | undefined {
  return domainOfPattern(/^if !(\/@\S+\$\/)$/.exec(entry.text)?.[1])
}

/** The domain that a pattern of ours is for; undefined for patterns that are more than a domain. */
function domainOfPattern(pattern = ''): string | undefined {
  const domain = pattern.slice(2, -2).replaceAll('\\.', '.')
  return /^[a-z\d.-]+$/.test(domain) && patternFor(domain) === pattern ? domain : undefined
}

/** The domains of mydestination in `postfix-main.cf`, which cannot be virtual mailbox domains as well. */
export function localDomains(mainCf: string, hostname: string): string[] {
  const values = entriesOf(mainCf).flatMap(({ text }) => /^mydestination\s*=(.*)$/.exec(text)?.[1] ?? [])
  const labels = hostname.split('.')
  const parameters: Record<string, string> = {
    myhostname: hostname,
    mydomain: labels.length > 2 ? labels.slice(1).join('.') : hostname,
  }
  const domains = (values.at(-1) ?? '$myhostname, localhost.$mydomain, localhost')
    .replace(/\$(?:\{(\w+)\}|\((\w+)\)|(\w+))/g, (_, ...names) => parameters[names.slice(0, 3).find(Boolean)] ?? '')
    .split(/[\s,]+/)
  return ['localhost', ...domains].filter((domain) => domain !== '').map((domain) => domain.toLowerCase())
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
