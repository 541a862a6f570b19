/** Many messages over a few connections: each is reported exactly once, whatever becomes of the connections. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type ExitName, Failure, type Io } from '../cli.ts'
import { type Delivery, type Outgoing, statusOf } from './delivery.ts'
import type { SmtpSession } from './smtp.ts'

export interface Plan {
  /** Messages are numbered from 1 to `count`. */
  count: number
  /** How many connections at most. */
  concurrency: number
  /** When to ask for a delivery status notification, as `SmtpSession.deliver` takes it. */
  notify: string | undefined
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

/** Milliseconds between two attempts to connect, and between two numbers of the counter. */
const [PAUSE, COUNTING] = [200, 100]

/**
 * Sends all messages of a plan. A refused or failed message does not stop the others. A message whose connection broke
 * before it was handed over is sent again on a new connection, once; one that the server may have taken is not, as
 * that could double it. A connection that cannot be opened leaves its share to the others; when it was the last, and
 * no new one comes within the plan's patience, the messages still to be sent fail with the reason.
 */
export async function sendAll({ notify, make, open, report, stopped, ...plan }: Plan): Promise<void> {
  const again: number[] = []
  let next = 1
  let workers = Math.min(plan.concurrency, plan.count)
  let everConnected = false
  let hopeless: Failure | undefined

  /** A session, or undefined when none can be had: then others go on, or all is hopeless. */
  async function connect(connection: number): Promise<SmtpSession | undefined> {
    const deadline = Date.now() + plan.patience
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
      const n = stopped() ? undefined : (again.pop() ?? (next <= plan.count ? next++ : undefined))
      if (n === undefined) break
      // Composing goes on while the connection opens.
      const made = make(n)
      let delivery: Delivery | undefined
      while (!delivery) {
        const isFresh = !session?.usable
        if (isFresh) session = await connect(connection)
        if (session) {
          const attempt: Delivery = await session.deliver(await made, notify)
          if (!attempt.untaken || isFresh) delivery = attempt
        } else if (hopeless) {
          const { exit, message: problem } = hopeless
          delivery = { exit, problem, reply: null, queueId: null, accepted: [], refused: [], untaken: true }
        } else if (workers > 1) {
          // Another worker is still at its message, and will look for more after it.
          workers -= 1
          again.push(n)
          return
        }
      }
      report(n, await made, delivery)
    }
    workers -= 1
    await session?.close()
  }

  await Promise.all(Array.from({ length: workers }, (_, index) => work(index + 1)))
}

/**
 * The sum of many messages, from now on: a counter on a terminal, lines for what was not accepted unless `json` has them, and
 * the exit of the message with the lowest number that not all its recipients were accepted for.
 */
export function tallyOf(total: number, json: boolean, { stderr, print, say }: Io) {
  const begin = performance.now()
  const counts = { accepted: 0, partial: 0, refused: 0, failed: 0 }
  const first = { n: Number.POSITIVE_INFINITY, exit: 'ok' as ExitName }
  let [done, drawn, lastProblem] = [0, 0, '']
  /** Takes the counter away, for other output. */
  const clear = () => stderr.isTTY && stderr.write('\r\x1b[K')

  function add(n: number, { exit, problem, refused }: Delivery): void {
    done += 1
    counts[statusOf(exit)] += 1
    if (exit !== 'ok' && n < first.n) Object.assign(first, { n, exit })
    // Where no connection is to be had, all that remain fail for the same reason.
    if (problem && !json && (refused.length > 0 || problem !== lastProblem)) {
      lastProblem = problem
      clear()
      const facts = refused.length > 0 ? refused.map(({ recipient, reply }) => `${recipient}: ${reply}`) : [problem]
      for (const fact of facts) print(`Message ${n} ${statusOf(exit)}: ${fact}`)
    }
    if (!stderr.isTTY || performance.now() - drawn < COUNTING) return
    drawn = performance.now()
    stderr.write(`\r${done} of ${total}`)
  }

  /** Prints the sum, on stderr with `json`; gives the exit. */
  function end(): ExitName {
    clear()
    const seconds = (performance.now() - begin) / 1000
    const { accepted, partial, refused, failed } = counts
    const sum = [
      `${accepted + partial} accepted${partial > 0 ? ` (${partial} not for all recipients)` : ''}`,
      `${refused} refused`,
      ...(failed > 0 ? [`${failed} failed`] : []),
      ...(done < total ? [`${total - done} not sent`] : []),
    ].join(', ')
    const rate = (done / Math.max(seconds, 0.001)).toFixed(1)
    const tell = json ? say : print
    tell(`${sum} of ${total} messages in ${seconds.toFixed(2)} s: ${rate} messages per second`)
    return first.exit
  }
  return { add, clear, end }
}
