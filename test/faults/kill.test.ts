/** Nothing that was accepted is lost when daemons are killed at random moments. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Project, startedProject } from '../harness.ts'
import {
  audit,
  daemonsOf,
  deliverAllWaiting,
  idsInQueue,
  kill,
  queueIsEmpty,
  sendersWithPause,
  signalAll,
  Traffic,
} from './traffic.ts'

/** Kills of all daemons at once, and of one of them. */
const [ROUNDS, SINGLE_ROUNDS] = [15, 10]

let project: Project
before(async () => {
  project = await startedProject()
})
after(() => project?.remove())

test(`${ROUNDS} kills of all daemons: every accepted message is there, and twice only where a kill met it`, async (t) => {
  const traffics = [new Traffic(project, 'all')]
  /** How many kills met a message in the queue, by id. */
  const met = new Map<string, number>()
  try {
    for (let round = 0; round < ROUNDS; round++) {
      // As much as the clients can send until the kill, so that it meets something; more would only pile up.
      const burst = new Traffic(project, `burst${round}`, sendersWithPause(0))
      traffics.push(burst)
      await sleep(Math.random() * 500)
      await signalAll(project, 'SIGKILL')
      await burst.stop()
      for (const id of idsInQueue(project)) met.set(id, (met.get(id) ?? 0) + 1)
      await project.start()
    }
  } finally {
    await Promise.all(traffics.map((traffic) => traffic.stop()))
  }
  await queueIsEmpty(project)
  await audit(t, project, traffics, met)
  assert.ok(met.size > 0, 'the kills met messages in the queue')
})

test(`${SINGLE_ROUNDS} kills of one daemon: the server goes on, or does so after a start; nothing is lost`, async (t) => {
  const traffic = new Traffic(project, 'one')
  const killed: string[] = []
  const met = new Map<string, number>()
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
      for (const id of new Set([...before, ...idsInQueue(project)])) met.set(id, (met.get(id) ?? 0) + 1)
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
  await audit(t, project, [traffic], met)
})
