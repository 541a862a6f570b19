/** The sum of many messages: what is shown of them while they are sent and at the end, and the exit code. */
import { type ExitName, print, progressBar, say } from '../cli.ts'
import type { Delivery } from './smtp_delivery.ts'

/** How many messages that were not accepted get lines of their own; `--json` has them all. */
const MOST_LINES = 20

/** The sum of all messages, and what `--count` shows of them. */
export class Tally {
  readonly #total: number
  readonly #bar: ReturnType<typeof progressBar>
  #begin: number | undefined
  readonly #counts = { accepted: 0, partial: 0, refused: 0, failed: 0 }
  #done = 0
  #lines = 0
  #lastProblem = ''
  #firstFailed = Number.POSITIVE_INFINITY
  #exit: ExitName = 'ok'
  stopped = false

  constructor(total: number) {
    this.#total = total
    this.#bar = progressBar(total)
  }

  /** The time begins to run: with the first connection, when messages have been made ahead. */
  begin(): void {
    this.#begin ??= performance.now()
  }

  add(n: number, { exit }: Delivery): void {
    this.#done += 1
    this.#counts[statusOf(exit)] += 1
    if (exit === 'ok' || n > this.#firstFailed) return
    this.#firstFailed = n
    this.#exit = exit
  }

  /** The exit code's name: of the message with the lowest number that not all its recipients were accepted for. */
  get exit(): ExitName {
    return this.stopped ? 'interrupted' : this.#exit
  }

  /** Ends the run after the messages under way. A second Ctrl-C finds no handler and ends the process. */
  stop(): void {
    this.stopped = true
    this.#bar.clear()
    say('The messages under way come to their end; Ctrl-C again stops at once.')
  }

  show(n: number, { problem, refused, exit }: Delivery, json = false): void {
    // Where no connection is to be had, all that remain fail for the same reason.
    const isNews = refused.length > 0 || problem !== this.#lastProblem
    if (problem && isNews && !json && this.#lines <= MOST_LINES) {
      this.#lastProblem = problem
      this.#bar.clear()
      const lines = refused.length > 0 ? refused.map(({ recipient, reply }) => `${recipient}: ${reply}`) : [problem]
      for (const line of lines) print(`Message ${n} ${statusOf(exit)}: ${line}`)
      this.#lines += 1
      if (this.#lines > MOST_LINES) print('... and so on; --json has a line for every message.')
    }
    this.#bar.update(this.#done)
  }

  end(json = false): void {
    this.#bar.clear()
    const now = performance.now()
    const seconds = (now - (this.#begin ?? now)) / 1000
    const { accepted, partial, refused, failed } = this.#counts
    const parts = [
      `${accepted + partial} accepted${partial > 0 ? ` (${partial} not for all recipients)` : ''}`,
      `${refused} refused`,
      ...(failed > 0 ? [`${failed} failed`] : []),
      ...(this.#done < this.#total ? [`${this.#total - this.#done} not sent`] : []),
    ]
    const rate = (this.#done / Math.max(seconds, 0.001)).toFixed(1)
    const line = `${parts.join(', ')} of ${this.#total} messages in ${seconds.toFixed(2)} s: ${rate} messages per second`
    if (json) say(line)
    else print(line)
  }
}

/** What became of a message, in one word. */
export function statusOf(exit: ExitName): 'accepted' | 'partial' | 'refused' | 'failed' {
  if (exit === 'ok') return 'accepted'
  if (exit === 'someRecipients') return 'partial'
  return exit === 'sender' || exit === 'allRecipients' || exit === 'message' ? 'refused' : 'failed'
}
