/** The server as its clients see it: every port answers, and every account logs in. */
import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { type Login, masterLogin } from '../accounts/accounts.ts'
import { Failure, messageOf } from '../cli.ts'
import { Pop3Session } from '../mail/pop3.ts'
import { SmtpSession } from '../mail/smtp.ts'
import { enabledProtocols, enabledServices, SERVICES, type ServiceName } from '../settings.ts'
import { type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { ANSWER, type Facts } from './facts.ts'
import { causeIn } from './log.ts'
import { addressesOf } from './rules.ts'
import { answering } from './server.ts'

/** Logins at the same time, and accounts that log in at all. */
const [TOGETHER, MOST] = [8, 40]
/** Milliseconds from which on an answer may be a wait for the DNS. */
const SLOW = 3_000

/** Says commands over IMAP (RFC 3501), each when the one before was answered with OK. Gives all that the server said. */
export async function sayByImap(host: string, port: number, isSecure: boolean, commands: string[]): Promise<string> {
  const socket = isSecure ? connectTls({ host, port, rejectUnauthorized: false }) : connect({ host, port })
  socket.setTimeout(ANSWER, () => socket.destroy(new Error(`IMAP gives no answer within ${ANSWER / 1000} s`)))
  let [said, tag] = ['', 0]
  try {
    for await (const chunk of socket) {
      said += chunk
      const [, status, words] =
        (tag === 0 ? /^\* (\w+) (.*)\r\n/ : new RegExp(`^${tag} (\\w+) (.*)\\r\\n`, 'm')).exec(said) ?? []
      if (!status) continue
      if (status !== 'OK')
        throw new Error(`IMAP answers ${status} ${words} to ${commands[tag - 1]?.split(' ')[0] ?? 'a connection'}`)
      if (tag === commands.length) return said
      socket.write(`${tag + 1} ${commands[tag++]}\r\n`)
    }
    throw new Error('IMAP closed the connection')
  } finally {
    socket.destroy()
  }
}

export const imapLogin = ({ user, password }: Login) =>
  `LOGIN ${[user, password].map((word) => `"${word.replace(/(["\\])/g, '\\$1')}"`).join(' ')}`

/** Logs in on each port with the first account, and over POP3 with all of them, by the master user. */
export async function logins(facts: Facts): Promise<Finding[]> {
  const engine = await answering(facts)
  const { host, ports } = facts.settings()
  const { SSL_TYPE } = facts.environment()
  const services = enabledServices(facts.environment())
  const [first = '', ...others] = addressesOf(facts).slice(0, MOST)
  if (!first) throw new Skipped('there is no account to log in with')
  const look = async (name: ServiceName, address: string) => {
    const [port, login, begin] = [ports[name], masterLogin(address), performance.now()]
    // STARTTLS on 587, TLS from the first byte on 465, 993 and 995; on 25, 110 and 143 as most programs log in, without.
    const tls = !SSL_TYPE ? 'none' : name === 'submission' ? 'starttls' : /s$/.test(name) ? 'implicit' : 'none'
    const server = { host, port, tls, timeout: ANSWER } as const
    let error: unknown
    try {
      if (name.startsWith('imap')) await sayByImap(host, port, tls === 'implicit', [imapLogin(login)])
      else if (name.startsWith('pop3')) await (await Pop3Session.open(server, login)).quit()
      else await (await SmtpSession.open(server, { login, loginWasChosen: true })).close()
    } catch (thrown) {
      error = thrown
    }
    return { label: `${SERVICES[name].protocol} on port ${port}`, address, error, took: performance.now() - begin }
  }
  const tries = services.map((name) => () => look(name, first))
  if (services.includes('pop3')) tries.push(...others.map((address) => () => look('pop3', address)))
  const all: Awaited<ReturnType<typeof look>>[] = []
  const worker = async () => {
    for (let next = tries.shift(); next; next = tries.shift()) all.push(await next())
  }
  await Promise.all(Array.from({ length: TOGETHER }, worker))
  const bad = all.filter(({ error }) => error)
  const cause = bad.length > 0 ? causeIn(await engine.logged()) : undefined
  const problems = bad.map(({ label, address, error }) => {
    // Where others get in, the account is at fault.
    const isRefused = bad.length === 1 && error instanceof Failure && error.exit === 'login'
    const evidence = `${label} for ${address}: ${messageOf(error)}${cause ? `; the log says ${cause}` : ''}`
    return failure(evidence, isRefused ? `npm run add-account -- --update ${address}` : undefined)
  })
  const times = all.sort((a, b) => b.took - a.took)
  const [{ label, took } = { label: '', took: 0 }, quickest] = [times[0], times.at(-1)?.took ?? 0]
  // What all of them take is the machine's own slowness.
  if (problems.length === 0 && took > Math.max(SLOW, 4 * quickest))
    problems.push(warning(`slow: ${label} took ${(took / 1000).toFixed(1)} s to answer`))
  return verdict(
    problems,
    `${services.length} ports on ${host}, ${others.length + 1} accounts, the slowest after ${Math.round(took)} ms`,
  )
}

/** A session over POP3, where the environment file has it on. */
export function openPop3(facts: Facts, login: Login): Promise<Pop3Session> {
  if (!enabledProtocols(facts.environment()).pop3) throw new Skipped('POP3 is off, see "environment"')
  const { host, ports } = facts.settings()
  return Pop3Session.open({ host, port: ports.pop3, tls: 'none', timeout: ANSWER }, login)
}

/** A session over SMTP on port 25; with a login where one is given. */
export function openSmtp(facts: Facts, login?: Login): Promise<SmtpSession> {
  const { host, ports } = facts.settings()
  const options = { login, loginWasChosen: login !== undefined }
  return SmtpSession.open({ host, port: ports.smtp, tls: 'none', timeout: ANSWER }, options)
}
