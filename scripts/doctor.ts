/** npm run doctor: says why mail does not arrive, and what to type. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as cli from './lib/cli.ts'
import type { Result } from './lib/doctor/check.ts'

const HELP = `Usage: npm run doctor [-- --fix] [-- --only NAME ...] [-- --verbose] [-- --json]
       npx tsx scripts/doctor.ts [--fix] [--only NAME ...] [--verbose] [--json]

Says why mail does not arrive, and what to type. Where all is right, that is one line; else each warning and each
failure with what was seen and, where the cause is certain, the fix.

  --verbose     all checks, those that are ok or skipped too
  --fix         mend what is safe to mend: BOM, CRLF, a missing last line end, capitals and stray spaces of accounts,
                what a killed add-account left, the lock of a dead process; missing packages after asking
  --yes         with --fix: do not ask
  --only NAME   only this check; may be given several times
  --list        the names of all checks
  --json        the result as one JSON object:
                {ok, warnings, failures, skipped, milliseconds, mended: [text],
                results: [{check, title, level: ok|warning|failure|skipped, evidence, fix: text or null, milliseconds}]}

Exit codes:
${cli.explainExitCodes('ok', 'failed', 'usage')}
  A failure is exit code 1; warnings alone are 0.`

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
const COLOURS = { ok: 'green', warning: 'yellow', failure: 'red', skipped: 'dim' } as const
const WIDTH = 80

export async function main(args: string[], io: cli.Io): Promise<cli.ExitName | undefined> {
  const { values } = cli.parse(args, {
    json: { type: 'boolean' },
    fix: { type: 'boolean' },
    yes: { type: 'boolean', short: 'y' },
    verbose: { type: 'boolean', short: 'v' },
    only: { type: 'string', multiple: true },
    list: { type: 'boolean' },
  })
  if (values.help) return void io.print(HELP)
  const begin = performance.now()
  const mended: string[] = []
  const report = (results: Result[]): cli.ExitName => {
    const count = (level: Result['level']) => results.filter((result) => result.level === level).length
    const [failures, warnings, skipped] = [count('failure'), count('warning'), count('skipped')]
    const milliseconds = Math.round(performance.now() - begin)
    // What mends is a function, which JSON leaves out.
    const plain = results.map((result) => ({ ...result, fix: result.fix ?? null }))
    const counts = { ok: count('ok'), warnings, failures, skipped, milliseconds }
    if (values.json) io.print(JSON.stringify({ ...counts, mended, results: plain }))
    else io.print(toText(results, counts, values.verbose ?? false, io))
    return failures > 0 ? 'failed' : 'ok'
  }
  const mend = async (result: Result) => {
    try {
      mended.push((await result.mend?.()) ?? '')
      io.say(`mended: ${mended.at(-1)}`)
    } catch (error) {
      io.say(`not mended: ${cli.messageOf(error)}`)
    }
  }

  // All else needs the packages: on a fresh clone this is the one thing to say.
  const packages = nodePackages()
  if (packages && values.fix && (values.yes || (await isAgreed(io)))) await mend(packages)
  if (packages && nodePackages()) return report([packages])

  // zx takes a stack for each program that it runs, and leading it back to TypeScript takes longer than the program.
  process.setSourceMapsEnabled(false)
  const { becomeRootForNative, CHECKS, runChecks } = await import('./lib/doctor/all.ts')
  if (values.list) return void io.print(cli.table(CHECKS.map(({ name, title }) => [name, title])))
  const unknown = values.only?.find((name) => !CHECKS.some((check) => check.name === name))
  if (unknown !== undefined)
    throw new cli.Failure('usage', `--only ${unknown}: no such check. Their names: npm run doctor -- --list`)
  const checks = CHECKS.filter(({ name }) => values.only?.includes(name) ?? true)
  await becomeRootForNative()
  let results = await (process.stderr.isTTY ? cli.step('Checking', () => runChecks(checks)) : runChecks(checks))
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

/** The project's packages that are not installed, as the result of a check; undefined when all of them are there. */
function nodePackages(): Result | undefined {
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  const isMissing = (name: string) => !existsSync(join(ROOT, 'node_modules', name, 'package.json'))
  const missing = Object.keys(dependencies).filter(isMissing).join(', ')
  if (!missing) return undefined
  const mend = () => {
    const isWindows = process.platform === 'win32'
    const { status } = spawnSync('npm', ['ci'], { cwd: ROOT, stdio: ['ignore', 2, 2], shell: isWindows })
    if (status !== 0) throw new Error(`npm ci ended with ${status}`)
    return 'npm ci'
  }
  const title = "The project's packages are installed"
  const evidence = `not installed: ${missing}; no other check can run without them`
  return { check: 'node-packages', title, level: 'failure', evidence, milliseconds: 0, fix: 'npm ci', mend }
}

async function isAgreed(io: cli.Io): Promise<boolean> {
  const question = 'Install the packages by npm ci?'
  const { ask } = await import('./lib/accounts/prompts.ts')
  if (io.stdin.isTTY) return /^y(es)?$/i.test((await ask(io, `${question} [y/N] `, '')).trim())
  io.say(`${question} No terminal to ask on; to say yes: npm run doctor -- --fix --yes`)
  return false
}

function toText(results: Result[], counts: Record<string, number>, verbose: boolean, io: cli.Io): string {
  const bad = results.filter(({ level }) => level === 'failure' || level === 'warning')
  const blocks = (verbose ? results : bad).map(({ check, level, evidence, fix }) => {
    const title = `${cli.style(COLOURS[level], level, io.stdout)}  ${cli.style('bold', check, io.stdout)}`
    // What has to be typed stands alone, whole.
    const last = fix ? `\n  fix: ${fix.replace(/^(Write .*?:) /s, '$1\n    ')}` : ''
    return `${title}\n${wrap(evidence)}${last}`
  })
  const plural = (number = 0, word = '') => `${number} ${word}${number === 1 ? '' : 's'}`
  const checks = plural(new Set(results.map(({ check }) => check)).size, 'check')
  const skipped = counts.skipped ? `, ${counts.skipped} skipped` : ''
  const sum = `${checks}: ${plural(counts.failures, 'failure')}, ${plural(counts.warnings, 'warning')}${skipped}`
  return [...blocks, ...(blocks.length > 0 ? [''] : []), bad.length === 0 ? `${checks}, all ok` : sum].join('\n')
}

/** A text as indented lines that fit the screen; a word that is longer stays whole. */
function wrap(text: string): string {
  const fit = new RegExp(`(\\S.{0,${WIDTH - 3}})(?: +|$)|(\\S+) *`, 'g')
  return text.replace(fit, (_, line, word) => `  ${line ?? word}\n`).trimEnd()
}

await cli.run(import.meta.url, main)
