/** The inbox in the background: started by npm start, ended by npm stop, and recorded for both and for status. */
import { spawn } from 'node:child_process'
import { mkdirSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { messageOf } from '../cli.ts'
import { assertPortFree } from '../server/ports.ts'
import { startOf } from '../server/processes.ts'
import { isRoot } from '../server/root.ts'
import { enabledProtocols, hostOf, ROOT, type Settings } from '../settings.ts'

const LAUNCH = join(dirname(dirname(fileURLToPath(import.meta.url))), 'launch.mjs')
const [RECORD, LOG] = ['inbox.json', 'inbox.log']
/** Milliseconds until it answers when it begins, and when it runs, and until it has ended. */
const PATIENCE = { start: 20_000, run: 3_000, stop: 5_000 }

interface Record {
  url: string
  pid: number
  /** As the kernel counts it, which a reused pid has not; empty where there is no /proc. */
  startTime: string
  /** The settings that it was started with, as text. */
  settings: string
}

/** Where record and log are: Docker's user may have no folder elsewhere. */
const foldersOf = ({ stateDir }: Settings) => ({ native: stateDir, docker: join(ROOT, 'docker-data', 'inbox') })

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

/** The inbox that runs in the background. */
export function runningInbox(settings: Settings): Record | undefined {
  for (const folder of Object.values(foldersOf(settings))) {
    try {
      const record: Record = JSON.parse(readFileSync(join(folder, RECORD), 'utf8'))
      if (startOf(record.pid) === record.startTime) return record
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
  // One that hangs is of no use.
  if (running?.settings === text && imap && (await answers(running.url, PATIENCE.run))) return { url: running.url }
  await stopInbox(settings)
  if (settings.inboxPort === 0) return {}
  if (!imap) return { problem: 'There is no inbox, because IMAP is off in development-mail-server.env.' }
  const without = (why: string) => ({ problem: `The mail server runs without its inbox. ${why}` })
  const taken = await assertInboxPortFree(settings).catch(messageOf)
  if (taken) return without(taken)
  const folder = foldersOf(settings)[engine]
  mkdirSync(folder, { recursive: true })
  const log = openSync(join(folder, LOG), 'w')
  const options = { cwd: ROOT, detached: true, ...ownerOf(ROOT) }
  const child = spawn(process.execPath, [LAUNCH, 'inbox'], { ...options, stdio: ['ignore', log, log] })
  child.on('error', () => {}).unref()
  const { pid = 0 } = child
  const url = urlOf(settings, settings.inboxPort)
  const record: Record = { url, pid, startTime: startOf(pid), settings: text }
  writeFileSync(join(folder, RECORD), JSON.stringify(record), { mode: 0o644 })
  for (const end = Date.now() + PATIENCE.start; child.exitCode === null && Date.now() < end; await sleep(20)) {
    if (await answers(url, 1_000)) return { url, isNew: true }
  }
  await stopInbox(settings)
  const words = readFileSync(join(folder, LOG), 'utf8').trim().split('\n').at(-1)
  return without(words || 'It does not answer. Try: npm run inbox')
}

/** Whether an inbox answers within `patience` milliseconds. */
async function answers(url: string, patience: number): Promise<boolean> {
  const answer = await fetch(`${url}api/v1/info`, { signal: AbortSignal.timeout(patience) }).catch(() => undefined)
  return answer?.ok ?? false
}

/** Ends the inbox. False where none was running. */
export async function stopInbox(settings: Settings): Promise<boolean> {
  const running = runningInbox(settings)
  if (!running) return false
  // A stopped one (SIGSTOP) has to go on for its end.
  for (const signal of ['SIGCONT', 'SIGTERM']) process.kill(running.pid, signal)
  for (const end = Date.now() + PATIENCE.stop; runningInbox(settings); await sleep(10)) {
    // It may be gone since the last look.
    if (Date.now() > end && startOf(running.pid) === running.startTime) process.kill(running.pid, 'SIGKILL')
  }
  // Without /proc another process of that number would pass for the inbox. In root's folder it may stay: there is /proc.
  const records = Object.values(foldersOf(settings)).map((folder) => join(folder, RECORD))
  await Promise.allSettled(records.map((record) => rm(record, { force: true })))
  return true
}

/** By sudo, the user whose project it is: a server of HTTP needs no root. */
function ownerOf(folder: string): { uid?: number; gid?: number } {
  const [uid, gid] = [Number(process.env.SUDO_UID), Number(process.env.SUDO_GID)]
  return isRoot && gid >= 0 && statSync(folder).uid === uid ? { uid, gid } : {}
}
