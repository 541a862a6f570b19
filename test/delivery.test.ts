/** Which mailbox the mail of a recipient ends in, and failures on demand: what an address with "+fail-..." is answered. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { BAR, CATCHALL, FOO, VIRTUAL_DOMAIN } from '../scripts/lib/accounts/accounts.ts'
import { DELIVERIES, type Delivered, deliverAll, messagesOf, originalRecipient, subjectsOf } from './deliveries.ts'
import { type Project, startedProject, until } from './harness.ts'
import { type Dialogue, sendRaw, transact } from './smtp_raw.ts'

let project: Project
let delivered: Map<string, Delivered>

before(async () => {
  project = await startedProject()
  const recipients = DELIVERIES.map(({ to }) => to)
  delivered = await deliverAll(project, recipients)
})
after(() => project?.remove())

const send = (to: string[], message: string) => sendRaw(project.ports.smtp, to, Buffer.from(message), 'x@y.example')

/** The messages with this subject in an account, once there are as many as are expected. */
const arrived = (account: string, subject: string, count: number) =>
  until(`${count} times "${subject}" for ${account}`, async () => {
    const found = (await messagesOf(project, account)).filter((source) => subjectsOf([source])[0] === subject)
    return found.length >= count ? found : undefined
  })

for (const { to, mailbox, refused } of DELIVERIES) {
  test(`mail to ${to} ${mailbox ? `ends in ${mailbox}` : 'is refused at RCPT'}`, () => {
    const { refusal, mailboxes = [], source = '' } = delivered.get(to) ?? {}
    if (refused) assert.match(String(refusal), refused)
    else assert.equal(refusal, undefined)
    assert.deepEqual(mailboxes, mailbox ? [mailbox] : [])
    // Quotes that nothing needs are no part of an address.
    if (mailbox) assert.equal(originalRecipient(source), to.replace('"bar"', 'bar'))
  })
}

test('a caught message keeps its envelope sender and its header as it was, and passes the queue once', () => {
  const { source = '' } = delivered.get('owner-news@client.jp') ?? {}
  assert.match(source, /^Return-Path: <customer@shop\.example>\r$/m)
  // By Postfix from the client, and by Dovecot from Postfix.
  assert.equal(source.match(/^Received: /gm)?.length, 2)
  // Nothing is added, and no name is completed.
  assert.doesNotMatch(source, /^(Date|Message-Id):/im)
  assert.match(source, /^From: customer\r$/m)
})

test('several recipients of one message get a mail each, with its own X-Original-To', async () => {
  const foreign = ['a@one.example', 'b@two.example', 'bare', 'anyone@development-mail-server.example.com']
  const bars = [BAR, BAR.replace('@', '+tag@')]
  await send([...foreign, ...bars], 'Subject: several\r\n\r\nx\r\n')
  const recipients = async (account: string, count: number) =>
    (await arrived(account, 'several', count)).map(originalRecipient).sort()
  assert.deepEqual(await recipients(CATCHALL, foreign.length), foreign.sort())
  assert.deepEqual(await recipients(BAR, bars.length), bars.sort())
})

test('a message that was delivered once is delivered again, whatever Delivered-To and X-Original-To it has', async () => {
  const to = ['someone@gmail.com', BAR]
  const fields = [...to, CATCHALL].map((each) => `Delivered-To: ${each}\r\nX-Original-To: forged@${each}\r\n`).join('')
  await send(to, `${fields}Subject: again\r\n\r\nx\r\n`)
  for (const [account, recipient] of [
    [CATCHALL, 'someone@gmail.com'],
    [BAR, BAR],
  ] as const) {
    const [source = ''] = await arrived(account, 'again', 1)
    assert.equal(originalRecipient(source), recipient)
    assert.ok(source.includes(fields), 'with its header as it was sent')
  }
})

test('the queue is empty afterwards', async () => {
  await until('an empty queue', async () => JSON.parse((await project.run('status', '--json')).stdout).queue === 0)
})

const SENDER = 'app@shop.example'
/** Somebody in a foreign domain, in the virtual mailbox domain, and in the server's own. */
const SOMEONE = ['anything@gmail.com', `bar@${VIRTUAL_DOMAIN}`, 'anything@development-mail-server.example.com']
const failing = (address: string, fail: string) => address.replace('@', `+fail-${fail}@`)

const [OK, CLOSED] = [/^250 /, /^(421 4\.3\.2|521 5\.3\.0) /]
type Row = [fail: string, recipient: RegExp, message?: RegExp, waits?: number]
/**
 * What stands behind "+fail-", where the answer is always the same; the answer at RCPT and, where that accepts, to the
 * message; the milliseconds that the server waits. It hangs up behind a 421 and a 521.
 */
const ROWS: Row[] = [
  // Postfix tells the sender's fault from the recipient's by the last digit.
  ['550', /^550 5\.1\.[17] .*no such user/],
  ['552', /^552 5\.2\.2 .*mailbox full/],
  ['451', /^451 4\.7\.1 .*try again later/],
  ...[400, 499, 500, 599].map((code): Row => [`${code}`, RegExp(`^${code} [45]\\.3\\.0 `)]),
  ['421', CLOSED],
  ['521', CLOSED],
  ['drop', CLOSED],
  ['slow-2', OK, OK, 2_000],
  ...[550, 451].map((code): Row => [`data-${code}`, OK, RegExp(`^${code} [45]\\.3\\.0 `)]),
  ['data-slow-2', OK, OK, 2_000],
  ['data-drop', OK, CLOSED],
  ['data-421', OK, CLOSED],
]

/** Sends one message over port 25 without a login. */
async function transaction(from: string, to: string[]): Promise<Dialogue & { duration: number; subject: string }> {
  const [begin, subject] = [performance.now(), `failure ${randomUUID()}`]
  const message = Buffer.from(`Subject: ${subject}\r\nFrom: <${from}>\r\n\r\nx\r\n`)
  const dialogue = await transact(project.ports.smtp, from, to, message)
  return { ...dialogue, duration: performance.now() - begin, subject }
}

/** The message with this subject in the catchall, or a report about it. */
const inCatchall = (subject: string) =>
  until(`"${subject}" in the catchall`, async () =>
    (await messagesOf(project, CATCHALL)).find((source) => source.includes(`Subject: ${subject}`)),
  )

// Most of them wait for nothing; the slow ones wait together.
describe('an address with +fail-...', { concurrency: 8 }, () => {
  for (const [fail, recipient, message, waits = 0] of ROWS) {
    test(`+fail-${fail}, in each domain as a recipient, and as the sender`, async () => {
      const dialogues = await Promise.all([
        ...SOMEONE.map((address) => transaction(SENDER, [failing(address, fail)])),
        transaction(failing('app@gmail.com', fail), [BAR]),
      ])
      for (const { recipients, message: said, closed, duration } of dialogues) {
        assert.match(String(recipients[0]), recipient)
        if (message) assert.match(String(said), message)
        assert.equal(closed, [recipient, message].includes(CLOSED))
        assert.ok(duration >= waits, `${duration} ms`)
      }
    })
  }

  test('fails in any letter case, and a name that only looks like it does not', async () => {
    assert.match(String((await transaction(SENDER, ['X+FAIL-550@Gmail.COM'])).recipients[0]), /^550 /)
    for (const address of ['x+fail@gmail.com', 'fail-550@gmail.com', 'x+fail-200@gmail.com', 'x+fail-5500@gmail.com']) {
      assert.match(String((await transaction(SENDER, [address])).message), /^250 /, address)
    }
  })

  for (const [fail, status] of [
    ['bounce', '5.1.1'],
    ['full', '5.2.2'],
  ] as const) {
    test(`+fail-${fail} is accepted and returned with ${status}`, async () => {
      for (const address of SOMEONE.map((someone) => failing(someone.replace('bar', 'anything'), fail))) {
        const { message, subject } = await transaction(SENDER, [address])
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
      assert.match(String((await transaction(from, [to])).recipients[0]), /^451 4\..*greylisted on demand/)
      const { subject } = await until('the second try', async () => {
        const dialogue = await transaction(from, [to])
        return dialogue.message?.startsWith('250 ') ? dialogue : undefined
      })
      await inCatchall(subject)
      assert.match(String((await transaction(from, [to])).message), /^250 /)
    })
  }

  // All forty alike: once in 500,000,000,000 runs. A session becomes slow after ten errors.
  for (const [what, from, to] of [
    ['a recipient', SENDER, 'x+fail-flaky@gmail.com'],
    ['the sender', 'app+fail-flaky@gmail.com', BAR],
  ] as const) {
    test(`+fail-flaky as ${what} is deferred half of the time`, async () => {
      const dialogues = await Promise.all(Array.from({ length: 5 }, () => transaction(from, Array(8).fill(to))))
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
  const { recipients, message, subject } = await transaction(SENDER, to)
  assert.equal(recipients.map((reply) => reply.slice(0, 3)).join(), '550,250,451,250')
  assert.match(String(message), /^250 /)
  assert.match(await inCatchall(subject), /^X-Original-To: c@gmail\.com\r$/m)
  await until('the mail for foo', async () => subjectsOf(await messagesOf(project, FOO)).includes(subject))
})

test('behind DATA a recipient has no effect beside another, and the sender has', async () => {
  const fail = 'x+fail-data-550@gmail.com'
  assert.match(String((await transaction(SENDER, [fail, BAR])).message), /^250 /)
  assert.match(String((await transaction(fail, [FOO, BAR])).message), /^550 5\.3\.0 /)
})
