/**
 * The files of the configuration folder that accounts concern, as one value: read once, changed in memory by pure
 * functions, written once. One writer at a time, and a file is the old one or the new one, whole, whatever happens.
 */
import { isUtf8 } from 'node:buffer'
import * as fs from 'node:fs'
import { dirname, join } from 'node:path'
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
  'postfix-transport_maps',
  'postfix-regexp.cf',
  'postfix-virtual.cf',
  'dovecot-quotas.cf',
  'postfix-accounts.cf',
] as const
export type FileName = (typeof FILES)[number]

/** The texts of all files; empty where one is missing or cannot be read. */
export type Configuration = Readonly<Record<FileName, string>>

/**
 * Reads all files. One that cannot be read leaves the others alone: `onProblem` gets its name and the reason, as half a
 * sentence ("it is a folder and not a file").
 */
export function readConfiguration(onProblem: (name: FileName, problem: string) => void = () => {}): Configuration {
  const read = (name: FileName) => {
    try {
      const bytes = readBytes(join(CONFIG_DIR, name))
      if (bytes.includes(0)) throw new Error('it is UTF-16 or binary; save it as UTF-8')
      return bytes.toString(encodingOf(bytes))
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException
      if (code !== 'ENOENT') onProblem(name, UNREADABLE[code] ?? messageOf(error))
      return ''
    }
  }
  return Object.fromEntries(FILES.map((name) => [name, read(name)])) as Record<FileName, string>
}

/** Bytes that are no UTF-8 (a comment in Latin-1) are to stay as they are. */
const encodingOf = (bytes: Buffer) => (isUtf8(bytes) ? 'utf8' : 'latin1')

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
export async function change(
  edit: (configuration: Configuration) => Configuration,
  prepared: () => Promise<void> = async () => {},
): Promise<{ before: Configuration; after: Configuration }> {
  return withLock(CONFIGURATION_LOCK, async () => {
    // The lock is held, so files of these names are what killed runs have left.
    const clear = () => {
      for (const name of FILES) fs.rmSync(temporaryOf(pathOf(name)), { force: true })
    }
    clear()
    const before = readConfiguration(refuse)
    const after = edit(before)
    const paths = inOrder(before, after).map((name) => [pathOf(name), after[name]] as const)
    try {
      // All of them first: a full disk is noticed before any file is replaced.
      for (const [path, text] of paths) prepare(path, text)
      await prepared()
      for (const [index, [path]] of paths.entries()) {
        attempt(
          path,
          () => fs.renameSync(temporaryOf(path), path),
          index > 0 ? 'The files before it are written.' : undefined,
        )
      }
    } finally {
      clear()
    }
    return { before, after }
  })
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
  return fs.existsSync(path) ? fs.realpathSync(path) : path
}

const temporaryOf = (path: string) => `${path}.tmp`

function attempt(path: string, work: () => void, consequence?: string): void {
  try {
    work()
  } catch (error) {
    throw unwritable(path, error, consequence)
  }
}

/** Writes a file's new text beside it, with its owner and mode, down to the disk. */
function prepare(path: string, text: string): void {
  attempt(path, () => {
    const old = fs.statSync(path, { throwIfNoEntry: false })
    // Whoever may write the folder could replace the file; its owner meant it all the same, for root too.
    if (old && !(old.mode & 0o222)) throw Object.assign(new Error('it is read-only'), { code: 'READONLY' })
    if (old) fs.accessSync(path, fs.constants.W_OK)
    const { uid, gid } = old ?? fs.statSync(dirname(path))
    const encoding = old ? encodingOf(fs.readFileSync(path)) : 'utf8'
    fs.writeFileSync(temporaryOf(path), text, { encoding, flag: 'wx', mode: 0o600, flush: true })
    fs.chownSync(temporaryOf(path), uid, gid)
    fs.chmodSync(temporaryOf(path), (old?.mode ?? (path.endsWith('postfix-accounts.cf') ? 0o600 : 0o644)) & 0o7777)
  })
}
