/** All checks of the doctor, in the order that they are shown, and what they say about a start that failed. */
import { Failure } from '../cli.ts'
import { type Check, runChecks } from './check.ts'
import { Facts } from './facts.ts'
import { machineChecks } from './machine.ts'
import { mailChecks } from './mail.ts'
import { composeChecks } from './rules_compose.ts'
import { environmentChecks } from './rules_environment.ts'
import { postfixChecks } from './rules_postfix.ts'
import { tableChecks } from './rules_tables.ts'
import { serverChecks } from './server.ts'
import { stateChecks } from './state.ts'

export const CHECKS: readonly Check[] = [
  ...machineChecks,
  ...composeChecks,
  ...environmentChecks,
  ...tableChecks,
  ...postfixChecks,
  ...serverChecks,
  ...stateChecks,
  ...mailChecks,
]

/** What can keep a server from starting. */
const START = new Set(
  [...machineChecks, ...composeChecks, ...environmentChecks, ...tableChecks, ...postfixChecks]
    .map(({ name }) => name)
    .concat('ports'),
)

/** Milliseconds that explaining may take. */
const EXPLANATION = 10_000

/** An error of a start, with what the doctor says about it below. Words that the error has already are not repeated. */
export async function explain(error: unknown): Promise<unknown> {
  if (!(error instanceof Failure) || error.exit !== 'failed') return error
  const results = await runChecks(
    CHECKS.filter(({ name }) => START.has(name)),
    new Facts(),
    EXPLANATION,
  )
  const lines = results
    .filter(({ level, evidence }) => level === 'failure' && !error.message.includes(evidence))
    .map(({ check, evidence, fix }) => `${check}: ${evidence}${fix ? `\n  fix: ${fix}` : ''}`)
  return lines.length === 0
    ? error
    : new Failure('failed', [error.message, 'npm run doctor says:', ...lines].join('\n'))
}
