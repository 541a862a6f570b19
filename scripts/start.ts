/**
 * npm start: brings the mail server up, proves by one mail that it works, and says where it listens. Run again, it
 * brings a changed configuration into effect. All or nothing: a start that fails or is interrupted leaves nothing running.
 */
import { type ExitName, explainExitCodes, Failure, type Io, parse, run, say, style, table } from './lib/cli.ts'
import type { Engine, Started } from './lib/server/engine.ts'
import type { Settings } from './lib/settings.ts'

const HELP = `Usage: npm start

Starts the mail server, or brings changes of its configuration into effect, and proves it by one mail.
Settings: .env (see .env.example) and the environment. Engine, ports and accounts are printed at the end.

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'interrupted')}`

/** Milliseconds until every protocol has to answer. A container of docker-mailserver 10.5.0 takes about 10 seconds. */
const PATIENCE = { docker: 120_000, native: 20_000 }
/** Messages on their way that explain why a test mail has not arrived: the server is up and busy. */
const CROWD = 50

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values } = parse(args, {})
  if (values.help) {
    io.print(HELP)
    return
  }
  // Loaded when it is clear that they are needed: --help costs nothing.
  const { chooseEngine } = await import('./lib/server/choose.ts')
  const { becomeRoot } = await import('./lib/server/root.ts')
  const { readSettings } = await import('./lib/settings.ts')
  const { startInbox, stopInbox } = await import('./lib/inbox/service.ts')

  const settings = readSettings()
  const engine = await chooseEngine(settings)
  if (engine.name === 'native') await becomeRoot()
  const wasRunning = await engine.isRunning()
  const half = await engine.half()
  if (half) io.say(`${half} It is started anew.`)
  const begin = performance.now()
  const starting = engine.start()
  // It comes up while the server is proved.
  const inbox = starting.then(() => startInbox(settings, engine.name))
  inbox.catch(() => {})
  try {
    await unlessInterrupted(async () => prove(engine, settings, await starting, begin, inbox, io))
    return
  } catch (error) {
    const failure = await explained(error)
    // A start that is under way ends first, so that the stop finds all of it.
    const done = await starting.catch(() => undefined)
    if ((await inbox.catch(() => undefined))?.isNew) await stopInbox(settings)
    if (!wasRunning && done && (await engine.stop())) io.say('Nothing of it was left running.')
    throw failure
  }
}

/** Waits until the server answers, has it deliver a mail, and prints the table of ports and accounts. */
async function prove(
  engine: Engine,
  settings: Settings,
  started: Started,
  begin: number,
  inbox: Promise<{ url?: string; problem?: string }>,
  io: Io,
): Promise<void> {
  const { step } = await import('./lib/cli.ts')
  const { BAR, FOO, knownPassword, readAccounts } = await import('./lib/accounts/accounts.ts')
  const { enabledProtocols, portRows } = await import('./lib/settings.ts')
  const { testMail, waitUntilHealthy } = await import('./lib/server/proof.ts')
  const { exposure } = await import('./lib/inbox/service.ts')

  await step('Waiting for SMTP, POP3 and IMAP', () => waitUntilHealthy(engine, settings, PATIENCE[engine.name]))
  const seconds = ((performance.now() - begin) / 1000).toFixed(1)
  const came = { started: 'is up', restarted: 'is up again' }
  io.print(
    started === 'running'
      ? `The mail server runs already (engine: ${engine.name}); its configuration is up to date.`
      : `The mail server ${came[started]} after ${seconds} s (engine: ${engine.name}).`,
  )
  const accounts = readAccounts()
  const missing = [FOO, BAR].filter((address) => !accounts.some((account) => account.address === address))
  if (missing.length > 0) {
    io.say(`No test mail was sent, because ${missing.join(' and ')} has no account any more.`)
  } else if (!enabledProtocols().pop3) {
    io.say('POP3 is off in development-mail-server.env, so no test mail was read back.')
  } else {
    const { milliseconds, behind } = await step('Sending a test mail', () => testMail(engine, settings))
    if (milliseconds !== undefined) {
      io.print(`A test mail from foo to bar was sent over SMTP, read back over POP3 and deleted: ${milliseconds} ms.`)
    } else if (behind >= CROWD) {
      io.print(`A test mail from foo to bar was accepted and waits behind ${behind} messages in the queue.`)
    } else {
      throw new Failure('failed', `The test mail to ${BAR} was accepted and has not arrived. See: npm run logs`)
    }
  }

  const { url, problem } = await inbox
  for (const line of [problem, exposure(settings)]) if (line) io.say(line)
  const page = url ? [[url, 'Inbox', 'none']] : []
  const passwords = accounts.map((account) => [account.address, knownPassword(account) ?? '(set by you)'])
  const certificate = engine.certificate()
  const bold = (text: string) => style('bold', text, io.stdout)
  io.print()
  io.print(
    table([['Port', 'Protocol', 'TLS'], ...portRows(settings), ...page, [], ['Account', 'Password', ''], ...passwords]),
  )
  io.print()
  if (certificate) io.print(`Certificate to trust for TLS: ${certificate}\n`)
  io.print('All other mail, to any address in the world, ends in catchall. None of it leaves this machine.')
  io.print()
  io.print(
    table([
      [bold('npx tsx scripts/send_email.ts'), `send a test mail as ${FOO}`],
      [bold('npx tsx scripts/pop_email.ts'), 'read it'],
      [bold('npm run status'), 'engine, accounts, messages, queue'],
      [bold('npm stop'), 'stop the server; mail stays'],
    ]),
  )
}

/** Runs `work`, and throws a Failure as soon as Ctrl-C or a termination asks for the end. A second one ends at once. */
async function unlessInterrupted<T>(work: () => Promise<T>): Promise<T> {
  let interrupt: (signal: NodeJS.Signals) => void = () => {}
  const interrupted = new Promise<never>((_, reject) => {
    interrupt = (signal) => {
      for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, interrupt)
      say(`${signal}: stopping what was started ...`)
      reject(new Failure('interrupted', 'The start was interrupted. Start again: npm start'))
    }
  })
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, interrupt)
  try {
    return await Promise.race([work(), interrupted])
  } finally {
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, interrupt)
  }
}

/** The failure, with what the doctor finds to be its cause. */
async function explained(error: unknown): Promise<unknown> {
  if (error instanceof Failure && error.exit === 'interrupted') return error
  const { explain } = await import('./lib/doctor/all.ts')
  return explain(error)
}

await run(import.meta.url, main)
