/** The state folder of the native engine: its parts with their owners and modes, its certificate, its mail log. */
import * as fs from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { Failure } from '../cli.ts'
import { CONFIG_DIR, CONTAINER, ROOT, readServerEnvironment, type Settings } from '../settings.ts'
import { hostnameOf, VMAIL_ID } from './native_configuration.ts'
import { readOr } from './processes.ts'
import { $, foreground } from './shell.ts'

/** A Unix socket's path has 107 bytes at most; the longest below the state folder takes 36 of them. */
const LONGEST_STATE_DIR = 107 - 36

/** What stands in the state folder. */
const OWN = /^(config|data|dovecot|log|mail|next|postfix|queue|run|state|tls|inbox|start|lost\+found)/

function refuse(dir: string, fact: string): never {
  throw new Failure(
    'usage',
    `MAIL_SERVER_STATE_DIR=${dir}: ${fact}. Set MAIL_SERVER_STATE_DIR in .env to another folder.`,
  )
}

/** Throws a usage Failure where the daemons could not work in the state folder. */
export function checkStateDir(dir: string): void {
  if (Buffer.byteLength(dir) > LONGEST_STATE_DIR) {
    refuse(dir, `the path is longer than ${LONGEST_STATE_DIR} bytes, too long for Unix sockets`)
  }
  if (!/^[\w./+@-]+$/.test(dir)) refuse(dir, 'Postfix cannot work in a path with spaces or such characters')
  for (let folder = dir; folder !== dirname(folder); folder = dirname(folder)) {
    if (!fs.existsSync(folder)) continue
    const found = fs.statSync(folder)
    if (!found.isDirectory()) refuse(dir, `${folder} is no folder`)
    // Dovecot's mail processes run without privileges and walk the whole path.
    if (folder !== dir && !(found.mode & 0o001))
      refuse(dir, `${folder}: only its owner can enter it, and Dovecot has to`)
  }
  // What this writes there, it also removes: never in somebody else's folder.
  const foreign = fs.existsSync(dir) && fs.readdirSync(dir).find((name) => !OWN.test(name))
  if (foreign) refuse(dir, `there is a ${foreign} in it, so it is not the mail server's own folder`)
}

/** Makes the folders, each with the owner and the mode that its daemon asks for. Throws a usage Failure where it cannot. */
export async function makeFolders(dir: string): Promise<void> {
  const folders: [options: string[], names: string[]][] = [
    [['-m755'], ['', 'queue', 'run', 'state', 'log', 'tls']],
    [['-m770', `-o${VMAIL_ID}`, `-g${VMAIL_ID}`], ['mail']],
    [['-m700', '-opostfix'], ['data']],
  ]
  for (const [options, names] of folders) {
    const { exitCode, stderr } = await $`install -d ${options} ${names.map((name) => join(dir, name))}`
    if (exitCode !== 0) refuse(dir, stderr.trim().split('\n')[0] ?? '')
  }
}

/**
 * A self-signed certificate, made once, for all names that the server may be reached by here. It is no authority: whoever
 * trusts it trusts this server alone. The same command stands in user-patches.sh.
 */
export async function makeCertificate({ stateDir, bindAddress }: Settings): Promise<void> {
  const [key, certificate] = [join(stateDir, 'tls', 'key.pem'), join(stateDir, 'tls', 'certificate.pem')]
  if (fs.existsSync(certificate)) return
  const hostname = hostnameOf(readServerEnvironment())
  const addresses = ['127.0.0.1', '::1', bindAddress].filter((address) => !/^(0\.0\.0\.0|::)$/.test(address))
  const names = ['localhost', hostname, CONTAINER].map((name) => `DNS:${name}`)
  const subjects = [...names, ...new Set(addresses.map((address) => `IP:${address}`))].join(',')
  // The certificate is renamed into place last, so that an interrupted run leaves none.
  const made = await $({ timeout: 30_000 })`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -days 3650 -extensions usr_cert -subj ${`/CN=${hostname}`} -addext ${`subjectAltName=${subjects}`} \
    -addext extendedKeyUsage=serverAuth -keyout ${key} -out ${certificate}.new`
  if (made.exitCode !== 0) throw new Failure('failed', `openssl made no TLS certificate:\n${made.stderr.trim()}`)
  fs.chmodSync(key, 0o600)
  fs.chmodSync(`${certificate}.new`, 0o644)
  fs.renameSync(`${certificate}.new`, certificate)
}

/** The log is set aside at a start when it is larger, in bytes. */
const LOG_LIMIT = 10_000_000
/** Bytes of the disk that are kept free for the log: a Dovecot that cannot write to it ends, and stays ended. */
const LOG_RESERVE = 10_000_000

/** The mail log, and where the present start begins in it. */
export class MailLog {
  readonly file: string
  readonly #stateDir: string

  constructor(stateDir: string) {
    this.#stateDir = stateDir
    this.file = join(stateDir, 'log', 'mail.log')
  }

  /** Before a start: a long log goes aside, and the disk keeps room for the new one. */
  async begin(): Promise<void> {
    if (fs.existsSync(this.file) && fs.statSync(this.file).size > LOG_LIMIT) fs.renameSync(this.file, `${this.file}.1`)
    fs.appendFileSync(this.file, '')
    // In a copied state folder postsuper renames the queue files, and logs that, as this user, before postlogd is there.
    await $`chown postfix ${this.file}`
    // Blocks behind its end. Where the file system knows no such thing, it goes without.
    await $`fallocate --keep-size --offset ${fs.statSync(this.file).size} --length ${LOG_RESERVE} ${this.file}`
    this.mark()
  }

  /** From here on the log is about the present start: older troubles are no longer of interest. */
  mark(): void {
    fs.writeFileSync(join(this.#stateDir, 'log', 'start'), String(readOr(this.file).length))
  }

  /** Writes the log's last lines to stdout and, with `follow`, what comes until interrupted. */
  async show({ lines, follow }: { lines: number; follow: boolean }): Promise<void> {
    if (!fs.existsSync(this.file))
      throw new Failure('failed', `${this.file}: no mail log yet. Start the server: npm start`)
    const words = ['-n', String(lines), ...(follow ? ['-F', `--pid=${process.pid}`] : []), this.file]
    await foreground('tail', words, { stdio: ['ignore', 'inherit', 'ignore'] })
  }

  /** What the daemons said since the last start, at most 100,000 characters of it. */
  logged(): string[] {
    const begin = Number(readOr(join(this.#stateDir, 'log', 'start')))
    return this.named(readOr(this.file).slice(begin).slice(-100_000)).split('\n').filter(Boolean)
  }

  /** A text with the project's files in place of the copies that the daemons read. */
  named(text: string): string {
    const copies = new RegExp(`${this.#stateDir}/(?:next/)?(?:[a-z]+/\\.\\./)?config(?=/)`, 'g')
    return text.replace(copies, relative(ROOT, CONFIG_DIR))
  }
}
