/** The doctor before the first start: each set-up is broken in one thing, and exactly its check says so, with a fix that heals. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { after, describe, test } from 'node:test'
import { CHECKS } from '../scripts/lib/doctor/all.ts'
import { BROKEN_COMPOSE, BROKEN_FILES, FINE } from './broken_setups.ts'
import { DoctorWorld } from './doctor_world.ts'

const HAS_COMPOSE = spawnSync('docker', ['compose', 'version']).status === 0
/** The checks of files; Compose takes longer than all others together. */
const NAMES = CHECKS.map(({ name }) => name)
const OF_FILES = NAMES.slice(NAMES.indexOf('environment'), NAMES.indexOf('ports'))

const world = await DoctorWorld.create()
after(() => world.project.remove())

/** The checks that ask Postfix, which takes time, and the rows that say nothing to them. */
const ASKING = ['tables', 'main-cf-names']
const UNASKED = ['environment', 'environment-names', 'dovecot']
/** Rows of one check are tried together, so many at once: of more findings it would not show all. */
const TOGETHER = 5

/** Works on rows together, and in halves where some get in another's way. */
async function inHalves<T>(rows: T[], work: (rows: T[]) => Promise<unknown>): Promise<void> {
  try {
    await work(rows).finally(() => world.restore())
  } catch (error) {
    if (rows.length === 1) throw error
    const half = Math.ceil(rows.length / 2)
    for (const part of [rows.slice(0, half), rows.slice(half)]) await inHalves(part, work)
  }
}

describe('a broken set-up is found by its check alone, and its fix heals it', () => {
  const rows = [...BROKEN_FILES, ...BROKEN_COMPOSE]
  for (const check of new Set(rows.map(([, , check]) => check))) {
    const own = rows.filter((row) => row[2] === check)
    const skip = check === 'compose' && !HAS_COMPOSE && 'Docker Compose is not here'
    const asked = OF_FILES.filter((name) => !UNASKED.includes(check) || !ASKING.includes(name))
    for (; own.length > 0; ) {
      const batch = own.splice(0, TOGETHER)
      test(`${check}: ${batch.map(([what]) => what).join('; ')}`, { skip }, () =>
        inHalves(batch, async (some) => {
          const isHealed = await world.assertTold(some, { only: [...asked, check] })
          assert.ok(isHealed || some[0]?.[0] !== 'an unknown setting', 'no fix, in the words of this Dovecot')
        }),
      )
    }
  }
})

test('what looks bad and is not is no trouble', async () => {
  const all = [...FINE]
  for (; all.length > 0; ) {
    await inHalves(all.splice(0, TOGETHER), async (some) => {
      for (const [, changes] of some) await changes(world.project)
      const said = await world.troubles(...OF_FILES, 'start')
      assert.deepEqual(said, [], some.map(([what]) => what).join('; '))
    })
  }
})
