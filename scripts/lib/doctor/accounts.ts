/** Accounts, quotas, aliases, and the pattern tables, each line held against rules. To add a rule, add a row. */
import { CATCHALL } from '../accounts/accounts.ts'
import { domainOf } from '../accounts/changes.ts'
import { anyAt, type Entry } from '../accounts/tables.ts'
import { nearestOf } from '../cli.ts'
import { deleteLine, type Finding, failure, placeOf, verdict, warning, writeLine } from './check.ts'
import { ACCOUNTS, CAUGHT, type Facts, inConfig, MAP, QUOTAS, VIRTUAL } from './facts.ts'
import { edit, repair } from './files.ts'
import { addressesOf, domainsOf, UNREACHED } from './values.ts'

/** The first row that says something about a line is the one that counts. */
interface Row<T extends Entry> {
  wrong(entry: T, all: T[]): string | false | undefined
  find?: typeof warning
  /** Without one the line goes; null where only the reader knows what is right. */
  fix?: ((entry: T) => string | false) | null
  /** What --fix does with the file's text. */
  mend?: (text: string) => string
}

function judge<T extends Entry>(file: string, entries: T[], rows: Row<T>[]): Finding[] {
  return entries.flatMap((entry): Finding[] => {
    for (const { wrong, find = failure, fix = () => deleteLine(file, entry), mend } of rows) {
      const said = wrong(entry, entries)
      if (said) return [find(`${placeOf(file, entry)}: ${said}`, mend ? () => edit(file, mend) : fix?.(entry))]
    }
    return []
  })
}

const isBefore = (one: Entry, other: Entry) => (one.lines[0] ?? 0) < (other.lines[0] ?? 0)

/** The password schemes of Dovecot (`doveadm pw -l`), and what a whole value of the usual ones looks like. */
const SCHEMES =
  /^(PLAIN|CLEAR(TEXT)?|PLAIN-TRUNC|PLAIN-MD[45]|(CRAM-|DIGEST-|LDAP-|HMAC-|S)?MD5|S?SHA(1|256|512)?|SCRAM-SHA-(1|256)|(MD5-|DES-|BLF-|SHA256-|SHA512-)?CRYPT|ARGON2I?D?|PBKDF2|OTP|SKEY|RPA|LANMAN|NTLM)$/
const CRYPT =
  /^\$([56]\$(rounds=\d+\$)?[^$:\s]{0,16}\$([./0-9A-Za-z]{43}){1,2}|1\$[^$:\s]{0,8}\$[./0-9A-Za-z]{22}|2[abxy]\$\d\d\$[./0-9A-Za-z]{53})$/

type Account = Entry & { address: string; hash: string }
const update = ({ address }: Account) => `npm run add-account -- --update ${address}`

// What stands behind the first "|" may be a password: nothing for a screen.
// biome-ignore format: one rule a line
const ACCOUNT_ROWS: Row<Account>[] = [
  { wrong: ({ address, text }) => /^\s|[ \t]$/.test(text) && `a space begins or ends the line of ${address.trim().split(/[:\s]/)[0]}`, mend: (text) => text.replace(/^[ \t]+(?=[^\s#])|[ \t]+$/gm, '') },
  { wrong: ({ address }) => !/^[^\s@:|]+@[^\s@:|]+$/.test(address) && `${/^[\w.+-]+@[\w.-]+/.exec(address)?.[0] ?? 'this'} is no address with a "|" behind it, and the line no account`, fix: (entry) => !/[|{]/.test(entry.text) && deleteLine(ACCOUNTS, entry) },
  { wrong: ({ address }) => UNREACHED.test(address) && `mail to ${address} never gets there, or nobody can log in: a name has letters, digits, ".", "_" and "-", and localhost is the server's own` },
  { wrong: ({ address, hash }) => !/^(\{[\w.-]+\}|\$)\S+$/.test(hash) && `the password of ${address} is no hash with its {SCHEME}; without the line: npm run add-account -- ${address}` },
  { wrong: (entry, all) => { const twin = all.find((other) => isBefore(other, entry) && other.address.toLowerCase() === entry.address.toLowerCase()); return twin && `${entry.address} stands twice, before in line ${twin.lines[0]}` } },
  { wrong: ({ address }) => address !== address.toLowerCase() && `${address} has a capital letter, and Dovecot looks logins up in lower case`, mend: (text) => text.replace(/^[^#|\n]+\|/gm, (address) => address.toLowerCase()) },
  { wrong: ({ address, hash }) => badHash(address, hash), fix: update },
]

function badHash(address: string, hash: string): string | false {
  const [, scheme = 'SHA512-CRYPT', value = ''] = /^(?:\{([^}]*)\})?(.*)$/.exec(hash) ?? []
  const name = scheme.toUpperCase().replace(/\.(B64|BASE64|HEX)$/, '')
  if (!SCHEMES.test(name)) return `the password of ${address} has the scheme {${scheme}}, which Dovecot does not know`
  const isCut = /^(SHA256|SHA512|MD5|BLF)-CRYPT$/i.test(scheme) && !CRYPT.test(value)
  return isCut && `the password of ${address} is no whole {${scheme}} hash`
}

export function accounts(facts: Facts): Finding[] {
  facts.needs(ACCOUNTS)
  // Not logical lines: Dovecot knows no continuation.
  const lines = facts.read(ACCOUNTS).split('\n')
  const all = lines.flatMap((text, index) => {
    const [address = '', hash = ''] = text.split('|')
    return /^\s*(#|$)/.test(text) ? [] : [{ text, lines: [index + 1], address, hash }]
  })
  const problems = judge(ACCOUNTS, all, ACCOUNT_ROWS)
  const lacks = `${ACCOUNTS} has no account ${all.length === 0 ? 'at all' : CATCHALL}, and foreign mail has nowhere to go`
  if (!addressesOf(facts).includes(CATCHALL))
    problems.push(failure(lacks, `npm run add-account -- ${CATCHALL} catchall`))
  return verdict(problems, `${all.length} accounts`)
}

type Quota = Entry & { address: string; size: string }
// biome-ignore format: one rule a line
const QUOTA_ROWS: Row<Quota>[] = [
  { wrong: ({ address }) => address === '' && 'this is not address:size', find: warning },
  { wrong: (entry, all) => all.some((other) => isBefore(other, entry) && other.address === entry.address) && `${entry.address} has a quota above, which counts`, find: warning },
  { wrong: ({ size }) => !/^\d+[bkmgt]?$/i.test(size) && `"${size}" is no size like 10M` },
  { wrong: ({ address, size }) => address === CATCHALL && !/^0/.test(size) && 'the catchall has a limit, and what is beyond it has no other place', find: warning, fix: (entry) => writeLine(QUOTAS, entry, `${CATCHALL}:0`) },
  { wrong: ({ size }) => /^[1-9](\d{0,3}b?|k)$/i.test(size) && `${size} is full after a mail or two`, find: warning, fix: null },
]

export function quotas(facts: Facts): Finding[] {
  const all = facts.entries(QUOTAS, false).map((entry) => {
    const [, address = '', size = ''] = /^([^:]*):(.*)$/.exec(entry.text.replace(/\s/g, '')) ?? []
    return { ...entry, address: address.toLowerCase(), size }
  })
  return verdict(judge(QUOTAS, all, QUOTA_ROWS), `${all.length} quotas`)
}

type Alias = Entry & { from: string; to: string[] }

export function aliases(facts: Facts): Finding[] {
  const all = facts.entries(VIRTUAL).map((entry): Alias => {
    const [from = '', ...to] = entry.text.toLowerCase().match(/[^\s,]+/g) ?? []
    return { ...entry, from, to }
  })
  const [own, domains] = [addressesOf(facts), domainsOf(facts)]
  /** Where Postfix sends an address on: by its own alias, by that without its extension, by its domain's. */
  const next = (address: string): string[] => {
    const keys = [address, address.replace(/\+[^@]*@/, '@'), address.replace(/.*@/, '@')]
    const targets = keys.map((key) => all.find(({ from }) => from === key)).find((alias) => alias)?.to ?? []
    // An alias that has itself among its targets keeps that one (virtual(5)).
    return targets.filter((target) => target !== address)
  }
  const reach = (from: string) => {
    const found = new Set(next(from))
    for (const target of found) for (const one of next(target)) found.add(one)
    return found
  }
  const loses = ({ from, to }: Alias) =>
    own.find(
      (account) => account.endsWith(from) && !to.includes(account) && !all.some((other) => other.from === account),
    )
  const lookalike = (target: string) =>
    domains.includes(domainOf(target)) ? undefined : nearestOf(domainOf(target), domains, 2)
  // biome-ignore format: one rule a line
  const rows: Row<Alias>[] = [
    { wrong: ({ from }) => from.startsWith('/') && `${from} is a pattern, which belongs into ${CAUGHT}; here it is no address`, fix: null },
    { wrong: ({ to }) => { const word = to.find((one) => (!one.includes('@') && one !== 'catchall') || one.endsWith(';')); return word && `"${word}" is no address, and what goes there ends in the catchall`  }, fix: null },
    { wrong: ({ from }) => from.endsWith(':') && `${from} ends with a colon, as in aliases(5), and is no address`, fix: (alias) => writeLine(VIRTUAL, alias, alias.text.replace(':', '')) },
    { wrong: ({ to }) => { const target = to.find((one) => one.includes('@') && lookalike(one)); return target && `${target} is one letter or two from a domain with accounts, and is caught; a slip?` }, find: warning, fix: null },
    { wrong: ({ from, to }) => to.length === 0 && `${from} has no target, and Postfix skips the line` },
    { wrong: (alias) => all.some((other) => isBefore(other, alias) && other.from === alias.from) && `${alias.from} stands twice; only one of the lines counts`, find: warning },
    { wrong: (alias) => { const way = reach(alias.from); return !alias.from.startsWith('@') && way.has(alias.from) && !all.some((other) => isBefore(other, alias) && way.has(other.from)) && `${alias.from} leads back to itself by way of others` }, fix: null },
    { wrong: ({ from, to }) => own.includes(from) && !to.includes(from) && `${from} is an account, and this alias takes all its mail away, to ${to.join(', ')}` },
    { wrong: (alias) => alias.from.startsWith('@') && loses(alias) && `${alias.from} takes the mail of the account ${loses(alias)} away as well` },
  ]
  return verdict(judge(VIRTUAL, all, rows), `${all.length} aliases`)
}

/** Foreign addresses that both tables have to catch, whatever the domains of the accounts are called. */
const FOREIGN =
  'someone@foreign.example|root@gmail.com|news@sub.example.co.jp|"a b"@foreign.example|x@localhost.example'.split('|')
/** What leaves mail to the mailboxes, and what to local(8) or to nobody. */
const [OURS, STAYS] = [/^(:|lmtp:)/, /^(:|local:|error:|retry:|lmtp:unix:)/]

/** A pattern table of the configuration folder in a value, and answers of one by which mail does not arrive. */
const OWN_TABLE = /\b((?:pcre|regexp):)\/tmp\/docker-mailserver\/([^\s,}]+)/g
const REFUSAL = /^(REJECT|DEFER|[45]\d\d)\b/i

/** Lines of the transport map that lead out: those above the one that catches everything, outside every "if". */
function waysOut(facts: Facts): (Entry & { result: string })[] {
  let depth = 0
  let isCaught = false
  return facts.entries(MAP).flatMap((entry) => {
    depth += /^if\b/i.test(entry.text) ? 1 : /^endif\b/i.test(entry.text) ? -1 : 0
    const [, pattern, result = ''] = /^(!?\/(?:\\.|[^/])*\/\w*)\s+(.*)$/.exec(entry.text) ?? []
    const isReached = pattern && depth === 0 && !isCaught
    isCaught ||= ['/^/', '/./', '!/^$/'].includes(pattern ?? '')
    return isReached && !STAYS.test(result) ? [{ ...entry, result }] : []
  })
}

/** What Postfix itself answers by the two tables, for foreign addresses, for those that look like our own, and for our own. */
export async function tables(facts: Facts): Promise<Finding[]> {
  facts.needs(CAUGHT, MAP)
  const set = [...facts.mainCf().values()].flatMap(({ value }) => [...value.matchAll(OWN_TABLE)])
  const others = set.map(([, type = '', name = '']) => type + inConfig(name))
  // The other tables are asked with something else than recipients.
  const isForRecipients = (name: string) => {
    const words = `check_recipient_access ${name.replace(inConfig(''), '/tmp/docker-mailserver/')}`
    return [...facts.mainCf().values()].some(({ value }) => value.includes(words))
  }
  const [own, domains] = [addressesOf(facts), domainsOf(facts)]
  const alike = domains.flatMap((domain) => {
    const [noDot, noLastDot] = [domain.replace('.', 'x'), domain.replace(/\.(?=[^.]*$)/, '-')]
    return [`x@sub.${domain}`, `x@not${domain}`, `x@${domain}.example`, `x@${noDot}`, `x@${noLastDot}`]
  })
  const foreign = [...FOREIGN, ...alike].filter((address) => !domains.includes(domainOf(address)))
  const names = [...new Set([`pcre:${CAUGHT}`, `pcre:${MAP}`, ...others])]
  const { answers, said } = await facts.lookUp(names, [...own, ...domains.map(anyAt), ...foreign])
  const caught = (address: string) => answers[0]?.get(address)
  const goes = (address: string) => answers[1]?.get(address) ?? 'default_transport'
  const skipped = said.matchAll(/warning: (?:pcre|regexp) map \S+\/(\S+), line (\d+): (.*)/g)
  const problems = [...skipped].map(([, file = '', line, text]) =>
    warning(`${inConfig(file)} line ${line}: Postfix skips it: ${text}`),
  )
  for (const [index, name] of names.entries()) {
    const answerTo = (address: string) => (isForRecipients(name) && answers[index]?.get(address)) || ''
    const hit = [...own, 'someone@foreign.example'].find((address) => REFUSAL.test(answerTo(address)))
    if (hit) problems.push(failure(`${name.replace(/^\w+:/, '')}: ${hit} gets "${answerTo(hit)}"`))
  }
  const leaving = waysOut(facts)
  for (const way of leaving) {
    const takes = (addresses: string[]) => addresses.some((address) => goes(address) === way.result)
    // Where it takes mail of all the world, ours goes by the next line; where it takes only ours, ":" changes nothing.
    const right = way.text.replace(way.result, takes(own) ? ':' : 'local:')
    const fix = takes(own) && takes(foreign) ? deleteLine(MAP, way) : writeLine(MAP, way, right)
    problems.push(failure(`${placeOf(MAP, way)}: ${way.text}: it sends mail to ${way.result}`, fix))
  }
  const missing = foreign.filter((address) => caught(address) !== CATCHALL)
  if (missing[0]) {
    const to = caught(missing[0])
    const fact = `${to ? `goes to ${to}` : 'is not caught'} (${missing.length} of ${foreign.length} addresses)`
    // Only what looks like an account's domain: a pattern without its dots.
    const find = missing.some((address) => FOREIGN.includes(address)) ? failure : warning
    problems.push(find(`${CAUGHT}: mail to ${missing[0]} ${fact}`))
  }
  // What follows from a line that leads out is told there.
  if (leaving.length > 0) return problems
  const out = foreign.find((address) => !/^(local|error|retry):/.test(goes(address)))
  const hasLast = /^\/\^\/\s+local:/m.test(facts.read(MAP))
  const fix = !hasLast && `Write as the last line of ${MAP}: /^/ local:`
  if (out) problems.push(failure(`${MAP}: no line keeps mail to ${out} here: it goes to ${goes(out)}`, fix))
  const bad = (address: string) => {
    const taken = caught(address) ?? address
    if (taken !== address) return `${CAUGHT}: mail to ${address} goes to ${taken}`
    return OURS.test(goes(address)) ? '' : `${MAP}: mail to ${address} goes to ${goes(address)}, not to its mailbox`
  }
  const taken = own.filter((address) => bad(address))
  const also = taken.length > 1 ? ` (likewise ${taken.slice(1).join(', ')})` : ''
  // What is so for all of a domain is its missing line; what is so for one account is somebody's own.
  if (taken[0]) problems.push(failure(bad(taken[0]) + also, taken.every((one) => bad(anyAt(domainOf(one)))) && repair))
  return verdict(problems, `postmap answers for ${own.length + foreign.length} addresses in both tables`)
}
