/** How fast pop_email reads: many mails, one, a large one, and the first look into a big mailbox. */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { BAR, CATCHALL, masterLogin } from '../../scripts/lib/accounts/accounts.ts'
import { Pop3Session } from '../../scripts/lib/mail/pop3.ts'
import type { Project } from '../harness.ts'
import { fill } from './growth.ts'
import { type Add, cpuOf, emptyMailbox, HOST, quantile, readable, scriptSeconds, timed } from './measure.ts'

/** A large mail, in bytes; the server takes 10,240,000. */
const LARGE = 10_000_000

/** Reads a mailbox and prints the seconds that it took. */
const POPLIB = `
import poplib, sys, time
begin = time.perf_counter()
box = poplib.POP3('127.0.0.1', int(sys.argv[1]))
box.user(sys.argv[2]); box.pass_('empty')
for n in range(1, box.stat()[0] + 1): box.retr(n)
box.quit()
print(time.perf_counter() - begin)`

/** Without the start-up of either language: Python's own clock, and what a full mailbox takes longer than an empty one. */
export async function measureReading(project: Project, add: Add, mails: number): Promise<void> {
  const mailbox = emptyMailbox()
  const sent = await project.run('send_email', '--count', String(mails), '--to', mailbox, '--text', 'x'.repeat(2_000))
  if (sent.code !== 0) throw new Error(sent.stderr)
  await readable(project, mailbox, mails, 25)
  const nobody = emptyMailbox()
  const python = [1, 2, 3].map(() => {
    const args = ['-c', POPLIB, String(project.ports.pop3), mailbox]
    return Number(execFileSync('python3', args, { encoding: 'utf8' }))
  })
  add(`a plain loop of Python's poplib, ${mails} mails`, mails / quantile(python), 'mails/s')
  for (const view of ['--raw', '--list', '--json', '']) {
    const options = view === '' ? [] : [view]
    const longer: number[] = []
    for (let round = 0; round < 3; round++) {
      const empty = await scriptSeconds(project, 'pop_email', '--account', nobody, ...options)
      longer.push((await scriptSeconds(project, 'pop_email', '--account', mailbox, ...options)) - empty)
    }
    add(`pop_email ${view}`.trim(), mails / quantile(longer), 'mails/s')
  }
  const cpu: number[] = []
  for (let round = 0; round < 5; round++)
    cpu.push(await cpuOf(project, 'pop_email', '--account', mailbox, '--last', '1'))
  add('pop_email --last 1, start-up included', quantile(cpu), 'ms of CPU')
}

/**
 * A wait for a mail that is there, the newest, and a look for one that is not: at one mail in the catchall and at many.
 * Each run is a whole one, start-up included.
 */
export async function measureWait(project: Project, add: Add, many: number): Promise<void> {
  const wanted = 'someone@gmail.com'
  for (const mails of [1, many]) {
    await fill(project, CATCHALL, mails - 1, 'other@gmail.com')
    await fill(project, CATCHALL, mails, wanted)
    for (const [what, to, seconds] of [
      ['for the newest', wanted, '10'],
      ['in vain, one look', 'nobody@gmail.com', '0'],
    ] as const) {
      const runs: number[] = []
      for (let round = 0; round < 5; round++) {
        const args = ['--account', 'catchall', '--to', to, '--wait', seconds, '--list']
        runs.push((await timed(() => project.run('pop_email', ...args)))[0] * 1000)
      }
      add(`${mails} mails in the catchall: pop_email --to --wait ${what}`, quantile(runs), 'ms')
    }
  }
}

export async function measureLarge(project: Project, add: Add): Promise<void> {
  const line = `${'x'.repeat(76)}\n`
  writeFileSync(project.path('large.eml'), `Subject: large\n\n${line.repeat(LARGE / line.length)}`)
  const sent = await project.run('send_email', '--eml', 'large.eml', '--to', BAR)
  if (sent.code !== 0) throw new Error(sent.stderr)
  await readable(project, BAR, 1, 25)
  for (const [what, tls, port] of [
    ['plain', 'none', project.ports.pop3],
    ['TLS', 'implicit', project.ports.pop3s],
  ] as const) {
    const session = await Pop3Session.open({ host: HOST, port, tls, timeout: 30_000 }, masterLogin(BAR))
    const [message] = await session.list()
    if (!message) throw new Error('the large mail is gone')
    const [seconds] = await timed(() => session.retrieve(message))
    await session.quit()
    add(`a mail of 10 MB read over POP3, ${what}`, seconds, 's')
  }
}
