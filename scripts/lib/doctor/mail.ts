/** Mail really flows: test mails are sent, read back, and removed again. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, CATCHALL, FOO, type Login } from '../accounts/accounts.ts'
import { Failure, messageOf } from '../cli.ts'
import { type Pop3Message, Pop3Session } from '../mail/pop3.ts'
import { SmtpSession } from '../mail/smtp.ts'
import type { Engine } from '../server/engine.ts'
import { enabledProtocols } from '../settings.ts'
import { type Check, CONFIG, type Context, failure, ok, Skipped } from './check.ts'
import { accountLines, environmentOf, MAIN_CF } from './files.ts'
import { Probe } from './probe.ts'
import { parseIndexed } from './routing.ts'
import { loginFor } from './server.ts'

/** Milliseconds for a test mail to arrive. */
const DELIVERY = 4_000
/** Milliseconds that the server may stay silent. */
const SILENCE = 3_000
/** How many of the newest messages are looked at for the test mail. */
const NEWEST = 50

interface TestMail {
  /** The random part of its Message-ID. */
  id: string
  /** How Postfix calls it. */
  queueId: string
  /** When the connection to SMTP began, by performance.now(). */
  begin: number
}

/** The account's login. Throws `Skipped` where the account is not there. */
function loginOf(context: Context, address: string): Login {
  const account = accountLines(context.files).accounts.find((candidate) => candidate.address === address)
  if (!account) throw new Skipped(`there is no account ${address}`)
  return loginFor(account)
}

async function send(context: Context, to: string): Promise<TestMail> {
  const { host, ports } = context.settings()
  const server = { host, port: ports.smtp, tls: 'none', timeout: SILENCE } as const
  const id = `doctor-${randomBytes(8).toString('hex')}`
  const begin = performance.now()
  const fields = [`From: ${FOO}`, `To: ${to}`, `Message-ID: <${id}@development-virtual.example.com>`]
  const subject = 'Subject: Test mail of npm run doctor'
  const message = [...fields, subject, '', 'This mail is deleted as soon as it was read.', ''].join('\r\n')
  const foo = accountLines(context.files).accounts.find(({ address }) => address === FOO)
  const login = foo && loginFor(foo)
  // A login that fails is the matter of other checks; most servers take the mail without one.
  const session = await SmtpSession.open(server, { login, loginWasChosen: true }).catch((error) => {
    if (!(error instanceof Failure) || error.exit !== 'login') throw error
    return SmtpSession.open(server, { login: undefined, loginWasChosen: false })
  })
  const { exit, problem, queueId } = await session.deliver({
    envelope: { from: FOO, to: [to] },
    bytes: Buffer.from(message),
  })
  await session.close()
  if (problem) throw new Failure(exit, problem)
  return { id, begin, queueId: queueId ?? '' }
}

/**
 * Waits for a mail over POP3 and gives its header: one that matches `wanted` or, at the end of the wait, any copy of the
 * mail; undefined when there is none. Deletes all copies if asked to.
 */
async function readByPop3(context: Context, login: Login, mail: TestMail, remove: boolean, wanted = /^/) {
  const { host, ports } = context.settings()
  const server = { host, port: ports.pop3, tls: 'none', timeout: SILENCE } as const
  for (;;) {
    const isLast = performance.now() - mail.begin > DELIVERY
    // A session sees the mailbox as it was at login (RFC 1939 section 5), so each look is a new one.
    const session = await Pop3Session.open(server, login)
    try {
      const found: { message: Pop3Message; header: string }[] = []
      for (const message of (await session.list()).reverse().slice(0, NEWEST)) {
        const header = (await session.top(message)).toString('latin1')
        if (header.includes(mail.id)) found.push({ message, header })
      }
      const right = found.find(({ header }) => wanted.test(header)) ?? (isLast ? found[0] : undefined)
      if (right && remove) for (const { message } of found) await session.delete(message)
      await session.quit()
      if (right || isLast) return right?.header
    } finally {
      session.close()
    }
    await sleep(20)
  }
}

/** Finds a mail over IMAP and deletes it. True when it was there. */
async function takeByImap(context: Context, login: Login, mail: TestMail): Promise<boolean> {
  const { overImap } = await import('../server/mailboxes.ts')
  return overImap(context.settings(), login, async (client) => {
    await client.mailboxOpen('INBOX')
    const found = await client.search({ header: { 'message-id': mail.id } }, { uid: true })
    if (!found || found.length === 0) return false
    await client.messageDelete(found, { uid: true })
    return true
  })
}

/** Takes a mail that did not arrive out of the queue, lest it arrives later. */
async function takeBack(engine: Engine, { queueId }: TestMail): Promise<void> {
  if (queueId !== '') await engine.exec(['postsuper', '-d', queueId], { timeout: SILENCE })
}

const since = (begin: number) => `${Math.round(performance.now() - begin)} ms`
const LATE = `was accepted and did not arrive within ${DELIVERY / 1000} s`

const virtual: Check = {
  name: 'mail-virtual',
  title: 'A mail from foo to bar arrives and is read over POP3 and IMAP',
  async run(context) {
    const engine = await context.server()
    const { pop3, imap } = enabledProtocols(environmentOf(context.files))
    const login = loginOf(context, BAR)
    const mail = await send(context, BAR)
    const times: string[] = []
    if (pop3) {
      const header = await readByPop3(context, login, mail, !imap)
      if (header === undefined) {
        await takeBack(engine, mail)
        return [failure(`the mail to ${BAR} ${LATE}`, 'Look for its reason: npm run logs')]
      }
      times.push(`read over POP3 after ${since(mail.begin)}`)
    }
    if (imap) {
      let found = false
      do {
        found = await takeByImap(context, login, mail)
        if (!found) await sleep(20)
      } while (!found && performance.now() - mail.begin < DELIVERY)
      if (!found) {
        if (pop3) await readByPop3(context, login, mail, true)
        else await takeBack(engine, mail)
        return [failure(`the mail to ${BAR} is not to be seen over IMAP`, 'Look for its reason: npm run logs')]
      }
      times.push(`over IMAP after ${since(mail.begin)}`)
    }
    return [ok(`${times.join(', ')}; deleted`)]
  },
}

const foreign: Check = {
  name: 'mail-catchall',
  title: 'A mail to a foreign address ends in catchall and keeps its envelope recipient',
  async run(context) {
    const engine = await context.server()
    if (!enabledProtocols(environmentOf(context.files)).pop3) throw new Skipped('POP3 is off, see "env-protocols"')
    const login = loginOf(context, CATCHALL)
    const random = randomBytes(4).toString('hex')
    // A reserved name (RFC 2606): even a server that lets mail out has nowhere to send this one.
    const recipient = `someone-${random}@${random}.example`
    const mail = await send(context, recipient)
    const named = new RegExp(`^(Delivered-To|X-Original-To): <?${recipient}>?\\s*$`, 'im')
    const header = await readByPop3(context, login, mail, true, named)
    if (header === undefined) {
      await takeBack(engine, mail)
      return [
        failure(
          `the mail to ${recipient} ${LATE} in catchall`,
          'npm run doctor -- --only catchall --only fence-server',
        ),
      ]
    }
    const time = since(mail.begin)
    if (named.test(header)) return [ok(`${recipient} ends in catchall after ${time}, named in Delivered-To; deleted`)]
    const fix = `Write into ${MAIN_CF}: prepend_delivered_header = command, file, forward`
    return [failure(`the mail to ${recipient} is in catchall, and its header does not name that address`, fix)]
  },
}

const unknown: Check = {
  name: 'mail-unknown',
  title: 'An unknown user of a virtual mailbox domain gets 550',
  async run(context) {
    await context.server()
    const domain = BAR.slice(BAR.indexOf('@') + 1)
    const { accounts } = accountLines(context.files)
    const hasDomain = accounts.some(({ address }) => address.endsWith(`@${domain}`))
    const virtualAliases = parseIndexed(context.files.read(`${CONFIG}/postfix-virtual.cf`) ?? '')
    if (!hasDomain || virtualAliases.has(`@${domain}`)) throw new Skipped(`${domain} takes any address, or none`)
    const { host, ports } = context.settings()
    const recipient = `nobody-${randomBytes(4).toString('hex')}@${domain}`
    const begin = performance.now()
    const probe = await Probe.open({ host, port: ports.smtp, implicit: false, timeout: SILENCE })
    try {
      await probe.reply()
      let reply: string[] = []
      for (const command of ['EHLO localhost', `MAIL FROM:<${FOO}>`, `RCPT TO:<${recipient}>`]) {
        probe.send(command)
        reply = await probe.reply()
      }
      const time = since(begin)
      probe.send('QUIT')
      await probe.line().catch(() => '')
      const last = reply.at(-1) ?? ''
      if (/^550/.test(last)) return [ok(`${last.slice(0, 9)} for ${recipient} after ${time}`)]
      const fix = `Write into ${MAIN_CF}: smtpd_recipient_restrictions = reject_unlisted_recipient, permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination`
      return [failure(`RCPT TO:<${recipient}> got "${last}", not 550`, fix)]
    } catch (error) {
      return [failure(`SMTP on ${host}:${ports.smtp}: ${messageOf(error)}`, 'npm run logs')]
    } finally {
      probe.close()
    }
  },
}

export const mailChecks: Check[] = [virtual, foreign, unknown]
