/** The state folder of the native engine: its parts with their owners and modes, and its certificate. */
import * as fs from 'node:fs'
import { dirname, join } from 'node:path'
import { Failure, messageOf } from '../cli.ts'
import { CONTAINER, HOSTNAME, readServerEnvironment, type Settings } from '../settings.ts'
import { VMAIL_ID } from './native_configuration.ts'
import { $ } from './shell.ts'

/** A Unix socket's path has 107 bytes at most; the longest below the state folder takes 36 of them. */
const LONGEST_STATE_DIR = 107 - 36
const ADVICE = 'Set MAIL_SERVER_STATE_DIR in .env to another folder.'

/** What stands in the state folder. */
const OWN = /^(config|data|dovecot|log|mail|next|postfix|queue|run|state|tls|inbox|start|lost\+found)/

/** Throws a usage Failure where the daemons could not work in the state folder. */
export function checkStateDir(dir: string): void {
  const refuse = (fact: string) => {
    throw new Failure('usage', `MAIL_SERVER_STATE_DIR=${dir}: ${fact}. ${ADVICE}`)
  }
  if (Buffer.byteLength(dir) > LONGEST_STATE_DIR) {
    refuse(`the path is longer than ${LONGEST_STATE_DIR} bytes, too long for Unix sockets`)
  }
  if (!/^[\w./+@-]+$/.test(dir)) refuse('Postfix cannot work in a path with spaces or such characters')
  // Dovecot's mail processes run without privileges and walk the whole path.
  for (let parent = dirname(dir); parent !== dirname(parent); parent = dirname(parent)) {
    const found = fs.statSync(parent, { throwIfNoEntry: false })
    if (found && !found.isDirectory()) refuse(`${parent} is no folder`)
    if (found && !(found.mode & 0o001)) refuse(`${parent}: only its owner can enter it, and Dovecot has to`)
  }
  const found = fs.statSync(dir, { throwIfNoEntry: false })
  if (found && !found.isDirectory()) refuse('it is no folder')
  // What this writes there, it also removes: never in somebody else's folder.
  const foreign = found && fs.readdirSync(dir).find((name) => !OWN.test(name))
  if (foreign) refuse(`there is a ${foreign} in it, so it is not the mail server's own folder`)
}

/** Makes the folders, each with the owner and the mode that its daemon asks for. Throws a usage Failure where it cannot. */
export function makeFolders(dir: string): void {
  const folder = (part: string, mode: number, uid = 0, gid = 0) => {
    makeFolder(join(dir, part))
    fs.chownSync(join(dir, part), uid, gid)
    fs.chmodSync(join(dir, part), mode)
  }
  try {
    for (const part of ['', 'postfix', 'dovecot', 'queue', 'run', 'state', 'log', 'tls']) folder(part, 0o755)
    folder('config', 0o750, 0, idOf('group', 'dovecot'))
    folder('mail', 0o770, VMAIL_ID, VMAIL_ID)
    folder('data', 0o700, idOf('passwd', 'postfix'))
  } catch (error) {
    if (error instanceof Failure) throw error
    throw new Failure('usage', `MAIL_SERVER_STATE_DIR=${dir}: ${messageOf(error)}. ${ADVICE}`)
  }
}

/** mkdirSync with "recursive" tries for ever below /proc (Node 20). */
function makeFolder(path: string): void {
  if (fs.existsSync(path)) return
  makeFolder(dirname(path))
  fs.mkdirSync(path)
}

/**
 * A self-signed certificate, made once, for all names that the server may be reached by here. It is no authority: whoever
 * trusts it trusts this server alone. The same command stands in user-patches.sh.
 */
export async function makeCertificate({ stateDir, bindAddress }: Settings): Promise<void> {
  const key = join(stateDir, 'tls', 'key.pem')
  const certificate = join(stateDir, 'tls', 'certificate.pem')
  if (fs.existsSync(certificate)) return
  const hostname = readServerEnvironment().OVERRIDE_HOSTNAME || HOSTNAME
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

/**
 * Removes the locks that killed processes left in the mailboxes: Dovecot honours one for two minutes when the pid in it
 * is another process's by now. Nobody may be at work there.
 */
export function removeLocks(folder: string): void {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isFile() && entry.name.endsWith('.lock')) fs.rmSync(path, { force: true })
    // A Maildir's messages lie in these three, many of them and no lock.
    if (entry.isDirectory() && !/^(cur|new|tmp)$/.test(entry.name)) removeLocks(path)
  }
}

/** A user's or a group's number, from /etc/passwd or /etc/group. */
export function idOf(database: 'passwd' | 'group', name: string): number {
  const [, id] = new RegExp(`^${name}:[^:]*:(\\d+):`, 'm').exec(fs.readFileSync(`/etc/${database}`, 'utf8')) ?? []
  if (id) return Number(id)
  throw new Failure('failed', `/etc/${database} has no ${name}. Type: apt-get install --reinstall postfix dovecot-core`)
}

/** Replaces a file in one step, so that a daemon reads the old or the new one. False when it was so already. */
export function replaceFile(path: string, bytes: Buffer, mode: number, gid: number): boolean {
  const give = (file: string) => {
    fs.chownSync(file, 0, gid)
    fs.chmodSync(file, mode)
  }
  if (fs.existsSync(path) && fs.readFileSync(path).equals(bytes)) {
    // Packages that were removed and came back have other numbers.
    give(path)
    return false
  }
  fs.mkdirSync(dirname(path), { recursive: true })
  fs.writeFileSync(`${path}.tmp`, bytes, { mode })
  // Postfix's programs wait until main.cf and their tables are two seconds old, lest they read half a file; it is whole.
  // And a second later than the file before: Dovecot sees by the second that its userdb has changed.
  const before = fs.statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
  const past = new Date(Math.max(Date.now() - 10_000, before + 1_000))
  fs.utimesSync(`${path}.tmp`, past, past)
  give(`${path}.tmp`)
  fs.renameSync(`${path}.tmp`, path)
  return true
}
