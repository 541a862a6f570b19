/**
 * Changing the files of the configuration folder, so that nobody loses a line: one writer at a time, and a file is the
 * old one or the new one, whole, whatever happens in between.
 */
import { createHash } from 'node:crypto'
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fchownSync,
  fsyncSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { hostname } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, messageOf } from '../cli.ts'
import { CONFIG_DIR } from '../settings.ts'

/**
 * docker-mailserver's own lock: its change detector holds it while it rewrites postfix-accounts.cf (line ends, final
 * newline), and waits while anybody else does.
 */
export const CONFIGURATION_LOCK = join(CONFIG_DIR, 'check-for-changes.sh.lock')
/** Milliseconds that a writer waits for the others before it. */
const PATIENCE = 90_000
/** Milliseconds after which a lock whose holder cannot be looked up counts as left behind, as in docker-mailserver. */
const STALE = 60_000

/** Gives the text of a file of the configuration folder; empty where there is none. */
export type ReadConfiguration = (name: string) => string
/** A file of the configuration folder and its new text. */
export type FileChange = [name: string, text: string]

export function readConfiguration(name: string): string {
  const path = join(CONFIG_DIR, name)
  return existsSync(path) ? readFileSync(path, 'utf8') : ''
}

/**
 * Edits files of the configuration folder under its lock. `edit` reads them and gives the changes, which are written
 * in its order: a killed run leaves the first of them, each file whole. Throws a Failure, with all files as they were,
 * when one cannot be written.
 */
export async function editConfiguration<T extends { files: FileChange[] }>(
  edit: (read: ReadConfiguration) => T,
): Promise<T> {
  return withLock(CONFIGURATION_LOCK, () => {
    const result = edit(readConfiguration)
    const changes = result.files.filter(([name, text]) => text !== readConfiguration(name))
    const prepared: { temporary: string; path: string }[] = []
    try {
      // All of them first: a full disk is noticed before any file is replaced.
      for (const [name, text] of changes) prepared.push(prepare(join(CONFIG_DIR, name), text))
      for (const { temporary, path } of prepared) {
        try {
          renameSync(temporary, path)
        } catch (error) {
          throw unwritable(path, messageOf(error))
        }
        syncFolder(dirname(path))
      }
    } finally {
      for (const { temporary } of prepared) rmSync(temporary, { force: true })
    }
    return result
  })
}

/** Throws what `editConfiguration` would throw, as far as that shows without the lock, and changes nothing. */
export function checkEdit(edit: (read: ReadConfiguration) => { files: FileChange[] }): void {
  for (const [name, text] of edit(readConfiguration).files) {
    if (text !== readConfiguration(name)) assertWritable(join(CONFIG_DIR, name))
  }
}

function assertWritable(path: string): void {
  if (!existsSync(path)) return
  try {
    // root may write what is read-only; its owner meant it all the same.
    if (!(statSync(path).mode & 0o222)) throw new Error('it is read-only; make it writable with chmod u+w')
    accessSync(path, constants.W_OK)
  } catch (error) {
    throw unwritable(path, messageOf(error))
  }
}

/** Writes a file's new text beside it, with its owner and mode, down to the disk. */
function prepare(name: string, text: string): { temporary: string; path: string } {
  const old = statSync(name, { throwIfNoEntry: false })
  // A symbolic link stays one.
  const path = old ? realpathSync(name) : name
  // The lock is held, so a file of this name is what a killed run has left.
  const temporary = `${path}.tmp`
  assertWritable(path)
  try {
    rmSync(temporary, { force: true })
    const file = openSync(temporary, 'wx', 0o600)
    try {
      writeFileSync(file, text)
      if (process.platform !== 'win32') {
        const { uid, gid } = old ?? statSync(dirname(path))
        const made = statSync(temporary)
        if (made.uid !== uid || made.gid !== gid) fchownSync(file, uid, gid)
        const mode = old?.mode ?? (basename(path) === 'postfix-accounts.cf' ? 0o600 : 0o644)
        fchmodSync(file, mode & 0o7777)
      }
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    return { temporary, path }
  } catch (error) {
    rmSync(temporary, { force: true })
    throw unwritable(path, messageOf(error))
  }
}

function unwritable(path: string, reason: string): Failure {
  return new Failure('failed', `${path} cannot be written: ${reason}. Nothing was changed.`)
}

/** Makes a rename last beyond a power cut. Windows has no such call for folders. */
function syncFolder(path: string): void {
  if (process.platform === 'win32') return
  const folder = openSync(path, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

/**
 * Runs `work` while this process holds the lock file `path` (its name ends in ".lock"). A lock whose holder is dead is
 * taken over. Throws a Failure when a living holder keeps it too long.
 */
export async function withLock<T>(path: string, work: () => T | Promise<T>): Promise<T> {
  const own = siblingOf(path, `${process.pid}-${startOf(process.pid)}`)
  try {
    writeFileSync(own, identityOf(process.pid))
    await acquire(path, own, Date.now() + PATIENCE)
  } catch (error) {
    throw error instanceof Failure ? error : new Failure('failed', `${path}: ${messageOf(error)}`)
  } finally {
    rmSync(own, { force: true })
  }
  try {
    removeRemains(path)
    return await work()
  } finally {
    rmSync(path, { force: true })
  }
}

/**
 * The lock is a hard link to the file `own`, which says who holds it, so it never stands there without its holder's
 * name. Of several that find a dead holder's lock only one may replace it: the one that holds the lock named after it.
 */
async function acquire(path: string, own: string, deadline: number): Promise<void> {
  while (!linked(own, path)) {
    const holder = readOr(path)
    if (holder !== undefined && isLeftBehind(path, holder)) {
      const claim = siblingOf(path, createHash('sha256').update(path).update(holder).digest('hex').slice(0, 16))
      await acquire(claim, own, deadline)
      try {
        // Somebody else may have replaced it before the claim was free; nobody can now.
        if (readOr(path) === holder) {
          const next = siblingOf(own, 'next')
          linkSync(own, next)
          renameSync(next, path)
          return
        }
      } finally {
        rmSync(claim, { force: true })
      }
    } else {
      if (Date.now() > deadline) throw busy(path, holder)
      await sleep(10 + Math.random() * 20)
    }
  }
}

function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

function busy(path: string, holder = ''): Failure {
  return new Failure(
    'failed',
    `${path}: held for over ${PATIENCE / 1000} s by "${holder.trim()}" (machine, pid, start time). ` +
      'Wait for that process, or end it.',
  )
}

/** `folder/name.lock` becomes `folder/name.<part>.lock`; in the place of a claim's own part. */
function siblingOf(path: string, part: string): string {
  return path.replace(/(\.[0-9a-f]{16})?\.lock$/, `.${part}.lock`)
}

/** Removes what killed processes have left beside the lock. */
function removeRemains(path: string): void {
  const prefix = basename(path).replace(/lock$/, '')
  for (const name of readdirSync(dirname(path))) {
    const sibling = join(dirname(path), name)
    if (!name.startsWith(prefix) || !name.endsWith('.lock') || sibling === path) continue
    // Where it was killed before it wrote, the file's own name says as much.
    const [, pid, start] = /\.(\d+)-([^.]+)\.lock$/.exec(name) ?? []
    const holder = readOr(sibling) || `${hostname()} ${pid} ${start}\n`
    if (isLeftBehind(sibling, holder)) rmSync(sibling, { force: true })
  }
}

/** Machine, pid and start time: a pid alone comes back for another process. */
function identityOf(pid: number): string {
  return `${hostname()} ${pid} ${startOf(pid)}\n`
}

/** Whether the holder of a lock is gone. Where that cannot be seen, a lock is left behind when it is old. */
export function isLeftBehind(path: string, holder: string): boolean {
  const [, machine, pid] = /^(\S+) (\d+) \S+\n$/.exec(holder) ?? []
  // Another machine or container, docker-mailserver (which writes a UUID), or a crash that left an empty file.
  if (machine !== hostname()) {
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now())
    return age > STALE
  }
  return !isAlive(Number(pid)) || holder !== identityOf(Number(pid))
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** When a process started, in the kernel's clock ticks; "-" where there is no /proc, which leaves the pid alone. */
function startOf(pid: number): string {
  const stat = readOr(`/proc/${pid}/stat`)
  if (stat === undefined) return '-'
  // Fields 3 and 22 of proc(5); the second one, the program's name, may contain spaces and brackets.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  // A zombie is dead, and only its parent has not asked yet.
  return fields[0] === 'Z' ? 'dead' : (fields[19] ?? '-')
}

function readOr(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}
