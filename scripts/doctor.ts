/**
 * npm run doctor: says why mail does not arrive, and what to type. Runs every check at the same time, against the
 * files before the first start, and against the running server as well.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { fileURLToPath } from 'node:url'
import { type ExitName, explainExitCodes, Failure, messageOf, parse, print, run, say, step, style } from './lib/cli.ts'
import type { Check, Context, Level, Result } from './lib/doctor/check.ts'

const HELP = `Usage: npm run doctor [-- --fix] [-- --only NAME ...] [-- --json]
       npx tsx scripts/doctor.ts [--fix] [--only NAME ...] [--json]

Says why mail does not arrive, and what to type. Each check prints ok, warning or failure with what it saw and,
where it is not ok, the fix. A check that cannot be judged because of another one is skipped.

  --fix         mend what is safe to mend: CRLF, a missing last line end, capitals in account addresses, a lock or
                a pid file of a dead process; missing packages after asking
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

export async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(args, {
    json: { type: 'boolean' },
    fix: { type: 'boolean' },
    yes: { type: 'boolean', short: 'y' },
    only: { type: 'string', multiple: true },
    list: { type: 'boolean' },
  })
  if (values.help) {
    print(HELP)
    return
  }
  const begin = performance.now()
  const mended: string[] = []
  const mend = async ({ mend: act, question, fix }: Result) => {
    if (!act || (question && !values.yes && !(await ask(question)))) return
    try {
      mended.push(await act())
      say(`mended: ${mended.at(-1)}`)
    } catch (error) {
      say(`not mended: ${messageOf(error)}. By hand: ${fix}`)
    }
  }
  const report = (results: Result[]) => {
    const milliseconds = Math.round(performance.now() - begin)
    if (values.json) print(JSON.stringify(toJson(results, mended, milliseconds)))
    else show(results)
    return results.some(({ level }) => level === 'failure') ? 'failed' : 'ok'
  }

  // All else needs the packages: on a fresh clone this is the one thing to say.
  const packages = nodePackages()
  if (packages && values.fix) await mend(packages)
  if (packages && nodePackages()) return report([packages])

  const { CHECKS } = await import('./lib/doctor/all.ts')
  const { projectContext, runChecks } = await import('./lib/doctor/check.ts')
  if (values.list) {
    const { table } = await import('./lib/cli.ts')
    print(table(CHECKS.map(({ name, title }) => [name, title])))
    return
  }
  const checks = values.only ? chosen(CHECKS, values.only) : CHECKS
  const runAll = async (list: readonly Check[]) => {
    const context = projectContext()
    await becomeRoot(context)
    return (await Promise.all(runChecks(list, context))).flat()
  }
  let results = await step('Checking', () => runAll(checks))
  if (values.fix) {
    const mendable = results.filter((result) => result.mend)
    for (const result of mendable) await mend(result)
    // One thing mended may set others right or wrong: the whole list again.
    if (mended.length > 0) results = await step('Checking', () => runAll(checks))
  }
  return report(results)
}

function chosen(checks: readonly Check[], names: string[]): Check[] {
  const unknown = names.find((name) => !checks.some((check) => check.name === name))
  if (unknown !== undefined) {
    throw new Failure('usage', `--only ${unknown}: no such check. Their names: npm run doctor -- --list`)
  }
  return checks.filter(({ name }) => names.includes(name))
}

/** The project's packages that are not installed, as the result of a check; undefined when all of them are there. */
function nodePackages(): Result | undefined {
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  const missing = Object.keys(dependencies).filter(
    (name) => !existsSync(join(ROOT, 'node_modules', name, 'package.json')),
  )
  if (missing.length === 0) return undefined
  return {
    check: 'node-packages',
    title: "The project's packages are installed",
    level: 'failure',
    evidence: `not installed: ${missing.join(', ')}; no other check can run without them`,
    fix: 'npm ci',
    milliseconds: 0,
    question: 'Install the packages by npm ci?',
    mend() {
      const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
      const { status } = spawnSync(npm, ['ci'], {
        cwd: ROOT,
        stdio: ['ignore', 2, 2],
        shell: process.platform === 'win32',
      })
      if (status !== 0) throw new Error(`npm ci ended with ${status}`)
      return 'npm ci'
    },
  }
}

/** Only root may ask the native engine: where sudo lets it, the script runs again as root, from here. */
async function becomeRoot(context: Context): Promise<void> {
  if (process.getuid?.() === 0) return
  try {
    const server = await (await context.choice()).engine
    if (server?.name === 'native' && (await server.isRunning())) await server.exec(['postconf', '-h', 'mail_version'])
  } catch {
    // The check "root" says it; what needs no root is checked all the same.
  }
}

async function ask(question: string): Promise<boolean> {
  if (!process.stdin.isTTY) {
    say(`${question} No terminal to ask on; to say yes: npm run doctor -- --fix --yes`)
    return false
  }
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test((await lines.question(`${question} [y/N] `)).trim())
  } finally {
    lines.close()
  }
}

function show(results: Result[]): void {
  const width = Math.max(...results.map(({ check }) => check.length))
  for (const { check, level, evidence, fix } of results) {
    print(`${style(COLOURS[level], level.padEnd(7))}  ${check.padEnd(width)}  ${evidence}`)
    if (fix) print(`${' '.repeat(width + 11)}${style('bold', 'fix:')} ${fix}`)
  }
  const count = (level: Level) => results.filter((result) => result.level === level).length
  print()
  if (count('skipped') > 0) print(`${count('skipped')} skipped`)
  print(`${count('ok')} ok, ${count('warning')} warnings, ${count('failure')} failures`)
}

function toJson(results: Result[], mended: string[], milliseconds: number) {
  const count = (wanted: Level) => results.filter(({ level }) => level === wanted).length
  return {
    ok: count('ok'),
    warnings: count('warning'),
    failures: count('failure'),
    skipped: count('skipped'),
    milliseconds,
    mended,
    results: results.map(({ check, title, level, evidence, fix, milliseconds: time }) => ({
      check,
      title,
      level,
      evidence,
      fix: fix ?? null,
      milliseconds: time,
    })),
  }
}

await run(import.meta.url, main)
