/**
 * The server without Docker: a private instance of Debian's own Postfix and Dovecot, with everything it needs in one
 * state folder. Nothing below /etc/postfix or /etc/dovecot is read or written.
 */
import * as fs from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { unwritable, withLock } from '../accounts/lock.ts'
import { Failure, say } from '../cli.ts'
import { enabledServices, isSmtpOnly, readServerEnvironment, type Settings } from '../settings.ts'
import { complaintsIn, type Engine, type ExecOptions, type Started } from './engine.ts'
import {
  makeConfiguration,
  namesBelow,
  removableMailboxOf,
  tlsFiles,
  tryConfiguration,
} from './native_configuration.ts'
import { checkStateDir, MailLog, makeCertificate, makeFolders } from './native_files.ts'
import { installPackages } from './packages.ts'
import { assertPortsFree } from './ports.ts'
import { NativeProcesses, readOr } from './processes.ts'
import { becomeRoot, isRoot, startAsRoot } from './root.ts'
import { $, input } from './shell.ts'

/** Milliseconds for Dovecot to read its settings again. */
const RELOAD_PATIENCE = 5_000
/** Milliseconds for a daemon's own start command, and from its end until the masters are there. */
const LAUNCH = 30_000
/** What the daemons read. */
const PARTS = ['config', 'postfix', 'dovecot']

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
    if (up.length > 0 || this.#processes.all().length === 0) return undefined
    return 'Half of the mail server runs: processes of Postfix or Dovecot without their master.'
  }

  async start(): Promise<Started> {
    await becomeRoot()
    checkStateDir(this.#settings.stateDir)
    // Other users may see whether the server runs, whatever root's umask; what is secret has modes of its own.
    process.umask(0o022)
    await installPackages()
    await makeFolders(this.#settings.stateDir)
    // One at a time: whoever waited finds the server running.
    return this.#locked(() => this.#start())
  }

  /** Does the work while nobody else starts or stops, and removes next/: password hashes need no second place. */
  #locked<T>(work: () => Promise<T>): Promise<T> {
    return withLock(this.#path('start.lock'), async () => {
      try {
        return await work()
      } catch (error) {
        const { syscall, path = this.#settings.stateDir } = error as NodeJS.ErrnoException
        throw syscall ? unwritable(path, error) : error
      } finally {
        fs.rmSync(this.#path('next'), { recursive: true, force: true })
      }
    })
  }

  async #start(): Promise<Started> {
    const wasRunning = await this.isRunning()
    const { addresses } = this.#processes.record
    if (wasRunning && addresses === this.#addresses) {
      this.#log.mark()
      await this.#reload()
      return 'running'
    }
    if (wasRunning) say(`${addresses ? 'Other ports or services' : 'Its last start was not finished'}: it starts anew.`)
    await this.#prepare()
    // A server that runs is stopped only where the next can start.
    await assertPortsFree(this.#settings, enabledServices(), this.owns)
    // Also what a crash left behind: one of the two daemons, or children without a master, which keep the ports.
    await this.#processes.end()
    try {
      await this.#launch()
    } catch (error) {
      const complaints = complaintsIn(this.#log.logged())
      await this.#processes.end()
      if (complaints.length === 0) throw error
      throw new Failure('failed', `The mail server did not start:\n${complaints.join('\n')}`)
    }
    return wasRunning ? 'restarted' : 'started'
  }

  async #launch(): Promise<void> {
    // What a killed start has left: sockets, and the lock of Dovecot's list of instances; Dovecot would wait for them.
    await $`find ${this.#path('run')} ${this.#path('state')} -mindepth 1 -delete`
    // Locks that killed processes left in the mailboxes: Dovecot honours one for two minutes when the pid in it is
    // another process's by now. A Maildir's messages lie in the folders that are left out, many of them and no lock.
    const skipped = ['cur', 'new', 'tmp'].flatMap((name) => ['-name', name, '-prune', '-o'])
    await $`find ${this.#path('mail')} ${skipped} -type f -name ${'*.lock'} -exec rm {} +`
    for (const part of PARTS) {
      fs.rmSync(this.#path(part), { recursive: true, force: true })
      fs.renameSync(this.#path(`next/${part}`), this.#path(part))
    }
    await this.#log.begin()
    const postfix = ['postfix', '-c', this.#path('postfix'), 'start']
    const commands = isSmtpOnly() ? [postfix] : [postfix, ['dovecot', '-c', this.#dovecotConf]]
    // With their streams on a file: a daemon keeps them open for its whole life, and a pipe would keep this process waiting
    // just as long. In sessions of their own, which Ctrl-C does not reach. Both to their end before one's failure is looked
    // at: a daemon that comes up later would be left behind.
    const run = $({ timeout: LAUNCH, detached: true })
    const ended = await Promise.all(commands.map((command) => run`${command} >> ${this.#log.file} 2>&1 < /dev/null`))
    const deadline = ended.every(({ exitCode }) => exitCode === 0) ? Date.now() + LAUNCH : 0
    // Dovecot's command ends a moment before its master is there.
    for (; deadline === 0 || !(await this.isRunning()); await sleep(10)) {
      if (Date.now() > deadline) throw new Failure('failed', 'The daemons do not start. See: npm run logs')
    }
    this.#processes.keep(this.#addresses)
    // Mail that waits since before the stop goes out now and not at its next turn.
    await this.exec(['postqueue', '-f'])
  }

  async stop(): Promise<boolean> {
    if (!isRoot && this.#processes.daemons().up.length === 0) return false
    await becomeRoot()
    // Also where no lock can be made: on a full disk, or where the state folder was removed.
    return this.#locked(() => this.#processes.end()).catch(() => this.#processes.end())
  }

  async reload(): Promise<void> {
    // Not becomeRoot: the script that asks for a reload has done its work, and would do it twice.
    if (!isRoot) return startAsRoot()
    await this.#locked(async () => {
      if (await this.isRunning()) await this.#reload()
    })
  }

  async #reload(): Promise<void> {
    await this.#prepare().catch((error) => {
      if (!(error instanceof Failure)) throw error
      const fact = 'The server runs on with its old settings, because these cannot be read'
      throw new Failure(error.exit, `${fact}: ${error.message}`)
    })
    const changed = await this.#replace()
    if (changed.length === 0) return
    // Dovecot sees new accounts by itself, and a reload takes its sockets away for a moment: only for new settings.
    const isSetting = (name: string) => /dovecot(?!-quotas)[^/]*\.(cf|conf)$|config\/ssl\//.test(name)
    const newSettings = !isSmtpOnly() && changed.some(isSetting)
    if (newSettings) await this.#reloadDovecot()
    const { exitCode, stderr } = await this.exec(['postfix', 'reload'])
    if (exitCode !== 0) throw new Failure('failed', this.#log.named(stderr.trim()))
    if (newSettings) await this.exec(['postqueue', '-f'])
  }

  /** Makes the configuration in next/ and has the daemons try it. Throws a Failure that names the user's file. */
  async #prepare(): Promise<void> {
    const next = this.#path('next')
    try {
      await makeCertificate(this.#settings)
      await tryConfiguration(next, await makeConfiguration(this.#settings, next))
      this.#checkTls(next)
      // Password hashes are for root and Dovecot's auth process alone; every user may ask Postfix for its settings.
      await $`chgrp -R dovecot ${next}`
      await $`chmod -R u=rwX,g=rX,o= ${next}`
      await $`chmod -R o+rX ${next}/postfix`
      // Postfix's programs wait until their tables are two seconds old, lest they read half a file; these are whole.
      await $`find ${next} -exec touch -d ${'10 seconds ago'} {} +`
    } catch (error) {
      throw error instanceof Failure ? new Failure(error.exit, this.#log.named(error.message)) : error
    }
  }

  /** Throws a Failure where a key or certificate is missing: a Dovecot that reloads would go on without new processes. */
  #checkTls(next: string): void {
    const environment = readServerEnvironment()
    const files = tlsFiles(environment, this.#settings.stateDir) ?? []
    const missing = files.find((path) => !fs.existsSync(path.replace(this.#path('config'), join(next, 'config'))))
    const type = `development-mail-server.env: SSL_TYPE=${environment.SSL_TYPE}`
    if (missing !== undefined) throw new Failure('failed', `${type}: there is no file "${missing}"`)
  }

  /** Puts the files of next/ that differ in place, each in one step; gives their names. Those that next/ has not go. */
  async #replace(): Promise<string[]> {
    const isFile = (path: string) => fs.statSync(path, { throwIfNoEntry: false })?.isFile()
    const config = namesBelow(this.#path('config')).map((name) => `config/${name}`)
    const changed = config.filter((name) => isFile(this.#path(name)) && !isFile(this.#path(`next/${name}`)))
    for (const name of changed) fs.rmSync(this.#path(name))
    // First of all: mail that Postfix accepts for an account that Dovecot does not know yet would bounce.
    const users = 'dovecot/userdb'
    for (const name of new Set([users, ...namesBelow(this.#path('next'))])) {
      const [old, made] = [this.#path(name), this.#path(`next/${name}`)]
      if (!isFile(made) || (isFile(old) && fs.readFileSync(old).equals(fs.readFileSync(made)))) continue
      // Dovecot sees by the second that its userdb has changed.
      const before = fs.statSync(old, { throwIfNoEntry: false })?.mtimeMs ?? 0
      const past = new Date(Math.max(Date.now() - 10_000, before + 1_000))
      fs.utimesSync(made, past, past)
      fs.mkdirSync(dirname(old), { recursive: true })
      fs.renameSync(made, old)
      changed.push(name)
      if (name === users) await this.#untilRead(readOr(old))
    }
    return changed
  }

  /** Returns when Dovecot has read its new userdb: it looks there once in each second of the clock. */
  async #untilRead(userdb: string): Promise<void> {
    const [, account = '', marker] = /^([^:]+):.* userdb_marker=(\w+)/.exec(userdb) ?? []
    for (const end = Date.now() + RELOAD_PATIENCE; marker && Date.now() < end; await sleep(20)) {
      const { stdout } = await this.exec(['doveadm', 'user', '-f', 'marker', account])
      if (stdout.trim() === marker) return
    }
  }

  /** Returns when the socket that Postfix asks for AUTH is a new one: without it smtpd ends with an error. */
  async #reloadDovecot(): Promise<void> {
    const madeAt = () => fs.statSync(this.#path('run/smtpd-auth'), { throwIfNoEntry: false })?.ctimeMs
    const before = madeAt()
    await this.exec(['doveadm', 'reload'])
    const deadline = Date.now() + RELOAD_PATIENCE
    while (Date.now() < deadline && [undefined, before].includes(madeAt())) await sleep(10)
  }

  async removeMailbox(address: string): Promise<void> {
    const mailbox = removableMailboxOf(address)
    const folder = this.#path(join('mail', mailbox ?? ''))
    if (!mailbox || !fs.existsSync(folder)) return
    await becomeRoot()
    fs.rmSync(folder, { recursive: true, force: true })
    if (fs.readdirSync(dirname(folder)).length === 0) fs.rmdirSync(dirname(folder))
  }

  async exec([program = '', ...args]: string[], { input: text, timeout = 60_000 }: ExecOptions = {}) {
    const isDovecot = /^(dovecot|doveadm|doveconf)$/.test(program)
    const own = isDovecot ? ['-c', this.#dovecotConf] : /^post/.test(program) ? ['-c', this.#path('postfix')] : []
    return $({ timeout, ...(text === undefined ? {} : input(text)) })`${[program, ...own, ...args]}`
  }

  certificate = () => tlsFiles(readServerEnvironment(), this.#settings.stateDir)?.[1]
  logs = (options: { lines: number; follow: boolean }) => this.#log.show(options)
  logged = async () => this.#log.logged()
  owns = ({ pid }: { pid: number }) => this.#processes.all().includes(pid)

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
