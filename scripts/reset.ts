/** npm run reset: empties every mailbox and the queue. The accounts stay. */
import { type ExitName, explainExitCodes, Failure, type Io, parse, run, step } from './lib/cli.ts'

const HELP = `Usage: npm run reset [-- --yes]

Deletes all mail: every message of every account in all folders, and the queue. The accounts stay.

  -y, --yes     do not ask; needed where no terminal is there to ask on

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'connection', 'interrupted')}`

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values } = parse(args, { yes: { type: 'boolean', short: 'y' } })
  if (values.help) return void io.print(HELP)
  const { chooseEngine, whyNotRunning } = await import('./lib/server/choose.ts')
  const { isSmtpOnly, readSettings } = await import('./lib/settings.ts')
  const { readAccounts } = await import('./lib/accounts/accounts.ts')
  const { assertTakesChanges, emptyMailbox } = await import('./lib/server/mailboxes.ts')
  const { ask } = await import('./lib/accounts/prompts.ts')

  const settings = readSettings()
  const engine = await chooseEngine(settings)
  const down = await whyNotRunning(engine)
  if (down) throw new Failure('failed', down.fact)
  if (engine.name === 'native') await (await import('./lib/server/root.ts')).becomeRoot()
  await assertTakesChanges(settings, { engine, running: true })
  const accounts = isSmtpOnly() ? [] : readAccounts()
  if (!values.yes) {
    const question = `Delete all mail of ${accounts.length} accounts and the queue? [y/N] `
    const answer = await ask(io, question, 'To delete all mail: npm run reset -- --yes')
    if (!/^y(es)?$/i.test(answer.trim())) {
      io.print('Nothing was deleted.')
      return 'failed'
    }
  }
  // The queue first: what it delivers meanwhile is in the mailboxes when they are emptied.
  const purged = await engine.exec(['postsuper', '-d', 'ALL'])
  if (purged.exitCode !== 0) {
    throw new Failure('failed', `The queue could not be emptied: ${purged.stderr.trim()}. See: npm run doctor`)
  }
  const queued = Number(/Deleted: (\d+) message/.exec(purged.stderr)?.[1] ?? 0)
  let deleted = 0
  await step('Emptying the mailboxes', async () => {
    for (const { address } of accounts) deleted += await emptyMailbox(settings, address)
  })
  io.print(
    `Deleted: ${deleted} ${deleted === 1 ? 'message' : 'messages'} in ${accounts.length} mailboxes, ${queued} in the queue. The accounts stay.`,
  )
  return
}

await run(import.meta.url, main)
