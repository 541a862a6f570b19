/** The doctor against a server that was started with something wrong in its files: it is found where it stands. */
import { after, before } from 'node:test'
import { BROKEN_SERVER } from './broken_setups.ts'
import { brokenOnce, DoctorWorld } from './doctor_world.ts'

let world: DoctorWorld
before(async () => {
  world = await DoctorWorld.create()
  await world.project.start()
})
after(() => world?.project.remove())

brokenOnce(
  () => world,
  BROKEN_SERVER.filter(([, , , , , live]) => live),
)
