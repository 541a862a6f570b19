/** The server as its clients see it: does every protocol answer, and does a mail really arrive. */
import { randomUUID } from 'node:crypto'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, FOO, masterLogin, VIRTUAL_DOMAIN } from '../accounts/accounts.ts'
import { Failure } from '../cli.ts'
import { Pop3Session } from '../mail/pop3.ts'
import { SmtpSession } from '../mail/smtp.ts'
import { enabledProtocols, SERVICES, type Settings } from '../settings.ts'
import { complaintsIn, type Engine } from './engine.ts'

/** What a greeting begins with: RFC 5321 section 4.2, RFC 1939 section 4, RFC 3501 section 7.1. */
const GREETINGS = { smtp: '220', pop3: '+OK', imap: '* OK' } as const
/** Milliseconds for a greeting; the whole start may take longer. */
const GREETING = 2_000
/** Milliseconds for a daemon's line to reach the log. */
const LOGGED = 500
/** Milliseconds for a test mail to arrive. */
const DELIVERY = 30_000

/** Connects and gives the first line that the server says, or undefined when none comes within `timeout` ms. */
export function greetingOf(host: string, port: number, timeout = GREETING): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout })
    let text = ''
    const end = () => {
      socket.destroy()
      resolve(/^(.*)\r\n/.exec(text)?.[1])
    }
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
      if (text.includes('\r\n')) end()
    })
    for (const event of ['timeout', 'error', 'close']) socket.once(event, end)
  })
}

/** The protocols that the environment file turns on and that do not greet within two seconds, with their ports. */
export async function silentProtocols({ host, ports }: Settings): Promise<string[]> {
  const enabled = enabledProtocols()
  const names = (['smtp', 'pop3', 'imap'] as const).filter((name) => enabled[name])
  const greetings = await Promise.all(names.map((name) => greetingOf(host, ports[name])))
  return names
    .filter((name, index) => !greetings[index]?.startsWith(GREETINGS[name]))
    .map((name) => `${SERVICES[name].protocol} on port ${ports[name]}`)
}

/** Whether the server answers now: SMTP, and POP3 and IMAP as far as the environment file turns them on. */
export async function isAnswering(settings: Settings): Promise<boolean> {
  return (await silentProtocols(settings)).length === 0
}

/**
 * Waits until SMTP, POP3 and IMAP greet, as far as the environment file turns them on. Throws a Failure with what the
 * daemons complained about when they do not within `patience` milliseconds, or at once when the server went down.
 */
export async function waitUntilHealthy(engine: Engine, settings: Settings, patience: number): Promise<void> {
  const deadline = Date.now() + patience
  // A broken setting lets the master live and kills each of its children: no greeting, and a line in the log.
  let nextLook = Date.now() + 1_000
  for (;;) {
    const silent = await silentProtocols(settings)
    if (silent.length === 0) return
    if (Date.now() > nextLook) {
      const running = await engine.isRunning()
      const complaints = complaintsIn(await engine.logged())
      if (Date.now() > deadline || !running || complaints.some((line) => /\b(fatal|panic)\b/.test(line))) {
        const reason = complaints.length > 0 ? `:\n${complaints.join('\n')}` : '. See: npm run logs'
        const down = running ? '' : '; the server went down'
        throw new Failure('failed', `No answer from ${silent.join(', ')}${down}${reason}`)
      }
      nextLook = Date.now() + 1_000
    }
    await sleep(30)
  }
}

/**
 * Sends a mail from foo to bar over SMTP, reads it back over POP3, and deletes it. Gives the milliseconds from the
 * connection to SMTP until the mail was read. Throws a Failure that says how far it came, with the daemons' own words
 * behind it: their lines reach the log a moment after a client has seen the failure.
 */
export async function testMail(engine: Engine, settings: Settings): Promise<number> {
  try {
    return await roundTrip(engine, settings)
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    await sleep(LOGGED)
    throw new Failure('failed', [error.message, ...complaintsIn(await engine.logged())].join('\n'))
  }
}

async function roundTrip(engine: Engine, settings: Settings): Promise<number> {
  const messageId = `<${randomUUID()}@${VIRTUAL_DOMAIN}>`
  const { host, ports } = settings
  const at = (port: number) => ({ host, port, tls: 'none', timeout: DELIVERY }) as const
  const login = masterLogin(BAR)
  // What is there already is not looked at, and of what comes every message, however many they are.
  const before = await Pop3Session.open(at(ports.pop3), login)
  const known = new Set((await before.list()).map(({ uidl }) => uidl))
  before.close()
  const begin = performance.now()
  const session = await SmtpSession.open(at(ports.smtp), { login: masterLogin(FOO), loginWasChosen: true })
  const date = new Date().toUTCString().replace('GMT', '+0000')
  const header = `From: ${FOO}\nTo: ${BAR}\nSubject: Test mail of npm start\nDate: ${date}\nMessage-ID: ${messageId}\n`
  const bytes = Buffer.from(`${header}\nThis mail is deleted as soon as it was read.\n`)
  const { exit, problem } = await session.deliver({ envelope: { from: FOO, to: [BAR] }, bytes })
  await session.close()
  if (problem) throw new Failure(exit, problem)
  for (let [end, sent] = [begin + DELIVERY, 0]; ; await sleep(10)) {
    if (performance.now() > end) {
      const delivered = (await engine.logged()).filter((line) => line.includes('status=sent')).length
      if (delivered === sent) break
      // A server that works off a long queue is healthy.
      ;[end, sent] = [performance.now() + DELIVERY, delivered]
    }
    // A session sees the mailbox as it was at login (RFC 1939 section 5), so each look is a new one.
    const session = await Pop3Session.open(at(ports.pop3), login)
    try {
      for (const message of (await session.list()).filter(({ uidl }) => !known.has(uidl))) {
        known.add(message.uidl)
        // Another reader may have deleted it since.
        const mail = await session.retrieve(message).catch(() => undefined)
        if (!mail?.includes(messageId)) continue
        const milliseconds = Math.round(performance.now() - begin)
        await session.delete(message)
        await session.quit()
        return milliseconds
      }
    } finally {
      session.close()
    }
  }
  throw new Failure('failed', `The test mail to ${BAR} was accepted and has not arrived. See: npm run logs`)
}
