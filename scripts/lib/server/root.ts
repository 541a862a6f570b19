/** The native engine's way to root: by sudo, where that asks no password. */
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Failure } from '../cli.ts'
import { NAMES, ROOT } from '../settings.ts'
import { $, foreground, quote } from './shell.ts'

/** Beside the settings, variables that a run by sudo has to keep. */
const KEPT = ['PATH', 'CI', 'NO_COLOR', 'TERM', 'COLUMNS', 'INIT_CWD']
const LAUNCH = join(dirname(dirname(fileURLToPath(import.meta.url))), 'launch.mjs')

export const isRoot = process.getuid?.() === 0

/**
 * Postfix's and Dovecot's masters need root. As another user this runs the whole script again by sudo and ends with its
 * exit code. Throws a Failure with the command to type where sudo asks for a password or is not there.
 */
export async function becomeRoot(): Promise<void> {
  if (isRoot) return
  const command = await bySudo(ownName(), process.argv.slice(2))
  // Ctrl-C reaches sudo's script as well; this one waits for its end. A signal to this process alone is handed on by sudo.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {})
  process.exit(await foreground('sudo', command))
}

/** Throws a Failure, with what to type and without `secret`, where `startAsRoot` could not do its work. */
export async function assertRootInReach(secret?: string): Promise<void> {
  const args = process.argv.slice(2).filter((arg) => arg !== secret)
  if (!isRoot) await bySudo(ownName(), args)
}

/** Has `npm start`, which brings a changed configuration into effect, do so as root. Throws a Failure where it cannot. */
export async function startAsRoot(): Promise<void> {
  const { exitCode, stderr } = await $({ timeout: 120_000 })`sudo ${await bySudo('start', [])}`
  if (exitCode !== 0) throw new Failure('failed', stderr.trim())
}

const ownName = () => relative(join(ROOT, 'scripts'), process.argv[1] ?? '').replace(/\.[jt]s$/, '')

/**
 * sudo's arguments for a script of this project, with this user's settings. Throws a Failure, with what to type instead,
 * where sudo asks for a password or is not there.
 */
async function bySudo(name: string, args: string[]): Promise<string[]> {
  const assignments = (names: readonly string[]) =>
    names.filter((variable) => process.env[variable]).map((variable) => `${variable}=${process.env[variable]}`)
  const { exitCode, stderr } = await $({ timeout: 10_000 })`sudo -n true`
  if (exitCode === 0) return ['-n', 'env', ...assignments([...NAMES, ...KEPT]), process.execPath, LAUNCH, name, ...args]
  const words = [...assignments(NAMES), 'npx', 'tsx', `scripts/${name}.ts`, ...args]
  const typed = ['env', 'PATH="$PATH"', ...words.map(quote)]
  const command = typed.join(' ')
  const isMissing = /not found/.test(stderr)
  const way = isMissing
    ? `sudo is not installed. As root type: ${command}`
    : `sudo wants a password. Type: sudo ${command}`
  throw new Failure('failed', `The native engine needs root, and ${way}`)
}
