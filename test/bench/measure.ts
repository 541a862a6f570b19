/** What the parts of the benchmark share: figures, clocks, programs that are run, and a look at the server from outside. */
import { execFileSync, spawn } from 'node:child_process'
import { chownSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, CATCHALL, FOO, masterLogin } from '../../scripts/lib/accounts/accounts.ts'
import { say } from '../../scripts/lib/cli.ts'
import { Pop3Session } from '../../scripts/lib/mail/pop3.ts'
import { VMAIL_ID } from '../../scripts/lib/server/native_configuration.ts'
import { smtpClient } from '../deliveries.ts'
import { type Project, until } from '../harness.ts'

export const HOST = '127.0.0.1'

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

  /** Takes down the repetitions of one figure; of what was measured once, that. */
  add(what: string, unit: string, ...values: number[]): void {
    const round = (value: number) => Number(value.toPrecision(3))
    const [median = 0, least = 0, most = 0] = [quantile(values), Math.min(...values), Math.max(...values)].map(round)
    this.all.push({ group: this.group, what, unit, median, least, most })
    say(`${this.group}: ${what}: ${median} ${unit}${values.length > 1 ? ` (${least} to ${most})` : ''}`)
  }

  /** Seconds by what they were measured of, as milliseconds, or as a rate where it is told of how many mails. */
  addSeconds(measured: Record<string, number[]>, mails?: number): void {
    for (const [what, seconds] of Object.entries(measured)) {
      if (seconds.length === 0) continue
      if (mails) this.add(what, 'mails/s', ...seconds.map((each) => mails / each))
      else this.add(what, 'ms', ...seconds.map((each) => each * 1_000))
    }
  }

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

/** Seconds of several programs, each run `rounds` times in turns, so that a loaded minute meets them all. */
export async function inTurns(project: Project, rounds: number, programs: Record<string, string[]>) {
  const seconds = Object.fromEntries(Object.keys(programs).map((name) => [name, [] as number[]]))
  for (let round = 0; round < rounds; round++) {
    for (const [name, command] of Object.entries(programs)) {
      if (isInstalled(command[0] ?? '')) seconds[name]?.push((await runOf(project, command))[0])
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

/** A short mail over a connection of its own; gives when it was accepted. */
export async function post(port: number, to: string): Promise<number> {
  const connection = await smtpClient({ host: HOST, ports: {} as Project['ports'] }, port)
  const message = `From: ${FOO}\r\nTo: <${to}>\r\nSubject: Hello\r\n\r\n${'x'.repeat(1_000)}\r\n`
  await new Promise<void>((resolve, reject) => {
    connection.send({ from: FOO, to: [to] }, message, (error) => (error ? reject(error) : resolve()))
  })
  const accepted = performance.now()
  connection.quit()
  return accepted
}

/** Brings the catchall to so many mails, to number-N@bench.example: put where Dovecot finds new ones, as SMTP takes minutes. */
export async function fill(project: Project, mails: number): Promise<void> {
  const folder = `${project.stateDir}/mail/${CATCHALL.split('@').reverse().join('/')}/new`
  await project.run('reset', '--yes')
  mkdirSync(folder, { recursive: true })
  for (let n = 0; n < mails; n++) {
    const to = `number-${n}@bench.example`
    const mail = [
      `Return-Path: <shop@bench.example>\nDelivered-To: ${CATCHALL}\nX-Original-To: ${to}`,
      `Received: from client (unknown [127.0.0.1])\n\tby development-mail-server.example.com (Postfix) with ESMTP id ${queueId(n)}`,
      `\tfor <${to}>; Thu, 26 Nov 2026 14:46:25 +0000 (UTC)`,
      `Message-ID: <${n}@bench.example>\nSubject: Order ${n} is on its way\nFrom: "The Shop" <shop@bench.example>\nTo: <${to}>`,
      `MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\nYour code is ${100_000 + n}.\n${`${'x'.repeat(70)}\n`.repeat(20)}`,
    ].join('\n')
    const file = `${folder}/${1_700_000_000 + n}.M0P${n}.bench,S=${mail.length},W=${mail.length + mail.split('\n').length - 1}`
    writeFileSync(file, mail)
    chownSync(file, VMAIL_ID, VMAIL_ID)
  }
  // The first session after that reads them all; the second is as every later one.
  await readable(project, CATCHALL, mails, 100)
}

/** One of Postfix's long queue ids of some time ago, with the number of the mail in it. */
function queueId(n: number): string {
  const digits = '0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxy'
  const number = [51 ** 2, 51, 1].map((power) => digits[Math.floor(n / power) % 51]).join('')
  return `4jZ0${number}0000z${number}`
}

/** Does something while MailDev from the npm registry runs. It keeps mail in memory and on the disk. */
export async function withMailDev(project: Project, work: (ports: { smtp: number; web: number }) => Promise<void>) {
  const smtp = project.inboxPort
  const web = smtp + 1
  const options = ['--ip', HOST, '--smtp', `${smtp}`, '--web', `${web}`, '--mail-directory', project.path('maildev')]
  // A process group of its own: npx does not hand signals on.
  const child = spawn('npx', ['--yes', 'maildev', ...options], { cwd: project.dir, stdio: 'ignore', detached: true })
  try {
    const answers = () => fetch(`http://${HOST}:${web}/healthz`, { signal: AbortSignal.timeout(1_000) }).catch(() => {})
    await until('MailDev answers (npx fetches it from the registry)', answers, 180_000)
    await work({ smtp, web })
  } finally {
    if (child.pid) process.kill(-child.pid, 'SIGTERM')
    await until('MailDev has ended', () => child.exitCode !== null || child.signalCode !== null)
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
