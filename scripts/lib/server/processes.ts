/** The processes of this machine as /proc shows them, and those of the native engine among them. */
import { readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isSmtpOnly } from '../settings.ts'
import { isRoot } from './root.ts'

/** What `read` gives; `otherwise` where there is no such process or file, or this user may not see it. */
function orElse<T>(otherwise: T, read: () => T): T {
  try {
    return read()
  } catch {
    return otherwise
  }
}

/** A file's text; an empty one where it cannot be read. */
export const readOr = (path: string) => orElse('', () => readFileSync(path, 'utf8'))
const linkOf = (path: string) => orElse('', () => readlinkSync(path))

/** All process ids of this machine; none where there is no /proc. */
export function processIds(): number[] {
  const names = orElse([], () => readdirSync('/proc'))
  return names.filter((name) => /^\d+$/.test(name)).map(Number)
}

/** What a process has open: paths, sockets and pipes; nothing where this user may not see it. */
export function openFiles(pid: number): string[] {
  const numbers = orElse([], () => readdirSync(`/proc/${pid}/fd`))
  return numbers.map((fd) => linkOf(`/proc/${pid}/fd/${fd}`))
}

/** The name of a process's program. */
export const programOf = (pid: number) => readOr(`/proc/${pid}/comm`).trim()

/** The state of a process in one letter, as "T" for stopped (proc(5)); an empty text where there is none. */
export const stateOf = (pid: number) => /^State:\s+(\w)/m.exec(readOr(`/proc/${pid}/status`))?.[1] ?? ''

/** When a process started, in the kernel's clock ticks; "dead" where it runs no longer. */
export function startOf(pid: number): string {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return 'dead'
  }
  // Fields 3 and 22 of proc(5), behind the program's name, which may contain spaces and brackets.
  const stat = readOr(`/proc/${pid}/stat`)
  const fields = stat.slice(stat.lastIndexOf(') ') + 2).split(' ')
  // A zombie is dead, and only its parent has not asked yet. Without a /proc the pid has to do.
  return fields[0] === 'Z' ? 'dead' : (fields[19] ?? '-')
}

/** Whether a process is one of Postfix or Dovecot that works in this folder, also where that has been removed since. */
function worksIn(pid: number, folder: string): boolean {
  if (!/postfix|dovecot/.test(linkOf(`/proc/${pid}/exe`))) return false
  // A container's processes are not this machine's, though their folders may have the same names.
  if (linkOf(`/proc/${pid}/ns/pid`) !== linkOf('/proc/self/ns/pid')) return false
  const cwd = linkOf(`/proc/${pid}/cwd`)
  // A POP3 or IMAP session may be in "/" with its mailbox open.
  return (cwd === '/' ? openFiles(pid) : [cwd]).some((path) => path.startsWith(`${folder}/`))
}

/** The masters' programs. */
const PROGRAMS: Record<string, string> = { Postfix: 'master', Dovecot: 'dovecot' }

interface StartRecord {
  /** What the daemons listen on, as text, to notice that it changed. */
  addresses?: string
  /** A pid comes back for another process, but not with the same time of start. */
  masters?: { daemon: string; pid: number; startTime: string }[]
}

/** The daemons of a state folder: root sees them in /proc; others, who cannot, read a record of the masters. */
export class NativeProcesses {
  readonly #stateDir: string
  readonly #recordFile: string

  constructor(stateDir: string) {
    this.#stateDir = stateDir
    this.#recordFile = join(stateDir, 'started.json')
  }

  /** What the last start has recorded. */
  get record(): StartRecord {
    return orElse({}, () => JSON.parse(readOr(this.#recordFile)))
  }

  /** Records the masters that live now. */
  keep(addresses: string): void {
    const masters = this.masters().map((master) => ({ ...master, startTime: startOf(master.pid) }))
    writeFileSync(this.#recordFile, JSON.stringify({ addresses, masters }), { mode: 0o644 })
  }

  /** All processes of the instance; only root can tell them. */
  all(): number[] {
    return isRoot ? processIds().filter((pid) => worksIn(pid, this.#stateDir)) : []
  }

  /** The masters that live. */
  masters(): { daemon: string; pid: number }[] {
    if (!isRoot) return (this.record.masters ?? []).filter(({ pid, startTime }) => startOf(pid) === startTime)
    const programs = this.all().map((pid) => ({ pid, program: programOf(pid) }))
    return Object.entries(PROGRAMS).flatMap(([daemon, name]) => {
      // The first of them: a child that a master has just made has the master's name.
      const master = programs.find(({ program }) => program === name)
      return master ? [{ daemon, pid: master.pid }] : []
    })
  }

  /** Which of the daemons that the environment file asks for are up, and which are not. */
  daemons(): { up: string[]; down: string[] } {
    const wanted = isSmtpOnly() ? ['Postfix'] : Object.keys(PROGRAMS)
    const living = this.masters().map(({ daemon }) => daemon)
    return { up: wanted.filter((name) => living.includes(name)), down: wanted.filter((name) => !living.includes(name)) }
  }

  /** Ends all of them, by force after `patience` milliseconds. False where there were none. */
  async end(patience = 10_000): Promise<boolean> {
    const deadline = Date.now() + patience
    const send = (pids: number[], name: NodeJS.Signals) => {
      // A stopped process (SIGSTOP) takes a signal when it goes on; one that is gone needs none.
      for (const pid of pids) for (const sent of [name, 'SIGCONT']) orElse(false, () => process.kill(pid, sent))
    }
    const isMaster = (pid: number) => Object.values(PROGRAMS).includes(programOf(pid))
    let left = this.all()
    if (left.length === 0) return false
    // Both masters at once: Dovecot alone would wait for the connections of Postfix's smtpd.
    send(left.filter(isMaster), 'SIGTERM')
    // Dovecot's master waits for its children.
    send(left, 'SIGCONT')
    while (left.length > 0) {
      // Without their masters, or at the end of patience, the rest goes at once; the queue is made for that.
      if (Date.now() > deadline) send(left, 'SIGKILL')
      else if (!left.some(isMaster)) send(left, 'SIGTERM')
      await sleep(20)
      const living = left.filter((pid) => worksIn(pid, this.#stateDir))
      // In the end also those that were born meanwhile.
      left = living.length > 0 ? living : this.all()
    }
    rmSync(this.#recordFile, { force: true })
    return true
  }
}
