/** Traffic that keeps books: several SMTP clients that send numbered messages and write down what became of each. */
import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { BAR, CATCHALL, FOO, type Login, VIRTUAL_DOMAIN } from '../../scripts/lib/accounts/accounts.ts'
import { processIds } from '../../scripts/lib/server/processes.ts'
import type { ServiceName } from '../../scripts/lib/settings.ts'
import { messagesOf } from '../deliveries.ts'
import { type Project, processesOf, until } from '../harness.ts'
import { RawClient, REPLY } from '../raw_client.ts'

/** Messages of one connection, after which a client opens another. */
const MESSAGES_PER_CONNECTION = 20
/** Milliseconds for an answer; a server that takes longer hangs. */
const CONNECTION_PATIENCE = 40_000
/** Milliseconds until a client knocks again where nobody listens. */
const RECONNECT = 20

export interface Sender {
  port: ServiceName
  login?: Login
  /** The envelope recipients of the client's n-th message. */
  to: (n: number) => string[]
  /** Milliseconds between two messages. */
  pause: number
  /** Lines of the body, of 72 bytes each. */
  lines?: number
}

const BAZ = `baz@${VIRTUAL_DOMAIN}`
const LOGIN = { user: FOO, password: 'foo' }

/** To mailboxes, to foreign addresses and to several recipients, without a login and with one. */
export const SENDERS: Sender[] = [
  { port: 'smtp', to: () => [BAR], pause: 30 },
  { port: 'smtp', to: (n) => [`user${n}@shop${n % 7}.example`], pause: 30 },
  { port: 'submission', login: LOGIN, to: (n) => [BAZ, `root@client${n % 5}.example`, `b${n}@two.example`], pause: 80 },
  { port: 'smtp', login: LOGIN, to: () => [FOO], pause: 50 },
]

/** The same with other pauses: the shorter they are, the more is in flight. */
export function sendersWithPause(pause: number): Sender[] {
  return SENDERS.map((sender) => ({ ...sender, pause }))
}

/** A message for one recipient, which arrives once or twice or not at all. */
export interface Expected {
  id: string
  recipient: string
}

export class Traffic {
  /** Answered with 250 after DATA, by id: the recipients that were accepted. */
  readonly accepted = new Map<string, string[]>()
  /** The connection broke before the answer to DATA: nobody knows. */
  readonly unknown = new Map<string, string[]>()
  /** Replies of 4xx and 5xx, whatever they answer. */
  readonly refusals: string[] = []
  /** Connections that were refused or broke. */
  broken = 0
  /** Connections that fell silent. */
  readonly silent: string[] = []
  readonly #project: Project
  readonly #name: string
  readonly #clients: Promise<void>[]
  #flowing = true
  #count = 0

  /** Starts to send; the name tells this traffic's messages from others in the same mailboxes. */
  constructor(project: Project, name: string, senders: Sender[] = SENDERS) {
    this.#project = project
    this.#name = name
    this.#clients = senders.map((sender) => this.#send(sender))
  }

  /** Returns when every client has its last answer. */
  async stop(): Promise<void> {
    this.#flowing = false
    await Promise.all(this.#clients)
  }

  /** Returns when so many more messages have been accepted. */
  async more(messages: number, patience?: number): Promise<void> {
    const begin = this.accepted.size
    await until(`${messages} more messages accepted`, () => this.accepted.size >= begin + messages, patience)
  }

  /** What the server has promised to deliver so far. */
  promised(): Expected[] {
    return [...this.accepted].flatMap(([id, recipients]) => recipients.map((recipient) => ({ id, recipient })))
  }

  /** For people: what else there was. */
  get troubles(): string {
    return `${this.unknown.size} messages without an answer, ${this.refusals.length} refusals, ${this.broken} connections refused or broken`
  }

  async #send(sender: Sender): Promise<void> {
    while (this.#flowing) {
      try {
        await this.#connection(sender)
      } catch (error) {
        const { message } = error as Error
        if (/: not within \d+ ms/.test(message)) this.silent.push(message)
        this.broken++
        await sleep(RECONNECT)
      }
    }
  }

  async #connection(sender: Sender): Promise<void> {
    const { port, login, pause } = sender
    const client = new RawClient(this.#project.ports[port])
    const auth = login && `AUTH PLAIN ${Buffer.from(`\0${login.user}\0${login.password}`).toString('base64')}\r\n`
    try {
      for (const line of ['', 'EHLO client.example\r\n', ...(auth ? [auth] : [])]) {
        if (!this.#isPositive(await ask(client, line))) return
      }
      for (let n = 0; n < MESSAGES_PER_CONNECTION && this.#flowing; n++) {
        await this.#message(client, sender)
        await sleep(pause)
      }
      await ask(client, 'QUIT\r\n')
    } finally {
      client.close()
    }
  }

  async #message(client: RawClient, { to, lines = 1 }: Sender): Promise<void> {
    const id = `${this.#name}-${++this.#count}`
    const recipients = to(this.#count)
    // RFC 2920: all of the envelope at once.
    const envelope = ['MAIL FROM:<sender@traffic.example>', ...recipients.map((to) => `RCPT TO:<${to}>`), 'DATA']
    const [mail, ...answers] = await ask(client, envelope.map((line) => `${line}\r\n`).join(''), envelope.length)
    // Where MAIL was refused, the replies to what follows say nothing new; nor does that to DATA without a recipient.
    const isOpen = this.#isPositive([mail])
    const taken = recipients.filter((_, index) => this.#isPositive([answers[index]], isOpen))
    if (!this.#isPositive([answers[recipients.length]], taken.length > 0)) return void (await ask(client, 'RSET\r\n'))
    // Until the answer is there, the server may have taken it or not.
    this.unknown.set(id, taken)
    const body = `${'Hello. '.repeat(10)}\r\n`.repeat(lines)
    const message = `Subject: ${id}\r\nFrom: <sender@traffic.example>\r\n\r\n${body}.\r\n`
    if (this.#isPositive(await ask(client, message))) this.accepted.set(id, taken)
    this.unknown.delete(id)
  }

  /** Whether a reply is no refusal; writes that down, unless it only follows from an earlier one. Throws where there is none. */
  #isPositive([reply]: (string | undefined)[], isNews = true): boolean {
    if (reply === undefined) throw new Error('the connection is closed')
    if (/^[23]/.test(reply)) return true
    if (isNews) this.refusals.push(reply)
    return false
  }
}

/** Says something, and gives the last lines of the replies; fewer than `count` where the server hung up. */
async function ask(client: RawClient, text: string, count = 1): Promise<string[]> {
  client.write(text)
  const all = new RegExp(`(?:${REPLY.smtp.source}[\\s\\S]*?){${count}}`, 'm')
  const said = await client.reads(all, CONNECTION_PATIENCE).catch((error) => {
    if (!client.isClosed) throw error
    return client.text
  })
  return said.match(/^\d{3} .*$/gm) ?? []
}

export interface Books {
  /** Promised and not in its mailbox. */
  missing: Expected[]
  /** In its mailbox more than once. */
  repeated: (Expected & { copies: number })[]
  /** For people: what was sent and what arrived. */
  summary: string
}

/**
 * Deliveries beyond Postfix's promise: one copy more for each time that a kill or a cut met the message in the queue, which
 * may have been between its delivery and its record.
 */
function unexplained(repeated: Books['repeated'], met: (id: string) => number): Books['repeated'] {
  return repeated.filter(({ id, copies }) => copies > 1 + met(id))
}

/** Compares what was promised with what is in the mailboxes. */
export function booksOf(promised: Expected[], delivered: Delivered): Books {
  const counted = promised.map((expected) => ({ ...expected, copies: delivered.copiesOf(expected) }))
  const missing = counted.filter(({ copies }) => copies === 0)
  const repeated = counted.filter(({ copies }) => copies > 1)
  const most = Math.max(0, ...counted.map(({ copies }) => copies))
  const summary =
    `${new Set(promised.map(({ id }) => id)).size} messages accepted for ${promised.length} recipients, ` +
    `${missing.length} missing, ${repeated.length} delivered more than once (${most} times at most)`
  return { missing, repeated, summary }
}

/**
 * What was promised is there, and twice only as often as a kill met it in the queue (`met`); nothing bounced, nobody was
 * left without an answer or heard a refusal after which a client gives up.
 */
export async function audit(
  t: TestContext,
  project: Project,
  traffics: Traffic[],
  met = new Map<string, number>(),
  promised = traffics.flatMap((traffic) => traffic.promised()),
): Promise<void> {
  const delivered = await Delivered.read(project)
  const { missing, repeated, summary } = booksOf(promised, delivered)
  t.diagnostic(`${summary}; ${traffics[0]?.troubles ?? ''}; ${met.size} messages were met in the queue`)
  assert.deepEqual([missing, unexplained(repeated, (id) => met.get(id) ?? 0)], [[], []])
  assert.deepEqual([traffics.flatMap(({ silent }) => silent), delivered.bounces], [[], []])
  const permanent = traffics.flatMap(({ refusals }) => refusals).filter((reply) => !/^4/.test(reply))
  assert.deepEqual(permanent, [])
}

/** The mailbox that a recipient's mail ends in. */
function mailboxOf(recipient: string): string {
  return recipient.endsWith(`@${VIRTUAL_DOMAIN}`) ? recipient : CATCHALL
}

/** What is in the mailboxes, read over POP3. */
export class Delivered {
  /** Copies by "id recipient mailbox". */
  readonly #copies = new Map<string, number>()
  /** Subjects of messages with the null sender. */
  readonly bounces: string[] = []

  static async read(project: Project, accounts = [CATCHALL, FOO, BAR, BAZ]): Promise<Delivered> {
    const delivered = new Delivered()
    for (const account of accounts) {
      const sources = await messagesOf({ host: '127.0.0.1', ports: project.ports }, account)
      for (const source of sources) delivered.#add(account, source)
    }
    return delivered
  }

  /** How often a message arrived where it belongs. */
  copiesOf({ id, recipient }: Expected): number {
    return this.#copies.get(`${id} ${recipient} ${mailboxOf(recipient)}`) ?? 0
  }

  #add(account: string, source: string): void {
    const header = source.slice(0, source.indexOf('\r\n\r\n'))
    const subject = /^Subject: (.*)$/m.exec(header)?.[1]?.trim() ?? ''
    if (/^Return-Path: <>/m.test(header)) this.bounces.push(subject)
    const recipient = /^X-Original-To: (.*?)\r?$/m.exec(header)?.[1] ?? ''
    const key = `${subject} ${recipient} ${account}`
    this.#copies.set(key, (this.#copies.get(key) ?? 0) + 1)
  }
}

/** The instance's processes with their names; those of POP3 and IMAP sessions work elsewhere and are known as children. */
export function daemonsOf(project: Project): { pid: number; name: string }[] {
  const masters = new Set([...processesOf(project).matchAll(/\/proc\/(\d+)\/cwd/g)].map(([, pid]) => Number(pid)))
  return processIds().flatMap((pid) => {
    try {
      const [, name = '', parent] = /\((.*)\) \S (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
      return masters.has(pid) || masters.has(Number(parent)) ? [{ pid, name }] : []
    } catch {
      // It has ended meanwhile.
      return []
    }
  })
}

/** Sends a signal to all processes of the instance, also to those that are born meanwhile. */
export async function signalAll(project: Project, name: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): Promise<void> {
  const seen = new Set<number>()
  await until(`${name} for all`, () => {
    const fresh = daemonsOf(project).filter(({ pid }) => name === 'SIGKILL' || !seen.has(pid))
    for (const { pid } of fresh) {
      seen.add(pid)
      kill(pid, name)
    }
    return fresh.length === 0
  })
}

export function kill(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** The ids of the messages in the queue, read from the queue files: also while nothing runs. */
export function idsInQueue(project: Project): Set<string> {
  const ids = ['incoming', 'active', 'deferred', 'hold'].flatMap((queue) => {
    const folder = join(project.stateDir, 'queue', queue)
    return readdirSync(folder, { recursive: true }).map((file) => {
      try {
        return /Subject: ([\w-]+-\d+)/.exec(readFileSync(join(folder, String(file)), 'latin1'))?.[1]
      } catch {
        // A folder, or a message that is delivered by now.
        return undefined
      }
    })
  })
  return new Set(ids.filter((id) => id !== undefined))
}

/** The messages in the queue, as postqueue's JSON has them; sizes in bytes. */
export async function queue(project: Project): Promise<{ queue_name: string; message_size: number }[]> {
  const command = ['-c', `${project.stateDir}/postfix`, '-j']
  const { stdout } = await promisify(execFile)('postqueue', command, { maxBuffer: 100_000_000 })
  return (stdout.match(/^.+$/gm) ?? []).map((line) => JSON.parse(line))
}

/** Returns when the queue is empty; throws with what is still there. */
export async function queueIsEmpty(project: Project, patience = 120_000): Promise<void> {
  await until('an empty queue', async () => (await queue(project)).length === 0, patience).catch(async (error) => {
    const [first, ...others] = await queue(project)
    throw new Error(`${error.message}: ${JSON.stringify(first)} and ${others.length} more`)
  })
}

/**
 * Has Postfix try waiting mail again and again until the queue is empty. By itself it does so in growing intervals that
 * begin with five minutes.
 */
export async function deliverAllWaiting(project: Project): Promise<void> {
  for (const deadline = Date.now() + 60_000; Date.now() < deadline; ) {
    execFileSync('postqueue', ['-c', `${project.stateDir}/postfix`, '-f'])
    const isEmpty = await queueIsEmpty(project, 1_000).then(
      () => true,
      () => false,
    )
    if (isEmpty) return
  }
  await queueIsEmpty(project, 0)
}
