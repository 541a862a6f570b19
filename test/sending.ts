/** send_email in this process. */
import { main } from '../scripts/send_email.ts'
import type { Result } from './harness.ts'
import { type HereOptions, runHere } from './here.ts'

/** The exit code and what was written; `isTTY` makes both streams terminals. */
export function sendHere(options: HereOptions, ...args: string[]): Promise<Result> {
  return runHere(main, options, ...args)
}
