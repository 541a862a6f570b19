/**
 * npm run bench: the server's speed and the scripts', side by side with what else is on this machine, on a server of
 * its own. Prints one table; --json prints the same as JSON; --quick takes fewer mails.
 */
import { execFileSync, spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { BAR, CATCHALL, FOO, masterLogin } from '../scripts/lib/accounts.ts'
import { print, run, say, table } from '../scripts/lib/cli.ts'
import { Pop3Session } from '../scripts/lib/pop3.ts'
import { smtpClient } from './deliveries.ts'
import { type Project, startedProject } from './harness.ts'

const HELP = `Usage: npm run bench [-- --quick] [--json]

Measures start, delivery, sending and reading on a server of its own, next to smtp-source and Python's poplib.

  --quick       200 mails instead of 1,000
  --json        one JSON object: {machine, rows: [{what, value, unit}]}`

interface Row {
  what: string
  value: number
  unit: string
}

const host = '127.0.0.1'
/** Size of a usual mail in bytes. */
const USUAL = 2_048
/** A large mail, in bytes; above the standard limit, which is raised for it. */
const LARGE = 20_000_000

/** Reads a mailbox and prints the seconds that it took. */
const POPLIB = `
import poplib, sys, time
begin = time.perf_counter()
box = poplib.POP3('127.0.0.1', int(sys.argv[1]))
box.user(sys.argv[2]); box.pass_('foo')
for n in range(1, box.stat()[0] + 1): box.retr(n)
box.quit()
print(time.perf_counter() - begin)`

await run(async () => {
  const options = { help: { type: 'boolean' }, quick: { type: 'boolean' }, json: { type: 'boolean' } } as const
  const { values } = parseArgs({ options })
  if (values.help) {
    print(HELP)
    return
  }
  const mails = values.quick ? 200 : 1_000
  const rows: Row[] = []
  const add = (what: string, value: number, unit: string) => {
    rows.push({ what, value: Number(value.toPrecision(3)), unit })
    say(`${what}: ${Number(value.toPrecision(3))} ${unit}`)
  }
  const project = await startedProject()
  try {
    await measureStart(project, add)
    await measureDelivery(project, add, values.quick ? 20 : 100)
    await measureSending(project, add, mails)
    await measureReading(project, add, mails)
    await measureLarge(project, add)
    await measureScripts(project, add)
  } finally {
    await project.remove()
  }
  const machine = `${cpus().length} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`
  if (values.json) print(JSON.stringify({ machine, rows }))
  else {
    print(machine)
    print(table(rows.map(({ what, value, unit }) => [what, String(value).padStart(8), unit])))
  }
})

type Add = (what: string, value: number, unit: string) => void

async function timed<T>(work: () => Promise<T>): Promise<[number, T]> {
  const begin = performance.now()
  const result = await work()
  return [(performance.now() - begin) / 1000, result]
}

/** Runs a program to its end; gives the seconds it took. Throws with its words when it fails. */
async function secondsOf(project: Project, program: string, args: string[]): Promise<number> {
  const [seconds] = await timed(
    () =>
      new Promise<void>((resolve, reject) => {
        const child = spawn(program, args, { cwd: project.dir, env: project.env, stdio: ['ignore', 'ignore', 'pipe'] })
        let stderr = ''
        child.stderr.on('data', (chunk) => {
          stderr += chunk
        })
        child.once('error', reject)
        child.once('close', (code) => (code === 0 ? resolve() : reject(new Error(`${program}: ${stderr}`))))
      }),
  )
  return seconds
}

/** One of the project's scripts, as npm runs it. */
function scriptSeconds(project: Project, name: string, ...args: string[]): Promise<number> {
  return secondsOf(project, process.execPath, ['--import', 'tsx', `scripts/${name}.ts`, ...args])
}

function median(numbers: number[], part = 0.5): number {
  const sorted = numbers.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN
}

async function measureStart(project: Project, add: Add): Promise<void> {
  const healthy: number[] = []
  const whole: number[] = []
  for (let n = 0; n < 5; n++) {
    await project.run('stop')
    const [seconds, { stdout }] = await timed(() => project.run('start'))
    healthy.push(Number(/up after ([\d.]+) s/.exec(stdout)?.[1]))
    whole.push(seconds)
  }
  add('start to healthy, native engine', median(healthy), 's')
  add('the whole npm start', median(whole), 's')
}

function openMailbox(project: Project, address: string): Promise<Pop3Session> {
  return Pop3Session.open({ host, port: project.ports.pop3, tls: 'none', timeout: 30_000 }, masterLogin(address))
}

async function countOf(project: Project, address: string): Promise<number> {
  const session = await openMailbox(project, address)
  const { count } = await session.stat()
  await session.quit()
  return count
}

/** Waits until a mailbox has `count` messages. */
async function readable(project: Project, address: string, count: number): Promise<void> {
  while ((await countOf(project, address)) < count) await new Promise((resolve) => setTimeout(resolve, 2))
}

async function measureDelivery(project: Project, add: Add, samples: number): Promise<void> {
  for (const [what, to, mailbox] of [
    ['a virtual mailbox', BAR, BAR],
    ['the catchall', 'someone@gmail.com', CATCHALL],
  ] as const) {
    const milliseconds: number[] = []
    for (let n = 0; n < samples; n++) {
      const before = await countOf(project, mailbox)
      const [seconds] = await timed(async () => {
        const connection = await smtpClient({ host, ports: project.ports })
        const message = `From: ${FOO}\r\nSubject: ${n}\r\n\r\n${'x'.repeat(1_000)}\r\n`
        await new Promise<void>((resolve, reject) => {
          connection.send({ from: FOO, to: [to] }, message, (error) => (error ? reject(error) : resolve()))
        })
        connection.quit()
        await readable(project, mailbox, before + 1)
      })
      milliseconds.push(seconds * 1000)
    }
    add(`send to readable, ${what}, median`, median(milliseconds), 'ms')
    add(`send to readable, ${what}, 95 %`, median(milliseconds, 0.95), 'ms')
  }
  await project.run('reset', '--yes')
}

/** Both send to the same server, in turns, each to an idle one; the last mails stay for the reading. */
async function measureSending(project: Project, add: Add, mails: number): Promise<void> {
  const source = ['-s', '10', '-d', '-m', String(mails), '-l', String(USUAL), '-f', FOO, '-t', BAR]
  const text = `${'x'.repeat(70)}\n`.repeat(Math.floor((USUAL - 400) / 71))
  const many = ['--count', String(mails), '--concurrency', '10', '--to', BAR, '--text', text]
  const rates = { source: [] as number[], readable: [] as number[], own: [] as number[] }
  for (let round = 0; round < 3; round++) {
    const [whole, accepted] = await timed(async () => {
      const seconds = await secondsOf(project, 'smtp-source', [...source, `${host}:${project.ports.smtp}`])
      await readable(project, BAR, mails)
      return seconds
    })
    rates.source.push(mails / accepted)
    rates.readable.push(mails / whole)
    await project.run('reset', '--yes')
    const { stdout, stderr } = await project.run('send_email', ...many)
    const rate = /([\d.]+) messages per second/.exec(stdout)?.[1]
    if (!rate) throw new Error(`send_email: ${stdout}${stderr}`)
    rates.own.push(Number(rate))
    await readable(project, BAR, mails)
    if (round < 2) await project.run('reset', '--yes')
  }
  add(`smtp-source -s 10 -d, ${mails} mails, accepted`, median(rates.source), 'mails/s')
  add('the same, readable over POP3', median(rates.readable), 'mails/s')
  add(`send_email --count ${mails} --concurrency 10, accepted`, median(rates.own), 'mails/s')
}

/** Without the start-up of either language: Python's own clock, and what a full mailbox takes longer than an empty one. */
async function measureReading(project: Project, add: Add, mails: number): Promise<void> {
  const python = [1, 2, 3].map(() => {
    const args = ['-c', POPLIB, String(project.ports.pop3), BAR]
    return Number(execFileSync('python3', args, { encoding: 'utf8' }))
  })
  add(`a plain loop of Python's poplib, ${mails} mails`, mails / median(python), 'mails/s')
  for (const view of ['--raw', '--list', '--json', '']) {
    const options = view === '' ? [] : [view]
    const longer: number[] = []
    for (let round = 0; round < 3; round++) {
      const empty = await scriptSeconds(project, 'pop_email', '--account', 'foo', ...options)
      longer.push((await scriptSeconds(project, 'pop_email', '--account', 'bar', ...options)) - empty)
    }
    add(`pop_email ${view}`.trim(), mails / median(longer), 'mails/s')
  }
  await project.run('reset', '--yes')
}

async function measureLarge(project: Project, add: Add): Promise<void> {
  const file = project.path('development-mail-server.env')
  const limit = /POSTFIX_MESSAGE_SIZE_LIMIT=\d+/
  writeFileSync(file, readFileSync(file, 'utf8').replace(limit, `POSTFIX_MESSAGE_SIZE_LIMIT=${2 * LARGE}`))
  await project.start()
  const line = `${'x'.repeat(76)}\n`
  writeFileSync(project.path('large.eml'), `Subject: large\n\n${line.repeat(LARGE / line.length)}`)
  const sent = await project.run('send_email', '--eml', 'large.eml', '--to', BAR)
  if (sent.code !== 0) throw new Error(sent.stderr)
  await readable(project, BAR, 1)
  for (const [what, tls, port] of [
    ['plain', 'none', project.ports.pop3],
    ['TLS', 'implicit', project.ports.pop3s],
  ] as const) {
    const session = await Pop3Session.open({ host, port, tls, timeout: 30_000 }, masterLogin(BAR))
    const [message] = await session.list()
    if (!message) throw new Error('the large mail is gone')
    const [seconds] = await timed(() => session.retrieve(message))
    await session.quit()
    add(`a mail of 20 MB read over POP3, ${what}`, seconds, 's')
  }
}

async function measureScripts(project: Project, add: Add): Promise<void> {
  writeFileSync(project.path('scripts', 'empty.ts'), '')
  for (const [name, ...args] of [
    ['empty'],
    ['send_email', '--help'],
    ['pop_email', '--help'],
    ['add_account', '--help'],
    ['doctor', '--help'],
    ['status'],
  ]) {
    const runs: number[] = []
    for (let n = 0; n < 5; n++) runs.push((await scriptSeconds(project, name ?? '', ...args)) * 1000)
    add(name === 'empty' ? 'an empty script run by tsx' : [name, ...args].join(' '), median(runs), 'ms')
  }
}
