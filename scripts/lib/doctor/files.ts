/** The configuration files as the checks read them, and the routes that Postfix will take by them. */
import { parse } from 'dotenv'
import { type Account, parseAccounts } from '../accounts/accounts.ts'
import { HOSTNAME } from '../settings.ts'
import { CONFIG, ENV_FILE, type Files, Skipped } from './check.ts'
import {
  domainOf,
  logicalLines,
  lookUpRegexp,
  parseIndexed,
  parseMainCf,
  parseRegexpTable,
  type Routing,
} from './routing.ts'

export const MAIN_CF = `${CONFIG}/postfix-main.cf`
export const MASTER_CF = `${CONFIG}/postfix-master.cf`
export const TRANSPORT_MAP = `${CONFIG}/postfix-transport_maps`
export const ACCOUNTS = `${CONFIG}/postfix-accounts.cf`
export const VIRTUAL = `${CONFIG}/postfix-virtual.cf`
export const QUOTAS = `${CONFIG}/dovecot-quotas.cf`
/** The configuration folder as docker-mailserver sees it. */
export const IN_CONTAINER = '/tmp/docker-mailserver'

/** The variables of the environment file. Throws `Skipped` where there is none. */
export function environmentOf(files: Files): Record<string, string> {
  const text = files.read(ENV_FILE)
  if (text === undefined) throw new Skipped(`there is no ${ENV_FILE}, see "env-names"`)
  return parse(text)
}

interface AccountLines {
  accounts: Account[]
  /** Numbers of the lines that are neither account nor comment. */
  broken: { line: number; text: string }[]
}

/** The accounts, line by line, so that one broken line does not hide the others. */
export function accountLines(files: Files): AccountLines {
  const text = files.read(ACCOUNTS)
  if (text === undefined) throw new Skipped('there is no postfix-accounts.cf, see "accounts"')
  const result: AccountLines = { accounts: [], broken: [] }
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    try {
      for (const account of parseAccounts(line)) result.accounts.push({ ...account, line: index + 1 })
    } catch {
      // What stands behind the first "|" may be a password hash: nothing for a screen.
      result.broken.push({ line: index + 1, text: line.split('|')[0] ?? '' })
    }
  }
  return result
}

/** The settings that mail is routed by, from the files or from the running server. */
export interface Fence extends Routing {
  /** The text of a table's file. */
  text(table: string): string | undefined
  /** Settings of single services: `-o` in master.cf. */
  overrides: { service: string; name: string; value: string }[]
  /** The line of postfix-main.cf that sets a parameter; undefined where none does, or none is known to. */
  lineOf(name: string): number | undefined
  /** What speaks: `postfix-main.cf`, or the running server. */
  source: string
  /** What to do after a file was changed, or nothing. */
  afterwards: string
}

/** The file behind a table like `pcre:/path`; undefined for tables without one. */
export function tableFile(table: string): string | undefined {
  return /^(?:proxy:)?(?:[a-z0-9]+:)?(\/.*)$/.exec(table)?.[1]
}

/** How mail is routed by the files, before any server runs. `domains`: the virtual mailbox domains. */
export function configuredRouting(files: Files): Fence & { domains: string[] } {
  const main = parseMainCf(files.read(MAIN_CF) ?? '')
  const environment = environmentOf(files)
  const hostname = environment.OVERRIDE_HOSTNAME || HOSTNAME
  const aliases = [...parseIndexed(files.read(VIRTUAL) ?? '').keys()]
  const addresses = [...accountLines(files).accounts.map(({ address }) => address), ...aliases]
  const domains = [...new Set(addresses.filter((address) => address.includes('@')).map(domainOf))]
  // What docker-mailserver and Postfix have where postfix-main.cf says nothing.
  const defaults: Record<string, string> = {
    myhostname: hostname,
    mydomain: hostname
      .split('.')
      .slice(hostname.split('.').length > 2 ? 1 : 0)
      .join('.'),
    mydestination: '$myhostname, localhost.$mydomain, localhost',
    virtual_mailbox_domains: domains.join(' '),
    local_transport: 'local:$myhostname',
    virtual_transport: environment.POSTFIX_DAGENT || 'lmtp:unix:/var/run/dovecot/lmtp',
    relay_transport: 'relay',
    default_transport: 'smtp',
  }
  const parameter = (name: string, depth = 0): string => {
    const value = main.get(name)?.value ?? defaults[name] ?? ''
    const expand = (_: string, braced: string, plain: string) =>
      depth > 9 ? '' : parameter(braced ?? plain, depth + 1)
    return value.replace(/\$(?:[{(](\w+)[)}]|(\w+))/g, expand)
  }
  const text = (table: string) => {
    const path = tableFile(table)
    return path?.startsWith(`${IN_CONTAINER}/`) ? files.read(path.replace(IN_CONTAINER, CONFIG)) : undefined
  }
  const parsed = new Map<string, (key: string) => string | undefined>()
  const lookup = (table: string, key: string) => {
    const find = parsed.get(table) ?? finder(table, text(table) ?? '')
    parsed.set(table, find)
    return find(key)
  }
  const overrides = logicalLines(files.read(MASTER_CF) ?? '').flatMap(({ text: entry }) => {
    const [, service, name, value = ''] = /^([^/\s]+\/[^/\s]+)\/(\w+)\s*=\s*(.*)$/.exec(entry) ?? []
    return service && name ? [{ service, name, value }] : []
  })
  const lineOf = (name: string) => main.get(name)?.line
  const fence = { parameter: (name: string) => parameter(name), lookup, text, overrides, lineOf }
  return { ...fence, domains, source: MAIN_CF, afterwards: '' }
}

function finder(table: string, text: string): (key: string) => string | undefined {
  if (/^(?:proxy:)?(?:pcre|regexp):/.test(table)) {
    const rules = parseRegexpTable(text)
    return (key) => lookUpRegexp(rules, key)?.result
  }
  if (table.startsWith('static:')) return () => table.slice('static:'.length)
  const inline = [...(/^inline:\{(.*)\}$/s.exec(table)?.[1] ?? '').matchAll(/([^\s,={}]+)\s*=\s*([^,{}]+)/g)]
  const entries = table.startsWith('inline:')
    ? new Map(inline.map(([, key = '', value = '']) => [key.toLowerCase(), value.trim()]))
    : parseIndexed(text)
  return (key) => entries.get(key.toLowerCase())
}
