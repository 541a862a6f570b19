/** The doctor before the first start: each set-up is broken in one thing, and exactly its check says so, with a fix that heals. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { after, before, describe, test } from 'node:test'
import { CHECKS } from '../scripts/lib/doctor/all.ts'
import { BROKEN_COMPOSE, BROKEN_FILES, FINE } from './broken_setups.ts'
import { DoctorWorld } from './doctor_world.ts'

const HAS_COMPOSE = spawnSync('docker', ['compose', 'version']).status === 0
/** The checks of files; Compose takes longer than all others together. */
const NAMES = CHECKS.map(({ name }) => name)
const OF_FILES = NAMES.slice(NAMES.indexOf('environment'), NAMES.indexOf('ports'))

let world: DoctorWorld
before(async () => {
  world = await DoctorWorld.create()
})
after(() => world?.project.remove())

test('the files as they are give nothing but a server that is not running', async () => {
  const found = await world.troubles()
  assert.deepEqual(
    found.map(({ check, fix }) => `${check} ${fix}`),
    ['running npm start'],
  )
})

/** The checks that ask Postfix, which takes time, and the rows that say nothing to them. */
const ASKING = ['tables', 'main-cf-names']
const UNASKED = ['environment', 'environment-names', 'dovecot']
/** Rows of one check are tried together, so many at once. */
const TOGETHER = 8

describe('a broken set-up is found by its check alone, and its fix heals it', () => {
  const rows = [...BROKEN_FILES, ...BROKEN_COMPOSE]
  for (let from = 0, to = 0; from < rows.length; from = to) {
    const check = rows[from]?.[2] ?? ''
    while (to < from + TOGETHER && rows[to]?.[2] === check) to++
    const batch = rows.slice(from, to)
    const skip = check === 'compose' && !HAS_COMPOSE && 'Docker Compose is not here'
    const only = OF_FILES.filter((name) => !UNASKED.includes(check) || !ASKING.includes(name))
    const assertTold = (some: typeof batch) =>
      world.assertTold(some, { only: [...only, check] }).finally(() => world.restore())
    test(`${check}: ${batch.map(([what]) => what).join('; ')}`, { skip }, async () => {
      // What gets in another's way is tried alone.
      const isRight =
        batch.length > 1 &&
        (await assertTold(batch)
          .then(() => true)
          .catch(() => false))
      for (const row of isRight ? [] : batch) await assertTold([row])
    })
  }
})

test('what looks bad and is not is no trouble', async () => {
  const assertFine = async (some: typeof FINE) => {
    try {
      for (const [, changes] of some) changes(world.project)
      assert.deepEqual(
        await world.troubles({ only: [...OF_FILES, 'start'] }),
        [],
        some.map(([what]) => what).join('; '),
      )
    } finally {
      world.restore()
    }
  }
  for (let from = 0; from < FINE.length; from += TOGETHER) {
    const batch = FINE.slice(from, from + TOGETHER)
    const isRight = await assertFine(batch)
      .then(() => true)
      .catch(() => false)
    for (const row of isRight ? [] : batch) await assertFine([row])
  }
})
