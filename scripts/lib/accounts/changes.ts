/**
 * Adding, changing and deleting accounts, and finding what an interrupted change has left. Pure: a configuration goes
 * in, the changed one comes out. Each refuses with a Failure that names the value, the fact and what to do.
 */
import { Failure } from '../cli.ts'
import { type Account, CATCHALL, parseAccounts } from './accounts.ts'
import { type Configuration, type FileName, withText } from './configuration.ts'
import {
  anyAt,
  entriesOf,
  exceptionLines,
  isVirtual,
  localDomains,
  lookUp,
  parseAliases,
  virtualDomainLines,
  withAlias,
  withException,
  withLine,
  withoutException,
  withoutLines,
  withoutRecipient,
  withoutVirtualDomain,
  withVirtualDomain,
} from './tables.ts'

const ACCOUNTS = 'postfix-accounts.cf'
const ALIASES = 'postfix-virtual.cf'
const PATTERNS = 'postfix-regexp.cf'
const QUOTAS = 'dovecot-quotas.cf'
const TRANSPORTS = 'postfix-transport_maps'

export interface Change {
  configuration: Configuration
  /** Domains whose unknown addresses are refused from now on, because they have become virtual mailbox domains. */
  becomeVirtual: string[]
  /** Domains whose mail is caught from now on, because no account or alias is left there. */
  becomeCaught: string[]
  /** Aliases that no longer go to the account. */
  goneAliases: string[]
}

export interface AccountRequest {
  address: string
  /** `{SCHEME}hash`; undefined leaves the password of an existing account alone. */
  hash?: string | undefined
  /** Size as in `dovecot-quotas.cf`; undefined leaves it alone. */
  quota?: string | undefined
  aliases: string[]
}

/** Adds an account. `hostname` is the server's. */
export function addAccount(configuration: Configuration, request: AccountRequest, hostname: string): Change {
  const { address } = request
  if (accountLines(configuration, address).length > 0) {
    throw new Failure('failed', `${address} is an account already. A new password: ${command(`--update ${address}`)}`)
  }
  const alias = aliasesOf(configuration).find((candidate) => candidate.alias === address)
  // Its line may be left of an addition that was killed.
  if (alias && !alias.recipients.includes(address)) {
    const recipients = alias.recipients.join(', ')
    throw new Failure('usage', `${address} is an alias of ${recipients} (${ALIASES} line ${alias.lines[0]}).`)
  }
  const accounts = withLine(configuration[ACCOUNTS].text, `${address}|${request.hash ?? ''}`)
  return store(configuration, withText(configuration, ACCOUNTS, accounts), request, hostname)
}

/** Gives an account a new password, a quota, aliases. Its line keeps its place and its attributes. */
export function updateAccount(configuration: Configuration, request: AccountRequest, hostname: string): Change {
  const { address, hash } = request
  const lines = configuration[ACCOUNTS].text.split('\n')
  for (const { line } of existing(configuration, address)) {
    if (hash === undefined) continue
    lines[line - 1] = (lines[line - 1] ?? '').replace(/\|[^|\r]*/, () => `|${hash}`)
  }
  return store(configuration, withText(configuration, ACCOUNTS, lines.join('\n')), request, hostname)
}

/**
 * Deletes an account, its quota and its aliases; or what is left of one whose deletion was interrupted. The last
 * account and the catchall only with `force`.
 */
export function deleteAccount(configuration: Configuration, address: string, force: boolean): Change {
  const isRemain = remainsOf(configuration).some((remain) => remain.isLeft && remain.name === address)
  const found = isRemain ? accountLines(configuration, address) : existing(configuration, address)
  if (!force && address === CATCHALL) {
    throw new Failure(
      'failed',
      `${address} receives all mail that has no account, and without it that mail bounces. If you mean it: --force`,
    )
  }
  if (!force && found.length > 0 && accountsOf(configuration).length === found.length) {
    throw new Failure(
      'failed',
      `${address} is the last account, and docker-mailserver does not start without one. If you mean it: --force`,
    )
  }
  const withoutAccount = withoutLines(
    configuration[ACCOUNTS].text,
    found.map(({ line }) => line),
  )
  let after = withText(configuration, ACCOUNTS, withoutAccount)
  after = withText(after, ALIASES, withoutRecipient(after[ALIASES].text, address))
  after = withText(after, QUOTAS, withQuota(after[QUOTAS].text, address, undefined))
  const left = virtualDomains(after)
  const becomeCaught = [...virtualDomains(configuration)].filter((domain) => !left.has(domain))
  // Of a deletion that was interrupted the domain may be gone already.
  const domains = new Set([domainOf(address), ...becomeCaught].filter((domain) => !left.has(domain)))
  const goneAliases = aliasesOf(configuration).flatMap(({ alias, recipients }) =>
    recipients.includes(address) && alias !== address ? [alias] : [],
  )
  return { configuration: [...domains].reduce(withoutDomain, after), becomeVirtual: [], becomeCaught, goneAliases }
}

/** The part that adding and updating share; `after` has the account's own line. */
function store(before: Configuration, after: Configuration, request: AccountRequest, hostname: string): Change {
  const { address, quota } = request
  if (address === CATCHALL && quota !== undefined && Number.parseInt(quota, 10) > 0) {
    const why = 'mail that it could not hold would have no other place, and its bounce neither'
    throw new Failure('failed', `${address} has no quota: ${why}. To empty it: npm run reset`)
  }
  let aliases = before[ALIASES].text
  // A catch-all alias of the domain would get the account's own mail, unless the account has a line of its own.
  if (parseAliases(aliases).some(({ alias }) => alias === `@${domainOf(address)}`)) {
    aliases = withAlias(aliases, address, address)
  }
  for (const alias of request.aliases) {
    if (alias === address) throw new Failure('usage', `${alias} cannot be an alias of itself.`)
    if (accountLines(before, alias).length > 0) {
      throw new Failure('usage', `${alias} is an account, and as an alias it would receive nothing any more.`)
    }
    aliases = withAlias(aliases, alias, address)
  }
  const addresses = [address, ...request.aliases]
  const local = localDomains(before['postfix-main.cf'].text, hostname)
  const caught = addresses.find((candidate) => local.includes(domainOf(candidate)))
  if (caught) {
    throw new Failure(
      'usage',
      `${caught} would receive nothing: mydestination has ${domainOf(caught)}, so all mail to it is caught.`,
    )
  }
  let configuration = addresses.map(domainOf).reduce(withDomain, withText(after, ALIASES, aliases))
  if (quota !== undefined) {
    configuration = withText(configuration, QUOTAS, withQuota(configuration[QUOTAS].text, address, quota))
  }
  const known = virtualDomains(before)
  const becomeVirtual = [...virtualDomains(configuration)].filter((domain) => !known.has(domain))
  return { configuration, becomeVirtual, becomeCaught: [], goneAliases: [] }
}

/** A domain's line in the transport map and its exception in the pattern table. */
function withDomain(configuration: Configuration, domain: string): Configuration {
  const mapped = withText(configuration, TRANSPORTS, withVirtualDomain(configuration[TRANSPORTS].text, domain))
  return withText(mapped, PATTERNS, withException(mapped[PATTERNS].text, domain, CATCHALL))
}

function withoutDomain(configuration: Configuration, domain: string): Configuration {
  const mapped = withText(configuration, TRANSPORTS, withoutVirtualDomain(configuration[TRANSPORTS].text, domain))
  return withText(mapped, PATTERNS, withoutException(mapped[PATTERNS].text, domain))
}

/** What an interrupted change, or a hand, has left: a line too many, or one that an account's domain is missing. */
export interface Remain {
  file: FileName
  /** The line that is left; undefined where one is missing. */
  line?: number
  /** True where a line is left, false where one is missing. */
  isLeft: boolean
  /** The address or domain that it is about. */
  name: string
  /** The fact, as a sentence without file and line. */
  fact: string
}

/** Finds what is left of accounts and domains that do not exist, and what a domain of accounts is missing. */
export function remainsOf(configuration: Configuration): Remain[] {
  const text = (file: FileName) => configuration[file].text
  // Without the accounts everything would be left over.
  if (configuration[ACCOUNTS].problem || accountsOf(configuration).length === 0) return []
  const accounts = new Set(accountsOf(configuration).map(({ address }) => address.toLowerCase()))
  const aliases = aliasesOf(configuration)
  const keys = new Set(aliases.map(({ alias }) => alias))
  const written = [
    [TRANSPORTS, virtualDomainLines(text(TRANSPORTS))],
    [PATTERNS, exceptionLines(text(PATTERNS))],
  ] as const
  // Lines of ours say that a domain had accounts, or was about to have them.
  const domains = virtualDomains(configuration)
  for (const { domain } of written.flatMap(([, own]) => own)) domains.add(domain)
  const isDead = (alias: string, recipient: string) => {
    const plain = recipient.replace(/\+[^@]*@/, '@')
    const others = alias === recipient ? [`@${domainOf(plain)}`] : [plain, `@${domainOf(plain)}`]
    const isKnown = accounts.has(plain) || (alias !== recipient && others.some((key) => keys.has(key)))
    return domains.has(domainOf(plain)) && !isKnown && lookUp(text(PATTERNS), plain) === undefined
  }
  const remains: Remain[] = []
  const left = (file: FileName, line: number | undefined, name: string, fact: string) =>
    remains.push({ file, line: line ?? 1, isLeft: true, name, fact })
  const live = new Set([...accounts].map(domainOf))
  for (const { alias, recipients, lines } of aliases) {
    const dead = recipients.filter((recipient) => isDead(alias, recipient))
    if (dead.length < recipients.length && alias.includes('@')) live.add(domainOf(alias))
    for (const name of dead) left(ALIASES, lines[0], name, `the alias ${alias} goes to ${name}, which is no account`)
  }
  for (const { text: entry, lines } of entriesOf(text(QUOTAS), false)) {
    const name = quotaAddress(entry)
    if (name && !accounts.has(name)) left(QUOTAS, lines[0], name, `${name} has a quota and is no account`)
  }
  for (const [file, own] of written) {
    for (const { domain, lines } of own) {
      if (!live.has(domain))
        left(file, lines[0], domain, `${domain} has no account and no alias, and is no longer caught`)
    }
  }
  for (const domain of new Set([...accounts].map(domainOf))) {
    const transport = lookUp(text(TRANSPORTS), anyAt(domain))
    if (transport && !isVirtual(transport.result)) {
      const fact = `the accounts of ${domain} have no line, and their mail goes to "${transport.result}"`
      remains.push({ file: TRANSPORTS, isLeft: false, name: domain, fact })
    }
    if (lookUp(text(PATTERNS), anyAt(domain))?.result.toLowerCase() === CATCHALL) {
      const fact = `the accounts of ${domain} have no exception, and the catchall gets their mail`
      remains.push({ file: PATTERNS, isLeft: false, name: domain, fact })
    }
  }
  return remains
}

/** Takes back what is left and completes what is missing. Give the remains found right before, under the lock. */
export function repaired(configuration: Configuration, remains = remainsOf(configuration)): Configuration {
  return remains.reduce((before, { file, isLeft, name }) => {
    const mended = isLeft ? withoutDomain(before, name) : withDomain(before, name)
    if (file === TRANSPORTS || file === PATTERNS) return withText(before, file, mended[file].text)
    const { text } = before[file]
    return withText(before, file, file === ALIASES ? withoutRecipient(text, name) : withQuota(text, name, undefined))
  }, configuration)
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
  return parseAccounts(configuration[ACCOUNTS].text, ACCOUNTS, () => {})
}

function aliasesOf(configuration: Configuration) {
  return parseAliases(configuration[ALIASES].text)
}

/** virtual_mailbox_domains as docker-mailserver makes it: the domains of all accounts and aliases. */
function virtualDomains(configuration: Configuration): Set<string> {
  const addresses = [
    ...accountsOf(configuration).map(({ address }) => address.toLowerCase()),
    ...aliasesOf(configuration).map(({ alias }) => alias),
  ]
  return new Set(addresses.filter((address) => address.includes('@')).map(domainOf))
}

function quotaAddress(line: string): string | undefined {
  return /^\s*([^#:\s][^:]*?)\s*:/.exec(line)?.[1]?.toLowerCase()
}

/** Sets or removes an account's line in `dovecot-quotas.cf`. */
function withQuota(text: string, address: string, quota: string | undefined): string {
  const own = entriesOf(text, false).filter(({ text: line }) => quotaAddress(line) === address)
  const kept = withoutLines(
    text,
    own.flatMap(({ lines }) => lines),
  )
  if (quota === undefined) return kept
  // docker-mailserver takes the first line that has "address:" anywhere, which may be another account's end.
  const lines = kept.split('\n')
  const first = lines.findIndex((line) => line.toLowerCase().includes(`${address}:`))
  if (first < 0) return withLine(kept, `${address}:${quota}`)
  lines.splice(first, 0, `${address}:${quota}${lines[first]?.endsWith('\r') ? '\r' : ''}`)
  return lines.join('\n')
}

export function domainOf(address: string): string {
  return address.slice(address.lastIndexOf('@') + 1)
}

function command(args: string): string {
  return `npm run add-account -- ${args}`
}
