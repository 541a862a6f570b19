/** The server as its clients see it: every port answers, every account logs in, and test mails arrive, are read and removed. */
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { BAR, CATCHALL, FOO, type Login, masterLogin } from '../accounts/accounts.ts'
import { Failure, messageOf } from '../cli.ts'
import { Pop3Session } from '../mail/pop3.ts'
import { SmtpSession } from '../mail/smtp.ts'
import { enabledProtocols, enabledServices, SERVICES } from '../settings.ts'
import { type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { ANSWER, type Facts, MAIN_CF, VIRTUAL } from './facts.ts'
import { causeIn, explained, fixOf, queueOf } from './log.ts'
import { addressesOf, domainsOf } from './rules.ts'
import { answering } from './server.ts'

/** Milliseconds for a test mail to arrive while the server is at work on it: a loaded machine takes its time. */
const DELIVERY = 20_000
/** Milliseconds until the queue and the log are asked where the mail is, and for one that was delivered to be seen. */
const [IMPATIENCE, SEEN] = [1_000, 3_000]
/** How many of the newest messages are looked at for the test mail. */
const NEWEST = 50
/** Accounts that log in at the same time, and at all. */
const LOGINS = { together: 4, most: 40 }
/** Milliseconds from which on an answer may be a wait for the DNS. */
const SLOW = 3_000

type Tls = 'none' | 'starttls' | 'implicit'
const seconds = (milliseconds: number) => `${(milliseconds / 1000).toFixed(1)} s`

/** Says commands over IMAP (RFC 3501), each when the one before was answered with OK. Gives all that the server said. */
async function sayByImap(host: string, port: number, tls: Tls, commands: string[]): Promise<string> {
  const socket = tls === 'implicit' ? connectTls({ host, port, rejectUnauthorized: false }) : connect({ host, port })
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

const quoted = (text: string) => `"${text.replace(/(["\\])/g, '\\$1')}"`
const imapLogin = ({ user, password }: Login) => `LOGIN ${quoted(user)} ${quoted(password)}`

export async function answers(facts: Facts): Promise<Finding[]> {
  const engine = await answering(facts)
  const { host, ports } = facts.settings()
  const isSecure = Boolean(facts.environment().SSL_TYPE)
  const [address] = addressesOf(facts)
  if (!address) throw new Skipped('there is no account to log in with')
  const login = masterLogin(address)
  const problems: Finding[] = []
  const look = async (name: keyof typeof SERVICES) => {
    const [port, begin] = [ports[name], performance.now()]
    // Port 25 has no TLS here; 587, 110 and 143 have STARTTLS, the others TLS from the first byte.
    const tls: Tls = !isSecure || name === 'smtp' ? 'none' : /s$/.test(name) ? 'implicit' : 'starttls'
    const server = { host, port, tls, timeout: ANSWER }
    try {
      if (name.startsWith('imap')) await sayByImap(host, port, tls, [imapLogin(login)])
      else if (name.startsWith('pop3')) await (await Pop3Session.open(server, login)).quit()
      else await (await SmtpSession.open(server, { login, loginWasChosen: true })).close()
    } catch (error) {
      problems.push(failure(`${SERVICES[name].protocol} on port ${port}: ${messageOf(error)}`))
    }
    return { name, took: performance.now() - begin }
  }
  const times = (await Promise.all(enabledServices(facts.environment()).map(look))).sort((a, b) => a.took - b.took)
  const [quickest, slowest] = [times[0], times.at(-1)]
  const cause = problems.length > 0 ? causeIn(await engine.logged()) : undefined
  if (cause) for (const problem of problems) problem.evidence += `; the log says ${cause}`
  // What all of them take is the machine's own slowness.
  if (problems.length === 0 && slowest && quickest && slowest.took > Math.max(SLOW, 4 * quickest.took))
    problems.push(
      warning(
        `slow: ${SERVICES[slowest.name].protocol} on port ${ports[slowest.name]} took ${seconds(slowest.took)} to answer`,
      ),
    )
  return verdict(problems, `${times.length} ports on ${host}, the slowest after ${Math.round(slowest?.took ?? 0)} ms`)
}

/** A session over POP3, where the environment file has it on. */
function openPop3(facts: Facts, login: Login): Promise<Pop3Session> {
  if (!enabledProtocols(facts.environment()).pop3) throw new Skipped('POP3 is off, see "environment"')
  const { host, ports } = facts.settings()
  return Pop3Session.open({ host, port: ports.pop3, tls: 'none', timeout: ANSWER }, login)
}

export async function logins(facts: Facts): Promise<Finding[]> {
  await answering(facts)
  const all = addressesOf(facts)
  const waiting = all.slice(0, LOGINS.most)
  const count = waiting.length
  const problems: Finding[] = []
  const worker = async () => {
    for (let address = waiting.shift(); address; address = waiting.shift()) {
      try {
        await (await openPop3(facts, masterLogin(address))).quit()
      } catch (error) {
        if (error instanceof Skipped) throw error
        const isRefused = error instanceof Failure && error.exit === 'login'
        problems.push(failure(messageOf(error), isRefused ? `npm run add-account -- --update ${address}` : undefined))
      }
    }
  }
  await Promise.all(Array.from({ length: LOGINS.together }, worker))
  // Where nobody gets in, no account is at fault.
  if (problems.length === count && count > 1) return [failure(`no account can log in: ${problems[0]?.evidence}`)]
  return verdict(problems, `${count} of ${all.length} accounts over POP3`)
}

interface TestMail {
  to: string
  /** The random part of its Message-ID. */
  id: string
  /** How Postfix calls it. */
  queueId: string
  begin: number
}

function openSmtp(
  facts: Facts,
  login?: Login,
  tell?: (who: 'client' | 'server', line: string) => void,
): Promise<SmtpSession> {
  const { host, ports } = facts.settings()
  const options = { login, loginWasChosen: login !== undefined, ...(tell && { tell }) }
  return SmtpSession.open({ host, port: ports.smtp, tls: 'none', timeout: ANSWER }, options)
}

/** Sends a test mail. Throws with the server's words where it is not taken. */
async function send(facts: Facts, to: string, login?: Login): Promise<TestMail> {
  const [id, begin] = [`doctor-${randomBytes(8).toString('hex')}`, performance.now()]
  const header = [
    `From: ${FOO}`,
    `To: ${to}`,
    `Message-ID: <${id}@development-virtual.example.com>`,
    'Subject: Test mail of npm run doctor',
  ]
  const bytes = Buffer.from([...header, '', 'This mail is deleted as soon as it was read.', ''].join('\r\n'))
  const session = await openSmtp(facts, login)
  const { problem, queueId } = await session.deliver({ envelope: { from: FOO, to: [to] }, bytes })
  await session.close()
  if (problem) throw new Error(problem)
  return { to, id, begin, queueId: queueId ?? '' }
}

/** Looks once for a mail over POP3, and gives its header. A session sees the mailbox as it was at login (RFC 1939 section 5). */
async function look(facts: Facts, login: Login, mail: TestMail, deletes: boolean): Promise<string | undefined> {
  const session = await openPop3(facts, login)
  try {
    let found: string | undefined
    for (const message of (await session.list()).slice(-NEWEST).reverse()) {
      // Another reader may have deleted it since.
      const header = (await session.top(message).catch(() => undefined))?.toString('latin1')
      if (!header?.includes(mail.id)) continue
      found ??= header
      if (deletes) await session.delete(message)
    }
    await session.quit()
    return found
  } finally {
    session.close()
  }
}

/** Finds a mail over IMAP and deletes it. Gives whether it was there. */
async function takeByImap(facts: Facts, login: Login, { id }: TestMail): Promise<string | undefined> {
  const { host, ports } = facts.settings()
  const open = [imapLogin(login), 'SELECT INBOX']
  const said = await sayByImap(host, ports.imap, 'none', [...open, `SEARCH HEADER Message-ID ${id}`])
  const numbers = /^\* SEARCH ([\d ]+)/m.exec(said)?.[1]?.trim().replaceAll(' ', ',')
  if (numbers)
    await sayByImap(host, ports.imap, 'none', [...open, `STORE ${numbers} +FLAGS.SILENT (\\Deleted)`, 'EXPUNGE'])
  return numbers
}

/** Follows a mail that was accepted until `seen` gives something, and gives that, or what became of the mail instead. */
async function follow(
  facts: Facts,
  mail: TestMail,
  seen: () => Promise<string | undefined>,
): Promise<string | Finding> {
  let sentAt = 0
  for (let wait = 30; ; wait = Math.min(wait * 1.5, 500)) {
    await sleep(wait)
    const found = await seen()
    if (found !== undefined) return found
    const waited = performance.now() - mail.begin
    if (waited < IMPATIENCE) continue
    const fate = await fateOf(facts, mail)
    if (fate.is === 'sent') sentAt ||= waited
    const isLost = fate.is === 'stuck' || (sentAt > 0 && waited - sentAt > SEEN)
    if (!isLost && waited < DELIVERY) continue
    const is = `the mail to ${mail.to} was accepted`
    if (!isLost && fate.is === 'moving') return warning(`slow: ${is} and is still on its way after ${seconds(waited)}`)
    return failure(`${is} and did not arrive: ${explained(fate.said)}`, fixOf(fate.said))
  }
}

/** Where a mail is that did not arrive yet: the queue and the log say it. */
async function fateOf(facts: Facts, { queueId }: TestMail): Promise<{ is: 'moving' | 'sent' | 'stuck'; said: string }> {
  const lines = await (await facts.server()).logged()
  const queued = (await queueOf(facts)).find(({ queue_id }) => queue_id === queueId)
  if (queued?.queue_name === 'hold') return { is: 'stuck', said: 'it is on hold in the queue' }
  const reason = queued?.recipients.find(({ delay_reason }) => delay_reason)?.delay_reason ?? causeIn(lines)
  if (queued?.queue_name === 'deferred') return { is: 'stuck', said: reason ?? 'it was deferred without a reason' }
  const last = lines.findLast((line) => line.includes(`${queueId}:`) && line.includes('status=')) ?? ''
  if (/status=bounced/.test(last)) return { is: 'stuck', said: `it bounced: ${last.replace(/^.*?status=bounced/, '')}` }
  if (/status=sent/.test(last)) return { is: 'sent', said: `it went elsewhere: ${last.replace(/^.*?: to=/, 'to=')}` }
  return { is: 'moving', said: reason ?? 'nothing is logged about it' }
}

/** Sends a mail and judges what is found of it; others learn whether mail flows. Words of the server are what went wrong. */
function flow(
  facts: Facts,
  name: string,
  test: (sent: (mail: TestMail) => TestMail) => Promise<Finding[]>,
): Promise<Finding[]> {
  const result = (async () => {
    let mail: TestMail | undefined
    try {
      await answering(facts)
      const findings = await test((sent) => (mail = sent))
      if (findings[0]?.level === 'ok') mail = undefined
      return findings
    } catch (error) {
      if (error instanceof Skipped || error instanceof TypeError) throw error
      return [failure(explained(messageOf(error)), fixOf(messageOf(error)))]
    } finally {
      // Lest it arrives later.
      if (mail?.queueId) await (await facts.server()).exec(['postsuper', '-d', mail.queueId], { timeout: ANSWER })
    }
  })()
  facts.flows.set(
    name,
    result.then(
      ([finding]) => finding?.level === 'ok',
      () => false,
    ),
  )
  return result
}

function assertAccounts(facts: Facts, ...addresses: string[]): void {
  const missing = addresses.find((address) => !addressesOf(facts).includes(address))
  if (missing) throw new Skipped(`there is no account ${missing}`)
}

const since = ({ begin }: TestMail) => `${Math.round(performance.now() - begin)} ms`

export const mailVirtual = (facts: Facts) =>
  flow(facts, 'virtual', async (sent) => {
    const { pop3, imap } = enabledProtocols(facts.environment())
    if (!pop3 && !imap) throw new Skipped('POP3 and IMAP are off, see "environment"')
    assertAccounts(facts, FOO, BAR)
    const mail = sent(await send(facts, BAR, masterLogin(FOO)))
    const login = masterLogin(BAR)
    const byImap = () => takeByImap(facts, login, mail)
    const found = await follow(facts, mail, pop3 ? () => look(facts, login, mail, !imap) : byImap)
    if (typeof found !== 'string') return [found]
    const read = `read over ${pop3 ? 'POP3' : 'IMAP'} after ${since(mail)}`
    if (!pop3 || !imap) return verdict([], read)
    const isThere = await byImap().finally(() => look(facts, login, mail, true))
    if (isThere) return verdict([], `${read}, over IMAP after ${since(mail)}`)
    return [failure(`the mail to ${BAR} is there over POP3, and not over IMAP`)]
  })

export const mailForeign = (facts: Facts) =>
  flow(facts, 'foreign', async (sent) => {
    if (!enabledProtocols(facts.environment()).pop3) throw new Skipped('POP3 is off, see "environment"')
    assertAccounts(facts, CATCHALL)
    const random = randomBytes(4).toString('hex')
    // A reserved name (RFC 2606): even a server that lets mail out has nowhere to send this one.
    const mail = sent(await send(facts, `someone-${random}@${random}.example`))
    const found = await follow(facts, mail, () => look(facts, masterLogin(CATCHALL), mail, true))
    if (typeof found !== 'string') return [found]
    if (new RegExp(`^(X-Original-To|Delivered-To): <?${mail.to}>?\\s*$`, 'im').test(found))
      return verdict([], `${mail.to} ends in catchall after ${since(mail)}`)
    return [failure(`the mail to ${mail.to} is in catchall, and no X-Original-To names that address`)]
  })

export async function mailUnknown(facts: Facts): Promise<Finding[]> {
  await answering(facts)
  const domain = BAR.replace(/.*@/, '')
  const takesAll = facts.entries(VIRTUAL).some(({ text }) => text.toLowerCase().startsWith(`@${domain} `))
  if (!domainsOf(facts).includes(domain) || takesAll) throw new Skipped(`${domain} takes any address, or none`)
  const recipient = `nobody-${randomBytes(4).toString('hex')}@${domain}`
  const said: string[] = []
  try {
    const session = await openSmtp(facts, undefined, (who, line) =>
      who === 'client' && /^RCPT/i.test(line) ? said.splice(0) : said.push(line),
    )
    await session.accepts(recipient)
    const reply = said[0] ?? ''
    await session.close()
    if (reply.startsWith('550')) return verdict([], `${reply.slice(0, 9)} for ${recipient}`)
    const why = reply.startsWith('2')
      ? `see smtpd_recipient_restrictions and virtual_alias_domains in ${MAIN_CF}`
      : explained(reply)
    return [failure(`RCPT TO:<${recipient}> got "${reply}", not 550: ${why}`)]
  } catch (error) {
    return [failure(explained(messageOf(error)))]
  }
}
