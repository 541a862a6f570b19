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

describe('a broken set-up is found by its check alone, and its fix heals it', () => {
  for (const [what, breaks, check, level, said] of [...BROKEN_FILES, ...BROKEN_COMPOSE]) {
    const skip = check === 'compose' && !HAS_COMPOSE && 'Docker Compose is not here'
    test(what, { skip }, async () => {
      try {
        breaks(world.project)
        const [first, ...others] = await world.troubles({ only: [...OF_FILES, check] })
        assert.ok(first, 'nothing was found')
        assert.deepEqual(others, [])
        assert.equal(`${first.check} ${first.level}`, `${check} ${level}`, first.evidence)
        assert.match(first.evidence, said)
        assert.doesNotMatch(`${first.evidence}${first.fix}`, /\n|\$6\$|my-secret/)
        if (!first.fix) return
        await world.type(first.fix)
        assert.deepEqual(await world.troubles({ only: [check] }), [], `typed: ${first.fix}`)
      } finally {
        world.restore()
      }
    })
  }
})

describe('what looks bad and is not', () => {
  for (const [what, changes] of FINE) {
    test(what, async () => {
      try {
        changes(world.project)
        assert.deepEqual(await world.troubles({ only: [...OF_FILES, 'start'] }), [])
      } finally {
        world.restore()
      }
    })
  }
})
