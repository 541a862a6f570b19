/** One reader at a time may show and delete: two POP3 sessions that delete the same message are both told +OK. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Milliseconds between two tries. */
const PAUSE = 25

/**
 * Claims all of these names for this process, or waits until `deadline` (milliseconds since 1970) for others to give them
 * up. Gives the function that gives them up, or undefined when somebody holds one still. The kernel keeps the claims, as
 * the names of listening sockets: they end with the process, however it ends.
 */
export async function claim(names: string[], deadline: number): Promise<(() => void) | undefined> {
  for (;;) {
    const held: Server[] = []
    const release = () => {
      for (const server of held.splice(0)) server.close()
    }
    for (const name of names) {
      const server = await listen(pathOf(name))
      if (server) held.push(server)
      else break
    }
    if (held.length === names.length) return release
    release()
    if (Date.now() >= deadline) return undefined
    await sleep(PAUSE + Math.random() * PAUSE)
  }
}

/** Names of sockets without a file on Linux and Windows; elsewhere a file below the folder for temporary ones. */
function pathOf(name: string): string {
  const id = `pop_email-${createHash('sha256').update(name).digest('hex').slice(0, 32)}`
  if (process.platform === 'linux') return `\0${id}`
  return process.platform === 'win32' ? `\\\\.\\pipe\\${id}` : join(tmpdir(), id)
}

async function listen(path: string): Promise<Server | undefined> {
  const server = createServer((socket) => socket.destroy())
  try {
    await once(server.listen(path), 'listening')
    return server.unref()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    if (path.startsWith('/') && !(await isAlive(path))) rmSync(path, { force: true })
    return undefined
  }
}

/** A process that was killed leaves its file, and nobody who answers. */
function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.unref()
  })
}
