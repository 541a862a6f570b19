/** Which processes of the native engine live: root sees them in /proc; others, who cannot, read a record of the masters. */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isSmtpOnly } from '../settings.ts'
import { isLiving, processIds, programOf, readOr, signal, startTimeOf, worksIn } from './processes.ts'
import { isRoot } from './root.ts'

/** The masters' programs. */
const PROGRAMS = { Postfix: 'master', Dovecot: 'dovecot' } as const
export type Daemon = keyof typeof PROGRAMS
const DAEMONS = Object.keys(PROGRAMS) as Daemon[]

interface StartRecord {
  /** What the daemons listen on, as text, to notice that it changed. */
  addresses?: string
  /** A pid comes back for another process, but not with the same time of start. */
  masters?: { daemon: Daemon; pid: number; startTime: string }[]
}

export class NativeProcesses {
  readonly #stateDir: string
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
    const masters = this.masters().map((master) => ({ ...master, startTime: startTimeOf(master.pid) }))
    writeFileSync(this.#recordFile, JSON.stringify({ addresses, masters }), { mode: 0o644 })
  }

  /** All processes of the instance; only root can tell them. */
  all(): number[] {
    return isRoot ? processIds().filter((pid) => worksIn(pid, this.#stateDir)) : []
  }

  /** The masters that live. */
  masters(): { daemon: Daemon; pid: number }[] {
    if (!isRoot) return (this.#record().masters ?? []).filter(({ pid, startTime }) => isLiving(pid, startTime))
    const programs = this.all().map((pid) => ({ pid, program: programOf(pid) }))
    return DAEMONS.flatMap((daemon) => {
      // The first of them: a child that a master has just made has the master's name.
      const master = programs.find(({ program }) => program === PROGRAMS[daemon])
      return master ? [{ daemon, pid: master.pid }] : []
    })
  }

  /** Which of the daemons that the environment file asks for are up, and which are not. */
  daemons(): { up: Daemon[]; down: Daemon[] } {
    const wanted: Daemon[] = isSmtpOnly() ? ['Postfix'] : DAEMONS
    const living = this.masters().map(({ daemon }) => daemon)
    return { up: wanted.filter((name) => living.includes(name)), down: wanted.filter((name) => !living.includes(name)) }
  }

  /** Ends all of them, by force after `patience` milliseconds. False where there were none. */
  async end(patience: number): Promise<boolean> {
    const deadline = Date.now() + patience
    const send = (pids: number[], name: NodeJS.Signals) => {
      // A stopped process (SIGSTOP) takes a signal when it goes on.
      for (const pid of pids) for (const sent of [name, 'SIGCONT'] as const) signal(pid, sent)
    }
    const isMaster = (pid: number) => DAEMONS.some((daemon) => PROGRAMS[daemon] === programOf(pid))
    let left = this.all()
    if (left.length === 0) return false
    // Both masters at once: Dovecot alone would wait for the connections of Postfix's smtpd.
    send(left.filter(isMaster), 'SIGTERM')
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

  #record(): StartRecord {
    try {
      return JSON.parse(readOr(this.#recordFile))
    } catch {
      return {}
    }
  }
}
