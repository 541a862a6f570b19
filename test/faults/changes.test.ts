/** Restarts, reloads, changes of accounts and a reset while mail is sent all the time. */
import assert from 'node:assert/strict'
import { appendFileSync } from 'node:fs'
import { after, test } from 'node:test'
import { VIRTUAL_DOMAIN } from '../../scripts/lib/accounts/accounts.ts'
import { startedProject } from '../harness.ts'
import { DOVECOT_CF } from '../instance.ts'
import { ok } from '../mailboxes.ts'
import { audit, type Sender, Traffic } from './traffic.ts'

const project = await startedProject()
after(() => project.remove())

const ALICE = `alice@${VIRTUAL_DOMAIN}`
const BOB = `bob@${VIRTUAL_DOMAIN}`

/** What a run that goes well prints. */
const run = async (script: string, ...args: string[]) => ok(await project.run(script, ...args))

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
  const traffics: Traffic[] = []
  const change = async () => {
    for (const args of [
      [BOB, 'secret'],
      [ALICE, '--quota', '50M'],
      ['--update', ALICE, 'other'],
      ['--delete', BOB, '--yes'],
    ]) {
      await run('add_account', ...args)
    }
    await run('start')
  }
  const early = async () =>
    void traffics.push(await during('early', change, [{ port: 'smtp', to: () => [ALICE], pause: 20 }]))
  traffics.push(await during('accounts', early))
  await audit(t, project, traffics)
  for (const { refusals, broken } of traffics) assert.deepEqual([refusals, broken], [[], 0])
})

test('new settings of Postfix and Dovecot refuse and lose nothing', async (t) => {
  const traffic = await during('settings', async () => {
    for (const [file, line] of [
      [DOVECOT_CF, 'login_greeting = ready'],
      ['postfix-main.cf', 'smtpd_timeout = 200s'],
    ] as const) {
      appendFileSync(project.config(file), `${line}\n`)
      await run('start')
    }
  })
  // Dovecot ends LMTP sessions where they stand, at times between the delivery and its answer.
  await audit(t, project, [traffic], () => 2)
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
  await audit(t, project, [traffic], () => 4)
  // RFC 5321 section 3.8: the server shuts down.
  const others = traffic.refusals.filter((reply) => !reply.startsWith('421 '))
  assert.deepEqual(others, [])
})

test('reset while mail is sent ends, and what is accepted afterwards is all there', async (t) => {
  const afterwards: Traffic[] = []
  const before = await during('during', async () => {
    assert.match(await run('reset', '--yes'), /Deleted: \d+ messages/)
    afterwards.push(await during('afterwards', async () => {}))
  })
  await audit(t, project, afterwards)
  for (const { refusals, broken } of [before, ...afterwards]) assert.deepEqual([refusals, broken], [[], 0])
})
