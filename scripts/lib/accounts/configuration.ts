/**
 * The files of the configuration folder that accounts concern, as one value: read once, changed in memory by pure
 * functions, written once. One writer at a time, and a file is the old one or the new one, whole, whatever happens.
 */
import { isUtf8 } from 'node:buffer'
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
      return textOf(bytes)
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException
      if (code !== 'ENOENT') onProblem(name, UNREADABLE[code] ?? messageOf(error))
      return ''
    }
  }
  return Object.fromEntries(FILES.map((name) => [name, read(name)])) as Record<FileName, string>
}

/** A file's text for `replaceFiles`. Bytes that are no UTF-8 (a comment in Latin-1) are to stay as they are. */
export const textOf = (bytes: Buffer) => bytes.toString(encodingOf(bytes))
const encodingOf = (bytes: Buffer) => (isUtf8(bytes) ? 'utf8' : 'latin1')

/** Refuses a configuration of which a file cannot be read: `readConfiguration(refuse)`. */
export function refuse(name: FileName, problem: string): never {
  throw new Failure('failed', `${relative(process.cwd(), join(CONFIG_DIR, name))}: ${problem}. Nothing was changed.`)
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
    for (const name of FILES) fs.rmSync(temporaryOf(realOf(join(CONFIG_DIR, name))), { force: true })
    const before = readConfiguration(refuse)
    const after = edit(before)
    const changed = FILES.filter((name) => after[name] !== before[name])
    const shrinks = (name: FileName) => name !== 'postfix-accounts.cf' && after[name].length < before[name].length
    const inOrder = [...changed.filter((name) => !shrinks(name)), ...changed.filter(shrinks).reverse()]
    const texts = inOrder.map((name): [string, string] => [join(CONFIG_DIR, name), after[name]])
    await replaceFiles(texts, prepared)
    return { before, after }
  })
}

/**
 * Writes files whole, one after the other, under a lock that the caller holds. `prepared` runs when all new texts are on
 * the disk: a full one is noticed before any file is replaced. Throws a Failure, with all files as they were, when one
 * cannot be written.
 */
export async function replaceFiles(texts: [path: string, text: string][], prepared = async () => {}): Promise<void> {
  const files = texts.map(([path, text]) => [realOf(path), text] as const)
  try {
    for (const [path, text] of files) attempt(path, 'Nothing was changed.', () => prepare(path, text))
    await prepared()
    for (const [path] of files) {
      attempt(path, 'What was to be written before it is.', () => fs.renameSync(temporaryOf(path), path))
    }
  } finally {
    for (const [path] of files) fs.rmSync(temporaryOf(path), { force: true })
  }
}

/** The file behind a symbolic link, which stays one. */
const realOf = (path: string) => (fs.existsSync(path) ? fs.realpathSync(path) : path)

const temporaryOf = (path: string) => `${path}.tmp`

function attempt(path: string, consequence: string, work: () => void): void {
  try {
    work()
  } catch (error) {
    throw unwritable(path, error, consequence)
  }
}

/** Writes a file's new text beside it, with its owner and mode, down to the disk. */
function prepare(path: string, text: string): void {
  const old = fs.statSync(path, { throwIfNoEntry: false })
  // Whoever may write the folder could replace the file; its owner meant it all the same, for root too.
  if (old && !(old.mode & 0o222)) throw Object.assign(new Error('it is read-only'), { code: 'READONLY' })
  if (old) fs.accessSync(path, fs.constants.W_OK)
  const { uid, gid } = old ?? fs.statSync(dirname(path))
  const mode = old?.mode ?? (path.endsWith('postfix-accounts.cf') ? 0o600 : 0o644)
  const encoding = old ? encodingOf(fs.readFileSync(path)) : 'utf8'
  fs.writeFileSync(temporaryOf(path), text, { encoding, mode: 0o600, flush: true })
  fs.chownSync(temporaryOf(path), uid, gid)
  fs.chmodSync(temporaryOf(path), mode & 0o7777)
}
