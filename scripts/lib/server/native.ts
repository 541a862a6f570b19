/**
 * The server without Docker: a private instance of Debian's own Postfix and Dovecot, with everything it needs in one
 * state folder. Nothing below /etc/postfix or /etc/dovecot is read or written.
 */
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { readAccounts } from '../accounts/accounts.ts'
import { withLock } from '../accounts/lock.ts'
import { Failure, say } from '../cli.ts'
import { enabledServices, type Settings } from '../settings.ts'
import type { Engine, ExecOptions, ExecResult, Started } from './engine.ts'
import {
  filesBelow,
  mailboxOf,
  makeConfiguration,
  type NativeConfiguration,
  tryConfiguration,
} from './native_configuration.ts'
import { certificateOf } from './native_environment.ts'
import { checkStateDir, idOf, makeCertificate, makeFolders, removeLocks, replaceFile } from './native_files.ts'
import { MailLog } from './native_log.ts'
import { NativeProcesses } from './native_processes.ts'
import { installPackages } from './packages.ts'
import { assertPortsFree } from './ports.ts'
import { isProcessOf, signal } from './processes.ts'
import { asRoot, becomeRoot, isRoot, startAsRoot } from './root.ts'
import { $, input } from './shell.ts'

/** Milliseconds until a stop becomes a kill. */
const STOP_PATIENCE = 10_000
/** Milliseconds for Dovecot to read its settings again. */
const RELOAD_PATIENCE = 5_000
/** Milliseconds for a daemon's own start command. */
const LAUNCH = 30_000

export class NativeEngine implements Engine {
  readonly name = 'native'
  readonly #settings: Settings
  readonly #log: MailLog
  readonly #processes: NativeProcesses

  constructor(settings: Settings) {
    this.#settings = settings
    this.#log = new MailLog(settings.stateDir)
    this.#processes = new NativeProcesses(settings.stateDir)
  }

  async isRunning(): Promise<boolean> {
    const { up, down } = this.#processes.daemons()
    return up.length > 0 && down.length === 0
  }

  async half(): Promise<string | undefined> {
    const { up, down } = this.#processes.daemons()
    if (up.length > 0 && down.length > 0) return `Half of the mail server runs: ${up.join()} without ${down.join()}.`
    // Only root sees whose children are left behind by masters that were killed.
    if (up.length > 0 || !isRoot || this.#processes.all().length === 0) return undefined
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
    return withLock(this.#path('start.lock'), () => this.#start().finally(() => this.#clear()))
  }

  async #start(): Promise<Started> {
    const wasRunning = await this.isRunning()
    if (wasRunning && this.#processes.addresses === this.#addresses) {
      this.#log.mark()
      await this.#reload()
      return 'running'
    }
    if (wasRunning) say('Other ports or services than the server was started with: it starts anew.')
    const configuration = await this.#prepare()
    // Also what a crash left behind: one of the two daemons, or children without a master, which keep the ports.
    await this.#processes.end(STOP_PATIENCE)
    await assertPortsFree(this.#settings, enabledServices())
    try {
      await this.#launchAll(configuration)
    } catch (error) {
      const complaints = this.#log.complaints()
      await this.#processes.end(STOP_PATIENCE)
      throw complaints.length > 0
        ? new Failure('failed', `The mail server did not start:\n${complaints.join('\n')}`)
        : error
    }
    return wasRunning ? 'restarted' : 'started'
  }

  async #launchAll(configuration: NativeConfiguration): Promise<void> {
    // Sockets and pid files of an earlier start: Dovecot waits for the one, and takes a number of the other for a server's.
    for (const name of readdirSync(this.#path('run'))) rmSync(this.#path(`run/${name}`), { recursive: true })
    removeLocks(this.#path('mail'))
    this.#write(configuration)
    await this.#log.begin(idOf('passwd', 'postfix'))
    this.#processes.keep(this.#addresses)
    const commands = [['postfix', '-c', this.#path('postfix'), 'start']]
    if (configuration.dovecot) commands.push(['dovecot', '-c', this.#dovecotConf])
    // Both to their end before one's failure is looked at: a daemon that comes up later would be left behind.
    const launched = await Promise.all(commands.map((command) => this.#launch(command)))
    const failed = commands.find((_, index) => launched[index] !== 0)
    if (failed) throw new Failure('failed', `${failed.join(' ')} failed. See: npm run logs`)
    this.#processes.keep(this.#addresses)
    // Mail that waits since before the stop goes out now and not at its next turn.
    await this.#flush()
  }

  async stop(): Promise<boolean> {
    if (!isRoot && this.#processes.daemons().up.length === 0) return false
    await becomeRoot()
    const end = () => this.#processes.end(STOP_PATIENCE)
    return existsSync(this.#settings.stateDir) ? withLock(this.#path('start.lock'), end) : end()
  }

  async reload(): Promise<void> {
    // Not becomeRoot: the script that asks for a reload has done its work, and would do it twice.
    if (!isRoot) return startAsRoot()
    await withLock(this.#path('start.lock'), async () => {
      if (await this.isRunning()) await this.#reload().finally(() => this.#clear())
    })
  }

  async #reload(): Promise<void> {
    const configuration = await this.#prepare().catch((error) => {
      const fact = 'The server runs on with its old settings, because these cannot be read'
      throw new Failure('failed', `${fact}:\n${error.message}`)
    })
    const users = this.#write(configuration, (name) => name === 'dovecot/userdb')
    // Dovecot first: mail that Postfix accepts for an account that Dovecot does not know yet would bounce.
    if (users.length > 0) await this.#untilDovecotHasRead(configuration.userdbMarker)
    const changed = [...users, ...this.#write(configuration)]
    if (changed.length === 0) return
    // Dovecot sees new accounts by itself, and a reload takes its sockets away for a moment: only for new settings.
    const isSetting = (name: string) => /dovecot(?!-quotas)[^/]*\.(cf|conf)$|config\/ssl\//.test(name)
    const newSettings = configuration.dovecot && changed.some(isSetting)
    if (newSettings) await this.#reloadDovecot()
    const { exitCode, stderr } = await $({ timeout: LAUNCH })`postfix -c ${this.#path('postfix')} reload`
    if (exitCode !== 0) throw new Failure('failed', this.#log.traced(stderr).join('\n'))
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
    const names = filesBelow(this.#path('next'))
    const group = idOf('group', 'dovecot')
    const changed = names.filter(isWanted).filter((name) => {
      // Password hashes stand in two folders: for root and Dovecot's auth process alone.
      const mode = name.startsWith('postfix/') ? 0o644 : 0o640
      return replaceFile(this.#path(name), readFileSync(this.#path(`next/${name}`)), mode, group)
    })
    const copies = filesBelow(this.#path('config')).map((name) => `config/${name}`)
    const gone = copies.filter((name) => !names.includes(name))
    for (const name of gone) rmSync(this.#path(name))
    if (!dovecot) rmSync(this.#dovecotConf, { force: true })
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
    for (const pid of this.#processes.masters('Dovecot')) signal(pid, 'SIGHUP')
    while (Date.now() < deadline && [undefined, before].includes(stateOf())) await sleep(10)
  }

  /** Dovecot looks at its userdb once a second at the most. */
  async #untilDovecotHasRead(marker: string): Promise<void> {
    const [account] = readAccounts()
    if (!account || this.#processes.masters('Dovecot').length === 0) return
    const ask = $({ timeout: RELOAD_PATIENCE })
    for (const deadline = Date.now() + RELOAD_PATIENCE; Date.now() < deadline; await sleep(50)) {
      const { stdout } = await ask`doveadm -c ${this.#dovecotConf} user -f marker ${account.address}`
      if (stdout.trim() === marker) return
    }
    throw new Failure('failed', 'Dovecot does not read its accounts again. See: npm run logs')
  }

  /** Has Postfix try waiting mail now: what met a Dovecot that was away would else wait five minutes or more. */
  async #flush(): Promise<void> {
    await $({ timeout: LAUNCH })`postqueue -c ${this.#path('postfix')} -f`
  }

  /**
   * Starts a daemon with its streams on a file: it keeps them open for its whole life, and a pipe to this process would
   * keep this process waiting just as long. In a session of its own, which Ctrl-C does not reach. Gives the exit code.
   */
  async #launch(command: string[]): Promise<number | null> {
    const out = this.#path(`log/${command[0]}.out`)
    return (await $({ timeout: LAUNCH, detached: true })`${command} > ${out} 2>&1 < /dev/null`).exitCode
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
    const configuration = /^(dovecot|doveadm|doveconf)$/.test(program) ? this.#dovecotConf : this.#path('postfix')
    const words = [program, '-c', configuration, ...args]
    // These two tell every user what they read; the others want the queue, the passwords or a root's socket.
    const isOpen = program === 'postconf' || args[0] === '--version'
    const command = isOpen ? words : await asRoot(words, words.join(' '))
    return $({ timeout, ...(text === undefined ? {} : input(text)) })`${command}`
  }

  async readFile(path: string): Promise<string | undefined> {
    return existsSync(path) ? readFileSync(path, 'utf8') : undefined
  }

  certificate = () => certificateOf(this.#settings)
  logs = (options: { lines: number; follow: boolean }) => this.#log.show(options)
  complaints = async () => this.#log.complaints()
  logged = async () => this.#log.logged()
  owns = ({ pid }: { pid: number }) => isProcessOf(pid, this.#settings.stateDir, this.#processes.masters())

  #path(part: string): string {
    return join(this.#settings.stateDir, part)
  }

  get #dovecotConf(): string {
    return this.#path('dovecot/dovecot.conf')
  }

  /** What the daemons listen on. */
  get #addresses(): string {
    const { bindAddress, ports } = this.#settings
    return JSON.stringify({ bindAddress, ports, services: enabledServices() })
  }
}
