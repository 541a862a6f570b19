/** npm stop: stops the mail server. Mail, queue and accounts stay. */
import { type ExitName, explainExitCodes, parse, print, run } from './lib/cli.ts'

const HELP = `Usage: npm stop

Stops the mail server. Mail, queue and accounts stay; npm start finds them again.

Exit codes:
${explainExitCodes('ok', 'failed', 'usage')}`

export async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(args, {})
  if (values.help) {
    print(HELP)
    return
  }
  const { chooseEngine } = await import('./lib/server/engine.ts')
  const { readSettings } = await import('./lib/settings.ts')
  const engine = await chooseEngine(readSettings())
  const stopped = await engine.stop()
  print(
    stopped
      ? 'The mail server is stopped. Its mail stays; start it again: npm start'
      : 'The mail server was not running.',
  )
}

await run(import.meta.url, main)
