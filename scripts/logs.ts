/** npm run logs: shows the mail log and follows it. */
import { type ExitName, explainExitCodes, Failure, parse, print, run } from './lib/cli.ts'

const HELP = `Usage: npm run logs [-- --lines N]

Shows the mail log and follows it until Ctrl-C.

  --lines N     the last N lines, without following

Exit codes:
${explainExitCodes('ok', 'failed', 'usage')}`

/** Lines to begin with when the log is followed. */
const CONTEXT = 20

export async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(args, { lines: { type: 'string' } })
  if (values.help) {
    print(HELP)
    return
  }
  if (values.lines !== undefined && !/^\d{1,9}$/.test(values.lines)) {
    throw new Failure('usage', `--lines ${values.lines}: not a number of lines.`)
  }
  const { chooseEngine } = await import('./lib/server/engine.ts')
  const { readSettings } = await import('./lib/settings.ts')
  const engine = await chooseEngine(readSettings())
  const follow = values.lines === undefined
  // Ctrl-C goes to the program that shows the log as well; this one lives on to end with 0.
  process.on('SIGINT', () => {})
  await engine.logs({ lines: follow ? CONTEXT : Number(values.lines), follow })
}

await run(import.meta.url, main)
