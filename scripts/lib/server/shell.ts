/** Runs other programs by zx: quiet, without stdin, by a shell that reads no start-up file. */
import { type SpawnOptions, spawn } from 'node:child_process'
// Without zx's extras, which take as long to load as the rest of a short script.
import { usePowerShell, $ as zx } from 'zx/core'

// Windows may lack bash, which zx asks for; PowerShell is always there and zx quotes for it.
if (process.platform === 'win32') usePowerShell()
// bash would read ~/.bashrc for a command whose stdin is a socket where SHLVL is not set; sh reads nothing.
// "exec": the program comes in the shell's place, so that a kill reaches it, and no second process.
else Object.assign(zx, { shell: '/bin/sh', prefix: 'exec ', postfix: '', quote })

/** A word for a POSIX shell; zx's own quoting is bash's. */
export function quote(word: string): string {
  return /^[\w/.:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}

/** A program that ends before it has read its stdin, or is not there at all, has that right. */
const spawnPatiently = ((program: string, args: string[], options: SpawnOptions) => {
  const child = spawn(program, args, options)
  child.stdin?.on('error', () => {})
  return child
}) as typeof spawn

/** Postfix's and Dovecot's programs lie where only root's PATH leads on some machines. */
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`

/**
 * zx's `$`: not throwing, so look at `exitCode`. With a `timeout` in milliseconds the program is killed, for one that hangs
 * may not listen to a milder signal; its exit code is null then.
 */
export const $ = zx({
  quiet: true,
  nothrow: true,
  spawn: spawnPatiently,
  timeoutSignal: 'SIGKILL',
  stdio: ['ignore', 'pipe', 'pipe'],
  ...(process.platform === 'win32' ? {} : { env: { ...process.env, PATH } }),
})

/** zx's options that give a program `text` on its stdin. */
export function input(text: string): { input: string; stdio: ['pipe', 'pipe', 'pipe'] } {
  return { input: text, stdio: ['pipe', 'pipe', 'pipe'] }
}

/** Runs a program with these streams to its end; gives its exit code, 1 where a signal ended it. */
export function foreground(program: string, args: string[], options: SpawnOptions = {}): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: 'inherit', ...options })
    child.once('error', reject).once('close', (code) => resolve(code ?? 1))
  })
}
