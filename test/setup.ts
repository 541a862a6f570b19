/** Before the tests: what all test files need, so that none waits for another's apt or compiler. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type ExitName, run, say } from '../scripts/lib/cli.ts'
import { installPackages } from '../scripts/lib/server/packages.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import { COMPILED } from './harness.ts'

async function main(): Promise<ExitName | undefined> {
  if (process.getuid?.() !== 0) {
    say('The tests run Postfix and Dovecot of their own, which needs root: sudo npm test')
    return 'failed'
  }
  await installPackages()
  if (!existsSync(COMPILED)) compile()
  return 'ok'
}

/** Strips the types; nothing else of the scripts changes. */
function compile(): void {
  rmSync(dirname(COMPILED), { recursive: true, force: true })
  mkdirSync(dirname(COMPILED), { recursive: true })
  const out = mkdtempSync(join(dirname(COMPILED), 'new-'))
  const emit = [
    '--noCheck',
    '--noEmit',
    'false',
    '--allowImportingTsExtensions',
    'false',
    '--rewriteRelativeImportExtensions',
  ]
  execFileSync(join(ROOT, 'node_modules', '.bin', 'tsc'), [...emit, '--outDir', out], { cwd: ROOT, stdio: 'inherit' })
  renameSync(join(out, 'scripts'), COMPILED)
  rmSync(out, { recursive: true })
}

await run(import.meta.url, main)
