/** The running instance as the kernel sees it: its processes, what they listen on, its files. */
import { execFile, execFileSync, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { openFiles, readOr } from '../scripts/lib/server/processes.ts'
import { type Project, processesOf } from './harness.ts'

/** The file of the configuration folder that the Dovecot of this machine reads. */
export const DOVECOT_CF = spawnSync('dovecot', ['--version']).stdout?.includes('2.3.') ? 'dovecot.cf' : 'dovecot-2.4.cf'

/** The pids of the two masters. */
export function mastersOf({ stateDir }: Project): number[] {
  return ['queue/pid/master.pid', 'run/master.pid'].map((file) => Number(readFileSync(join(stateDir, file), 'utf8')))
}

/** The pids of all processes of the instance. */
export function pidsOf(project: Project): number[] {
  return [...processesOf(project).matchAll(/\/proc\/(\d+)\/cwd/g)].map(([, pid]) => Number(pid))
}

/** A file of each process below /proc; those that have ended meanwhile are left out. */
export function ofProcesses(project: Project, file: string): string[] {
  return pidsOf(project)
    .map((pid) => readOr(`/proc/${pid}/${file}`))
    .filter((text) => text !== '')
}

/** The messages in the queue, as postqueue's JSON has them; sizes in bytes. */
export async function queueOf({ stateDir }: Project): Promise<{ queue_name: string; message_size: number }[]> {
  const command = ['-c', join(stateDir, 'postfix'), '-j']
  const { stdout } = await promisify(execFile)('postqueue', command, { maxBuffer: 100_000_000 })
  return (stdout.match(/^.+$/gm) ?? []).map((line) => JSON.parse(line))
}

/** Has Postfix keep all mail in the queue until it is started anew. */
export function holdDeliveries({ stateDir }: Project): void {
  const config = ['-c', join(stateDir, 'postfix')]
  execFileSync('postconf', [...config, '-e', 'defer_transports=lmtp'])
  execFileSync('postfix', [...config, 'reload'], { stdio: 'ignore' })
}

/** The addresses that the instance listens on over TCP and UDP, as the kernel writes them: hexadecimal, `0100007F:0019`. */
export function listensOn(project: Project): string[] {
  const files = new Set(pidsOf(project).flatMap(openFiles))
  return ['tcp', 'tcp6', 'udp', 'udp6'].flatMap((protocol) =>
    readOr(`/proc/net/${protocol}`)
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      // TCP's state 0A is LISTEN; UDP has no such state.
      .filter(([, , , state, , , , , , inode]) => state === '0A' || (inode && protocol.startsWith('udp')))
      .filter(([, , , , , , , , , inode]) => files.has(`socket:[${inode}]`))
      .map(([, address = '']) => address),
  )
}

/** The paths of all files and folders below `dir`, without those below `left`, which are paths below `dir` themselves. */
export function filesBelow(dir: string, left: string[]): string[] {
  const walk = (part: string): string[] =>
    readdirSync(join(dir, part)).flatMap((name) => {
      const path = join(part, name)
      if (left.includes(path)) return []
      return statSync(join(dir, path), { throwIfNoEntry: false })?.isDirectory() ? [path, ...walk(path)] : [path]
    })
  return walk('').sort()
}
