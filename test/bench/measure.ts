/** What the parts of the benchmark share: clocks, programs that are run, and a look at the server from outside. */
import { execFileSync, spawn } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, masterLogin } from '../../scripts/lib/accounts/accounts.ts'
import { Pop3Session } from '../../scripts/lib/mail/pop3.ts'
import type { Project } from '../harness.ts'

export const HOST = '127.0.0.1'

/**
 * Accounts that nobody has sent to, as lines of postfix-accounts.cf. Emptying one mailbox again and again would slow the
 * next load down: a file system without a journal looks through what was deleted lately at each new file.
 */
export const EMPTY_ACCOUNTS = Array.from({ length: 20 }, (_, n) => `empty${n}@${BAR.split('@')[1]}|{PLAIN}empty\n`)

let used = 0

/** The address of the next of them. */
export function emptyMailbox(): string {
  const [address] = EMPTY_ACCOUNTS[used++]?.split('|') ?? []
  if (!address) throw new Error('The benchmark has used up its empty mailboxes.')
  return address
}

/** Takes down one figure. */
export type Add = (what: string, value: number, unit: string) => void

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

/** Runs a program to its end; gives the seconds it took and its stdout. Throws with its words when it fails. */
export async function secondsOf(project: Project, program: string, args: string[]): Promise<[number, string]> {
  return timed(
    () =>
      new Promise<string>((resolve, reject) => {
        const child = spawn(program, args, { cwd: project.dir, env: project.env, stdio: ['ignore', 'pipe', 'pipe'] })
        const text = { stdout: '', stderr: '' }
        child.stdout.on('data', (chunk) => {
          text.stdout += chunk
        })
        child.stderr.on('data', (chunk) => {
          text.stderr += chunk
        })
        child.once('error', reject)
        child.once('close', (code) =>
          code === 0 ? resolve(text.stdout) : reject(new Error(`${program}: ${text.stderr}`)),
        )
      }),
  )
}

/** One of the project's scripts, as npm runs it; the seconds it took. */
export async function scriptSeconds(project: Project, name: string, ...args: string[]): Promise<number> {
  const [seconds] = await secondsOf(project, process.execPath, ['--import', 'tsx', `scripts/${name}.ts`, ...args])
  return seconds
}

/** The milliseconds of CPU of one of the project's scripts, start-up included. */
export async function cpuOf(project: Project, name: string, ...args: string[]): Promise<number> {
  const script = 'TIMEFORMAT="%U %S"; { time "$@" >/dev/null 2>/dev/null; } 2>&1'
  const command = [process.execPath, '--import', 'tsx', `scripts/${name}.ts`, ...args]
  const [, times] = await secondsOf(project, 'bash', ['-c', script, 'bash', ...command])
  return (
    times
      .trim()
      .split(' ')
      .map(Number)
      .reduce((sum, seconds) => sum + seconds, 0) * 1000
  )
}

/** Whether a program is on this machine. */
export function isInstalled(program: string): boolean {
  try {
    execFileSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

export function openMailbox(project: Project, address: string): Promise<Pop3Session> {
  return Pop3Session.open({ host: HOST, port: project.ports.pop3, tls: 'none', timeout: 60_000 }, masterLogin(address))
}

/** How many messages a mailbox has, over POP3. */
export async function countOf(project: Project, address: string): Promise<number> {
  const session = await openMailbox(project, address)
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
