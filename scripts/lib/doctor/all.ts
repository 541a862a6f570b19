/** All checks of the doctor, in the order that they are shown, and what they say about a start that failed. */
import { Failure } from '../cli.ts'
import { answerChecks } from './answers.ts'
import { type Check, runChecks } from './check.ts'
import { Facts } from './facts.ts'
import { liveChecks } from './live.ts'
import { machineChecks } from './machine.ts'
import { mailChecks } from './mail.ts'
import { postfixChecks } from './postfix.ts'
import { queueChecks } from './queue.ts'
import { accountChecks } from './rules_accounts.ts'
import { aliasChecks } from './rules_aliases.ts'
import { composeChecks } from './rules_compose.ts'
import { dovecotChecks } from './rules_dovecot.ts'
import { environmentChecks } from './rules_environment.ts'
import { fileChecks } from './rules_files.ts'
import { tableChecks } from './rules_tables.ts'
import { serverChecks } from './server.ts'
import { stateChecks } from './state.ts'

export const CHECKS: readonly Check[] = [
  ...machineChecks,
  ...composeChecks,
  ...environmentChecks,
  ...fileChecks,
  ...accountChecks,
  ...aliasChecks,
  ...tableChecks,
  ...dovecotChecks,
  ...postfixChecks,
  ...serverChecks,
  ...liveChecks,
  ...answerChecks,
  ...stateChecks,
  ...mailChecks,
  ...queueChecks,
]

/** What can keep a server from starting. */
const START = new Set(
  [
    ...machineChecks,
    ...composeChecks,
    ...environmentChecks,
    ...fileChecks,
    ...accountChecks,
    ...aliasChecks,
    ...tableChecks,
    ...dovecotChecks,
    ...postfixChecks,
  ]
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
