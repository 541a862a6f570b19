/** A file system of 64 MB as state folder, and what happens when it is full. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdirSync, rmSync, statSync, truncateSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { BAR } from '../../scripts/lib/accounts.ts'
import { Project, until } from '../harness.ts'
import { booksOf, Delivered, daemonsOf, flush, kill, queue, queueIsEmpty, Traffic } from './traffic.ts'

/** Bytes: enough for the log, not for a large message. */
const ROOM_LEFT = 1_000_000

let project: Project | undefined
let obstacle: string | undefined
before(async () => {
  project = await Project.create()
  mkdirSync(project.stateDir)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'full-disk', project.stateDir], { stdio: 'pipe' })
  } catch (error) {
    obstacle = `no tmpfs can be mounted here: ${(error as Error).message}`
    return
  }
  await project.start()
})
after(async () => {
  await project?.run('stop')
  if (project && !obstacle) execFileSync('umount', [project.stateDir])
  await project?.remove()
})

test('a full disk is answered with 4xx, and everything accepted is delivered when there is room again', async (t) => {
  if (obstacle || !project) return t.skip(obstacle)
  const running = project
  const filler = `${running.stateDir}/filler`
  const qmgr = daemonsOf(running).find(({ name }) => name === 'qmgr')
  assert.ok(qmgr)
  const small = new Traffic(running, 'small')
  const large = new Traffic(running, 'large', [
    { port: 'smtp', to: (n) => [n % 2 ? BAR : 'someone@client.example'], pause: 0, lines: 30_000 },
  ])
  let refused: string[] = []
  try {
    await small.more(30)
    // Mail is accepted and delivered to nobody, so that the deliveries meet the full disk.
    kill(qmgr.pid, 'SIGSTOP')
    await large.more(4)
    assert.deepEqual([...small.refusals, ...large.refusals], [])
    await large.stop()
    fill(filler, ROOM_LEFT)
    kill(qmgr.pid, 'SIGCONT')
    await until('refusals', () => small.refusals.length > 5)
    // Dovecot answers 451 and Postfix keeps it; why, it can write down only where there is room for that.
    await until('a large message that waits', async () =>
      (await queue(running)).some(
        ({ queue_name, message_size }) => queue_name === 'deferred' && message_size > ROOM_LEFT,
      ),
    )
    refused = [...small.refusals]
    rmSync(filler)
    await small.more(30)
  } finally {
    kill(qmgr.pid, 'SIGCONT')
    rmSync(filler, { force: true })
    await Promise.all([small.stop(), large.stop()])
  }
  const replies = [...new Set(refused)]
  // A client that goes on nevertheless hears in the end: 421 4.7.0 Error: too many errors.
  assert.deepEqual(
    replies.filter((reply) => !/^4(52 4\.3\.1|21 4\.7\.0) /.test(reply)),
    [],
  )
  assert.ok(replies.includes('452 4.3.1 Insufficient system storage'))
  // Else up to five minutes pass until Postfix tries again.
  flush(running)
  await queueIsEmpty(running)
  const delivered = await Delivered.read(running)
  const { missing, repeated, summary } = booksOf([...small.promised(), ...large.promised()], delivered)
  t.diagnostic(`${replies}, ${refused.length} times; ${summary}; ${small.troubles}`)
  assert.deepEqual([missing, repeated, delivered.bounces], [[], [], []])
  assert.deepEqual([small.silent, large.silent], [[], []])
})

/** Fills the file system up, all but so many bytes. */
function fill(path: string, left: number): void {
  try {
    for (;;) appendFileSync(path, Buffer.alloc(262_144))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
  }
  truncateSync(path, statSync(path).size - left)
}
