/** Traffic that keeps books: several SMTP clients that send numbered messages and write down what became of each. */
import { execFile, execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { BAR, CATCHALL, FOO, type Login, VIRTUAL_DOMAIN } from '../../scripts/lib/accounts/accounts.ts'
import { processIds } from '../../scripts/lib/server/processes.ts'
import type { ServiceName } from '../../scripts/lib/settings.ts'
import { messagesOf, originalRecipient } from '../deliveries.ts'
import { type Project, until } from '../harness.ts'
import { pidsOf, readOr } from '../instance.ts'
import { RawClient, REPLY } from '../raw_client.ts'

/** Messages of one connection, after which a client opens another. */
const MESSAGES_PER_CONNECTION = 20
/** Milliseconds for an answer; a server that takes longer hangs. */
const PATIENCE = 40_000
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
        if (/not within/.test(message)) this.silent.push(message)
        this.broken++
        await sleep(RECONNECT)
      }
    }
  }

  async #connection(sender: Sender): Promise<void> {
    const { port, login, pause } = sender
    const client = await RawClient.open(this.#project.ports[port], REPLY.smtp, PATIENCE)
    try {
      client.write('EHLO client.example\r\n')
      if (!(await this.#isPositive(client))) return
      if (login) {
        client.write(`AUTH PLAIN ${Buffer.from(`\0${login.user}\0${login.password}`).toString('base64')}\r\n`)
        if (!(await this.#isPositive(client))) return
      }
      for (let n = 0; n < MESSAGES_PER_CONNECTION && this.#flowing; n++) {
        await this.#message(client, sender)
        await sleep(pause)
      }
      await client.say('QUIT', REPLY.smtp)
    } finally {
      client.close()
    }
  }

  async #message(client: RawClient, { to, lines = 1 }: Sender): Promise<void> {
    const n = ++this.#count
    const id = `${this.#name}-${n}`
    const recipients = to(n)
    // RFC 2920: all of the envelope at once.
    const envelope = ['MAIL FROM:<sender@traffic.example>', ...recipients.map((to) => `RCPT TO:<${to}>`), 'DATA']
    client.write(envelope.map((line) => `${line}\r\n`).join(''))
    const isOpen = await this.#isPositive(client)
    const taken: string[] = []
    // Where MAIL or all RCPT were refused, the replies to what follows say nothing new.
    for (const recipient of recipients) if (await this.#isPositive(client, isOpen)) taken.push(recipient)
    if (!(await this.#isPositive(client, taken.length > 0))) {
      await client.say('RSET', REPLY.smtp)
      return
    }
    // Until the answer is there, the server may have taken it or not.
    this.unknown.set(id, taken)
    const body = `${'Hello. '.repeat(10)}\r\n`.repeat(lines)
    client.write(`Subject: ${id}\r\nFrom: <sender@traffic.example>\r\n\r\n${body}.\r\n`)
    if (await this.#isPositive(client)) this.accepted.set(id, taken)
    this.unknown.delete(id)
  }

  /** Reads a reply; writes it down where it refuses, unless it only follows from an earlier one. */
  async #isPositive(client: RawClient, isNews = true): Promise<boolean> {
    const reply = await client.reply(PATIENCE)
    if (/^[23]/.test(reply)) return true
    if (isNews) this.refusals.push(reply)
    return false
  }
}

export interface Books {
  /** Promised and not in its mailbox. */
  missing: Expected[]
  /** In its mailbox more than once. */
  repeated: (Expected & { copies: number })[]
  /** For people: what was sent and what arrived. */
  summary: string
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
    const recipient = originalRecipient(header)
    const key = `${subject} ${recipient} ${account}`
    this.#copies.set(key, (this.#copies.get(key) ?? 0) + 1)
  }
}

/** The instance's processes with their names; those of POP3 and IMAP sessions work elsewhere and are known as children. */
export function daemonsOf(project: Project): { pid: number; name: string }[] {
  const own = new Set(pidsOf(project))
  return processIds().flatMap((pid) => {
    const [, name = '', parent] = /\((.*)\) \S (\d+)/s.exec(readOr(`/proc/${pid}/stat`)) ?? []
    return own.has(pid) || own.has(Number(parent)) ? [{ pid, name }] : []
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

export interface Queued {
  queue_name: string
  /** Bytes. */
  message_size: number
}

/** The messages in the queue, as postqueue's JSON has them. */
export async function queue(project: Project): Promise<Queued[]> {
  const command = ['-c', `${project.stateDir}/postfix`, '-j']
  const { stdout } = await promisify(execFile)('postqueue', command, { maxBuffer: 100_000_000 })
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
}

/** Returns when the queue is empty; throws with what is still there. */
export async function queueIsEmpty(project: Project, patience = 30_000): Promise<void> {
  let left: Queued[] = []
  const isEmpty = async () => {
    left = await queue(project)
    return left.length === 0
  }
  await until('an empty queue', isEmpty, patience).catch((error: Error) => {
    throw new Error(`${error.message}: ${left.length} left, the first: ${JSON.stringify(left[0])}`)
  })
}

/**
 * Has Postfix try waiting mail again and again until the queue is empty. By itself it does so in growing intervals that
 * begin with five minutes.
 */
export async function deliverAllWaiting(project: Project, patience = 60_000): Promise<void> {
  const deadline = Date.now() + patience
  let error: unknown
  do {
    execFileSync('postqueue', ['-c', `${project.stateDir}/postfix`, '-f'])
    error = await queueIsEmpty(project, 1_000).catch((reason) => reason)
  } while (error && Date.now() < deadline)
  if (error) throw error
}
