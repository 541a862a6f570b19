/**
 * Adding, changing and deleting accounts, and finding what an interrupted change has left. Pure: a configuration goes
 * in, the changed one comes out. Each refuses with a Failure that names the value, the fact and what to do.
 */
import { Failure } from '../cli.ts'
import { type Account, CATCHALL, parseAccounts, quotaLines } from './accounts.ts'
import type { Configuration, FileName } from './configuration.ts'
import * as tables from './tables.ts'
import { lookUp, parseAliases } from './tables.ts'

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

/** Adds an account. */
export function addAccount(before: Configuration, request: AccountRequest): Configuration {
  const { address, hash = '' } = request
  if (accountLines(before, address).length > 0) {
    const next = `npm run add-account -- --update ${address}`
    throw new Failure('failed', `${address} is an account already. A new password: ${next}`)
  }
  const alias = parseAliases(before[ALIASES]).find((candidate) => candidate.alias === address)
  // Its line may be left of an addition that was killed.
  if (alias && !alias.recipients.includes(address)) {
    const fact = `an alias of ${alias.recipients.join(', ')} (${ALIASES} line ${alias.lines[0]})`
    throw new Failure('usage', `${address} is ${fact}.`)
  }
  return store(before, tables.withLine(before[ACCOUNTS], `${address}|${hash}`), request)
}

/** Gives an account a new password, a quota, aliases. Its line keeps its place and its attributes. */
export function updateAccount(before: Configuration, request: AccountRequest): Configuration {
  const { address, hash } = request
  const lines = before[ACCOUNTS].split('\n')
  for (const { line } of existing(before, address)) {
    if (hash !== undefined) lines[line - 1] = (lines[line - 1] ?? '').replace(/\|[^|\r]*/, () => `|${hash}`)
  }
  return store(before, lines.join('\n'), request)
}

/** The part that adding and updating share; `accounts` has the account's own line. */
function store(before: Configuration, accounts: string, { address, quota, aliases }: AccountRequest): Configuration {
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
  const quotas = quota === undefined ? before[QUOTAS] : withQuota(before[QUOTAS], address, quota)
  const after = { ...before, [ACCOUNTS]: accounts, [ALIASES]: virtual, [QUOTAS]: quotas }
  return [address, ...aliases].map(domainOf).reduce(withDomain, after)
}

/**
 * Deletes an account, its quota and its aliases; or all that is left of one whose deletion was interrupted. The last
 * account and the catchall only with `force`.
 */
export function deleteAccount(before: Configuration, address: string, force: boolean): Configuration {
  const isRemain = remainsOf(before).some(({ name }) => [address, domainOf(address)].includes(name))
  if (isRemain && accountLines(before, address).length === 0) return withoutRemains(before)
  const own = existing(before, address)
  const isLast = accountsOf(before).length === own.length
  if (!force && (address === CATCHALL || isLast)) {
    const fact = isLast
      ? 'is the last account, and docker-mailserver does not start without one'
      : 'receives all mail that has no account, and without it that mail bounces'
    throw new Failure('failed', `${address} ${fact}. If you mean it: --force`)
  }
  const lines = own.map(({ line }) => ({ lines: [line] }))
  const after = withoutAddress({ ...before, [ACCOUNTS]: tables.withoutEntries(before[ACCOUNTS], lines) }, address)
  return newDomains(after, before).reduce(withoutDomain, after)
}

/** A domain's line in the transport map and its exception in the pattern table. */
const withDomain = (configuration: Configuration, domain: string): Configuration => ({
  ...configuration,
  [TRANSPORTS]: tables.withVirtualDomain(configuration[TRANSPORTS], domain),
  [PATTERNS]: tables.withException(configuration[PATTERNS], domain, CATCHALL),
})

const withoutDomain = (configuration: Configuration, domain: string): Configuration => ({
  ...configuration,
  [TRANSPORTS]: tables.withoutDomain(configuration[TRANSPORTS], domain),
  [PATTERNS]: tables.withoutDomain(configuration[PATTERNS], domain),
})

function withoutAddress(configuration: Configuration, address: string): Configuration {
  const virtual = tables.withoutRecipient(configuration[ALIASES], address)
  return { ...configuration, [ALIASES]: virtual, [QUOTAS]: withQuota(configuration[QUOTAS], address) }
}

/** A line that an interrupted change, or a hand, has left. */
export interface Remain {
  file: FileName
  line: number | undefined
  /** The address or domain that it is about. */
  name: string
  /** The fact, as a sentence without file and line. */
  fact: string
}

/** Finds what is left of accounts and domains that do not exist. */
export function remainsOf(configuration: Configuration): Remain[] {
  const accounts = new Set(accountsOf(configuration).map(({ address }) => address.toLowerCase()))
  // Without the accounts everything would be left over.
  if (accounts.size === 0) return []
  const remains: Remain[] = []
  const found = (file: FileName, [line]: number[], name: string, fact: string) =>
    remains.push({ file, line, name, fact })

  const written = ([TRANSPORTS, PATTERNS] as const).flatMap((file) =>
    tables.domainLines(configuration[file]).map((own) => ({ ...own, file })),
  )
  const aliases = parseAliases(configuration[ALIASES])
  const keys = new Set(aliases.map(({ alias }) => alias))
  // Lines of ours say that a domain had accounts, or was about to have them.
  const domains = new Set([...domainsOf(configuration), ...written.map(({ domain }) => domain)])
  const live = new Set([...accounts].map(domainOf))
  for (const { alias, recipients, lines } of aliases) {
    const dead = recipients.filter((recipient) => {
      const plain = recipient.replace(/\+[^@]*@/, '@')
      const isAlias = alias !== recipient && (keys.has(plain) || keys.has(`@${domainOf(plain)}`))
      const isKnown = isAlias || accounts.has(plain) || !domains.has(domainOf(plain))
      return !isKnown && lookUp(configuration[PATTERNS], plain) === undefined
    })
    if (dead.length < recipients.length && alias.includes('@')) live.add(domainOf(alias))
    for (const name of dead) found(ALIASES, lines, name, `the alias ${alias} goes to ${name}, which is no account`)
  }
  for (const { address, lines } of quotaLines(configuration[QUOTAS])) {
    if (!accounts.has(address)) found(QUOTAS, lines, address, `${address} has a quota and is no account`)
  }
  for (const { file, domain, lines } of written.filter((own) => !live.has(own.domain))) {
    found(file, lines, domain, `${domain} has no account and no alias, and is no longer caught`)
  }
  return remains
}

function withoutRemains(configuration: Configuration): Configuration {
  const names = remainsOf(configuration).map(({ name }) => name)
  return names.reduce((after, name) => withoutAddress(withoutDomain(after, name), name), configuration)
}

/** Takes back what is left of accounts that do not exist, and completes what the domains of the others are missing. */
export function repaired(configuration: Configuration): Configuration {
  const domains = accountsOf(configuration).map(({ address }) => domainOf(address.toLowerCase()))
  return domains.reduce(withDomain, withoutRemains(configuration))
}

/** The account's lines: more than one where somebody has written it twice. */
export function accountLines(configuration: Configuration, address: string): Account[] {
  return accountsOf(configuration).filter((account) => account.address.toLowerCase() === address)
}

function existing(configuration: Configuration, address: string): Account[] {
  const found = accountLines(configuration, address)
  if (found.length > 0) return found
  throw new Failure('failed', `${address} is no account. Accounts and aliases: npm run add-account -- --list`)
}

/** Lines that are no accounts are somebody else's matter here. */
function accountsOf(configuration: Pick<Configuration, typeof ACCOUNTS>): Account[] {
  return parseAccounts(configuration[ACCOUNTS], ACCOUNTS, () => {})
}

/** The aliases that go to an address. */
export function aliasesOf(configuration: Configuration, address: string): string[] {
  const aliases = parseAliases(configuration[ALIASES]).filter(({ recipients }) => recipients.includes(address))
  return aliases.map(({ alias }) => alias).filter((alias) => alias !== address)
}

/** virtual_mailbox_domains as docker-mailserver makes it: the domains of all accounts and aliases. */
export function domainsOf(configuration: Pick<Configuration, typeof ACCOUNTS | typeof ALIASES>): Set<string> {
  const addresses = accountsOf(configuration).map(({ address }) => address.toLowerCase())
  const names = [...addresses, ...parseAliases(configuration[ALIASES]).map(({ alias }) => alias)]
  return new Set(names.filter((name) => name.includes('@')).map(domainOf))
}

/** The virtual mailbox domains that a change adds; those that it takes away, the other way round. */
export function newDomains(before: Configuration, after: Configuration): string[] {
  return [...domainsOf(after)].filter((domain) => !domainsOf(before).has(domain))
}

/** Whether mail to an address without an account is accepted: it has an alias, or it is caught. */
export function isCaught(configuration: Configuration, address: string): boolean {
  const isAlias = ({ alias }: { alias: string }) => [address, `@${domainOf(address)}`].includes(alias)
  if (parseAliases(configuration[ALIASES]).some(isAlias)) return true
  return !domainsOf(configuration).has(domainOf(address)) || lookUp(configuration[PATTERNS], address) !== undefined
}

/** Sets or removes an account's line in `dovecot-quotas.cf`. */
function withQuota(text: string, address: string, quota?: string): string {
  const own = quotaLines(text).filter((line) => line.address === address)
  const kept = tables.withoutEntries(text, own)
  if (quota === undefined) return kept
  // docker-mailserver takes the first line that has "address:" anywhere, which may be another account's end.
  const first = kept.split('\n').findIndex((line) => line.toLowerCase().includes(`${address}:`))
  return tables.withLine(kept, `${address}:${quota}`, first < 0 ? undefined : first)
}

export function domainOf(address: string): string {
  return address.slice(address.lastIndexOf('@') + 1)
}
