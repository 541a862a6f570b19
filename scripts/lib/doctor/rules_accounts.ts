import { CATCHALL } from '../accounts/accounts.ts'
import { nearestOf } from '../cli.ts'
import { type Check, EXPLAINS, type Finding, failure, Skipped, verdict, warning } from './check.ts'
import type { Facts, Line } from './facts.ts'
import { deleteLine, restore, writeLine } from './fixes.ts'
import { ACCOUNTS, edit, MASTER_USERS, MEND, QUOTAS } from './rules_files.ts'

/** The password schemes of Dovecot (`doveadm pw -l`), and what the value of the usual ones looks like. */
const SCHEMES =
  `SHA1 SSHA512 SCRAM-SHA-256 BLF-CRYPT PLAIN HMAC-MD5 OTP SHA512 SHA RPA DES-CRYPT CRYPT SSHA MD5-CRYPT SKEY PLAIN-MD4
  PLAIN-MD5 SCRAM-SHA-1 LANMAN SHA512-CRYPT CLEAR CLEARTEXT ARGON2I ARGON2ID SSHA256 NTLM MD5 PBKDF2 SHA256 CRAM-MD5 PLAIN-TRUNC
  SHA256-CRYPT SMD5 DIGEST-MD5 LDAP-MD5`.split(/\s+/)
const HASHES: Record<string, RegExp> = {
  'SHA512-CRYPT': /^\$6\$(rounds=\d+\$)?[^$:\s]{0,16}\$[./0-9A-Za-z]{86}$/,
  'SHA256-CRYPT': /^\$5\$(rounds=\d+\$)?[^$:\s]{0,16}\$[./0-9A-Za-z]{43}$/,
  'MD5-CRYPT': /^\$1\$[^$:\s]{0,8}\$[./0-9A-Za-z]{22}$/,
  'BLF-CRYPT': /^\$2[abxy]\$\d\d\$[./0-9A-Za-z]{53}$/,
}

/** What a line of postfix-accounts.cf has to be. The first row that says something is the one that counts. */
interface AccountRow {
  wrong(address: string, hash: string, line: Line, all: AccountLine[]): string | false | undefined
  level?: 'warning'
  fix?(address: string, line: number, text: string): string | undefined
  mend?: (text: string) => string
  explains?: readonly string[]
}
type AccountLine = Line & { address: string; hash: string }
const update = (address: string) => `npm run add-account -- --update ${address}`

// biome-ignore format: one rule a line
const ACCOUNT_ROWS: AccountRow[] = [
  { wrong: (address, _, { text }) => /^\s|[ \t]$/.test(text) && `a space begins or ends the line of ${address.trim().split(/[:\s]/)[0]}`, fix: () => MEND, mend: (text) => text.replace(/^[ \t]+(?=[^\s#])|[ \t]+$/gm, ''), explains: ['start', 'live', 'tables', 'aliases', 'quotas', 'main-cf'] },
  // What stands behind the first "|" may be a password: nothing for a screen.
  { wrong: (address, hash) => !/^[^\s@:|]+@[^\s@:|]+$/.test(address) && `"${address.slice(0, hash ? undefined : address.search(/[:\s]|$/))}" is no address, and the line no account`, fix: (_, line, text) => (/[|{]/.test(text) ? undefined : deleteLine(ACCOUNTS, line)), explains: EXPLAINS.start },
  { wrong: (address) => /[^\x21-\x7e]/.test(address) && `${address} has letters that no mail address has here (SMTPUTF8 is off)`, fix: (_, line) => deleteLine(ACCOUNTS, line), explains: EXPLAINS.start },
  { wrong: (address, hash) => hash === '' && `${address} has no password`, fix: update, explains: ['start', 'live'] },
  { wrong: (address, hash) => !/^\{[\w.-]+\}|^\$\d/.test(hash) && `the password of ${address} is no hash with its {SCHEME}; without the line: npm run add-account -- ${address}`, fix: (_, line) => deleteLine(ACCOUNTS, line), explains: EXPLAINS.start },
  { wrong: (address, _, { line }, all) => all.find((other) => other.address.toLowerCase() === address.toLowerCase() && other.line < line) && `${address} stands twice, before in line ${all.find((other) => other.address.toLowerCase() === address.toLowerCase())?.line}`, fix: (_, line) => deleteLine(ACCOUNTS, line), explains: ['live', 'logins', 'start'] },
  { wrong: (address) => address !== address.toLowerCase() && `${address} has a capital letter, and Dovecot looks logins up in lower case`, fix: () => 'npm run doctor -- --fix', mend: (text) => text.replace(/^[^#|\n]+\|/gm, (address) => address.toLowerCase()), explains: ['live', 'logins', 'tables'] },
  { wrong: (address, hash) => badHash(address, hash), fix: update, explains: EXPLAINS.start },
  { wrong: (address, _, __, all) => lookalike(address, all), level: 'warning' },
]

function badHash(address: string, hash: string): string | false | undefined {
  const [, scheme = 'SHA512-CRYPT', value = ''] = /^(?:\{([^}]*)\})?(.*)$/.exec(hash) ?? []
  const name = scheme.toUpperCase().replace(/\.(B64|BASE64|HEX)$/, '')
  if (!SCHEMES.includes(name))
    return `the password of ${address} has the scheme {${scheme}}, which Dovecot does not know`
  if (value === '') return `${address} has no password behind {${scheme}}`
  return (
    name === scheme.toUpperCase() &&
    HASHES[name] &&
    !HASHES[name].test(value) &&
    `the password of ${address} is no whole {${scheme}} hash`
  )
}

/** A domain with one account that is nearly the domain of several: a slip makes a typo a real domain. */
function lookalike(address: string, all: AccountLine[]): string | undefined {
  const count = (domain: string) => all.filter((other) => other.address.endsWith(`@${domain}`)).length
  const domain = address.replace(/.*@/, '')
  const others = [...new Set(all.map((other) => other.address.replace(/.*@/, '')))].filter(
    (other) => other !== domain && count(other) > 1,
  )
  const near = count(domain) === 1 && address !== CATCHALL ? nearestOf(domain, others, 2) : undefined
  return near && `the domain of ${address} is one letter or two from ${near}; a slip?`
}

export function accountLines(facts: Facts): AccountLine[] {
  // Not logical lines: Dovecot knows no continuation.
  return (facts.read(ACCOUNTS) ?? '').split(/\r?\n/).flatMap((text, index) => {
    if (/^\s*(#|$)/.test(text)) return []
    const [address = '', hash = ''] = text.split('|')
    return [{ text, line: index + 1, end: index + 1, address, hash }]
  })
}

const accounts: Check = {
  name: 'accounts',
  title: 'Every line of postfix-accounts.cf is an account, and the catchall is among them',
  run(facts) {
    if (facts.read(ACCOUNTS) === undefined) throw new Skipped('postfix-accounts.cf cannot be read, see "files"')
    const all = accountLines(facts)
    const problems = all.flatMap((account): Finding[] => {
      for (const { wrong, level = 'failure', fix, mend, explains } of ACCOUNT_ROWS) {
        const said = wrong(account.address, account.hash, account, all)
        if (!said) continue
        const evidence = `${ACCOUNTS} line ${account.line}: ${said}`
        return [
          {
            level,
            evidence,
            fix: fix?.(account.address, account.line, account.text),
            ...(mend ? { mend: () => edit(ACCOUNTS, mend) } : {}),
            ...(explains ? { explains } : {}),
          },
        ]
      }
      return []
    })
    if (!all.some(({ address }) => address.toLowerCase() === CATCHALL)) {
      const what =
        all.length === 0
          ? 'no account, and docker-mailserver does not start without one'
          : `no account ${CATCHALL}, and foreign mail has nowhere to go`
      problems.push(
        failure(`${ACCOUNTS} has ${what}`, `npm run add-account -- ${CATCHALL} catchall`, {
          explains: [...EXPLAINS.mail, 'tables', 'postmaster', 'logins', 'live', 'main-cf'],
        }),
      )
    }
    return verdict(problems, `${all.length} accounts`)
  },
}

const quotas: Check = {
  name: 'quotas',
  title: 'Every quota is a size and belongs to an account',
  run(facts) {
    const known = [CATCHALL, ...accountLines(facts).map(({ address }) => address.toLowerCase())]
    const lines = (facts.read(QUOTAS) ?? '')
      .split(/\r?\n/)
      .map((text, index) => ({ text, line: index + 1 }))
      .filter(({ text }) => !/^\s*(#|$)/.test(text))
    const problems = lines.flatMap(({ text, line }) => {
      const [, address = '', size = ''] = /^([^:]*):(.*)$/.exec(text.replace(/\s/g, '')) ?? []
      const is = `${QUOTAS} line ${line}`
      if (!known.includes(address.toLowerCase()))
        return [warning(`${is}: there is no account ${address || `"${text}"`}`, deleteLine(QUOTAS, line))]
      if (lines.some((other) => other.line < line && other.text.replace(/\s/g, '').split(':')[0] === address))
        return [warning(`${is}: ${address} has a quota above, which counts`, deleteLine(QUOTAS, line))]
      if (!/^\d+[bkmgt]?$/i.test(size))
        return [
          failure(`${is}: "${size}" is no size like 10M`, deleteLine(QUOTAS, line), { explains: ['live', 'start'] }),
        ]
      if (address.toLowerCase() === CATCHALL && !/^0/.test(size))
        return [
          warning(
            `${is}: the catchall has a limit, and what is beyond it has no other place`,
            writeLine(QUOTAS, line, `${CATCHALL}:0`),
          ),
        ]
      const bytes =
        Number.parseInt(size, 10) * 1024 ** ' kmgt'.indexOf(/[kmgt]$/i.exec(size)?.[0]?.toLowerCase() ?? ' ')
      if (bytes > 0 && bytes < 10_000) return [warning(`${is}: ${size} is full after a mail or two`)]
      return []
    })
    return verdict(problems, lines.length === 0 ? 'none' : `${lines.length} quotas`)
  },
}

const masterUsers: Check = {
  name: 'master-user',
  title: 'The master user opens every mailbox',
  run(facts) {
    const text = facts.read(MASTER_USERS)
    if (text === undefined) throw new Skipped('dovecot-master-users cannot be read, see "files"')
    if (/^[^#:\s]+:\{PLAIN\}[^:\s]+/m.test(text)) return verdict([], 'one')
    return [
      failure(`${MASTER_USERS} has no line user:{PLAIN}password`, restore(MASTER_USERS), {
        explains: [...EXPLAINS.answers],
      }),
    ]
  },
}

export const accountChecks: Check[] = [accounts, quotas, masterUsers]
