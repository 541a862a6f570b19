/** The files of the configuration folder, and what Postfix makes of them before it ever runs. */
import { CATCHALL } from '../accounts/accounts.ts'
import { type Check, CONFIG, type Finding, failure, Skipped, verdict, warning } from './check.ts'
import {
  ACCOUNTS,
  accountLines,
  configuredRouting,
  IN_CONTAINER,
  MAIN_CF,
  QUOTAS,
  TRANSPORT_MAP,
  tableFile,
  VIRTUAL,
} from './files.ts'
import { domainOf, listOf, logicalLines, parseIndexed, parseMainCf, parseRegexpTable, routerOf } from './routing.ts'

/** The password schemes of Dovecot 2.3 (`doveadm pw -l`), and what the value of the usual ones looks like. */
const SCHEMES = new Set(
  `SHA1 SSHA512 SCRAM-SHA-256 BLF-CRYPT PLAIN HMAC-MD5 OTP SHA512 SHA RPA DES-CRYPT CRYPT SSHA MD5-CRYPT SKEY PLAIN-MD4
  PLAIN-MD5 SCRAM-SHA-1 LANMAN SHA512-CRYPT CLEAR CLEARTEXT ARGON2I ARGON2ID SSHA256 NTLM MD5 PBKDF2 SHA256 CRAM-MD5
  PLAIN-TRUNC SHA256-CRYPT SMD5 DIGEST-MD5 LDAP-MD5`.split(/\s+/),
)
const HASHES: Record<string, RegExp> = {
  'SHA512-CRYPT': /^\$6\$(rounds=\d+\$)?[^$:\s]{0,16}\$[./0-9A-Za-z]{86}$/,
  'SHA256-CRYPT': /^\$5\$(rounds=\d+\$)?[^$:\s]{0,16}\$[./0-9A-Za-z]{43}$/,
  'MD5-CRYPT': /^\$1\$[^$:\s]{0,8}\$[./0-9A-Za-z]{22}$/,
  'BLF-CRYPT': /^\$2[abxy]\$\d\d\$[./0-9A-Za-z]{53}$/,
}

const lineEnds: Check = {
  name: 'line-ends',
  title: 'Configuration files have LF line ends and end with one',
  run({ files }) {
    const problems: Finding[] = []
    for (const name of files.list()) {
      const text = files.read(name) ?? ''
      if (text === '' || text.includes('\0')) continue
      const mended = withLineEnds(text)
      const mend = async () => {
        await files.edit(name, withLineEnds)
        return `${name}: LF line ends, the last one included`
      }
      const fix = 'npm run doctor -- --fix'
      if (text.includes('\r')) {
        const line = text.slice(0, text.indexOf('\r')).split('\n').length
        problems.push(
          failure(`${name} line ${line} ends with CRLF; a value may get the CR as its last character`, fix, mend),
        )
      } else if (mended !== text) {
        problems.push(
          warning(`${name} has no line end at its end; the next line added is glued to its last one`, fix, mend),
        )
      }
    }
    return verdict(problems, `${files.list().length} files`)
  },
}

function withLineEnds(text: string): string {
  return `${text.replace(/\r\n?/g, '\n').replace(/\n$/, '')}\n`
}

const accounts: Check = {
  name: 'accounts',
  title: 'Every line of postfix-accounts.cf is an account, and each address has one',
  run({ files }) {
    if (files.read(ACCOUNTS) === undefined) {
      return [failure(`${ACCOUNTS} is not there`, `git checkout -- ${ACCOUNTS}`)]
    }
    const { accounts: found, broken } = accountLines(files)
    const problems = broken.map(({ line, text }) =>
      failure(
        `${ACCOUNTS} line ${line}: "${text}" is no account`,
        `Write line ${line} as address|{SCHEME}hash, or delete it`,
      ),
    )
    if (found.length === 0) {
      const add = `npm run add-account -- ${CATCHALL} catchall`
      problems.push(failure(`${ACCOUNTS} has no account; docker-mailserver does not start without one`, add))
    }
    const lines = new Map<string, number>()
    for (const { address, line } of found) {
      const first = lines.get(address)
      if (first === undefined) lines.set(address, line)
      else
        problems.push(
          failure(`${address} stands twice, in lines ${first} and ${line}`, `Delete line ${line} of ${ACCOUNTS}`),
        )
    }
    return verdict(problems, `accounts: ${found.length}`)
  },
}

const accountCase: Check = {
  name: 'account-case',
  title: 'Addresses of accounts are in lower case',
  run({ files }) {
    const capital = accountLines(files).accounts.filter(({ address }) => address !== address.toLowerCase())
    if (capital.length === 0) return verdict([], 'no capital letters')
    const names = capital.map(({ address, line }) => `${address} (line ${line})`).join(', ')
    const lower = new Set(capital.map(({ address }) => address.toLowerCase()))
    const known = new Set(accountLines(files).accounts.map(({ address }) => address))
    const clash =
      [...lower].find((address) => known.has(address)) ?? (lower.size < capital.length ? [...lower][0] : undefined)
    if (clash)
      return [failure(`${ACCOUNTS}: ${names}; ${clash} is there as well`, `Delete one line of the two: ${clash}`)]
    const mend = async () => {
      await files.edit(ACCOUNTS, (text) => text.replace(/^[^#|\n]+\|/gm, (address) => address.toLowerCase()))
      return `${ACCOUNTS}: ${[...lower].join(', ')}`
    }
    const why = 'Dovecot looks logins up in lower case and does not find them'
    return [failure(`${ACCOUNTS}: ${names}: ${why}`, 'npm run doctor -- --fix', mend)]
  },
}

const accountHashes: Check = {
  name: 'account-hashes',
  title: 'Dovecot can read every password hash',
  run({ files }) {
    const problems = accountLines(files).accounts.flatMap(({ address, hash, line }) => {
      // Without a scheme docker-mailserver's default applies.
      const [, scheme = 'SHA512-CRYPT', value = ''] = /^(?:\{([^}]*)\})?(.*)$/.exec(hash) ?? []
      const name = scheme.toUpperCase().replace(/\.(B64|BASE64|HEX)$/, '')
      const isKnown = SCHEMES.has(name)
      if (isKnown && (HASHES[name] === undefined || name !== scheme.toUpperCase() || HASHES[name].test(value)))
        return []
      const why = isKnown ? `is no whole {${scheme}} hash` : `has the scheme {${scheme}}, which Dovecot does not know`
      const fix = `npm run add-account -- --update ${address}`
      return [failure(`${ACCOUNTS} line ${line}: the password of ${address} ${why}`, fix)]
    })
    return verdict(problems, 'schemes and lengths are right')
  },
}

const catchall: Check = {
  name: 'catchall',
  title: 'The catchall account is there and gets foreign mail',
  run({ files }) {
    const problems: Finding[] = []
    if (accountLines(files).accounts.length === 0) throw new Skipped('there is no account at all, see "accounts"')
    if (!accountLines(files).accounts.some(({ address }) => address.toLowerCase() === CATCHALL)) {
      const fix = `npm run add-account -- ${CATCHALL} catchall`
      problems.push(failure(`${ACCOUNTS} has no account ${CATCHALL}; foreign mail has nowhere to go`, fix))
    }
    const { parameter } = configuredRouting(files)
    const wanted: Record<string, [(value: string) => boolean, string]> = {
      luser_relay: [(value) => value === 'catchall' || value === CATCHALL, CATCHALL],
      local_recipient_maps: [(value) => value === '', ''],
      alias_maps: [
        (value) => listOf(value).some((table) => table === 'static:catchall' || table === `static:${CATCHALL}`),
        `hash:/etc/aliases, static:${CATCHALL}`,
      ],
      owner_request_special: [(value) => value === 'no', 'no'],
    }
    const main = parseMainCf(files.read(MAIN_CF) ?? '')
    for (const [name, [isRight, value]] of Object.entries(wanted)) {
      if (main.has(name) && isRight(parameter(name))) continue
      const is = main.has(name) ? `${name} = ${parameter(name)}` : `${name} is not set`
      problems.push(
        failure(
          `${MAIN_CF}: ${is}; foreign mail is lost or refused`,
          `Write into ${MAIN_CF}: ${name} = ${value}`.trim(),
        ),
      )
    }
    return verdict(problems, CATCHALL)
  },
}

const transportMap: Check = {
  name: 'transport-map',
  title: 'The transport map can be read, and gives every account its own mailbox',
  run({ files }) {
    const routing = configuredRouting(files)
    const problems: Finding[] = []
    for (const table of listOf(routing.parameter('transport_maps'))) {
      const type = table.replace(/^proxy:/, '').split(':')[0] ?? ''
      const name = tableFile(table)?.replace(IN_CONTAINER, CONFIG)
      const isForeign = name !== undefined && !name.startsWith(CONFIG)
      if (isForeign || !/^(pcre|regexp|texthash|hash|static|inline)$/.test(type)) {
        const fix = `Write into ${MAIN_CF}: transport_maps = pcre:${IN_CONTAINER}/postfix-transport_maps`
        problems.push(warning(`${MAIN_CF}: ${table} cannot be judged from the files`, fix))
      } else if (name && name !== TRANSPORT_MAP && files.read(name) === undefined) {
        const fix = `Take ${table} out of transport_maps in ${MAIN_CF}`
        problems.push(failure(`${name} is not there; Postfix defers all mail`, fix))
      }
      if (!/^(pcre|regexp)$/.test(type) || !name) continue
      const { broken, rules } = parseRegexpTable(routing.text(table) ?? '')
      for (const { line, text } of broken) {
        problems.push(
          warning(
            `${name} line ${line}: Postfix skips "${text}"`,
            `Write line ${line} of ${name} as /pattern/ transport:`,
          ),
        )
      }
      for (const { line, source } of rules.filter(({ kind, pattern }) => kind !== 'endif' && !pattern)) {
        problems.push(
          warning(
            `${name} line ${line}: /${source}/ cannot be judged here`,
            `Write line ${line} of ${name} with a simpler pattern`,
          ),
        )
      }
    }
    const routeOf = routerOf(routing)
    for (const { address } of accountLines(files).accounts) {
      const { transport, nexthop, by } = routeOf(address)
      if (by === 'virtual_transport' || transport === 'lmtp') continue
      const pattern = domainOf(address).replaceAll('.', '\\.')
      const fix = `Write in front of the other lines of ${TRANSPORT_MAP}: /@${pattern}$/ :`
      problems.push(failure(`mail to ${address} goes to ${transport}:${nexthop}, not to its mailbox`, fix))
    }
    return verdict(problems, `virtual mailbox domains: ${routing.domains.join(', ')}`)
  },
}

const quotas: Check = {
  name: 'quotas',
  title: 'Every quota is a size and belongs to an account',
  run({ files }) {
    // The catchall's absence is the matter of "catchall".
    const known = new Set([CATCHALL, ...accountLines(files).accounts.map(({ address }) => address.toLowerCase())])
    const entries = logicalLines(files.read(QUOTAS) ?? '')
    const problems = entries.flatMap(({ text, line }) => {
      const [, address = '', size = ''] = /^([^:]*):(.*)$/.exec(text.replace(/\s/g, '')) ?? []
      if (!known.has(address.toLowerCase())) {
        return [
          warning(
            `${QUOTAS} line ${line}: there is no account ${address || `"${text}"`}`,
            `Delete line ${line} of ${QUOTAS}`,
          ),
        ]
      }
      if (/^\d+[bkmgt]?$/i.test(size)) return []
      return [
        failure(`${QUOTAS} line ${line}: "${size}" is no size`, `Write line ${line} of ${QUOTAS} as ${address}:10M`),
      ]
    })
    return verdict(problems, entries.length === 0 ? 'none set' : `quotas: ${entries.length}`)
  },
}

const aliases: Check = {
  name: 'aliases',
  title: 'Every alias ends in a mailbox',
  run({ files }) {
    const { accounts: found } = accountLines(files)
    const known = new Set(found.map(({ address }) => address.toLowerCase()))
    const virtual = parseIndexed(files.read(VIRTUAL) ?? '')
    const problems: Finding[] = []
    for (const { text, line } of logicalLines(files.read(VIRTUAL) ?? '')) {
      const [, from = '', to = ''] = /^(\S+)\s*(.*)$/s.exec(text) ?? []
      if (to === '')
        problems.push(warning(`${VIRTUAL} line ${line}: ${from} has no target`, `Delete line ${line} of ${VIRTUAL}`))
      for (const target of to.split(/[\s,]+/).filter((part) => part.includes('@'))) {
        const [address, domain] = [target.toLowerCase().replace(/\+[^@]*@/, '@'), domainOf(target)]
        const isForeign = !found.some((account) => domainOf(account.address) === domain)
        if (isForeign || known.has(address) || virtual.has(address) || virtual.has(`@${domain}`)) continue
        const fix = `npm run add-account -- ${target}, or delete line ${line} of ${VIRTUAL}`
        problems.push(warning(`${VIRTUAL} line ${line}: ${from} leads to ${target}, which is no account`, fix))
      }
    }
    const local = `${CONFIG}/postfix-aliases.cf`
    for (const { text, line } of logicalLines(files.read(local) ?? '')) {
      const program = /[:,\s]"?(\|[^",]*|\/[^",\s]*|:include:[^",\s]*)/.exec(text)?.[1]
      if (program)
        problems.push(warning(`${local} line ${line}: mail goes to ${program}`, `Delete line ${line} of ${local}`))
    }
    return verdict(problems, `virtual aliases: ${virtual.size}`)
  },
}

export const configurationChecks: Check[] = [
  lineEnds,
  accounts,
  accountCase,
  accountHashes,
  catchall,
  transportMap,
  quotas,
  aliases,
]
