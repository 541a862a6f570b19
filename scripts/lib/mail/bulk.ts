/** Many messages over a few connections: each is reported exactly once, whatever becomes of the connections. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../cli.ts'
import type { Notify, Parcel, SmtpSession } from './smtp.ts'
import type { Delivery } from './smtp_delivery.ts'

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
/** How much is made before the first connection: until then the server leaves the CPU to this process. */
const AHEAD = { messages: 2_000, bytes: 32_000_000 }

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

  const made = new Map<number, Outgoing>()
  for (let n = 1, bytes = 0; n <= Math.min(count, AHEAD.messages) && bytes < AHEAD.bytes && !stopped(); n++) {
    const message = await make(n)
    made.set(n, message)
    bytes += message.bytes.length
  }

  /** A session, or undefined when none can be had: then others go on, or all is hopeless. */
  async function connect(connection: number): Promise<SmtpSession | undefined> {
    const deadline = Date.now() + patience
    for (;;) {
      if (hopeless) return undefined
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
  }

  /** The number of the next message, or undefined when there is none left. */
  const take = () => (stopped() ? undefined : (again.pop() ?? (next <= count ? next++ : undefined)))

  async function load(n: number): Promise<{ n: number; message: Outgoing }> {
    const message = made.get(n) ?? (await make(n))
    made.delete(n)
    return { n, message }
  }

  async function work(connection: number): Promise<void> {
    let session: SmtpSession | undefined
    // Each message is told to the session together with the one after it, whose envelope then goes out behind it.
    let following: Awaited<ReturnType<typeof load>> | undefined
    for (;;) {
      const n = following?.n ?? take()
      // Nothing may come between this and the count of workers: what another one leaves must find a taker.
      if (n === undefined) break
      const item = following ?? (await load(n))
      following = undefined
      let delivery: Delivery | undefined
      while (!delivery) {
        const isFresh = !session?.usable
        if (isFresh) session = await connect(connection)
        if (!session && hopeless) {
          delivery = undelivered(hopeless)
        } else if (!session && workers > 1) {
          // Another worker is still at its message, and will look for more after it.
          workers -= 1
          again.push(item.n, ...(following ? [following.n] : []))
          return
        } else if (session) {
          const after = following ? undefined : take()
          if (after !== undefined) following = await load(after)
          const attempt = await session.deliver(item.message, { notify, following: following?.message })
          if (!attempt.untaken || isFresh) delivery = attempt
        }
      }
      report(item.n, item.message, delivery)
    }
    workers -= 1
    await session?.close()
  }

  await Promise.all(Array.from({ length: workers }, (_, index) => work(index + 1)))
}

function undelivered({ exit, message }: Failure): Delivery {
  return { exit, reply: null, queueId: null, accepted: [], refused: [], problem: message, untaken: true }
}
