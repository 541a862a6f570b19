/**
 * One account's INBOX, held open over IMAP as the master user: tells of what comes, changes and goes, and connects again
 * until it is closed. The mail itself stays in Dovecot.
 */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type FetchMessageObject, ImapFlow } from 'imapflow'
import { masterLogin } from '../accounts/accounts.ts'
import type { Settings } from '../settings.ts'
import { refuse } from './guard.ts'

/** Milliseconds that the server may stay silent, and until the next attempt to connect. */
export const PATIENCE = { answer: 5_000, retry: 250 }
/** Mails in one command, so that others' commands come between. With so many of the newest a mailbox is open. */
export const PORTION = 200
const HEADERS = 'received x-original-to from to cc bcc reply-to subject message-id'.split(' ')
const QUERY = { uid: true, flags: true, internalDate: true, size: true, bodyStructure: true, headers: HEADERS } as const
export const BY_UID = { uid: true } as const

/** A stored mail. */
export interface Copy {
  box: Mailbox
  uid: number
  flags: Set<string>
  /** Whom it is for, as soon as its header is read. */
  recipient: string
}

/** Who hears of a mailbox. */
export interface Listener {
  /** A mail was read; it is news unless it was there before the inbox. */
  arrived(copy: Copy, message: FetchMessageObject, isNews: boolean): void
  flagged(copy: Copy): void
  gone(copy: Copy): void
  /** The mailbox was looked into, or is away. */
  looked(): void
  /** Settled when it is time for the next look. */
  pause(): Promise<void>
}

export class Mailbox {
  readonly address: string
  /** Begins the IDs of this mailbox: letters and digits, others when Dovecot makes the mailbox anew. */
  key = ''
  /** Whether the last look succeeded; undefined before the first one into a mailbox that should be there. */
  isUp: boolean | undefined
  readonly copies = new Map<number, Copy>()
  readonly #settings: Settings
  readonly #listener: Listener
  #client: ImapFlow | undefined
  #isClosed = false
  #hasNews = false
  /** Whether mail that is there when it is opened is news: not what was there before the inbox. */
  #isNews: boolean
  /** UIDs that are still to be read, portion by portion. */
  #older: string[] = []
  /** The highest UID that was read. */
  #last = 0
  #look: Promise<void> = Promise.resolve()
  #nextLook: Promise<void> | undefined

  /** That of an account which is new (`isNew`) may not be known to Dovecot yet: nobody waits for it. */
  constructor(settings: Settings, address: string, isNew: boolean, listener: Listener) {
    this.address = address
    this.isUp = isNew ? false : undefined
    this.#isNews = isNew
    this.#settings = settings
    this.#listener = listener
    void this.#live()
  }

  /** The connection, on which INBOX is selected. Refuses with 503 while there is none. */
  get client(): ImapFlow {
    if (!this.#client?.usable) refuse(503, 'The mail server is away. Start it: npm start')
    return this.#client
  }

  close(): void {
    this.#isClosed = true
    this.#client?.close()
    this.forget(this.copies.keys())
  }

  /**
   * Looks for news now: Dovecot tells a client in IDLE half a second late. Those who ask while a look is under way share
   * the next one. Rejects when the server is away.
   */
  look(): Promise<void> {
    this.#nextLook ??= this.#look.then(async () => {
      this.#nextLook = undefined
      try {
        await this.#update()
        this.isUp = true
      } catch (error) {
        // Away, being restarted, or an account that Dovecot does not know yet: the next look tells.
        this.#client?.close()
        this.isUp = false
        throw error
      } finally {
        this.#listener.looked()
      }
    })
    this.#look = this.#nextLook.catch(() => {})
    return this.#nextLook
  }

  /** Reads all that was there when the mailbox was opened. */
  async fill(): Promise<void> {
    while (this.#older.length > 0) await this.look()
  }

  /** Takes mails out that are gone. */
  forget(uids: Iterable<number>): void {
    for (const uid of uids) {
      const copy = this.copies.get(uid)
      if (copy && this.copies.delete(uid)) this.#listener.gone(copy)
    }
  }

  async #live(): Promise<void> {
    while (!this.#isClosed) {
      const pause = () => (this.#older.length > 0 ? undefined : this.#listener.pause())
      await this.look().then(pause, () => sleep(PATIENCE.retry))
    }
  }

  async #update(): Promise<void> {
    if (!this.#client?.usable) await this.#open()
    await this.client.noop()
    while (this.#hasNews) {
      this.#hasNews = false
      await this.#read(`${this.#last + 1}:*`, true)
    }
    const portion = this.#older.shift()
    if (portion) await this.#read(portion, this.#isNews)
    this.#isNews ||= this.#older.length === 0
    // imapflow keeps to itself what a NOOP meets.
    void this.client
  }

  /** Connects, and finds out what is still to be read. */
  async #open(): Promise<void> {
    const { user, password } = masterLogin(this.address)
    const { host, ports } = this.#settings
    const client = new ImapFlow({
      ...{ host, port: ports.imap, secure: false, doSTARTTLS: false, auth: { user, pass: password }, logger: false },
      ...{ connectionTimeout: PATIENCE.answer, greetingTimeout: PATIENCE.answer, socketTimeout: PATIENCE.answer },
      // With QRESYNC news of flags and of mail that is gone come with the UID.
      ...{ qresync: true, disableAutoIdle: true },
    })
    this.#client = client
    client.on('error', () => {})
    await client.connect()
    const { uidValidity } = await client.mailboxOpen('INBOX')
    const key = createHash('sha1').update(`${this.address} ${uidValidity}`).digest('hex').slice(0, 12)
    const uids = new Set((await client.search({ all: true }, BY_UID)) || [])
    this.forget([...this.copies.keys()].filter((uid) => key !== this.key || !uids.has(uid)))
    if (key !== this.key) this.#last = 0
    this.key = key
    if (this.copies.size > 0) {
      for await (const { uid, flags } of client.fetch('1:*', { uid: true, flags: true })) this.#flagged(uid, flags)
    }
    client.on('exists', () => {
      this.#hasNews = true
    })
    client.on('flags', ({ uid, flags }) => this.#flagged(uid, flags))
    client.on('expunge', ({ uid }) => this.forget([uid ?? 0]))
    const unknown = [...uids].filter((uid) => !this.copies.has(uid)).sort((a, b) => b - a)
    this.#older = portionsOf(unknown)
  }

  async #read(range: string, isNews: boolean): Promise<void> {
    for await (const message of this.client.fetch(range, QUERY, BY_UID)) {
      const { uid, flags = new Set() } = message
      // "9:*" always has the last mail in it.
      if (this.copies.has(uid)) continue
      const copy = { box: this, uid, flags, recipient: '' }
      this.#last = Math.max(this.#last, uid)
      this.copies.set(uid, copy)
      this.#listener.arrived(copy, message, isNews)
    }
  }

  #flagged(uid = 0, flags?: Set<string>): void {
    const copy = this.copies.get(uid)
    if (!copy || !flags || (copy.flags.size === flags.size && [...flags].every((flag) => copy.flags.has(flag)))) return
    copy.flags = flags
    this.#listener.flagged(copy)
  }
}

/** UIDs as lists of a length that any command takes, and that leaves room for others' commands between them. */
export function portionsOf(uids: number[]): string[] {
  const count = Math.ceil(uids.length / PORTION)
  return Array.from({ length: count }, (_, n) => uids.slice(n * PORTION, (n + 1) * PORTION).join())
}
