/** Lock files that say who holds them: one writer at a time, and a lock whose holder is dead stops nobody. */
import { createHash } from 'node:crypto'
import { linkSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, messageOf } from '../cli.ts'

/** Milliseconds that a writer waits for the others before it. */
const PATIENCE = 90_000
/** Milliseconds after which a lock whose holder cannot be looked up counts as left behind, as in docker-mailserver. */
const STALE = 60_000

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
    throw unwritable(path, error)
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

/** A path as a user of this folder would type it. */
export const shown = (path: string) =>
  relative(process.cwd(), path).startsWith('..') ? path : relative(process.cwd(), path)

/** Why a file cannot be written, what that means, and what to type next. */
export function unwritable(path: string, error: unknown, consequence = 'Nothing was changed.'): Failure {
  if (error instanceof Failure) return error
  const advice: Record<string, string> = {
    ENOSPC: `Make room, then repeat this. See: df -h ${dirname(path)}`,
    EDQUOT: 'Make room, then repeat this. See: quota',
    EROFS: `It lies on a read-only file system; mount that writable. See: findmnt --target ${path}`,
    EACCES: `See who may write: ls -ld ${dirname(path)} ${path}`,
    EPERM: `See who may write: ls -ld ${dirname(path)} ${path}`,
    EFBIG: 'The shell limits the size of files. See: ulimit -f',
    READONLY: `Make it writable: chmod u+w ${path}`,
  }
  const next = advice[(error as NodeJS.ErrnoException).code ?? ''] ?? 'Mend that, then repeat this.'
  return new Failure('failed', `${shown(path)} cannot be written: ${messageOf(error)}. ${consequence} ${next}`)
}
