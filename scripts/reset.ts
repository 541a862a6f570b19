/** npm run reset: empties every mailbox and the queue. The accounts stay. */
import { question } from 'zx'
import { type ExitName, explainExitCodes, Failure, parse, print, run, step } from './lib/cli.ts'

const HELP = `Usage: npm run reset [-- --yes]

Deletes all mail: every message of every account in all folders, and the queue. The accounts stay.

  --yes         do not ask; needed where no terminal is there to ask on

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'connection')}`

export async function main(args: string[]): Promise<ExitName | undefined> {
  const options = { help: { type: 'boolean', short: 'h' }, yes: { type: 'boolean', short: 'y' } } as const
  const { values } = parse(args, options)
  if (values.help) {
    print(HELP)
    return
  }
  const { runningEngine } = await import('./lib/server/engine.ts')
  const { readSettings } = await import('./lib/settings.ts')
  const { readAccounts } = await import('./lib/accounts/accounts.ts')
  const { emptyMailbox } = await import('./lib/server/mailboxes.ts')

  const settings = readSettings()
  const engine = await runningEngine(settings)
  const accounts = readAccounts()
  if (!values.yes) {
    if (!process.stdin.isTTY)
      throw new Failure('usage', 'No terminal to ask on. To delete all mail: npm run reset -- --yes')
    const answer = await question(`Delete all mail of ${accounts.length} accounts and the queue? [y/N] `)
    if (!/^y(es)?$/i.test(answer.trim())) {
      print('Nothing was deleted.')
      return 'failed'
    }
  }
  // The queue first: what it delivers meanwhile is in the mailboxes when they are emptied.
  const purged = await engine.exec(['postsuper', '-d', 'ALL'])
  if (purged.exitCode !== 0) throw new Failure('failed', `The queue could not be emptied: ${purged.stderr.trim()}`)
  const queued = Number(/Deleted: (\d+) message/.exec(purged.stderr)?.[1] ?? 0)
  let deleted = 0
  await step('Emptying the mailboxes', async (update) => {
    for (const { address } of accounts) {
      update(`Emptying ${address}`)
      deleted += await emptyMailbox(settings, address)
    }
  })
  print(`Deleted: ${deleted} messages in ${accounts.length} mailboxes, ${queued} in the queue. The accounts stay.`)
}

await run(import.meta.url, main)
