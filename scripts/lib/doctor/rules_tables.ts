/** The files of the configuration folder: that they can be read, and what their lines say. To add a rule, add a row. */
import { chownSync, existsSync, readFileSync, realpathSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { CATCHALL } from '../accounts/accounts.ts'
import { nearestOf } from '../cli.ts'
import { ROOT } from '../settings.ts'
import { type Check, EXPLAINS, type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { COMPOSE_FILE, CONFIG, ENV_FILE, type Facts, inConfig, type Line, program } from './facts.ts'
import { deleteLine, restore, writeLine } from './fixes.ts'
import { domainsOf, glued, OWN_FILES } from './rules_postfix.ts'

const ACCOUNTS = inConfig('postfix-accounts.cf')
const VIRTUAL = inConfig('postfix-virtual.cf')
const QUOTAS = inConfig('dovecot-quotas.cf')
const MASTER_USERS = inConfig('dovecot-master-users')
const CAUGHT = 'postfix-regexp.cf'
const MAP = 'postfix-transport_maps'

const files: Check = {
  name: 'files',
  title: 'Every file that belongs to the project is there and can be read',
  run(facts) {
    const explains = [...EXPLAINS.start, 'main-cf', 'compose', 'tables']
    if (!existsSync(join(ROOT, CONFIG))) return [failure(`${CONFIG} is not there`, restore(CONFIG), { explains })]
    const problems = [ENV_FILE, COMPOSE_FILE, ...OWN_FILES.map(inConfig)].flatMap((name) => {
      const [fact, fix] = facts.problem(name) ?? []
      // Two are only for the release that reads them, and the last for Docker.
      const level = /dovecot-2\.4\.cf|user-patches\.sh|docker-compose/.test(name) ? 'warning' : 'failure'
      return fact ? [{ level, evidence: `${name} ${fact}`, fix, explains } as Finding] : []
    })
    return verdict(problems, `${OWN_FILES.length + 2} files`)
  },
}

const lineEnds: Check = {
  name: 'line-ends',
  title: 'Configuration files are UTF-8 without a mark, have LF line ends and end with one',
  run(facts) {
    const named = facts.list().map((name) => [name, facts.read(name) ?? ''] as const)
    const problems = named.flatMap(([name, text]) => {
      const mended = withLineEnds(text)
      if (text === '' || mended === text) return []
      const mend = { mend: () => edit(name, withLineEnds) }
      const [fix, line] = ['npm run doctor -- --fix', text.slice(0, text.indexOf('\r')).split('\n').length]
      // What these read of the file begins or ends with something that nobody sees.
      const explains = [...EXPLAINS.start, ...(READERS.find(([pattern]) => pattern.test(name))?.[1] ?? [])]
      if (text.startsWith('\ufeff'))
        return [failure(`${name} begins with a BOM, which becomes part of its first line`, fix, { ...mend, explains })]
      if (text.includes('\r'))
        return [
          failure(`${name} line ${line} ends with CRLF; a value may get the CR as its last character`, fix, {
            ...mend,
            explains,
          }),
        ]
      return [warning(`${name} has no line end at its end; the next line added is glued to its last one`, fix, mend)]
    })
    return verdict(problems, `${named.length} files`)
  },
}

const READERS: [RegExp, string[]][] = [
  [/\.env$/, ['environment', 'environment-names', 'postmaster', 'compose']],
  [/main\.cf$|master\.cf$/, ['main-cf', 'main-cf-names']],
  [/accounts\.cf$/, ['accounts', 'tables', 'aliases', 'quotas', 'postmaster']],
  [/virtual\.cf$/, ['aliases', 'tables']],
  [/dovecot/, ['dovecot', 'master-user', 'quotas']],
  [/yml$/, ['compose']],
  [/./, ['tables']],
]

function withLineEnds(text: string): string {
  return text === ''
    ? ''
    : `${text
        .replace(/^\ufeff/, '')
        .replace(/\r\n?/g, '\n')
        .replace(/\n$/, '')}\n`
}

/** Changes a file as it is now, one of the configuration folder under its lock. */
async function edit(name: string, change: (text: string) => string): Promise<string> {
  const { CONFIGURATION_LOCK } = await import('../accounts/configuration.ts')
  const { withLock } = await import('../accounts/lock.ts')
  return withLock(CONFIGURATION_LOCK, () => {
    const path = realpathSync(join(ROOT, name))
    const { mode, uid, gid } = statSync(path)
    const text = change(readFileSync(path, 'utf8'))
    writeFileSync(`${path}.tmp`, text, { mode })
    // Run as root, the file stays its owner's.
    chownSync(`${path}.tmp`, uid, gid)
    renameSync(`${path}.tmp`, path)
    return name
  })
}

/** Completes what an interrupted change of accounts has left, or takes it back. */
async function repair(): Promise<string> {
  const { change } = await import('../accounts/configuration.ts')
  const { remainsOf, repaired } = await import('../accounts/changes.ts')
  // Looked for again, under the lock.
  const { remains } = await change((configuration) => {
    const remains = remainsOf(configuration)
    return { configuration: repaired(configuration, remains), remains }
  })
  return remains.map(({ fact }) => fact).join('; ') || 'nothing is left any more'
}

const MEND = 'npm run doctor -- --fix'

const remains: Check = {
  name: 'remains',
  title: 'No change of accounts was interrupted',
  async run() {
    const { readConfiguration } = await import('../accounts/configuration.ts')
    const { remainsOf } = await import('../accounts/changes.ts')
    // The others are what "aliases", "quotas" and "tables" say.
    const left = remainsOf(readConfiguration()).filter(({ file, isLeft }) => isLeft && [MAP, CAUGHT].includes(file))
    return verdict(
      left.map(({ file, line, fact }) => warning(`${inConfig(file)} line ${line}: ${fact}`, MEND, { mend: repair })),
      'none',
    )
  },
}

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
  fix?(address: string, line: number): string
  mend?: (text: string) => string
  explains?: readonly string[]
}
type AccountLine = Line & { address: string; hash: string }
const update = (address: string) => `npm run add-account -- --update ${address}`

// biome-ignore format: one rule a line
const ACCOUNT_ROWS: AccountRow[] = [
  // What stands behind the first "|" may be a password: nothing for a screen.
  { wrong: (address, hash) => !/^[^\s@:|]+@[^\s@:|]+$/.test(address) && `"${address.slice(0, hash ? undefined : address.search(/[:\s]|$/))}" is no address, and the line no account`, fix: (_, line) => deleteLine(ACCOUNTS, line), explains: ['start', 'live'] },
  { wrong: (address, hash) => hash === '' && `${address} has no password`, fix: update, explains: ['start', 'live'] },
  { wrong: (address, hash) => !/^\{[\w.-]+\}|^\$\d/.test(hash) && `the password of ${address} is no hash with its {SCHEME}; without the line: npm run add-account -- ${address}`, fix: (_, line) => deleteLine(ACCOUNTS, line), explains: EXPLAINS.start },
  { wrong: (address, _, { line }, all) => all.find((other) => other.address.toLowerCase() === address.toLowerCase() && other.line < line) && `${address} stands twice, before in line ${all.find((other) => other.address.toLowerCase() === address.toLowerCase())?.line}`, fix: (_, line) => deleteLine(ACCOUNTS, line), explains: ['live', 'logins', 'start'] },
  { wrong: (address) => address !== address.toLowerCase() && `${address} has a capital letter, and Dovecot looks logins up in lower case`, fix: () => 'npm run doctor -- --fix', mend: (text) => text.replace(/^[^#|\n]+\|/gm, (address) => address.toLowerCase()), explains: ['live', 'logins', 'tables'] },
  { wrong: (address, hash) => badHash(address, hash), fix: update, explains: ['logins', 'mail-virtual', 'mail-foreign'] },
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

function accountLines(facts: Facts): AccountLine[] {
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
            fix: fix?.(account.address, account.line),
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
      .filter((address) => address.includes('@'))
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

/** Settings of Dovecot that the project's files, or a user's lines in them, have to get right. */
const DOVECOT: [name: string, right: RegExp, why: string, explains?: readonly string[]][] = [
  ['ssl', /^(yes|no)$/, 'logins without TLS are refused', EXPLAINS.answers],
  ['disable_plaintext_auth', /^no$/, 'logins without TLS are refused', EXPLAINS.answers],
  ['auth_allow_cleartext', /^yes$/, 'logins without TLS are refused', EXPLAINS.answers],
  ['auth_mechanisms', /\bplain\b/i, 'nobody can log in with a password as it is', EXPLAINS.answers],
  ['auth_master_user_separator', /^\*$/, 'the scripts log in as the master user by it', EXPLAINS.answers],
  ['submission_host', /^$|^(127\.|localhost|\[?::1)/, 'Dovecot hands mail to another machine'],
  ['lmtp_proxy', /^no$/, 'Dovecot hands mail to another machine'],
  ['mail_max_userip_connections', /^(0|\d{2,})$/, 'a few clients at once are too many'],
  ['protocols', /\blmtp\b/, 'Dovecot takes no mail from Postfix', EXPLAINS.answers],
  ['mail_(location|path|driver)', /^$/, 'mail lies elsewhere than the engine thinks', EXPLAINS.mail],
  ['mail_(uid|gid)', /^(5000|docker|vmail)$/, 'the mail folder belongs to 5000', EXPLAINS.mail],
  ['listen', /^$/, 'Dovecot does not listen where the ports lead', EXPLAINS.answers],
  [
    '(quota_rule|quota_storage_size|quota_max_mail_size|quota_mail_size)',
    /^(?!\D*[0-9]{1,4}[bk]?$)/i,
    'mailboxes are full after a mail or two',
  ],
]

const dovecot: Check = {
  name: 'dovecot',
  title: 'Dovecot reads its settings, and lets every client in',
  async run(facts) {
    const problems: Finding[] = []
    for (const [name, minor] of [
      ['dovecot.cf', '2.3'],
      ['dovecot-2.4.cf', '2.4'],
    ] as const) {
      const file = inConfig(name)
      const text = facts.read(file) ?? ''
      for (const [index, line] of text.split('\n').entries()) {
        const [, key = '', value = ''] = /^\s*(\w+)\s*=\s*(.*?)\s*$/.exec(line) ?? []
        const row = key && DOVECOT.find(([wanted, right]) => new RegExp(`^${wanted}$`).test(key) && !right.test(value))
        if (row)
          problems.push({
            level: 'failure',
            evidence: `${file} line ${index + 1}: ${key} = ${value}: ${row[2]}`,
            fix: deleteLine(file, index + 1),
            ...(row[3] ? { explains: row[3] } : {}),
          })
      }
      // The installed Dovecot knows which settings there are; its own version's file alone.
      const { engine } = await facts.choice()
      if (engine?.name !== 'native' || (await facts.refusal()) === undefined) continue
      const version = await program(['dovecot', '--version'])
      if (!version.stdout.startsWith(minor) || text === '') continue
      const tried = await program(['doveconf', '-c', join(ROOT, file), 'protocols'])
      const [, at, said] = /(?:line|:) ?(\d+): (.*)/.exec(tried.stderr) ?? []
      if (tried.exitCode !== 0)
        problems.push(
          failure(
            `${file}${at ? ` line ${at}` : ''}: ${said ?? tried.stderr.trim()}`,
            at && /Unknown setting/.test(tried.stderr) ? deleteLine(file, Number(at)) : undefined,
            { explains: EXPLAINS.start },
          ),
        )
    }
    return verdict(problems, `${DOVECOT.length} rules`)
  },
}

export const tableChecks: Check[] = [files, lineEnds, accounts, aliases, quotas, masterUsers, tables, remains, dovecot]
