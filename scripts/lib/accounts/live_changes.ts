/** Bringing a change of the accounts into effect on the server that runs, whichever engine runs it. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, messageOf, step } from '../cli.ts'
import { chooseEngine, runningNativeEngine } from '../server/choose.ts'
import { NativeEngine } from '../server/native.ts'
import { isAnswering } from '../server/proof.ts'
import type { Settings } from '../settings.ts'

/** Milliseconds for the server to take a change. docker-mailserver needs 6 s, and longer when it is at work. */
const PATIENCE = 60_000
/** Milliseconds between two looks at the server; a refused recipient is a line in its log. */
const INTERVAL = 100

export interface Running {
  /** Undefined where the server is docker-mailserver's. */
  native: NativeEngine | undefined
}

/** The server, if it runs. No Docker client is needed: docker-mailserver runs when the ports answer. */
export async function runningServer(settings: Settings): Promise<Running | undefined> {
  const native = await runningNativeEngine(settings)
  return native || (await isAnswering(settings)) ? { native } : undefined
}

/**
 * Tells a running server about the change and waits until all conditions hold, one after the other. Gives the seconds
 * that took, or undefined when no server runs. Throws a Failure when it takes too long.
 */
export async function bringIntoEffect(settings: Settings, address: string, conditions: (() => Promise<boolean>)[]) {
  const begin = performance.now()
  const running = await runningServer(settings)
  if (!running) return undefined
  await step('Waiting until the server has taken the change', async () => {
    try {
      // docker-mailserver looks at its configuration files every two seconds by itself.
      await running.native?.reload()
    } catch (error) {
      throw new Failure('failed', `${address} is written, and the server has not taken it: ${messageOf(error)}`)
    }
    for (const holds of conditions) {
      while (!(await holds())) {
        if (performance.now() - begin > PATIENCE) {
          throw new Failure(
            'timeout',
            `${address} is written, and the server has not taken it in ${PATIENCE / 1000} s. See: npm run logs`,
          )
        }
        await sleep(INTERVAL)
      }
    }
  })
  return ((performance.now() - begin) / 1000).toFixed(1)
}

/**
 * The engine that can remove a mailbox from the disk when its account is gone; undefined where only the running server
 * reaches it. Throws a Failure when nobody does.
 */
export async function mailFolder(settings: Settings, address: string, running: Running | undefined) {
  const isRoot = process.getuid?.() === 0
  if (running) return isRoot ? running.native : undefined
  const advice = 'Start the server (npm start) and repeat this, or leave the mail: --keep-mail'
  if ((await chooseEngine(settings)).name === 'docker') {
    throw new Failure('failed', `The mail of ${address} lies in a Docker volume. ${advice}`)
  }
  const native = new NativeEngine(settings)
  if (isRoot) return native
  if (!native.hasMailbox(address)) return undefined
  throw new Failure('failed', `The mail of ${address} belongs to the mail server's own user. ${advice}`)
}
