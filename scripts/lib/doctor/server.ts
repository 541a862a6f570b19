/** The server as its clients see it, and whether it is the one that the files describe. */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Account, masterLogin, parseAccounts } from '../accounts/accounts.ts'
import { type Failure, messageOf } from '../cli.ts'
import type { Engine } from '../server/engine.ts'
import {
  CONTAINER,
  enabledProtocols,
  ROOT,
  SERVICE_NAMES,
  SERVICES,
  type ServiceName,
  type Settings,
} from '../settings.ts'
import { type Check, EXPLAINS, type Finding, failure, ok, Skipped, verdict, warning } from './check.ts'
import { ANSWER, CONFIG, type Facts, inConfig, program } from './facts.ts'
import { causeIn } from './rules_log.ts'
import { MAIN_CF } from './rules_postfix.ts'
import { folders } from './state.ts'
import { type Step, talk, Unexpected } from './talk.ts'

/** Days before its end that a certificate is warned about. */
const EXPIRES_SOON = 14
/** Accounts that log in at the same time, and at all. */
const LOGINS = { together: 4, most: 40 }
/** Milliseconds from which on a greeting may be a wait for the DNS. */
const SLOW = 3_000

/** The services that the environment file turns on. */
export function servicesOf(facts: Facts): ServiceName[] {
  const environment = facts.environment()
  const enabled = enabledProtocols(environment)
  return SERVICE_NAMES.filter((name) => {
    if (/^(pop3|imap)s$/.test(name) && !environment.SSL_TYPE) return false
    return name.startsWith('pop3') ? enabled.pop3 : name.startsWith('imap') ? enabled.imap : true
  })
}

const labelOf = (name: ServiceName, { ports }: Settings) => `${SERVICES[name].protocol} on port ${ports[name]}`

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

/** What each service is told, and what it has to answer. `tls`: whether the environment file turns TLS on. */
function dialogue(name: ServiceName, tls: boolean): Step[] {
  const greets = (expect: RegExp): Step => ({ expect, otherwise: 'it does not greet' })
  const auth: Step = {
    say: 'EHLO localhost',
    expect: /^250[- ]AUTH[ =].*\bPLAIN\b/im,
    otherwise: 'it does not offer AUTH PLAIN',
  }
  const secured = (...steps: Step[]) => (tls ? steps : [])
  switch (name) {
    case 'smtp':
      return [greets(/^220[ -]/), auth]
    case 'submission':
      return [
        greets(/^220[ -]/),
        auth,
        ...secured({ say: 'STARTTLS', expect: /^220/, otherwise: 'STARTTLS is refused' }, 'tls', auth),
      ]
    case 'submissions':
      return [...secured('tls'), greets(/^220[ -]/), auth]
    case 'pop3':
      return [greets(/^\+OK/), ...secured({ say: 'STLS', expect: /^\+OK/, otherwise: 'STLS is refused' }, 'tls')]
    case 'imap':
      return [
        greets(/^\* OK/),
        ...secured({ say: 'a STARTTLS', expect: /^a OK/m, otherwise: 'STARTTLS is refused' }, 'tls'),
      ]
    case 'pop3s':
      return ['tls', greets(/^\+OK/)]
    case 'imaps':
      return ['tls', greets(/^\* OK/)]
  }
}

const answers: Check = {
  name: 'answers',
  title: 'Every port greets, offers its logins, and speaks TLS where it should',
  async run(facts) {
    const engine = await answering(facts)
    const settings = facts.settings()
    const environment = facts.environment()
    const tls = Boolean(environment.SSL_TYPE)
    const services = servicesOf(facts)
    const problems: Finding[] = []
    const times = await Promise.all(
      services.map(async (name) => {
        const begin = performance.now()
        try {
          await talk(settings.host, settings.ports[name], dialogue(name, tls), ANSWER)
        } catch (error) {
          if (!(error instanceof Unexpected)) throw error
          problems.push(
            failure(`${labelOf(name, settings)}: ${error.message}`, undefined, {
              explains: ['mail-virtual', 'mail-foreign', 'mail-unknown', 'logins', 'queue', 'log'],
            }),
          )
        }
        return { name, milliseconds: Math.round(performance.now() - begin) }
      }),
    )
    const cause = problems.length > 0 ? causeIn(await engine.logged()) : undefined
    if (cause) for (const problem of problems) problem.evidence += `; the log says ${cause}`
    // What all of them take is the machine's own slowness.
    const quickest = Math.min(...times.map(({ milliseconds }) => milliseconds))
    const slow = times.filter(({ milliseconds }) => milliseconds > SLOW && milliseconds > 4 * quickest)
    for (const { name, milliseconds } of slow.slice(0, problems.length > 0 ? 0 : 1))
      problems.push(warning(`slow: ${labelOf(name, settings)} took ${(milliseconds / 1000).toFixed(1)} s to answer`))
    return verdict(
      problems,
      `${services.length} ports on ${settings.host}, the slowest after ${Math.max(...times.map(({ milliseconds }) => milliseconds))} ms`,
    )
  },
}

/** Judges a certificate by its dates, as Node prints them. */
export function certificateFinding(where: string, from: string, to: string, now = Date.now()): Finding[] {
  const left = Math.floor((Date.parse(to) - now) / 86_400_000)
  if (Date.parse(from) > now) return [failure(`${where}: the certificate begins on ${from}; is the clock right?`)]
  if (left < 0) return [failure(`${where}: the certificate ended on ${to}`)]
  return left < EXPIRES_SOON ? [warning(`${where}: the certificate ends on ${to}`)] : []
}

const certificate: Check = {
  name: 'certificate',
  title: 'Key and certificate belong together',
  async run(facts) {
    const engine = await facts.server()
    if (!facts.environment().SSL_TYPE) return [ok('TLS is off (SSL_TYPE is empty)')]
    const names = ['smtpd_tls_chain_files', 'smtpd_tls_key_file', 'smtpd_tls_cert_file']
    const set = await facts.running()
    const paths = [
      ...new Set(
        names.flatMap((name) => (set.get(name)?.value ?? '').split(/[\s,]+/)).filter((path) => path.startsWith('/')),
      ),
    ]
    const { stateDir } = facts.settings()
    const isMade = paths.some((path) => path.startsWith(`${stateDir}/tls/`))
    const fix = isMade ? `rm ${stateDir}/tls/*.pem && npm stop && npm start` : undefined
    const more = { explains: EXPLAINS.answers }
    const texts = await Promise.all(paths.map((path) => engine.readFile(path)))
    const missing = paths.find((_, index) => texts[index] === undefined)
    if (missing) return [failure(`${missing} is not there, and TLS needs it`, fix, more)]
    const text = texts.join('\n')
    try {
      const key = createPrivateKey(
        /-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]+-----END [A-Z ]*PRIVATE KEY-----/.exec(text)?.[0] ?? '',
      )
      const found = new X509Certificate(text.slice(text.indexOf('-----BEGIN CERTIFICATE')))
      if (!found.checkPrivateKey(key))
        return [failure(`the key of ${paths.join(' and ')} is that of another certificate`, fix, more)]
      return verdict(
        certificateFinding('TLS', found.validFrom, found.validTo).map((problem) => ({ ...problem, fix })),
        `until ${found.validTo}`,
      )
    } catch (error) {
      return [failure(`${paths.join(', ')}: this is no key with its certificate: ${messageOf(error)}`, fix, more)]
    }
  },
}

const logins: Check = {
  name: 'logins',
  title: 'Every account can log in',
  async run(facts) {
    await answering(facts)
    const { host, ports: all } = facts.settings()
    if (!enabledProtocols(facts.environment()).pop3) throw new Skipped('POP3 is off, see "environment"')
    const { Pop3Session } = await import('../mail/pop3.ts')
    const accounts = parseAccounts(facts.read(inConfig('postfix-accounts.cf')) ?? '', undefined, () => {})
    const waiting = accounts.slice(0, LOGINS.most)
    const count = waiting.length
    const problems: { finding: Finding; account: Account }[] = []
    const worker = async () => {
      for (let account = waiting.shift(); account; account = waiting.shift()) {
        try {
          const server = { host, port: all.pop3, tls: 'none', timeout: ANSWER } as const
          await (await Pop3Session.open(server, masterLogin(account.address))).quit()
        } catch (error) {
          const fix =
            (error as Failure).exit === 'login' ? `npm run add-account -- --update ${account.address}` : undefined
          problems.push({ account, finding: failure(messageOf(error), fix, { explains: [] }) })
        }
      }
    }
    await Promise.all(Array.from({ length: LOGINS.together }, worker))
    // Where nobody gets in, no account is at fault.
    if (problems.length === count && count > 1)
      return [
        failure(`no account can log in: ${problems[0]?.finding.evidence}`, undefined, {
          explains: ['mail-virtual', 'mail-foreign', 'queue'],
        }),
      ]
    return verdict(
      problems.map(({ finding }) => finding),
      `${count} of ${accounts.length} accounts over POP3`,
    )
  },
}

const live: Check = {
  name: 'live',
  title: 'The running server is the one that the files describe',
  async run(facts) {
    const engine = await facts.server()
    return engine.name === 'native' ? liveNative(facts) : liveDocker(facts, engine)
  },
}

/** npm start would change the files in the state folder that differ from what it makes now. */
async function liveNative(facts: Facts): Promise<Finding[]> {
  if (await facts.isLive()) return [ok('no file was written since it was started')]
  const { folder, refusal } = await facts.made()
  if (refusal) throw new Skipped('npm start refuses the files, see "start"')
  const { stateDir } = facts.settings()
  const parts = ['config', 'postfix', 'dovecot']
  const namesIn = (dir: string) =>
    parts.flatMap((part) =>
      existsSync(join(dir, part))
        ? (readdirSync(join(dir, part), { recursive: true }) as string[]).map((name) => join(part, name))
        : [],
    )
  const generated = /^postfix\/(aliases|.*\.db|.*lock|prng_exch)|~$|\.tmp$|\.lock$/
  const names = [...new Set([...namesIn(folder), ...namesIn(stateDir).filter((name) => name.startsWith('config/'))])]
  const changed = names.filter(
    (name) => !generated.test(name) && textOf(join(folder, name)) !== textOf(join(stateDir, name)),
  )
  if (changed.length === 0) return [ok(`${names.length} files are as npm start would make them`)]
  const own = changed
    .filter((name) => name.startsWith('config/'))
    .map((name) => `${CONFIG}/${name.slice('config/'.length)}`)
  const evidence =
    own.length > 0
      ? `${own.join(', ')}: changed since the server read it`
      : `not as the files say: ${changed.map((name) => differenceOf(join(stateDir, name), join(folder, name)) ?? `${stateDir}/${name}`).join(', ')}`
  const explains = [...EXPLAINS.answers.filter((name) => name !== 'live'), 'way-out']
  return [failure(evidence, 'npm start', { explains })]
}

/** A file's text; postconf(1) writes the lines of main.cf in no order. */
function textOf(path: string): string | undefined {
  try {
    const text = readFileSync(path, 'utf8')
    // And this machine's networks come and go.
    return path.endsWith('/main.cf')
      ? text
          .split('\n')
          .filter((line) => !line.startsWith('mynetworks ='))
          .sort()
          .join('\n')
      : text
  } catch {
    return undefined
  }
}

/** The first setting that differs, where it can be told without showing a secret. */
function differenceOf(is: string, should: string): string | undefined {
  if (!is.endsWith('main.cf')) return undefined
  const right = (textOf(should) ?? '').split('\n')
  const wrong = (textOf(is) ?? '').split('\n').find((line) => !right.includes(line))
  return wrong === undefined ? undefined : `${is}: ${wrong}`
}

async function liveDocker(facts: Facts, engine: Engine): Promise<Finding[]> {
  const problems: Finding[] = []
  const set = facts.parameters(MAIN_CF)
  const is = await facts.running(...[...set.keys()].filter((name) => name !== 'smtpd_sasl_auth_enable'))
  const plain = (value: string) => value.replace(/\s+/g, ' ').trim()
  for (const [name, { value }] of is) {
    const right = set.get(name)?.value
    if (right !== undefined && plain(right) !== plain(value))
      problems.push(
        failure(`the running Postfix has ${name} = ${value}, and ${MAIN_CF} says ${right}`, 'npm start', {
          explains: EXPLAINS.mail,
        }),
      )
  }
  const userdb = (await engine.readFile('/etc/dovecot/userdb')) ?? ''
  for (const { address, hash } of parseAccounts(
    facts.read(inConfig('postfix-accounts.cf')) ?? '',
    undefined,
    () => {},
  )) {
    if (userdb === '' || userdb.includes(`${address}:${hash}:`)) continue
    problems.push(
      failure(
        `the running server has another password for ${address}, or no such account, than ${inConfig('postfix-accounts.cf')}`,
        'npm stop && npm start',
        { explains: ['logins', ...EXPLAINS.mail] },
      ),
    )
  }
  const { stdout } = await program(['docker', 'container', 'inspect', '--format', '{{json .Config.Env}}', CONTAINER])
  const env: string[] = stdout.startsWith('[') ? JSON.parse(stdout) : []
  const other = Object.entries(facts.environment()).find(
    ([name, value]) =>
      env.length > 0 && env.some((line) => line.startsWith(`${name}=`)) && !env.includes(`${name}=${value}`),
  )
  if (other)
    problems.push(
      failure(`the container was made with another ${other[0]} than ${other[0]}=${other[1]} now`, 'npm start'),
    )
  return verdict(problems, `${is.size} parameters, the accounts and the environment are those of the files`)
}

export const serverChecks: Check[] = [start, running, processes, ports, live, answers, certificate, logins]
void ROOT
