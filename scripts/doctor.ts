/** npm run doctor: says why mail does not arrive, and what to type. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { fileURLToPath } from 'node:url'
import {
  type ExitName,
  explainExitCodes,
  Failure,
  type Io,
  messageOf,
  parse,
  run,
  step,
  style,
  table,
} from './lib/cli.ts'
import type { Check, Level, Result } from './lib/doctor/check.ts'

const HELP = `Usage: npm run doctor [-- --fix] [-- --only NAME ...] [-- --verbose] [-- --json]
       npx tsx scripts/doctor.ts [--fix] [--only NAME ...] [--verbose] [--json]

Says why mail does not arrive, and what to type. Where all is right, that is one line; else each warning and each
failure with what was seen and, where the cause is certain, the fix.

  --verbose     all checks, those that are ok or skipped too
  --fix         mend what is safe to mend: BOM, CRLF, a missing last line end, capitals in account addresses, what a
                killed add-account left, a lock or a pid file of a dead process; missing packages after asking
  --yes         with --fix: do not ask
  --only NAME   only this check; may be given several times
  --list        the names of all checks
  --json        the result as one JSON object:
                {ok, warnings, failures, skipped, milliseconds, mended: [text],
                results: [{check, title, level: ok|warning|failure|skipped, evidence, fix: text or null, milliseconds}]}

Exit codes:
${explainExitCodes('ok', 'failed', 'usage')}
  A failure is exit code 1; warnings alone are 0.`

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
const COLOURS = { ok: 'green', warning: 'yellow', failure: 'red', skipped: 'dim' } as const
const WIDTH = 80

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values } = parse(args, {
    json: { type: 'boolean' },
    fix: { type: 'boolean' },
    yes: { type: 'boolean', short: 'y' },
    verbose: { type: 'boolean', short: 'v' },
    only: { type: 'string', multiple: true },
    list: { type: 'boolean' },
  })
  if (values.help) {
    io.print(HELP)
    return
  }
  const begin = performance.now()
  const mended: string[] = []
  const report = (results: Result[]): ExitName => {
    const milliseconds = Math.round(performance.now() - begin)
    if (values.json) io.print(JSON.stringify(toJson(results, mended, milliseconds)))
    else io.print(toText(results, values.verbose ?? false, io))
    return results.some(({ level }) => level === 'failure') ? 'failed' : 'ok'
  }
  const mend = async (result: Result) => {
    if (!result.mend || (result.question && !values.yes && !(await ask(result.question, io)))) return
    try {
      mended.push(await result.mend())
      io.say(`mended: ${mended.at(-1)}`)
    } catch (error) {
      io.say(`not mended: ${messageOf(error)}`)
    }
  }

  // All else needs the packages: on a fresh clone this is the one thing to say.
  const packages = nodePackages()
  if (packages && values.fix) await mend(packages)
  if (packages && nodePackages()) return report([packages])

  const { CHECKS } = await import('./lib/doctor/all.ts')
  if (values.list) {
    io.print(table(CHECKS.map(({ name, title }) => [name, title])))
    return
  }
  const { runChecks } = await import('./lib/doctor/check.ts')
  const checks = values.only ? chosen(CHECKS, values.only) : CHECKS
  await becomeRoot()
  const look = () => (process.stderr.isTTY ? step('Checking', () => runChecks(checks)) : runChecks(checks))
  let results = await look()
  // One thing mended may set others right or wrong: each time the whole list again, until nothing is left to mend.
  for (const done = new Set<string>(); values.fix; ) {
    const next = results.find((result) => result.mend && !done.has(`${result.check} ${result.evidence}`))
    if (!next) break
    done.add(`${next.check} ${next.evidence}`)
    await mend(next)
    results = await runChecks(checks)
  }
  return report(results)
}

function chosen(checks: readonly Check[], names: string[]): Check[] {
  const unknown = names.find((name) => !checks.some((check) => check.name === name))
  if (unknown === undefined) return checks.filter(({ name }) => names.includes(name))
  throw new Failure('usage', `--only ${unknown}: no such check. Their names: npm run doctor -- --list`)
}

/** The project's packages that are not installed, as the result of a check; undefined when all of them are there. */
function nodePackages(): Result | undefined {
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  const missing = Object.keys(dependencies).filter(
    (name) => !existsSync(join(ROOT, 'node_modules', name, 'package.json')),
  )
  if (missing.length === 0) return undefined
  const mend = () => {
    const { status } = spawnSync('npm', ['ci'], {
      cwd: ROOT,
      stdio: ['ignore', 2, 2],
      shell: process.platform === 'win32',
    })
    if (status !== 0) throw new Error(`npm ci ended with ${status}`)
    return 'npm ci'
  }
  const evidence = `not installed: ${missing.join(', ')}; no other check can run without them`
  const about = {
    check: 'node-packages',
    title: "The project's packages are installed",
    level: 'failure',
    milliseconds: 0,
  } as const
  return { ...about, evidence, fix: 'npm ci', question: 'Install the packages by npm ci?', mend }
}

/** Only root may ask the native engine: where sudo lets it, the script runs again as root, from here. */
async function becomeRoot(): Promise<void> {
  if (process.getuid?.() === 0) return
  try {
    const { Facts } = await import('./lib/doctor/facts.ts')
    const facts = new Facts()
    const engine = await facts.engine()
    if (engine.name === 'native' && (await facts.isRunning())) await engine.exec(['postconf', '-h', 'mail_version'])
  } catch {
    // The check "root" says it; what needs no root is checked all the same.
  }
}

async function ask(question: string, io: Io): Promise<boolean> {
  if (!io.stdin.isTTY) {
    io.say(`${question} No terminal to ask on; to say yes: npm run doctor -- --fix --yes`)
    return false
  }
  const lines = createInterface({ input: io.stdin, output: io.stderr })
  try {
    return /^y(es)?$/i.test((await lines.question(`${question} [y/N] `)).trim())
  } finally {
    lines.close()
  }
}

function toText(results: Result[], verbose: boolean, io: Io): string {
  const count = (level: Level) => results.filter((result) => result.level === level).length
  const bad = results.filter(({ level }) => level === 'failure' || level === 'warning')
  const shown = verbose ? results : bad
  const blocks = shown.map(({ check, level, evidence, fix }) => {
    const lines = [
      `${style(COLOURS[level], level, io.stdout)}  ${style('bold', check, io.stdout)}`,
      ...wrap(evidence, '  '),
    ]
    // What has to be typed stands alone, whole.
    const [, how, typed] = /^(Write .*?: )(.*)$/s.exec(fix ?? '') ?? []
    return [...lines, ...(how ? [`  fix: ${how.trim()}`, `    ${typed}`] : fix ? [`  fix: ${fix}`] : [])].join('\n')
  })
  const checks = new Set(results.map(({ check }) => check)).size
  const plural = (number: number, word: string) => `${number} ${word}${number === 1 ? '' : 's'}`
  const skipped = count('skipped') > 0 ? `, ${count('skipped')} skipped` : ''
  const sum =
    bad.length === 0
      ? `${plural(checks, 'check')}, all ok`
      : `${plural(checks, 'check')}: ${plural(count('failure'), 'failure')}, ${plural(count('warning'), 'warning')}${skipped}`
  return [...blocks, ...(blocks.length > 0 ? [''] : []), sum].join('\n')
}

/** Lines of a text that fit the screen; a word that is longer stays whole. */
function wrap(text: string, indent: string): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= WIDTH) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(`${indent}${word}`)
  }
  return lines
}

function toJson(results: Result[], mended: string[], milliseconds: number) {
  const count = (wanted: Level) => results.filter(({ level }) => level === wanted).length
  const shown = results.map(({ check, title, level, evidence, fix = null, milliseconds: time }) => ({
    check,
    title,
    level,
    evidence,
    fix,
    milliseconds: time,
  }))
  return {
    ok: count('ok'),
    warnings: count('warning'),
    failures: count('failure'),
    skipped: count('skipped'),
    milliseconds,
    mended,
    results: shown,
  }
}

await run(import.meta.url, main)
