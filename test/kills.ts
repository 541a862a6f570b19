/** Kills add-account at its steps, and looks at what it leaves. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import type { TestContext } from 'node:test'
import type { Remain } from '../scripts/lib/accounts/changes.ts'
import type { Project } from './harness.ts'
import { load, runIn } from './here.ts'

/**
 * Loaded into the script by NODE_OPTIONS: counts its calls that change the configuration folder, and kills it at the
 * one that KILL_AT names, a write after half of its bytes.
 */
const SABOTAGE = `
const fs = require('node:fs')
let left = Number(process.env.KILL_AT)
for (const name of ['openSync', 'writeFileSync', 'chmodSync', 'renameSync', 'rmSync']) {
  const real = fs[name]
  fs[name] = (target, ...rest) => {
    if (!String(target).includes('mail-server/config')) return real(target, ...rest)
    const kills = left-- === 0
    if (kills && name === 'writeFileSync' && target.endsWith('.tmp')) real(target, rest[0].slice(0, rest[0].length / 2), ...rest.slice(1))
    if (kills) process.kill(process.pid, 'SIGKILL')
    return real(target, ...rest)
  }
}
require('node:module').syncBuiltinESMExports()
`

/**
 * Adds and deletes an account of a stopped server, killed at every `stride`th of its calls: nothing is lost, what is left
 * is found by name, and mended or repeated it is as before. `original` has the texts of the files.
 */
export async function killAtEveryStep(
  context: TestContext,
  project: Project,
  original: Map<string, string>,
  stride: number,
): Promise<void> {
  const { change, readConfiguration } = await load(project, 'lib/accounts/configuration')
  const { remainsOf, repaired } = await load(project, 'lib/accounts/changes')
  writeFileSync(project.path('sabotage.cjs'), SABOTAGE)
  const read = (name: string) => readFileSync(project.config(name), 'utf8')
  const texts = () => [...original.keys()].map(read)
  const write = (all: string[]) => {
    for (const [index, name] of [...original.keys()].entries()) writeFileSync(project.config(name), all[index] ?? '')
  }
  /** The names of the files that are not like these, but for the salt of a password. */
  const differing = (all: string[]) => {
    const withoutHash = (text = '') => text.replace(/(user@domain\.example\|).*/, '$1')
    return [...original.keys()].filter((name, index) => withoutHash(read(name)) !== withoutHash(all[index])).join()
  }
  const before = [...original.values()]
  const account = 'user@domain.example'
  const adding = [account, 'secret', '--quota', '1M', '--alias', 'info@also.example']
  const killed = async (step: number, args: string[]) => {
    const env = { KILL_AT: String(step), NODE_OPTIONS: `--require ${project.path('sabotage.cjs')}` }
    const { code, stderr } = await project.runWith({ env }, 'add_account', ...args)
    if (code !== 0) assert.equal(code, null, `step ${step} was not killed: ${stderr}`)
    return code === null
  }
  let [kills, remains] = [0, 0]
  /** What is left is told by name; mended, or done again, nothing of it stays. */
  const getPast = async (args: string[], end: string[]) => {
    kills++
    const left: Remain[] = remainsOf(readConfiguration())
    const isThere = read('postfix-accounts.cf').includes(account)
    if (left.length > 0) remains++
    for (const { name, isLeft } of left) assert.ok(isLeft && /^(user@)?(domain|also)\.example$/.test(name), name)
    // An account is there only when all that it needs is.
    if (isThere) assert.deepEqual(left, [])
    else assert.ok(left.length > 0 || texts().join() === before.join(), 'lines are left and nothing tells')
    const half = texts()
    await change((configuration: never) => ({ configuration: repaired(configuration) }))
    assert.deepEqual(
      readdirSync(project.config('.')).filter((name) => /\.(lock|tmp)$/.test(name)),
      [],
    )
    if (!isThere) assert.equal(differing(before), '', `kill ${kills}, mended`)
    write(half)
    const isDone = isThere === (args === adding)
    if (!isDone || left.length > 0) {
      const again = await runIn(project, {}, 'add_account', ...args)
      const isGone = /is no account/.test(again.stderr)
      assert.ok(again.code === 0 || isGone, again.stderr)
    }
    assert.equal(differing(end), '', `kill ${kills}, done again`)
  }

  await runIn(project, {}, 'add_account', ...adding)
  const whole = texts()
  for (const [args, begin, end] of [
    [adding, before, whole],
    [['--delete', account, '--yes'], whole, before],
  ] as const) {
    write(begin)
    for (let step = 0; await killed(step, [...args]); step += stride) {
      await getPast(args as string[], end)
      write(begin)
    }
  }
  write(before)
  context.diagnostic(`${kills} kills, ${remains} with remains`)
  assert.ok(kills >= 45 / stride && remains > 0, `only ${kills} kills, ${remains} with remains`)
}
