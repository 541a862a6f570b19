/** The inbox in the background: started by npm start, ended by npm stop, and recorded for both and for status. */
import { spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { messageOf } from '../cli.ts'
import { assertPortFree } from '../server/ports.ts'
import { startOf } from '../server/processes.ts'
import { becomeRoot, isRoot } from '../server/root.ts'
import { type EngineName, enabledProtocols, hostOf, ROOT, type Settings } from '../settings.ts'

const LAUNCH = join(dirname(dirname(fileURLToPath(import.meta.url))), 'launch.mjs')
const [RECORD, LOG] = ['inbox.json', 'inbox.log']
/** Milliseconds until it answers, and until it has ended. */
const PATIENCE = { start: 20_000, stop: 5_000 }

interface Record {
  url: string
  pid: number
  /** As the kernel counts it, which a reused pid has not. */
  startTime: string
  /** The settings that it was started with, as text. */
  settings: string
}

/** The page's address, for a browser on this machine. */
export function urlOf({ host }: Settings, port: number): string {
  return `http://${hostOf(host)}:${port}/`
}

/** Throws a Failure that names who has the inbox's port. */
export function assertInboxPortFree({ bindAddress, inboxPort }: Settings): Promise<void> {
  return assertPortFree(bindAddress, inboxPort, 'inbox', 'INBOX_PORT')
}

/** The warning that others can read and delete all mail, in a line; undefined where only this machine reaches the inbox. */
export function exposure({ bindAddress, inboxPort }: Settings): string | undefined {
  if (inboxPort === 0 || /^(127\.|::1$)/.test(bindAddress)) return undefined
  return `BIND_ADDRESS=${bindAddress}: whoever reaches port ${inboxPort} of this machine reads and deletes all mail.`
}

/** The inbox that runs in the background, and the folder of its record. */
export function runningInbox(settings: Settings): (Record & { folder: string }) | undefined {
  for (const folder of Object.values(foldersOf(settings))) {
    try {
      const record: Record = JSON.parse(readFileSync(join(folder, RECORD), 'utf8'))
      if (isThere(record)) return { ...record, folder }
    } catch {
      // There is no record, or it is just being written.
    }
  }
  return undefined
}

/**
 * Starts the inbox, anew where the settings have changed. Gives its address and whether this started it, or the problem in
 * a line; nothing where it is turned off.
 */
export async function startInbox(
  settings: Settings,
  engine: 'docker' | 'native',
): Promise<{ url?: string; isNew?: boolean; problem?: string }> {
  const running = runningInbox(settings)
  const { imap } = enabledProtocols()
  const text = JSON.stringify(settings)
  if (running?.settings === text && imap) return { url: running.url }
  await stopInbox(settings)
  if (settings.inboxPort === 0) return {}
  if (!imap) return { problem: 'There is no inbox, because IMAP is off in development-mail-server.env.' }
  const without = (why: string) => ({ problem: `The mail server runs without its inbox. ${why}` })
  try {
    await assertInboxPortFree(settings)
  } catch (error) {
    return without(messageOf(error))
  }
  const folder = foldersOf(settings)[engine]
  mkdirSync(folder, { recursive: true })
  const log = openSync(join(folder, LOG), 'w')
  const options = { cwd: ROOT, detached: true, ...ownerOf(ROOT) }
  const child = spawn(process.execPath, [LAUNCH, 'inbox'], { ...options, stdio: ['ignore', log, log] })
  child.on('error', () => {}).unref()
  closeSync(log)
  const { pid = 0 } = child
  const url = urlOf(settings, settings.inboxPort)
  const record: Record = { url, pid, startTime: startOf(pid), settings: text }
  writeFileSync(join(folder, RECORD), JSON.stringify(record), { mode: 0o644 })
  for (const end = Date.now() + PATIENCE.start; child.exitCode === null && Date.now() < end; await sleep(20)) {
    const answer = await fetch(`${url}api/v1/info`, { signal: AbortSignal.timeout(1_000) }).catch(() => undefined)
    if (answer?.ok) return { url, isNew: true }
  }
  await stopInbox(settings)
  const words = readFileSync(join(folder, LOG), 'utf8').trim().split('\n').at(-1)
  return without(words || 'It does not answer. Try: npm run inbox')
}

/** Ends the inbox. False where none was running. */
export async function stopInbox(settings: Settings): Promise<boolean> {
  const running = runningInbox(settings)
  if (!running) return false
  try {
    process.kill(running.pid, 'SIGTERM')
    for (const end = Date.now() + PATIENCE.stop; isThere(running); await sleep(10)) {
      if (Date.now() > end) process.kill(running.pid, 'SIGKILL')
    }
    rmSync(join(running.folder, RECORD), { force: true })
  } catch (error) {
    // Root's, or in root's folder: the whole script runs again.
    if (isRoot || !/^(EPERM|EACCES)$/.test(codeOf(error))) throw error
    await becomeRoot()
  }
  return true
}

/** Where the record and the log are, by engine: Docker's user may have no folder elsewhere. */
function foldersOf({ stateDir }: Settings): { [engine in Exclude<EngineName, 'auto'>]: string } {
  return { native: stateDir, docker: join(ROOT, 'docker-data', 'inbox') }
}

/** Whether the process lives; where there is no /proc to tell when it was started, one of its number. */
const isThere = ({ pid, startTime }: Record) => startOf(pid) === startTime

const codeOf = (error: unknown) => String((error as NodeJS.ErrnoException).code)

/** By sudo, the user whose project it is: a server of HTTP needs no root. */
function ownerOf(folder: string): { uid?: number; gid?: number } {
  const [uid, gid] = [Number(process.env.SUDO_UID), Number(process.env.SUDO_GID)]
  return isRoot && gid >= 0 && statSync(folder).uid === uid ? { uid, gid } : {}
}
