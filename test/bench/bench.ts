/**
 * npm run bench: the server's speed and the scripts', side by side with what else is on this machine, on a server of
 * its own. Prints one table.
 */
import { appendFileSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { BAR, CATCHALL, FOO } from '../../scripts/lib/accounts/accounts.ts'
import { EXIT, type ExitName, parse, print, run } from '../../scripts/lib/cli.ts'
import { Project } from '../harness.ts'
import { measureInbox, measureMailDevsInbox } from './inbox.ts'
import { measureMailDev, measureReading, measureSending } from './load.ts'
import {
  countOf,
  EMPTY_ACCOUNTS,
  Figures,
  FORMS,
  fill,
  HOST,
  inTurns,
  memoryOf,
  post,
  quantile,
  readable,
  runOf,
  scriptOf,
  timed,
} from './measure.ts'
import { plot } from './plot.ts'

const HELP = `Usage: npm run bench [-- options]

Measures start, delivery, sending, reading and large mailboxes on a server of its own, next to smtp-source, Python's
smtplib and poplib, and swaks, as far as they are installed. A script is measured as a user types it: "node scripts/..."
with Node 22.18 and newer, else "npx tsx scripts/...", from the start of its process to the end. Takes about 5 minutes;
the machine should do nothing else.

  --quick       fewer mails and rounds: about a minute and a half
  --peers       the same loads on MailDev, which npx fetches from the npm registry
  --plot FILE   writes the rates side by side as an SVG
  --json        one JSON object: {machine, figures: [{group, what, unit, median, least, most}]}`

/** The largest mail that the server takes by default has 10,240,000 bytes. */
const LARGE = 10_000_000

async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(args, {
    ...{ quick: { type: 'boolean' }, peers: { type: 'boolean' }, json: { type: 'boolean' } },
    plot: { type: 'string' },
  })
  if (values.help) {
    print(HELP)
    return
  }
  const { quick, peers } = values
  const [mails, rounds] = quick ? [200, 3] : [1_000, 5]
  const figures = new Figures()
  const project = await Project.create()
  let isInterrupted = false
  process.once('SIGINT', () => {
    isInterrupted = true
    void project.remove().finally(() => process.exit(EXIT.interrupted.code))
  })
  try {
    appendFileSync(project.config('postfix-accounts.cf'), EMPTY_ACCOUNTS.join(''))
    figures.group = 'The server'
    await measureStart(project, figures, rounds)
    await measureDelivery(project, figures, quick ? 20 : 60)
    figures.group = `${mails} mails of 2 kB sent, 10 at a time`
    await measureSending(project, figures, mails, rounds)
    if (peers) await measureMailDev(project, figures, mails, rounds)
    figures.group = `${5 * mails} mails of 2 kB read`
    await measureReading(project, figures, 5 * mails, rounds)
    figures.group = 'One run of a program'
    await measureOneRun(project, figures, rounds)
    await measureLarge(project, figures, rounds)
    for (const size of quick ? [1, 1_000] : [1, 10_000]) {
      figures.group = `Mails in the catchall: ${size}`
      await measureCatchall(project, figures, size, rounds)
    }
    figures.group = 'The inbox'
    await measureInbox(project, figures, quick ? [1, 1_000] : [1, 1_000, 10_000])
    if (peers) await measureMailDevsInbox(project, figures, [1, 1_000])
  } catch (error) {
    // Ctrl-C ends the program as well that is being measured.
    if (!isInterrupted) throw error
    return 'interrupted'
  } finally {
    await project.remove()
  }
  const machine = `${cpus().length} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`
  if (values.plot !== undefined) writeFileSync(values.plot, plot(figures.all, `npm run bench on ${machine}`))
  print(values.json ? JSON.stringify({ machine, figures: figures.all }) : `${machine}\n\n${figures.table()}`)
}

async function measureStart(project: Project, figures: Figures, rounds: number): Promise<void> {
  const healthy: number[] = []
  const whole: number[] = []
  for (let n = 0; n < rounds; n++) {
    await project.run('stop')
    const [seconds, { stdout }] = await timed(() => project.run('start'))
    healthy.push(Number(/up after ([\d.]+) s/.exec(stdout)?.[1]))
    whole.push(seconds)
  }
  figures.add('start to healthy, native engine', 's', ...healthy)
  figures.add('the whole npm start', 's', ...whole)
  figures.add('memory of all processes, idle', 'MB', memoryOf(project))
}

async function measureDelivery(project: Project, figures: Figures, samples: number): Promise<void> {
  for (const [to, mailbox] of [
    [BAR, BAR],
    ['someone@gmail.com', CATCHALL],
  ] as const) {
    const milliseconds = await deliveryTimes(project, to, mailbox, samples)
    const what = `one mail from sending to readable, ${mailbox === BAR ? 'a virtual mailbox' : 'the catchall'}`
    figures.add(what, 'ms', ...milliseconds)
    figures.add(`${what}, 95 of 100`, 'ms', quantile(milliseconds, 0.95))
  }
}

/** Milliseconds from the begin of the SMTP dialogue until POP3 shows the mail, `samples` times. */
async function deliveryTimes(project: Project, to: string, mailbox: string, samples: number): Promise<number[]> {
  const milliseconds: number[] = []
  for (let n = 0; n < samples; n++) {
    const before = await countOf(project, mailbox)
    const [seconds] = await timed(async () => {
      await post(project.ports.smtp, to)
      await readable(project, mailbox, before + 1, 2)
    })
    milliseconds.push(seconds * 1000)
  }
  return milliseconds
}

async function measureOneRun(project: Project, figures: Figures, rounds: number): Promise<void> {
  const smtp = `${project.ports.smtp}`
  const python = `import smtplib; smtplib.SMTP('${HOST}', ${smtp}).sendmail('${FOO}', ['${BAR}'], 'Subject: one')`
  const scripts = [['send_email', '--help'], ['send_email'], ['pop_email', '--last', '1']]
  const programs: Record<string, string[]> = {
    ...Object.fromEntries(
      FORMS.flatMap((form) =>
        scripts.map(([name, ...args]) => [
          [...form, name, ...args].join(' '),
          [...form, `scripts/${name}.ts`, ...args],
        ]),
      ),
    ),
    [`${FORMS[0]?.join(' ')} status`]: scriptOf('status'),
    'swaks, one mail': ['swaks', '--server', HOST, '--port', smtp, '--from', FOO, '--to', BAR],
    "Python's smtplib, one mail": ['python3', '-c', python],
  }
  figures.addSeconds(await inTurns(project, rounds, programs))
}

/** One mail of the largest size, sent and read, plain and over TLS. */
async function measureLarge(project: Project, figures: Figures, rounds: number): Promise<void> {
  const line = `${'x'.repeat(76)}\n`
  writeFileSync(project.path('large.eml'), `Subject: large\n\n${line.repeat(LARGE / line.length)}`)
  const programs = Object.fromEntries(
    ['none', 'implicit'].flatMap((tls) => [
      [
        `send_email, a mail of 10 MB, --tls ${tls}`,
        scriptOf('send_email', '--eml', 'large.eml', '--to', BAR, '--tls', tls),
      ],
      [`pop_email --raw, a mail of 10 MB, --tls ${tls}`, scriptOf('pop_email', '--raw', '--last', '1', '--tls', tls)],
    ]),
  )
  await runOf(project, programs['send_email, a mail of 10 MB, --tls none'] ?? [])
  await readable(project, BAR, 1, 25)
  figures.addSeconds(await inTurns(project, rounds, programs))
}

/** A catchall of so many mails: the newest one read, a mail that is waited for found, one mail delivered. */
async function measureCatchall(project: Project, figures: Figures, mails: number, rounds: number): Promise<void> {
  await fill(project, mails)
  const look = (...args: string[]) => scriptOf('pop_email', '--account', 'catchall', ...args)
  // Exit code 11 says that no such mail is there.
  const inVain = `${look('--to', 'nobody@bench.example', '--wait', '0').join(' ')} || test $? -eq 11`
  const programs = {
    'pop_email --last 1': look('--last', '1'),
    'pop_email --to ADDRESS --wait 10, for the newest': look(
      '--to',
      `number-${mails - 1}@bench.example`,
      '--wait',
      '10',
    ),
    'pop_email --to ADDRESS --wait 0, in vain': ['sh', '-c', inVain],
  }
  figures.addSeconds(await inTurns(project, rounds, programs))
  const milliseconds = await deliveryTimes(project, 'someone@gmail.com', CATCHALL, 3 * rounds)
  figures.add('one more mail from sending to readable', 'ms', ...milliseconds)
}

await run(import.meta.url, main)
