/** The native engine's way to root: by sudo, where that asks no password. */
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Failure } from '../cli.ts'
import { NAMES, ROOT } from '../settings.ts'
import { $, foreground } from './shell.ts'

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
  const script = process.argv[1] ?? ''
  const words = process.argv.slice(2)
  const command = await bySudo(script, words, ['npx', 'tsx', relative(ROOT, script), ...words].join(' '))
  // Ctrl-C reaches sudo's script as well; this one waits for its end. A signal to this process alone is handed on by sudo.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {})
  process.exit(await foreground('sudo', command))
}

/** Has `npm start`, which brings a changed configuration into effect, do so as root. Throws a Failure where it cannot. */
export async function startAsRoot(): Promise<void> {
  const command = await bySudo(join(ROOT, 'scripts', 'start.ts'), [], 'npm start')
  const { exitCode, stderr } = await $({ timeout: 120_000 })`sudo ${command}`
  if (exitCode !== 0) throw new Failure('failed', stderr.trim())
}

/** A command with which this user's sudo runs a program of Postfix or Dovecot; the program itself for root. */
export async function asRoot(command: string[], typed: string): Promise<string[]> {
  if (isRoot) return command
  await assertSudo(typed)
  return ['sudo', '-n', ...command]
}

/** sudo's arguments for a script of this project; `typed` is what a user would type for the same. */
async function bySudo(script: string, args: string[], typed: string): Promise<string[]> {
  const environment = [...NAMES, ...KEPT]
    .filter((name) => process.env[name])
    .map((name) => `${name}=${process.env[name]}`)
  const settings = environment.filter((assignment) => NAMES.includes(assignment.split('=')[0] ?? ''))
  await assertSudo(['env', 'PATH="$PATH"', ...settings, typed].join(' '))
  const name = relative(join(ROOT, 'scripts'), script).replace(/\.[jt]s$/, '')
  return ['-n', 'env', ...environment, process.execPath, LAUNCH, name, ...args]
}

async function assertSudo(typed: string): Promise<void> {
  const { exitCode, stderr } = await $({ timeout: 10_000 })`sudo -n true`
  if (exitCode === 0) return
  const isMissing = /not found/.test(stderr)
  const way = isMissing ? `sudo is not installed. As root type: ${typed}` : `sudo wants a password. Type: sudo ${typed}`
  throw new Failure('failed', `The native engine needs root, and ${way}`)
}
