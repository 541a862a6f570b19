/**
 * One account's INBOX, held open over IMAP as the master user: tells of what comes, changes and goes, and connects again
 * for as long as it is not closed. The mail itself stays in Dovecot.
 */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type FetchMessageObject, ImapFlow } from 'imapflow'
import { masterLogin } from '../accounts/accounts.ts'
import type { Settings } from '../settings.ts'

/** Milliseconds that the server may stay silent, and until the next attempt to connect. */
const PATIENCE = { answer: 5_000, retry: 250 }
/** Mails that are read before a mailbox counts as open, the newest, and then at once. */
const CHUNK = { first: 200, next: 500 }
const HEADERS = 'received x-original-to from to cc bcc reply-to subject message-id'.split(' ')
const QUERY = { uid: true, flags: true, internalDate: true, size: true, bodyStructure: true, headers: HEADERS } as const

interface Exec {
  exec(command: string, attributes: unknown[], options: object): Promise<{ next(): void }>
}

export type Flags = Set<string>
export type Stored = FetchMessageObject

/** Who hears of a mailbox. `flagsOf` gives the UIDs that are known, with their flags. */
export interface Listener {
  /** Mail in a mailbox that was not known before. */
  arrived(box: Mailbox, message: Stored): void
  flagged(box: Mailbox, uid: number, flags: Flags): void
  gone(box: Mailbox, uid: number): void
  /** The mailbox was opened or lost. */
  turned(box: Mailbox): void
  /** Milliseconds until the next look, and a promise that ends that pause. */
  pause(): Promise<void>
}

export class Mailbox {
  readonly address: string
  /** Begins the IDs of this mailbox: letters and digits, another one when Dovecot makes the mailbox anew. */
  key = ''
  isOpen = false
  /** Settled when the attempt to connect is over, whatever its outcome. */
  attempt: Promise<unknown> = Promise.resolve()
  /** Settled when all mail that was there at the start has been read. */
  filled: Promise<void>
  readonly #settings: Settings
  readonly #listener: Listener
  readonly #known = new Set<number>()
  #client: ImapFlow | undefined
  #isClosed = false
  /** The highest UID that was read. */
  #last = 0
  #hasNews = false
  #isFilled: () => void = () => {}
  #looking: Promise<void> = Promise.resolve()
  #nextLook: Promise<void> | undefined

  constructor(settings: Settings, address: string, listener: Listener) {
    this.address = address
    this.#settings = settings
    this.#listener = listener
    this.filled = new Promise((resolve) => {
      this.#isFilled = resolve
    })
    void this.#live()
  }

  close(): void {
    this.#isClosed = true
    this.#isFilled()
    this.#client?.close()
    this.#forget([...this.#known])
  }

  /**
   * Looks for news now: Dovecot tells a client in IDLE half a second late. Throws when the mailbox is not to be reached.
   * Looks that are asked for while one is under way become one.
   */
  look(): Promise<void> {
    if (!this.#nextLook) {
      const next = this.#looking.then(() => {
        this.#nextLook = undefined
        return this.#look()
      })
      this.#nextLook = next
      this.#looking = next.catch(() => {})
    }
    return this.#nextLook
  }

  /** The bytes of a mail; undefined where it is gone. */
  async source(uid: number): Promise<Buffer | undefined> {
    const found = await this.#open().fetchOne(String(uid), { source: true }, { uid: true })
    return found ? found.source : undefined
  }

  /** The first words of mails by UID, which Dovecot keeps in its cache (RFC 8970). */
  async previews(uids: number[]): Promise<Map<number, string>> {
    const previews = new Map<number, string>()
    const client = this.#open()
    if (![...client.capabilities.keys()].some((name) => name.startsWith('PREVIEW'))) return previews
    const take = async ({ attributes }: { attributes?: unknown }) => {
      const list = (attributes as [unknown, ({ value?: string } | { value?: string }[] | null)[]])[1]
      const at = (name: string) => list[list.findIndex((item) => (item as { value?: string })?.value === name) + 1]
      const preview = [at('PREVIEW')].flat().at(-1)
      previews.set(Number((at('UID') as { value?: string })?.value), preview?.value?.replace(/\s+/g, ' ').trim() ?? '')
    }
    for (const range of rangesOf(uids)) {
      const atom = (value: string) => ({ type: 'ATOM', value }) as const
      const words = [{ type: 'SEQUENCE', value: range } as const, [atom('UID'), atom('PREVIEW')]]
      // imapflow's fetch() does not know PREVIEW. Its exec() stands in no type, and waits for no IDLE: there is none here.
      const response = await (client as unknown as Exec).exec('UID FETCH', words, { untagged: { FETCH: take } })
      response.next()
    }
    return previews
  }

  /** Which mails between two UIDs have a text anywhere; Dovecot reads them. */
  async containing(uids: number[], text: string): Promise<Set<number>> {
    const range = uids.length < 100 ? uids.join() : `${Math.min(...uids)}:${Math.max(...uids)}`
    return new Set((await this.#open().search({ uid: range, text }, { uid: true })) || [])
  }

  async flag(uids: number[], flag: string, on: boolean): Promise<void> {
    const client = this.#open()
    const options = { uid: true, silent: true }
    for (const range of rangesOf(uids)) {
      await (on ? client.messageFlagsAdd(range, [flag], options) : client.messageFlagsRemove(range, [flag], options))
    }
  }

  async delete(uids: number[]): Promise<void> {
    const client = this.#open()
    for (const range of rangesOf(uids)) await client.messageDelete(range, { uid: true })
    this.#forget(uids)
  }

  #open(): ImapFlow {
    if (!this.#client?.usable) throw new Error(`${this.address} cannot be read: the mail server is away`)
    return this.#client
  }

  async #live(): Promise<void> {
    while (!this.#isClosed) {
      try {
        const attempt = this.#connect()
        this.attempt = attempt.catch(() => {})
        const older = await attempt
        const filling = this.#fill(older)
        for (;;) {
          await Promise.all([this.look(), filling])
          await this.#listener.pause()
        }
      } catch {
        // Away, being restarted, or an account that Dovecot does not know yet: the next attempt tells.
        this.#client?.close()
        this.#lost()
        await sleep(PATIENCE.retry)
      }
    }
  }

  /** Connects, reads the newest mails, and gives the UIDs of the others. */
  async #connect(): Promise<number[]> {
    const { user, password } = masterLogin(this.address)
    const client = new ImapFlow({
      host: this.#settings.host,
      port: this.#settings.ports.imap,
      secure: false,
      doSTARTTLS: false,
      auth: { user, pass: password },
      logger: false,
      // With it EXPUNGE and FLAGS name the UID.
      qresync: true,
      disableAutoIdle: true,
      connectionTimeout: PATIENCE.answer,
      greetingTimeout: PATIENCE.answer,
      socketTimeout: PATIENCE.answer,
    })
    this.#client = client
    client.on('error', () => {})
    client.on('close', () => client === this.#client && this.#lost())
    await client.connect()
    const { uidValidity } = await client.mailboxOpen('INBOX')
    const key = createHash('sha1').update(`${this.address} ${uidValidity}`).digest('hex').slice(0, 12)
    if (key !== this.key) this.#forget([...this.#known])
    this.key = key
    const uids = new Set((await client.search({ all: true }, { uid: true })) || [])
    this.#forget([...this.#known].filter((uid) => !uids.has(uid)))
    if (this.#known.size > 0) {
      for await (const { uid, flags } of client.fetch('1:*', { uid: true, flags: true }, { uid: true })) {
        this.#listener.flagged(this, uid, flags ?? new Set())
      }
    }
    client.on('exists', () => {
      this.#hasNews = true
    })
    client.on('flags', ({ uid, flags }) => uid && this.#listener.flagged(this, uid, flags))
    client.on('expunge', ({ uid }) => uid && this.#forget([uid]))
    const unknown = [...uids].filter((uid) => !this.#known.has(uid)).sort((a, b) => b - a)
    this.#last = Math.max(0, ...this.#known, unknown[0] ?? 0)
    await this.#read(unknown.slice(0, CHUNK.first))
    this.isOpen = true
    this.#listener.turned(this)
    return unknown.slice(CHUNK.first)
  }

  async #fill(uids: number[]): Promise<void> {
    for (let at = 0; at < uids.length; at += CHUNK.next) await this.#read(uids.slice(at, at + CHUNK.next))
    this.#isFilled()
  }

  async #read(uids: number[]): Promise<void> {
    for (const range of rangesOf(uids)) await this.#readRange(range)
  }

  async #readRange(range: string): Promise<void> {
    for await (const message of this.#open().fetch(range, QUERY, { uid: true })) {
      // "9:*" always has the last mail in it.
      if (this.#known.has(message.uid)) continue
      this.#known.add(message.uid)
      this.#last = Math.max(this.#last, message.uid)
      this.#listener.arrived(this, message)
    }
  }

  async #look(): Promise<void> {
    await this.#open().noop()
    // What a NOOP meets goes into imapflow's log alone.
    this.#open()
    while (this.#hasNews) {
      this.#hasNews = false
      await this.#readRange(`${this.#last + 1}:*`)
    }
  }

  #forget(uids: number[]): void {
    for (const uid of uids) if (this.#known.delete(uid)) this.#listener.gone(this, uid)
  }

  #lost(): void {
    if (!this.isOpen) return
    this.isOpen = false
    this.#listener.turned(this)
  }
}

/** UIDs as sequence sets (RFC 3501): runs as "1:9", a few hundred in each set, so that no command line grows too long. */
export function rangesOf(uids: number[]): string[] {
  const runs: [number, number][] = []
  for (const uid of [...uids].sort((a, b) => a - b)) {
    const run = runs.at(-1)
    if (run && run[1] >= uid - 1) run[1] = uid
    else runs.push([uid, uid])
  }
  const sets: string[] = []
  for (let at = 0; at < runs.length; at += 300) {
    const texts = runs.slice(at, at + 300).map(([from, to]) => (from === to ? `${from}` : `${from}:${to}`))
    sets.push(texts.join())
  }
  return sets
}
