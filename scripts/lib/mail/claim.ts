/** One reader at a time may show and delete: two POP3 sessions that delete the same message are both told +OK. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Mailbox } from './mailbox.ts'
import type { Pop3Server } from './pop3.ts'

/** Milliseconds between two tries. */
const PAUSE = 25

/**
 * Claims all of these mailboxes for this process, or waits until `deadline` (milliseconds since 1970) for others to give
 * them up. Gives the function that gives them up, or undefined when somebody holds one still. The kernel keeps the claims,
 * as the names of listening sockets: they end with the process, however it ends.
 */
export async function claim(
  { host, port }: Pop3Server,
  mailboxes: Mailbox[],
  deadline: number,
): Promise<(() => void) | undefined> {
  // The master user's login has "*master" behind the account.
  const names = mailboxes.map(({ account }) => `${host}:${port} ${account.replace(/\*.*/, '').toLowerCase()}`)
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
  const id = `pop_email-${createHash('sha256').update(name).digest('hex').slice(0, 32)}`
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
