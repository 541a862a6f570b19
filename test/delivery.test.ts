import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { DELIVERIES, type Delivered, deliverAll, smtpClient } from './deliveries.ts'
import { type Project, startedProject, until } from './harness.ts'

let project: Project
let delivered: Map<string, Delivered>

before(async () => {
  project = await startedProject()
  const recipients = DELIVERIES.map(({ to }) => to)
  delivered = await deliverAll({ host: '127.0.0.1', ports: project.ports }, recipients)
})
after(() => project?.remove())

for (const { to, mailbox, refused } of DELIVERIES) {
  test(`mail to ${to} ${mailbox ? `ends in ${mailbox}` : 'is refused at RCPT'}`, () => {
    const { refusal, mailboxes = [] } = delivered.get(to) ?? {}
    if (refused) assert.match(String(refusal), refused)
    else assert.equal(refusal, undefined)
    assert.deepEqual(mailboxes, mailbox ? [mailbox] : [])
  })
}

test('a caught message keeps its envelope sender and its envelope recipient', () => {
  const { source = '' } = delivered.get('owner-news@client.jp') ?? {}
  assert.match(source, /^Return-Path: <customer@shop\.example>\r$/m)
  assert.match(source, /^Delivered-To: owner-news@client\.jp\r$/m)
})

test('a message to two foreign recipients arrives once for each', async () => {
  const { stdout } = await project.run('status', '--json')
  const count = (text: string) => JSON.parse(text).accounts[0].inbox as number
  const begin = count(stdout)
  const connection = await smtpClient({ host: '127.0.0.1', ports: project.ports })
  const to = ['a@one.example', 'b@two.example']
  await new Promise<void>((resolve, reject) => {
    connection.send({ from: 'x@y.example', to }, 'Subject: two\r\n\r\n', (error) => (error ? reject(error) : resolve()))
  })
  connection.quit()
  await until('two more messages', async () => count((await project.run('status', '--json')).stdout) === begin + 2)
})

test('a header stays as it was sent: nothing is added, and no name is completed', async () => {
  const { source = '' } = delivered.get('owner-news@client.jp') ?? {}
  assert.doesNotMatch(source, /^(Date|Message-Id):/im)
  assert.match(source, /^From: customer\r$/m)
})

test('the queue is empty afterwards', async () => {
  await until('an empty queue', async () => JSON.parse((await project.run('status', '--json')).stdout).queue === 0)
})
