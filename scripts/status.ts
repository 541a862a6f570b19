/** npm run status: the engine, versions, ports, certificate, accounts with their messages, the queue. */
import { type ExitName, explainExitCodes, Failure, type Io, messageOf, parse, run, table } from './lib/cli.ts'

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
  if (values.help) return void io.print(HELP)
  const { chooseEngine, whyNotRunning } = await import('./lib/server/choose.ts')
  const { enabledProtocols, isSmtpOnly, portRows, readSettings } = await import('./lib/settings.ts')
  const { readAccounts } = await import('./lib/accounts/accounts.ts')
  const { isRoot } = await import('./lib/server/root.ts')
  const { usageOf } = await import('./lib/server/mailboxes.ts')
  const { runningInbox } = await import('./lib/inbox/service.ts')
  const { silentProtocols } = await import('./lib/server/proof.ts')

  const settings = readSettings()
  const { bindAddress, ports } = settings
  const engine = await chooseEngine(settings)
  const down = await whyNotRunning(engine)
  if (down) {
    const { half = null, fact } = down
    io.print(values.json ? JSON.stringify({ running: false, engine: engine.name, half }) : fact)
    return 'failed'
  }
  const silent = await silentProtocols(settings)
  if (silent.length > 0) {
    const fact = `The mail server runs (engine: ${engine.name}) and does not answer: ${silent.join(', ')}`
    throw new Failure('connection', `${fact}. See: npm run doctor. Start it anew: npm stop && npm start`)
  }
  const { pop3, imap } = enabledProtocols()
  let exit: ExitName = 'ok'
  const countOf = async (address: string) => {
    const asked = pop3 || imap ? usageOf(settings, address, PATIENCE) : undefined
    // One that the server does not know yet, for instance, keeps nobody from the rest.
    const usage = await asked?.catch((error) => {
      io.say(messageOf(error))
      exit = 'connection'
    })
    return { address, inbox: usage?.inbox ?? null, otherFolders: usage?.otherFolders ?? null }
  }
  const ask = async (...command: string[]) => {
    const { exitCode, stdout } = await engine.exec(command, { timeout: PATIENCE })
    return exitCode === 0 ? stdout.trim() : null
  }
  const [postfix, dovecot, queue, accounts] = await Promise.all([
    ask('postconf', '-h', 'mail_version'),
    ask('dovecot', '--version'),
    ask('postqueue', '-j'),
    Promise.all(readAccounts().map(({ address }) => countOf(address))),
  ])
  const versions = { postfix, dovecot: dovecot?.split(' ')[0] ?? null }
  const queued = queue?.split('\n').filter(Boolean).length ?? null
  const certificate = engine.certificate() ?? null
  const inbox = runningInbox(settings)?.url ?? null
  if (values.json) {
    const server = { running: true, engine: engine.name, versions, bindAddress, ports, inbox, certificate }
    io.print(JSON.stringify({ ...server, accounts, queue: queued }))
    return exit
  }
  io.print(
    `The mail server runs (engine: ${engine.name}, Postfix ${postfix ?? '?'}, Dovecot ${versions.dovecot ?? '?'}).\n`,
  )
  const page = inbox ? [[inbox, 'Inbox', 'none']] : []
  const cells = accounts.map(({ address, inbox, otherFolders }) => [
    address,
    `${inbox ?? '-'}`,
    `${otherFolders ?? '-'}`,
  ])
  const mailboxes = isSmtpOnly() ? [] : [[], ['Account', 'INBOX', 'Other folders'], ...cells]
  io.print(`${table([['Port', 'Protocol', 'TLS'], ...portRows(settings), ...page, ...mailboxes])}\n`)
  if (isSmtpOnly()) io.print('No mailboxes and no logins: SMTP_ONLY=1 in development-mail-server.env')
  if (certificate) io.print(`Certificate to trust: ${certificate}`)
  const messages = queued === 0 ? 'empty' : `${queued} message${queued === 1 ? '' : 's'}`
  const unknown = isRoot ? 'Postfix does not say' : 'only root may look into it'
  io.print(`Queue: ${queued === null ? `unknown; ${unknown}` : messages}`)
  return exit
}

await run(import.meta.url, main)
