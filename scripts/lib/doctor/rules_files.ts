/** The files of the configuration folder: that they can be read, and what an interrupted change has left in them. */
import { chownSync, existsSync, readFileSync, realpathSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../settings.ts'
import { type Check, EXPLAINS, type Finding, failure, verdict, warning } from './check.ts'
import { COMPOSE_FILE, CONFIG, ENV_FILE, inConfig } from './facts.ts'
import { restore } from './fixes.ts'
import { OWN_FILES } from './rules_postfix.ts'

export const ACCOUNTS = inConfig('postfix-accounts.cf')
export const VIRTUAL = inConfig('postfix-virtual.cf')
export const QUOTAS = inConfig('dovecot-quotas.cf')
export const MASTER_USERS = inConfig('dovecot-master-users')
export const CAUGHT = 'postfix-regexp.cf'
export const MAP = 'postfix-transport_maps'
const files: Check = {
  name: 'files',
  title: 'Every file that belongs to the project is there and can be read',
  run(facts) {
    const explains = [...EXPLAINS.start, 'main-cf', 'compose', 'tables', 'dovecot']
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
export async function edit(name: string, change: (text: string) => string): Promise<string> {
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
export async function repair(): Promise<string> {
  const { change } = await import('../accounts/configuration.ts')
  const { remainsOf, repaired } = await import('../accounts/changes.ts')
  // Looked for again, under the lock.
  const { remains } = await change((configuration) => {
    const remains = remainsOf(configuration)
    return { configuration: repaired(configuration, remains), remains }
  })
  return remains.map(({ fact }) => fact).join('; ') || 'nothing is left any more'
}

export const MEND = 'npm run doctor -- --fix'

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

export const fileChecks: Check[] = [files, lineEnds, remains]
