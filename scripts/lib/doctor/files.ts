/** The files of the project: that they can be read, as text, and what dead processes left in the configuration folder. */
import { existsSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { remainsOf, repaired } from '../accounts/changes.ts'
import * as configuration from '../accounts/configuration.ts'
import { isLeftBehind, withLock } from '../accounts/lock.ts'
import { namesBelow } from '../server/native_configuration.ts'
import { CONFIG_DIR, ROOT } from '../settings.ts'
import { type Finding, failure, verdict, warning, writeLine } from './check.ts'
import * as facts from './facts.ts'

const { CAUGHT, COMPOSE_FILE, CONFIG, ENV_FILE, inConfig, MAIN_CF, MAP, OWN_FILES, VIRTUAL } = facts
const NATIVE = ['main.cf', 'master.cf', 'dovecot-2.3.conf', 'dovecot-2.4.conf'].map(
  (name) => `docker-data/native/${name}`,
)
const OPTIONAL = /quotas|aliases/
/** Each is only for the release or the engine that reads it. */
const SPARE = { native: /2\.4\.c|user-patches\.sh|docker-compose/, docker: /2\.4\.c/ }

export async function files(facts: facts.Facts): Promise<Finding[]> {
  const found = statSync(CONFIG_DIR, { throwIfNoEntry: false })
  const back = (name: string) => `git checkout -- ${name}`
  if (!found?.isDirectory())
    return [failure(`${CONFIG}: ${found ? 'it is a file and not a folder' : 'there is no such folder'}`, back(CONFIG))]
  const own = OWN_FILES.filter((name) => !OPTIONAL.test(name) || existsSync(join(ROOT, name)))
  const wanted = [ENV_FILE, COMPOSE_FILE, ...own, ...(facts.isNative ? NATIVE : [])]
  const problems = wanted.flatMap((name) => {
    const fact = facts.problem(name)
    const fix = /may not read/.test(fact ?? '') ? `sudo chmod a+r ${name}` : back(name)
    return fact
      ? [(SPARE[facts.isNative ? 'native' : 'docker'].test(name) ? warning : failure)(`${name}: ${fact}`, fix)]
      : []
  })
  return verdict(problems, `${wanted.length} files`)
}

const withLineEnds = (text: string) => text.replace(/^(\ufeff|\xef\xbb\xbf)/, '').replace(/\r\n?|(?<=[^\r\n])$/g, '\n')

export function lineEnds(facts: facts.Facts): Finding[] {
  const inFolder = namesBelow(CONFIG_DIR).filter((name) => !/\.(tmp|lock)$/.test(name))
  const names = [COMPOSE_FILE, ENV_FILE, ...inFolder.sort().map(inConfig)]
  const problems = names.flatMap((name): Finding[] => {
    const text = facts.raw(name)
    if (withLineEnds(text) === text) return []
    const line = text.slice(0, text.indexOf('\r')).split('\n').length
    const fact = text.startsWith('\ufeff')
      ? 'begins with a BOM, which becomes part of its first line'
      : text.includes('\r') && `line ${line} ends with CRLF or CR; a value may get the CR as its last character`
    const mend = () => edit(name, withLineEnds)
    if (fact) return [failure(`${name} ${fact}`, mend)]
    return [warning(`${name} has no line end at its end; the next line added is glued to its last one`, mend)]
  })
  return verdict(problems, `${names.length} files`)
}

/** Where a line that begins with a space goes on with the one above: what looks like an entry of its own there. */
const ENTRIES: [file: string, looks: RegExp][] = [
  [MAIN_CF, /^\s+[a-z]\w+ *= /],
  [VIRTUAL, /^[ \t]+\S*@\S+[ \t]+\S*@\S+/],
  [CAUGHT, /^\s+!?\/\S+\/\w*\s+\S/],
  [MAP, /^\s+!?\/\S+\/\w*\s+\S/],
]

export function gluedLines(facts: facts.Facts): Finding[] {
  const problems = ENTRIES.flatMap(([file, looks]) => {
    const lines = facts.read(file).split('\n')
    return lines.flatMap((text, index) => {
      const above = lines.slice(0, index).findLast((line) => !/^\s*(#|$)/.test(line)) ?? ''
      // A list of targets may go on behind a comma.
      if (!looks.test(text) || (file !== MAIN_CF && /,\s*$/.test(above))) return []
      const fact = `line ${index + 1} begins with a space and so belongs to the line above`
      const fix = writeLine(file, { lines: [index + 1] }, text.trim())
      return [failure(`${file} ${fact}: ${text.trim().slice(0, 80)}`, fix)]
    })
  })
  return verdict(problems, `${ENTRIES.length} files`)
}

/** Changes a file as it is now, a character for each byte, under the lock of the configuration folder. */
export async function edit(name: string, change: (text: string) => string): Promise<string> {
  return withLock(configuration.CONFIGURATION_LOCK, async () => {
    const path = join(ROOT, name)
    await configuration.replaceFiles([[path, change(readFileSync(path, 'latin1'))]])
    return name
  })
}

/** Completes what an interrupted change of accounts, or a hand, has left, or takes it back. */
export async function repair(): Promise<string> {
  // Looked for again, under the lock.
  const { before, after } = await configuration.change(repaired)
  const changed = configuration.FILES.filter((name) => after[name] !== before[name])
  return changed.join(', ') || 'nothing is left any more'
}

/** Lines for accounts that are not there; what an account is missing is what "tables" asks Postfix about. */
export function remains(): Finding[] {
  const problems = remainsOf(configuration.readConfiguration()).map(({ file, line, fact }) => {
    const find = file === 'postfix-virtual.cf' ? failure : warning
    return find(`${inConfig(file)} line ${line}: ${fact}`, repair)
  })
  return verdict(problems, 'none')
}

export async function leftovers(): Promise<Finding[]> {
  const names = namesBelow(CONFIG_DIR).filter((name) => /\.(tmp|lock)$/.test(name))
  const problems = names.map(async (name) => {
    const path = join(CONFIG_DIR, name)
    const ageOf = () => Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now())
    // A writer at work has a half-written file for some milliseconds.
    const isLock = name.endsWith('.lock')
    const isLeft = async () => (isLock ? isLeftBehind(path) : ageOf() > 60_000)
    const mend = async () => {
      // Somebody may have taken it over since.
      if (isLock && (await isLeft())) await withLock(path, () => {})
      else if (await isLeft()) rmSync(path, { force: true })
      return `removed ${inConfig(name)}`
    }
    return (await isLeft()) ? [warning(`${inConfig(name)} was left behind by a process that is gone`, mend)] : []
  })
  return verdict((await Promise.all(problems)).flat(), 'none')
}
