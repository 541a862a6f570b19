import { nearestOf } from '../cli.ts'
import { type Check, EXPLAINS, verdict, warning } from './check.ts'
import { type Facts, inConfig, type Line } from './facts.ts'
import { deleteLine, writeLine } from './fixes.ts'
import { accountLines } from './rules_accounts.ts'
import { VIRTUAL } from './rules_files.ts'
import { domainsOf, glued } from './rules_postfix.ts'

interface Alias extends Line {
  from: string
  to: string[]
}

function aliasLines(facts: Facts): Alias[] {
  return facts.lines(VIRTUAL).map((line) => {
    const [from = '', ...to] = line.text.split(/[\s,]+/).filter((word) => word !== '')
    return { ...line, from: from.toLowerCase(), to: to.map((word) => word.toLowerCase()) }
  })
}

/** What an alias has to be. `known`: whether an address has a mailbox; `next`: where an address's mail goes by the aliases. */
interface AliasRow {
  wrong(
    alias: Alias,
    of: {
      known(address: string): boolean
      next(address: string): string[]
      all: Alias[]
      accounts: string[]
      domains: string[]
    },
  ): string | false | undefined
  level?: 'warning'
  fix?(alias: Alias): string
  explains?: readonly string[]
}

// biome-ignore format: one rule a line
const ALIAS_ROWS: AliasRow[] = [
  { wrong: ({ from }) => from.endsWith(':') && `${from} ends with a colon, as in aliases(5), and is no address`, fix: (alias) => writeLine(VIRTUAL, alias, alias.text.replace(':', '')) },
  { wrong: ({ from, to }, { known, domains }) => to.includes(from) && !from.startsWith('@') && domains.includes(from.replace(/.*@/, '')) && !known(from) && `${from} leads to itself and is no account`, fix: (alias) => deleteLine(VIRTUAL, alias) },
  { wrong: ({ to }, { domains }) => { const slip = to.find((target) => target.includes('@') && !domains.includes(target.replace(/.*@/, '')) && nearestOf(target.replace(/.*@/, ''), domains, 2)); return slip && `${slip} is one letter or two from a domain with accounts, and is caught; a slip?` }, level: 'warning' },
  { wrong: ({ to, from }) => to.length === 0 && `${from} has no target, and Postfix skips the line`, fix: (alias) => deleteLine(VIRTUAL, alias) },
  { wrong: ({ from, line }, { all }) => all.find((other) => other.from === from && other.line < line) && `${from} stands twice; only one of the lines counts`, level: 'warning', fix: (alias) => deleteLine(VIRTUAL, alias) },
  { wrong: ({ from, line }, { next, all }) => { const way = loops(from, next); return way && !all.some((other) => other.line < line && way.includes(other.from)) && `${from} leads back to itself by ${way.join(', ')}` }, explains: EXPLAINS.mail },
  { wrong: ({ from, to }, { accounts }) => accounts.includes(from) && !to.includes(from) && `${from} is an account, and this alias takes all its mail away, to ${to.join(', ')}`, fix: (alias) => deleteLine(VIRTUAL, alias), explains: EXPLAINS.mail },
  { wrong: ({ from, to }, { accounts, all }) => from.startsWith('@') && swallowed(from, to, accounts, all) && `${from} takes the mail of the account ${swallowed(from, to, accounts, all)} away as well`, fix: (alias) => deleteLine(VIRTUAL, alias), explains: EXPLAINS.mail },
  { wrong: ({ to }, { known, next, domains }) => { const lost = to.find((target) => target.includes('@') && domains.includes(target.replace(/.*@/, '')) && !known(target) && next(target).length === 0); return lost && `${lost} is no account, and mail to it bounces` }, fix: (alias) => deleteLine(VIRTUAL, alias) },
  { wrong: ({ to }) => to.find((target) => /[|"]|^\/|:include:/.test(target)) && 'Postfix takes no program or file here' , fix: (alias) => deleteLine(VIRTUAL, alias) },
]

const plain = (address: string) => address.replace(/\+[^@]*@/, '@')

/** The way back to an address, where there is one. */
function loops(from: string, next: (address: string) => string[]): string[] | undefined {
  const seen = new Set<string>()
  const walk = (address: string, way: string[]): string[] | undefined => {
    for (const target of next(address)) {
      // An alias that has itself among its targets keeps that one (virtual(5)), and ends there.
      if (target === from && way.length > 0) return way
      if (target === address || seen.has(target)) continue
      seen.add(target)
      const found = walk(target, [...way, target])
      if (found) return found
    }
    return undefined
  }
  return from.startsWith('@') ? undefined : walk(from, [])
}

function swallowed(from: string, to: string[], accounts: string[], all: Alias[]): string | undefined {
  return accounts.find(
    (account) => account.endsWith(from) && !to.includes(account) && !all.some((other) => other.from === account),
  )
}

const aliases: Check = {
  name: 'aliases',
  title: 'Every alias ends in a mailbox, and none takes the mail of an account away',
  run(facts) {
    const all = aliasLines(facts)
    const own = accountLines(facts).map(({ address }) => address.toLowerCase())
    const next = (address: string) => {
      const found =
        all.find(({ from }) => from === address) ??
        all.find(({ from }) => from === plain(address)) ??
        all.find(({ from }) => from === address.replace(/.*@/, '@'))
      return found?.to ?? []
    }
    const of = {
      known: (address: string) => own.includes(plain(address)),
      next,
      all,
      accounts: own,
      domains: domainsOf(facts),
    }
    const problems = glued(facts, VIRTUAL, /^[ \t]+\S*@\S+[ \t]+\S*@\S+/)
    for (const alias of all) {
      const row = ALIAS_ROWS.find(({ wrong }) => wrong(alias, of))
      if (!row || problems.some(({ evidence }) => evidence.includes('begins with a space'))) continue
      const { level = 'failure', fix, explains } = row
      problems.push({
        level,
        evidence: `${VIRTUAL} line ${alias.line}: ${row.wrong(alias, of)}`,
        fix: fix?.(alias),
        ...(explains ? { explains } : {}),
      })
    }
    const local = inConfig('postfix-aliases.cf')
    for (const at of facts.lines(local)) {
      const { text, line } = at
      const program = /[:,\s]"?(\|[^",]*|\/[^",\s]*|:include:[^",\s]*)/.exec(text)?.[1]
      if (program) problems.push(warning(`${local} line ${line}: mail goes to ${program}`, deleteLine(local, at)))
    }
    return verdict(problems, `${all.length} aliases`)
  },
}

export const aliasChecks: Check[] = [aliases]
