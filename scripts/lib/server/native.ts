/**
 * The server without Docker: a private instance of Debian's own Postfix and Dovecot, with everything it needs in one
 * state folder. Nothing below /etc/postfix or /etc/dovecot is read or written.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Account, readAccounts } from '../accounts/accounts.ts'
import { withLock } from '../accounts/lock.ts'
import { Failure, messageOf, say } from '../cli.ts'
import { readServerEnvironment, SERVICE_NAMES, type ServiceName, type Settings } from '../settings.ts'
import type { Engine, ExecOptions } from './engine.ts'
import { NativeFiles, readOr } from './native_files.ts'
import { LAYOUT, mailboxOf } from './native_layout.ts'
import { MailLog } from './native_log.ts'
import { installPackages } from './packages.ts'
import { assertPortsFree, openFiles, processIds } from './ports.ts'
import { becomeRoot, startAsRoot } from './root.ts'
import { $, input } from './shell.ts'

/** Holds what the running daemons listen on; gone after a stop. */
const STARTED = 'started.json'
/** Milliseconds until a stop becomes a kill. */
const STOP_PATIENCE = 10_000
/** Milliseconds for Dovecot to read its settings again. */
const RELOAD_PATIENCE = 5_000

export class NativeEngine implements Engine {
  readonly name = 'native'
  readonly #settings: Settings
  readonly #files: NativeFiles
  readonly #log: MailLog

  constructor(settings: Settings) {
    this.#settings = settings
    this.#files = new NativeFiles(settings)
    this.#log = new MailLog(settings.stateDir)
  }

  async isRunning(): Promise<boolean> {
    const needed = readServerEnvironment().SMTP_ONLY === '1' ? ['master'] : ['master', 'dovecot']
    if (process.getuid?.() !== 0) {
      // Pid files and working folders are root's to see; the names have to do until a script runs as root.
      const names = this.#startedWith() === '' ? [] : processIds().map((pid) => readOr(`/proc/${pid}/comm`).trim())
      return needed.every((name) => names.includes(name))
    }
    const { postfix, dovecot } = this.#masters()
    return postfix !== undefined && (dovecot !== undefined || !needed.includes('dovecot'))
  }

  async start(): Promise<void> {
    await becomeRoot()
    this.#files.checkStateDir()
    mkdirSync(this.#settings.stateDir, { recursive: true })
    // One at a time: whoever waited finds the server running.
    await withLock(this.#path('start.lock'), () => this.#start())
  }

  async #start(): Promise<void> {
    // Other users may see whether the server runs, whatever root's umask; what is secret has modes of its own.
    process.umask(0o022)
    await installPackages()
    if (await this.isRunning()) {
      if (this.#startedWith() === this.#addresses()) {
        this.#log.mark()
        return this.reload()
      }
      say('Other ports or services than the server was started with: it starts anew.')
    }
    // Also what a crash left behind: one of the two daemons, or children without a master.
    await this.stop()
    // Dovecot believes in a pid file whose number is somebody's, even a dead process's that nobody has reaped.
    rmSync(this.#path(`${LAYOUT.run}/master.pid`), { force: true })
    this.#files.removeLocks()
    await assertPortsFree(this.#settings, this.#services())
    this.#files.makeFolders()
    await this.#files.makeCertificate()
    const configuration = await this.#files.write()
    for (const notice of configuration.notices) say(notice)
    await this.#compileAliases()
    await this.#log.setAside()
    writeFileSync(this.#path(STARTED), this.#addresses())
    const results = await Promise.all([
      this.#launch('postfix.out', 'postfix', '-c', this.#path(LAYOUT.postfix), 'start'),
      configuration.dovecot ? this.#launch('dovecot.out', 'dovecot', '-c', this.#dovecotConf()) : true,
    ])
    if (results.every((ok) => ok)) {
      await this.#flush()
      return
    }
    const complaints = await this.complaints()
    await this.stop()
    throw new Failure('failed', `The mail server did not start:\n${complaints.join('\n')}`)
  }

  async stop(): Promise<boolean> {
    if (process.getuid?.() !== 0 && !(await this.isRunning())) return false
    await becomeRoot()
    if (this.#processes().length === 0) return false
    for (const pid of Object.values(this.#masters())) if (pid) signal(pid, 'SIGTERM')
    const deadline = Date.now() + STOP_PATIENCE
    for (let left = this.#processes(); left.length > 0; left = this.#processes()) {
      // Without their masters, or at the end of patience, the rest goes at once; the queue is made for that.
      const mastersGone = Object.values(this.#masters()).every((pid) => pid === undefined)
      if (mastersGone || Date.now() > deadline)
        for (const pid of left) signal(pid, Date.now() > deadline ? 'SIGKILL' : 'SIGTERM')
      await sleep(20)
    }
    rmSync(this.#path(STARTED), { force: true })
    return true
  }

  async reload(): Promise<void> {
    // Not becomeRoot: the script that asks for a reload has done its work, and would do it twice.
    if (process.getuid?.() !== 0) return startAsRoot()
    if (!(await this.isRunning())) return
    // One at a time: whoever finds nothing changed may rely on a reload that is over.
    await withLock(this.#path('reload.lock'), () => this.#reload())
  }

  async #reload(): Promise<void> {
    const { dovecot } = this.#masters()
    const { changed } = await this.#files.write({
      try: (folder) => this.#try(folder),
      know: async (marker) => {
        if (dovecot) await this.#untilDovecotHasRead(marker)
      },
    })
    if (changed.length === 0) return
    await this.#compileAliases()
    // Dovecot sees new accounts by itself, and a reload takes its sockets away for a moment: only for new settings.
    const newSettings = dovecot && changed.some((name) => /dovecot\.(cf|conf)$|config\/ssl\//.test(name))
    if (newSettings) await this.#reloadDovecot(dovecot)
    const reloaded = await $({ timeout: 30_000 })`postfix -c ${this.#path(LAYOUT.postfix)} reload`
    if (reloaded.exitCode !== 0) throw new Failure('failed', this.#log.traced(reloaded.stderr).join('\n'))
    if (newSettings) await this.#flush()
  }

  /** Has Postfix try waiting mail now: what met a Dovecot that was away would else wait five minutes or more. */
  async #flush(): Promise<void> {
    await $({ timeout: 30_000 })`postqueue -c ${this.#path(LAYOUT.postfix)} -f`
  }

  /** Returns when the socket that Postfix asks for AUTH is there again: without it smtpd ends with an error. */
  async #reloadDovecot(pid: number): Promise<void> {
    const socket = this.#path(`${LAYOUT.run}/smtpd-auth`)
    const before = existsSync(socket) ? statSync(socket).ino : 0
    const deadline = Date.now() + RELOAD_PATIENCE
    signal(pid, 'SIGHUP')
    while (Date.now() < deadline && (!existsSync(socket) || statSync(socket).ino === before)) await sleep(10)
  }

  /** Whether an account's mailbox has a folder here. */
  hasMailbox(address: string): boolean {
    const folder = this.#mailbox(address)
    return folder !== undefined && existsSync(folder)
  }

  /** Removes an account's mailbox from the disk. Needs root. */
  async removeMailbox(address: string): Promise<void> {
    const folder = this.#mailbox(address)
    if (!folder || !existsSync(folder)) return
    rmSync(folder, { recursive: true, force: true })
    if (readdirSync(dirname(folder)).length === 0) rmdirSync(dirname(folder))
  }

  /** The mailbox's folder; undefined for an address that leads elsewhere, which somebody may have written by hand. */
  #mailbox(address: string): string | undefined {
    const parts = mailboxOf(address).split('/')
    const isPlain = parts.length === 2 && parts.every((part) => !/^\.{0,2}$/.test(part))
    return isPlain ? this.#path(join(LAYOUT.mail, ...parts)) : undefined
  }

  async exec([program = '', ...args]: string[], { input: text, timeout = 60_000 }: ExecOptions = {}) {
    await becomeRoot()
    const configuration = /^(dovecot|doveadm|doveconf)$/.test(program)
      ? this.#dovecotConf()
      : this.#path(LAYOUT.postfix)
    return $({ timeout, ...(text === undefined ? {} : input(text)) })`${program} -c ${configuration} ${args}`
  }

  async readFile(path: string): Promise<string | undefined> {
    return existsSync(path) ? readFileSync(path, 'utf8') : undefined
  }

  logs(options: { lines: number; follow: boolean }): Promise<void> {
    return this.#log.show(options)
  }

  complaints(): Promise<string[]> {
    return this.#log.complaints()
  }

  logged(): Promise<string[]> {
    return this.#log.logged()
  }

  owns({ pid }: { pid: number }): boolean {
    return this.#owns(pid)
  }

  #path(part: string): string {
    return this.#files.path(part)
  }

  #dovecotConf(): string {
    return this.#path(`${LAYOUT.dovecot}/dovecot.conf`)
  }

  /** What the daemons listen on, as text, to notice that it changed. */
  #addresses(): string {
    const { bindAddress, ports } = this.#settings
    return JSON.stringify({ bindAddress, ports, services: this.#services() })
  }

  #startedWith(): string {
    return readOr(this.#path(STARTED))
  }

  /** The services that the environment file turns on. */
  #services(): ServiceName[] {
    const { SMTP_ONLY, ENABLE_POP3, ENABLE_IMAP } = readServerEnvironment()
    return SERVICE_NAMES.filter((name) => {
      if (name.startsWith('pop3')) return SMTP_ONLY !== '1' && ENABLE_POP3 === '1'
      if (name.startsWith('imap')) return SMTP_ONLY !== '1' && ENABLE_IMAP !== '0'
      return true
    })
  }

  /** The pids of the two master processes, where they live. */
  #masters(): { postfix: number | undefined; dovecot: number | undefined } {
    const living = (file: string) => {
      const pid = Number(readOr(this.#path(file)).trim())
      // A pid file outlives a crash, and its number may belong to somebody else by now.
      return pid > 0 && this.#owns(pid) ? pid : undefined
    }
    return { postfix: living(`${LAYOUT.queue}/pid/master.pid`), dovecot: living(`${LAYOUT.run}/master.pid`) }
  }

  /** All processes of the instance. */
  #processes(): number[] {
    return processIds().filter((pid) => this.#owns(pid))
  }

  /**
   * Postfix's programs work in the queue folder, Dovecot's in its run folder, and nothing else of this machine does. Those
   * of POP3 and IMAP sessions work in "/", and have their mailbox open.
   */
  #owns(pid: number): boolean {
    try {
      if (!/postfix|dovecot/.test(readlinkSync(`/proc/${pid}/exe`))) return false
      if (/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))) return false
      // The folder may be gone; its processes are not.
      const cwd = readlinkSync(`/proc/${pid}/cwd`).replace(/ \(deleted\)$/, '')
      const works = [LAYOUT.queue, LAYOUT.run].some((part) => `${cwd}/`.startsWith(`${this.#path(part)}/`))
      return works || (cwd === '/' && openFiles(pid).some((file) => file.startsWith(`${this.#path(LAYOUT.mail)}/`)))
    } catch {
      return false
    }
  }

  /** Throws a Failure where Postfix or Dovecot cannot read the settings in a folder. */
  async #try(folder: string): Promise<void> {
    const [main, conf] = [`${folder}/main.cf`, `${folder}/dovecot.conf`]
    // Whatever program of Postfix: each reads main.cf first.
    const trials = [
      await $`postmap -c ${folder} -q x static:y`,
      // All of it is read for one setting; "-n" would ask the DNS for this machine's name.
      ...(existsSync(conf) ? [await $`doveconf -c ${conf} protocols`] : []),
    ]
    const complaints = trials.filter(({ exitCode }) => exitCode !== 0).map(({ stderr }) => stderr)
    if (complaints.length === 0) return
    const said = complaints.join('\n').replaceAll(`${folder}/dovecot.cf`, this.#path(`${LAYOUT.config}/dovecot.cf`))
    const lines = this.#log.traced(said, main)
    throw new Failure(
      'failed',
      `The server runs on with its old settings, because these cannot be read:\n${lines.join('\n')}`,
    )
  }

  /** Dovecot looks at its userdb once a second at the most. */
  async #untilDovecotHasRead(marker: string): Promise<void> {
    const deadline = Date.now() + RELOAD_PATIENCE
    const [account] = readAccounts()
    const seen = async ({ address }: Account) =>
      (await $`doveadm -c ${this.#dovecotConf()} user -f marker ${address}`).stdout.trim() === marker
    while (account && !(await seen(account))) {
      if (Date.now() > deadline)
        throw new Failure('failed', 'Dovecot does not read its accounts again. See: npm run logs')
      await sleep(20)
    }
  }

  /** hash: tables are read from a compiled form. */
  async #compileAliases(): Promise<void> {
    const folder = this.#path(LAYOUT.postfix)
    const made = await $`postalias -c ${folder} ${`hash:${folder}/aliases`}`
    if (made.exitCode !== 0) throw new Failure('failed', this.#log.traced(made.stderr).join('\n'))
  }

  /**
   * Starts a daemon with its streams on a file: it keeps them open for its whole life, and a pipe to this process
   * would keep this process waiting just as long.
   */
  async #launch(out: string, program: string, ...args: string[]): Promise<boolean> {
    const { exitCode } = await $({ timeout: 30_000 })`${program} ${args} > ${this.#path(`log/${out}`)} 2>&1 < /dev/null`
    return exitCode === 0
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH')
      throw new Failure('failed', `pid ${pid}: ${messageOf(error)}`)
  }
}
