/** A file system of 64 MB as state folder, and what happens when it is full. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { after, test } from 'node:test'
import { BAR } from '../../scripts/lib/accounts/accounts.ts'
import { Project, processesOf, until } from '../harness.ts'
import { queueOf } from '../instance.ts'
import { audit, daemonsOf, deliverAllWaiting, kill, Traffic } from './traffic.ts'

const project = await Project.create()
mkdirSync(project.stateDir)
const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'full-disk', project.stateDir], { encoding: 'utf8' })
const skip = mount.status !== 0 && `no tmpfs can be mounted here: ${mount.stderr}`
after(async () => {
  await project.run('stop')
  if (!skip) execFileSync('umount', [project.stateDir])
  await project.remove()
})
if (!skip) await project.start()

test('a full disk is answered with 4xx, and everything accepted is delivered when there is room again', {
  skip,
}, async (t) => {
  const filler = `${project.stateDir}/filler`
  const qmgr = daemonsOf(project).find(({ name }) => name === 'qmgr')
  assert.ok(qmgr)
  const small = new Traffic(project, 'small')
  let large: Traffic | undefined
  let refused: string[] = []
  try {
    await small.more(30)
    // Mail is accepted and delivered to nobody, so that the deliveries meet the full disk.
    kill(qmgr.pid, 'SIGSTOP')
    large = new Traffic(project, 'large', [
      { port: 'smtp', to: (n) => [n % 2 ? BAR : 'someone@client.example'], pause: 0, lines: 30_000 },
    ])
    await large.more(4)
    assert.deepEqual([...small.refusals, ...large.refusals], [])
    await large.stop()
    fill(filler)
    kill(qmgr.pid, 'SIGCONT')
    await until('refusals', () => small.refusals.length > 5)
    // Dovecot answers 451 and Postfix keeps it; why, it can write down only where there is room for that.
    await until('a large message that waits', async () =>
      (await queueOf(project)).some(
        ({ queue_name, message_size }) => queue_name === 'deferred' && message_size > 1_000_000,
      ),
    )
    refused = [...small.refusals]
    rmSync(filler)
    await small.more(30)
  } finally {
    kill(qmgr.pid, 'SIGCONT')
    rmSync(filler, { force: true })
    await Promise.all([small.stop(), large?.stop()])
  }
  const replies = [...new Set(refused)]
  // 451: no room for the rest of a message. 421: a client goes on nevertheless (too many errors).
  assert.deepEqual(
    replies.filter((reply) => !/^4(52 4\.3\.1|51 4\.3\.0|21 4\.7\.0) /.test(reply)),
    [],
  )
  assert.ok(replies.includes('452 4.3.1 Insufficient system storage'))
  await deliverAllWaiting(project)
  await audit(t, project, [small, large])
})

test('on a full disk npm start says what to do, and npm stop stops', { skip }, async () => {
  fill(`${project.stateDir}/log/filler`)
  const { code, stderr } = await project.run('start')
  assert.deepEqual([code, /ENOSPC.*See: df -h /.test(stderr)], [1, true], stderr)
  assert.equal((await project.run('stop')).code, 0)
  assert.equal(processesOf(project), '')
  rmSync(`${project.stateDir}/log/filler`)
})

/** Fills the file system up to the last byte. */
const fill = (path: string) => spawnSync('sh', ['-c', 'cat /dev/zero >"$0"', path])
