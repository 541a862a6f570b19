/**
 * npm start: brings the mail server up, proves by one mail that it works, and says where it listens. Run again, it
 * brings a changed configuration into effect.
 */
import { BAR, FOO, knownPassword, readAccounts } from './lib/accounts/accounts.ts'
import {
  type ExitName,
  explainExitCodes,
  Failure,
  messageOf,
  parse,
  print,
  run,
  say,
  step,
  style,
  table,
} from './lib/cli.ts'

const HELP = `Usage: npm start

Starts the mail server, or brings changes of its configuration into effect, and proves it by one mail.
Settings: .env (see .env.example) and the environment. Engine, ports and accounts are printed at the end.

Exit codes:
${explainExitCodes('ok', 'failed', 'usage')}`

/** Milliseconds until every protocol has to answer. A container of docker-mailserver 10.5.0 takes about 10 seconds. */
const PATIENCE = { docker: 120_000, native: 20_000 }

/** Messages on their way that explain why a test mail has not arrived: the server is up and busy. */
const CROWD = 50

export async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(args, {})
  if (values.help) {
    print(HELP)
    return
  }
  // Loaded when it is clear that they are needed: --help costs nothing.
  const { chooseEngine } = await import('./lib/server/engine.ts')
  const { enabledProtocols, portRows, readSettings } = await import('./lib/settings.ts')
  const { backlog, complaintsAfter, roundTrip, waitUntilHealthy } = await import('./lib/server/proof.ts')

  const settings = readSettings()
  const engine = await chooseEngine(settings)
  const wasRunning = await engine.isRunning()
  const begin = performance.now()
  const explained = async (error: unknown): Promise<never> => {
    const { explain } = await import('./lib/doctor/all.ts')
    throw await explain(error)
  }
  await engine.start().catch(explained)
  await step('Waiting for SMTP, POP3 and IMAP', () =>
    waitUntilHealthy(engine, settings, PATIENCE[engine.name]).catch(explained),
  )
  const seconds = ((performance.now() - begin) / 1000).toFixed(1)
  print(
    wasRunning
      ? `The mail server runs already (engine: ${engine.name}); its configuration is up to date.`
      : `The mail server is up after ${seconds} s (engine: ${engine.name}).`,
  )
  const enabled = enabledProtocols()
  const missing = [FOO, BAR].filter((address) => !readAccounts().some((account) => account.address === address))
  if (missing.length > 0) {
    say(`No test mail was sent, because ${missing.join(' and ')} has no account any more.`)
  } else if (enabled.pop3) {
    const failed = async (reason: string) =>
      explained(new Failure('failed', [reason, ...(await complaintsAfter(engine))].join('\n')))
    const milliseconds = await step('Sending a test mail', () => roundTrip(settings)).catch((error) =>
      failed(messageOf(error)),
    )
    const behind = milliseconds === undefined ? await backlog(engine) : 0
    if (milliseconds !== undefined) {
      print(`A test mail from foo to bar was sent over SMTP, read back over POP3 and deleted: ${milliseconds} ms.`)
    } else if (behind >= CROWD) {
      print(`A test mail from foo to bar was accepted and waits behind ${behind} messages in the queue.`)
    } else {
      await failed(`The test mail to ${BAR} was accepted and has not arrived. See: npm run logs`)
    }
  } else {
    say('POP3 is off in development-mail-server.env, so no test mail was read back.')
  }

  const accounts = readAccounts().map((account) => [account.address, knownPassword(account) ?? '(set by you)'])
  print()
  print(table([['Port', 'Protocol', 'TLS'], ...portRows(settings), [], ['Account', 'Password', ''], ...accounts]))
  print()
  print('All other mail, to whatever address in the world, ends in catchall and leaves this machine never.')
  print()
  print(
    table([
      [style('bold', 'npx tsx scripts/send_email.ts'), `send a test mail as ${FOO}`],
      [style('bold', 'npx tsx scripts/pop_email.ts'), 'read it'],
      [style('bold', 'npm run status'), 'engine, accounts, messages, queue'],
      [style('bold', 'npm stop'), 'stop the server; mail stays'],
    ]),
  )
}

await run(import.meta.url, main)
