/** Runs other programs by zx, with the defaults that fit this project: quiet, no stdin, and PowerShell on Windows. */
import { usePowerShell, $ as zx } from 'zx'

// zx wants bash, which Windows may lack; PowerShell is always there and zx quotes for it.
if (process.platform === 'win32') usePowerShell()

/**
 * zx's `$`: quiet, without stdin, and not throwing: look at `exitCode`. With a `timeout` the program is killed, for one
 * that hangs may not listen to a milder signal.
 */
export const $ = zx({ quiet: true, nothrow: true, timeoutSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'pipe'] })

/** zx's options that give a program `text` on its stdin. */
export function input(text: string): { input: string; stdio: ['pipe', 'pipe', 'pipe'] } {
  return { input: text, stdio: ['pipe', 'pipe', 'pipe'] }
}
