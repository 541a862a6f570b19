/** Many mails at once, by whom and to whom: each figure is the whole run of a program, from its start to its end. */
import { FOO } from '../../scripts/lib/accounts/accounts.ts'
import type { Project } from '../harness.ts'
import {
  emptyMailbox,
  type Figures,
  HOST,
  inTurns,
  isInstalled,
  readable,
  runOf,
  scriptOf,
  timed,
  withMailDev,
} from './measure.ts'

/** Bytes of a mail. */
const USUAL = 2_048
/** Connections at the same time. */
const PARALLEL = 10
/** Milliseconds between two looks at a mailbox under load: looking costs the server time as well. */
const PAUSE = 25

/** Threads that send over a connection each, or over a new one for each mail. */
const SMTPLIB = `
import smtplib, sys, threading
port, mails, size, to, kept = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5] == 'kept'
text = 'Subject: smtplib\\r\\n\\r\\n' + ('x' * 70 + '\\r\\n') * (size // 72)
def send(count):
    with smtplib.SMTP('${HOST}', port) as smtp:
        for n in range(count): smtp.sendmail('${FOO}', [to], text)
def work():
    count = mails // ${PARALLEL}
    if kept: send(count)
    else:
        for n in range(count): send(1)
crowd = [threading.Thread(target=work) for n in range(${PARALLEL})]
for thread in crowd: thread.start()
for thread in crowd: thread.join()`

/** Reads a mailbox, and does nothing with it. */
const POPLIB = `
import poplib, sys
box = poplib.POP3('${HOST}', int(sys.argv[1]))
box.user(sys.argv[2]); box.pass_('empty')
for n in range(1, box.stat()[0] + 1): box.retr(n)
box.quit()`

interface Load {
  port: number
  mails: number
  size: number
  to: string
}

const smtpSource = ({ port, mails, size, to }: Load, ...options: string[]) => [
  ...['smtp-source', '-s', `${PARALLEL}`, ...options],
  ...['-m', `${mails}`, '-l', `${size}`, '-f', FOO, '-t', to, `${HOST}:${port}`],
]
const smtplib = ({ port, mails, size, to }: Load, how: string) => [
  ...['python3', '-c', SMTPLIB, `${port}`, `${mails}`, `${size}`, to, how],
]

/** Who hands mails over; each with connections that are kept, or with a new one for each mail. */
const SENDERS: Record<string, (load: Load) => string[]> = {
  'smtp-source, connections kept': (load) => smtpSource(load, '-d'),
  'smtp-source, a connection for each mail': (load) => smtpSource(load),
  "Python's smtplib, connections kept": (load) => smtplib(load, 'kept'),
  "Python's smtplib, a connection for each mail": (load) => smtplib(load, 'anew'),
}

function sendEmail({ mails, size, to }: Load): string[] {
  const text = `${'x'.repeat(70)}\n`.repeat(Math.floor((size - 400) / 71))
  return scriptOf('send_email', '--count', `${mails}`, '--concurrency', `${PARALLEL}`, '--to', to, '--text', text)
}

/** Rates of all senders, in turns, each to an empty mailbox: until the sender is done, and until all is readable over POP3. */
export async function measureSending(project: Project, figures: Figures, mails: number, rounds: number) {
  const all: typeof SENDERS = { ...SENDERS, 'send_email --count --concurrency 10': sendEmail }
  const results = new Map<string, number[]>()
  const note = (name: string, rate: number) => results.set(name, [...(results.get(name) ?? []), rate])
  for (let round = 0; round < rounds; round++) {
    for (const [name, commandOf] of Object.entries(all)) {
      const to = emptyMailbox()
      const command = commandOf({ port: project.ports.smtp, mails, size: USUAL, to })
      if (!isInstalled(command[0] ?? '')) continue
      const [accepted] = await runOf(project, command)
      const [more] = await timed(() => readable(project, to, mails, PAUSE))
      note(`${name}: accepted`, mails / accepted)
      note(`${name}: readable over POP3`, mails / (accepted + more))
    }
  }
  for (const [name, rates] of results) figures.add(name, 'mails/s', ...rates)
}

/** A mailbox of so many mails read by a plain loop of Python's poplib, and by pop_email. */
export async function measureReading(project: Project, figures: Figures, mails: number, rounds: number) {
  const to = emptyMailbox()
  await runOf(project, sendEmail({ port: project.ports.smtp, mails, size: USUAL, to }))
  await readable(project, to, mails, PAUSE)
  const views = [['--raw'], ['--json'], ['--list'], []].map((options) => {
    return [`pop_email ${options}`.trim(), scriptOf('pop_email', '--account', to, ...options)]
  })
  const poplib = ['python3', '-c', POPLIB, `${project.ports.pop3}`, to]
  const programs = { "Python's poplib, a plain loop": poplib, ...Object.fromEntries(views) }
  figures.addSeconds(await inTurns(project, rounds, programs), mails)
}

/** The same loads on MailDev, and its list of mails, asked over a connection that is kept and over new ones. */
export function measureMailDev(project: Project, figures: Figures, mails: number, rounds: number): Promise<void> {
  return withMailDev(project, async ({ smtp: port, web }) => {
    const load = { port, mails, size: USUAL, to: 'someone@gmail.com' }
    const names = Object.entries(SENDERS).map(([name, command]) => [`MailDev, by ${name}: accepted`, command(load)])
    figures.addSeconds(await inTurns(project, rounds, Object.fromEntries(names)), mails)
    for (const [how, connection] of [
      ['connections kept', 'keep-alive'],
      ['a connection for each question', 'close'],
    ] as const) {
      const list = async () => (await fetch(`http://${HOST}:${web}/email`, { headers: { connection } })).text()
      const seconds: number[] = []
      for (let round = 0; round < rounds; round++) seconds.push((await timed(list))[0])
      figures.addSeconds({ [`MailDev's API, its list of mails, ${how}`]: seconds })
    }
  })
}
