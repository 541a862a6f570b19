/** The server as its clients see it: does every protocol answer. */
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../cli.ts'
import { enabledProtocols, SERVICES, type Settings } from '../settings.ts'
import { complaintsIn, type Engine } from './engine.ts'

/** What a greeting begins with: RFC 5321 section 4.2, RFC 1939 section 4, RFC 3501 section 7.1. */
const GREETINGS = { smtp: '220', pop3: '+OK', imap: '* OK' } as const
/** Milliseconds for a greeting; the whole start may take longer. */
const GREETING = 2_000

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
