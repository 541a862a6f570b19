/**
 * npm start: brings the mail server up, proves by one mail that it works, and says where it listens. Run again, it
 * brings a changed configuration into effect. All or nothing: a start that fails or is interrupted leaves nothing running.
 */
import { once } from 'node:events'
import { type ExitName, explainExitCodes, Failure, type Io, parse, run, step, style, table } from './lib/cli.ts'
import type { Engine, Started } from './lib/server/engine.ts'
import type { Settings } from './lib/settings.ts'

const HELP = `Usage: npm start

Starts the mail server, or brings changes of its configuration into effect, and proves it by one mail.
Settings: .env (see .env.example) and the environment. Engine, ports and accounts are printed at the end.

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'interrupted')}`

/** Milliseconds until every protocol has to answer. A container of docker-mailserver 10.5.0 takes about 10 seconds. */
const PATIENCE = { docker: 120_000, native: 20_000 }
const SIGNALS = ['SIGINT', 'SIGTERM']

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  if (parse(args, {}).values.help) return void io.print(HELP)
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
    await unlessInterrupted(io, async () => {
      await prove(engine, settings, await starting, begin, io)
      await report(engine, settings, await inbox, io)
    })
    return
  } catch (error) {
    const isInterrupted = error instanceof Failure && error.exit === 'interrupted'
    const failure = isInterrupted ? error : await (await import('./lib/doctor/all.ts')).explain(error)
    // A start that is under way ends first, so that the stop finds all of it.
    const done = await starting.catch(() => undefined)
    if ((await inbox.catch(() => undefined))?.isNew) await stopInbox(settings)
    if (!wasRunning && done && (await engine.stop())) io.say('Nothing of it was left running.')
    throw failure
  }
}

/** Waits until the server answers, and has it deliver a mail. */
async function prove(engine: Engine, settings: Settings, started: Started, begin: number, io: Io): Promise<void> {
  const { CHECKS, runChecks } = await import('./lib/doctor/all.ts')
  const { enabledProtocols, isSmtpOnly } = await import('./lib/settings.ts')
  const { waitUntilHealthy } = await import('./lib/server/proof.ts')
  const { smtp, pop3, imap } = enabledProtocols()
  const protocols = [smtp && 'SMTP', pop3 && 'POP3', imap && 'IMAP'].filter(Boolean).join(', ')
  await step(`Waiting for ${protocols}`, () => waitUntilHealthy(engine, settings, PATIENCE[engine.name]))
  const seconds = ((performance.now() - begin) / 1000).toFixed(1)
  const came = { started: 'is up', restarted: 'is up again' }
  io.print(
    started === 'running'
      ? `The mail server runs already (engine: ${engine.name}); its configuration is up to date.`
      : `The mail server ${came[started]} after ${seconds} s (engine: ${engine.name}).`,
  )
  if (isSmtpOnly()) return
  const checks = CHECKS.filter(({ name }) => name === 'way-out' || name === 'mail-virtual')
  const results = await step('Sending a test mail', () => runChecks(checks))
  const { level, evidence, fix, milliseconds } =
    results.find(({ level }) => level === 'failure') ?? results.at(-1) ?? {}
  if (level === 'failure') throw new Failure('failed', `${evidence}${fix ? `\n  fix: ${fix}` : ''}`)
  if (level === 'skipped' && !/^there is no account| are off/.test(`${evidence}`))
    throw new Failure('failed', `${evidence}`)
  if (level !== 'ok') return io.say(level === 'skipped' ? `No test mail was sent: ${evidence}` : evidence)
  const reader = pop3 ? 'POP3' : 'IMAP'
  io.print(`A test mail from foo to bar was sent over SMTP, read back over ${reader} and deleted: ${milliseconds} ms.`)
}

/** Prints ports, accounts and what to type next. */
async function report(engine: Engine, settings: Settings, inbox: { url?: string; problem?: string }, io: Io) {
  const { FOO, knownPassword, readAccounts } = await import('./lib/accounts/accounts.ts')
  const { enabledProtocols, isSmtpOnly, portRows } = await import('./lib/settings.ts')
  const { exposure } = await import('./lib/inbox/service.ts')
  for (const line of [inbox.problem, exposure(settings)]) if (line) io.say(line)
  const page = inbox.url ? [[inbox.url, 'Inbox', 'none']] : []
  const rows = [['Port', 'Protocol', 'TLS'], ...portRows(settings), ...page]
  if (!isSmtpOnly()) {
    const passwords = readAccounts().map((account) => [account.address, knownPassword(account) ?? '(set by you)'])
    rows.push([], ['Account', 'Password', ''], ...passwords)
  }
  io.print(`\n${table(rows)}\n`)
  const certificate = engine.certificate()
  if (certificate) io.print(`Certificate to trust for TLS: ${certificate}\n`)
  const caught = 'All other mail, to any address in the world, ends in catchall. None of it leaves this machine.'
  const waits =
    'SMTP_ONLY=1 in development-mail-server.env: there are no mailboxes, and nobody can log in. Mail for any'
  io.print(
    isSmtpOnly() ? `${waits}\naddress is accepted and waits in the queue. None of it leaves this machine.` : caught,
  )
  const bold = (text: string) => style('bold', text, io.stdout)
  const next = [
    !isSmtpOnly() && [bold('npx tsx scripts/send_email.ts'), `send a test mail as ${FOO}`],
    enabledProtocols().pop3 && [bold('npx tsx scripts/pop_email.ts'), 'read it'],
    [bold('npm run status'), 'engine, accounts, messages, queue'],
    [bold('npm stop'), 'stop the server; mail stays'],
  ]
  io.print(`\n${table(next.filter((row) => row !== false))}`)
}

/** Runs `work`, and throws a Failure as soon as Ctrl-C or a termination asks for the end. */
async function unlessInterrupted(io: Io, work: () => Promise<void>): Promise<void> {
  const over = new AbortController()
  const interrupted = Promise.race(SIGNALS.map((name) => once(process, name, { signal: over.signal }))).then(() => {
    // Another one changes nothing: what was started would be left behind.
    for (const name of SIGNALS) process.on(name, () => {})
    io.say('Interrupted: stopping what was started ...')
    throw new Failure('interrupted', 'The start was interrupted. Start again: npm start')
  })
  try {
    await Promise.race([work(), interrupted])
  } finally {
    over.abort()
  }
}

await run(import.meta.url, main)
