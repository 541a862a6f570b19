/** A process that is killed, played in this one: from its n-th change of a folder on, nothing reaches the disk. */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'

const CALLS = ['writeFileSync', 'chownSync', 'chmodSync', 'renameSync', 'rmSync'] as const

/**
 * Runs `work` until its call number `step` that changes something below `folder`: this one and all after it do nothing, but
 * that a file to be written is left with half of its bytes. Gives whether it came so far.
 */
export async function diesAt(step: number, folder: string, work: () => Promise<unknown>): Promise<boolean> {
  const real = Object.fromEntries(CALLS.map((name) => [name, fs[name]])) as Pick<typeof fs, (typeof CALLS)[number]>
  let calls = 0
  for (const name of CALLS) {
    const act = real[name] as (path: string, ...rest: unknown[]) => unknown
    const played = (path: string, ...rest: unknown[]) => {
      if (!path.startsWith(folder) || calls++ < step) return act(path, ...rest)
      if (name === 'writeFileSync' && calls === step + 1) act(path, String(rest[0]).slice(0, 20), ...rest.slice(1))
      throw new Error('dead')
    }
    Object.assign(fs, { [name]: played })
  }
  syncBuiltinESMExports()
  try {
    await work().catch((error) => {
      if (calls <= step) throw error
    })
    return calls > step
  } finally {
    Object.assign(fs, real)
    syncBuiltinESMExports()
  }
}
