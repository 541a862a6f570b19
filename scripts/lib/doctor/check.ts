/** What a check of the doctor says, and the findings of all checks as one report: each trouble is told once, at its cause. */

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
}

export interface Result extends Finding {
  check: string
  title: string
  milliseconds: number
}

/** Thrown by a check that has nothing to look at. */
export class Skipped extends Error {}

/** The fix of what `mend` does. */
export const MEND = 'npm run doctor -- --fix'

export function warning(evidence: string, fix?: string, more: Partial<Finding> = {}): Finding {
  return { level: 'warning', evidence, fix, ...more }
}

export function failure(evidence: string, fix?: string, more: Partial<Finding> = {}): Finding {
  return { level: 'failure', evidence, fix, ...more }
}

/** The problems found or, where there are none, one ok. */
export function verdict(problems: Finding[], evidence: string): Finding[] {
  return problems.length > 0 ? problems : [{ level: 'ok', evidence }]
}

/**
 * Symptoms step back behind the failure that explains them, and what several checks say in the same words is said once.
 * `explains`: the checks that fail while this one does.
 */
export function settle(results: Result[], explains: (check: string) => readonly string[]): Result[] {
  const causes = [...new Set(results.filter(({ level }) => level === 'failure').map(({ check }) => check))]
  return results.map(({ fix, mend, question, ...result }) => {
    const { check, level, evidence } = result
    const twin = level === 'failure' && results.find((other) => other.evidence === evidence)?.check
    const cause = causes.find((other) => explains(other).includes(check) || (other === twin && other !== check))
    // Two causes that explain each other both stay: neither is the other's symptom.
    const isSymptom = cause && !explains(check).includes(cause) && (level === 'failure' || level === 'warning')
    if (isSymptom) return { ...result, level: 'skipped', evidence: `follows from "${cause}": ${evidence}` }
    return { ...result, fix, ...(mend && { mend }), ...(question && { question }) }
  })
}

/** Findings of one check that are shown; a thousand bad lines are one problem. */
const SHOWN = 5

export function shorten(findings: Finding[]): Finding[] {
  const more = findings.length > SHOWN ? ` (and ${findings.length - SHOWN} more of the kind)` : ''
  const lines = findings.map((finding) => ({ ...finding, evidence: oneLine(finding.evidence) })).slice(0, SHOWN)
  return lines.map((line, index) => (index === SHOWN - 1 ? { ...line, evidence: line.evidence + more } : line))
}

/** One printable line: log lines and server replies may hold anything, terminal escape sequences included. */
function oneLine(text: string): string {
  const line = text.trim().replace(/\s*[\r\n]+\s*/g, ' | ')
  const visible = line.replace(/[\p{Cc}\p{Cf}]/gu, (c) => `\\x${(c.codePointAt(0) ?? 0).toString(16).padStart(2, '0')}`)
  return visible.length > 400 ? `${visible.slice(0, 399)}…` : visible
}
