/** Which processes of the native engine live: asked by root of /proc and the pid files, by others of a record for all. */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { readServerEnvironment } from '../settings.ts'
import { readOr } from './native_configuration.ts'
import { isLiving, isProcessOf, processIds, signal, startTimeOf } from './processes.ts'
import { isRoot } from './root.ts'

const PID_FILES = { Postfix: 'queue/pid/master.pid', Dovecot: 'run/master.pid' } as const
export type Daemon = keyof typeof PID_FILES
const DAEMONS = Object.keys(PID_FILES) as Daemon[]

interface StartRecord {
  /** What the daemons listen on, as text, to notice that it changed. */
  addresses?: string
  /** Each daemon's master: its pid, and the time of its start as the kernel counts it, which a reused pid has not. */
  masters?: Partial<Record<Daemon, { pid: number; startTime: string }>>
}

export class NativeProcesses {
  readonly #stateDir: string
  /** In the state folder for every user to read; gone after a stop. */
  readonly #recordFile: string

  constructor(stateDir: string) {
    this.#stateDir = stateDir
    this.#recordFile = join(stateDir, 'started.json')
  }

  /** What the running daemons were started to listen on; undefined where there is no record. */
  get addresses(): string | undefined {
    return this.#record().addresses
  }

  /** Records the masters that live now. */
  keep(addresses: string): void {
    const living = DAEMONS.flatMap((daemon) => this.masters(daemon).map((pid) => [daemon, pid] as const))
    const masters = Object.fromEntries(living.map(([daemon, pid]) => [daemon, { pid, startTime: startTimeOf(pid) }]))
    writeFileSync(this.#recordFile, JSON.stringify({ addresses, masters }), { mode: 0o644 })
  }

  /** The pids of the living masters, of all daemons or those named. */
  masters(...daemons: Daemon[]): number[] {
    return (daemons.length > 0 ? daemons : DAEMONS).flatMap((daemon) => {
      const master = isRoot ? undefined : this.#record().masters?.[daemon]
      if (master && isLiving(master.pid, master.startTime)) return [master.pid]
      // A pid file outlives a crash, and its number may belong to somebody else by now.
      const pid = isRoot ? Number(readOr(join(this.#stateDir, PID_FILES[daemon]))) : 0
      return pid > 0 && isProcessOf(pid, this.#stateDir) ? [pid] : []
    })
  }

  /** Which of the daemons that the environment file asks for are up, and which are not. */
  daemons(): { up: Daemon[]; down: Daemon[] } {
    const wanted: Daemon[] = readServerEnvironment().SMTP_ONLY === '1' ? ['Postfix'] : DAEMONS
    const up = wanted.filter((daemon) => this.masters(daemon).length > 0)
    return { up, down: wanted.filter((daemon) => !up.includes(daemon)) }
  }

  /** All processes of the instance; as another user the masters alone. */
  all(): number[] {
    return isRoot ? processIds().filter((pid) => isProcessOf(pid, this.#stateDir)) : this.masters()
  }

  /** Ends all of them, by force after `patience` milliseconds. False where there were none. */
  async end(patience: number): Promise<boolean> {
    if (this.all().length === 0) return false
    const deadline = Date.now() + patience
    const send = (pids: number[], name: NodeJS.Signals) => {
      // A stopped process (SIGSTOP) takes a signal when it goes on.
      for (const pid of pids) for (const sent of [name, 'SIGCONT'] as const) signal(pid, sent)
    }
    // Both masters at once: Dovecot alone would wait for the connections of Postfix's smtpd.
    send(this.masters(), 'SIGTERM')
    for (let left = this.all(); left.length > 0; left = this.all()) {
      // Without their masters, or at the end of patience, the rest goes at once; the queue is made for that.
      if (Date.now() > deadline) send(left, 'SIGKILL')
      else if (this.masters().length === 0) send(left, 'SIGTERM')
      await sleep(20)
    }
    rmSync(this.#recordFile, { force: true })
    return true
  }

  #record(): StartRecord {
    try {
      return JSON.parse(readOr(this.#recordFile))
    } catch {
      return {}
    }
  }
}
