/** The processes of this machine, as /proc shows them. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

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

/** When a process was started, in the kernel's ticks since its boot; an empty text where there is none. */
export function startTimeOf(pid: number): string {
  return statOf(pid)[19] ?? ''
}

/** The state of a process in one letter, as "T" for stopped (proc(5)); an empty text where there is none. */
export const stateOf = (pid: number) => statOf(pid)[0] ?? ''

/** Whether a process lives that was started then. One that only waits for its parent's notice does not. */
export function isLiving(pid: number, startTime: string): boolean {
  return startTimeOf(pid) === startTime && stateOf(pid) !== 'Z'
}

/** Whether a process is one of Postfix or Dovecot that works in this folder, also where that has been removed since. */
export function worksIn(pid: number, folder: string): boolean {
  if (!/postfix|dovecot/.test(linkOf(`/proc/${pid}/exe`))) return false
  const cwd = linkOf(`/proc/${pid}/cwd`)
  // A POP3 or IMAP session may be in "/" with its mailbox open.
  return (cwd === '/' ? openFiles(pid) : [cwd]).some((path) => path.startsWith(`${folder}/`))
}

/** Sends a signal; a process that is gone needs none. */
export function signal(pid: number, name: NodeJS.Signals): void {
  orElse(false, () => process.kill(pid, name))
}

/** The fields of /proc/PID/stat behind the name, which may have spaces and brackets in it: state, parent, ... */
function statOf(pid: number): string[] {
  const stat = readOr(`/proc/${pid}/stat`)
  return stat === '' ? [] : stat.replace(/^.*\) /s, '').split(' ')
}
