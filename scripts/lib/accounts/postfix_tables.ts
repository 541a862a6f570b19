/**
 * How Postfix decides where an address's mail goes: aliases (`postfix-virtual.cf`), the transport table
 * (`postfix-transport_maps`) and mydestination. Pure: texts in, texts out; other lines stay as they are.
 */

export interface Alias {
  /** The alias's address, or `@domain` for all addresses of a domain that have no line of their own. */
  alias: string
  recipients: string[]
  /** Index of its line in the text. */
  index: number
}

/** Parses the text of `postfix-virtual.cf`, a virtual(5) table. Addresses come in lower case. */
export function parseAliases(text: string): Alias[] {
  return text.split('\n').flatMap((line, index) => {
    const [alias = '', ...recipients] = line
      .trim()
      .toLowerCase()
      .split(/[\s,]+/)
    // A line that begins with white space goes on with the one before; nobody but an editor writes those.
    if (/^[\s#]|^$/.test(line) || recipients.length === 0) return []
    return [{ alias, recipients, index }]
  })
}

/** Adds a recipient to an alias, or the alias where it is new. */
export function withAlias(text: string, alias: string, recipient: string): string {
  const existing = parseAliases(text).find((candidate) => candidate.alias === alias)
  if (!existing) return withLine(text, `${alias} ${recipient}`)
  if (existing.recipients.includes(recipient)) return text
  const lines = text.split('\n')
  lines[existing.index] = (lines[existing.index] ?? '').replace(/\s*$/, (end) => `,${recipient}${end}`)
  return lines.join('\n')
}

/** Takes a recipient out of all aliases; an alias without recipients goes. */
export function withoutRecipient(text: string, recipient: string): string {
  const lines = text.split('\n')
  const gone = new Set<number>()
  for (const { alias, recipients, index } of parseAliases(text)) {
    if (!recipients.includes(recipient)) continue
    const left = recipients.filter((candidate) => candidate !== recipient)
    if (left.length === 0) gone.add(index)
    else lines[index] = `${alias} ${left.join(',')}${lines[index]?.endsWith('\r') ? '\r' : ''}`
  }
  return lines.filter((_, index) => !gone.has(index)).join('\n')
}

/** A line of a PCRE table (pcre_table(5)): /pattern/flags, then the result. */
const RULE = /^\/((?:[^/\\]|\\.)+)\/([a-zA-Z]*)\s+(.*?)\s*$/

/** The result of the first line that matches an address, and that line's index. */
export function transportOf(text: string, address: string): { transport: string; index: number } | undefined {
  for (const [index, line] of text.split('\n').entries()) {
    const [, pattern, flags = '', transport = ''] = RULE.exec(line) ?? []
    // Postfix matches without regard to case unless "i" turns that off.
    if (pattern && matches(pattern, flags.includes('i') ? '' : 'i', address)) return { transport, index }
  }
  return undefined
}

function matches(pattern: string, flags: string, address: string): boolean {
  try {
    return new RegExp(pattern, flags).test(address)
  } catch {
    return false
  }
}

/** Makes the table leave a domain to virtual_transport, unless it does so already. */
export function withVirtualDomain(text: string, domain: string): string {
  const found = transportOf(text, `postmaster@${domain}`)
  // ":" changes nothing; the others deliver to virtual mailboxes in so many words.
  if (found && /^(:|lmtp:|virtual:)/.test(found.transport)) return text
  const line = `${ruleOf(domain).padEnd(43)} :`
  if (!found) return withLine(text, line)
  // Behind the last rule in front of the one that catches it, so that this one keeps its comment.
  const lines = text.split('\n')
  const rules = lines.slice(0, found.index).flatMap((rule, index) => (/^\s*(#|$)/.test(rule) ? [] : [index]))
  const last = rules.at(-1)
  const end = lines[found.index]?.endsWith('\r') ? '\r' : ''
  lines.splice(last === undefined ? found.index : last + 1, 0, line + end)
  return lines.join('\n')
}

/** Takes back what `withVirtualDomain` did. */
export function withoutVirtualDomain(text: string, domain: string): string {
  const rule = ruleOf(domain)
  const isIts = (line: string) => line.startsWith(rule) && /^\s+:\s*$/.test(line.slice(rule.length))
  return text
    .split('\n')
    .filter((line) => !isIts(line))
    .join('\n')
}

function ruleOf(domain: string): string {
  return `/@${domain.replaceAll('.', '\\.')}$/`
}

/** The domains of mydestination in `postfix-main.cf`, which cannot be virtual mailbox domains as well. */
export function localDomains(mainCf: string, hostname: string): string[] {
  const [value] = [...mainCf.matchAll(/^mydestination\s*=(.*(?:\n[ \t]+.*)*)/gm)].map(([, text]) => text).slice(-1)
  const labels = hostname.split('.')
  const parameters: Record<string, string> = {
    myhostname: hostname,
    mydomain: labels.length > 2 ? labels.slice(1).join('.') : hostname,
  }
  const domains = (value ?? '$myhostname, localhost.$mydomain, localhost')
    .replace(/\$(?:\{(\w+)\}|\((\w+)\)|(\w+))/g, (_, ...names) => parameters[names.slice(0, 3).find(Boolean)] ?? '')
    .split(/[\s,]+/)
  return ['localhost', ...domains].filter((domain) => domain !== '').map((domain) => domain.toLowerCase())
}

/** Adds a line at the end, in the text's own kind of line ends. */
export function withLine(text: string, line: string): string {
  const end = text.includes('\r\n') ? '\r\n' : '\n'
  return `${text}${text === '' || text.endsWith('\n') ? '' : end}${line}${end}`
}
