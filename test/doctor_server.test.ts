/** The doctor against a running server: healthy, and broken in one thing at a time. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { BROKEN_SERVER } from './broken_setups.ts'
import { DoctorWorld } from './doctor_world.ts'

let world: DoctorWorld
before(async () => {
  world = await DoctorWorld.create()
  await world.project.start()
  world.hideDocker(true)
})
after(() => world?.project.remove())

describe('a broken server is told once, at its cause, and the fix heals it', () => {
  for (const [what, breaks, check, level, said, live] of BROKEN_SERVER) {
    test(what, async () => {
      try {
        breaks(world.project)
        if (live) await world.takeEffect()
        const [first, ...others] = await world.troubles()
        assert.ok(first, 'nothing was found')
        assert.deepEqual(others, [])
        assert.equal(`${first.check} ${first.level}`, `${check} ${level}`, first.evidence)
        assert.match(first.evidence, said)
        if (!first.fix) return
        await world.type(first.fix)
        if (live) await world.takeEffect()
        // What waited is on its way for a moment.
        let left = await world.troubles()
        for (let tries = 0; left.length > 0 && tries < 5; tries++) left = await world.troubles()
        assert.deepEqual(left, [], `typed: ${first.fix}`)
      } finally {
        await world.heal()
      }
    })
  }
})
