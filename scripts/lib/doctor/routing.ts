/**
 * Where Postfix sends the mail of an address: what trivial-rewrite(8) resolves from main.cf and transport(5) tables.
 * Pure: settings and tables come from the caller, who takes them from files or from a running server.
 */

/** A parameter of main.cf as the file sets it. */
export interface Parameter {
  value: string
  /** The line that it begins on, from 1. */
  line: number
}

/** Parses main.cf (postconf(5)): lines that begin with white space continue, the last setting of a name wins. */
export function parseMainCf(text: string): Map<string, Parameter> {
  const parameters = new Map<string, Parameter>()
  for (const { text: entry, line } of logicalLines(text)) {
    const [, name, value = ''] = /^([\w.-]+)\s*=\s*(.*?)\s*$/s.exec(entry) ?? []
    if (name) parameters.set(name, { value, line })
  }
  return parameters
}

/** The lines of a Postfix file, comments and empty lines left out, continuation lines put together. */
export function logicalLines(text: string): { text: string; line: number }[] {
  const lines: { text: string; line: number }[] = []
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (/^\s*(#|$)/.test(line)) continue
    const last = lines.at(-1)
    if (/^\s/.test(line) && last) last.text += ` ${line.trim()}`
    else lines.push({ text: line.trimEnd(), line: index + 1 })
  }
  return lines
}

/** A rule of a pcre or regexp table: pcre_table(5), regexp_table(5). */
export interface Rule {
  kind: 'match' | 'if' | 'endif'
  negated: boolean
  /** Undefined where JavaScript cannot do what the pattern asks for. */
  pattern: RegExp | undefined
  source: string
  result: string
  line: number
}

export interface RegexpTable {
  rules: Rule[]
  /** Lines that Postfix skips with a warning. */
  broken: { line: number; text: string }[]
}

/** Parses a pcre or regexp table. */
export function parseRegexpTable(text: string): RegexpTable {
  const table: RegexpTable = { rules: [], broken: [] }
  for (const { text: entry, line } of logicalLines(text)) {
    if (/^endif\b/i.test(entry)) {
      table.rules.push({ kind: 'endif', negated: false, pattern: undefined, source: '', result: '', line })
      continue
    }
    const [, condition = '', negation = '', delimiter = '', rest = ''] =
      /^(if\s+)?(!?)\s*([^\w\s!])(.*)$/is.exec(entry) ?? []
    const end = delimiter ? closing(rest, delimiter) : -1
    const [, flags = '', result = ''] = /^([a-zA-Z]*)\s*(.*)$/s.exec(rest.slice(end + 1)) ?? []
    if (end < 0 || (!condition && result === '')) {
      table.broken.push({ line, text: entry })
      continue
    }
    const source = rest.slice(0, end)
    const kind = condition ? 'if' : 'match'
    table.rules.push({ kind, negated: negation === '!', pattern: toRegExp(source, flags), source, result, line })
  }
  return table
}

/** The result of the first rule that matches, with $1 and the like filled in. */
export function lookUpRegexp({ rules }: RegexpTable, key: string): { result: string; rule: Rule } | undefined {
  // How many "if" are open, and at which depth one was false.
  let depth = 0
  let falseAt = 0
  for (const rule of rules) {
    if (rule.kind === 'endif') {
      if (falseAt === depth) falseAt = 0
      depth = Math.max(0, depth - 1)
      continue
    }
    if (rule.kind === 'if') depth++
    if (falseAt > 0) continue
    const match = rule.pattern?.exec(key) ?? null
    const applies = rule.pattern !== undefined && (match !== null) !== rule.negated
    if (rule.kind === 'if') {
      if (!applies) falseAt = depth
    } else if (applies) {
      const fill = (_: string, braced: string, parenthesised: string, plain: string) =>
        match?.[Number(braced ?? parenthesised ?? plain)] ?? ''
      return { result: rule.result.replace(/\$(?:\{(\d+)\}|\((\d+)\)|(\d+))/g, fill).replaceAll('$$', '$'), rule }
    }
  }
  return undefined
}

/** Parses an indexed table (hash, texthash): the key in lower case, white space, the value. The first entry wins. */
export function parseIndexed(text: string): Map<string, string> {
  const table = new Map<string, string>()
  for (const { text: entry } of logicalLines(text)) {
    const [, key = '', value = ''] = /^("(?:[^"\\]|\\.)*"\S*|\S+)\s*(.*)$/s.exec(entry) ?? []
    if (!table.has(key.toLowerCase())) table.set(key.toLowerCase(), value)
  }
  return table
}

function closing(text: string, delimiter: string): number {
  for (let index = 0; index < text.length; index++) {
    if (text[index] === '\\') index++
    else if (text[index] === delimiter) return index
  }
  return -1
}

/** PCRE as JavaScript. Postfix folds case and lets the dot match line ends unless a flag turns that off. */
function toRegExp(source: string, flags: string): RegExp | undefined {
  // Each flag toggles: an "i" behind the pattern makes it case sensitive.
  const toggled = (flag: string) => flags.split(flag).length % 2 === 0
  const javascript = source
    .replace(/^\(\?i\)/, '')
    .replace(/\[:(\w+):\]/g, (all, name) => POSIX_CLASSES[name] ?? all)
    .replace(/\\A/g, '^')
    .replace(/\\[zZ]/g, '$')
    .replace(/\\h/g, '[ \\t]')
    .replace(/([*+?}])\+/g, '$1')
    .replace(/\(\?>/g, '(?:')
  try {
    return new RegExp(javascript, `${toggled('i') ? '' : 'i'}${toggled('s') ? '' : 's'}${toggled('m') ? 'm' : ''}`)
  } catch {
    return undefined
  }
}

const POSIX_CLASSES: Record<string, string> = {
  alpha: 'a-zA-Z',
  digit: '0-9',
  alnum: 'a-zA-Z0-9',
  upper: 'A-Z',
  lower: 'a-z',
  space: '\\s',
  xdigit: '0-9a-fA-F',
  word: '\\w',
}

/** An address that a rule of a regexp table matches, found by undoing its pattern; undefined where that fails. */
export function witnessOf({ source, pattern, negated }: Rule): string | undefined {
  if (!pattern) return undefined
  const text = source
    .replace(/\(\?[:=i)][^)]*\)?/g, (group) => (group.startsWith('(?:') ? group.replace('(?:', '(') : ''))
    .replace(/\(([^()|]*)(?:\|[^()]*)?\)/g, '$1')
    .replace(/\[\^[^\]]*\]/g, 'a')
    .replace(/\[([^\]\\]|\\.)[^\]]*\]/g, '$1')
    .replace(/\\d/g, '1')
    .replace(/\\[wS]/g, 'a')
    .replace(/\\[bAzZ]|[\^$]/g, '')
    .replace(/(?<!\\)\./g, 'a')
    .replace(/(?<!\\)[*+?]|\{[\d,]*\}/g, '')
    .replace(/\\(.)/g, '$1')
  const tries = [
    text,
    `${text}foreign.example`,
    `someone${text}`,
    `someone@${text}`,
    `someone@sub${text}`,
    `${text}@foreign.example`,
  ]
  return tries.find((address) => /^[^\s@]+@[^\s@]+$/.test(address) && pattern.test(address) !== negated)
}

/** What a route is resolved from. */
export interface Routing {
  /** A parameter's value with all `$name` expanded, its default where nothing sets it. */
  parameter(name: string): string
  /** Looks a key up in one table of the form `type:name`. */
  lookup(table: string, key: string): string | undefined
}

export interface Route {
  /** The service of master.cf: `local`, `lmtp`, `smtp`. */
  transport: string
  nexthop: string
  /** What decided: `transport_maps` or the parameter that holds the transport of the address's class. */
  by: string
}

/** Splits a list parameter into its tables and words; braces hold one together. */
export function listOf(value: string): string[] {
  return [...value.matchAll(/(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|[^\s,{}])+/g)].map(([item]) => item)
}

/** Tables that are searched with the whole address only, never with its parts: pcre_table(5), "TABLE SEARCH ORDER". */
export function isPatternTable(table: string): boolean {
  return /^(?:proxy:)?(?:pcre|regexp|static|cidr|socketmap|tcp):/.test(table)
}

/** The keys that transport(5) looks an address up by in indexed tables, in this order. */
export function transportKeys(address: string): string[] {
  const key = address.toLowerCase()
  const at = key.lastIndexOf('@')
  const [local, domain] = at < 0 ? [key, ''] : [key.slice(0, at), key.slice(at + 1)]
  const labels = domain.split('.')
  const parents = domain.startsWith('[')
    ? []
    : labels.slice(1).map((_, index) => `.${labels.slice(index + 1).join('.')}`)
  return [key, `${local.replace(/\+.*$/, '')}@${domain}`, domain, ...parents, '*'].filter((part) => part !== '')
}

/** Makes the function that resolves where the mail of an address goes, as trivial-rewrite(8) does. */
export function routerOf({ parameter, lookup }: Routing): (address: string) => Route {
  const classes = (['mydestination', 'virtual_mailbox_domains', 'relay_domains'] as const).map((name) => ({
    by: { mydestination: 'local', virtual_mailbox_domains: 'virtual', relay_domains: 'relay' }[name],
    items: listOf(parameter(name)),
  }))
  const tables = listOf(parameter('transport_maps'))
  return (address) => {
    const domain = domainOf(address)
    const holds = (item: string) => (isTable(item) ? lookup(item, domain) !== undefined : item.toLowerCase() === domain)
    const found = classes.find(({ items }) => items.some(holds))
    const by = `${domain === '' ? 'local' : (found?.by ?? 'default')}_transport`
    const base = parseTransport(parameter(by), domain)
    for (const [index, key] of transportKeys(address).entries()) {
      for (const table of tables) {
        // A pattern gets the whole address, as it was written, and nothing else.
        if (isPatternTable(table) && index > 0) continue
        const result = lookup(table, isPatternTable(table) ? address : key)
        if (result === undefined) continue
        const { transport, nexthop } = parseTransport(result, domain)
        return transport === '' ? { ...base, by } : { transport, nexthop, by: 'transport_maps' }
      }
    }
    return { ...base, by }
  }
}

/** Whether an item of a list names a table or a file, not a word. */
function isTable(item: string): boolean {
  return /^[\w-]+:/.test(item) || item.startsWith('/')
}

/** An address's domain in lower case, without a trailing dot; empty where it has none. */
export function domainOf(address: string): string {
  const at = address.lastIndexOf('@')
  return at < 0
    ? ''
    : address
        .slice(at + 1)
        .toLowerCase()
        .replace(/\.$/, '')
}

function parseTransport(value: string, domain: string): Pick<Route, 'transport' | 'nexthop'> {
  const [, transport = '', nexthop = ''] = /^([^:\s]*):?(.*)$/s.exec(value.trim()) ?? []
  return { transport, nexthop: nexthop || domain }
}

/**
 * Whether a transport keeps mail on this machine and where a mailbox shows it: local(8), or LMTP to Dovecot over a
 * Unix socket or loopback.
 */
export function staysHere({ transport, nexthop }: Pick<Route, 'transport' | 'nexthop'>): boolean {
  if (transport === 'local') return true
  return transport === 'lmtp' && (/^unix:/.test(nexthop) || isLoopback(nexthop))
}

/** Whether a next hop like `inet:127.0.0.1:24` or `[127.0.0.1]:10024` is this machine. */
export function isLoopback(nexthop: string): boolean {
  return /^(?:inet:)?\[?(?:127(?:\.\d+){3}|localhost|(?:ipv6:)?::1)\]?(?::\w+)?$/i.test(nexthop)
}
