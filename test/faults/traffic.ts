/** Traffic that keeps books: several SMTP clients that send numbered messages and write down what became of each. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, CATCHALL, FOO, type Login, VIRTUAL_DOMAIN } from '../../scripts/lib/accounts/accounts.ts'
import { NativeProcesses, programOf } from '../../scripts/lib/server/processes.ts'
import type { ServiceName } from '../../scripts/lib/settings.ts'
import { messagesOf, originalRecipient, subjectsOf } from '../deliveries.ts'
import { type Project, until } from '../harness.ts'
import { queueOf } from '../instance.ts'
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
const SENDERS: Sender[] = [
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
  async more(messages: number): Promise<void> {
    const begin = this.accepted.size
    await until(`${messages} more messages accepted`, () => this.accepted.size >= begin + messages)
  }

  /** What the server has promised to deliver so far. */
  promised(): Expected[] {
    return [...this.accepted].flatMap(([id, recipients]) => recipients.map((recipient) => ({ id, recipient })))
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
    const body = `${'Hello. '.repeat(10)}\r\n`.repeat(lines)
    const message = `Subject: ${id}\r\nFrom: <sender@traffic.example>\r\n\r\n${body}.\r\n`
    if (this.#isPositive(await ask(client, message))) this.accepted.set(id, taken)
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

/**
 * What was promised is there, once, or at most so often as `copies` allows; nothing bounced, nobody was left without an answer
 * or heard a refusal after which a client gives up. The queue is no measure: what is being delivered during a reload stays in
 * it for a minute afterwards ("skipped, still being delivered").
 */
export async function audit(
  t: TestContext,
  project: Project,
  traffics: Traffic[],
  copies: (id: string) => number = () => 1,
  promised = traffics.flatMap((traffic) => traffic.promised()),
): Promise<void> {
  const accounts = readFileSync(project.config('postfix-accounts.cf'), 'utf8').match(/^[^#|\s]+(?=\|)/gm) ?? []
  let bounces: string[] = []
  const look = async () => {
    const mailboxes = await Promise.all(accounts.map((account) => messagesOf(project, account)))
    bounces = subjectsOf(mailboxes.flat().filter((source) => /^Return-Path: <>/m.test(source)))
    const found = new Map<string, number>()
    for (const [index, sources] of mailboxes.entries()) {
      for (const source of sources) {
        const key = `${subjectsOf([source])} ${originalRecipient(source)} ${accounts[index]}`
        found.set(key, (found.get(key) ?? 0) + 1)
      }
    }
    return promised.map(({ id, recipient }) => {
      const mailbox = recipient.endsWith(`@${VIRTUAL_DOMAIN}`) ? recipient : CATCHALL
      return { id, recipient, times: found.get(`${id} ${recipient} ${mailbox}`) ?? 0 }
    })
  }
  await until('every promised message', async () => (await look()).every(({ times }) => times > 0), 60_000)
    // What waits for another try is late and not lost.
    .catch(() => deliverAllWaiting(project))
  const counted = await look()
  const most = Math.max(0, ...counted.map(({ times }) => times))
  const refusals = traffics.flatMap((traffic) => traffic.refusals)
  t.diagnostic(`${promised.length} promises, delivered ${most} times at most; ${refusals.length} refusals`)
  assert.deepEqual([counted.filter(({ id, times }) => times === 0 || times > copies(id)), bounces], [[], []])
  const permanent = refusals.filter((reply) => !/^4/.test(reply))
  assert.deepEqual([traffics.flatMap(({ silent }) => silent), permanent], [[], []])
}

/** The instance's processes with their programs' names. */
export function daemonsOf({ stateDir }: Project): { pid: number; name: string }[] {
  return new NativeProcesses(stateDir).all().map((pid) => ({ pid, name: programOf(pid) }))
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

/** Returns when the queue is empty; throws with what is still there. */
export async function queueIsEmpty(project: Project, patience = 120_000): Promise<void> {
  await until('an empty queue', async () => (await queueOf(project)).length === 0, patience).catch(async (error) => {
    const [first, ...others] = await queueOf(project)
    throw new Error(`${error.message}: ${JSON.stringify(first)} and ${others.length} more`)
  })
}

/**
 * Has Postfix try waiting mail again and again until the queue is empty. By itself it does so in growing intervals that
 * begin with five minutes.
 */
export async function deliverAllWaiting(project: Project): Promise<void> {
  await until('an empty queue', async () => {
    execFileSync('postqueue', ['-c', `${project.stateDir}/postfix`, '-f'])
    await sleep(500)
    return (await queueOf(project)).length === 0
  })
}
