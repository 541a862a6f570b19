/** Runs other programs by zx, with the defaults that fit this project: quiet, no stdin, and PowerShell on Windows. */
import { usePowerShell, $ as zx } from 'zx'

// zx wants bash, which Windows may lack; PowerShell is always there and zx quotes for it.
if (process.platform === 'win32') usePowerShell()

/** zx's `$`: quiet, without stdin, and not throwing: look at `exitCode`. */
export const $ = zx({ quiet: true, nothrow: true, stdio: ['ignore', 'pipe', 'pipe'] })
