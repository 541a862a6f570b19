/**
 * The server without Docker: a private instance of Debian's own Postfix and Dovecot, with everything it needs in one
 * state folder. Nothing below /etc/postfix or /etc/dovecot is read or written.
 */
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Account, readAccounts } from '../accounts/accounts.ts'
import { withLock } from '../accounts/configuration_files.ts'
import { Failure, say } from '../cli.ts'
import { enabledServices, readServerEnvironment, type Settings } from '../settings.ts'
import type { Engine, ExecOptions, ExecResult, Started } from './engine.ts'
import {
  certificateOf,
  mailboxOf,
  makeConfiguration,
  type NativeConfiguration,
  readOr,
  tryConfiguration,
} from './native_configuration.ts'
import { checkStateDir, idOf, makeCertificate, makeFolders, removeLocks, replaceFile } from './native_files.ts'
import { MailLog } from './native_log.ts'
import { installPackages } from './packages.ts'
import { assertPortsFree } from './ports.ts'
import { isLiving, isProcessOf, processIds, signal, startTimeOf } from './processes.ts'
import { asRoot, becomeRoot, isRoot, startAsRoot } from './root.ts'
import { $, input } from './shell.ts'

/** Holds the masters and what they listen on, for every user to read; gone after a stop. */
const STARTED = 'started.json'
/** Milliseconds until a stop becomes a kill. */
const STOP_PATIENCE = 10_000
/** Milliseconds for Dovecot to read its settings again. */
const RELOAD_PATIENCE = 5_000
/** Milliseconds for a daemon's own start command. */
const LAUNCH = 30_000

const MASTERS = { Postfix: 'queue/pid/master.pid', Dovecot: 'run/master.pid' } as const
type Daemon = keyof typeof MASTERS

interface StartRecord {
  /** What the daemons listen on, as text, to notice that it changed. */
  addresses: string
  /** Each daemon's master: its pid, and the time of its start as the kernel counts it, which a reused pid has not. */
  masters: Partial<Record<Daemon, { pid: number; startTime: string }>>
}

export class NativeEngine implements Engine {
  readonly name = 'native'
  readonly #settings: Settings
  readonly #log: MailLog

  constructor(settings: Settings) {
    this.#settings = settings
    this.#log = new MailLog(settings.stateDir)
  }

  async isRunning(): Promise<boolean> {
    const { up, down } = this.#daemons()
    return up.length > 0 && down.length === 0
  }

  async half(): Promise<string | undefined> {
    const { up, down } = this.#daemons()
    if (up.length > 0 && down.length > 0) return `Half of the mail server runs: ${up.join()} without ${down.join()}.`
    // Only root sees whose children are left behind by masters that were killed.
    if (up.length > 0 || !isRoot || this.#processes().length === 0) return undefined
    return 'Half of the mail server runs: processes of Postfix or Dovecot without their master.'
  }

  async start(): Promise<Started> {
    await becomeRoot()
    checkStateDir(this.#settings.stateDir)
    // Other users may see whether the server runs, whatever root's umask; what is secret has modes of its own.
    process.umask(0o022)
    await installPackages()
    makeFolders(this.#settings.stateDir)
    // One at a time: whoever waited finds the server running.
    return withLock(this.#path('start.lock'), () => this.#start()).finally(() => this.#clear())
  }

  async #start(): Promise<Started> {
    const wasRunning = await this.isRunning()
    if (wasRunning && this.#record()?.addresses === this.#addresses()) {
      this.#log.mark()
      await this.#reload()
      return 'running'
    }
    if (wasRunning) say('Other ports or services than the server was started with: it starts anew.')
    const configuration = await this.#prepare()
    // Also what a crash left behind: one of the two daemons, or children without a master, which keep the ports.
    await this.#end()
    await assertPortsFree(this.#settings, enabledServices())
    try {
      await this.#launchAll(configuration)
    } catch (error) {
      const complaints = this.#log.complaints()
      await this.#end()
      throw complaints.length > 0
        ? new Failure('failed', `The mail server did not start:\n${complaints.join('\n')}`)
        : error
    }
    return wasRunning ? 'restarted' : 'started'
  }

  async #launchAll(configuration: NativeConfiguration): Promise<void> {
    // Sockets and pid files of an earlier start: Dovecot waits for the one, and takes a number of the other for a server's.
    for (const name of readdirSync(this.#path('run')))
      rmSync(this.#path(`run/${name}`), { recursive: true, force: true })
    removeLocks(this.#path('mail'))
    this.#write(configuration)
    await this.#compileAliases()
    await this.#log.begin(idOf('passwd', 'postfix'))
    this.#keepRecord()
    const launches = [
      this.#launch('postfix', ['postfix', '-c', this.#path('postfix'), 'start']),
      ...(configuration.dovecot ? [this.#launch('dovecot', ['dovecot', '-c', this.#dovecotConf()])] : []),
    ]
    // Both to their end before one's failure is looked at: a daemon that comes up later would be left behind.
    const failed = (await Promise.allSettled(launches)).find(({ status }) => status === 'rejected')
    if (failed?.status === 'rejected') throw failed.reason
    this.#keepRecord()
    // Mail that waits since before the stop goes out now and not at its next turn.
    await this.#flush()
  }

  async stop(): Promise<boolean> {
    if (!isRoot && this.#daemons().up.length === 0) return false
    await becomeRoot()
    const end = () => this.#end()
    return existsSync(this.#settings.stateDir) ? withLock(this.#path('start.lock'), end) : end()
  }

  async #end(): Promise<boolean> {
    if (this.#processes().length === 0) return false
    const deadline = Date.now() + STOP_PATIENCE
    const all = (pids: number[], name: NodeJS.Signals) => {
      // A stopped process (SIGSTOP) takes a signal when it goes on.
      for (const pid of pids) for (const sent of [name, 'SIGCONT'] as const) signal(pid, sent)
    }
    all(this.#masters(), 'SIGTERM')
    for (let left = this.#processes(); left.length > 0; left = this.#processes()) {
      // Without their masters, or at the end of patience, the rest goes at once; the queue is made for that.
      if (Date.now() > deadline) all(left, 'SIGKILL')
      else if (this.#masters().length === 0) all(left, 'SIGTERM')
      await sleep(20)
    }
    rmSync(this.#path(STARTED), { force: true })
    return true
  }

  async reload(): Promise<void> {
    // Not becomeRoot: the script that asks for a reload has done its work, and would do it twice.
    if (!isRoot) return startAsRoot()
    await withLock(this.#path('start.lock'), async () => {
      if (await this.isRunning()) await this.#reload()
    }).finally(() => this.#clear())
  }

  async #reload(): Promise<void> {
    const configuration = await this.#prepare().catch((error) => {
      throw new Failure(
        'failed',
        `The server runs on with its old settings, because these cannot be read:\n${error.message}`,
      )
    })
    const users = this.#write(configuration, (name) => name === 'dovecot/userdb')
    // Dovecot first: mail that Postfix accepts for an account that Dovecot does not know yet would bounce.
    if (users.length > 0) await this.#untilDovecotHasRead(configuration.userdbMarker)
    const changed = [...users, ...this.#write(configuration)]
    if (changed.length === 0) return
    await this.#compileAliases()
    // Dovecot sees new accounts by itself, and a reload takes its sockets away for a moment: only for new settings.
    const newSettings =
      configuration.dovecot && changed.some((name) => /dovecot[^/]*\.(cf|conf)$|config\/ssl\//.test(name))
    if (newSettings) await this.#reloadDovecot()
    const reloaded = await $({ timeout: LAUNCH })`postfix -c ${this.#path('postfix')} reload`
    if (reloaded.exitCode !== 0) throw new Failure('failed', this.#log.traced(reloaded.stderr).join('\n'))
    if (newSettings) await this.#flush()
  }

  /** Makes the configuration in next/ and has the daemons try it. Throws a Failure that names the user's file and line. */
  async #prepare(): Promise<NativeConfiguration> {
    const next = this.#path('next')
    try {
      await makeCertificate(this.#settings)
      const configuration = await makeConfiguration(this.#settings, next)
      for (const notice of configuration.notices) say(notice)
      await tryConfiguration(next, configuration)
      return configuration
    } catch (error) {
      if (!(error instanceof Failure)) throw error
      throw new Failure(error.exit, this.#log.traced(error.message).join('\n'))
    }
  }

  /** Removes next/: password hashes need no second place. */
  #clear(): void {
    rmSync(this.#path('next'), { recursive: true, force: true })
  }

  /** Puts the files of next/ in place that differ; gives their names. Those that next/ has not go. */
  #write({ dovecot }: NativeConfiguration, isWanted: (name: string) => boolean = () => true): string[] {
    const filesOf = (folder: string) =>
      ['config', 'postfix', 'dovecot'].flatMap((part) =>
        (existsSync(join(folder, part))
          ? readdirSync(join(folder, part), { recursive: true, withFileTypes: true })
          : []
        )
          .filter((entry) => entry.isFile())
          .map((entry) => relative(folder, join(entry.parentPath ?? entry.path, entry.name))),
      )
    const names = filesOf(this.#path('next'))
    const group = idOf('group', 'dovecot')
    const changed = names.filter(isWanted).filter((name) => {
      // Password hashes stand in two folders: for root and Dovecot's auth process alone.
      const mode = name.startsWith('postfix/') ? 0o644 : 0o640
      return replaceFile(this.#path(name), readFileSync(this.#path(`next/${name}`)), mode, group)
    })
    const gone = filesOf(this.#settings.stateDir).filter((name) => name.startsWith('config/') && !names.includes(name))
    for (const name of gone) rmSync(this.#path(name))
    if (!dovecot) rmSync(this.#dovecotConf(), { force: true })
    return [...changed, ...gone]
  }

  /** Returns when the socket that Postfix asks for AUTH is a new one: without it smtpd ends with an error. */
  async #reloadDovecot(): Promise<void> {
    const socket = this.#path('run/smtpd-auth')
    // Inode numbers come back; a new socket has another time at least.
    const stateOf = () => {
      const { ino, ctimeMs } = statSync(socket, { throwIfNoEntry: false }) ?? {}
      return ino && `${ino} ${ctimeMs}`
    }
    const before = stateOf()
    const deadline = Date.now() + RELOAD_PATIENCE
    for (const pid of this.#masters('Dovecot')) signal(pid, 'SIGHUP')
    while (Date.now() < deadline && [undefined, before].includes(stateOf())) await sleep(10)
  }

  /** Dovecot looks at its userdb once a second at the most. */
  async #untilDovecotHasRead(marker: string): Promise<void> {
    const deadline = Date.now() + RELOAD_PATIENCE
    const [account] = readAccounts()
    const seen = async ({ address }: Account) =>
      (
        await $({ timeout: RELOAD_PATIENCE })`doveadm -c ${this.#dovecotConf()} user -f marker ${address}`
      ).stdout.trim() === marker
    while (account && this.#masters('Dovecot').length > 0 && !(await seen(account))) {
      if (Date.now() > deadline)
        throw new Failure('failed', 'Dovecot does not read its accounts again. See: npm run logs')
      await sleep(20)
    }
  }

  /** Has Postfix try waiting mail now: what met a Dovecot that was away would else wait five minutes or more. */
  async #flush(): Promise<void> {
    await $({ timeout: LAUNCH })`postqueue -c ${this.#path('postfix')} -f`
  }

  /** hash: tables are read from a compiled form. */
  async #compileAliases(): Promise<void> {
    const folder = this.#path('postfix')
    if (!existsSync(`${folder}/aliases`)) return
    const { exitCode, stderr } = await $({ timeout: LAUNCH })`postalias -c ${folder} ${`hash:${folder}/aliases`}`
    if (exitCode !== 0) throw new Failure('failed', this.#log.traced(stderr).join('\n'))
  }

  /**
   * Starts a daemon with its streams on a file: it keeps them open for its whole life, and a pipe to this process
   * would keep this process waiting just as long. In a session of its own, which Ctrl-C does not reach.
   */
  async #launch(name: string, command: string[]): Promise<void> {
    const out = this.#path(`log/${name}.out`)
    const { exitCode } = await $({ timeout: LAUNCH, detached: true })`${command} > ${out} 2>&1 < /dev/null`
    if (exitCode !== 0) throw new Failure('failed', `${command.join(' ')} failed. See: npm run logs`)
  }

  async removeMailbox(address: string): Promise<void> {
    const parts = mailboxOf(address).split('/')
    // Somebody may have written an address by hand that leads elsewhere.
    if (parts.length !== 2 || parts.some((part) => /^\.{0,2}$/.test(part))) return
    const folder = this.#path(join('mail', ...parts))
    if (!existsSync(folder)) return
    await becomeRoot()
    rmSync(folder, { recursive: true, force: true })
    if (readdirSync(dirname(folder)).length === 0) rmdirSync(dirname(folder))
  }

  /** Whether an account's mailbox has a folder here. */
  hasMailbox(address: string): boolean {
    return existsSync(this.#path(join('mail', mailboxOf(address))))
  }

  async exec(
    [program = '', ...args]: string[],
    { input: text, timeout = 60_000 }: ExecOptions = {},
  ): Promise<ExecResult> {
    const configuration = /^(dovecot|doveadm|doveconf)$/.test(program) ? this.#dovecotConf() : this.#path('postfix')
    const words = [program, '-c', configuration, ...args]
    // These two tell every user what they read; the others want the queue, the passwords or a root's socket.
    const isOpen = program === 'postconf' || args[0] === '--version'
    const command = isOpen ? words : await asRoot(words, words.join(' '))
    return $({ timeout, ...(text === undefined ? {} : input(text)) })`${command}`
  }

  async readFile(path: string): Promise<string | undefined> {
    return existsSync(path) ? readFileSync(path, 'utf8') : undefined
  }

  certificate(): string | undefined {
    return certificateOf(this.#settings)
  }

  logs(options: { lines: number; follow: boolean }): Promise<void> {
    return this.#log.show(options)
  }

  async complaints(): Promise<string[]> {
    return this.#log.complaints()
  }

  async logged(): Promise<string[]> {
    return this.#log.logged()
  }

  owns({ pid }: { pid: number }): boolean {
    return isProcessOf(pid, this.#settings.stateDir, this.#masters())
  }

  #path(part: string): string {
    return join(this.#settings.stateDir, part)
  }

  #dovecotConf(): string {
    return this.#path('dovecot/dovecot.conf')
  }

  #addresses(): string {
    const { bindAddress, ports } = this.#settings
    return JSON.stringify({ bindAddress, ports, services: enabledServices() })
  }

  #record(): StartRecord | undefined {
    try {
      return JSON.parse(readOr(this.#path(STARTED)))
    } catch {
      return undefined
    }
  }

  #keepRecord(): void {
    const masters: StartRecord['masters'] = {}
    for (const [daemon, file] of Object.entries(MASTERS)) {
      const pid = Number(readOr(this.#path(file)).trim())
      if (pid > 0 && isProcessOf(pid, this.#settings.stateDir))
        masters[daemon as Daemon] = { pid, startTime: startTimeOf(pid) }
    }
    const record: StartRecord = { addresses: this.#addresses(), masters }
    writeFileSync(this.#path(STARTED), JSON.stringify(record), { mode: 0o644 })
  }

  /** The pids of the living masters. */
  #masters(...daemons: Daemon[]): number[] {
    const { masters = {} } = this.#record() ?? {}
    const wanted = daemons.length > 0 ? daemons : (Object.keys(MASTERS) as Daemon[])
    return wanted.flatMap((daemon) => {
      const master = masters[daemon]
      return master && isLiving(master.pid, master.startTime) ? [master.pid] : []
    })
  }

  /** Which of the daemons that the environment file asks for are up. */
  #daemons(): { up: Daemon[]; down: Daemon[] } {
    const wanted: Daemon[] = readServerEnvironment().SMTP_ONLY === '1' ? ['Postfix'] : ['Postfix', 'Dovecot']
    const isUp = (daemon: Daemon) => this.#masters(daemon).length > 0
    return { up: wanted.filter(isUp), down: wanted.filter((daemon) => !isUp(daemon)) }
  }

  /** All processes of the instance; as another user the masters alone. */
  #processes(): number[] {
    return isRoot ? processIds().filter((pid) => isProcessOf(pid, this.#settings.stateDir)) : this.#masters()
  }
}
