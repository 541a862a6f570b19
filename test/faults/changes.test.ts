/** Restarts, reloads, changes of accounts and a reset while mail is sent all the time. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { BAR, CATCHALL, masterLogin, VIRTUAL_DOMAIN } from '../../scripts/lib/accounts/accounts.ts'
import { Pop3Session } from '../../scripts/lib/mail/pop3.ts'
import { messagesOf, send, subjectsOf } from '../deliveries.ts'
import { type Project, startedProject, until } from '../harness.ts'
import { DOVECOT_CF } from '../instance.ts'
import { ok } from '../mailboxes.ts'
import { booksOf, Delivered, deliverAllWaiting, queue, queueIsEmpty, type Sender, Traffic } from './traffic.ts'

let project: Project
before(async () => {
  project = await startedProject()
})
after(() => project?.remove())

const ALICE = `alice@${VIRTUAL_DOMAIN}`
const BOB = `bob@${VIRTUAL_DOMAIN}`

/** Runs a script to its good end. */
async function run(script: string, ...args: string[]): Promise<string> {
  return ok(await project.runWith({ timeout: 600_000 }, script, ...args))
}

/**
 * Waits for all that was promised, then checks that every promise was kept, once or at most so often. The queue is no measure:
 * what is being delivered during a reload stays in it for a minute afterwards ("skipped, still being delivered").
 */
async function assertKept(note: (line: string) => void, atMost: number, ...traffics: Traffic[]): Promise<void> {
  const list = JSON.parse(await run('add_account', '--list', '--json')) as { address: string }[]
  const promised = traffics.flatMap((traffic) => traffic.promised())
  const look = async () => {
    const accounts = list.map(({ address }) => address)
    const delivered = await Delivered.read(project, accounts)
    return { delivered, ...booksOf(promised, delivered) }
  }
  const begin = performance.now()
  await until('every promised message', async () => (await look()).missing.length === 0, 60_000)
    // What waits for another try is late and not lost.
    .catch(() => deliverAllWaiting(project))
  const { delivered, missing, repeated, summary } = await look()
  const seconds = ((performance.now() - begin) / 1000).toFixed(1)
  note(`${summary}, all after ${seconds} s; ${traffics.map(({ troubles }) => troubles).join('; ')}`)
  const tooOften = repeated.filter(({ copies }) => copies > atMost)
  assert.deepEqual([missing, tooOften, delivered.bounces], [[], [], []])
  assert.deepEqual(
    traffics.flatMap(({ silent }) => silent),
    [],
  )
}

/** Sends mail while `work` goes on, before it and behind it. */
async function during(name: string, work: (traffic: Traffic) => Promise<void>, senders?: Sender[]): Promise<Traffic> {
  const traffic = new Traffic(project, name, senders)
  try {
    await traffic.more(10)
    await work(traffic)
    await traffic.more(10)
  } finally {
    await traffic.stop()
  }
  return traffic
}

test('starts of the running server and changes of accounts refuse, break and lose nothing', async (t) => {
  await run('add_account', ALICE, 'secret')
  let early: Promise<Traffic> | undefined
  const changes = [
    [BOB, 'secret'],
    [ALICE, '--quota', '50M'],
    ['--update', ALICE, 'other'],
    ['--delete', BOB, '--yes'],
  ]
  const traffic = await during('accounts', async () => {
    const change = async () => {
      for (const args of changes) await run('add_account', ...args)
      await run('start')
    }
    early = during('early', change, [{ port: 'smtp', to: () => [ALICE], pause: 20 }])
    await early
  })
  const both = [traffic, (await early) as Traffic]
  await assertKept((line) => t.diagnostic(line), 1, ...both)
  for (const { refusals, broken } of both) assert.deepEqual([refusals, broken], [[], 0])
})

test('new settings of Postfix and Dovecot refuse and lose nothing', async (t) => {
  const traffic = await during('settings', async () => {
    for (const [file, line] of [
      [DOVECOT_CF, 'login_greeting = ready'],
      ['postfix-main.cf', 'smtpd_timeout = 200s'],
      [DOVECOT_CF, 'login_greeting = ready again'],
    ] as const) {
      appendFileSync(project.config(file), `${line}\n`)
      await run('start')
    }
  })
  // Dovecot ends LMTP sessions where they stand, at times between the delivery and its answer.
  await assertKept((line) => t.diagnostic(line), 2, traffic)
  assert.deepEqual(traffic.refusals, [])
})

test('a stop and a start lose nothing, and while they last nobody hears that something does not exist', async (t) => {
  const traffic = await during('restart', async (traffic) => {
    for (let n = 0; n < 3; n++) {
      await run('stop')
      await run('start')
      await traffic.more(10)
    }
  })
  // Postfix ends deliveries where they stand, so one between Dovecot's answer and its record is repeated, at each stop.
  await assertKept((line) => t.diagnostic(line), 4, traffic)
  // RFC 5321 section 3.8: the server shuts down.
  assert.deepEqual(
    traffic.refusals.filter((reply) => !reply.startsWith('421 ')),
    [],
  )
})

test('mail in the queue and in the mailboxes outlives a stop, under the same UIDLs', async () => {
  const before = await uidls(BAR)
  assert.ok(before.length > 0)
  execFileSync('postconf', ['-c', `${project.stateDir}/postfix`, '-e', 'defer_transports=lmtp'])
  execFileSync('postfix', ['-c', `${project.stateDir}/postfix`, 'reload'], { stdio: 'ignore' })
  const waiting: string[] = []
  await until('three messages in the queue', async () => {
    const subject = `waiting ${waiting.length}`
    for (const to of [BAR, 'someone@client.example']) assert.equal(await send(project.ports, to, subject), null)
    waiting.push(subject)
    return (await queue(project)).filter(({ queue_name }) => queue_name === 'deferred').length >= 3
  })
  await run('stop')
  await run('start')
  await queueIsEmpty(project, 60_000)
  const where = { host: '127.0.0.1', ports: project.ports }
  for (const account of [BAR, CATCHALL]) {
    const found = subjectsOf(await messagesOf(where, account)).filter((subject) => subject.startsWith('waiting'))
    assert.deepEqual(found, waiting, account)
  }
  assert.deepEqual((await uidls(BAR)).slice(0, before.length), before)
})

test('reset while mail is sent ends, and what is accepted afterwards is all there', async (t) => {
  let afterwards: Promise<Traffic> | undefined
  const before = await during('during', async () => {
    assert.match(await run('reset', '--yes'), /Deleted: \d+ messages/)
    afterwards = during('afterwards', async () => {})
    await afterwards
  })
  const last = (await afterwards) as Traffic
  await assertKept((line) => t.diagnostic(line), 1, last)
  assert.deepEqual([before.refusals, before.broken, last.refusals], [[], 0, []])
})

async function uidls(account: string): Promise<string[]> {
  const server = { host: '127.0.0.1', port: project.ports.pop3, tls: 'none', timeout: 20_000 } as const
  const session = await Pop3Session.open(server, masterLogin(account))
  try {
    return (await session.list()).map(({ uidl }) => uidl)
  } finally {
    session.close()
  }
}
