/** The processes of this machine, as /proc shows them. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { Failure, messageOf } from '../cli.ts'

/** What `read` gives; `otherwise` where there is no such process, or this user may not see it. */
function orElse<T>(otherwise: T, read: () => T): T {
  try {
    return read()
  } catch {
    return otherwise
  }
}

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

/** When a process was started, in the kernel's ticks since its boot; an empty text where there is none. */
export function startTimeOf(pid: number): string {
  return statOf(pid)[19] ?? ''
}

/** Whether a process lives that was started then. One that only waits for its parent's notice does not. */
export function isLiving(pid: number, startTime: string): boolean {
  return startTimeOf(pid) === startTime && statOf(pid)[0] !== 'Z'
}

/**
 * Whether a process is one of Postfix or Dovecot that works in this state folder, or a child of these masters. Postfix's
 * programs work in queue/, Dovecot's in run/; those of POP3 and IMAP sessions in their mailbox or in "/", with it open.
 */
export function isProcessOf(pid: number, stateDir: string, masters: number[] = []): boolean {
  const [state, parent] = statOf(pid)
  if (state === undefined || state === 'Z') return false
  if (masters.includes(pid) || masters.includes(Number(parent))) return true
  if (!/postfix|dovecot/.test(linkOf(`/proc/${pid}/exe`))) return false
  // The folder may be gone; its processes are not.
  const folder = linkOf(`/proc/${pid}/cwd`).replace(/ \(deleted\)$/, '')
  if (['queue', 'run', 'mail'].some((part) => `${folder}/`.startsWith(`${stateDir}/${part}/`))) return true
  return folder === '/' && openFiles(pid).some((file) => file.startsWith(`${stateDir}/`))
}

/** Sends a signal; a process that is gone needs none. Throws a Failure where this user may not. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    const isGone = (error as NodeJS.ErrnoException).code === 'ESRCH'
    if (!isGone) throw new Failure('failed', `pid ${pid}: ${messageOf(error)}`)
  }
}

/** The fields of /proc/PID/stat behind the name, which may have spaces and brackets in it: state, parent, ... */
function statOf(pid: number): string[] {
  const stat = orElse('', () => readFileSync(`/proc/${pid}/stat`, 'utf8'))
  return stat === '' ? [] : stat.replace(/^.*\) /s, '').split(' ')
}

const linkOf = (path: string) => orElse('', () => readlinkSync(path))
