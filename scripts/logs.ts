/** npm run logs: the mail log, as it comes. */
import { type ExitName, explainExitCodes, Failure, type Io, parse, run } from './lib/cli.ts'

/** Lines that are shown before what comes. */
const CONTEXT = 20

const HELP = `Usage: npm run logs [-- --lines N]

Shows the log of Postfix and Dovecot: the last ${CONTEXT} lines and what comes, until Ctrl-C.

  --lines N     only the last N lines

Exit codes:
${explainExitCodes('ok', 'failed', 'usage')}`

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values } = parse(args, { lines: { type: 'string' } })
  if (values.help) return void io.print(HELP)
  const follow = values.lines === undefined
  if (!follow && !/^\d{1,9}$/.test(String(values.lines))) {
    throw new Failure('usage', `--lines ${values.lines}: not a number of lines. Write for example: --lines 50`)
  }
  const { chooseEngine } = await import('./lib/server/choose.ts')
  const { readSettings } = await import('./lib/settings.ts')
  const engine = await chooseEngine(readSettings())
  // Ctrl-C goes to the program that shows the log as well; this one lives on to end with 0.
  process.on('SIGINT', () => {})
  await engine.logs({ lines: follow ? CONTEXT : Number(values.lines), follow })
  return
}

await run(import.meta.url, main)
