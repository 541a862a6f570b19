/**
 * Adding, changing and deleting accounts, as changes of the configuration files. Pure: what the files say goes in,
 * their new texts come out. Each refuses with a Failure that names the value, the fact and what to do.
 */

import { Failure } from '../cli.ts'
import { type Account, CATCHALL, parseAccounts } from './accounts.ts'
import type { FileChange, ReadConfiguration } from './configuration_files.ts'
import {
  localDomains,
  parseAliases,
  withAlias,
  withLine,
  withoutRecipient,
  withoutVirtualDomain,
  withVirtualDomain,
} from './postfix_tables.ts'

const ACCOUNTS = 'postfix-accounts.cf'
const ALIASES = 'postfix-virtual.cf'
const QUOTAS = 'dovecot-quotas.cf'
const TRANSPORTS = 'postfix-transport_maps'

export interface Change {
  /**
   * New texts in the order to write them: what an account needs before the account itself, which docker-mailserver
   * reloads on; when one goes, what belongs to it before it. A run that was killed in between can be repeated.
   */
  files: FileChange[]
  /** Domains whose unknown addresses are refused from now on, because they have become virtual mailbox domains. */
  becomeVirtual: string[]
  /** Domains whose mail is caught from now on, because no account or alias is left there. */
  becomeCaught: string[]
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
export function addAccount(read: ReadConfiguration, request: AccountRequest, hostname: string): Change {
  const { address } = request
  if (find(read, address).length > 0) {
    throw new Failure('failed', `${address} is an account already. A new password: ${command(`--update ${address}`)}`)
  }
  const alias = parseAliases(read(ALIASES)).find((candidate) => candidate.alias === address)
  // Its line may be left of an addition that was killed.
  if (alias && !alias.recipients.includes(address)) {
    const recipients = alias.recipients.join(', ')
    throw new Failure('failed', `${address} is an alias of ${recipients} (${ALIASES} line ${alias.index + 1}).`)
  }
  return store(read, request, hostname, withLine(read(ACCOUNTS), `${address}|${request.hash ?? ''}`))
}

/** Gives an account a new password, a quota, aliases. Its line keeps its place and its attributes. */
export function updateAccount(read: ReadConfiguration, request: AccountRequest, hostname: string): Change {
  const { address, hash } = request
  const lines = read(ACCOUNTS).split('\n')
  for (const { line } of existing(read, address)) {
    if (hash === undefined) continue
    lines[line - 1] = (lines[line - 1] ?? '').replace(/\|[^|\r]*/, () => `|${hash}`)
  }
  return store(read, request, hostname, lines.join('\n'))
}

/** Deletes an account, its quota and its aliases. The last account and the catchall only with `force`. */
export function deleteAccount(read: ReadConfiguration, address: string, force: boolean): Change {
  const found = existing(read, address)
  const text = read(ACCOUNTS)
  if (!force && address === CATCHALL) {
    throw new Failure(
      'failed',
      `${address} receives all mail that has no account, and without it that mail bounces. If you mean it: --force`,
    )
  }
  if (!force && accountsOf(read).length === found.length) {
    throw new Failure(
      'failed',
      `${address} is the last account, and docker-mailserver does not start without one. If you mean it: --force`,
    )
  }
  const gone = new Set(found.map(({ line }) => line))
  const accounts = text
    .split('\n')
    .filter((_, index) => !gone.has(index + 1))
    .join('\n')
  const aliases = withoutRecipient(read(ALIASES), address)
  const before = virtualDomains(text, read(ALIASES))
  const after = virtualDomains(accounts, aliases)
  const becomeCaught = [...before].filter((domain) => !after.has(domain))
  return {
    files: [
      [ALIASES, aliases],
      [QUOTAS, withQuota(read(QUOTAS), address, undefined)],
      [ACCOUNTS, accounts],
      [TRANSPORTS, becomeCaught.reduce(withoutVirtualDomain, read(TRANSPORTS))],
    ],
    becomeVirtual: [],
    becomeCaught,
  }
}

/** The part that adding and updating share. */
function store(read: ReadConfiguration, request: AccountRequest, hostname: string, accounts: string): Change {
  const { address, quota } = request
  if (address === CATCHALL && quota !== undefined && Number.parseInt(quota, 10) > 0) {
    const why = 'mail that it could not hold would have no other place, and its bounce neither'
    throw new Failure('failed', `${address} has no quota: ${why}. To empty it: npm run reset`)
  }
  let aliases = read(ALIASES)
  // A catch-all alias of the domain would get the account's own mail, unless the account has a line of its own.
  if (hasCatchAll(read, domainOf(address))) aliases = withAlias(aliases, address, address)
  for (const alias of request.aliases) {
    if (alias === address) throw new Failure('failed', `${alias} cannot be an alias of itself.`)
    if (find(read, alias).length > 0) {
      throw new Failure('failed', `${alias} is an account, and as an alias it would receive nothing any more.`)
    }
    aliases = withAlias(aliases, alias, address)
  }
  const before = virtualDomains(read(ACCOUNTS), read(ALIASES))
  const after = virtualDomains(accounts, aliases)
  const local = localDomains(read('postfix-main.cf'), hostname)
  const addresses = [address, ...request.aliases]
  const caught = addresses.find((candidate) => local.includes(domainOf(candidate)))
  if (caught) {
    throw new Failure(
      'failed',
      `${caught} would receive nothing: mydestination has ${domainOf(caught)}, so all mail to it is caught.`,
    )
  }
  return {
    files: [
      [TRANSPORTS, addresses.map(domainOf).reduce(withVirtualDomain, read(TRANSPORTS))],
      [ALIASES, aliases],
      [QUOTAS, quota === undefined ? read(QUOTAS) : withQuota(read(QUOTAS), address, quota)],
      [ACCOUNTS, accounts],
    ],
    becomeVirtual: [...after].filter((domain) => !before.has(domain)),
    becomeCaught: [],
  }
}

/** True where `postfix-virtual.cf` sends all addresses of a domain that have no line of their own somewhere. */
function hasCatchAll(read: ReadConfiguration, domain: string): boolean {
  return parseAliases(read(ALIASES)).some(({ alias }) => alias === `@${domain}`)
}

/** The account's lines: more than one where somebody has written it twice. */
function find(read: ReadConfiguration, address: string): Account[] {
  return accountsOf(read).filter((account) => account.address.toLowerCase() === address)
}

function existing(read: ReadConfiguration, address: string): Account[] {
  const found = find(read, address)
  if (found.length > 0) return found
  throw new Failure('failed', `${address} is no account. The accounts: ${command('--list')}`)
}

/** Lines that are no accounts are somebody else's matter here. */
function accountsOf(read: ReadConfiguration): Account[] {
  return parseAccounts(read(ACCOUNTS), ACCOUNTS, () => {})
}

/** virtual_mailbox_domains as docker-mailserver makes it: the domains of all accounts and aliases. */
function virtualDomains(accounts: string, aliases: string): Set<string> {
  const addresses = [
    ...parseAccounts(accounts, ACCOUNTS, () => {}).map(({ address }) => address.toLowerCase()),
    ...parseAliases(aliases).map(({ alias }) => alias),
  ]
  return new Set(addresses.filter((address) => address.includes('@')).map(domainOf))
}

/** Sets or removes an account's line in `dovecot-quotas.cf`. */
function withQuota(text: string, address: string, quota: string | undefined): string {
  const isIts = (line: string) => line.split(':')[0]?.trim().toLowerCase() === address
  const kept = text.split('\n').filter((line) => !isIts(line))
  if (quota === undefined) return kept.join('\n')
  // docker-mailserver takes the first line that has "address:" anywhere, which may be another account's end.
  const first = kept.findIndex((line) => line.toLowerCase().includes(`${address}:`))
  if (first < 0) return withLine(kept.join('\n'), `${address}:${quota}`)
  kept.splice(first, 0, `${address}:${quota}`)
  return kept.join('\n')
}

function domainOf(address: string): string {
  return address.slice(address.lastIndexOf('@') + 1)
}

function command(args: string): string {
  return `npm run add-account -- ${args}`
}
