/** What a check of the doctor is, what it may look at, and running many of them at the same time. */

import { chownSync, existsSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import type { FileName } from '../accounts/configuration.ts'
import { Failure, messageOf } from '../cli.ts'
import type { Engine, EngineChoice } from '../server/engine.ts'
import { CONFIG_DIR, ROOT, readSettings, type Settings, setting } from '../settings.ts'

/** `skipped`: cannot be judged, because of something that another check reports. */
export type Level = 'ok' | 'warning' | 'failure' | 'skipped'

export interface Finding {
  level: Level
  /** What was seen, in one line. */
  evidence: string
  /** The command to type or the line to write, for a warning or a failure. */
  fix?: string
  /** Does what `fix` says, where that is safe, and gives one line about what was done. */
  mend?: () => Promise<string> | string
  /** What to ask before `mend`, where it does more than a small change of a file. */
  question?: string
}

export interface Check {
  /** What `--only` takes. */
  name: string
  /** What is true when the check is ok. */
  title: string
  run(context: Context): Finding[] | Promise<Finding[]>
}

export interface Result extends Finding {
  check: string
  title: string
  milliseconds: number
}

/** The project's files by their path from its root, with `/`. */
export interface Files {
  /** The file's text; undefined where there is none. */
  read(name: string): string | undefined
  /** The names of all configuration files. */
  list(): string[]
  /** Replaces a file in one step by what `change` makes of its text. */
  edit(name: string, change: (text: string) => string): Promise<void>
}

/** What checks look at. Everything that another check reports as missing throws `Skipped`. */
export interface Context {
  files: Files
  platform: NodeJS.Platform
  /** A variable of `.env` or the environment. */
  setting(name: string): string | undefined
  settings(): Settings
  choice(): Promise<EngineChoice>
  /** The engine that is to be used, running or not. */
  engine(): Promise<Engine>
  /** The engine with its server up. */
  server(): Promise<Engine>
}

/** The configuration folder's path from the project's root. */
export const CONFIG = relative(ROOT, CONFIG_DIR).replaceAll('\\', '/')
export const ENV_FILE = 'development-mail-server.env'
export const COMPOSE_FILE = 'docker-compose.yml'

/** Milliseconds for one question to Docker or to a program of the server. */
export const ANSWER = 2_000
/** Milliseconds until a check is cut off. */
const LIMIT = 8_000
/** Findings of one check that are shown; a thousand bad lines are one problem. */
const SHOWN = 5

/** Thrown by a check that has nothing to look at. */
export class Skipped extends Error {}

export function ok(evidence: string): Finding {
  return { level: 'ok', evidence }
}

export function warning(evidence: string, fix: string, mend?: Finding['mend']): Finding {
  return { level: 'warning', evidence, fix, ...(mend ? { mend } : {}) }
}

export function failure(evidence: string, fix: string, mend?: Finding['mend']): Finding {
  return { level: 'failure', evidence, fix, ...(mend ? { mend } : {}) }
}

/** The problems found or, where there are none, one ok. */
export function verdict(problems: Finding[], evidence: string): Finding[] {
  return problems.length > 0 ? problems : [ok(evidence)]
}

/** The context of this project on this machine. */
export function projectContext(): Context {
  const choice = once(async () => {
    const { explainEngine } = await import('../server/engine.ts')
    return explainEngine(context.settings(), ANSWER)
  })
  const running = once(async () => (await context.engine()).isRunning())
  const context: Context = {
    files: projectFiles,
    platform: process.platform,
    setting,
    settings() {
      try {
        return readSettings()
      } catch (error) {
        throw error instanceof Failure ? new Skipped('the settings are wrong, see "settings"') : error
      }
    },
    choice,
    async engine() {
      const { engine } = await choice()
      if (!engine) throw new Skipped('there is no engine, see "engine"')
      return engine
    },
    async server() {
      const engine = await context.engine()
      if (!(await running())) throw new Skipped('the server is not running, see "running"')
      if (engine.name === 'native' && process.getuid?.() !== 0) throw new Skipped('only root can ask, see "root"')
      return engine
    },
  }
  return context
}

const projectFiles: Files = {
  read(name) {
    const path = join(ROOT, name)
    return existsSync(path) && statSync(path).isFile() ? readFileSync(path, 'utf8') : undefined
  },
  list() {
    const names = existsSync(CONFIG_DIR) ? readdirSync(CONFIG_DIR, { withFileTypes: true }) : []
    const configuration = names.filter((entry) => entry.isFile()).map(({ name }) => `${CONFIG}/${name}`)
    return [COMPOSE_FILE, ENV_FILE, ...configuration.sort()]
  },
  async edit(name, change) {
    const folder = `${CONFIG}/`
    if (name.startsWith(folder)) {
      const { change: changeConfiguration, withText } = await import('../accounts/configuration.ts')
      const own = name.slice(folder.length) as FileName
      await changeConfiguration((before) => ({ configuration: withText(before, own, change(before[own].text)) }))
      return
    }
    const path = join(ROOT, name)
    const { mode, uid, gid } = statSync(path)
    writeFileSync(`${path}.tmp`, change(readFileSync(path, 'utf8')), { mode })
    // Run as root, the file stays its owner's.
    chownSync(`${path}.tmp`, uid, gid)
    renameSync(`${path}.tmp`, path)
  },
}

/**
 * Begins all checks at once and gives their results in the order of the list. A check that throws or that does not
 * end within the limit is a failure of its own and does not touch the others.
 */
export function runChecks(checks: readonly Check[], context: Context, limit = LIMIT): Promise<Result[]>[] {
  return checks.map((check) => runCheck(check, context, limit))
}

async function runCheck(check: Check, context: Context, limit: number): Promise<Result[]> {
  const begin = performance.now()
  let timer: NodeJS.Timeout | undefined
  const cutOff = new Promise<Finding[]>((resolve) => {
    const hung = failure(`cut off: no result within ${limit / 1000} s`, 'Look at what does not answer: npm run logs')
    timer = setTimeout(() => resolve([hung]), limit)
  })
  let milliseconds = limit
  const attempted = attempt(check, context).then((findings) => {
    milliseconds = Math.round(performance.now() - begin)
    return findings
  })
  const findings = await Promise.race([attempted, cutOff])
  clearTimeout(timer)
  return shorten(findings).map((finding) => ({ check: check.name, title: check.title, milliseconds, ...finding }))
}

async function attempt(check: Check, context: Context): Promise<Finding[]> {
  try {
    return await check.run(context)
  } catch (error) {
    if (error instanceof Skipped) return [{ level: 'skipped', evidence: error.message }]
    return [failure(messageOf(error), 'Look at the log: npm run logs')]
  }
}

function shorten(findings: Finding[]): Finding[] {
  const lines = findings.map((finding) => ({ ...finding, evidence: oneLine(finding.evidence) }))
  if (lines.length <= SHOWN) return lines
  const [last, more] = [lines[SHOWN - 1] as Finding, lines.length - SHOWN]
  return [...lines.slice(0, SHOWN - 1), { ...last, evidence: `${last.evidence} (and ${more} more of the kind)` }]
}

/** One printable line: log lines and server replies may hold anything, terminal escape sequences included. */
function oneLine(text: string): string {
  const line = text.trim().replace(/\s*[\r\n]+\s*/g, ' | ')
  const visible = line.replace(/[\p{Cc}\p{Cf}]/gu, (c) => `\\x${(c.codePointAt(0) ?? 0).toString(16).padStart(2, '0')}`)
  return visible.length > 400 ? `${visible.slice(0, 399)}…` : visible
}

/** A function whose work is done at most once, by whoever asks first. */
function once<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined
  return () => {
    result ??= work()
    return result
  }
}
