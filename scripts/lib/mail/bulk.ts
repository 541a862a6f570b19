/** Many messages over a few connections: each is reported exactly once, whatever becomes of the connections. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type ExitName, Failure, type Io } from '../cli.ts'
import type { Delivery, Notify, Parcel, SmtpSession } from './smtp.ts'

/** A message with its envelope. */
export interface Outgoing extends Parcel {
  messageId: string | null
}

export interface Plan {
  /** Messages are numbered from 1 to `count`. */
  count: number
  /** How many connections at most. */
  concurrency: number
  notify: Notify | undefined
  /** Milliseconds to try for a new connection when the last one was lost. */
  patience: number
  /** Makes message `n`; called when its turn comes, so that not all have to be in memory. */
  make: (n: number) => Promise<Outgoing>
  /** Opens a session; throws a Failure. `connection` counts from 1. */
  open: (connection: number) => Promise<SmtpSession>
  /** Is called once for each message, in the order in which they are done. */
  report: (n: number, message: Outgoing, delivery: Delivery) => void
  /** True: begin no further message. */
  stopped: () => boolean
}

/** Milliseconds between two attempts to connect. */
const PAUSE = 200
/** How many messages that were not accepted get lines of their own; `--json` has them all. */
const MOST_LINES = 20
/** Milliseconds between two looks of the counter. */
const COUNTING = 100

/**
 * Sends all messages of a plan. A refused or failed message does not stop the others. A message whose connection broke
 * before it was handed over is sent again on a new connection, once; one that the server may have taken is not, as
 * that could double it. A connection that cannot be opened leaves its share to the others; when it was the last, and
 * no new one comes within the plan's patience, the messages still to be sent fail with the reason.
 */
export async function sendAll(plan: Plan): Promise<void> {
  const { count, notify, patience, make, open, report, stopped } = plan
  const again: number[] = []
  let next = 1
  let workers = Math.min(plan.concurrency, count)
  let everConnected = false
  let hopeless: Failure | undefined

  /** A session, or undefined when none can be had: then others go on, or all is hopeless. */
  async function connect(connection: number): Promise<SmtpSession | undefined> {
    const deadline = Date.now() + patience
    while (!hopeless) {
      try {
        const session = await open(connection)
        everConnected = true
        return session
      } catch (error) {
        if (!(error instanceof Failure)) throw error
        if (workers > 1) return undefined
        if (!everConnected || stopped() || Date.now() > deadline) hopeless = error
        else await sleep(PAUSE)
      }
    }
    return undefined
  }

  async function work(connection: number): Promise<void> {
    let session: SmtpSession | undefined
    for (;;) {
      // Nothing may come between this and the count of workers: what another one leaves must find a taker.
      const n = stopped() ? undefined : (again.pop() ?? (next <= count ? next++ : undefined))
      if (n === undefined) break
      const message = await make(n)
      let delivery: Delivery | undefined
      while (!delivery) {
        const isFresh = !session?.usable
        if (isFresh) session = await connect(connection)
        if (session) {
          const attempt: Delivery = await session.deliver(message, notify)
          if (!attempt.untaken || isFresh) delivery = attempt
        } else if (hopeless) {
          delivery = undelivered(hopeless)
        } else {
          // Another worker is still at its message, and will look for more after it.
          workers -= 1
          again.push(n)
          return
        }
      }
      report(n, message, delivery)
    }
    workers -= 1
    await session?.close()
  }

  await Promise.all(Array.from({ length: workers }, (_, index) => work(index + 1)))
}

function undelivered({ exit, message }: Failure): Delivery {
  return { exit, reply: null, queueId: null, accepted: [], refused: [], problem: message, untaken: true }
}

/** What became of a message, in one word. */
export function statusOf(exit: ExitName): 'accepted' | 'partial' | 'refused' | 'failed' {
  if (exit === 'ok') return 'accepted'
  if (exit === 'someRecipients') return 'partial'
  return exit === 'sender' || exit === 'allRecipients' || exit === 'message' ? 'refused' : 'failed'
}

/** The sum of many messages: shown on a terminal while they are sent, and at the end; and the exit code. */
export class Tally {
  readonly #total: number
  readonly #json: boolean
  readonly #io: Io
  readonly #begin = performance.now()
  readonly #counts = { accepted: 0, partial: 0, refused: 0, failed: 0 }
  #done = 0
  #shown = 0
  #lines = 0
  #lastProblem: string | null = null
  #firstFailed = Number.POSITIVE_INFINITY
  /** The exit of the message with the lowest number that not all its recipients were accepted for. */
  exit: ExitName = 'ok'

  /** The time begins to run. With `json` the lines of single messages are somebody else's matter. */
  constructor(total: number, json: boolean, io: Io) {
    this.#total = total
    this.#json = json
    this.#io = io
  }

  add(n: number, { exit, problem, refused }: Delivery): void {
    this.#done += 1
    this.#counts[statusOf(exit)] += 1
    if (exit !== 'ok' && n < this.#firstFailed) {
      this.#firstFailed = n
      this.exit = exit
    }
    // Where no connection is to be had, all that remain fail for the same reason.
    const isNews = refused.length > 0 || problem !== this.#lastProblem
    if (problem && isNews && !this.#json && this.#lines <= MOST_LINES) {
      this.#lastProblem = problem
      const lines = refused.length > 0 ? refused.map(({ recipient, reply }) => `${recipient}: ${reply}`) : [problem]
      this.clear()
      for (const line of lines) this.#io.print(`Message ${n} ${statusOf(exit)}: ${line}`)
      this.#lines += 1
      if (this.#lines > MOST_LINES) this.#io.print('... and so on; --json has a line for every message.')
    }
    if (!this.#io.stderr.isTTY || performance.now() - this.#shown < COUNTING) return
    this.#shown = performance.now()
    this.#io.stderr.write(`\r${this.#done} of ${this.#total}`)
  }

  /** Takes the counter away, for other output. */
  clear(): void {
    if (this.#io.stderr.isTTY) this.#io.stderr.write('\r\x1b[K')
  }

  /** Prints the sum; on stderr with `json`. */
  end(): void {
    this.clear()
    const seconds = (performance.now() - this.#begin) / 1000
    const { accepted, partial, refused, failed } = this.#counts
    const parts = [
      `${accepted + partial} accepted${partial > 0 ? ` (${partial} not for all recipients)` : ''}`,
      `${refused} refused`,
      ...(failed > 0 ? [`${failed} failed`] : []),
      ...(this.#done < this.#total ? [`${this.#total - this.#done} not sent`] : []),
    ]
    const rate = (this.#done / Math.max(seconds, 0.001)).toFixed(1)
    const line = `${parts.join(', ')} of ${this.#total} messages in ${seconds.toFixed(2)} s: ${rate} messages per second`
    if (this.#json) this.#io.say(line)
    else this.#io.print(line)
  }
}
