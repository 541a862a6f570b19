/** The server as its clients see it: greetings, TLS, AUTH, logins. */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { type Account, masterLogin, parseAccounts } from '../accounts/accounts.ts'
import { type Failure, messageOf } from '../cli.ts'
import { enabledProtocols, SERVICES, type ServiceName, type Settings } from '../settings.ts'
import { type Check, EXPLAINS, type Finding, failure, ok, Skipped, verdict, warning } from './check.ts'
import { inConfig } from './facts.ts'
import { ANSWER } from './program.ts'
import { causeIn } from './rules_log.ts'
import { answering, servicesOf } from './server.ts'
import { type Step, talk, Unexpected } from './talk.ts'

/** Days before its end that a certificate is warned about. */
const EXPIRES_SOON = 14
/** Accounts that log in at the same time, and at all. */
const LOGINS = { together: 4, most: 40 }
/** Milliseconds from which on a greeting may be a wait for the DNS. */
const SLOW = 3_000

const labelOf = (name: ServiceName, { ports }: Settings) => `${SERVICES[name].protocol} on port ${ports[name]}`

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

export const answerChecks: Check[] = [answers, certificate, logins]
