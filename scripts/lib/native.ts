/**
 * The server without Docker: a private instance of Debian's own Postfix and Dovecot, with everything it needs in one
 * state folder. Nothing below /etc/postfix or /etc/dovecot is read or written.
 */
import { spawn } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { networkInterfaces } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Account, readAccounts } from './accounts.ts'
import { Failure, messageOf, say } from './cli.ts'
import { withLock } from './configuration_files.ts'
import type { Engine, ExecOptions } from './engine.ts'
import { type NativeConfiguration, nativeConfiguration } from './native_configuration.ts'
import { LAYOUT, mailboxOf, mapPaths, VMAIL_ID } from './native_layout.ts'
import { installPackages } from './packages.ts'
import { assertPortsFree, openFiles, processIds } from './ports.ts'
import { becomeRoot, startAsRoot } from './root.ts'
import { CONFIG_DIR, ROOT, readServerEnvironment, SERVICE_NAMES, type ServiceName, type Settings } from './settings.ts'
import { $, input } from './shell.ts'

/** A Unix socket's path has 107 bytes at most; the longest below the state folder takes 36 of them. */
const LONGEST_STATE_DIR = 107 - 36
/** Holds what the running daemons listen on; gone after a stop. */
const STARTED = 'started.json'
/** Milliseconds until a stop becomes a kill. */
const STOP_PATIENCE = 10_000
/** Milliseconds for Dovecot to read its settings again. */
const RELOAD_PATIENCE = 5_000
/** Where the mail log of the last start begins, in bytes: older troubles are no longer of interest. */
const LOG_START = 'log/start'
/** The mail log is set aside at a start when it is larger, in bytes. */
const LOG_LIMIT = 10_000_000
/** Bytes of the disk that are kept free for the mail log: a Dovecot that cannot write to it ends, and stays ended. */
const LOG_RESERVE = 10_000_000

export class NativeEngine implements Engine {
  readonly name = 'native'
  readonly #settings: Settings
  readonly #dir: string

  constructor(settings: Settings) {
    this.#settings = settings
    this.#dir = settings.stateDir
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
    this.#checkStateDir()
    await installPackages()
    if (await this.isRunning()) {
      if (this.#startedWith() === this.#addresses()) {
        this.#markLog()
        return this.reload()
      }
      say('The ports have changed since the server was started: it starts anew.')
    }
    // Also what a crash left behind: one of the two daemons, or children without a master.
    await this.stop()
    // Dovecot believes in a pid file whose number is somebody's, even a dead process's that nobody has reaped.
    rmSync(this.#path(`${LAYOUT.run}/master.pid`), { force: true })
    removeLocks(this.#path(LAYOUT.mail))
    await assertPortsFree(this.#settings, this.#services())
    this.#makeFolders()
    await this.#makeCertificate()
    const configuration = await this.#writeConfiguration()
    for (const notice of configuration.notices) say(notice)
    await this.#compileAliases()
    await this.#setLogAside()
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
    const { changed } = await this.#writeConfiguration()
    if (changed.length === 0) return
    await this.#compileAliases()
    // Dovecot sees new accounts by itself, and a reload takes its sockets away for a moment: only for new settings.
    const { dovecot } = this.#masters()
    const newSettings = dovecot && changed.some((name) => /dovecot\.(cf|conf)$|config\/ssl\//.test(name))
    if (newSettings) await this.#reloadDovecot(dovecot)
    const reloaded = await $({ timeout: 30_000 })`postfix -c ${this.#path(LAYOUT.postfix)} reload`
    if (reloaded.exitCode !== 0) throw new Failure('failed', this.#traced(reloaded.stderr).join('\n'))
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
  removeMailbox(address: string): void {
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

  async logs({ lines, follow }: { lines: number; follow: boolean }): Promise<void> {
    const file = this.#path(LAYOUT.log)
    if (!existsSync(file)) throw new Failure('failed', `${file}: no mail log yet. Start the server: npm start`)
    const tail = spawn('tail', ['-n', String(lines), ...(follow ? ['-F'] : []), file], {
      stdio: ['ignore', 'inherit', 'ignore'],
    })
    await new Promise((resolve, reject) => tail.once('error', reject).once('close', resolve))
  }

  async complaints(): Promise<string[]> {
    const lines = await this.logged()
    return [...new Set(lines.filter((line) => /\b(fatal|panic|error|warning)\b/i.test(line)))].slice(-10)
  }

  async logged(): Promise<string[]> {
    const started = ['postfix.out', 'dovecot.out'].map((name) => readOr(this.#path(`log/${name}`)))
    const logged = Buffer.from(readOr(this.#path(LAYOUT.log)))
      .subarray(Number(readOr(this.#path(LOG_START))))
      .toString()
      .slice(-100_000)
    return this.#traced([...started, logged].join('\n'))
  }

  owns({ pid }: { pid: number }): boolean {
    return this.#owns(pid)
  }

  #path(part: string): string {
    return join(this.#dir, part)
  }

  #dovecotConf(): string {
    return this.#path(`${LAYOUT.dovecot}/dovecot.conf`)
  }

  /** What the daemons listen on, as text, to notice that it changed. */
  #addresses(): string {
    return JSON.stringify({ bindAddress: this.#settings.bindAddress, ports: this.#settings.ports })
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
    if (!existsSync(this.#dir)) return []
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
      const cwd = readlinkSync(`/proc/${pid}/cwd`)
      const works = [LAYOUT.queue, LAYOUT.run].some((part) => `${cwd}/`.startsWith(`${this.#path(part)}/`))
      return works || (cwd === '/' && openFiles(pid).some((file) => file.startsWith(`${this.#path(LAYOUT.mail)}/`)))
    } catch {
      return false
    }
  }

  #checkStateDir(): void {
    const dir = this.#dir
    const advice = 'Set MAIL_SERVER_STATE_DIR in .env to another folder.'
    if (Buffer.byteLength(dir) > LONGEST_STATE_DIR) {
      throw new Failure(
        'usage',
        `${dir}: the path is longer than ${LONGEST_STATE_DIR} bytes, too long for Unix sockets. ${advice}`,
      )
    }
    if (!/^[\w./+@-]+$/.test(dir)) {
      throw new Failure('usage', `${dir}: Postfix cannot work in a path with spaces or such characters. ${advice}`)
    }
    // Dovecot's mail processes run without privileges and walk the whole path.
    for (let parent = dirname(dir); parent !== dirname(parent); parent = dirname(parent)) {
      if (existsSync(parent) && !(statSync(parent).mode & 0o001)) {
        throw new Failure(
          'usage',
          `${parent}: only its owner can enter it, and ${dir} lies below; Dovecot has to. ${advice}`,
        )
      }
    }
  }

  #makeFolders(): void {
    const folder = (part: string, mode: number, uid = 0, gid = 0) => {
      mkdirSync(this.#path(part), { recursive: true })
      chownSync(this.#path(part), uid, gid)
      chmodSync(this.#path(part), mode)
    }
    folder('', 0o755)
    folder(LAYOUT.config, 0o750, 0, idOf('group', 'dovecot'))
    folder(LAYOUT.postfix, 0o755)
    folder(LAYOUT.dovecot, 0o755)
    folder(LAYOUT.mail, 0o770, VMAIL_ID, VMAIL_ID)
    folder(LAYOUT.queue, 0o755)
    folder(LAYOUT.data, 0o700, idOf('passwd', 'postfix'))
    folder(LAYOUT.run, 0o755)
    folder(LAYOUT.state, 0o755)
    folder('log', 0o755)
    folder('tls', 0o700)
  }

  /** A self-signed certificate, made once, for the server's name and this machine's. */
  async #makeCertificate(): Promise<void> {
    const [key, certificate] = [this.#path(LAYOUT.key), this.#path(LAYOUT.certificate)]
    if (existsSync(certificate)) return
    const hostname = readServerEnvironment().OVERRIDE_HOSTNAME || 'development-mail-server.example.com'
    const names = `subjectAltName=DNS:${hostname},DNS:localhost,IP:127.0.0.1`
    // The certificate is renamed into place last, so that an interrupted run leaves none.
    const made = await $`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
      -subj ${`/CN=${hostname}`} -addext ${names} -keyout ${key} -out ${certificate}.new`
    if (made.exitCode !== 0)
      throw new Failure('failed', `openssl could not make the TLS certificate:\n${made.stderr.trim()}`)
    chmodSync(key, 0o600)
    renameSync(`${certificate}.new`, certificate)
  }

  /** Makes all configuration files and writes those that differ: `changed` has their paths below the state folder. */
  async #writeConfiguration(): Promise<NativeConfiguration & { changed: string[] }> {
    const configuration = nativeConfiguration({
      stateDir: this.#dir,
      bindAddress: this.#settings.bindAddress,
      ports: this.#settings.ports,
      environment: readServerEnvironment(),
      file: (name) => (existsSync(join(CONFIG_DIR, name)) ? readFileSync(join(CONFIG_DIR, name), 'utf8') : undefined),
      networks: ownNetworks(),
    })
    const dovecotGroup = idOf('group', 'dovecot')
    const changed: string[] = []
    const write = (name: string, content: string | Buffer, mode: number) => {
      if (replaceFile(this.#path(name), content, mode, dovecotGroup)) changed.push(name)
    }
    // Password hashes stand in these two folders: for root and Dovecot's auth process alone.
    for (const name of this.#copyNames()) {
      const bytes = readFileSync(join(CONFIG_DIR, name))
      const content = bytes.includes(0) ? bytes : mapPaths(bytes.toString('utf8'), this.#dir)
      write(join(LAYOUT.config, name), content, 0o640)
    }
    const isDovecots = (name: string) => name.startsWith(`${LAYOUT.dovecot}/`)
    const files = Object.entries(configuration.files)
    for (const [name, content] of files) if (isDovecots(name)) write(name, content, 0o640)
    // Dovecot first: mail that Postfix accepts for an account that Dovecot does not know yet would bounce.
    if (this.#masters().dovecot && changed.some(isDovecots)) await this.#untilDovecotHasRead(configuration.userdbMarker)
    for (const [name, content] of files) if (!isDovecots(name)) write(name, content, 0o644)
    return { ...configuration, changed }
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
    if (made.exitCode !== 0) throw new Failure('failed', this.#traced(made.stderr).join('\n'))
  }

  /** The configuration folder's files; those that are gone there go from the copy as well. */
  #copyNames(): string[] {
    const list = (dir: string) =>
      existsSync(dir)
        ? readdirSync(dir, { recursive: true, withFileTypes: true })
            .filter((entry) => entry.isFile() && !/\.(lock|tmp)$/.test(entry.name))
            .map((entry) => relative(dir, join(entry.parentPath ?? entry.path, entry.name)))
        : []
    const names = list(CONFIG_DIR)
    for (const name of list(this.#path(LAYOUT.config))) {
      if (!names.includes(name)) rmSync(this.#path(join(LAYOUT.config, name)))
    }
    return names
  }

  async #setLogAside(): Promise<void> {
    const log = this.#path(LAYOUT.log)
    if (existsSync(log) && statSync(log).size > LOG_LIMIT) renameSync(log, `${log}.1`)
    // In a copied state folder postsuper renames the queue files, and logs that, as this user, before postlogd is there.
    appendFileSync(log, '')
    chownSync(log, idOf('passwd', 'postfix'), 0)
    // Blocks behind its end. Where the file system knows no such thing, it goes without.
    await $`fallocate --keep-size --offset ${statSync(log).size} --length ${LOG_RESERVE} ${log}`
    this.#markLog()
  }

  /** From here on the log is about the present start. */
  #markLog(): void {
    const log = this.#path(LAYOUT.log)
    writeFileSync(this.#path(LOG_START), String(existsSync(log) ? statSync(log).size : 0))
  }

  /**
   * Starts a daemon with its streams on a file: it keeps them open for its whole life, and a pipe to this process
   * would keep this process waiting just as long.
   */
  async #launch(out: string, program: string, ...args: string[]): Promise<boolean> {
    const { exitCode } = await $({ timeout: 30_000 })`${program} ${args} > ${this.#path(`log/${out}`)} 2>&1 < /dev/null`
    return exitCode === 0
  }

  /** The daemons' lines with the instance's paths put back to the project's files, and their lines named. */
  #traced(text: string): string[] {
    const main = this.#path(`${LAYOUT.postfix}/main.cf`)
    const config = relative(ROOT, CONFIG_DIR)
    const own = `${config}/postfix-main.cf`
    const ownLines = readOr(join(CONFIG_DIR, 'postfix-main.cf')).split('\n')
    const offset =
      readOr(main).split('\n').indexOf('# From here on docker-data/mail-server/config/postfix-main.cf.') + 1
    return text
      .split('\n')
      .map((line) => line.trim())
      .filter((line) => line !== '')
      .map((line) => {
        const traced = line
          .replaceAll(this.#path(LAYOUT.config), config)
          .replace(new RegExp(`${main.replaceAll('.', '\\.')}, line (\\d+)`), (all, number) =>
            Number(number) > offset ? `${own}, line ${Number(number) - offset}` : all,
          )
        if (traced.includes(config)) return traced
        // Postfix names a wrong value by its parameter alone, or quotes it.
        const quoted = /"([^"]+)"/.exec(traced)?.[1]
        const at = ownLines.findIndex((text) => {
          const [, name, value] = /^([\w-]+)\s*=\s*(.*)/.exec(text) ?? []
          if (!name) return false
          return (
            new RegExp(`\\b${name}\\b`).test(traced) ||
            (quoted !== undefined && value?.split(/[\s,]+/).includes(quoted))
          )
        })
        return at < 0 ? traced : `${traced} (${own}, line ${at + 1})`
      })
  }
}

/** IPv4 networks of this machine's interfaces as CIDR blocks, without loopback. */
function ownNetworks(): string[] {
  const interfaces = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  const blocks = interfaces
    .filter(({ family, internal }) => family === 'IPv4' && !internal)
    .map(({ address, netmask }) => {
      const mask = netmask.split('.').map(Number)
      const network = address.split('.').map((octet, index) => Number(octet) & (mask[index] ?? 0))
      const bits = mask.reduce((sum, octet) => sum + octet.toString(2).replaceAll('0', '').length, 0)
      return `${network.join('.')}/${bits}`
    })
  return [...new Set(blocks)]
}

/** A user's or a group's number, from /etc/passwd or /etc/group. */
function idOf(database: 'passwd' | 'group', name: string): number {
  const line = readFileSync(`/etc/${database}`, 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${name}:`))
  const id = Number(line?.split(':')[2])
  if (!Number.isInteger(id))
    throw new Failure('failed', `/etc/${database} has no ${name}; reinstall postfix and dovecot-core.`)
  return id
}

/** Replaces a file in one step, so that a daemon reads the old or the new one. False when it was so already. */
function replaceFile(path: string, content: string | Buffer, mode: number, gid: number): boolean {
  const bytes = Buffer.from(content)
  if (existsSync(path) && readFileSync(path).equals(bytes)) return false
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(`${path}.tmp`, bytes, { mode })
  // Postfix's programs wait until main.cf and their tables are two seconds old, lest they read half a file; it is whole.
  // And a second later than the file before: Dovecot sees by the second that its userdb has changed.
  const before = existsSync(path) ? statSync(path).mtimeMs : 0
  const past = new Date(Math.max(Date.now() - 10_000, before + 1_000))
  utimesSync(`${path}.tmp`, past, past)
  chownSync(`${path}.tmp`, 0, gid)
  chmodSync(`${path}.tmp`, mode)
  renameSync(`${path}.tmp`, path)
  return true
}

/**
 * Removes the locks that killed processes left in the mailboxes: Dovecot honours one for two minutes when the pid in it is
 * another process's by now. Nobody may be at work there.
 */
function removeLocks(folder: string): void {
  if (!existsSync(folder)) return
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isFile() && entry.name.endsWith('.lock')) rmSync(path, { force: true })
    // A Maildir's messages lie in these three, many of them and no lock.
    if (entry.isDirectory() && !/^(cur|new|tmp)$/.test(entry.name)) removeLocks(path)
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

function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
