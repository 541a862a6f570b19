/**
 * What a power cut leaves: the state folder of one moment, with the queue, the mailboxes and the pid files of daemons
 * that are no more. Another project starts from it.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Project, startedProject } from '../harness.ts'
import { audit, type Expected, idsInQueue, queueIsEmpty, sendersWithPause, signalAll, Traffic } from './traffic.ts'

const CUTS = 3

const [project, copy] = [await startedProject(), await Project.create()]
after(async () => {
  await project.remove()
  await copy.remove()
})

test(`a server from a copy of the state folder has all that was accepted, ${CUTS} times in mid-flight`, async (t) => {
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
    const accepted = [...queued].filter((id) => traffic.accepted.has(id)).length
    queuedAll += accepted
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
