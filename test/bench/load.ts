/** Many mails at once: who hands them over, and to which server. */
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { BAR, CATCHALL, FOO } from '../../scripts/lib/accounts/accounts.ts'
import { say } from '../../scripts/lib/cli.ts'
import { type Project, until } from '../harness.ts'
import {
  type Add,
  countOf,
  emptyMailbox,
  HOST,
  isInstalled,
  memoryOf,
  quantile,
  readable,
  secondsOf,
  timed,
} from './measure.ts'

/** Sizes of a usual and of a large mail, in bytes. */
const USUAL = 2_048
const LARGE = 5_242_880
/** Connections at the same time. */
const PARALLEL = 10
/** Milliseconds between two looks at a mailbox under load: looking costs the server time as well. */
const PAUSE = 25

/** Threads that each send over a connection of their own; prints the seconds from the first to the last. */
const SMTPLIB = `
import smtplib, sys, threading, time
port, mails, size, to, threads = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], ${PARALLEL}
text = 'Subject: smtplib\\r\\n\\r\\n' + ('x' * 70 + '\\r\\n') * (size // 72)
def work():
    with smtplib.SMTP('${HOST}', port) as smtp:
        for n in range(mails // threads): smtp.sendmail('${FOO}', [to], text)
begin = time.perf_counter()
crowd = [threading.Thread(target=work) for n in range(threads)]
for thread in crowd: thread.start()
for thread in crowd: thread.join()
print(time.perf_counter() - begin)`

interface Load {
  port: number
  mails: number
  size: number
  to: string
}

/** Hands the mails over and gives the seconds until the last was accepted. */
type Sender = (project: Project, load: Load) => Promise<number>

const source =
  (...options: string[]): Sender =>
  async (project, { port, mails, size, to }) => {
    const what = ['-m', String(mails), '-l', String(size), '-f', FOO, '-t', to]
    const [seconds] = await secondsOf(project, 'smtp-source', [...options, ...what, `${HOST}:${port}`])
    return seconds
  }

const ANEW = `smtp-source -s ${PARALLEL}, a connection for each mail`
const KEPT = `smtp-source -s ${PARALLEL} -d, connections kept`

const SENDERS: Record<string, Sender> = {
  [ANEW]: source('-s', String(PARALLEL)),
  [KEPT]: source('-s', String(PARALLEL), '-d'),
  [`Python's smtplib, ${PARALLEL} threads`]: async (project, { port, mails, size, to }) => {
    const [, stdout] = await secondsOf(project, 'python3', ['-c', SMTPLIB, ...[port, mails, size].map(String), to])
    return Number(stdout)
  },
  [`send_email --count --concurrency ${PARALLEL}`]: async (project, { mails, size, to }) => {
    const text = `${'x'.repeat(70)}\n`.repeat(Math.floor((size - 400) / 71))
    const args = ['--count', String(mails), '--concurrency', String(PARALLEL), '--to', to, '--text', text]
    const { stdout, stderr } = await project.run('send_email', ...args)
    const rate = /([\d.]+) messages per second/.exec(stdout)?.[1]
    if (!rate) throw new Error(`send_email: ${stdout}${stderr}`)
    return mails / Number(rate)
  },
}

/** The senders of this machine. */
function senders(): [string, Sender][] {
  return Object.entries(SENDERS).filter(([name]) => {
    const program = /^smtp-source/.test(name) ? 'smtp-source' : /^Python/.test(name) ? 'python3' : 'sh'
    if (isInstalled(program)) return true
    say(`${name}: left out, ${program} is not on this machine.`)
    return false
  })
}

/** Sends to a mailbox: seconds until all is accepted, and until all is readable. */
async function burst(project: Project, mailbox: string, send: Sender, load: Omit<Load, 'port'>) {
  const before = await countOf(project, mailbox)
  const accepted = await send(project, { ...load, port: project.ports.smtp })
  const [more] = await timed(() => readable(project, mailbox, before + load.mails, PAUSE))
  return { accepted, whole: accepted + more }
}

/** Rates of all senders, in turns, each to an empty mailbox. */
export async function measureLoad(project: Project, add: Add, mails: number, rounds: number): Promise<void> {
  const all = senders()
  const runs = new Map(all.map(([name]) => [name, [] as { accepted: number; whole: number }[]]))
  for (let round = 0; round < rounds; round++) {
    for (const [name, send] of all) {
      const to = emptyMailbox()
      runs.get(name)?.push(await burst(project, to, send, { mails, size: USUAL, to }))
    }
  }
  for (const [name, list] of runs) addRates(add, `${mails} mails of 2 kB, ${name}`, mails, list)
  if (!isInstalled('smtp-source')) return
  const caught = []
  const send = SENDERS[KEPT] as Sender
  for (let round = 0; round < rounds; round++) {
    caught.push(await burst(project, CATCHALL, send, { mails, size: USUAL, to: 'someone@gmail.com' }))
  }
  addRates(add, `${mails} mails of 2 kB to the catchall, connections kept`, mails, caught)
}

/** Longer and larger loads, once each, and what the server needs of memory meanwhile. */
export async function measureHeavyLoad(project: Project, add: Add, mails: number, large: number): Promise<void> {
  if (!isInstalled('smtp-source')) return
  let most = 0
  const look = setInterval(() => {
    most = Math.max(most, memoryOf(project))
  }, 250)
  try {
    const send = SENDERS[KEPT] as Sender
    const to = emptyMailbox()
    const many = await burst(project, to, send, { mails, size: USUAL, to })
    addRates(add, `${mails} mails of 2 kB, connections kept`, mails, [many])
    const heavy = await burst(project, BAR, send, { mails: large, size: LARGE, to: BAR })
    addRates(add, `${large} mails of 5 MB, connections kept`, large, [heavy])
  } finally {
    clearInterval(look)
  }
  add('memory of all processes under these loads, at most', most, 'MB')
}

function addRates(add: Add, what: string, mails: number, runs: { accepted: number; whole: number }[]): void {
  add(`${what}: accepted`, quantile(runs.map(({ accepted }) => mails / accepted)), 'mails/s')
  add(`${what}: readable`, quantile(runs.map(({ whole }) => mails / whole)), 'mails/s')
  add(`${what}: readable after`, quantile(runs.map(({ accepted, whole }) => whole / accepted)), '× that time')
}

/** One mail from nothing: the whole run of a program. */
export async function measureOneMail(project: Project, add: Add): Promise<void> {
  const programs: [string, string, string[]][] = [
    ['send_email', process.execPath, ['--import', 'tsx', 'scripts/send_email.ts']],
    ['swaks', 'swaks', ['--server', HOST, '--port', String(project.ports.smtp), '--from', FOO, '--to', BAR]],
  ]
  for (const [name, program, args] of programs) {
    if (!isInstalled(program)) {
      say(`${name}: left out, it is not on this machine.`)
      continue
    }
    const runs = []
    for (let n = 0; n < 5; n++) runs.push((await secondsOf(project, program, args))[0] * 1000)
    add(`one mail by ${name}, start-up included`, quantile(runs), 'ms')
  }
}

/** MailDev from the npm registry, on the same machine and under the same load. It keeps mail in memory and on the disk. */
export async function measureMailDev(project: Project, add: Add, mails: number, rounds: number): Promise<void> {
  const [port, web] = [await freePort(), await freePort()]
  const options = [
    '--ip',
    HOST,
    '--smtp',
    String(port),
    '--web',
    String(web),
    '--mail-directory',
    project.path('maildev'),
  ]
  const child = spawn('npx', ['--yes', 'maildev', ...options], {
    cwd: project.dir,
    env: project.env,
    stdio: 'ignore',
    // A process group of its own: npx does not hand signals on.
    detached: true,
  })
  try {
    const answers = () => fetch(`http://${HOST}:${web}/healthz`, { signal: AbortSignal.timeout(1_000) }).catch(() => {})
    await until('MailDev answers (npx fetches it from the registry)', answers, 120_000)
    for (const name of [ANEW, KEPT]) {
      const seconds = []
      for (let round = 0; round < rounds; round++) {
        seconds.push((await SENDERS[name]?.(project, { port, mails, size: USUAL, to: BAR })) ?? Number.NaN)
      }
      add(`${mails} mails of 2 kB to MailDev, ${name}: accepted`, mails / quantile(seconds), 'mails/s')
    }
  } finally {
    if (child.pid) process.kill(-child.pid, 'SIGTERM')
    await until('MailDev has ended', () => child.exitCode !== null || child.signalCode !== null)
  }
}

/** A port that nobody listens on. */
function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, HOST, () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}
