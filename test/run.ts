/**
 * `npm test`: every test file in a process of its own, several side by side, since much of their time is waiting, and the
 * longest first, so that none runs alone in the end. A line for each file that is done, with what failed in it; then the counts.
 *
 * All of it happens in one folder that goes in the end: a copy of the project as JavaScript, since starting tsx takes three
 * times as long as the rest of a short script, and the tests start hundreds; a server to copy; the projects of the tests.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, statfsSync, symlinkSync, writeFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type ExitName, run, say } from '../scripts/lib/cli.ts'
import { installPackages } from '../scripts/lib/server/packages.ts'
import { ROOT } from '../scripts/lib/settings.ts'

/** The others take a few seconds each. The first of them start a server of their own anyhow, while the template is made. */
const LONGEST = [
  ...['doctor_live', 'doctor_server', 'readme', 'life_cycle', 'all_or_nothing', 'inbox_service', 'doctor_files'],
  ...['add_account', 'start_failures', 'pop_email_wait', 'pop_email', 'hostile', 'pop3', 'inbox_wait'],
  ...['configuration_files', 'configuration', 'protocols', 'mail', 'send_email', 'doctor_command'],
  ...['send_email_failures', 'inbox', 'fuzz'],
]
const COUNTS = ['tests', 'pass', 'fail', 'skipped']
/** Bytes for the mail of all tests that run at the same time, several times over. */
const ROOM = 2_000_000_000
const PREFIX = 'mail-tests-'
/** All folders of this run, so that nothing of it is left, however it ends. */
const FOLDER = join(parentOf(), `${PREFIX}${process.pid}`)
/** Where the tests run from. */
const COPY = join(FOLDER, 'project')
/** tsc strips the types; nothing else of the scripts changes. */
const STRIP = ['--noCheck', '--noEmit', 'false', '--sourceMap', '--rewriteRelativeImportExtensions']
/** Ends and removes what is in a folder of the tests. */
const CLEAR = join(ROOT, 'test', 'clear.sh')
const NOT_COPIED = ['.git', '.env', 'node_modules']
/** Packages of many files, which most scripts load, each as one file: that is up to a third of a script's time. */
const BUNDLED = { imapflow: '.', zx: './core', ws: '.' }
const BUNDLE = ['--bundle', '--minify', '--platform=node', '--format=esm', '--log-level=error']
const REQUIRE = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)"

const totals = new Map(COUNTS.map((name) => [name, 0]))
const failures: string[] = []

async function main(args: string[]): Promise<ExitName | undefined> {
  if (process.getuid?.() !== 0) {
    say('The tests run Postfix and Dovecot of their own, which needs root: sudo npm test')
    return 'failed'
  }
  const began = Date.now()
  // So that no test waits for another's apt.
  await installPackages()
  const folders = readdirSync(dirname(FOLDER)).filter((name) => name.startsWith(PREFIX))
  for (const name of folders) if (!existsSync(`/proc/${name.slice(PREFIX.length)}`)) clear(join(dirname(FOLDER), name))
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, interrupted)
  process.once('exit', () => clear(FOLDER))
  makeCopy()
  clearWhenGone()

  const rank = (file: string) => (LONGEST.indexOf(nameOf(file)) + LONGEST.length + 1) % (LONGEST.length + 1)
  const all = readdirSync(join(ROOT, 'test')).filter((name) => name.endsWith('.test.ts'))
  const queue = (args.length > 0 ? args : all.map((name) => join('test', name))).sort((a, b) => rank(a) - rank(b))
  const lane = async () => {
    for (let file = queue.shift(); file; file = queue.shift()) await runFile(file)
  }
  const lanes = Number(process.env.TESTS_LANES) || 3 * availableParallelism()
  // Where the template cannot be made, all do without it, and say why they cannot start.
  const template = makeTemplate().catch(() => {})
  await Promise.all([template.then(lane), ...Array.from({ length: lanes - 1 }, lane)])
  for (const text of failures) console.log(`✖ ${text.split('\n')[0]}, as told above`)
  for (const [name, count] of totals) console.log(`ℹ ${name} ${count}`)
  console.log(`ℹ ${seconds(began)} s`)
  return failures.length > 0 ? 'failed' : 'ok'
}

function makeCopy(): void {
  mkdirSync(COPY, { recursive: true })
  // Dovecot's mail processes have to walk through it.
  chmodSync(FOLDER, 0o755)
  for (const name of readdirSync(ROOT).filter((name) => !NOT_COPIED.includes(name))) {
    cpSync(join(ROOT, name), join(COPY, name), { recursive: true })
  }
  // Some tests run scripts as another user, whatever the umask of the checkout was.
  execFileSync('chmod', ['-R', 'a+rX', COPY])
  const packages = join(COPY, 'node_modules')
  mkdirSync(packages)
  for (const name of readdirSync(join(ROOT, 'node_modules'))) {
    if (!(name in BUNDLED)) symlinkSync(join(ROOT, 'node_modules', name), join(packages, name))
  }
  for (const [name, part] of Object.entries(BUNDLED)) {
    mkdirSync(join(packages, name))
    const description = { name, type: 'module', exports: { [part]: './index.js' } }
    writeFileSync(join(packages, name, 'package.json'), JSON.stringify(description))
    const input = `export * from '${join(name, part)}'`
    const args = [...BUNDLE, `--banner:js=${REQUIRE}`, `--outfile=${join(packages, name, 'index.js')}`]
    execFileSync(join(ROOT, 'node_modules', '.bin', 'esbuild'), args, { cwd: ROOT, input })
  }
  execFileSync(join(ROOT, 'node_modules', '.bin', 'tsc'), STRIP, { cwd: COPY, stdio: 'inherit' })
}

async function makeTemplate(): Promise<void> {
  process.env.TESTS_FOLDER = FOLDER
  const harness = await import(pathToFileURL(join(COPY, 'test', 'harness.js')).href)
  await harness.makeTemplate(FOLDER)
}

/** Runs a file; its own report is shown where it fails, and the reasons of what it skips. */
async function runFile(file: string): Promise<void> {
  const began = Date.now()
  const command = ['--enable-source-maps', '--test-reporter', 'spec', file.replace(/\.ts$/, '.js')]
  const env = { ...process.env, TESTS_FOLDER: FOLDER, TESTS_QUICK: '1', FORCE_COLOR: '0' }
  const child = spawn(process.execPath, command, { cwd: COPY, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
  const code = await new Promise((resolve) => child.once('close', resolve))
  const count = (name: string) => Number(new RegExp(`^ℹ ${name} (\\d+)$`, 'm').exec(output)?.[1] ?? 0)
  for (const name of COUNTS) totals.set(name, (totals.get(name) ?? 0) + count(name))
  console.log(`${code === 0 ? '✔' : '✖'} ${nameOf(file)}: ${count('pass')} of ${count('tests')} in ${seconds(began)} s`)
  for (const [, skipped] of output.matchAll(/^ *﹣ (.*# (?!SKIP$).*)$/gm)) {
    console.log(`  skipped: ${skipped?.replace(/ \([\d.]+ms\)/, '')}`)
  }
  for (const [, note] of output.matchAll(/^ *ℹ (.*[^\d.\s])$/gm)) console.log(`  ${note}`)
  if (code === 0) return
  failures.push(`${file} ended with ${code}\n${output.split('✖ failing tests:').at(-1)?.trim()}`)
  console.log(failures.at(-1))
}

/** All that runs does so below the folder, and ends with it. */
function interrupted(): void {
  say('Interrupted: ending the servers of the tests.')
  process.exit(130)
}

/** In memory, where there is room: on a disk the queue's fsync(2) takes a third of a server's time. */
function parentOf(): string {
  if (!existsSync('/dev/shm')) return tmpdir()
  const { bavail, bsize } = statfsSync('/dev/shm')
  return bavail * bsize > ROOM ? '/dev/shm' : tmpdir()
}

/** Clears up also where this process is killed. */
function clearWhenGone(): void {
  const child = spawn(CLEAR, [FOLDER, 'when-gone'], { cwd: '/', stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  child.unref()
  ;(child.stdin as Socket).unref()
}

const clear = (folder: string) => spawnSync(CLEAR, [folder], { stdio: 'ignore' })
const nameOf = (file: string) => file.replace(/^.*\/|\.test\.ts$/g, '')
const seconds = (began: number) => ((Date.now() - began) / 1000).toFixed(1)

await run(import.meta.url, main)
