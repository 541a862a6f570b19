/** npm run status: the engine, versions, ports, accounts with their messages, the queue. */
import { type ExitName, explainExitCodes, parse, print, run, table } from './lib/cli.ts'

const HELP = `Usage: npm run status [-- --json]

Shows the engine, the versions, the ports, every account with its messages, and the queue's length.

  --json        the same as one JSON object:
                {running, engine, versions: {postfix, dovecot}, bindAddress, ports: {smtp, ...},
                accounts: [{address, inbox, otherFolders}], queue}

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'connection')}
  Not running is exit code 1.`

export async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(args, { json: { type: 'boolean' } })
  if (values.help) {
    print(HELP)
    return
  }
  const { chooseEngine } = await import('./lib/server/engine.ts')
  const { enabledProtocols, portRows, readSettings } = await import('./lib/settings.ts')
  const { readAccounts } = await import('./lib/accounts/accounts.ts')
  const { countMessages } = await import('./lib/server/mailboxes.ts')

  const settings = readSettings()
  const { bindAddress, ports } = settings
  const engine = await chooseEngine(settings)
  if (!(await engine.isRunning())) {
    print(
      values.json
        ? JSON.stringify({ running: false, engine: engine.name })
        : 'The mail server is not running. Start it: npm start',
    )
    return 'failed'
  }
  const { pop3, imap } = enabledProtocols()
  const ask = async (...command: string[]) => (await engine.exec(command)).stdout.trim()
  const [postfix, dovecot, queue] = await Promise.all([
    ask('postconf', '-h', 'mail_version'),
    ask('dovecot', '--version'),
    ask('postqueue', '-j'),
  ])
  const accounts = []
  for (const { address } of readAccounts()) {
    const counts = pop3 || imap ? await countMessages(settings, address) : { inbox: null, otherFolders: null }
    accounts.push({ address, ...counts })
  }
  const queued = queue.split('\n').filter((line) => line !== '').length
  if (values.json) {
    const versions = { postfix, dovecot: dovecot.split(' ')[0] }
    print(JSON.stringify({ running: true, engine: engine.name, versions, bindAddress, ports, accounts, queue: queued }))
    return
  }
  print(`The mail server runs (engine: ${engine.name}, Postfix ${postfix}, Dovecot ${dovecot.split(' ')[0]}).`)
  print()
  print(
    table([
      ['Port', 'Protocol', 'TLS'],
      ...portRows(settings),
      [],
      ['Account', 'INBOX', 'Other folders'],
      ...accounts.map(({ address, inbox, otherFolders }) => [
        address,
        String(inbox ?? '-'),
        String(otherFolders ?? '-'),
      ]),
    ]),
  )
  print()
  print(`Queue: ${queued === 0 ? 'empty' : `${queued} message${queued > 1 ? 's' : ''}`}`)
}

await run(import.meta.url, main)
