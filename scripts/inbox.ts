/** npm run inbox: the inbox in the foreground, a page and Mailpit's API over all mailboxes. Ctrl-C ends it. */
import { type ExitName, explainExitCodes, Failure, type Io, parse, run } from './lib/cli.ts'

const HELP = `Usage: npm run inbox

Shows all mail on a page and answers Mailpit's API, until Ctrl-C. npm start does the same in the background.
The port is INBOX_PORT in .env (8025; 0 turns it off), the address BIND_ADDRESS.

Exit codes:
${explainExitCodes('ok', 'failed', 'usage')}`

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values } = parse(args, {})
  if (values.help) {
    io.print(HELP)
    return
  }
  const { readSettings } = await import('./lib/settings.ts')
  const { serveInbox } = await import('./lib/inbox/http.ts')
  const { assertInboxPortFree, exposure, runningInbox } = await import('./lib/inbox/service.ts')

  const settings = readSettings()
  const { inboxPort } = settings
  if (inboxPort === 0) throw new Failure('usage', 'INBOX_PORT=0 turns the inbox off. Give it a port in .env.')
  const running = runningInbox(settings)
  // The one in the background comes here, too.
  if (running && running.pid !== process.pid) {
    throw new Failure('failed', `The inbox runs already: ${running.url} It ends with the server: npm stop`)
  }
  await assertInboxPortFree(settings)
  // Whoever reads the URL may end it at once.
  const ended = new Promise((resolve) => {
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, resolve)
  })
  const inbox = await serveInbox(settings, inboxPort)
  io.print(inbox.url)
  const warning = exposure(settings)
  if (warning) io.say(warning)
  await ended
  inbox.close()
  return
}

await run(import.meta.url, main)
