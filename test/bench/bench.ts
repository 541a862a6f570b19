/**
 * npm run bench: the server's speed and the scripts', side by side with what else is on this machine, on a server of
 * its own. Prints one table.
 */
import { appendFileSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { BAR, CATCHALL } from '../../scripts/lib/accounts/accounts.ts'
import { EXIT, type ExitName, parse, print, run, say, table } from '../../scripts/lib/cli.ts'
import { Project } from '../harness.ts'
import { deliveryTimes, type Growth, measureGrowth } from './growth.ts'
import { measureHeavyLoad, measureLoad, measureMailDev, measureOneMail } from './load.ts'
import { type Add, EMPTY_ACCOUNTS, memoryOf, quantile, scriptSeconds, timed } from './measure.ts'
import { plot } from './plot.ts'
import { measureLarge, measureReading, measureWait } from './reading.ts'

const HELP = `Usage: npm run bench [-- options]

Measures start, delivery, sending, reading and growth on a server of its own, next to smtp-source and Python's smtplib
and poplib, and swaks where it is installed. Takes about 4 minutes; the machine should do nothing else.

  --quick       fewer mails and rounds: about a minute
  --peers       the same load on MailDev, which npx fetches from the npm registry
  --plot FILE   writes latency and throughput against the size of a mailbox as an SVG
  --json        one JSON object: {machine, rows: [{what, value, unit}], growth: [{mails, newest, delivery, accepted, readable}]}`

interface Row {
  what: string
  value: number
  unit: string
}

async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(args, {
    quick: { type: 'boolean' },
    peers: { type: 'boolean' },
    plot: { type: 'string' },
    json: { type: 'boolean' },
  })
  if (values.help) {
    print(HELP)
    return
  }
  const { quick } = values
  const rows: Row[] = []
  const add = (what: string, exact: number, unit: string) => {
    const value = Number(exact.toPrecision(3))
    rows.push({ what, value, unit })
    say(`${what}: ${value} ${unit}`)
  }
  const mails = quick ? 200 : 1_000
  const rounds = quick ? 1 : 3
  let growth: Growth[] = []
  const project = await Project.create()
  let isInterrupted = false
  process.once('SIGINT', () => {
    isInterrupted = true
    void project.remove().finally(() => process.exit(EXIT.interrupted.code))
  })
  try {
    appendFileSync(project.config('postfix-accounts.cf'), EMPTY_ACCOUNTS.join(''))
    await project.start()
    await measureStart(project, add)
    await measureDelivery(project, add, quick ? 20 : 60)
    await measureLoad(project, add, mails, rounds)
    if (values.peers) await measureMailDev(project, add, mails, rounds)
    await measureHeavyLoad(project, add, quick ? 1_000 : 10_000, quick ? 10 : 100)
    await measureOneMail(project, add)
    // Fewer are read within the noise of a start-up.
    await measureReading(project, add, 1_000)
    await project.run('reset', '--yes')
    growth = await measureGrowth(project, add, quick ? [100, 1_000] : [1_000, 10_000, 50_000])
    await project.run('reset', '--yes')
    await measureWait(project, add, quick ? 1_000 : 10_000)
    await project.run('reset', '--yes')
    await measureLarge(project, add)
    await measureScripts(project, add)
  } catch (error) {
    // Ctrl-C ends the program as well that is being measured.
    if (!isInterrupted) throw error
    return 'interrupted'
  } finally {
    await project.remove()
  }
  const machine = `${cpus().length} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`
  if (values.plot !== undefined) writeFileSync(values.plot, plot(growth, `npm run bench on ${machine}`))
  if (values.json) print(JSON.stringify({ machine, rows, growth }))
  else {
    print(machine)
    print(table(rows.map(({ what, value, unit }) => [what, String(value).padStart(8), unit])))
  }
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
  add('start to healthy, native engine', quantile(healthy), 's')
  add('the whole npm start', quantile(whole), 's')
  add('memory of all processes, idle', memoryOf(project), 'MB')
}

async function measureDelivery(project: Project, add: Add, samples: number): Promise<void> {
  for (const [what, to, mailbox] of [
    ['a virtual mailbox', BAR, BAR],
    ['the catchall', 'someone@gmail.com', CATCHALL],
  ] as const) {
    const milliseconds = await deliveryTimes(project, to, mailbox, samples)
    add(`send to readable, ${what}, median`, quantile(milliseconds), 'ms')
    add(`send to readable, ${what}, 95 %`, quantile(milliseconds, 0.95), 'ms')
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
    add(name === 'empty' ? 'an empty script run by tsx' : [name, ...args].join(' '), quantile(runs), 'ms')
  }
}

await run(import.meta.url, main)
