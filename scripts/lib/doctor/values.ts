/** What the rules ask about a value: of the files that it names, of the accounts, of Postfix's own words. */
import { existsSync, readFileSync } from 'node:fs'
import { BlockList, isIP } from 'node:net'
import { CATCHALL } from '../accounts/accounts.ts'
import { domainOf } from '../accounts/changes.ts'
import { mapPaths } from '../server/native_configuration.ts'
import { HOSTNAME } from '../settings.ts'
import { ACCOUNTS, CONFIG, type Facts, IN_CONTAINER, inConfig, OWN_FILES } from './facts.ts'

const NAMES = readFileSync(new URL('./names.txt', import.meta.url), 'utf8').split(/^\[.*\]$/m)
const [, OF_10 = [], OF_15 = [], OF_BOTH = []] = NAMES.map((names) => names.trim().split(/\s+/))
/** docker-mailserver's variables, by the releases that have them. */
export const VARIABLES = { '10': OF_10, '15': OF_15, both: OF_BOTH }

/** Paths in a value: as they stand, and those of tables. */
export const [PATHS, TABLES] = [/(?<=^|[\s,])(\/[^\s,]+)/g, /(?<=\b(?!unix)[a-z]+:)(\/[^\s,}]+)/g]

/** A file in a value that cannot be read, and why. Those that come with the project are the matter of "files". */
export function missing(pattern: RegExp, value: string, facts: Facts): string | undefined {
  for (const [path] of value.matchAll(pattern)) {
    const name = path.replace(IN_CONTAINER, CONFIG)
    const fact = name !== path && !OWN_FILES.includes(name) && facts.problem(name)
    if (fact) return `${name}: ${fact}`
    // What else lies in the container, nobody knows here; natively, what lies in the state folder.
    const isHere = !facts.isNative || mapPaths(path, '') !== path || existsSync(path) || existsSync(`${path}.db`)
    if (!isHere) return `${path} is not there`
  }
  return undefined
}

/** The entries of the project's own tables in a value. */
function entriesIn(value: string, facts: Facts): string[] {
  const tables = value.match(/(?<=:\/tmp\/docker-mailserver\/)[^\s,}]+/g) ?? []
  return tables.flatMap((name) => facts.entries(inConfig(name)).map(({ text }) => text))
}

/** All addresses that a value and the tables in it can answer. Somebody else's table may answer anything. */
export function resultsOf(value: string, facts: Facts): string[] {
  const own = value.split(/[,\s]+/).filter((word) => !word.includes(IN_CONTAINER))
  const results = own.map((word) =>
    /^(?!static|inline)[a-z]+:/.test(word) ? 'unknown@elsewhere.invalid' : word.replace(/^.*=|^\w+:|[{}]/g, ''),
  )
  return [...results, ...entriesIn(value, facts).map((text) => text.split(/\s+/).at(-1) ?? '')].filter(Boolean)
}

/** What a value and the tables in it do with mail beside taking or refusing it, and the target. */
export function actionsOf(value: string, facts: Facts): RegExpMatchArray[] {
  const action = /\b(FILTER|REDIRECT|BCC|HOLD|DISCARD)\b\s*([^\s}]*)/g
  return [value, ...entriesIn(value, facts)].flatMap((text) => [...text.matchAll(action)])
}

/** Whether mail for a name or address ends in a mailbox here, by way of the catchall too unless it is copied past it. */
export function isOwn(target: string, facts: Facts): boolean {
  if (!target.includes('@')) return !/[:/]/.test(target)
  return domainsOf(facts).includes(domainOf(target).toLowerCase())
}

/** Addresses that no mailbox can have here: mail to them goes elsewhere, or Dovecot lets no such name in (auth_username_chars). */
export const UNREACHED = /[^\w.@-]|@localhost(\.|$)/i

/** The addresses of the accounts, in lower case. A line that is none may be a password, and is the matter of "accounts". */
export function addressesOf(facts: Facts): string[] {
  const found = facts.read(ACCOUNTS).matchAll(/^\s*([^\s@:|#]+@[^\s@:|]+)\|/gm)
  return [...found].map(([, address = '']) => address.toLowerCase()).filter((address) => !UNREACHED.test(address))
}

/** The domains of the accounts, the catchall's in any case: that it is there is the matter of "accounts". */
export function domainsOf(facts: Facts): string[] {
  return [...new Set([CATCHALL, ...addressesOf(facts)].map((address) => domainOf(address)))]
}

/** Whether a value names no virtual mailbox domain; the catchall's is the server's own name. */
export function isNoVirtual(value: string, facts: Facts): boolean {
  const virtual = domainsOf(facts).filter((domain) => domain !== domainOf(CATCHALL))
  return !value.split(/[\s,]+/).some((name) => virtual.includes(name.toLowerCase()))
}

/** The certificate of the user's own that SSL_TYPE asks for and that is not there. */
export function missingCertificate(type: string, facts: Facts): string | undefined {
  const { SSL_CERT_PATH = '', SSL_KEY_PATH = '', OVERRIDE_HOSTNAME } = facts.environment()
  if (type === 'manual' && !(SSL_CERT_PATH && SSL_KEY_PATH)) return 'SSL_CERT_PATH or SSL_KEY_PATH is not set'
  const own = `${IN_CONTAINER}/ssl/${OVERRIDE_HOSTNAME || HOSTNAME}`
  const paths: Record<string, string> = {
    ...{ manual: `${SSL_CERT_PATH} ${SSL_KEY_PATH}`, custom: `${own}-full.pem` },
    'self-signed': `${own}-cert.pem ${own}-key.pem`,
  }
  return missing(PATHS, paths[type] ?? '', facts)
}

/** Whether mynetworks has this address: the first entry that matches decides (postconf(5)). */
export function trusts(value: string, host: string): boolean {
  // Tables and $names are the running server's to judge.
  if (/[:$](?!:|\d)/.test(value.replace(/\[[^\]]*\]/g, ''))) return true
  for (const word of value.split(/[\s,]+/)) {
    const [, not, address = '', bits] = /^(!?)\[?([^\]/]+)\]?(?:\/(\d+))?$/.exec(word) ?? []
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
    const list = new BlockList()
    if (isIP(address)) list.addSubnet(address, Number(bits ?? (family === 'ipv6' ? 128 : 32)), family)
    if (list.check(host, isIP(host) === 6 ? 'ipv6' : 'ipv4')) return !not
  }
  return false
}

export function messageLimit(facts: Facts): number {
  const { value } = facts.mainCf().get('message_size_limit') ?? {}
  return Number(value ?? facts.environment().POSTFIX_MESSAGE_SIZE_LIMIT ?? 0)
}
