/** The state folder of the native engine: its folders, its certificate, and the configuration that is written into it. */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { networkInterfaces } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { Failure } from '../cli.ts'
import { CONFIG_DIR, HOSTNAME, readServerEnvironment, type Settings } from '../settings.ts'
import { type NativeConfiguration, nativeConfiguration } from './native_configuration.ts'
import { LAYOUT, mapPaths, VMAIL_ID } from './native_layout.ts'
import { $ } from './shell.ts'

/** A Unix socket's path has 107 bytes at most; the longest below the state folder takes 36 of them. */
const LONGEST_STATE_DIR = 107 - 36

/** The settings of Dovecot (the engine's, which include the user's) and of Postfix: what a mistake can stop. */
const DOVECOT_CF = `${LAYOUT.config}/dovecot.cf`
const SETTINGS = [
  `${LAYOUT.dovecot}/dovecot.conf`,
  DOVECOT_CF,
  `${LAYOUT.postfix}/main.cf`,
  `${LAYOUT.postfix}/master.cf`,
]

/** What daemons at work have to say while their files change. */
export interface Daemons {
  /** Throws a Failure where they could not read the settings in this folder. */
  try(folder: string): Promise<void>
  /** Returns when Dovecot knows the accounts with this marker. */
  know(marker: string): Promise<void>
}

export class NativeFiles {
  readonly #settings: Settings
  readonly #dir: string

  constructor(settings: Settings) {
    this.#settings = settings
    this.#dir = settings.stateDir
  }

  /** A path in the state folder. */
  path(part: string): string {
    return join(this.#dir, part)
  }

  /** Throws a usage Failure where the daemons could not work in the state folder. */
  checkStateDir(): void {
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

  /** Makes the folders, each with the owner and the mode that its daemon asks for. */
  makeFolders(): void {
    const folder = (part: string, mode: number, uid = 0, gid = 0) => {
      mkdirSync(this.path(part), { recursive: true })
      chownSync(this.path(part), uid, gid)
      chmodSync(this.path(part), mode)
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
  async makeCertificate(): Promise<void> {
    const [key, certificate] = [this.path(LAYOUT.key), this.path(LAYOUT.certificate)]
    if (existsSync(certificate)) return
    const hostname = readServerEnvironment().OVERRIDE_HOSTNAME || HOSTNAME
    const names = `subjectAltName=DNS:${hostname},DNS:localhost,IP:127.0.0.1`
    // The certificate is renamed into place last, so that an interrupted run leaves none.
    const made = await $`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
      -subj ${`/CN=${hostname}`} -addext ${names} -keyout ${key} -out ${certificate}.new`
    if (made.exitCode !== 0)
      throw new Failure('failed', `openssl could not make the TLS certificate:\n${made.stderr.trim()}`)
    chmodSync(key, 0o600)
    renameSync(`${certificate}.new`, certificate)
  }

  /**
   * Makes all configuration files and writes those that differ: `changed` has their paths below the state folder.
   * Daemons at work keep their settings, and a Failure is thrown, where they could not read the new ones.
   */
  async write(daemons?: Daemons): Promise<NativeConfiguration & { changed: string[] }> {
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
      if (replaceFile(this.path(name), content, mode, dovecotGroup)) changed.push(name)
    }
    const files = Object.entries(configuration.files)
    const copies = this.#copyNames().map((name): [string, string | Buffer] => {
      const bytes = readFileSync(join(CONFIG_DIR, name))
      return [join(LAYOUT.config, name), bytes.includes(0) ? bytes : mapPaths(bytes.toString('utf8'), this.#dir)]
    })
    if (daemons) await this.#try(new Map([...copies, ...files]), daemons)
    // Password hashes stand in these two folders: for root and Dovecot's auth process alone.
    for (const [name, content] of copies) write(name, content, 0o640)
    const isDovecots = (name: string) => name.startsWith(`${LAYOUT.dovecot}/`)
    for (const [name, content] of files) if (isDovecots(name)) write(name, content, 0o640)
    // Dovecot first: mail that Postfix accepts for an account that Dovecot does not know yet would bounce.
    if (changed.some(isDovecots)) await daemons?.know(configuration.userdbMarker)
    for (const [name, content] of files) if (!isDovecots(name)) write(name, content, 0o644)
    return { ...configuration, changed }
  }

  /** Has daemons at work try new settings, in a folder that is gone afterwards. */
  async #try(files: Map<string, string | Buffer>, daemons: Daemons): Promise<void> {
    const settings = SETTINGS.filter((name) => files.has(name))
    if (settings.every((name) => readOr(this.path(name)) === String(files.get(name)))) return
    const folder = this.path('trial')
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { mode: 0o700 })
    try {
      for (const name of settings) {
        const text = String(files.get(name)).replaceAll(this.path(DOVECOT_CF), `${folder}/dovecot.cf`)
        writeFileSync(join(folder, basename(name)), text)
      }
      await daemons.try(folder)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
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
    for (const name of list(this.path(LAYOUT.config))) {
      if (!names.includes(name)) rmSync(this.path(join(LAYOUT.config, name)))
    }
    return names
  }

  /**
   * Removes the locks that killed processes left in the mailboxes: Dovecot honours one for two minutes when the pid in it
   * is another process's by now. Nobody may be at work there.
   */
  removeLocks(folder = this.path(LAYOUT.mail)): void {
    if (!existsSync(folder)) return
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name)
      if (entry.isFile() && entry.name.endsWith('.lock')) rmSync(path, { force: true })
      // A Maildir's messages lie in these three, many of them and no lock.
      if (entry.isDirectory() && !/^(cur|new|tmp)$/.test(entry.name)) this.removeLocks(path)
    }
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
export function idOf(database: 'passwd' | 'group', name: string): number {
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

/** A file's text; an empty one where it cannot be read. */
export function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
