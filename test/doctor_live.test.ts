/** The doctor against a running server that a change of its files has broken. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { BROKEN_LIVE, FULL } from './broken_setups.ts'
import { DoctorWorld } from './doctor_world.ts'

const world = await DoctorWorld.create()
const { project } = world
after(() => project.remove())
await project.start()

for (const rows of BROKEN_LIVE)
  test(`told once, at its cause: ${rows.map(([what]) => what).join('; ')}`, () => world.assertToldAndHealed(rows, true))

test('a full mailbox is told, and its fix makes room', async () => {
  const [, breaks, check, level, said] = FULL
  const find = () => world.troubles(check)
  await breaks(project)
  await world.takeEffect()
  const [found] = await find()
  assert.equal(found?.level, level)
  assert.match(found?.evidence ?? '', said as RegExp)
  await world.type(found?.fix ?? '', [])
  assert.deepEqual(await find(), [])
  await world.heal(false)
})
