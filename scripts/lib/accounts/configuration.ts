/**
 * The files of the configuration folder that accounts concern, as one value: read once, changed in memory by pure
 * functions, written once. One writer at a time, and a file is the old one or the new one, whole, whatever happens.
 */
import {
  accessSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Failure, messageOf } from '../cli.ts'
import { CONFIG_DIR } from '../settings.ts'
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

export interface ConfigurationFile {
  /** Empty where the file is missing or has a problem. */
  text: string
  missing: boolean
  /** Why the file cannot be read, as half a sentence: "it is a folder and not a file". */
  problem?: string
  /** Bytes that are no UTF-8 (a comment in Latin-1) are kept as they are. */
  encoding: 'utf8' | 'latin1'
}

export type Configuration = Readonly<Record<FileName, ConfigurationFile>>

const PROBLEMS: Record<string, string> = {
  EISDIR: 'it is a folder and not a file',
  EACCES: 'this user may not read it',
  ENOTDIR: 'a part of its path is a file and not a folder',
  ELOOP: 'its symbolic links lead in a circle',
}

/** Reads all files. One that cannot be read says so and leaves the others alone. */
export function readConfiguration(): Configuration {
  return Object.fromEntries(FILES.map((name) => [name, readFile(join(CONFIG_DIR, name))])) as Record<
    FileName,
    ConfigurationFile
  >
}

function readFile(path: string): ConfigurationFile {
  const none = { text: '', missing: false, encoding: 'utf8' } as const
  try {
    const bytes = readFileSync(path)
    if (bytes.includes(0)) return { ...none, problem: 'it is UTF-16 or binary; save it as UTF-8' }
    const encoding = Buffer.from(bytes.toString('utf8')).equals(bytes) ? 'utf8' : 'latin1'
    return { text: bytes.toString(encoding), missing: false, encoding }
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return { ...none, missing: true }
    return { ...none, problem: PROBLEMS[code] ?? messageOf(error) }
  }
}

/** The configuration with another text in one of its files. */
export function withText(configuration: Configuration, name: FileName, text: string): Configuration {
  return { ...configuration, [name]: { ...configuration[name], text } }
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
    const before = readConfiguration()
    // The lock is held, so files of these names are what killed runs have left.
    for (const name of FILES) rmSync(temporaryOf(targetOf(join(CONFIG_DIR, name))), { force: true })
    const result = edit(before)
    const names = inOrder(before, result.configuration)
    const paths = names.map((name) => targetOf(join(CONFIG_DIR, name)))
    try {
      // All of them first: a full disk is noticed before any file is replaced.
      for (const [index, name] of names.entries()) prepare(paths[index] as string, result.configuration[name])
      await prepared()
      for (const [index, path] of paths.entries()) {
        try {
          replace(path)
        } catch (error) {
          const rest = index === 0 ? undefined : 'The files before it are written. Repeat this, then: npm run doctor'
          throw unwritable(path, error, rest)
        }
      }
    } finally {
      for (const path of paths) rmSync(temporaryOf(path), { force: true })
    }
    return result
  })
}

/** Throws what `change` would throw, as far as that shows without the lock, and changes nothing. */
export function check<T extends { configuration: Configuration }>(edit: (configuration: Configuration) => T): T {
  const before = readConfiguration()
  const result = edit(before)
  for (const name of inOrder(before, result.configuration)) assertWritable(targetOf(join(CONFIG_DIR, name)))
  return result
}

/** The changed files: what grows, the accounts, what shrinks. */
function inOrder(before: Configuration, after: Configuration): FileName[] {
  for (const name of FILES) {
    const { problem } = before[name]
    if (problem) throw new Failure('failed', `${shown(join(CONFIG_DIR, name))}: ${problem}. Nothing was changed.`)
  }
  const growth = (name: FileName) => after[name].text.length - before[name].text.length
  const changed = FILES.filter((name) => after[name].text !== before[name].text)
  const others = changed.filter((name) => name !== 'postfix-accounts.cf')
  return [
    ...others.filter((name) => growth(name) >= 0),
    ...changed.filter((name) => name === 'postfix-accounts.cf'),
    ...others.filter((name) => growth(name) < 0).reverse(),
  ]
}

/** The file behind a symbolic link, which stays one. */
function targetOf(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

function temporaryOf(path: string): string {
  return `${path}.tmp`
}

function assertWritable(path: string): void {
  try {
    const mode = statSync(path, { throwIfNoEntry: false })?.mode
    // root may write what is read-only; its owner meant it all the same.
    if (mode !== undefined && !(mode & 0o222)) {
      throw Object.assign(new Error('it is read-only'), { code: 'READONLY' })
    }
    if (mode !== undefined) accessSync(path, constants.W_OK)
    accessSync(dirname(path), constants.W_OK)
  } catch (error) {
    throw unwritable(path, error)
  }
}

/** Writes a file's new text beside it, with its owner and mode, down to the disk. */
function prepare(path: string, { text, encoding }: ConfigurationFile): void {
  const old = statSync(path, { throwIfNoEntry: false })
  assertWritable(path)
  try {
    const file = openSync(temporaryOf(path), 'wx', 0o600)
    try {
      writeFileSync(file, text, encoding)
      if (process.platform !== 'win32') {
        const { uid, gid } = old ?? statSync(dirname(path))
        const made = statSync(temporaryOf(path))
        if (made.uid !== uid || made.gid !== gid) fchownSync(file, uid, gid)
        fchmodSync(file, (old?.mode ?? (basename(path) === 'postfix-accounts.cf' ? 0o600 : 0o644)) & 0o7777)
      }
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
  } catch (error) {
    throw unwritable(path, error)
  }
}

/** Puts the prepared text in a file's place. */
function replace(path: string): void {
  try {
    renameSync(temporaryOf(path), path)
  } catch (error) {
    // A single file that is a mount of its own cannot be renamed over: it is written in place.
    if (!['EBUSY', 'EXDEV'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    const old = readFileSync(path)
    try {
      overwrite(path, readFileSync(temporaryOf(path)))
    } catch (failure) {
      overwrite(path, old)
      throw failure
    }
  }
  if (process.platform === 'win32') return
  // Makes the rename last beyond a power cut. Windows has no such call for folders.
  const folder = openSync(dirname(path), 'r')
  fsyncSync(folder)
  closeSync(folder)
}

function overwrite(path: string, bytes: Buffer): void {
  const file = openSync(path, 'r+')
  try {
    writeFileSync(file, bytes)
    ftruncateSync(file, bytes.length)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}
