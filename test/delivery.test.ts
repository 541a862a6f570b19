import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { BAR, CATCHALL } from '../scripts/lib/accounts/accounts.ts'
import {
  DELIVERIES,
  type Delivered,
  deliverAll,
  messagesOf,
  originalRecipient,
  smtpClient,
  subjectsOf,
  type Where,
} from './deliveries.ts'
import { type Project, startedProject, until } from './harness.ts'

let project: Project
let where: Where
let delivered: Map<string, Delivered>

before(async () => {
  project = await startedProject()
  where = { host: '127.0.0.1', ports: project.ports }
  delivered = await deliverAll(
    where,
    DELIVERIES.map(({ to }) => to),
  )
})
after(() => project?.remove())

/** Sends one message to all of `to`. */
async function send(to: string[], message: string): Promise<void> {
  const connection = await smtpClient(where)
  await new Promise<void>((resolve, reject) => {
    connection.send({ from: 'x@y.example', to }, message, (error) => (error ? reject(error) : resolve()))
  })
  connection.quit()
}

/** The messages with this subject in an account, once there are as many as are expected. */
const arrived = (account: string, subject: string, count: number) =>
  until(`${count} times "${subject}" for ${account}`, async () => {
    const found = (await messagesOf(where, account)).filter((source) => subjectsOf([source])[0] === subject)
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

test('a caught message keeps its envelope sender, and passes the queue once', () => {
  const { source = '' } = delivered.get('owner-news@client.jp') ?? {}
  assert.match(source, /^Return-Path: <customer@shop\.example>\r$/m)
  // By Postfix from the client, and by Dovecot from Postfix.
  assert.equal(source.match(/^Received: /gm)?.length, 2)
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

test('a header stays as it was sent: nothing is added, and no name is completed', async () => {
  const { source = '' } = delivered.get('owner-news@client.jp') ?? {}
  assert.doesNotMatch(source, /^(Date|Message-Id):/im)
  assert.match(source, /^From: customer\r$/m)
})

test('the queue is empty afterwards', async () => {
  await until('an empty queue', async () => JSON.parse((await project.run('status', '--json')).stdout).queue === 0)
})
