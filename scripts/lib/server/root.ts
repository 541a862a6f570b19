/** The native engine's way to root: by sudo, where that asks no password. */
import { type ChildProcess, spawn } from 'node:child_process'
import { join, relative } from 'node:path'
import { Failure } from '../cli.ts'
import { ROOT, SERVICES } from '../settings.ts'
import { $ } from './shell.ts'

/** Variables that a run by sudo has to keep. */
const KEPT = [
  'BIND_ADDRESS',
  'MAIL_SERVER_ENGINE',
  'MAIL_SERVER_STATE_DIR',
  'DMS_VERSION',
  'PATH',
  'CI',
  'NO_COLOR',
  'TERM',
]

/**
 * Postfix's and Dovecot's masters need root. As another user this runs the whole script again by sudo where that asks
 * no password and ends with its exit code; else it throws a Failure with the command to type.
 */
export async function becomeRoot(): Promise<void> {
  if (process.getuid?.() === 0) return
  again ??= runAgain()
  await again
}

/** The one run by sudo, though several callers may ask for it at once. */
let again: Promise<never> | undefined

async function runAgain(): Promise<never> {
  const typed = ['npx', 'tsx', relative(ROOT, process.argv[1] ?? ''), ...process.argv.slice(2)].join(' ')
  const child = await sudo(process.argv.slice(1), typed, 'inherit')
  process.exit(await exitOf(child))
}

/**
 * Has `npm start`, which brings a changed configuration into effect, do so as root, without a word. Throws a Failure
 * with the command to type when it cannot.
 */
export async function startAsRoot(): Promise<void> {
  const child = await sudo([join(ROOT, 'scripts', 'start.ts')], 'npm start', 'pipe')
  let talk = ''
  child.stdout?.resume()
  child.stderr?.on('data', (chunk) => {
    talk += chunk
  })
  if ((await exitOf(child)) !== 0) throw new Failure('failed', talk.trim())
}

/** Runs a script by sudo; `typed` is what a user would type for the same. */
async function sudo(script: string[], typed: string, stdio: 'inherit' | 'pipe'): Promise<ChildProcess> {
  const names = [...KEPT, ...Object.values(SERVICES).map(({ variable }) => variable)]
  const environment = names.filter((name) => process.env[name]).map((name) => `${name}=${process.env[name]}`)
  const allowed = await $`sudo -n true`.catch(() => ({ exitCode: 1 }))
  if (allowed.exitCode !== 0) {
    const settings = environment.filter((assignment) => !/^(PATH|CI|TERM|NO_COLOR)=/.test(assignment))
    const command = ['env', 'PATH="$PATH"', ...settings, typed].join(' ')
    throw new Failure('failed', `The native engine needs root, and sudo wants a password. Type: sudo ${command}`)
  }
  const command = ['-n', 'env', ...environment, process.execPath, ...process.execArgv, ...script]
  return spawn('sudo', command, { stdio: stdio === 'pipe' ? ['ignore', 'pipe', 'pipe'] : stdio })
}

function exitOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', reject).once('close', (exit) => resolve(exit ?? 1))
  })
}
