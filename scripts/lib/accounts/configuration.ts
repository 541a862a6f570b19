/**
 * The files of the configuration folder that accounts concern, as one value: read once, changed in memory by pure
 * functions, written once. One writer at a time, and a file is the old one or the new one, whole, whatever happens.
 */
import * as fs from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Failure, messageOf } from '../cli.ts'
import { CONFIG_DIR, readBytes, UNREADABLE } from '../settings.ts'
import { shown, unwritable, withLock } from './lock.ts'

/**
 * docker-mailserver's own lock: its change detector holds it while it rewrites postfix-accounts.cf (line ends, final
 * newline), and waits while anybody else does.
 */
export const CONFIGURATION_LOCK = join(CONFIG_DIR, 'check-for-changes.sh.lock')

/** The files, in the order in which an account needs them: its own line is the last that counts. */
export const FILES = [
  'postfix-main.cf',
  'dovecot-master-users',
  'postfix-transport_maps',
  'postfix-regexp.cf',
  'postfix-virtual.cf',
  'dovecot-quotas.cf',
  'postfix-accounts.cf',
] as const
export type FileName = (typeof FILES)[number]

/** The texts of all files; empty where one is missing or cannot be read. */
export type Configuration = Readonly<Record<FileName, string>>

type OnProblem = (name: FileName, problem: string) => void

/**
 * Reads all files. One that cannot be read leaves the others alone: `onProblem` gets its name and the reason, as half a
 * sentence ("it is a folder and not a file").
 */
export function readConfiguration(onProblem: OnProblem = () => {}): Configuration {
  return Object.fromEntries(FILES.map((name) => [name, readFile(name, onProblem)[0]])) as Record<FileName, string>
}

/** The text, and how it is to be written again: bytes that are no UTF-8 (a comment in Latin-1) stay as they are. */
function readFile(name: FileName, onProblem: OnProblem): [text: string, encoding: BufferEncoding] {
  try {
    const bytes = readBytes(join(CONFIG_DIR, name))
    if (bytes.includes(0)) throw new Error('it is UTF-16 or binary; save it as UTF-8')
    const encoding = Buffer.from(bytes.toString('utf8')).equals(bytes) ? 'utf8' : 'latin1'
    return [bytes.toString(encoding), encoding]
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    if (code !== 'ENOENT') onProblem(name, UNREADABLE[code] ?? messageOf(error))
    return ['', 'utf8']
  }
}

/** Refuses a configuration of which a file cannot be read: `readConfiguration(refuse)`. */
export function refuse(name: FileName, problem: string): never {
  throw new Failure('failed', `${shown(join(CONFIG_DIR, name))}: ${problem}. Nothing was changed.`)
}

/**
 * Changes the configuration under its lock. `edit` is given what the files say and gives what they are to say. What an
 * account needs is written before its own line, and goes after it, so that a run that was killed leaves lines without
 * an account and no account without its lines. `prepared` runs when all new texts are on the disk and none is in
 * place yet. Throws a Failure, with all files as they were, when one cannot be written.
 */
export async function change<T extends { configuration: Configuration }>(
  edit: (configuration: Configuration) => T,
  prepared: () => Promise<void> = async () => {},
): Promise<T> {
  return withLock(CONFIGURATION_LOCK, async () => {
    // The lock is held, so files of these names are what killed runs have left.
    for (const name of FILES) fs.rmSync(temporaryOf(pathOf(name)), { force: true })
    const read = new Map(FILES.map((name) => [name, readFile(name, refuse)]))
    const before = Object.fromEntries([...read].map(([name, [text]]) => [name, text])) as Record<FileName, string>
    const result = edit(before)
    const names = inOrder(before, result.configuration)
    try {
      // All of them first: a full disk is noticed before any file is replaced.
      for (const name of names) prepare(pathOf(name), result.configuration[name], read.get(name)?.[1])
      await prepared()
      for (const [index, name] of names.entries()) {
        try {
          replace(pathOf(name))
        } catch (error) {
          const rest = index === 0 ? undefined : 'The files before it are written. Repeat this, then: npm run doctor'
          throw unwritable(pathOf(name), error, rest)
        }
      }
    } finally {
      for (const name of names) fs.rmSync(temporaryOf(pathOf(name)), { force: true })
    }
    return result
  })
}

/** Throws a Failure where one of the files that an edit changes may not be written, and changes nothing. */
export function assertCanChange(before: Configuration, after: Configuration): void {
  for (const name of inOrder(before, after)) assertWritable(pathOf(name))
}

/** The changed files: what grows, the accounts, what shrinks. */
function inOrder(before: Configuration, after: Configuration): FileName[] {
  const changed = FILES.filter((name) => after[name] !== before[name])
  const shrinks = (name: FileName) => name !== 'postfix-accounts.cf' && after[name].length < before[name].length
  return [...changed.filter((name) => !shrinks(name)), ...changed.filter(shrinks).reverse()]
}

/** The file, behind a symbolic link, which stays one. */
function pathOf(name: FileName): string {
  const path = join(CONFIG_DIR, name)
  try {
    return fs.realpathSync(path)
  } catch {
    return path
  }
}

const temporaryOf = (path: string) => `${path}.tmp`

function assertWritable(path: string): void {
  try {
    const mode = fs.statSync(path, { throwIfNoEntry: false })?.mode
    // root may write what is read-only; its owner meant it all the same.
    if (mode && !(mode & 0o222)) throw Object.assign(new Error('it is read-only'), { code: 'READONLY' })
    for (const part of mode ? [path, dirname(path)] : [dirname(path)]) fs.accessSync(part, fs.constants.W_OK)
  } catch (error) {
    throw unwritable(path, error)
  }
}

/** Writes a file's new text beside it, with its owner and mode, down to the disk. */
function prepare(path: string, text: string, encoding?: BufferEncoding): void {
  assertWritable(path)
  const temporary = temporaryOf(path)
  try {
    const old = fs.statSync(path, { throwIfNoEntry: false })
    fs.writeFileSync(temporary, text, { encoding: encoding ?? 'utf8', flag: 'wx', mode: 0o600, flush: true })
    if (process.platform === 'win32') return
    const { uid, gid } = old ?? fs.statSync(dirname(path))
    const made = fs.statSync(temporary)
    if (made.uid !== uid || made.gid !== gid) fs.chownSync(temporary, uid, gid)
    fs.chmodSync(temporary, (old?.mode ?? (basename(path) === 'postfix-accounts.cf' ? 0o600 : 0o644)) & 0o7777)
  } catch (error) {
    throw unwritable(path, error)
  }
}

/** Puts the prepared text in a file's place. */
function replace(path: string): void {
  try {
    fs.renameSync(temporaryOf(path), path)
  } catch (error) {
    // A single file that is a mount of its own cannot be renamed over: it is written in place.
    if (!['EBUSY', 'EXDEV'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    const old = fs.readFileSync(path)
    try {
      fs.writeFileSync(path, fs.readFileSync(temporaryOf(path)), { flush: true })
    } catch (failure) {
      fs.writeFileSync(path, old, { flush: true })
      throw failure
    }
  }
  if (process.platform === 'win32') return
  // Makes the rename last beyond a power cut. Windows has no such call for folders.
  const folder = fs.openSync(dirname(path), 'r')
  fs.fsyncSync(folder)
  fs.closeSync(folder)
}
