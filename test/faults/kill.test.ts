/** Nothing that was accepted is lost when the power or daemons go, and what is left behind stops and slows down no start. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, masterLogin } from '../../scripts/lib/accounts/accounts.ts'
import { Pop3Session } from '../../scripts/lib/mail/pop3.ts'
import { messagesOf, send, subjectsOf } from '../deliveries.ts'
import { Project, processesOf, startedProject, until } from '../harness.ts'
import { mastersOf, queueOf } from '../instance.ts'
import {
  audit,
  daemonsOf,
  deliverAllWaiting,
  type Expected,
  idsInQueue,
  kill,
  queueIsEmpty,
  sendersWithPause,
  signalAll,
  Traffic,
} from './traffic.ts'

/** Cuts, kills of all daemons at once, and of one of them. */
const [CUTS, ROUNDS, SINGLE_ROUNDS] = [3, 15, 10]

const project = await startedProject()
after(() => project.remove())

/** One copy more for each time that a kill met a message in the queue, maybe between its delivery and its record. */
const met = new Map<string, number>()
const copies = (id: string) => 1 + (met.get(id) ?? 0)
const meets = (ids: Iterable<string>) => {
  for (const id of ids) met.set(id, (met.get(id) ?? 0) + 1)
}

/** What a power cut leaves: the state folder of one moment, with the pid files of daemons that are no more. */
test(`${CUTS} power cuts in mid-flight: a server from a copy of the state folder has all that was accepted`, async (t) => {
  const copy = await Project.create()
  t.after(() => copy.remove())
  const promised: Expected[] = []
  let queuedAll = 0
  for (let cut = 0; cut < CUTS; cut++) {
    // As fast as they can, so that there is a queue.
    const traffic = new Traffic(project, `cut${cut}`, [...sendersWithPause(0), ...sendersWithPause(0)])
    let atCut: Expected[] = []
    let queued = new Set<string>()
    try {
      await traffic.more(50)
      await sleep(Math.random() * 300)
      // All stand still while the folder is copied, so that the copy is of one moment.
      await signalAll(project, 'SIGSTOP')
      atCut = [...promised, ...traffic.promised()]
      queued = idsInQueue(project)
      execFileSync('cp', ['-a', `${project.stateDir}/.`, copy.stateDir])
    } finally {
      await signalAll(project, 'SIGCONT')
      await traffic.stop()
    }
    promised.push(...traffic.promised())
    queuedAll += [...queued].filter((id) => traffic.accepted.has(id)).length
    await copy.start()
    await queueIsEmpty(copy)
    await audit(t, copy, [traffic], (id) => (queued.has(id) ? 2 : 1), atCut)
    assert.deepEqual([traffic.refusals, traffic.broken], [[], 0])
    assert.equal((await copy.run('stop')).code, 0)
    rmSync(copy.stateDir, { recursive: true })
  }
  assert.ok(queuedAll > 0, 'a cut met accepted mail in the queue')
  // The server that was copied has not noticed.
  await queueIsEmpty(project)
  await audit(t, project, [], undefined, promised)
})

test(`${ROUNDS} kills of all daemons: every accepted message is there, and twice only where a kill met it`, async (t) => {
  const traffics = [new Traffic(project, 'all')]
  try {
    for (let round = 0; round < ROUNDS; round++) {
      // As much as the clients can send until the kill, so that it meets something; more would only pile up.
      const burst = new Traffic(project, `burst${round}`, sendersWithPause(0))
      traffics.push(burst)
      await sleep(Math.random() * 500)
      await signalAll(project, 'SIGKILL')
      await burst.stop()
      meets(idsInQueue(project))
      await project.start()
    }
  } finally {
    await Promise.all(traffics.map((traffic) => traffic.stop()))
  }
  await queueIsEmpty(project)
  await audit(t, project, traffics, copies)
  assert.ok(met.size > 0, 'the kills met messages in the queue')
})

test(`${SINGLE_ROUNDS} kills of one daemon: the server goes on, or does so after a start; nothing is lost`, async (t) => {
  const traffic = new Traffic(project, 'one')
  const killed: string[] = []
  try {
    await traffic.more(10)
    for (let round = 0; round < SINGLE_ROUNDS; round++) {
      await sleep(Math.random() * 300)
      const daemons = daemonsOf(project)
      const names = [...new Set(daemons.map(({ name }) => name))].sort()
      const name = names[Math.floor(Math.random() * names.length)]
      const victims = daemons.filter((daemon) => daemon.name === name)
      const victim = victims[Math.floor(Math.random() * victims.length)]
      assert.ok(victim)
      const before = idsInQueue(project)
      kill(victim.pid, 'SIGKILL')
      meets(new Set([...before, ...idsInQueue(project)]))
      killed.push(victim.name)
      // The two masters are restarted by nobody else.
      if (/^(master|dovecot)$/.test(victim.name)) await project.start()
      await traffic.more(10)
    }
  } finally {
    await traffic.stop()
  }
  // What met a dead daemon waits for Postfix's next try.
  await deliverAllWaiting(project)
  t.diagnostic(`killed ${killed.join(', ')}`)
  await audit(t, project, [traffic], copies)
})

test('a mailbox lock of a killed process does not hold up mail when its pid is another process now', async () => {
  await signalAll(project, 'SIGKILL')
  const mailbox = `${project.stateDir}/mail/${BAR.split('@')[1]}/bar`
  assert.ok(existsSync(mailbox))
  // Dovecot's dotlocks: pid, colon, host name. This process lives and is no Dovecot.
  writeFileSync(`${mailbox}/dovecot-uidlist.lock`, `${process.pid}:${hostname()}`)
  await project.start()
  assert.equal(await send(project.ports, BAR, 'not held up'), null)
  await arrives('not held up')
})

test('mail that met a dead Dovecot is delivered by the next start, not minutes later', async () => {
  for (const { pid } of daemonsOf(project).filter(({ name }) => name === 'dovecot')) kill(pid, 'SIGKILL')
  await until('no LMTP', () => !daemonsOf(project).some(({ name }) => name === 'dovecot'))
  // Without Dovecot no smtpd can greet; mail is handed in by the command.
  const config = ['-C', `${project.stateDir}/postfix`]
  execFileSync('sendmail', [...config, '-f', 'sender@traffic.example', BAR], { input: 'Subject: waited\n\nx\n' })
  const isDeferred = async () => (await queueOf(project)).some(({ queue_name }) => queue_name === 'deferred')
  await until('the mail deferred', isDeferred)
  await project.start()
  await queueIsEmpty(project, 60_000)
  await arrives('waited')
})

test('stop ends open POP3 sessions, also those that outlived killed masters', async () => {
  const server = { host: '127.0.0.1', port: project.ports.pop3, tls: 'none', timeout: 30_000 } as const
  for (const killed of [true, false]) {
    const session = await Pop3Session.open(server, masterLogin(BAR))
    try {
      if (killed) for (const pid of mastersOf(project)) kill(pid, 'SIGKILL')
      await session.stat()
      assert.equal((await project.run('stop')).code, 0)
      await assert.rejects(session.stat())
      assert.equal(processesOf(project), '')
      if (killed) await project.start()
    } finally {
      session.close()
    }
  }
})

const arrives = (subject: string) =>
  until(subject, async () => subjectsOf(await messagesOf(project, BAR)).includes(subject), 60_000)
