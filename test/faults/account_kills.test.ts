/** add-account is killed at each of its calls that change a file. */
import { readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { FILES } from '../../scripts/lib/accounts/configuration.ts'
import { Project } from '../harness.ts'
import { killAtEveryStep } from '../kills.ts'

let project: Project
before(async () => {
  project = await Project.create()
})
after(() => project?.remove())

test('killed at any of its steps it leaves whole files, and the next run gets past what is left', (context) => {
  const texts = FILES.map((name) => [name, readFileSync(project.config(name), 'utf8')] as const)
  return killAtEveryStep(context, project, new Map(texts), 1)
})
