/** Lock files: one writer at a time, and a lock whose holder is dead stops nobody. */
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { basename, dirname, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { claim } from '../claim.ts'
import { Failure, messageOf } from '../cli.ts'

/** Milliseconds that a writer waits for the others before it. */
const PATIENCE = 90_000
/** Milliseconds after which docker-mailserver's lock, or another machine's, counts as left behind, as it does there. */
const STALE = 60_000
/** The same for an empty one, whose holder was killed while it made it. */
const NAMELESS = 1_000

/**
 * Runs `work` while this process holds the lock file `path`. Between the processes of this machine a claim decides, which
 * the dead do not keep; the file is for all others. Throws a Failure when a living holder keeps it too long.
 */
export async function withLock<T>(path: string, work: () => T | Promise<T>): Promise<T> {
  const deadline = Date.now() + PATIENCE
  const release = await claim([nameOf(path)], deadline)
  try {
    while (!release || !create(path)) {
      if (release && isLeft(path)) rmSync(path, { force: true })
      else if (!release || Date.now() > deadline) {
        const fact = `held for over ${PATIENCE / 1000} s by "${holderOf(path)}" (machine, pid)`
        throw new Failure('failed', `${path}: ${fact}. Wait for that process, or end it.`)
      } else await sleep(20)
    }
    try {
      return await work()
    } finally {
      rmSync(path, { force: true })
    }
  } finally {
    release?.()
  }
}

/** Whether a lock is there, and its holder is gone. */
export async function isLeftBehind(path: string): Promise<boolean> {
  const release = await claim([nameOf(path)], 0)
  const isGone = release !== undefined && isLeft(path)
  release?.()
  return isGone
}

/** A lock's name for `claim`: the folder may have several paths. */
function nameOf(path: string): string {
  const { dev, ino } = statSync(dirname(path), { throwIfNoEntry: false }) ?? {}
  return `${dev}:${ino} ${basename(path)}`
}

/** Makes the lock; false where it is there already. */
function create(path: string): boolean {
  try {
    writeFileSync(path, `${hostname()} ${process.pid}\n`, { flag: 'wx' })
    return true
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return false
    // Made, and no room for the name.
    if (syscall === 'write') rmSync(path, { force: true })
    throw unwritable(path, error)
  }
}

/** Whether a lock's holder is gone, for whoever has the claim, and so is no process of this machine. */
function isLeft(path: string): boolean {
  const { size, mtimeMs } = statSync(path, { throwIfNoEntry: false }) ?? { size: 0, mtimeMs: Date.now() }
  return holderOf(path).startsWith(`${hostname()} `) || Date.now() - mtimeMs > (size > 0 ? STALE : NAMELESS)
}

const holderOf = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8').trim() : '')

/** Why a file cannot be written, and what to type next. Nothing was changed then. */
export function unwritable(path: string, error: unknown): Failure {
  if (error instanceof Failure) return error
  const who = `See who may write: ls -ld ${dirname(path)} ${path}`
  const advice: Record<string, string> = {
    ENOSPC: `Make room, then repeat this. See: df -h ${dirname(path)}`,
    ENOENT: `Bring it back: git checkout -- ${relative(process.cwd(), dirname(path))}`,
    EROFS: `It lies on a read-only file system; mount that writable. See: findmnt --target ${path}`,
    EACCES: who,
    EPERM: who,
  }
  const next = advice[(error as NodeJS.ErrnoException).code ?? ''] ?? 'Mend that, then repeat this.'
  const name = relative(process.cwd(), path)
  return new Failure('failed', `${name} cannot be written: ${messageOf(error)}. Nothing was changed. ${next}`)
}
