/**
 * Adding, changing and deleting accounts, and finding what an interrupted change has left. Pure: a configuration goes
 * in, the changed one comes out. Each refuses with a Failure that names the value, the fact and what to do.
 */
import { Failure } from '../cli.ts'
import { type Account, CATCHALL, parseAccounts, quotaLines } from './accounts.ts'
import { ACCOUNTS, ALIASES, type Configuration, type FileName, PATTERNS, QUOTAS, TRANSPORTS } from './configuration.ts'
import * as tables from './tables.ts'
import { lookUp, parseAliases } from './tables.ts'

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
    const place = `${ALIASES} line ${alias.lines[0]}`
    throw new Failure('usage', `${address} is an alias of ${alias.recipients.join(', ')} (${place}).`)
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
    if (alias === address || accountLines(before, alias).length > 0) {
      throw new Failure('usage', `${alias} is an account, and as an alias it would receive nothing any more.`)
    }
    virtual = tables.withAlias(virtual, alias, address)
  }
  const quotas = quota === undefined ? before[QUOTAS] : withQuota(before, address, quota)
  const after = { ...before, [ACCOUNTS]: accounts, [ALIASES]: virtual, [QUOTAS]: quotas }
  return [address, ...aliases].map(domainOf).reduce(withDomain, after)
}

/** A domain's line in the transport map and its exception in the pattern table. */
const withDomain = (configuration: Configuration, domain: string): Configuration => ({
  ...configuration,
  [TRANSPORTS]: tables.withVirtualDomain(configuration[TRANSPORTS], domain),
  [PATTERNS]: tables.withException(configuration[PATTERNS], domain, CATCHALL),
})

/** The quotas with an account's new line. */
function withQuota(before: Configuration, address: string, quota: string): string {
  const others = withoutLines(before, QUOTAS, address)
  // docker-mailserver takes the first line that has "address:" anywhere, which may be another account's end.
  const first = others.split('\n').findIndex((line) => line.toLowerCase().includes(`${address}:`))
  return tables.withLine(others, `${address}:${quota}`, first < 0 ? undefined : first)
}

/**
 * Deletes an account, its quota and its aliases; or all that is left of one whose deletion was interrupted. The last
 * account and the catchall only with `force`.
 */
export function deleteAccount(before: Configuration, address: string, force: boolean): Configuration {
  const isRemain = remainsOf(before).some(({ name }) => [address, domainOf(address)].includes(name))
  if (isRemain && accountLines(before, address).length === 0) return withoutRemains(before)
  const isLast = existing(before, address).length === accountsOf(before).length
  if (!force && (address === CATCHALL || isLast)) {
    const fact = isLast
      ? 'is the last account, and docker-mailserver does not start without one'
      : 'receives all mail that has no account, and without it that mail bounces'
    throw new Failure('failed', `${address} ${fact}. If you mean it: --force`)
  }
  const after = without(before, address)
  return newDomains(after, before).reduce(without, after)
}

/** The lines of a file that are about one address or one domain each. An alias may be about several. */
const LINES = {
  [TRANSPORTS]: tables.domainLines,
  [PATTERNS]: tables.domainLines,
  [QUOTAS]: quotaLines,
  [ACCOUNTS]: (text: string) =>
    accountsOf({ [ACCOUNTS]: text }).map(({ address, line }) => ({ name: address, lines: [line] })),
}

function withoutLines(configuration: Configuration, file: keyof typeof LINES, name: string): string {
  const text = configuration[file]
  return tables.withoutEntries(
    text,
    LINES[file](text).filter((line) => line.name === name),
  )
}

/** Takes out all that is about an address or a domain. */
const without = (configuration: Configuration, name: string): Configuration => ({
  [TRANSPORTS]: withoutLines(configuration, TRANSPORTS, name),
  [PATTERNS]: withoutLines(configuration, PATTERNS, name),
  [ALIASES]: tables.withoutRecipient(configuration[ALIASES], name),
  [QUOTAS]: withoutLines(configuration, QUOTAS, name),
  [ACCOUNTS]: withoutLines(configuration, ACCOUNTS, name),
})

/** A line that an interrupted change, or a hand, has left: whom it is about, and the fact as a sentence. */
export interface Remain {
  file: FileName
  line: number | undefined
  name: string
  fact: string
}

/** Finds what is left of accounts and domains that do not exist. */
export function remainsOf(configuration: Configuration): Remain[] {
  const accounts = accountsOf(configuration).map(({ address }) => address)
  // Without the accounts everything would be left over.
  if (accounts.length === 0) return []
  const aliases = parseAliases(configuration[ALIASES])
  const keys = new Set(aliases.map(({ alias }) => alias))
  const written = ([QUOTAS, TRANSPORTS, PATTERNS] as const).flatMap((file) =>
    LINES[file](configuration[file]).map((line) => ({ ...line, file })),
  )
  // Lines of ours say that a domain had accounts, or was about to have them.
  const domains = new Set([...domainsOf(configuration), ...written.map(({ name }) => name)])
  const live = new Set([...accounts, ...accounts.map(domainOf)])
  const remains: Remain[] = []
  for (const { alias, recipients, lines } of aliases) {
    const dead = recipients.filter((recipient) => {
      const plain = recipient.replace(/\+[^@]*@/, '@')
      // "@domain" as a recipient is the same name there (virtual(5)).
      const isDomain = plain.startsWith('@') && live.has(domainOf(plain))
      const isAlias = isDomain || (alias !== recipient && (keys.has(plain) || keys.has(`@${domainOf(plain)}`)))
      const isKnown = isAlias || live.has(plain) || !domains.has(domainOf(plain))
      return !isKnown && lookUp(configuration[PATTERNS], plain) === undefined
    })
    if (dead.length < recipients.length && alias.includes('@')) live.add(domainOf(alias))
    const fact = `the alias ${alias} goes to`
    for (const name of dead) {
      remains.push({ file: ALIASES, line: lines[0], name, fact: `${fact} ${name}, which is no account` })
    }
  }
  for (const { file, name, lines } of written.filter((line) => !live.has(line.name))) {
    const fact = file === QUOTAS ? 'a quota and is no account' : 'no account and no alias, and is no longer caught'
    remains.push({ file, line: lines[0], name, fact: `${name} has ${fact}` })
  }
  return remains
}

function withoutRemains(configuration: Configuration): Configuration {
  return remainsOf(configuration).reduce((after, { name }) => without(after, name), configuration)
}

/** Takes back what is left of accounts that do not exist, and completes what the domains of the others are missing. */
export function repaired(configuration: Configuration): Configuration {
  const domains = accountsOf(configuration).map(({ address }) => domainOf(address))
  return domains.reduce(withDomain, withoutRemains(configuration))
}

/** The account's lines: more than one where somebody has written it twice. */
export function accountLines(configuration: Configuration, address: string): Account[] {
  return accountsOf(configuration).filter((account) => account.address === address)
}

function existing(configuration: Configuration, address: string): Account[] {
  const found = accountLines(configuration, address)
  if (found.length > 0) return found
  throw new Failure('failed', `${address} is no account. Accounts and aliases: npm run add-account -- --list`)
}

/** The accounts in lower case. Lines that are none are somebody else's matter here. */
function accountsOf(configuration: Pick<Configuration, typeof ACCOUNTS>): Account[] {
  const accounts = parseAccounts(configuration[ACCOUNTS], ACCOUNTS, () => {})
  return accounts.map((account) => ({ ...account, address: account.address.toLowerCase() }))
}

/** The aliases that go to an address. */
export function aliasesOf(configuration: Configuration, address: string): string[] {
  const aliases = parseAliases(configuration[ALIASES]).filter(({ recipients }) => recipients.includes(address))
  return aliases.map(({ alias }) => alias).filter((alias) => alias !== address)
}

/** virtual_mailbox_domains as docker-mailserver makes it: the domains of all accounts and aliases. */
export function domainsOf(configuration: Pick<Configuration, typeof ACCOUNTS | typeof ALIASES>): Set<string> {
  const aliases = parseAliases(configuration[ALIASES]).map(({ alias }) => alias)
  const names = [...accountsOf(configuration).map(({ address }) => address), ...aliases]
  return new Set(names.filter((name) => name.includes('@')).map(domainOf))
}

/** The virtual mailbox domains that a change adds; those that it takes away, the other way round. */
export function newDomains(before: Configuration, after: Configuration): string[] {
  return [...domainsOf(after)].filter((domain) => !domainsOf(before).has(domain))
}

/** Whether mail to an address without an account is accepted: it has an alias, or it is caught. */
export function isCaught(configuration: Configuration, address: string): boolean {
  const keys = parseAliases(configuration[ALIASES]).map(({ alias }) => alias)
  if (keys.includes(address) || keys.includes(`@${domainOf(address)}`)) return true
  return !domainsOf(configuration).has(domainOf(address)) || lookUp(configuration[PATTERNS], address) !== undefined
}

export const domainOf = (address: string) => address.slice(address.lastIndexOf('@') + 1)
