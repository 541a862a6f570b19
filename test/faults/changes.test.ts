/** Restarts, reloads, changes of accounts and a reset while mail is sent all the time. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { BAR, CATCHALL, FOO, masterLogin, VIRTUAL_DOMAIN } from '../../scripts/lib/accounts/accounts.ts'
import { Pop3Session } from '../../scripts/lib/mail/pop3.ts'
import { messagesOf, send, subjectsOf } from '../deliveries.ts'
import { type Project, startedProject, until } from '../harness.ts'
import { ok } from '../mailboxes.ts'
import { sendRaw } from '../smtp_raw.ts'
import { booksOf, Delivered, queue, queueIsEmpty, type Sender, Traffic } from './traffic.ts'

let project: Project
before(async () => {
  project = await startedProject()
})
after(() => project?.remove())

const ALICE = `alice@${VIRTUAL_DOMAIN}`
const BOB = `bob@${VIRTUAL_DOMAIN}`

/** Runs a script to its good end. */
async function run(script: string, ...args: string[]): Promise<string> {
  return ok(await project.run(script, ...args))
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
  const isThere = async () => {
    // What met a Dovecot that was just ending waits for Postfix's next try.
    execFileSync('postqueue', ['-c', `${project.stateDir}/postfix`, '-f'])
    return (await look()).missing.length === 0
  }
  await until('every promised message', isThere, 90_000).catch(() => {})
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

test('starts of the running server and changes of accounts refuse, break and lose nothing', async (t) => {
  const traffic = new Traffic(project, 'accounts')
  const toAlice: Sender[] = [{ port: 'smtp', to: () => [ALICE], pause: 20 }]
  let early: Traffic | undefined
  try {
    await traffic.more(10)
    for (let n = 0; n < 2; n++) await run('start')
    await run('add_account', ALICE, 'secret')
    early = new Traffic(project, 'early', toAlice)
    await early.more(5)
    await run('add_account', '--update', ALICE, 'other')
    await run('add_account', ALICE, '--quota', '50M')
    await run('add_account', ALICE, '--alias', `info@${VIRTUAL_DOMAIN}`)
    await run('add_account', BOB, 'secret')
    await run('add_account', '--delete', BOB, '--yes')
    await traffic.more(10)
  } finally {
    await Promise.all([traffic.stop(), early?.stop()])
  }
  await assertKept((line) => t.diagnostic(line), 1, traffic, early)
  for (const { refusals, broken } of [traffic, early]) assert.deepEqual([refusals, broken], [[], 0])
})

test('new settings of Postfix and Dovecot refuse and lose nothing', async (t) => {
  const traffic = new Traffic(project, 'settings')
  try {
    await traffic.more(10)
    for (const [file, line] of [
      ['dovecot.cf', 'login_greeting = ready'],
      ['postfix-main.cf', 'smtpd_timeout = 200s'],
      ['dovecot.cf', 'login_greeting = ready again'],
    ] as const) {
      appendFileSync(project.config(file), `${line}\n`)
      await run('start')
    }
    await traffic.more(10)
  } finally {
    await traffic.stop()
  }
  // Dovecot ends LMTP sessions where they stand, at times between the delivery and its answer.
  await assertKept((line) => t.diagnostic(line), 2, traffic)
  assert.deepEqual(traffic.refusals, [])
})

test('a stop and a start lose nothing, and while they last nobody hears that something does not exist', async (t) => {
  const traffic = new Traffic(project, 'restart')
  try {
    for (let n = 0; n < 3; n++) {
      await traffic.more(10)
      await run('stop')
      await run('start')
    }
    await traffic.more(10)
  } finally {
    await traffic.stop()
  }
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
  await queueIsEmpty(project, 10_000)
  const where = { host: '127.0.0.1', ports: project.ports }
  for (const account of [BAR, CATCHALL]) {
    const found = subjectsOf(await messagesOf(where, account)).filter((subject) => subject.startsWith('waiting'))
    assert.deepEqual(found, waiting, account)
  }
  assert.deepEqual((await uidls(BAR)).slice(0, before.length), before)
})

test('reset while mail is sent ends, and what is accepted afterwards is all there', async (t) => {
  const during = new Traffic(project, 'during')
  let afterwards: Traffic | undefined
  try {
    await during.more(20)
    assert.match(await run('reset', '--yes'), /Deleted: \d+ messages/)
    afterwards = new Traffic(project, 'afterwards')
    await afterwards.more(30)
  } finally {
    await Promise.all([during.stop(), afterwards?.stop()])
  }
  await assertKept((line) => t.diagnostic(line), 1, afterwards)
  assert.deepEqual([during.refusals, during.broken, afterwards.refusals], [[], 0, []])
})

test('mail beyond the quota of a new account bounces to its sender and says why', async () => {
  const carol = `carol@${VIRTUAL_DOMAIN}`
  const message = (n: number) => Buffer.from(`Subject: quota ${n}\r\n\r\n${`${'x'.repeat(70)}\r\n`.repeat(5_000)}`)
  await run('add_account', carol, 'secret', '--quota', '1M')
  const refused = []
  for (let n = 0; n < 6; n++) {
    const error = await sendRaw(project.ports.smtp, carol, message(n), FOO).catch((error: Error) => error)
    // One after the other: deliveries at the same moment all find the room that is left for one.
    await queueIsEmpty(project)
    if (!error) continue
    assert.match(error.message, /^552 5\.2\.2 /)
    refused.push(`quota ${n}`)
  }
  await queueIsEmpty(project)
  const where = { host: '127.0.0.1', ports: project.ports }
  const arrived = subjectsOf(await messagesOf(where, carol))
  assert.ok(arrived.length > 0 && arrived.length < 3, `${arrived} of 360 kB fit into 1 MB`)
  const bounces = (await messagesOf(where, FOO)).filter((source) => /^Return-Path: <>/m.test(source))
  const bounced = bounces.map((source) => {
    assert.match(source, /552 5\.2\.2 .*Quota exceeded/)
    return /^Subject: (quota \d)\r$/m.exec(source)?.[1] ?? ''
  })
  assert.deepEqual(
    [...arrived, ...bounced, ...refused].sort(),
    [0, 1, 2, 3, 4, 5].map((n) => `quota ${n}`),
  )
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
