/** npm stop: stops the mail server. Mail, queue and accounts stay. */
import { type ExitName, explainExitCodes, type Io, parse, run } from './lib/cli.ts'

const HELP = `Usage: npm stop

Stops the mail server and its inbox. Mail, queue and accounts stay; npm start finds them again. Waits for a start under way.

Exit codes:
${explainExitCodes('ok', 'failed', 'usage')}`

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  if (parse(args, {}).values.help) return void io.print(HELP)
  const { chooseEngine } = await import('./lib/server/choose.ts')
  const { readSettings } = await import('./lib/settings.ts')
  const { stopInbox } = await import('./lib/inbox/service.ts')
  const settings = readSettings()
  const engine = await chooseEngine(settings)
  // The engine first: where that takes root, so may the inbox.
  const stopped = await engine.stop()
  const inboxStopped = await stopInbox(settings)
  io.print(
    stopped
      ? 'The mail server is stopped. Its mail stays; start it again: npm start'
      : `The mail server was not running.${inboxStopped ? ' Its inbox was, and is stopped.' : ''}`,
  )
  return
}

await run(import.meta.url, main)
