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

/** Accounts that log in at the same time, and at all. */
const LOGINS = { together: 4, most: 40 }
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

export async function answers(facts: Facts): Promise<Finding[]> {
  const engine = await answering(facts)
  const { host, ports } = facts.settings()
  const [address] = addressesOf(facts)
  if (!address) throw new Skipped('there is no account to log in with')
  const login = masterLogin(address)
  const look = async (name: ServiceName) => {
    const [port, begin] = [ports[name], performance.now()]
    // Port 25 has no TLS here; 587, 110 and 143 have STARTTLS, the others TLS from the first byte.
    const isPlain = !facts.environment().SSL_TYPE || name === 'smtp'
    const server = {
      host,
      port,
      tls: isPlain ? 'none' : /s$/.test(name) ? 'implicit' : 'starttls',
      timeout: ANSWER,
    } as const
    const label = `${SERVICES[name].protocol} on port ${port}`
    const open: Promise<unknown> = name.startsWith('imap')
      ? sayByImap(host, port, server.tls === 'implicit', [imapLogin(login)])
      : name.startsWith('pop3')
        ? Pop3Session.open(server, login).then((session) => session.quit())
        : SmtpSession.open(server, { login, loginWasChosen: true }).then((session) => session.close())
    const problem = await open.then(
      () => undefined,
      (error) => `${label}: ${messageOf(error)}`,
    )
    return { label, problem, took: performance.now() - begin }
  }
  const all = (await Promise.all(enabledServices(facts.environment()).map(look))).sort((a, b) => b.took - a.took)
  const bad = all.flatMap(({ problem }) => problem ?? [])
  const cause = bad.length > 0 ? causeIn(await engine.logged()) : undefined
  if (bad.length > 0) return bad.map((problem) => failure(problem + (cause ? `; the log says ${cause}` : '')))
  const [{ label, took } = { label: '', took: 0 }, quickest] = [all[0], all.at(-1)?.took ?? 0]
  // What all of them take is the machine's own slowness.
  const slow =
    took > Math.max(SLOW, 4 * quickest) ? [warning(`slow: ${label} took ${(took / 1000).toFixed(1)} s to answer`)] : []
  return verdict(slow, `${all.length} ports on ${host}, the slowest after ${Math.round(took)} ms`)
}

/** A session over POP3, where the environment file has it on. */
export function openPop3(facts: Facts, login: Login): Promise<Pop3Session> {
  if (!enabledProtocols(facts.environment()).pop3) throw new Skipped('POP3 is off, see "environment"')
  const { host, ports } = facts.settings()
  return Pop3Session.open({ host, port: ports.pop3, tls: 'none', timeout: ANSWER }, login)
}

export async function logins(facts: Facts): Promise<Finding[]> {
  await answering(facts)
  const waiting = addressesOf(facts).slice(0, LOGINS.most)
  const count = waiting.length
  const problems: Finding[] = []
  const worker = async () => {
    for (let address = waiting.shift(); address; address = waiting.shift()) {
      const error = await openPop3(facts, masterLogin(address))
        .then((session) => session.quit())
        .catch((thrown) => thrown)
      if (error instanceof Skipped) throw error
      const isRefused = error instanceof Failure && error.exit === 'login'
      if (error)
        problems.push(failure(messageOf(error), isRefused ? `npm run add-account -- --update ${address}` : undefined))
    }
  }
  await Promise.all(Array.from({ length: LOGINS.together }, worker))
  // Where nobody gets in, no account is at fault.
  if (problems.length === count && count > 1) return [failure(`no account can log in: ${problems[0]?.evidence}`)]
  return verdict(problems, `${count} accounts over POP3`)
}

/** A session over SMTP on port 25; with a login where one is given. */
export function openSmtp(
  facts: Facts,
  login?: Login,
  tell?: (who: 'client' | 'server', line: string) => void,
): Promise<SmtpSession> {
  const { host, ports } = facts.settings()
  const options = { login, loginWasChosen: login !== undefined, ...(tell && { tell }) }
  return SmtpSession.open({ host, port: ports.smtp, tls: 'none', timeout: ANSWER }, options)
}
