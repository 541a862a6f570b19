/** All checks of the doctor, in the order that they are shown. */
import { Failure } from '../cli.ts'
import { type Check, projectContext, runChecks } from './check.ts'
import { composeChecks } from './compose.ts'
import { configurationChecks } from './configuration.ts'
import { environmentChecks } from './environment.ts'
import { fenceFiles, fenceServer } from './fence.ts'
import { machineChecks } from './machine.ts'
import { mailChecks } from './mail.ts'
import { serverChecks } from './server.ts'
import { stateChecks } from './state.ts'

/** Those that look at files alone. */
export const FILE_CHECKS: readonly Check[] = [
  ...composeChecks,
  ...environmentChecks,
  ...configurationChecks,
  fenceFiles,
]

export const CHECKS: readonly Check[] = [
  ...machineChecks,
  ...FILE_CHECKS,
  fenceServer,
  ...serverChecks,
  ...mailChecks,
  ...stateChecks,
]

/** What can keep a server from starting. */
const START_CHECKS = new Set([...machineChecks, ...FILE_CHECKS].map(({ name }) => name).concat('ports', 'logs'))

/** Milliseconds that explaining may take. */
const EXPLANATION = 5_000

/** An error of a start, with what the doctor says about it below. Words that the error has already are not repeated. */
export async function explain(error: unknown): Promise<unknown> {
  if (!(error instanceof Failure) || error.exit !== 'failed') return error
  const checks = CHECKS.filter(({ name }) => START_CHECKS.has(name))
  const results = (await Promise.all(runChecks(checks, projectContext(), EXPLANATION))).flat()
  const said = error.message.split('\n')
  const lines = results
    .filter(({ level, evidence }) => level === 'failure' && !error.message.includes(evidence))
    .map(({ check, evidence, fix }) => {
      const repeated = said.find((line) => line !== '' && evidence.endsWith(`: ${line}`))
      return `${check}: ${repeated ? evidence.slice(0, -repeated.length - 2) : evidence}\n  fix: ${fix}`
    })
  return lines.length === 0 ? error : new Failure('failed', [...said, 'npm run doctor says:', ...lines].join('\n'))
}
