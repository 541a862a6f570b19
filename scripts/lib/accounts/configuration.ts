/**
 * The files of the configuration folder that accounts concern, as one value: read once, changed in memory by pure
 * functions, written once. One writer at a time, and a file is the old one or the new one, whole, whatever happens.
 */
import * as fs from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { Failure, messageOf } from '../cli.ts'
import { CONFIG_DIR, readBytes, UNREADABLE } from '../settings.ts'
import { unwritable, withLock } from './lock.ts'

/**
 * docker-mailserver's own lock: its change detector holds it while it rewrites postfix-accounts.cf (line ends, final
 * newline), and waits while anybody else does.
 */
export const CONFIGURATION_LOCK = join(CONFIG_DIR, 'check-for-changes.sh.lock')

export const TRANSPORTS = 'postfix-transport_maps'
export const PATTERNS = 'postfix-regexp.cf'
export const ALIASES = 'postfix-virtual.cf'
export const QUOTAS = 'dovecot-quotas.cf'
export const ACCOUNTS = 'postfix-accounts.cf'
/** The files, in the order in which an account needs them: its own line is the last that counts. */
export const FILES = [TRANSPORTS, PATTERNS, ALIASES, QUOTAS, ACCOUNTS] as const
export type FileName = (typeof FILES)[number]

/** The texts of all files, a character for each byte, whatever their encoding; empty where one is missing. */
export type Configuration = Readonly<Record<FileName, string>>

/** Reads all files. Throws a Failure that names the one that cannot be read. */
export function readConfiguration(): Configuration {
  return Object.fromEntries(FILES.map((name) => [name, readConfigured(name)])) as Record<FileName, string>
}

/** Reads one of the files, as `readConfiguration` does. */
export function readConfigured(file: FileName): string {
  const path = join(CONFIG_DIR, file)
  try {
    const text = readBytes(path).toString('latin1')
    if (text.includes('\0')) throw new Error('it is UTF-16 or binary; save it as UTF-8')
    return text
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return ''
    const name = relative(process.cwd(), path)
    throw new Failure('failed', `${name}: ${UNREADABLE[code] ?? messageOf(error)}. See: npm run doctor`)
  }
}

/**
 * Changes the configuration under its lock. `edit` is given what the files say and gives what they are to say. What an
 * account needs is written before its own line, and goes after it, so that a run that was killed leaves lines without
 * an account and no account without its lines. `prepared` runs when all new texts are on the disk and none is in place
 * yet. Throws a Failure, with all files as they were, when one cannot be written.
 */
export async function change(
  edit: (configuration: Configuration) => Configuration,
  prepared?: () => Promise<void>,
): Promise<{ before: Configuration; after: Configuration }> {
  return withLock(CONFIGURATION_LOCK, async () => {
    // The lock is held, so files of these names are what killed runs have left.
    for (const name of FILES) fs.rmSync(temporaryOf(realOf(join(CONFIG_DIR, name))), { force: true })
    const before = readConfiguration()
    const after = edit(before)
    const changed = FILES.filter((name) => after[name] !== before[name])
    const shrinks = (name: FileName) => name !== ACCOUNTS && after[name].length < before[name].length
    const inOrder = [...changed.filter((name) => !shrinks(name)), ...changed.filter(shrinks).reverse()]
    const texts = inOrder.map((name): [string, string] => [join(CONFIG_DIR, name), after[name]])
    await replaceFiles(texts, prepared)
    return { before, after }
  })
}

/**
 * Writes files whole, one after the other, under a lock that the caller holds; a character of a text is a byte. All are on
 * the disk before any is replaced, and before `prepared` runs: a full one is noticed in time, and told as a Failure.
 */
export async function replaceFiles(texts: [path: string, text: string][], prepared = async () => {}): Promise<void> {
  const files = texts.map(([path, text]) => [realOf(path), text] as const)
  try {
    for (const [path, text] of files) prepare(path, text)
    await prepared()
    for (const [path] of files) fs.renameSync(temporaryOf(path), path)
  } finally {
    for (const [path] of files) fs.rmSync(temporaryOf(path), { force: true })
  }
}

/** The file behind a symbolic link, which stays one. */
const realOf = (path: string) => (fs.existsSync(path) ? fs.realpathSync(path) : path)

const temporaryOf = (path: string) => `${path}.tmp`

/** Writes a file's new text beside it, with its owner and mode, down to the disk. */
function prepare(path: string, text: string): void {
  try {
    const old = fs.statSync(path, { throwIfNoEntry: false })
    // Whoever may write the folder could replace the file; its owner meant it all the same, for root too.
    if (old && !(old.mode & 0o222)) throw Object.assign(new Error('it is read-only'), { code: 'EACCES' })
    if (old) fs.accessSync(path, fs.constants.W_OK)
    const { uid, gid } = old ?? fs.statSync(dirname(path))
    const mode = old?.mode ?? (path.endsWith(ACCOUNTS) ? 0o600 : 0o644)
    fs.writeFileSync(temporaryOf(path), text, { encoding: 'latin1', mode: 0o600, flush: true })
    fs.chownSync(temporaryOf(path), uid, gid)
    fs.chmodSync(temporaryOf(path), mode & 0o7777)
  } catch (error) {
    throw unwritable(path, error)
  }
}
