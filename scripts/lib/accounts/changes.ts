/**
 * Adding, changing and deleting accounts, and finding what an interrupted change has left. Pure: a configuration goes
 * in, the changed one comes out. Each refuses with a Failure that names the value, the fact and what to do.
 */
import { Failure } from '../cli.ts'
import { type Account, CATCHALL, parseAccounts } from './accounts.ts'
import type { Configuration, FileName } from './configuration.ts'
import * as tables from './tables.ts'
import { anyAt, lookUp, parseAliases } from './tables.ts'

const ACCOUNTS = 'postfix-accounts.cf'
const ALIASES = 'postfix-virtual.cf'
const PATTERNS = 'postfix-regexp.cf'
const QUOTAS = 'dovecot-quotas.cf'
const TRANSPORTS = 'postfix-transport_maps'

export interface AccountRequest {
  address: string
  /** `{SCHEME}hash`; undefined leaves the password of an existing account alone. */
  hash?: string | undefined
  /** Size as in `dovecot-quotas.cf`; undefined leaves it alone. */
  quota?: string | undefined
  aliases: string[]
}

/** Adds an account. `hostname` is the server's. */
export function addAccount(before: Configuration, request: AccountRequest, hostname: string): Configuration {
  const { address, hash = '' } = request
  if (accountLines(before, address).length > 0) {
    throw new Failure('failed', `${address} is an account already. A new password: ${command(`--update ${address}`)}`)
  }
  const alias = parseAliases(before[ALIASES]).find((candidate) => candidate.alias === address)
  // Its line may be left of an addition that was killed.
  if (alias && !alias.recipients.includes(address)) {
    const fact = `an alias of ${alias.recipients.join(', ')} (${ALIASES} line ${alias.lines[0]})`
    throw new Failure('usage', `${address} is ${fact}.`)
  }
  return store(before, tables.withLine(before[ACCOUNTS], `${address}|${hash}`), request, hostname)
}

/** Gives an account a new password, a quota, aliases. Its line keeps its place and its attributes. */
export function updateAccount(before: Configuration, request: AccountRequest, hostname: string): Configuration {
  const { address, hash } = request
  const lines = before[ACCOUNTS].split('\n')
  for (const { line } of existing(before, address)) {
    if (hash !== undefined) lines[line - 1] = (lines[line - 1] ?? '').replace(/\|[^|\r]*/, () => `|${hash}`)
  }
  return store(before, lines.join('\n'), request, hostname)
}

/** The part that adding and updating share; `accounts` has the account's own line. */
function store(before: Configuration, accounts: string, request: AccountRequest, hostname: string): Configuration {
  const { address, quota, aliases } = request
  if (address === CATCHALL && quota !== undefined && Number.parseInt(quota, 10) > 0) {
    const why = 'mail that it could not hold would have no other place, and its bounce neither'
    throw new Failure('failed', `${address} has no quota: ${why}. To empty it: npm run reset`)
  }
  let virtual = before[ALIASES]
  // A catch-all alias of the domain would get the account's own mail, unless the account has a line of its own.
  if (parseAliases(virtual).some(({ alias }) => alias === `@${domainOf(address)}`)) {
    virtual = tables.withAlias(virtual, address, address)
  }
  for (const alias of aliases) {
    if (alias === address) throw new Failure('usage', `${alias} cannot be an alias of itself.`)
    if (accountLines(before, alias).length > 0) {
      throw new Failure('usage', `${alias} is an account, and as an alias it would receive nothing any more.`)
    }
    virtual = tables.withAlias(virtual, alias, address)
  }
  const local = tables.localDomains(before['postfix-main.cf'], hostname)
  for (const own of [address, ...aliases].filter((name) => local.includes(domainOf(name)))) {
    const why = `mydestination has ${domainOf(own)}, so all mail to it is caught`
    throw new Failure('usage', `${own} would receive nothing: ${why}.`)
  }
  const quotas = quota === undefined ? before[QUOTAS] : withQuota(before[QUOTAS], address, quota)
  const after = { ...before, [ACCOUNTS]: accounts, [ALIASES]: virtual, [QUOTAS]: quotas }
  return [address, ...aliases].map(domainOf).reduce(withDomain, after)
}

/**
 * Deletes an account, its quota and its aliases; or what is left of one whose deletion was interrupted. The last
 * account and the catchall only with `force`.
 */
export function deleteAccount(before: Configuration, address: string, force: boolean): Configuration {
  const isRemain = remainsOf(before).some(({ isLeft, name }) => isLeft && [address, domainOf(address)].includes(name))
  const own = (isRemain ? accountLines : existing)(before, address)
  const refuse = (fact: string) => new Failure('failed', `${address} ${fact}. If you mean it: --force`)
  if (!force && address === CATCHALL) {
    throw refuse('receives all mail that has no account, and without it that mail bounces')
  }
  if (!force && own.length > 0 && accountsOf(before).length === own.length) {
    throw refuse('is the last account, and docker-mailserver does not start without one')
  }
  const lines = own.map(({ line }) => line)
  const accounts = tables.withoutLines(before[ACCOUNTS], lines)
  const after = withoutAddress({ ...before, [ACCOUNTS]: accounts }, address)
  // All that an interrupted deletion has left goes, the domains of its aliases too.
  if (isRemain) return repaired(after)
  const left = domainsOf(after)
  return [...domainsOf(before)].filter((domain) => !left.has(domain)).reduce(withoutDomain, after)
}

/** A domain's line in the transport map and its exception in the pattern table. */
function withDomain(configuration: Configuration, domain: string): Configuration {
  const map = tables.withVirtualDomain(configuration[TRANSPORTS], domain)
  return {
    ...configuration,
    [TRANSPORTS]: map,
    [PATTERNS]: tables.withException(configuration[PATTERNS], domain, CATCHALL),
  }
}

function withoutDomain(configuration: Configuration, domain: string): Configuration {
  const map = tables.withoutDomain(configuration[TRANSPORTS], domain, 'line')
  return {
    ...configuration,
    [TRANSPORTS]: map,
    [PATTERNS]: tables.withoutDomain(configuration[PATTERNS], domain, 'if'),
  }
}

function withoutAddress(configuration: Configuration, address: string): Configuration {
  const virtual = tables.withoutRecipient(configuration[ALIASES], address)
  return { ...configuration, [ALIASES]: virtual, [QUOTAS]: withQuota(configuration[QUOTAS], address) }
}

/** What an interrupted change, or a hand, has left: a line too many, or one that an account's domain is missing. */
export interface Remain {
  file: FileName
  /** The line that is left; undefined where one is missing. */
  line?: number | undefined
  /** True where a line is left, false where one is missing. */
  isLeft: boolean
  /** The address or domain that it is about. */
  name: string
  /** The fact, as a sentence without file and line. */
  fact: string
}

/** Finds what is left of accounts and domains that do not exist, and what a domain of accounts is missing. */
export function remainsOf(configuration: Configuration): Remain[] {
  const accounts = new Set(accountsOf(configuration).map(({ address }) => address.toLowerCase()))
  // Without the accounts everything would be left over.
  if (accounts.size === 0) return []
  const remains: Remain[] = []
  const left = (file: FileName, [line]: number[], name: string, fact: string) =>
    remains.push({ file, line, isLeft: true, name, fact })
  const missing = (file: FileName, name: string, fact: string) =>
    remains.push({ file, isLeft: false, name, fact: `the accounts of ${name} have ${fact}` })

  const aliases = parseAliases(configuration[ALIASES])
  const written = [
    ...tables.domainLines(configuration[TRANSPORTS], 'line').map((own) => ({ ...own, file: TRANSPORTS }) as const),
    ...tables.domainLines(configuration[PATTERNS], 'if').map((own) => ({ ...own, file: PATTERNS }) as const),
  ]
  const keys = new Set(aliases.map(({ alias }) => alias))
  // Lines of ours say that a domain had accounts, or was about to have them.
  const domains = new Set([...domainsOf(configuration), ...written.map(({ domain }) => domain)])
  const live = new Set([...accounts].map(domainOf))
  for (const { alias, recipients, lines } of aliases) {
    const dead = recipients.filter((recipient) => {
      const plain = recipient.replace(/\+[^@]*@/, '@')
      const isAlias = alias !== recipient && (keys.has(plain) || keys.has(`@${domainOf(plain)}`))
      const isKnown = isAlias || accounts.has(plain)
      return !isKnown && domains.has(domainOf(plain)) && lookUp(configuration[PATTERNS], plain) === undefined
    })
    if (dead.length < recipients.length && alias.includes('@')) live.add(domainOf(alias))
    for (const name of dead) left(ALIASES, lines, name, `the alias ${alias} goes to ${name}, which is no account`)
  }
  for (const { text, lines } of tables.entriesOf(configuration[QUOTAS], false)) {
    const name = quotaAddress(text)
    if (name && !accounts.has(name)) left(QUOTAS, lines, name, `${name} has a quota and is no account`)
  }
  for (const { file, domain, lines } of written.filter((own) => !live.has(own.domain))) {
    left(file, lines, domain, `${domain} has no account and no alias, and is no longer caught`)
  }
  for (const name of new Set([...accounts].map(domainOf))) {
    const transport = lookUp(configuration[TRANSPORTS], anyAt(name))
    const isRouted = transport === undefined || tables.isVirtual(transport)
    if (!isRouted) missing(TRANSPORTS, name, `no line, and their mail goes to "${transport}"`)
    const isCaught = lookUp(configuration[PATTERNS], anyAt(name))?.toLowerCase() === CATCHALL
    if (isCaught) missing(PATTERNS, name, 'no exception, and the catchall gets their mail')
  }
  return remains
}

/** Takes back what is left and completes what is missing. Give the remains found right before, under the lock. */
export function repaired(configuration: Configuration, remains = remainsOf(configuration)): Configuration {
  let after = configuration
  for (const { file, isLeft, name } of remains) {
    const mended = isLeft ? withoutAddress(withoutDomain(after, name), name) : withDomain(after, name)
    after = { ...after, [file]: mended[file] }
  }
  return after
}

/** The account's lines: more than one where somebody has written it twice. */
export function accountLines(configuration: Configuration, address: string): Account[] {
  return accountsOf(configuration).filter((account) => account.address.toLowerCase() === address)
}

function existing(configuration: Configuration, address: string): Account[] {
  const found = accountLines(configuration, address)
  if (found.length > 0) return found
  throw new Failure('failed', `${address} is no account. The accounts: ${command('--list')}`)
}

/** Lines that are no accounts are somebody else's matter here. */
function accountsOf(configuration: Configuration): Account[] {
  return parseAccounts(configuration[ACCOUNTS], ACCOUNTS, () => {})
}

/** The aliases that go to an address. */
export function aliasesOf(configuration: Configuration, address: string): string[] {
  const aliases = parseAliases(configuration[ALIASES]).filter(({ recipients }) => recipients.includes(address))
  return aliases.map(({ alias }) => alias).filter((alias) => alias !== address)
}

/** virtual_mailbox_domains as docker-mailserver makes it: the domains of all accounts and aliases. */
export function virtualDomains(accounts: string, aliases: string): Set<string> {
  const addresses = parseAccounts(accounts, ACCOUNTS, () => {}).map(({ address }) => address.toLowerCase())
  const names = [...addresses, ...parseAliases(aliases).map(({ alias }) => alias)]
  return new Set(names.filter((name) => name.includes('@')).map(domainOf))
}

/** `virtualDomains` of a configuration. */
export function domainsOf(configuration: Configuration): Set<string> {
  return virtualDomains(configuration[ACCOUNTS], configuration[ALIASES])
}

/** Whether mail to an address without an account is accepted: it has an alias, or it is caught. */
export function isCaught(configuration: Configuration, address: string): boolean {
  const aliases = parseAliases(configuration[ALIASES]).map(({ alias }) => alias)
  const isAlias = aliases.includes(address) || aliases.includes(`@${domainOf(address)}`)
  return (
    isAlias ||
    !domainsOf(configuration).has(domainOf(address)) ||
    lookUp(configuration[PATTERNS], address) !== undefined
  )
}

function quotaAddress(line: string): string | undefined {
  return /^\s*([^#:\s][^:]*?)\s*:/.exec(line)?.[1]?.toLowerCase()
}

/** Sets or removes an account's line in `dovecot-quotas.cf`. */
function withQuota(text: string, address: string, quota?: string): string {
  const own = tables.entriesOf(text, false).filter(({ text: line }) => quotaAddress(line) === address)
  const kept = tables.withoutLines(
    text,
    own.flatMap(({ lines }) => lines),
  )
  if (quota === undefined) return kept
  // docker-mailserver takes the first line that has "address:" anywhere, which may be another account's end.
  const lines = kept.split('\n')
  const first = lines.findIndex((line) => line.toLowerCase().includes(`${address}:`))
  if (first < 0) return tables.withLine(kept, `${address}:${quota}`)
  lines.splice(first, 0, `${address}:${quota}${lines[first]?.endsWith('\r') ? '\r' : ''}`)
  return lines.join('\n')
}

export function domainOf(address: string): string {
  return address.slice(address.lastIndexOf('@') + 1)
}

function command(args: string): string {
  return `npm run add-account -- ${args}`
}
