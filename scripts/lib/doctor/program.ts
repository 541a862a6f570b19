/** Runs programs of this machine. */
import { execFile } from 'node:child_process'
import type { ExecResult } from '../server/engine.ts'
import { ROOT } from '../settings.ts'

/** Milliseconds for one question to a program. */
export const ANSWER = 10_000

/**
 * Runs a program of this machine, without a shell; also one that lies where only root's PATH leads. 127 where there is none, as
 * in a shell; null where it took too long.
 */
export function program(
  [name = '', ...args]: string[],
  { input = '', timeout = ANSWER, env = process.env } = {},
): Promise<ExecResult> {
  return new Promise((resolve) => {
    const options = {
      cwd: ROOT,
      timeout,
      killSignal: 'SIGKILL',
      maxBuffer: 1e8,
      env: { ...env, PATH: `${env.PATH}:/usr/sbin:/sbin` },
    } as const
    const child = execFile(name, args, options, (error, stdout, stderr) => {
      const exitCode = child.exitCode ?? (error?.code === 'ENOENT' ? 127 : null)
      resolve({ exitCode, stdout, stderr: exitCode === 127 ? `${name}: command not found` : stderr })
    })
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
  })
}
