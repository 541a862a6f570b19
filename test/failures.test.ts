import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { BAR, CATCHALL, FOO, VIRTUAL_DOMAIN } from '../scripts/lib/accounts/accounts.ts'
import { messagesOf, subjectsOf, type Where } from './deliveries.ts'
import { ROWS, transaction } from './failures.ts'
import { type Project, startedProject, until } from './harness.ts'

const SENDER = 'app@shop.example'
/** Names of nobody, in a foreign domain, the virtual mailbox domain and the server's own. */
const DOMAINS = ['gmail.com', VIRTUAL_DOMAIN, 'development-mail-server.example.com']

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
    // Nobody of the virtual mailbox domain would be refused as unknown where RCPT has to accept; bar is there.
    const addresses = ['anything@gmail.com', `bar@${VIRTUAL_DOMAIN}`, 'anything@development-mail-server.example.com']
    for (const address of addresses.map((each) => each.replace('@', `+fail-${fail}@`))) {
      test(`${address} as a recipient`, async () => {
        const dialogue = await transaction(where, SENDER, [address])
        assert.match(String(dialogue.recipients[0]), recipient)
        if (message) assert.match(String(dialogue.message), message)
        assert.equal(dialogue.closed, closes)
        assert.ok(dialogue.duration >= waits, `${dialogue.duration} ms`)
      })
    }
    test(`anything+fail-${fail}@gmail.com as the sender`, async () => {
      const dialogue = await transaction(where, `app+fail-${fail}@gmail.com`, [BAR])
      assert.match(String(dialogue.recipients[0]), recipient)
      if (message) assert.match(String(dialogue.message), message)
      assert.equal(dialogue.closed, closes)
      assert.ok(dialogue.duration >= waits, `${dialogue.duration} ms`)
    })
  }

  test('fails in any letter case, and a name that only looks like it does not', async () => {
    assert.match(String((await transaction(where, SENDER, ['X+FAIL-550@Gmail.COM'])).recipients[0]), /^550 /)
    for (const address of ['x+fail@gmail.com', 'fail-550@gmail.com', 'x+fail-200@gmail.com', 'x+fail-5500@gmail.com']) {
      assert.match(String((await transaction(where, SENDER, [address])).message), /^250 /, address)
    }
  })

  for (const domain of DOMAINS) {
    for (const [fail, status] of [
      ['bounce', '5.1.1'],
      ['full', '5.2.2'],
    ] as const) {
      const address = `anything+fail-${fail}@${domain}`
      test(`${address} is accepted and returned with ${status}`, async () => {
        const { message, subject } = await transaction(where, SENDER, [address])
        assert.match(String(message), /^250 /)
        const report = await inCatchall(subject)
        assert.match(report, /^X-Original-To: app@shop\.example\r$/m)
        assert.match(report, /^Content-Type: multipart\/report; report-type=delivery-status;/m)
        assert.match(report, new RegExp(`^Final-Recipient: rfc822; ${address.replace('+', '\\+')}\r$`, 'm'))
        assert.match(report, /^Action: failed\r$/m)
        assert.match(report, new RegExp(`^Status: ${status}\r$`, 'm'))
      })
    }
  }

  test('+fail-greylist is deferred the first time, and accepted soon after', async () => {
    const to = 'anything+fail-greylist@gmail.com'
    assert.match(String((await transaction(where, SENDER, [to])).recipients[0]), /^451 4\..*greylisted on demand/)
    const { subject } = await until('the second try', async () => {
      const dialogue = await transaction(where, SENDER, [to])
      return dialogue.message?.startsWith('250 ') ? dialogue : undefined
    })
    await inCatchall(subject)
    assert.match(String((await transaction(where, SENDER, [to])).message), /^250 /)
  })

  test('+fail-greylist as the sender defers each recipient once', async () => {
    const from = 'app+fail-greylist@gmail.com'
    const to = 'not-greylisted-yet@gmail.com'
    assert.match(String((await transaction(where, from, [to])).recipients[0]), /^451 4\./)
    await until('the second try', async () => (await transaction(where, from, [to])).message?.startsWith('250 '))
  })

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
  assert.deepEqual(
    recipients.map((reply) => reply.slice(0, 3)),
    ['550', '250', '451', '250'],
  )
  assert.match(String(message), /^250 /)
  assert.match(await inCatchall(subject), /^X-Original-To: c@gmail\.com\r$/m)
  await until('the mail for foo', async () => subjectsOf(await messagesOf(where, FOO)).includes(subject))
})

test('behind DATA a recipient has no effect beside another, and the sender has', async () => {
  const fail = 'x+fail-data-550@gmail.com'
  assert.match(String((await transaction(where, SENDER, [fail, BAR])).message), /^250 /)
  assert.match(String((await transaction(where, fail, [FOO, BAR])).message), /^550 5\.3\.0 /)
})
