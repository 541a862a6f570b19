/** Failures on demand: what an address with "+fail-..." is answered, as a recipient and as the sender. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { BAR, CATCHALL, FOO, VIRTUAL_DOMAIN } from '../scripts/lib/accounts/accounts.ts'
import { messagesOf, subjectsOf, type Where } from './deliveries.ts'
import { ROWS, transaction } from './failures.ts'
import { type Project, startedProject, until } from './harness.ts'

const SENDER = 'app@shop.example'
/** Somebody in a foreign domain, in the virtual mailbox domain, and in the server's own. */
const SOMEONE = ['anything@gmail.com', `bar@${VIRTUAL_DOMAIN}`, 'anything@development-mail-server.example.com']
const failing = (address: string, fail: string) => address.replace('@', `+fail-${fail}@`)

let project: Project
let where: Where

before(async () => {
  project = await startedProject()
  where = { host: '127.0.0.1', ports: project.ports }
})
after(() => project?.remove())

/** The message with this subject in the catchall, or a report about it. */
const inCatchall = (subject: string) =>
  until(`"${subject}" in the catchall`, async () =>
    (await messagesOf(where, CATCHALL)).find((source) => source.includes(`Subject: ${subject}`)),
  )

// Most of them wait for nothing; the slow ones wait together.
describe('an address with +fail-...', { concurrency: 8 }, () => {
  for (const { fail, recipient, message, closes = false, waits = 0 } of ROWS) {
    test(`+fail-${fail}, in each domain as a recipient, and as the sender`, async () => {
      const dialogues = await Promise.all([
        ...SOMEONE.map((address) => transaction(where, SENDER, [failing(address, fail)])),
        transaction(where, failing('app@gmail.com', fail), [BAR]),
      ])
      for (const { recipients, message: said, closed, duration } of dialogues) {
        assert.match(String(recipients[0]), recipient)
        if (message) assert.match(String(said), message)
        assert.equal(closed, closes)
        assert.ok(duration >= waits, `${duration} ms`)
      }
    })
  }

  test('fails in any letter case, and a name that only looks like it does not', async () => {
    assert.match(String((await transaction(where, SENDER, ['X+FAIL-550@Gmail.COM'])).recipients[0]), /^550 /)
    for (const address of ['x+fail@gmail.com', 'fail-550@gmail.com', 'x+fail-200@gmail.com', 'x+fail-5500@gmail.com']) {
      assert.match(String((await transaction(where, SENDER, [address])).message), /^250 /, address)
    }
  })

  for (const [fail, status] of [
    ['bounce', '5.1.1'],
    ['full', '5.2.2'],
  ] as const) {
    test(`+fail-${fail} is accepted and returned with ${status}`, async () => {
      for (const address of SOMEONE.map((someone) => failing(someone.replace('bar', 'anything'), fail))) {
        const { message, subject } = await transaction(where, SENDER, [address])
        assert.match(String(message), /^250 /)
        const report = await inCatchall(subject)
        assert.match(report, /^X-Original-To: app@shop\.example\r$/m)
        assert.match(report, /^Content-Type: multipart\/report; report-type=delivery-status;/m)
        assert.match(report, new RegExp(`^Final-Recipient: rfc822; ${address.replace('+', '\\+')}\r$`, 'm'))
        assert.match(report, /^Action: failed\r$/m)
        assert.match(report, new RegExp(`^Status: ${status}\r$`, 'm'))
      }
    })
  }

  for (const [what, from, to] of [
    ['a recipient', SENDER, 'anything+fail-greylist@gmail.com'],
    ['the sender', 'app+fail-greylist@gmail.com', 'not-greylisted-yet@gmail.com'],
  ] as const) {
    test(`+fail-greylist as ${what} is deferred the first time, and accepted soon after`, async () => {
      assert.match(String((await transaction(where, from, [to])).recipients[0]), /^451 4\..*greylisted on demand/)
      const { subject } = await until('the second try', async () => {
        const dialogue = await transaction(where, from, [to])
        return dialogue.message?.startsWith('250 ') ? dialogue : undefined
      })
      await inCatchall(subject)
      assert.match(String((await transaction(where, from, [to])).message), /^250 /)
    })
  }

  // All forty alike: once in 500,000,000,000 runs. A session becomes slow after ten errors.
  for (const [what, from, to] of [
    ['a recipient', SENDER, 'x+fail-flaky@gmail.com'],
    ['the sender', 'app+fail-flaky@gmail.com', BAR],
  ] as const) {
    test(`+fail-flaky as ${what} is deferred half of the time`, async () => {
      const dialogues = await Promise.all(Array.from({ length: 5 }, () => transaction(where, from, Array(8).fill(to))))
      const replies = dialogues.flatMap(({ recipients }) => recipients)
      const accepted = replies.filter((reply) => reply.startsWith('250 ')).length
      const deferred = replies.filter((reply) => /^451 4\.3\.0 .*by chance/.test(reply)).length
      assert.equal(accepted + deferred, 40)
      assert.ok(accepted > 0 && deferred > 0, `${accepted} accepted`)
    })
  }
})

test('the other recipients of a message go through', async () => {
  const to = ['a+fail-550@gmail.com', FOO, 'b+fail-451@gmail.com', 'c@gmail.com']
  const { recipients, message, subject } = await transaction(where, SENDER, to)
  assert.equal(recipients.map((reply) => reply.slice(0, 3)).join(), '550,250,451,250')
  assert.match(String(message), /^250 /)
  assert.match(await inCatchall(subject), /^X-Original-To: c@gmail\.com\r$/m)
  await until('the mail for foo', async () => subjectsOf(await messagesOf(where, FOO)).includes(subject))
})

test('behind DATA a recipient has no effect beside another, and the sender has', async () => {
  const fail = 'x+fail-data-550@gmail.com'
  assert.match(String((await transaction(where, SENDER, [fail, BAR])).message), /^250 /)
  assert.match(String((await transaction(where, fail, [FOO, BAR])).message), /^550 5\.3\.0 /)
})
