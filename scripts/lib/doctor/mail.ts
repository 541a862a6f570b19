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
import { type Finding, failure, ok, Skipped, warning } from './check.ts'
import { ANSWER, type Facts, MAIN_CF, VIRTUAL } from './facts.ts'
import { causeIn, complaint, explained, told } from './log.ts'
import { answering, queueOf } from './server.ts'
import { addressesOf, domainsOf } from './values.ts'

/** Accounts that log in; of very many the others are alike. */
const MOST = 40
/** Milliseconds for a test mail to arrive while the server is at work on it: a loaded machine takes its time. */
const DELIVERY = 20_000
/** Milliseconds until the queue and the log are asked where the mail is, and for one that was delivered to be seen. */
const [IMPATIENCE, SEEN] = [1_000, 3_000]
/** How many of the newest messages the first look for the test mail takes in; the others all that came since. */
const NEWEST = 50

/** What went wrong, less the clients' advice to ask whether the server is up. */
const wordsOf = (error: unknown) => messageOf(error).replace(/ Is the server up\? npm run status$/, '')

function serverOf(facts: Facts, name: ServiceName, tls: 'none' | 'starttls' | 'implicit' = 'none') {
  const { host, ports } = facts.settings()
  return { host, port: ports[name], tls, timeout: ANSWER }
}

/** A session over SMTP; with a login where one is given. */
const openSmtp = (facts: Facts, login?: Login, server = serverOf(facts, 'smtp')) =>
  SmtpSession.open(server, { login, loginWasChosen: login !== undefined })

/** Says all commands at once over IMAP (RFC 3501), and gives what the server says to them. */
async function sayByImap(facts: Facts, name: 'imap' | 'imaps', { user, password }: Login, more: string[] = []) {
  const server = serverOf(facts, name)
  const socket = name === 'imaps' ? connectTls({ ...server, rejectUnauthorized: false }) : connect(server)
  socket.setTimeout(ANSWER, () => socket.destroy(new Error(`IMAP gives no answer within ${ANSWER / 1000} s`)))
  const quoted = [user, password].map((word) => `"${word.replace(/(["\\])/g, '\\$1')}"`)
  const commands = [`LOGIN ${quoted.join(' ')}`, ...more, 'LOGOUT']
  socket.write(commands.map((command, tag) => `${tag} ${command}\r\n`).join(''))
  let said = ''
  for await (const chunk of socket) said += chunk
  const [, tag, words] = /^(\d) ((?:NO|BAD) .*)\r$/m.exec(said) ?? []
  if (words) throw new Failure(tag === '0' ? 'login' : 'failed', `IMAP answers ${words} to ${commands[Number(tag)]}`)
  if (!said.includes(`\r\n${more.length + 1} OK`)) throw new Failure('connection', 'IMAP closed the connection')
  return said
}

/** Logs in on each port with the first account, and over POP3 with all of them, by the master user; at SMTP alone without. */
export async function logins(facts: Facts): Promise<Finding[]> {
  await answering(facts)
  const { SSL_TYPE, SMTP_ONLY } = facts.environment()
  const services = enabledServices(facts.environment())
  const [first = '', ...others] = addressesOf(facts).slice(0, MOST)
  if (!first) throw new Skipped('there is no account to log in with')
  const open = async (name: ServiceName, login: Login) => {
    if (name === 'imap' || name === 'imaps') return sayByImap(facts, name, login)
    // STARTTLS on 587, TLS from the first byte on 465 and 995; on 25, as on 110 and 143, as most programs log in, without.
    const tls = !SSL_TYPE || /^(smtp|pop3)$/.test(name) ? 'none' : name === 'submission' ? 'starttls' : 'implicit'
    const server = serverOf(facts, name, tls)
    if (name === 'pop3' || name === 'pop3s') return (await Pop3Session.open(server, login)).quit()
    return (await openSmtp(facts, SMTP_ONLY === '1' ? undefined : login, server)).close()
  }
  const look = async (one: { name: ServiceName; address: string }) => {
    const outcome: unknown = await open(one.name, masterLogin(one.address)).catch((error: unknown) => error)
    return { ...one, error: outcome instanceof Error ? outcome : undefined }
  }
  const more = services.includes('pop3') ? others.map((address) => ({ name: 'pop3' as const, address })) : []
  const all = await Promise.all([...services.map((name) => ({ name, address: first })), ...more].map(look))
  const labelOf = (name: ServiceName) => `${SERVICES[name].protocol} on port ${facts.settings().ports[name]}`
  let bad = all.filter(({ error }) => error)
  if (bad.length > 0) {
    const line = await complaint(facts)
    if (line) return [line]
    // Once more, lest it was a moment's trouble.
    if (!facts.explained.has('logins')) bad = (await Promise.all(bad.map(look))).filter(({ error }) => error)
    const cause = causeIn(await facts.logged())
    // One broken port or setting refuses many logins in the same way: that is one finding.
    const kindOf = ({ error }: (typeof bad)[0]) => (error instanceof Failure ? error.exit : 'connection')
    const problems = [...new Set(bad.map(kindOf))].map((kind) => {
      const [one, ...like] = bad.filter((other) => kindOf(other) === kind) as [(typeof bad)[0], ...typeof bad]
      const others = [...new Set(like.map(({ name, address }) => (name === one.name ? address : labelOf(name))))]
      const also = others.length > 0 ? `; likewise ${others.join(', ')}` : ''
      const says = cause && !/ECONNREFUSED/.test(wordsOf(one.error)) ? `; the log says ${cause}` : ''
      // Where others get in, the account is at fault.
      const fix = bad.length === 1 && kind === 'login' && `npm run add-account -- --update ${one.address}`
      return failure(`${labelOf(one.name)} for ${one.address}: ${wordsOf(one.error)}${says}${also}`, fix)
    })
    if (problems.length > 0) return problems
  }
  return [ok(`${services.length} ports, ${SMTP_ONLY === '1' ? 'without a login' : `${others.length + 1} accounts`}`)]
}

/** `id`: the random part of its Message-ID; `queueId`: how Postfix calls it. */
type TestMail = Record<'to' | 'id' | 'queueId', string> & { begin: number; seen: Set<string> }

/** Sends a test mail. Throws with the server's words where it is not taken. */
async function send(facts: Facts, to: string, login?: Login): Promise<TestMail> {
  const [id, begin] = [`doctor-${randomBytes(8).toString('hex')}`, performance.now()]
  const header = `From: ${FOO}\r\nTo: ${to}\r\nMessage-ID: <${id}@${VIRTUAL_DOMAIN}>\r\nSubject: Test mail of npm run doctor\r\n`
  const bytes = Buffer.from(`${header}\r\nThis mail is deleted as soon as it was read.\r\n`)
  const session = await openSmtp(facts, login)
  const { problem, queueId } = await session.deliver({ envelope: { from: FOO, to: [to] }, bytes })
  await session.close()
  if (problem) throw new Error(problem)
  return { to, id, begin, queueId: queueId ?? '', seen: new Set() }
}

/** Looks once for a mail over POP3, and gives its header. A session sees the mailbox as it was at login (RFC 1939 section 5). */
async function look(
  facts: Facts,
  mailbox: string,
  { id, seen }: TestMail,
  deletes: boolean,
): Promise<string | undefined> {
  const session = await Pop3Session.open(serverOf(facts, 'pop3'), masterLogin(mailbox))
  try {
    const all = await session.list()
    const unseen = all.filter(({ uidl }) => !seen.has(uidl)).slice(seen.size > 0 ? 0 : -NEWEST)
    for (const { uidl } of all) seen.add(uidl)
    for (const message of unseen.reverse()) {
      // Another reader may have deleted it since.
      const header = (await session.top(message).catch(() => undefined))?.toString('latin1')
      if (!header?.includes(id)) continue
      if (deletes) await session.delete(message)
      await session.quit()
      return header
    }
    return undefined
  } finally {
    session.close()
  }
}

/** Finds a mail over IMAP and deletes it, "$" being what was found (RFC 5182). */
async function takeByImap(facts: Facts, mailbox: string, { id }: TestMail): Promise<boolean> {
  const search = `SEARCH RETURN (SAVE ALL) HEADER Message-ID ${id}`
  const commands = ['SELECT INBOX', search, 'STORE $ +FLAGS.SILENT (\\Deleted)', 'EXPUNGE']
  return /^\* ESEARCH .*\bALL \S+/m.test(await sayByImap(facts, 'imap', masterLogin(mailbox), commands))
}

/** Why a mail that did not arrive yet is stuck or gone, or where it was delivered to; neither while it is on its way. */
async function fateOf(facts: Facts, { queueId }: TestMail): Promise<{ stuck?: string; sent?: string }> {
  const own = (await facts.logged()).filter((line) => line.includes(`${queueId}: `))
  const { queue_name, recipients = [] } = (await queueOf(facts)).find(({ queue_id }) => queue_id === queueId) ?? {}
  const gone = own.findLast((line) => /: (discard|hold): |\bstatus=bounced/.test(line))
  if (gone) return { stuck: gone.slice(gone.indexOf(`${queueId}: `) + queueId.length + 2) }
  if (queue_name === 'hold') return { stuck: 'it is on hold in the queue' }
  const reason = recipients.find(({ delay_reason }) => delay_reason)?.delay_reason ?? causeIn(await facts.logged())
  if (queue_name === 'deferred') return { stuck: reason ?? 'it was deferred without a reason' }
  const sent = own.findLast((line) => line.includes('status=sent'))
  return sent ? { sent: `it went elsewhere: ${sent.replace(/^.*?: to=/, 'to=')}` } : {}
}

/** Sends a test mail for a check and follows it into a mailbox, until its reader says something, or tells what became of it. */
async function flow(
  facts: Facts,
  check: string,
  { to, mailbox, login }: { to: string; mailbox: string; login?: Login },
  read: (mail: TestMail) => Promise<Finding | undefined>,
): Promise<Finding[]> {
  const engine = await answering(facts)
  const missing = [mailbox, ...(login ? [FOO] : [])].find((address) => !addressesOf(facts).includes(address))
  if (missing) throw new Skipped(`there is no account ${missing}`)
  let mail: TestMail | undefined
  let found: Finding | undefined
  try {
    mail = await send(facts, to, login)
    const is = `the mail to ${to} was accepted`
    for (let [wait, sentAt] = [50, 0]; !found; wait = Math.min(wait * 1.5, 500)) {
      await sleep(wait)
      found = await read(mail)
      const waited = performance.now() - mail.begin
      if (found || waited < IMPATIENCE) continue
      const { stuck, sent } = await fateOf(facts, mail)
      if (sent) sentAt ||= waited
      const said = stuck ?? (waited - sentAt > SEEN ? sent : undefined)
      // Of a mail that is only late nothing is told but a daemon that gave up.
      if (said || waited > SEEN) found = await complaint(facts, said ? undefined : /\b(fatal|panic):/i)
      if (said) found ??= failure(`${is} and did not arrive: ${explained(said)}`)
      else if (!sent && (waited > DELIVERY || facts.explained.has(check)))
        found ??= warning(`slow: ${is} and is still on its way after ${Math.round(waited / 1000)} s`)
    }
  } catch (error) {
    if (error instanceof TypeError) throw error
    found = await told(facts, wordsOf(error))
  } finally {
    // Lest it arrives later, or stays.
    if (mail && found?.level !== 'ok') {
      await engine.exec(['postsuper', '-d', mail.queueId], { timeout: ANSWER })
      mail.seen.clear()
      await look(facts, mailbox, mail, true).catch(() => {})
    }
  }
  return [found]
}

const since = ({ begin }: TestMail) => `${Math.round(performance.now() - begin)} ms`

export async function mailVirtual(facts: Facts): Promise<Finding[]> {
  const { pop3, imap } = enabledProtocols(facts.environment())
  if (!pop3 && !imap) throw new Skipped('POP3 and IMAP are off, see "environment"')
  return flow(facts, 'mail-virtual', { to: BAR, mailbox: BAR, login: masterLogin(FOO) }, async (mail) => {
    if (pop3 && !(await look(facts, BAR, mail, !imap))) return undefined
    const read = pop3 ? `read over POP3 after ${since(mail)}` : ''
    if (!imap) return ok(read)
    const isThere = await takeByImap(facts, BAR, mail)
    if (isThere) return ok(`${pop3 ? `${read}, ` : 'read '}over IMAP after ${since(mail)}`)
    return pop3 ? failure(`the mail to ${BAR} is there over POP3, and not over IMAP`) : undefined
  })
}

export async function mailForeign(facts: Facts): Promise<Finding[]> {
  if (!enabledProtocols(facts.environment()).pop3) throw new Skipped('POP3 is off, see "environment"')
  const random = randomBytes(4).toString('hex')
  // A reserved name (RFC 2606): even a server that lets mail out has nowhere to send this one.
  const to = `someone-${random}@${random}.example`
  return flow(facts, 'mail-foreign', { to, mailbox: CATCHALL }, async (mail) => {
    const header = await look(facts, CATCHALL, mail, true)
    if (!header) return undefined
    const isNamed = new RegExp(`^(X-Original-To|Delivered-To): <?${to}>?\\s*$`, 'im').test(header)
    if (isNamed) return ok(`${to} ends in catchall after ${since(mail)}`)
    return failure(`the mail to ${to} is in catchall, and no X-Original-To names that address`)
  })
}

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
    if (reply.startsWith('550')) return [ok(`${reply.slice(0, 9)} for ${recipient}`)]
    const where = `: see smtpd_recipient_restrictions and virtual_alias_domains in ${MAIN_CF}`
    return [await told(facts, `RCPT TO:<${recipient}> got "${reply}", not 550${/^2/.test(reply) ? where : ''}`)]
  } catch (error) {
    return [await told(facts, wordsOf(error))]
  }
}
