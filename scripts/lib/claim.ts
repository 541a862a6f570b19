/** Names that one process of this machine has at a time. The kernel keeps them: they end with the process, however it ends. */
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
 * up. Gives the function that gives them up, or undefined when somebody holds one still.
 */
export async function claim(names: string[], deadline: number): Promise<(() => void) | undefined> {
  for (;;) {
    const servers = await Promise.all(names.map(listen))
    const release = () => {
      for (const server of servers) server?.close()
    }
    if (!servers.includes(undefined)) return release
    release()
    if (Date.now() >= deadline) return undefined
    await sleep(PAUSE + Math.random() * PAUSE)
  }
}

/** A server on the socket of this name: one without a file on Linux and Windows. Undefined where somebody has it. */
async function listen(name: string): Promise<Server | undefined> {
  const id = `mail-${createHash('sha256').update(name).digest('hex').slice(0, 32)}`
  const path = { linux: `\0${id}`, win32: `\\\\.\\pipe\\${id}` }[process.platform as string] ?? join(tmpdir(), id)
  const server = createServer((socket) => socket.destroy())
  try {
    await once(server.listen(path), 'listening')
    return server.unref()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    const [socket, remove] = [connect(path), () => rmSync(path, { force: true })]
    // A process that was killed leaves its file, and nobody who answers; the next try has it.
    socket.on('connect', () => socket.destroy()).on('error', () => path.startsWith('/') && remove())
  }
}
