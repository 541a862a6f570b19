/** What a check of the doctor is, and running all of them: each trouble is told once, at its cause. */
import { Failure, messageOf } from '../cli.ts'
import { Facts } from './facts.ts'

/** `skipped`: cannot be judged, or follows from what another check reports. */
export type Level = 'ok' | 'warning' | 'failure' | 'skipped'

export interface Finding {
  level: Level
  /** What was seen, in one line. */
  evidence: string
  /** The command to type or the line to write; only where the cause is certain and this heals it. */
  fix?: string | undefined
  /** Does what `fix` says, where that is safe, and gives one line about what was done. */
  mend?: () => Promise<string> | string
  /** What to ask before `mend`, where it does more than a small change of a file. */
  question?: string
  /** The checks that have to fail while this is so: what they report then is no trouble of its own. */
  explains?: readonly string[]
}

export interface Check {
  /** What `--only` takes. */
  name: string
  /** What is true when the check is ok. */
  title: string
  run(facts: Facts): Finding[] | Promise<Finding[]>
}

export interface Result extends Finding {
  check: string
  title: string
  milliseconds: number
}

/** Names for what a cause explains. */
export const EXPLAINS = {
  /** Mail is refused or does not arrive. */
  mail: ['mail-virtual', 'mail-foreign', 'mail-unknown', 'queue', 'log'],
  /** Nobody answers, or not as he should. */
  answers: ['answers', 'logins', 'mail-virtual', 'mail-foreign', 'mail-unknown', 'queue', 'log', 'live'],
  /** npm start refuses the files, so nothing of them is live. */
  start: ['start', 'live', 'answers', 'logins', 'mail-virtual', 'mail-foreign', 'mail-unknown', 'queue', 'log'],
} as const

/** Milliseconds until a check is given up. A loaded machine takes its time, so this is long, and no failure. */
const LIMIT = 30_000
/** Findings of one check that are shown; a thousand bad lines are one problem. */
const SHOWN = 5

/** Thrown by a check that has nothing to look at. */
export class Skipped extends Error {}

export function ok(evidence: string): Finding {
  return { level: 'ok', evidence }
}

export function warning(evidence: string, fix?: string, more: Partial<Finding> = {}): Finding {
  return { level: 'warning', evidence, fix, ...more }
}

export function failure(evidence: string, fix?: string, more: Partial<Finding> = {}): Finding {
  return { level: 'failure', evidence, fix, ...more }
}

/** The problems found or, where there are none, one ok. */
export function verdict(problems: Finding[], evidence: string): Finding[] {
  return problems.length > 0 ? problems : [ok(evidence)]
}

/** Runs all checks at the same time. One that throws does not touch the others. */
export async function runChecks(checks: readonly Check[], facts = new Facts(), limit = LIMIT): Promise<Result[]> {
  try {
    return settle((await Promise.all(checks.map((check) => runCheck(check, facts, limit)))).flat())
  } finally {
    facts.forget()
  }
}

async function runCheck(check: Check, facts: Facts, limit: number): Promise<Result[]> {
  const begin = performance.now()
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<Finding[]>((resolve) => {
    const said = `slow: no result within ${limit / 1000} s; this machine or what the check asks is busy`
    timer = setTimeout(() => resolve([warning(said)]), limit)
  })
  const findings = await Promise.race([attempt(check, facts), late])
  clearTimeout(timer)
  const milliseconds = Math.round(performance.now() - begin)
  return shorten(findings).map((finding) => ({ check: check.name, title: check.title, milliseconds, ...finding }))
}

async function attempt(check: Check, facts: Facts): Promise<Finding[]> {
  try {
    return await facts.once(`check ${check.name}`, async () => check.run(facts))
  } catch (error) {
    if (error instanceof Skipped) return [{ level: 'skipped', evidence: error.message }]
    if (error instanceof Failure) return [failure(error.message)]
    // A check that breaks is our fault, and says nothing about the server.
    return [warning(`this check broke: ${messageOf(error)}`)]
  }
}

/** Symptoms step back behind the failure that explains them. */
function settle(results: Result[]): Result[] {
  const causes = results.filter(({ level, explains }) => level === 'failure' && explains)
  return results.map((result) => {
    const cause = causes.find((other) => other !== result && other.explains?.includes(result.check))
    // Two causes that explain each other both stay: neither is the other's symptom.
    const isMutual = cause && result.explains?.includes(cause.check)
    if (!cause || isMutual || result.level === 'ok' || result.level === 'skipped') return result
    const { check, title, milliseconds } = result
    return {
      check,
      title,
      milliseconds,
      level: 'skipped',
      evidence: `follows from "${cause.check}": ${result.evidence}`,
    }
  })
}

function shorten(findings: Finding[]): Finding[] {
  const lines = findings.map((finding) => ({ ...finding, evidence: oneLine(finding.evidence) }))
  if (lines.length <= SHOWN) return lines
  const [last, more] = [lines[SHOWN - 1] as Finding, lines.length - SHOWN]
  return [...lines.slice(0, SHOWN - 1), { ...last, evidence: `${last.evidence} (and ${more} more of the kind)` }]
}

/** One printable line: log lines and server replies may hold anything, terminal escape sequences included. */
function oneLine(text: string): string {
  const line = text.trim().replace(/\s*[\r\n]+\s*/g, ' | ')
  const visible = line.replace(/[\p{Cc}\p{Cf}]/gu, (c) => `\\x${(c.codePointAt(0) ?? 0).toString(16).padStart(2, '0')}`)
  return visible.length > 400 ? `${visible.slice(0, 399)}…` : visible
}
