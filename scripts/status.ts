/** npm run status: the engine, versions, ports, certificate, accounts with their messages, the queue. */
import { type ExitName, explainExitCodes, Failure, type Io, parse, run, table } from './lib/cli.ts'

const HELP = `Usage: npm run status [-- --json]

Shows the engine, the versions, the ports, every account with its messages, and the queue's length.

  --json        the same as one JSON object:
                {running, engine, versions: {postfix, dovecot}, bindAddress,
                ports: {smtp, ...}, inbox: URL, certificate, accounts: [{address, inbox,
                otherFolders}], queue}; null for what cannot be told.
                npm prints lines of its own: npm run -s status -- --json

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'connection')}
  Not running, or only half of it, is exit code 1.`

/** Milliseconds for all mailboxes to be counted. */
const PATIENCE = 6_000

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values } = parse(args, { json: { type: 'boolean' } })
  if (values.help) {
    io.print(HELP)
    return
  }
  const { chooseEngine } = await import('./lib/server/choose.ts')
  const { enabledProtocols, portRows, readSettings } = await import('./lib/settings.ts')
  const { readAccounts } = await import('./lib/accounts/accounts.ts')
  const { countMessages } = await import('./lib/server/mailboxes.ts')
  const { runningInbox } = await import('./lib/inbox/service.ts')
  const { silentProtocols } = await import('./lib/server/proof.ts')

  const settings = readSettings()
  const { bindAddress, ports } = settings
  const engine = await chooseEngine(settings)
  const half = await engine.half()
  if (half || !(await engine.isRunning())) {
    const fact = half ? `${half} Mend it: npm start` : 'The mail server is not running. Start it: npm start'
    io.print(values.json ? JSON.stringify({ running: false, engine: engine.name, half: half ?? null }) : fact)
    return 'failed'
  }
  const silent = await silentProtocols(settings)
  if (silent.length > 0) {
    throw new Failure(
      'connection',
      `The mail server runs (engine: ${engine.name}) and does not answer: ${silent.join(', ')}. ` +
        'See: npm run doctor. Start it anew: npm stop && npm start',
    )
  }
  const { pop3, imap } = enabledProtocols()
  const ask = async (...command: string[]) => (await engine.exec(command, { timeout: PATIENCE })).stdout.trim()
  const [postfix, dovecot, queue, counts] = await Promise.all([
    ask('postconf', '-h', 'mail_version'),
    ask('dovecot', '--version'),
    // Only root may look into the queue; without sudo it stays unknown.
    ask('postqueue', '-j').catch(() => undefined),
    Promise.all(
      readAccounts().map(async ({ address }) => {
        const unknown = { inbox: null, otherFolders: null }
        return { address, ...(pop3 || imap ? await countMessages(settings, address, PATIENCE) : unknown) }
      }),
    ),
  ])
  const versions = { postfix, dovecot: dovecot.split(' ')[0] }
  const queued = queue === undefined ? null : queue.split('\n').filter((line) => line !== '').length
  const certificate = engine.certificate() ?? null
  const inbox = runningInbox(settings)?.url ?? null
  if (values.json) {
    const server = { running: true, engine: engine.name, versions, bindAddress, ports, inbox, certificate }
    io.print(JSON.stringify({ ...server, accounts: counts, queue: queued }))
    return
  }
  const cell = (number: number | null) => String(number ?? '-')
  const accounts = counts.map(({ address, inbox, otherFolders }) => [address, cell(inbox), cell(otherFolders)])
  io.print(`The mail server runs (engine: ${engine.name}, Postfix ${postfix}, Dovecot ${versions.dovecot}).`)
  io.print()
  const page = inbox ? [[inbox, 'Inbox', 'none']] : []
  const rows = [['Port', 'Protocol', 'TLS'], ...portRows(settings), ...page]
  io.print(table([...rows, [], ['Account', 'INBOX', 'Other folders'], ...accounts]))
  io.print()
  if (certificate) io.print(`Certificate to trust: ${certificate}`)
  const messages = `${queued} message${queued === 1 ? '' : 's'}`
  io.print(`Queue: ${queued === null ? 'unknown; only root may look into it' : queued === 0 ? 'empty' : messages}`)
  return
}

await run(import.meta.url, main)
