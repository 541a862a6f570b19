/** The server as its clients see it: every port answers, every account logs in, and mail really flows. */
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { BAR, CATCHALL, FOO, type Login, masterLogin, VIRTUAL_DOMAIN } from '../accounts/accounts.ts'
import { Failure, messageOf } from '../cli.ts'
import { Pop3Session } from '../mail/pop3.ts'
import { SmtpSession } from '../mail/smtp.ts'
import { enabledProtocols, enabledServices, SERVICES, type ServiceName } from '../settings.ts'
import { type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { ANSWER, type Facts, MAIN_CF, VIRTUAL } from './facts.ts'
import { causeIn, explained, fixOf } from './log.ts'
import { answering, queueOf } from './server.ts'
import { addressesOf, domainsOf } from './values.ts'

/** Accounts that log in; of very many the others are alike. */
const MOST = 40
/** Milliseconds from which on an answer may be a wait for the DNS. */
const SLOW = 3_000
/** Milliseconds for a test mail to arrive while the server is at work on it: a loaded machine takes its time. */
const DELIVERY = 20_000
/** Milliseconds until the queue and the log are asked where the mail is, and for one that was delivered to be seen. */
const [IMPATIENCE, SEEN] = [1_000, 3_000]
/** Milliseconds for what a daemon logs to stand in the log. */
const LOGGED = 500
/** How many of the newest messages are looked at for the test mail. */
const NEWEST = 50

/** What went wrong, less the clients' advice to ask whether the server is up. */
const wordsOf = (error: unknown) => messageOf(error).replace(/ Is the server up\? npm run status$/, '')

type Tls = 'none' | 'starttls' | 'implicit'

/** Says commands over IMAP (RFC 3501), each when the one before was answered with OK. Gives all that the server said. */
async function sayByImap(facts: Facts, name: 'imap' | 'imaps', { user, password }: Login, more: string[] = []) {
  const { host, ports } = facts.settings()
  const at = { host, port: ports[name] }
  const socket = name === 'imaps' ? connectTls({ ...at, rejectUnauthorized: false }) : connect(at)
  socket.setTimeout(ANSWER, () => socket.destroy(new Error(`IMAP gives no answer within ${ANSWER / 1000} s`)))
  const quoted = [user, password].map((word) => `"${word.replace(/(["\\])/g, '\\$1')}"`)
  const commands = [`LOGIN ${quoted.join(' ')}`, ...more]
  let [said, tag] = ['', 0]
  try {
    for await (const chunk of socket) {
      said += chunk
      const reply = tag === 0 ? /^\* (\w+) (.*)\r\n/ : new RegExp(`^${tag} (\\w+) (.*)\\r\\n`, 'm')
      const [, status, words] = reply.exec(said) ?? []
      if (!status) continue
      const asked = commands[tag - 1]?.split(' ')[0] ?? 'a connection'
      if (status !== 'OK') throw new Error(`IMAP answers ${status} ${words} to ${asked}`)
      if (tag === commands.length) return said
      socket.write(`${tag + 1} ${commands[tag++]}\r\n`)
    }
    throw new Error('IMAP closed the connection')
  } finally {
    socket.destroy()
  }
}

function openPop3(facts: Facts, login: Login, name: 'pop3' | 'pop3s' = 'pop3'): Promise<Pop3Session> {
  const { host, ports } = facts.settings()
  const tls = name === 'pop3s' ? 'implicit' : 'none'
  return Pop3Session.open({ host, port: ports[name], tls, timeout: ANSWER }, login)
}

/** A session over SMTP; with a login where one is given. */
function openSmtp(facts: Facts, login?: Login, name: ServiceName = 'smtp', tls: Tls = 'none'): Promise<SmtpSession> {
  const { host, ports } = facts.settings()
  const options = { login, loginWasChosen: login !== undefined }
  return SmtpSession.open({ host, port: ports[name], tls, timeout: ANSWER }, options)
}

/** Logs in on each port with the first account, and over POP3 with all of them, by the master user; at SMTP alone without. */
export async function logins(facts: Facts): Promise<Finding[]> {
  const engine = await answering(facts)
  const { host, ports } = facts.settings()
  const { SSL_TYPE, SMTP_ONLY } = facts.environment()
  const services = enabledServices(facts.environment())
  const [first = '', ...others] = addressesOf(facts).slice(0, MOST)
  if (!first) throw new Skipped('there is no account to log in with')
  const open = async (name: ServiceName, login: Login) => {
    if (name === 'imap' || name === 'imaps') return sayByImap(facts, name, login)
    if (name === 'pop3' || name === 'pop3s') return (await openPop3(facts, login, name)).quit()
    // STARTTLS on 587, TLS from the first byte on 465; on 25, as on 110 and 143, as most programs log in, without.
    const tls = !SSL_TYPE || name === 'smtp' ? 'none' : name === 'submission' ? 'starttls' : 'implicit'
    return (await openSmtp(facts, SMTP_ONLY === '1' ? undefined : login, name, tls)).close()
  }
  const look = async (name: ServiceName, address: string) => {
    const begin = performance.now()
    const error = await open(name, masterLogin(address)).then(
      () => undefined,
      (error) => error,
    )
    return {
      name,
      label: `${SERVICES[name].protocol} on port ${ports[name]}`,
      address,
      error,
      took: performance.now() - begin,
    }
  }
  const more = services.includes('pop3') ? others : []
  const all = await Promise.all([
    ...services.map((name) => look(name, first)),
    ...more.map((address) => look('pop3', address)),
  ])
  let bad = all.filter(({ error }) => error)
  // What the log says while it fails once more is about that, and not about what is over.
  const before = bad.length > 0 ? await engine.logged() : []
  bad = (await Promise.all(bad.map(({ name, address }) => look(name, address)))).filter(({ error }) => error)
  if (bad.length > 0) await sleep(LOGGED)
  const logged = bad.length > 0 ? await engine.logged() : []
  const cause = causeIn(logged.slice(logged.lastIndexOf(before.at(-1) ?? '') + 1))
  const problems = bad.map(({ label, address, error }) => {
    // Where others get in, the account is at fault.
    const isRefused = bad.length === 1 && error instanceof Failure && error.exit === 'login'
    const evidence = `${label} for ${address}: ${wordsOf(error)}${cause ? `; the log says ${cause}` : ''}`
    return failure(evidence, isRefused ? `npm run add-account -- --update ${address}` : undefined)
  })
  const times = all.sort((a, b) => b.took - a.took)
  const [{ label, took } = { label: '', took: 0 }, quickest] = [times[0], times.at(-1)?.took ?? 0]
  // What all of them take is the machine's own slowness.
  if (problems.length === 0 && took > Math.max(SLOW, 4 * quickest))
    problems.push(warning(`slow: ${label} took ${(took / 1000).toFixed(1)} s to answer`))
  const accounts = SMTP_ONLY === '1' ? 'without a login' : `${others.length + 1} accounts`
  return verdict(problems, `${services.length} ports on ${host}, ${accounts}, the slowest after ${Math.round(took)} ms`)
}

interface TestMail {
  to: string
  /** The random part of its Message-ID. */
  id: string
  /** How Postfix calls it. */
  queueId: string
  begin: number
}

/** Sends a test mail. Throws with the server's words where it is not taken. */
async function send(facts: Facts, to: string, login?: Login): Promise<TestMail> {
  const [id, begin] = [`doctor-${randomBytes(8).toString('hex')}`, performance.now()]
  const header = `From: ${FOO}\r\nTo: ${to}\r\nMessage-ID: <${id}@${VIRTUAL_DOMAIN}>\r\nSubject: Test mail of npm run doctor\r\n`
  const bytes = Buffer.from(`${header}\r\nThis mail is deleted as soon as it was read.\r\n`)
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

/** Finds a mail over IMAP and deletes it, "$" being what was found (RFC 5182). Gives its number; undefined where it is not there. */
async function takeByImap(facts: Facts, login: Login, { id }: TestMail): Promise<string | undefined> {
  const search = `SEARCH RETURN (SAVE ALL) HEADER Message-ID ${id}`
  const commands = ['SELECT INBOX', search, 'STORE $ +FLAGS.SILENT (\\Deleted)', 'EXPUNGE']
  return /^\* ESEARCH .*\bALL (\S+)/m.exec(await sayByImap(facts, 'imap', login, commands))?.[1]
}

/** Follows a mail that was accepted until `seen` gives something, and gives that, or what became of the mail instead. */
async function follow(facts: Facts, mail: TestMail, seen: () => Promise<string | undefined>) {
  const is = `the mail to ${mail.to} was accepted`
  for (let [wait, sentAt] = [50, 0]; ; wait = Math.min(wait * 1.5, 500)) {
    await sleep(wait)
    const found = await seen()
    if (found !== undefined) return found
    const waited = performance.now() - mail.begin
    if (waited < IMPATIENCE) continue
    const { stuck, sent } = await fateOf(facts, mail)
    if (sent) sentAt ||= waited
    const said = stuck ?? (waited - sentAt > SEEN ? sent : undefined)
    if (said) return failure(`${is} and did not arrive: ${explained(said)}`, fixOf(said))
    if (waited > DELIVERY && !sent)
      return warning(`slow: ${is} and is still on its way after ${(waited / 1000).toFixed(1)} s`)
  }
}

/** Why a mail that did not arrive yet is stuck, or where it was delivered to; neither while it is on its way. */
async function fateOf(facts: Facts, { queueId }: TestMail): Promise<{ stuck?: string; sent?: string }> {
  const lines = await (await facts.server()).logged()
  const { queue_name, recipients = [] } = (await queueOf(facts)).find(({ queue_id }) => queue_id === queueId) ?? {}
  if (queue_name === 'hold') return { stuck: 'it is on hold in the queue' }
  // What was logged before this mail is not about it.
  const since = lines.slice(
    Math.max(
      0,
      lines.findIndex((line) => line.includes(`${queueId}:`)),
    ),
  )
  const reason = recipients.find(({ delay_reason }) => delay_reason)?.delay_reason ?? causeIn(since)
  if (queue_name === 'deferred') return { stuck: reason ?? 'it was deferred without a reason' }
  const last = lines.findLast((line) => line.includes(`${queueId}:`) && line.includes('status=')) ?? ''
  if (/status=bounced/.test(last)) return { stuck: `it bounced: ${last.replace(/^.*?status=bounced/, '')}` }
  return /status=sent/.test(last) ? { sent: `it went elsewhere: ${last.replace(/^.*?: to=/, 'to=')}` } : {}
}

/** Runs a test with a mail, and takes one that did not arrive out of the queue. Words of the server are what went wrong. */
async function flow(facts: Facts, test: (sent: (mail: TestMail) => TestMail) => Promise<Finding>): Promise<Finding[]> {
  let mail: TestMail | undefined
  try {
    await answering(facts)
    const finding = await test((sent) => (mail = sent))
    if (finding.level === 'ok') mail = undefined
    return [finding]
  } catch (error) {
    if (error instanceof Skipped || error instanceof TypeError) throw error
    return [failure(explained(wordsOf(error)), fixOf(wordsOf(error)))]
  } finally {
    // Lest it arrives later.
    if (mail?.queueId) await (await facts.server()).exec(['postsuper', '-d', mail.queueId], { timeout: ANSWER })
  }
}

function assertAccounts(facts: Facts, ...addresses: string[]): void {
  const missing = addresses.find((address) => !addressesOf(facts).includes(address))
  if (missing) throw new Skipped(`there is no account ${missing}`)
}

const ok = (evidence: string): Finding => ({ level: 'ok', evidence })
const since = ({ begin }: TestMail) => `${Math.round(performance.now() - begin)} ms`

export const mailVirtual = (facts: Facts) =>
  flow(facts, async (sent) => {
    const { pop3, imap } = enabledProtocols(facts.environment())
    if (!pop3 && !imap) throw new Skipped('POP3 and IMAP are off, see "environment"')
    assertAccounts(facts, FOO, BAR)
    const mail = sent(await send(facts, BAR, masterLogin(FOO)))
    const login = masterLogin(BAR)
    const byImap = () => takeByImap(facts, login, mail)
    const found = await follow(facts, mail, pop3 ? () => look(facts, login, mail, !imap) : byImap)
    if (typeof found !== 'string') return found
    const read = `read over ${pop3 ? 'POP3' : 'IMAP'} after ${since(mail)}`
    if (!pop3 || !imap) return ok(read)
    let number: string | undefined
    try {
      number = await byImap()
    } finally {
      if (!number) await look(facts, login, mail, true)
    }
    if (number) return ok(`${read}, over IMAP after ${since(mail)}`)
    return failure(`the mail to ${BAR} is there over POP3, and not over IMAP`)
  })

export const mailForeign = (facts: Facts) =>
  flow(facts, async (sent) => {
    if (!enabledProtocols(facts.environment()).pop3) throw new Skipped('POP3 is off, see "environment"')
    assertAccounts(facts, CATCHALL)
    const random = randomBytes(4).toString('hex')
    // A reserved name (RFC 2606): even a server that lets mail out has nowhere to send this one.
    const mail = sent(await send(facts, `someone-${random}@${random}.example`))
    const found = await follow(facts, mail, () => look(facts, masterLogin(CATCHALL), mail, true))
    if (typeof found !== 'string') return found
    const isNamed = new RegExp(`^(X-Original-To|Delivered-To): <?${mail.to}>?\\s*$`, 'im').test(found)
    if (isNamed) return ok(`${mail.to} ends in catchall after ${since(mail)}`)
    return failure(`the mail to ${mail.to} is in catchall, and no X-Original-To names that address`)
  })

export async function mailUnknown(facts: Facts): Promise<Finding[]> {
  await answering(facts)
  const takesAll = facts.entries(VIRTUAL).some(({ text }) => text.toLowerCase().startsWith(`@${VIRTUAL_DOMAIN} `))
  if (!domainsOf(facts).includes(VIRTUAL_DOMAIN) || takesAll)
    throw new Skipped(`${VIRTUAL_DOMAIN} takes any address, or none`)
  const recipient = `nobody-${randomBytes(4).toString('hex')}@${VIRTUAL_DOMAIN}`
  try {
    const session = await openSmtp(facts)
    const reply = await session.replyTo(recipient)
    await session.close()
    if (reply.startsWith('550')) return verdict([], `${reply.slice(0, 9)} for ${recipient}`)
    const where = `see smtpd_recipient_restrictions and virtual_alias_domains in ${MAIN_CF}`
    return [failure(`RCPT TO:<${recipient}> got "${reply}", not 550: ${/^2/.test(reply) ? where : explained(reply)}`)]
  } catch (error) {
    return [failure(explained(wordsOf(error)))]
  }
}
