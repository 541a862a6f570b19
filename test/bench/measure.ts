/** What the parts of the benchmark share: figures, clocks, programs that are run, and a look at the server from outside. */
import { execFileSync, spawn } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, masterLogin } from '../../scripts/lib/accounts/accounts.ts'
import { say } from '../../scripts/lib/cli.ts'
import { Pop3Session } from '../../scripts/lib/mail/pop3.ts'
import type { Project } from '../harness.ts'

export const HOST = '127.0.0.1'

/** Takes down one figure that was measured once, or is the median of its own repetitions. */
export type Add = (what: string, value: number, unit: string) => void

export interface Figure {
  group: string
  what: string
  unit: string
  median: number
  /** The least and the most of all repetitions. */
  least: number
  most: number
}

/** The figures of a run, in groups that are a heading each. */
export class Figures {
  readonly all: Figure[] = []
  group = ''

  /** Takes down the repetitions of one figure. */
  addAll(what: string, values: number[], unit: string): void {
    const round = (value: number) => Number(value.toPrecision(3))
    const [median, least, most] = [quantile(values), Math.min(...values), Math.max(...values)].map(round)
    this.all.push({ group: this.group, what, unit, median, least, most } as Figure)
    say(`${this.group}: ${what}: ${median} ${unit}${values.length > 1 ? ` (${least} to ${most})` : ''}`)
  }

  add: Add = (what, value, unit) => this.addAll(what, [value], unit)

  /** One table in Markdown. */
  table(): string {
    const rows = this.all.map(({ group, what, unit, median, least, most }, index) => {
      const heading = this.all[index - 1]?.group === group ? '' : `| **${group}** | | |\n`
      const spread = least === most ? '' : `${readably(least)} to ${readably(most)}`
      return `${heading}| ${what} | ${readably(median)} ${unit} | ${spread} |`
    })
    return ['| | median | all repetitions |', '|---|---|---|', ...rows].join('\n')
  }
}

export function readably(value: number): string {
  return value.toLocaleString('en', { maximumSignificantDigits: 3 })
}

/** Runs something; gives the seconds it took and its result. */
export async function timed<T>(work: () => Promise<T>): Promise<[number, T]> {
  const begin = performance.now()
  const result = await work()
  return [(performance.now() - begin) / 1000, result]
}

/** The number that `part` of the numbers are below; the median unless told. */
export function quantile(numbers: number[], part = 0.5): number {
  const sorted = numbers.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN
}

/** What a user types before the path of a script; plain `node` where it strips types itself, from Node 22.18 on. */
export const FORMS: string[][] = [
  ...('typescript' in process.features && process.features.typescript ? [['node']] : []),
  ['npx', 'tsx'],
]
const [FORM = []] = FORMS

/** One of the scripts as a user types it: `scriptOf('send_email', '--help')`. */
export function scriptOf(name: string, ...args: string[]): string[] {
  return [...FORM, `scripts/${name}.ts`, ...args]
}

/** Runs a program from its start to its end; gives the seconds and its stdout. Throws with its words when it fails. */
export async function runOf(project: Project, [program = '', ...args]: string[]): Promise<[number, string]> {
  const env = { ...project.env, PATH: `${dirname(process.execPath)}:${project.env.PATH}` }
  return timed(async () => {
    const child = spawn(program, args, { cwd: project.dir, env, stdio: ['ignore', 'pipe', 'pipe'] })
    const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
    const [code, stdout, stderr] = await Promise.all([ended, text(child.stdout), text(child.stderr)])
    if (code !== 0) throw new Error(`${program} ${args.slice(0, 3).join(' ')} ended with ${code}: ${stderr}`)
    return stdout
  })
}

export async function secondsOf(project: Project, command: string[]): Promise<number> {
  return (await runOf(project, command))[0]
}

/** `secondsOf` for several programs, `rounds` times in turns, so that a loaded minute meets them all. */
export async function inTurns(project: Project, rounds: number, programs: Record<string, string[]>) {
  const seconds = Object.fromEntries(Object.keys(programs).map((name) => [name, [] as number[]]))
  for (let round = 0; round < rounds; round++) {
    for (const [name, command] of Object.entries(programs)) {
      if (isInstalled(command[0] ?? '')) seconds[name]?.push(await secondsOf(project, command))
    }
  }
  return seconds
}

const missing = new Set<string>()

/** Whether a program is on this machine; says once where it is not. */
export function isInstalled(program: string): boolean {
  try {
    execFileSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' })
    return true
  } catch {
    if (!missing.has(program)) say(`${program} is not on this machine, and left out.`)
    missing.add(program)
    return false
  }
}

/**
 * Accounts that nobody has sent to, as lines of postfix-accounts.cf. Emptying one mailbox again and again would slow the
 * next load down: a file system without a journal looks through what was deleted lately at each new file.
 */
export const EMPTY_ACCOUNTS = Array.from({ length: 60 }, (_, n) => `empty${n}@${BAR.split('@')[1]}|{PLAIN}empty\n`)

let used = 0

/** The address of the next of them. */
export function emptyMailbox(): string {
  const [address] = EMPTY_ACCOUNTS[used++]?.split('|') ?? []
  if (!address) throw new Error('The benchmark has used up its empty mailboxes.')
  return address
}

/** How many messages a mailbox has, over POP3. */
export async function countOf(project: Project, address: string): Promise<number> {
  const server = { host: HOST, port: project.ports.pop3, tls: 'none', timeout: 60_000 } as const
  const session = await Pop3Session.open(server, masterLogin(address))
  const { count } = await session.stat()
  await session.quit()
  return count
}

/** Waits until a mailbox has `count` messages; looks every `pause` milliseconds, or less often where a look takes long. */
export async function readable(project: Project, address: string, count: number, pause: number): Promise<void> {
  const deadline = Date.now() + 600_000
  for (;;) {
    const [seconds, found] = await timed(() => countOf(project, address))
    if (found >= count) return
    if (Date.now() > deadline) throw new Error(`${address}: ${found} of ${count} mails after 10 minutes`)
    await sleep(Math.max(pause, seconds * 2000))
  }
}

/** Memory of all processes of the server in MB; what several share is counted once (PSS of proc(5)). */
export function memoryOf(project: Project): number {
  let kilobytes = 0
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (!readlinkSync(`/proc/${pid}/cwd`).startsWith(project.stateDir)) continue
      kilobytes += Number(/^Pss: +(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0)
    } catch {
      // Gone meanwhile.
    }
  }
  return kilobytes / 1024
}
