import { CATCHALL } from '../accounts/accounts.ts'
import { type Check, EXPLAINS, type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { type Facts, inConfig, type Line } from './facts.ts'
import { writeLine } from './fixes.ts'
import { accountLines } from './rules_accounts.ts'
import { CAUGHT, MAP, MEND, repair } from './rules_files.ts'
import { domainsOf, glued } from './rules_postfix.ts'

/** Addresses and what the two pattern tables have to answer for each. */
const FOREIGN = [
  'someone@foreign.example',
  'root@gmail.com',
  'news@sub.example.co.jp',
  '"a b"@foreign.example',
  'x@localhost.example',
]

const tables: Check = {
  name: 'tables',
  title: 'The pattern tables catch foreign mail, and leave every account its own',
  async run(facts) {
    if (facts.read(inConfig(CAUGHT)) === undefined || facts.read(inConfig(MAP)) === undefined)
      throw new Skipped('a table cannot be read, see "files"')
    const own = accountLines(facts)
      .map(({ address }) => address.toLowerCase())
      .filter((address) => /^[^\s@:|]+@[^\s@:|]+$/.test(address))
    const domains = domainsOf(facts)
    const alike = domains.flatMap((domain) => [
      `x@sub.${domain}`,
      `x@not${domain}`,
      `x@${domain}.example`,
      `x@${domain.replace('.', 'x')}`,
      `x@${domain.replace(/\.(?=[^.]*$)/, '-')}`,
    ])
    const foreign = [...FOREIGN, ...alike].filter((address) => !domains.includes(address.replace(/.*@/, '')))
    const witnesses = witnessesOf(facts)
    const [caught, routed] = await Promise.all([
      facts.lookUp('pcre', CAUGHT, [...own, ...foreign]),
      facts.lookUp('pcre', MAP, [...own, ...foreign, ...witnesses.map(({ address }) => address)]),
    ])
    const problems: Finding[] = []
    for (const [name, said] of [
      [CAUGHT, caught.said],
      [MAP, routed.said],
    ] as const) {
      for (const [, line = '0', text = ''] of said.matchAll(/warning: pcre map \S+, line (\d+): (.*)/g)) {
        problems.push(
          warning(`${inConfig(name)} line ${line}: Postfix skips it: ${text}`, undefined, { explains: ['start'] }),
        )
      }
    }
    const glue = [CAUGHT, MAP].flatMap((name) => glued(facts, inConfig(name), /^\s+!?\/\S+\/\w*\s+\S/))
    if (glue.length > 0) return glue
    const leaving = witnesses.find(({ address, result }) => routed.answers.get(address) === result)
    if (leaving)
      problems.push(
        failure(
          `${inConfig(MAP)} line ${leaving.line} sends ${leaving.address} to ${leaving.result}`,
          writeLine(inConfig(MAP), leaving, leaving.text.replace(leaving.result, 'local:')),
        ),
      )
    const missing = foreign.filter((address) => caught.answers.get(address) !== CATCHALL)
    if (missing[0]) {
      const all = missing.length === foreign.length || missing.some((address) => FOREIGN.includes(address))
      const goes = caught.answers.get(missing[0])
      const evidence = `${inConfig(CAUGHT)}: mail to ${missing[0]} ${goes ? `goes to ${goes}` : 'is not caught'} (${missing.length} of ${foreign.length} addresses)`
      problems.push({ level: all ? 'failure' : 'warning', evidence, ...(all ? { explains: EXPLAINS.mail } : {}) })
    }
    const out = foreign.find(
      (address) => !/^(local|error|retry):/.test(routed.answers.get(address) ?? '') && address !== leaving?.address,
    )
    if (out && !leaving) {
      const isLast = !/^\/\^\/\s+local:/m.test(facts.read(inConfig(MAP)) ?? '')
      const fix = isLast ? `Write as the last line of ${inConfig(MAP)}: /^/ local:` : undefined
      problems.push(
        failure(
          `${inConfig(MAP)}: mail to ${out} ${routed.answers.has(out) ? `goes to ${routed.answers.get(out)}` : 'has no line'}; only default_transport keeps it here`,
          fix,
        ),
      )
    }
    for (const domain of domains) {
      const address = own.find((candidate) => candidate.endsWith(`@${domain}`)) ?? ''
      const route = routed.answers.get(address) ?? ''
      const taken = caught.answers.get(address)
      if (taken && taken !== address) {
        problems.push(
          failure(`${inConfig(CAUGHT)}: mail to ${address} goes to ${taken}: ${domain} has no exception`, MEND, {
            explains: EXPLAINS.mail,
            mend: repair,
          }),
        )
      } else if (!/^(:|lmtp:|virtual:)/.test(route)) {
        problems.push(
          failure(
            `${inConfig(MAP)}: mail to ${address} goes to ${route || 'default_transport'}, not to its mailbox`,
            MEND,
            { explains: EXPLAINS.mail, mend: repair },
          ),
        )
      }
    }
    return verdict(problems, `postmap answers for ${own.length + foreign.length} addresses in both tables`)
  },
}

/** Lines of the transport map that lead out, each with an address that its pattern is made for. */
function witnessesOf(facts: Facts): (Line & { address: string; result: string })[] {
  return facts.lines(inConfig(MAP)).flatMap((line) => {
    const [, pattern = '', result = ''] = /^\/((?:\\.|[^/])+)\/\w*\s+(.*)$/.exec(line.text) ?? []
    if (result === '' || /^(:|local:|error:|retry:|virtual:|lmtp:unix:)/.test(result)) return []
    // The shortest word that the pattern may mean: of alternatives the first, of what may be missing nothing.
    const word = pattern
      .replace(/\(\?[:=!<]+[^)]*\)/g, '')
      .replace(/\(([^)|]*)[^)]*\)/g, '$1')
      .replace(/\\([.@+-])/g, '\x00$1')
      .replace(/(?<!\x00)\.[*+?]?|\[[^\]]*\][*+?]?|\\[wd][*+?]?/g, 'x')
      .replace(/[\^$*+?]/g, '')
      .replaceAll('\x00', '')
    const at = word.includes('@') ? (word.startsWith('@') ? `someone${word}` : word) : `someone@x${word}`
    return [{ ...line, result, address: at.endsWith('@') ? `${at}foreign.example` : at }]
  })
}

export const tableChecks: Check[] = [tables]
