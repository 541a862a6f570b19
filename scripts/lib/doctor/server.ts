/** The server as its clients see it: ports, greetings, TLS, AUTH, logins. */
import type { PeerCertificate } from 'node:tls'
import { type Account, knownPassword, type Login, masterLogin } from '../accounts/accounts.ts'
import { type Failure, messageOf } from '../cli.ts'
import { Pop3Session } from '../mail/pop3.ts'
import { holdersOf, isFree } from '../server/ports.ts'
import { enabledProtocols, SERVICE_NAMES, SERVICES, type ServiceName, type Settings } from '../settings.ts'
import { type Check, CONFIG, type Context, type Finding, failure, ok, Skipped, verdict, warning } from './check.ts'
import { accountLines, environmentOf, MAIN_CF } from './files.ts'
import { Probe } from './probe.ts'

/** Milliseconds until a greeting is slow. */
const SLOW = 1_000
/** Milliseconds for one conversation with a port. */
const CONVERSATION = 4_000
/** Days before its end that a certificate is warned about. */
const EXPIRES_SOON = 14
/** How many accounts log in at the same time, and how many at all. */
const LOGINS = { together: 4, most: 40 }

/** The services that the environment file turns on. */
function servicesOf({ files }: Context): ServiceName[] {
  const environment = environmentOf(files)
  const enabled = enabledProtocols(environment)
  const tls = Boolean(environment.SSL_TYPE)
  return SERVICE_NAMES.filter((name) => {
    if (/^(pop3|imap)s$/.test(name) && !tls) return false
    return name.startsWith('pop3') ? enabled.pop3 : name.startsWith('imap') ? enabled.imap : true
  })
}

const labelOf = (name: ServiceName, settings: Settings) => `${SERVICES[name].protocol} on port ${settings.ports[name]}`

/** Opens a conversation; `implicit` TLS where the service and the environment file have it. */
function openProbe(context: Context, name: ServiceName): Promise<Probe> {
  const { host, ports } = context.settings()
  const implicit = SERVICES[name].tls === 'implicit' && Boolean(environmentOf(context.files).SSL_TYPE)
  return Probe.open({ host, port: ports[name], implicit, timeout: CONVERSATION })
}

const running: Check = {
  name: 'running',
  title: 'The server is running',
  async run(context) {
    const engine = await context.engine()
    if (await engine.isRunning()) return [ok(`engine: ${engine.name}`)]
    return [failure('the server is not running', 'npm start')]
  },
}

const ports: Check = {
  name: 'ports',
  title: 'The ports are free, or the server holds them',
  async run(context) {
    const settings = context.settings()
    const engine = (await context.choice()).engine
    const isRunning = (await engine?.isRunning()) ?? false
    const problems: Finding[] = []
    const services = servicesOf(context)
    const holders = holdersOf(services.map((name) => settings.ports[name]))
    for (const name of services) {
      const port = settings.ports[name]
      const holder = holders.get(port)
      if (await isFree(settings.bindAddress, port)) continue
      if (isRunning && (!holder || engine?.owns(holder))) continue
      const who = holder ? `${holder.name} (pid ${holder.pid})` : 'another process'
      const stop = holder ? `, or stop it: kill ${holder.pid}` : ''
      const { variable, protocol } = SERVICES[name]
      const evidence = `Port ${port} (${protocol}) on ${settings.bindAddress} is in use by ${who}`
      problems.push(failure(evidence, `Write ${variable}=${await freePort(settings, port)} into .env${stop}`))
    }
    return verdict(problems, isRunning ? 'held by the server' : 'free')
  },
}

async function freePort({ bindAddress, ports: taken }: Settings, from: number): Promise<number> {
  const isTaken = (port: number) => Object.values(taken).includes(port)
  let port = 10_000 + (from % 10_000)
  while (isTaken(port) || !(await isFree(bindAddress, port))) port++
  return port
}

const greetings: Check = {
  name: 'greetings',
  title: 'Every port greets within a second',
  async run(context) {
    await context.server()
    const settings = context.settings()
    const services = servicesOf(context)
    const begin = performance.now()
    for (;;) {
      const greeted = await Promise.all(services.map((name) => greet(context, name)))
      const problems = greeted.flatMap(({ problem }) => problem ?? [])
      // Dovecot asks no DNS: what its ports take as well is the machine's own slowness, and no port's fault.
      const busy = Math.min(
        ...greeted.filter(({ name }) => /^(pop3|imap)/.test(name)).map(({ milliseconds }) => milliseconds),
      )
      const slow = greeted.filter(({ milliseconds }) => milliseconds - (Number.isFinite(busy) ? busy : 0) >= SLOW)
      // A busy machine is slow now and then, a wait for the DNS is each time.
      if (problems.length === 0 && slow.length > 0 && performance.now() - begin < CONVERSATION) continue
      const slowest = Math.max(...greeted.map(({ milliseconds }) => milliseconds))
      const evidence = `${services.length} ports on ${settings.host}, the slowest after ${slowest} ms`
      const warnings = slow.filter(({ problem }) => !problem).map((one) => slowFinding(context, one))
      return verdict([...problems, ...warnings], evidence)
    }
  },
}

interface Greeting {
  name: ServiceName
  milliseconds: number
  problem?: Finding
}

const speaksSmtp = (name: ServiceName) => /^(smtp|sub)/.test(name)
const RESTART = 'npm start, then: npm run logs'
const DNS = 'most often a wait for reverse DNS'
const NO_LOOKUP = `Write into ${MAIN_CF}: smtpd_peername_lookup = no, then: npm start`

function slowFinding(context: Context, { name, milliseconds }: Greeting): Finding {
  const why = speaksSmtp(name) ? `, ${DNS}` : ''
  const evidence = `${labelOf(name, context.settings())} greets after ${milliseconds} ms${why}`
  return warning(evidence, speaksSmtp(name) ? NO_LOOKUP : 'Look at the log: npm run logs')
}

async function greet(context: Context, name: ServiceName): Promise<Greeting> {
  const label = labelOf(name, context.settings())
  const begin = performance.now()
  let probe: Probe | undefined
  try {
    probe = await openProbe(context, name)
    const greeting = await probe.line()
    const milliseconds = Math.round(performance.now() - begin)
    probe.send(name.startsWith('imap') ? 'a LOGOUT' : 'QUIT')
    await probe.line().catch(() => '')
    if (/^(220[ -]|\+OK|\* OK)/.test(greeting)) return { name, milliseconds }
    return { name, milliseconds, problem: failure(`${label} greets with "${greeting}"`, 'npm run logs') }
  } catch (error) {
    const milliseconds = Math.round(performance.now() - begin)
    const isSilent = probe !== undefined && milliseconds >= CONVERSATION - 100 && speaksSmtp(name)
    const evidence = `${label}: ${messageOf(error)}${isSilent ? `, ${DNS}` : ''}`
    return { name, milliseconds, problem: failure(evidence, isSilent ? NO_LOOKUP : RESTART) }
  } finally {
    probe?.close()
  }
}

const tls: Check = {
  name: 'tls',
  title: 'STARTTLS and implicit TLS work on every port',
  async run(context) {
    await context.server()
    const { SSL_TYPE } = environmentOf(context.files)
    if (!SSL_TYPE) return [ok('TLS is off (SSL_TYPE is empty)')]
    const fix =
      SSL_TYPE === 'snakeoil' ? RESTART : 'Write SSL_TYPE=snakeoil into development-mail-server.env, then: npm start'
    const services = servicesOf(context)
    const problems = await Promise.all(
      services.map(async (name) => {
        try {
          await handshake(context, name)
          return []
        } catch (error) {
          const how = SERVICES[name].tls === 'implicit' ? 'implicit TLS' : 'STARTTLS'
          const evidence = `${labelOf(name, context.settings())}: ${how} failed: ${messageOf(error)}`
          return [failure(evidence, fix)]
        }
      }),
    )
    return verdict(problems.flat(), `${services.length} ports`)
  },
}

/** Gets TLS on a port, by STARTTLS (RFC 3207, RFC 2595) where it is not implicit. Gives the certificate. */
async function handshake(context: Context, name: ServiceName): Promise<PeerCertificate> {
  const probe = await openProbe(context, name)
  const expect = (line: string, wanted: RegExp) => {
    if (!wanted.test(line)) throw new Error(`the server says "${line}"`)
  }
  try {
    await (name.startsWith('s') ? probe.reply() : probe.line())
    if (SERVICES[name].tls !== 'implicit') {
      if (name === 'pop3') {
        probe.send('STLS')
        expect(await probe.line(), /^\+OK/)
      } else if (name === 'imap') {
        probe.send('a STARTTLS')
        expect((await probe.linesUntil(/^a /)).at(-1) ?? '', /^a OK/)
      } else {
        probe.send('EHLO localhost')
        await probe.reply()
        probe.send('STARTTLS')
        expect((await probe.reply()).at(-1) ?? '', /^220/)
      }
      await probe.startTls()
    }
    const certificate = probe.certificate()
    probe.send(name.startsWith('imap') ? 'b LOGOUT' : 'QUIT')
    await probe.line().catch(() => '')
    return certificate
  } finally {
    probe.close()
  }
}

const certificate: Check = {
  name: 'certificate',
  title: 'The certificates are valid by their dates',
  async run(context) {
    const engine = await context.server()
    if (!environmentOf(context.files).SSL_TYPE) return [ok('TLS is off (SSL_TYPE is empty)')]
    const { stateDir } = context.settings()
    const isOwn = engine.name === 'native' && environmentOf(context.files).SSL_TYPE === 'snakeoil'
    const fix = isOwn
      ? `rm ${stateDir}/tls/certificate.pem && npm stop && npm start`
      : `Put a new certificate into ${CONFIG}/ssl, then: npm stop && npm start`
    // Postfix and Dovecot each have one of their own.
    const services = servicesOf(context)
    const looked = (['smtp', 'imaps', 'pop3s'] as const).filter((name) => services.includes(name)).slice(0, 2)
    const findings = await Promise.all(
      looked.map(async (name) => {
        try {
          const { valid_from, valid_to } = await handshake(context, name)
          return certificateFinding(labelOf(name, context.settings()), valid_from, valid_to, fix)
        } catch {
          // That is for the check "tls" to say.
          return ok('no handshake')
        }
      }),
    )
    const problems = findings.filter(({ level }) => level !== 'ok')
    return verdict(problems, findings[0]?.evidence ?? '')
  },
}

/** Judges a certificate by its dates, as Node prints them. */
export function certificateFinding(where: string, from: string, to: string, fix: string, now = Date.now()): Finding {
  const day = 86_400_000
  const left = Math.floor((Date.parse(to) - now) / day)
  if (Date.parse(from) > now)
    return failure(`${where}: the certificate begins on ${from}; is the clock right? date`, fix)
  if (left < 0) return failure(`${where}: the certificate ended on ${to}`, fix)
  if (left < EXPIRES_SOON) return warning(`${where}: the certificate ends on ${to}`, fix)
  return ok(`until ${to}`)
}

const auth: Check = {
  name: 'auth',
  title: 'AUTH is offered on ports 25 and 587',
  async run(context) {
    await context.server()
    if (environmentOf(context.files).SMTP_ONLY === '1') throw new Skipped('SMTP_ONLY=1: nobody can check a password')
    const problems = await Promise.all(
      (['smtp', 'submission'] as const).map(async (name) => {
        const probe = await openProbe(context, name)
        try {
          await probe.reply()
          probe.send('EHLO localhost')
          const extensions = await probe.reply()
          probe.send('QUIT')
          await probe.line().catch(() => '')
          if (extensions.some((line) => /^250[- ]AUTH[ =].*PLAIN/i.test(line))) return []
          const lines = 'smtpd_sasl_auth_enable = yes and smtpd_tls_auth_only = no'
          const evidence = `${labelOf(name, context.settings())} does not offer AUTH PLAIN without TLS`
          return [failure(evidence, `Write into ${MAIN_CF}: ${lines}, then: npm start`)]
        } finally {
          probe.close()
        }
      }),
    )
    return verdict(problems.flat(), 'AUTH PLAIN')
  },
}

/** The login that opens an account: with its own password where that is known, else the master user's. */
export function loginFor(account: Account): Login {
  const password = knownPassword(account)
  return password ? { user: account.address, password } : masterLogin(account.address)
}

const logins: Check = {
  name: 'logins',
  title: 'Every account can log in',
  async run(context) {
    await context.server()
    const { host, ports: all } = context.settings()
    if (!enabledProtocols(environmentOf(context.files)).pop3) throw new Skipped('POP3 is off, see "env-protocols"')
    const accounts = accountLines(context.files).accounts
    const waiting = accounts.slice(0, LOGINS.most)
    const count = waiting.length
    const problems: Finding[] = []
    const worker = async () => {
      for (let account = waiting.shift(); account; account = waiting.shift()) {
        try {
          const server = { host, port: all.pop3, tls: 'none', timeout: CONVERSATION } as const
          const session = await Pop3Session.open(server, loginFor(account))
          await session.quit()
        } catch (error) {
          const isRefused = (error as Failure).exit === 'login'
          const update = `npm run add-account -- --update ${account.address}`
          const fix = isRefused
            ? `npm start, which brings accounts into effect; else a new password: ${update}`
            : 'npm run logs'
          problems.push(failure(messageOf(error), fix))
        }
      }
    }
    await Promise.all(Array.from({ length: LOGINS.together }, worker))
    const known = accounts.filter((account) => knownPassword(account)).length
    return verdict(problems, `${count} of ${accounts.length} accounts over POP3, ${known} with their initial password`)
  },
}

export const serverChecks: Check[] = [running, ports, greetings, tls, certificate, auth, logins]
