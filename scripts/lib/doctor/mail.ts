/** Mail really flows: test mails are sent, read and removed; where one is lost, its cause is looked for. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, CATCHALL, FOO, type Login, masterLogin, VIRTUAL_DOMAIN } from '../accounts/accounts.ts'
import { messageOf } from '../cli.ts'
import { enabledProtocols } from '../settings.ts'
import { type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { imapLogin, openPop3, openSmtp, sayByImap } from './clients.ts'
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

/** Finds a mail over IMAP and deletes it. Gives whether it was there. */
async function takeByImap(facts: Facts, login: Login, { id }: TestMail): Promise<string | undefined> {
  const { host, ports } = facts.settings()
  const open = [imapLogin(login), 'SELECT INBOX']
  const said = await sayByImap(host, ports.imap, false, [...open, `SEARCH HEADER Message-ID ${id}`])
  const numbers = /^\* SEARCH ([\d ]+)/m.exec(said)?.[1]?.trim().replaceAll(' ', ',')
  if (numbers)
    await sayByImap(host, ports.imap, false, [...open, `STORE ${numbers} +FLAGS.SILENT (\\Deleted)`, 'EXPUNGE'])
  return numbers
}

/** Follows a mail that was accepted until `seen` gives something, and gives that, or what became of the mail instead. */
async function follow(facts: Facts, mail: TestMail, seen: () => Promise<string | undefined>) {
  const is = `the mail to ${mail.to} was accepted`
  for (let [wait, sentAt] = [30, 0]; ; wait = Math.min(wait * 1.5, 500)) {
    await sleep(wait)
    const found = await seen()
    if (found !== undefined) return found
    const waited = performance.now() - mail.begin
    if (waited < IMPATIENCE) continue
    const { stuck, sent, moving } = await fateOf(facts, mail)
    if (sent) sentAt ||= waited
    const said = stuck ?? (sent && waited - sentAt > SEEN ? sent : undefined)
    if (said) return failure(`${is} and did not arrive: ${explained(said)}`, fixOf(said))
    if (waited < DELIVERY) continue
    if (moving) return warning(`slow: ${is} and is still on its way after ${(waited / 1000).toFixed(1)} s`)
  }
}

/** Where a mail is that did not arrive yet, one of the three, by the queue and the log. */
async function fateOf(
  facts: Facts,
  { queueId }: TestMail,
): Promise<{ stuck?: string; sent?: string; moving?: string }> {
  const lines = await (await facts.server()).logged()
  const { queue_name = '', recipients = [] } = (await queueOf(facts)).find(({ queue_id }) => queue_id === queueId) ?? {}
  if (queue_name === 'hold') return { stuck: 'it is on hold in the queue' }
  const reason = recipients.find(({ delay_reason }) => delay_reason)?.delay_reason ?? causeIn(lines)
  if (queue_name === 'deferred') return { stuck: reason ?? 'it was deferred without a reason' }
  const last = lines.findLast((line) => line.includes(`${queueId}:`) && line.includes('status=')) ?? ''
  if (/status=bounced/.test(last)) return { stuck: `it bounced: ${last.replace(/^.*?status=bounced/, '')}` }
  if (/status=sent/.test(last)) return { sent: `it went elsewhere: ${last.replace(/^.*?: to=/, 'to=')}` }
  return { moving: reason ?? 'nothing is logged about it' }
}

/** Runs a test with a mail, and takes one that did not arrive out of the queue. Words of the server are what went wrong. */
async function flow(
  facts: Facts,
  test: (sent: (mail: TestMail) => TestMail) => Promise<Finding[]>,
): Promise<Finding[]> {
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
}

function assertAccounts(facts: Facts, ...addresses: string[]): void {
  const missing = addresses.find((address) => !addressesOf(facts).includes(address))
  if (missing) throw new Skipped(`there is no account ${missing}`)
}

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
    if (typeof found !== 'string') return [found]
    const read = `read over ${pop3 ? 'POP3' : 'IMAP'} after ${since(mail)}`
    if (!pop3 || !imap) return verdict([], read)
    const isThere = await byImap().finally(() => look(facts, login, mail, true))
    if (isThere) return verdict([], `${read}, over IMAP after ${since(mail)}`)
    return [failure(`the mail to ${BAR} is there over POP3, and not over IMAP`)]
  })

export const mailForeign = (facts: Facts) =>
  flow(facts, async (sent) => {
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
  const domain = VIRTUAL_DOMAIN
  const takesAll = facts.entries(VIRTUAL).some(({ text }) => text.toLowerCase().startsWith(`@${domain} `))
  if (!domainsOf(facts).includes(domain) || takesAll) throw new Skipped(`${domain} takes any address, or none`)
  const recipient = `nobody-${randomBytes(4).toString('hex')}@${domain}`
  try {
    const session = await openSmtp(facts)
    const reply = await session.replyTo(recipient)
    await session.close()
    if (reply.startsWith('550')) return verdict([], `${reply.slice(0, 9)} for ${recipient}`)
    const where = `see smtpd_recipient_restrictions and virtual_alias_domains in ${MAIN_CF}`
    return [failure(`RCPT TO:<${recipient}> got "${reply}", not 550: ${/^2/.test(reply) ? where : explained(reply)}`)]
  } catch (error) {
    return [failure(explained(messageOf(error)))]
  }
}
