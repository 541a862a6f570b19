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
  const { exposure, report } = await import('./lib/inbox/service.ts')
  const { holderOf } = await import('./lib/server/ports.ts')

  const settings = readSettings()
  const { bindAddress, inboxPort } = settings
  if (inboxPort === 0) throw new Failure('usage', 'INBOX_PORT=0 turns the inbox off. Give it a port in .env.')
  const inbox = await serveInbox(settings, inboxPort).catch((error) => {
    if (error.code !== 'EADDRINUSE') throw error
    const holder = holderOf(inboxPort)
    const who = holder ? `${holder.name} (pid ${holder.pid})` : 'another process'
    throw new Failure(
      'failed',
      `Port ${inboxPort} (inbox) on ${bindAddress} is in use by ${who}. Stop that, or set INBOX_PORT to a free port in .env.`,
    )
  })
  io.print(inbox.url)
  const warning = exposure(settings)
  if (warning) io.say(warning)
  await Promise.race([
    report(inbox.url),
    new Promise((resolve) => {
      for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, resolve)
    }),
  ])
  inbox.close()
  return
}

await run(import.meta.url, main)
