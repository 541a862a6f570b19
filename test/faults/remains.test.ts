/** What a kill leaves behind must not stop or slow down the next start. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { afterEach, beforeEach, test } from 'node:test'
import { BAR, masterLogin } from '../../scripts/lib/accounts/accounts.ts'
import { Pop3Session } from '../../scripts/lib/mail/pop3.ts'
import { messagesOf, send, subjectsOf } from '../deliveries.ts'
import { type Project, startedProject, until } from '../harness.ts'
import { daemonsOf, kill, queue, queueIsEmpty, signalAll } from './traffic.ts'

let project: Project
beforeEach(async () => {
  project = await startedProject()
})
afterEach(() => project?.remove())

test('a mailbox lock of a killed process does not hold up mail when its pid is another process now', async () => {
  await signalAll(project, 'SIGKILL')
  const mailbox = `${project.stateDir}/mail/${BAR.split('@')[1]}/bar`
  const lock = `${mailbox}/dovecot-uidlist.lock`
  assert.ok(existsSync(mailbox))
  // Dovecot's dotlocks: pid, colon, host name. This process lives and is no Dovecot.
  writeFileSync(lock, `${process.pid}:${hostname()}`)
  await project.start()
  assert.equal(await send(project.ports, BAR, 'not held up'), null)
  const where = { host: '127.0.0.1', ports: project.ports }
  await until('the mail', async () => subjectsOf(await messagesOf(where, BAR)).includes('not held up'), 60_000)
})

test('mail that met a dead Dovecot is delivered by the next start, not minutes later', async () => {
  const dovecot = daemonsOf(project).filter(({ name }) => name === 'dovecot')
  for (const { pid } of dovecot) kill(pid, 'SIGKILL')
  await until('no LMTP', () => !daemonsOf(project).some(({ name }) => name === 'dovecot'))
  // Without Dovecot no smtpd can greet; mail is handed in by the command.
  const config = ['-C', `${project.stateDir}/postfix`]
  execFileSync('sendmail', [...config, '-f', 'sender@traffic.example', BAR], { input: 'Subject: waited\n\nx\n' })
  await until('the mail deferred', async () =>
    (await queue(project)).some(({ queue_name }) => queue_name === 'deferred'),
  )
  await project.start()
  await queueIsEmpty(project, 60_000)
  const where = { host: '127.0.0.1', ports: project.ports }
  assert.deepEqual(subjectsOf(await messagesOf(where, BAR)), ['waited'])
})

for (const killed of [false, true]) {
  test(`stop ends open POP3 sessions${killed ? ', also those that outlived a killed server' : ''}`, async () => {
    const server = { host: '127.0.0.1', port: project.ports.pop3, tls: 'none', timeout: 30_000 } as const
    const session = await Pop3Session.open(server, masterLogin(BAR))
    try {
      assert.equal((await session.stat()).count, 0)
      if (killed) await signalAll(project, 'SIGKILL')
      assert.equal((await project.run('stop')).code, 0)
      await assert.rejects(session.stat())
    } finally {
      session.close()
    }
  })
}
