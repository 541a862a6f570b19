/** Lock files that say who holds them: one writer at a time, and a lock whose holder is dead stops nobody. */
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { dirname, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, messageOf } from '../cli.ts'

/** Milliseconds that a writer waits for the others before it. */
const PATIENCE = 90_000
/** Milliseconds after which a lock whose holder cannot be looked up counts as left behind, as in docker-mailserver. */
const STALE = 60_000
/** The same for a lock without a whole line: its holder was killed before it could write its name. */
const NAMELESS = 10_000

/**
 * Runs `work` while this process holds the lock file `path`. A lock whose holder is dead is taken over. Throws a
 * Failure when a living holder keeps it too long.
 */
export async function withLock<T>(path: string, work: () => T | Promise<T>): Promise<T> {
  await acquire(path, Date.now() + PATIENCE)
  try {
    // Who claims now finds that the holder lives, and lets go.
    rmSync(claimOf(path), { force: true })
    return await work()
  } finally {
    rmSync(path, { force: true })
  }
}

async function acquire(path: string, deadline: number): Promise<void> {
  while (!create(path)) {
    const holder = textOf(path)
    if (isLeftBehind(path, holder)) {
      // Of several that find it only one may remove it: the second would remove the first one's own.
      await acquire(claimOf(path), deadline)
      if (isLeftBehind(path)) rmSync(path, { force: true })
      rmSync(claimOf(path), { force: true })
    } else if (Date.now() > deadline) {
      const fact = `held for over ${PATIENCE / 1000} s by "${holder?.trim()}" (machine, pid, start time)`
      throw new Failure('failed', `${path}: ${fact}. Wait for that process, or end it.`)
    } else await sleep(10 + Math.random() * 20)
  }
}

/** False where the file is there already. */
function create(path: string): boolean {
  try {
    writeFileSync(path, identityOf(process.pid), { flag: 'wx' })
    return true
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return false
    // Made, and no room for the name.
    if (syscall === 'write') rmSync(path, { force: true })
    throw unwritable(path, error)
  }
}

/** The lock of those that want to remove the lock `path`. */
const claimOf = (path: string) => path.replace(/lock$/, 'claim.lock')

/** Machine, pid and start time: a pid alone comes back for another process. */
function identityOf(pid: number): string {
  return `${hostname()} ${pid} ${startOf(pid)}\n`
}

/**
 * Whether the holder of a lock is gone. Where that cannot be seen (another machine or container, docker-mailserver,
 * which writes a UUID), a lock is left behind when it is old.
 */
export function isLeftBehind(path: string, holder = textOf(path)): boolean {
  const [, machine, pid] = /^(\S+) (\d+) \S+\n$/.exec(holder ?? '') ?? []
  if (machine === hostname()) return holder !== identityOf(Number(pid))
  const { mtimeMs = Date.now() } = statSync(path, { throwIfNoEntry: false }) ?? {}
  return Date.now() - mtimeMs > (holder?.endsWith('\n') ? STALE : NAMELESS)
}

/** When a process started, in the kernel's clock ticks; "dead" where it runs no longer. */
export function startOf(pid: number): string {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return 'dead'
  }
  // Fields 3 and 22 of proc(5), behind the program's name, which may contain spaces and brackets.
  const stat = textOf(`/proc/${pid}/stat`)
  const fields = stat?.slice(stat.lastIndexOf(') ') + 2).split(' ')
  // A zombie is dead, and only its parent has not asked yet. Without a /proc the pid has to do.
  return fields?.[0] === 'Z' ? 'dead' : (fields?.[19] ?? '-')
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** Why a file cannot be written, what that means, and what to type next. */
export function unwritable(path: string, error: unknown, consequence = 'Nothing was changed.'): Failure {
  if (error instanceof Failure) return error
  const who = `See who may write: ls -ld ${dirname(path)} ${path}`
  const advice: Record<string, string> = {
    ENOSPC: `Make room, then repeat this. See: df -h ${dirname(path)}`,
    ENOENT: `Bring it back: git checkout -- ${relative(process.cwd(), dirname(path))}`,
    EROFS: `It lies on a read-only file system; mount that writable. See: findmnt --target ${path}`,
    EACCES: who,
    EPERM: who,
    READONLY: `Make it writable: chmod u+w ${path}`,
  }
  const next = advice[(error as NodeJS.ErrnoException).code ?? ''] ?? 'Mend that, then repeat this.'
  const name = relative(process.cwd(), path)
  return new Failure('failed', `${name} cannot be written: ${messageOf(error)}. ${consequence} ${next}`)
}
