/** What a check of the doctor says, and the words of its fixes: each can be typed as it stands. */
import type { Entry } from '../accounts/tables.ts'

export interface Finding {
  /** `skipped`: cannot be judged, or follows from what another check reports. */
  level: 'ok' | 'warning' | 'failure' | 'skipped'
  /** What was seen, in one line. */
  evidence: string
  /** The command to type or the line to write; only where the cause is certain and this heals it. */
  fix?: string | undefined
  /** Does what `fix` says, where that is safe, and gives one line about what was done. */
  mend?: () => Promise<string> | string
}

export interface Result extends Finding {
  check: string
  title: string
  milliseconds: number
}

/** Thrown by a check that has nothing to look at. */
export class Skipped extends Error {}

/** A fix that is a function is what --fix does. */
const finding =
  (level: Finding['level']) =>
  (evidence: string, fix?: string | Finding['mend'] | false): Finding =>
    typeof fix === 'function'
      ? { level, evidence, fix: 'npm run doctor -- --fix', mend: fix }
      : { level, evidence, fix: fix || undefined }
export const [ok, warning, failure] = [finding('ok'), finding('warning'), finding('failure')]

/** The problems found or, where there are none, one ok. */
export const verdict = (problems: Finding[], evidence: string) => (problems.length > 0 ? problems : [ok(evidence)])

type At = Pick<Entry, 'lines'>
const linesOf = ({ lines }: At) => (lines.length > 1 ? `lines ${lines[0]}-${lines.at(-1)}` : `line ${lines[0]}`)

/** Where an entry stands, as a finding begins. */
export const placeOf = (file: string, { lines }: At) => `${file} line ${lines[0]}`
export const deleteLine = (file: string, at: At) => `Delete ${linesOf(at)} of ${file}`
export const writeLine = (file: string, at: At, text: string) => `Write ${linesOf(at)} of ${file} as: ${text}`
export const addLine = (file: string, text: string) => `Write into ${file}: ${text}`
