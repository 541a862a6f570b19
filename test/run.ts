/**
 * `npm test`: every test file in a process of its own, several side by side, since much of their time is waiting, and the
 * longest first, so that none runs alone in the end. A line for each file that is done, with what failed in it; then the counts.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readlinkSync, statfsSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type ExitName, run, say } from '../scripts/lib/cli.ts'
import { ROOT } from '../scripts/lib/settings.ts'

/** The others take a few seconds each. */
const LONGEST = [
  ...['doctor_server', 'leak', 'add_account', 'inbox_service', 'life_cycle', 'hostile', 'inbox_wait'],
  ...[
    'pop_email_wait',
    'delivery',
    'protocols',
    'doctor_files',
    'configuration',
    'inbox',
    'commands',
    'all_or_nothing',
  ],
]
const COUNTS = ['tests', 'pass', 'fail', 'skipped']
/** Bytes for the mail of all tests that run at the same time, several times over. */
const ROOM = 2_000_000_000
const PREFIX = 'mail-tests-'
/** All folders of this run, so that nothing of it is left, however it ends. */
const FOLDER = join(parentOf(), `${PREFIX}${process.pid}`)

const running = new Set<ChildProcess>()
const totals = new Map(COUNTS.map((name) => [name, 0]))
const failures: string[] = []

async function main(args: string[]): Promise<ExitName | undefined> {
  const folders = readdirSync(dirname(FOLDER)).filter((name) => name.startsWith(PREFIX))
  for (const name of folders) if (!existsSync(`/proc/${name.slice(PREFIX.length)}`)) clear(join(dirname(FOLDER), name))
  mkdirSync(FOLDER)
  // Dovecot's mail processes have to walk through it.
  chmodSync(FOLDER, 0o755)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, interrupted)
  process.once('exit', () => clear(FOLDER))
  const rank = (file: string) => (LONGEST.indexOf(nameOf(file)) + LONGEST.length + 1) % (LONGEST.length + 1)
  const all = readdirSync(join(ROOT, 'test')).filter((name) => name.endsWith('.test.ts'))
  const queue = (args.length > 0 ? args : all.map((name) => join('test', name))).sort((a, b) => rank(a) - rank(b))
  const began = Date.now()
  const lane = async () => {
    for (let file = queue.shift(); file; file = queue.shift()) await runFile(file)
  }
  await Promise.all(Array.from({ length: Number(process.env.TESTS_LANES) || 2 * availableParallelism() }, lane))
  for (const text of failures) console.log(`✖ ${text.split('\n')[0]}, as told above`)
  for (const [name, count] of totals) console.log(`ℹ ${name} ${count}`)
  console.log(`ℹ ${seconds(began)} s`)
  return failures.length > 0 ? 'failed' : 'ok'
}

/** Runs a file; its own report is shown where it fails, and the reasons of what it skips. */
async function runFile(file: string): Promise<void> {
  const began = Date.now()
  const command = ['--import', 'tsx', '--test-reporter', 'spec', file]
  const env = { ...process.env, TESTS_FOLDER: FOLDER, TESTS_QUICK: '1', FORCE_COLOR: '0' }
  const child = spawn(process.execPath, command, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] })
  running.add(child)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
  const code = await new Promise((resolve) => child.once('close', resolve))
  running.delete(child)
  const count = (name: string) => Number(new RegExp(`^ℹ ${name} (\\d+)$`, 'm').exec(output)?.[1] ?? 0)
  for (const name of COUNTS) totals.set(name, (totals.get(name) ?? 0) + count(name))
  console.log(`${code === 0 ? '✔' : '✖'} ${nameOf(file)}: ${count('pass')} of ${count('tests')} in ${seconds(began)} s`)
  for (const [, skipped] of output.matchAll(/^ *﹣ (.*# (?!SKIP$).*)$/gm)) console.log(`  skipped: ${skipped}`)
  for (const [, note] of output.matchAll(/^ *ℹ (.*[^\d.\s])$/gm)) console.log(`  ${note}`)
  if (code === 0) return
  failures.push(`${file} ended with ${code}\n${output.split('✖ failing tests:').at(-1)?.trim()}`)
  console.log(failures.at(-1))
}

/** Ends all that runs, and its servers with it. */
function interrupted(): void {
  say('Interrupted: ending the servers of the tests.')
  for (const child of running) child.kill('SIGKILL')
  process.exit(130)
}

/** In memory, where there is room: on a disk the queue's fsync(2) takes a third of a server's time. */
function parentOf(): string {
  if (!existsSync('/dev/shm')) return tmpdir()
  const { bavail, bsize } = statfsSync('/dev/shm')
  return bavail * bsize > ROOM ? '/dev/shm' : tmpdir()
}

/** Kills what works below a run's folder, and removes that. */
function clear(folder: string): void {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (readlinkSync(`/proc/${pid}/cwd`).startsWith(`${folder}/`)) process.kill(Number(pid), 'SIGKILL')
    } catch {
      // It ended meanwhile.
    }
  }
  if (existsSync(folder)) execFileSync('rm', ['-rf', folder])
}

const nameOf = (file: string) => file.replace(/^.*\/|\.test\.ts$/g, '')
const seconds = (began: number) => ((Date.now() - began) / 1000).toFixed(1)

await run(import.meta.url, main)
