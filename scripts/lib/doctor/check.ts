/** What a check of the doctor says, and the words of its fixes: each can be typed as it stands. */
import type { Entry } from '../accounts/tables.ts'

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

type More = Pick<Finding, 'mend' | 'question'>
export const warning = (evidence: string, fix?: string, more?: More): Finding => ({
  ...{ level: 'warning', evidence, fix },
  ...more,
})
export const failure = (evidence: string, fix?: string, more?: More): Finding => ({
  ...warning(evidence, fix, more),
  level: 'failure',
})

/** The problems found or, where there are none, one ok. */
export function verdict(problems: Finding[], evidence: string): Finding[] {
  return problems.length > 0 ? problems : [{ level: 'ok', evidence }]
}

type At = Pick<Entry, 'lines'>
const linesOf = ({ lines }: At) => (lines.length > 1 ? `lines ${lines[0]}-${lines.at(-1)}` : `line ${lines[0]}`)

/** Where an entry stands, as a finding begins. */
export const placeOf = (file: string, { lines }: At) => `${file} line ${lines[0]}`

/** The fix of what `mend` does. */
export const MEND = 'npm run doctor -- --fix'
export const deleteLine = (file: string, at: At) => `Delete ${linesOf(at)} of ${file}`
export const writeLine = (file: string, at: At, text: string) => `Write ${linesOf(at)} of ${file} as: ${text}`
export const addLine = (file: string, text: string) => `Write into ${file}: ${text}`
