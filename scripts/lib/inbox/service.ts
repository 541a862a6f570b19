/** The inbox in the background: started by npm start, ended by npm stop, and recorded for both and for status. */
import { spawn } from 'node:child_process'
import {
  accessSync,
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isLiving, startTimeOf } from '../server/processes.ts'
import { becomeRoot, isRoot } from '../server/root.ts'
import { enabledProtocols, ROOT, type Settings } from '../settings.ts'

const LAUNCH = join(dirname(dirname(fileURLToPath(import.meta.url))), 'launch.mjs')
const [RECORD, LOG] = ['inbox.json', 'inbox.log']
/** Milliseconds until it listens, and until it ends. */
const PATIENCE = { start: 20_000, stop: 5_000 }

interface Running {
  url: string
  pid: number
  /** As the kernel counts it, which a reused pid has not. */
  startTime: string
  /** The settings that it was started with, as text. */
  settings: string
  folder: string
}

/** The inbox that runs in the background, if any. */
export function runningInbox(settings: Settings): Running | undefined {
  return foldersOf(settings)
    .flatMap((folder): Running[] => {
      try {
        return [{ ...JSON.parse(readFileSync(join(folder, RECORD), 'utf8')), folder }]
      } catch {
        return []
      }
    })
    .find(({ pid, startTime }) => isLiving(pid, startTime) && isThere(pid))
}

/**
 * Starts the inbox, anew where the settings have changed. Gives where it listens and whether this started it, or the problem
 * in a line; nothing where it is turned off.
 */
export async function startInbox(settings: Settings): Promise<{ url?: string; isNew?: boolean; problem?: string }> {
  const running = runningInbox(settings)
  const { imap } = enabledProtocols()
  const wanted = JSON.stringify(settings)
  if (running?.settings === wanted && imap) return { url: running.url }
  await stopInbox(settings)
  if (settings.inboxPort === 0) return {}
  if (!imap) return { problem: 'There is no inbox, because IMAP is off in development-mail-server.env.' }
  const folder = foldersOf(settings).find(isWritable) as string
  const log = join(folder, LOG)
  const out = openSync(log, 'w')
  const child = spawn(process.execPath, [LAUNCH, 'inbox'], {
    ...{ cwd: ROOT, detached: true, stdio: ['ignore', out, out, 'ipc'] },
    ...ownerOf(ROOT),
  })
  closeSync(out)
  try {
    const url = await new Promise<string | undefined>((resolve) => {
      const timer = setTimeout(resolve, PATIENCE.start)
      const end = (url?: string) => {
        clearTimeout(timer)
        resolve(url)
      }
      child.once('message', (message) => end(String(message)))
      for (const event of ['exit', 'error'] as const) child.once(event, () => end())
    })
    if (!url || !child.pid) {
      child.kill('SIGKILL')
      const words = readFileSync(log, 'utf8').trim().split('\n').at(-1)
      return { problem: `The mail server runs without its inbox. ${words || `See ${log}`}` }
    }
    const record = { url, pid: child.pid, startTime: startTimeOf(child.pid), settings: wanted }
    writeFileSync(join(folder, RECORD), JSON.stringify(record), { mode: 0o644 })
    // From now on it lives without this process.
    await new Promise((resolve) => child.send('stay', resolve))
    return { url, isNew: true }
  } finally {
    if (child.connected) child.disconnect()
    child.unref()
  }
}

/** Ends the inbox. False where none was running. */
export async function stopInbox(settings: Settings): Promise<boolean> {
  const running = runningInbox(settings)
  if (!running) return false
  const { pid, startTime, folder } = running
  try {
    process.kill(pid, 'SIGTERM')
    for (const end = Date.now() + PATIENCE.stop; isLiving(pid, startTime) && isThere(pid); await sleep(10)) {
      if (Date.now() > end) process.kill(pid, 'SIGKILL')
    }
    rmSync(join(folder, RECORD), { force: true })
  } catch (error) {
    // Root's, or in root's folder: the whole script runs again.
    if (isRoot || !/^(EPERM|EACCES)$/.test(String((error as NodeJS.ErrnoException).code))) throw error
    await becomeRoot()
  }
  return true
}

/** In a process that startInbox has started: tells that it listens. Settled when the process that waits for it was killed. */
export function report(url: string): Promise<void> {
  return new Promise((resolve) => {
    let stays = false
    process.once('message', () => {
      stays = true
    })
    process.once('disconnect', () => stays || resolve())
    process.send?.(url)
  })
}

/** The warning that others can read and delete all mail, in a line; undefined where only this machine reaches the inbox. */
export function exposure({ bindAddress, inboxPort }: Settings): string | undefined {
  if (inboxPort === 0 || /^(127\.|::1$)/.test(bindAddress)) return undefined
  return `BIND_ADDRESS=${bindAddress}: whoever reaches port ${inboxPort} of this machine reads and deletes all mail.`
}

/** Where the record and the log may be: the native engine's folder, or the project's, which Docker's user can write to. */
function foldersOf({ stateDir }: Settings): string[] {
  return [stateDir, join(ROOT, 'docker-data', 'inbox')]
}

function isWritable(folder: string): boolean {
  try {
    if (folder.startsWith(ROOT)) mkdirSync(folder, { recursive: true })
    accessSync(folder, constants.W_OK)
    return true
  } catch {
    return false
  }
}

function isThere(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** By sudo, the user whose project it is: a server of HTTP needs no root. */
function ownerOf(folder: string): { uid?: number; gid?: number } {
  const { SUDO_UID, SUDO_GID } = process.env
  const isOwner = isRoot && SUDO_UID && SUDO_GID && statSync(folder).uid === Number(SUDO_UID)
  return isOwner ? { uid: Number(SUDO_UID), gid: Number(SUDO_GID) } : {}
}
