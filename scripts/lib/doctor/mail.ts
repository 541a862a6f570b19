/** Mail really flows: two test mails are sent, read back and removed; where one is lost, its cause is looked for. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, CATCHALL, FOO, type Login, masterLogin } from '../accounts/accounts.ts'
import { messageOf } from '../cli.ts'
import { Pop3Session } from '../mail/pop3.ts'
import { SmtpSession } from '../mail/smtp.ts'
import { enabledProtocols } from '../settings.ts'
import { type Check, type Finding, failure, ok, Skipped, warning } from './check.ts'
import { type Facts, inConfig } from './facts.ts'
import { ANSWER } from './program.ts'
import { queueOf } from './queue.ts'
import { causeIn, explained, fixOf } from './rules_log.ts'
import { domainsOf, MAIN_CF } from './rules_postfix.ts'
import { answering } from './server.ts'
import { talk, Unexpected } from './talk.ts'

/** Milliseconds for a test mail to arrive while the server is at work on it: a loaded machine takes its time. */
const DELIVERY = 20_000
/** Milliseconds until the queue and the log are asked where the mail is. */
const IMPATIENCE = 1_000
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

/** Whether an account is there, for mail to go to. */
function assertAccount(facts: Facts, address: string): void {
  if (!(facts.read(inConfig('postfix-accounts.cf')) ?? '').includes(`${address}|`))
    throw new Skipped(`there is no account ${address}`)
}

/** Sends a test mail. Throws a Failure with the server's words where it is not taken. */
async function send(facts: Facts, to: string, login?: Login): Promise<TestMail> {
  const { host, ports } = facts.settings()
  const server = { host, port: ports.smtp, tls: 'none', timeout: ANSWER } as const
  const id = `doctor-${randomBytes(8).toString('hex')}`
  const begin = performance.now()
  const fields = [
    `From: ${FOO}`,
    `To: ${to}`,
    `Message-ID: <${id}@development-virtual.example.com>`,
    'Subject: Test mail of npm run doctor',
  ]
  const bytes = Buffer.from([...fields, '', 'This mail is deleted as soon as it was read.', ''].join('\r\n'))
  const session = await SmtpSession.open(server, { login, loginWasChosen: login !== undefined })
  const { problem, queueId } = await session.deliver({ envelope: { from: FOO, to: [to] }, bytes })
  await session.close()
  if (problem) throw new Error(problem)
  return { to, id, begin, queueId: queueId ?? '' }
}

/** Looks once for the mail over POP3, and gives its header. A session sees the mailbox as it was at login (RFC 1939 section 5). */
async function look(facts: Facts, login: Login, mail: TestMail, isLast: boolean): Promise<string | undefined> {
  const { host, ports } = facts.settings()
  const session = await Pop3Session.open({ host, port: ports.pop3, tls: 'none', timeout: ANSWER }, login)
  try {
    let right: string | undefined
    for (const message of (await session.list()).slice(-NEWEST).reverse()) {
      // Another reader may have deleted it since.
      const header = (await session.top(message).catch(() => undefined))?.toString('latin1')
      if (!header?.includes(mail.id)) continue
      right ??= header
      if (isLast) await session.delete(message)
    }
    await session.quit()
    return right
  } finally {
    session.close()
  }
}

/** Finds the mail over IMAP and deletes it (RFC 3501). Gives whether it was there. */
async function takeByImap(facts: Facts, { user, password }: Login, mail: TestMail): Promise<boolean> {
  const { host, ports } = facts.settings()
  const quoted = (text: string) => `"${text.replace(/(["\\])/g, '\\$1')}"`
  const steps = [
    { expect: /^\* OK/, otherwise: 'IMAP does not greet' },
    {
      say: `a LOGIN ${quoted(user)} ${quoted(password)}`,
      expect: /^a OK/m,
      otherwise: 'the login over IMAP is refused',
    },
    { say: 'b SELECT INBOX', expect: /^b OK/m, otherwise: 'INBOX cannot be opened over IMAP' },
    { say: `c SEARCH HEADER Message-ID ${mail.id}`, expect: /^c OK/m, otherwise: 'IMAP finds nothing' },
  ]
  const replies = await talk(host, ports.imap, steps, ANSWER)
  const found = /^\* SEARCH ([\d ]+)/m
    .exec(replies.at(-1) ?? '')?.[1]
    ?.trim()
    .replaceAll(' ', ',')
  if (!found) return false
  const end = [
    { say: `d STORE ${found} +FLAGS.SILENT (\\Deleted)`, expect: /^d OK/m, otherwise: 'IMAP deletes nothing' },
    { say: 'e EXPUNGE', expect: /^e OK/m, otherwise: 'IMAP deletes nothing' },
  ]
  await talk(host, ports.imap, [...steps.slice(0, 3), ...end], ANSWER)
  return true
}

/** Follows a mail that was accepted. Gives its header, or what became of it instead. */
async function follow(
  facts: Facts,
  login: Login,
  mail: TestMail,
  seen: (login: Login, mail: TestMail) => Promise<string | undefined>,
): Promise<string | Finding> {
  let sentAt = 0
  for (let wait = 30; ; wait = Math.min(wait * 1.5, 500)) {
    await sleep(wait)
    const header = await seen(login, mail).catch(async (error) => {
      await takeBack(facts, mail)
      throw error
    })
    if (header !== undefined) return header
    const waited = performance.now() - mail.begin
    if (waited < IMPATIENCE) continue
    const fate = await fateOf(facts, mail)
    if (fate.is === 'sent') sentAt ||= waited
    const isLost = fate.is === 'stuck' || (sentAt > 0 && waited - sentAt > 3_000)
    if (!isLost && waited < DELIVERY) continue
    await takeBack(facts, mail)
    const seconds = (waited / 1000).toFixed(1)
    const is = `the mail to ${mail.to} was accepted`
    if (!isLost && fate.is === 'moving') return warning(`slow: ${is} and is still on its way after ${seconds} s`)
    return failure(`${is} and did not arrive: ${explained(fate.said)}`, fixOf(fate.said))
  }
}

/** Where a mail is that did not arrive yet: the queue and the log say it. */
async function fateOf(facts: Facts, { queueId }: TestMail): Promise<{ is: 'moving' | 'sent' | 'stuck'; said: string }> {
  const engine = await facts.server()
  const lines = await engine.logged()
  const queued = (await queueOf(facts)).find(({ queue_id }) => queue_id === queueId)
  const last = lines.findLast((line) => line.includes(`${queueId}:`) && /status=/.test(line)) ?? ''
  if (queued?.queue_name === 'hold') return { is: 'stuck', said: 'it is on hold in the queue' }
  const reason = queued?.recipients.find(({ delay_reason }) => delay_reason)?.delay_reason
  const cause = causeIn(lines)
  if (queued?.queue_name === 'deferred')
    return { is: 'stuck', said: reason ?? cause ?? 'it was deferred without a reason' }
  if (/status=bounced/.test(last)) return { is: 'stuck', said: `it bounced: ${last.replace(/^.*?status=bounced/, '')}` }
  if (/status=sent/.test(last)) return { is: 'sent', said: `it went elsewhere: ${last.replace(/^.*?: to=/, 'to=')}` }
  return { is: 'moving', said: reason ?? cause ?? 'nothing is logged about it' }
}

/** Takes a mail that did not arrive out of the queue, lest it arrives later. */
async function takeBack(facts: Facts, { queueId }: TestMail): Promise<void> {
  if (queueId !== '') await (await facts.server()).exec(['postsuper', '-d', queueId], { timeout: ANSWER })
}

const since = (begin: number) => `${Math.round(performance.now() - begin)} ms`

const virtual: Check = {
  name: 'mail-virtual',
  title: 'A mail from foo to bar arrives and is read over POP3 and IMAP',
  run: (facts) =>
    tellFlow(facts, 'virtual', async () => {
      await answering(facts)
      const { pop3, imap } = enabledProtocols(facts.environment())
      if (!pop3 && !imap) throw new Skipped('POP3 and IMAP are off, see "environment"')
      assertAccount(facts, FOO)
      assertAccount(facts, BAR)
      const mail = await send(facts, BAR, masterLogin(FOO))
      const login = masterLogin(BAR)
      const byImap = async () => ((await takeByImap(facts, login, mail)) ? 'found' : undefined)
      const found = await follow(facts, login, mail, pop3 ? () => look(facts, login, mail, !imap) : byImap)
      if (typeof found !== 'string') return [found]
      const read = `read over ${pop3 ? 'POP3' : 'IMAP'} after ${since(mail.begin)}`
      if (!pop3 || !imap) return [ok(read)]
      if (
        await byImap().catch(async (error) => {
          await look(facts, login, mail, true)
          throw error
        })
      )
        return [ok(`${read}, over IMAP after ${since(mail.begin)}`)]
      await look(facts, login, mail, true)
      return [failure(`the mail to ${BAR} is there over POP3, and not over IMAP`)]
    }),
}

const foreign: Check = {
  name: 'mail-foreign',
  title: 'A mail to a foreign address, without a login, ends in catchall with its envelope recipient',
  run: (facts) =>
    tellFlow(facts, 'foreign', async () => {
      await answering(facts)
      if (!enabledProtocols(facts.environment()).pop3) throw new Skipped('POP3 is off, see "environment"')
      assertAccount(facts, CATCHALL)
      const random = randomBytes(4).toString('hex')
      // A reserved name (RFC 2606): even a server that lets mail out has nowhere to send this one.
      const mail = await send(facts, `someone-${random}@${random}.example`)
      const login = masterLogin(CATCHALL)
      const found = await follow(facts, login, mail, () => look(facts, login, mail, true))
      if (typeof found !== 'string') return [found]
      if (new RegExp(`^(X-Original-To|Delivered-To): <?${mail.to}>?\\s*$`, 'im').test(found))
        return [ok(`${mail.to} ends in catchall after ${since(mail.begin)}`)]
      return [failure(`the mail to ${mail.to} is in catchall, and no X-Original-To names that address`)]
    }),
}

/** Runs a test, and tells those that wait for it whether mail flows. Words of the server are what went wrong. */
async function tellFlow(facts: Facts, name: string, test: () => Promise<Finding[]>): Promise<Finding[]> {
  const result = test().catch((error): Finding[] => {
    if (error instanceof Skipped || !(error instanceof Error) || error instanceof TypeError) throw error
    return [failure(explained(messageOf(error)), fixOf(messageOf(error)))]
  })
  facts.mailFlows.set(
    name,
    result.then(
      ([finding]) => finding?.level === 'ok',
      () => false,
    ),
  )
  // What stops a mail from foo to bar stops the other one as well.
  const explains = name === 'virtual' ? ['mail-foreign', 'queue', 'log'] : ['queue', 'log']
  return (await result).map((finding) => ({ ...finding, explains }))
}

const unknown: Check = {
  name: 'mail-unknown',
  title: 'An unknown user of a virtual mailbox domain gets 550',
  async run(facts) {
    await answering(facts)
    const domain = BAR.slice(BAR.indexOf('@') + 1)
    const takesAll = facts
      .lines(inConfig('postfix-virtual.cf'))
      .some(({ text }) => text.toLowerCase().startsWith(`@${domain} `))
    if (!domainsOf(facts).includes(domain) || takesAll) throw new Skipped(`${domain} takes any address, or none`)
    const { host, ports } = facts.settings()
    const recipient = `nobody-${randomBytes(4).toString('hex')}@${domain}`
    const taken = { expect: /^2\d\d/m, otherwise: 'SMTP refuses the test' }
    const steps = [
      taken,
      { ...taken, say: 'EHLO localhost' },
      { ...taken, say: `MAIL FROM:<${FOO}>` },
      { say: `RCPT TO:<${recipient}>`, expect: /./, otherwise: 'SMTP does not answer RCPT TO' },
    ]
    try {
      const reply = (await talk(host, ports.smtp, steps, ANSWER)).at(-1) ?? ''
      if (reply.startsWith('550')) return [ok(`${reply.slice(0, 9)} for ${recipient}`)]
      return [
        failure(
          `RCPT TO:<${recipient}> got "${reply}", not 550: ${/^2/.test(reply) ? `see smtpd_recipient_restrictions and virtual_alias_domains in ${MAIN_CF}` : explained(reply)}`,
        ),
      ]
    } catch (error) {
      if (error instanceof Unexpected) return [failure(explained(error.message))]
      throw error
    }
  },
}

export const mailChecks: Check[] = [virtual, foreign, unknown]
