import { readdirSync, readFileSync } from 'node:fs'
import type { Engine } from '../server/engine.ts'
import { CONTAINER, enabledProtocols, SERVICE_NAMES, SERVICES, type ServiceName, type Settings } from '../settings.ts'
import { type Check, EXPLAINS, type Finding, failure, ok, Skipped, verdict } from './check.ts'
import type { Facts } from './facts.ts'
import { program } from './program.ts'
import { folders } from './state.ts'

/** The services that the environment file turns on. */
export function servicesOf(facts: Facts): ServiceName[] {
  const environment = facts.environment()
  const enabled = enabledProtocols(environment)
  return SERVICE_NAMES.filter((name) => {
    if (/^(pop3|imap)s$/.test(name) && !environment.SSL_TYPE) return false
    return name.startsWith('pop3') ? enabled.pop3 : name.startsWith('imap') ? enabled.imap : true
  })
}

const start: Check = {
  name: 'start',
  title: 'npm start takes the files as they are',
  async run(facts) {
    const engine = await facts.engine()
    facts.environment()
    if (engine.name === 'docker') return [ok('docker-mailserver takes any')]
    const refusal = await facts.refusal()
    return refusal
      ? [failure(refusal.message, undefined, { explains: ['live'] })]
      : [ok('tried: Postfix and Dovecot read them')]
  },
}

const running: Check = {
  name: 'running',
  title: 'The server is running',
  async run(facts) {
    const engine = await facts.engine()
    if (await facts.isRunning()) return [ok(`engine: ${engine.name}`)]
    const refused = engine.name === 'native' && process.getuid?.() === 0 ? await facts.refusal() : undefined
    const half = await engine.half()
    const evidence = half ?? 'the server is not running'
    return [
      failure(refused ? `${evidence}; npm start refuses the files` : evidence, refused ? undefined : 'npm start', {
        explains: ['live', 'ports'],
      }),
    ]
  },
}

const processes: Check = {
  name: 'processes',
  title: 'No daemon of the server is stopped',
  async run(facts) {
    const stopped = await stoppedOf(facts)
    if (stopped === undefined) return verdict([], 'all of them run')
    return [failure(stopped.what, stopped.fix, { explains: EXPLAINS.answers })]
  },
}

/** What was stopped by a signal, or paused, and what wakes it. */
async function stoppedOf(facts: Facts): Promise<{ what: string; fix: string } | undefined> {
  const engine = await facts.server()
  if (engine.name === 'docker') {
    const { stdout } = await program(['docker', 'container', 'inspect', '--format', '{{.State.Paused}}', CONTAINER])
    return stdout.trim() === 'true'
      ? { what: 'the container is paused', fix: `docker unpause ${CONTAINER}` }
      : undefined
  }
  const pids = readdirSync('/proc').filter(
    (name) => /^\d+$/.test(name) && statOf(name)[1] === 'T' && engine.owns({ pid: Number(name), name: '' }),
  )
  if (pids.length === 0) return undefined
  const names = [...new Set(pids.map((pid) => statOf(pid)[0]))].join(', ')
  return { what: `stopped by a signal (SIGSTOP): ${names}`, fix: `kill -CONT ${pids.join(' ')}` }
}

/** A process's name and state. */
function statOf(pid: string): [name: string, state: string] {
  try {
    const [, name = '', state = ''] = /\((.*)\) (\S)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
    return [name, state]
  } catch {
    return ['', '']
  }
}

/** The server, up and able to answer: what keeps it from that keeps everybody waiting. */
export async function answering(facts: Facts): Promise<Engine> {
  const engine = await facts.server()
  for (const check of [processes, ports, folders]) {
    const findings = await facts.once(`check ${check.name}`, async () => check.run(facts))
    if (findings.some(({ level }) => level === 'failure')) throw new Skipped(`it could only wait, see "${check.name}"`)
  }
  return engine
}

const ports: Check = {
  name: 'ports',
  title: 'The ports are free, or the server holds them',
  async run(facts) {
    const settings = facts.settings()
    const { holdersOf, isFree } = await import('../server/ports.ts')
    const { engine } = await facts.choice()
    const isUp = engine ? await facts.isRunning() : false
    if (!isUp && (await engine?.half())) throw new Skipped('half of the server runs, see "running"')
    const services = servicesOf(facts)
    const holders = holdersOf(services.map((name) => settings.ports[name]))
    const problems: Finding[] = []
    const closed: string[] = []
    for (const name of services) {
      const port = settings.ports[name]
      const holder = holders.get(port)
      if (await isFree(settings.bindAddress, port)) {
        if (isUp) closed.push(`${port} (${SERVICES[name].protocol})`)
        continue
      }
      if (isUp && (!holder || engine?.owns(holder) || process.getuid?.() !== 0)) continue
      const { variable, protocol } = SERVICES[name]
      const right = `${variable}=${await freePort(settings, port, isFree)}`
      // What the environment says wins over .env.
      const fix = process.env[variable] ? `export ${right}` : `Write into .env: ${right}`
      const who = holder ? `${holder.name} (pid ${holder.pid})` : 'another process'
      problems.push(
        failure(`port ${port} (${protocol}) on ${settings.bindAddress} is in use by ${who}`, fix, {
          explains: EXPLAINS.answers,
        }),
      )
    }
    if (closed.length > 0)
      problems.push(
        failure(
          `nothing listens on ${closed.join(', ')}: the server was started with other ports, or services, than now`,
          'npm start',
          { explains: EXPLAINS.answers },
        ),
      )
    return verdict(problems, isUp ? 'held by the server' : 'free')
  },
}

async function freePort(
  { bindAddress, ports: taken }: Settings,
  from: number,
  isFree: (host: string, port: number) => Promise<boolean>,
): Promise<number> {
  let port = 10_000 + (from % 10_000)
  while (Object.values(taken).includes(port) || !(await isFree(bindAddress, port))) port++
  return port
}

export const serverChecks: Check[] = [start, running, processes, ports]
