/** All mailboxes as one list of messages in memory, live. Bodies stay in Dovecot. */
import { EventEmitter, setMaxListeners } from 'node:events'
import { unwatchFile, watchFile } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FetchMessageObject, ImapFlow } from 'imapflow'
import { readAccounts } from '../accounts/accounts.ts'
import { fold } from '../mail/filters.ts'
import { readMail } from '../mail/mail.ts'
import { CONFIG_DIR, type Settings } from '../settings.ts'
import { type Entry, readCopy, tagsOf, unreadOf } from './entry.ts'
import { BY_UID, type Copy, type Listener, Mailbox, portionsOf } from './mailbox.ts'

/** Milliseconds in which the copies of a message to several recipients come together. */
const SETTLE = 50
/** Milliseconds between two looks into a mailbox: while somebody waits, while a page is open, and else. */
const PACE = { waiting: 10, watching: 80, idle: 2_000 }
/** The file of the accounts, and milliseconds between two looks at it. */
const [ACCOUNTS, INTERVAL] = [join(CONFIG_DIR, 'postfix-accounts.cf'), 500]
/** Bytes of a mail that are read for its first words, and characters of those. */
const SNIPPET = { read: 50_000, shown: 200 }

/** What happened: to a message; to all at once ("truncate"); to the mail server, which is back or away. */
export interface Change {
  type: 'new' | 'update' | 'delete' | 'truncate' | 'server'
  entry?: Entry
  /** Whether a message that is "new" has just arrived: it may be part of a mailbox that was opened. */
  isNews?: boolean
}

export class Index extends EventEmitter<{ change: [Change] }> implements Listener {
  /** Whether the mail server answers. */
  isUp = false
  /** The `arrival` of the newest message. */
  arrivals = 0
  readonly #settings: Settings
  readonly #boxes = new Map<string, Mailbox>()
  readonly #byId = new Map<string, Entry>()
  readonly #byCopy = new Map<Copy, Entry>()
  readonly #accountsChanged = () => this.#followAccounts(true)
  #all: { list: Entry[]; unread: number; tags: string[] } | undefined
  #users = { waiting: 0, watching: 0 }
  #pause = new AbortController()

  constructor(settings: Settings) {
    super()
    this.setMaxListeners(0)
    this.#settings = settings
    this.#followAccounts(false)
    watchFile(ACCOUNTS, { interval: INTERVAL }, this.#accountsChanged)
  }

  close(): void {
    unwatchFile(ACCOUNTS, this.#accountsChanged)
    for (const box of this.#boxes.values()) box.close()
    this.#pause.abort()
  }

  get mailboxes(): string[] {
    return [...this.#boxes.keys()]
  }

  /** Reads all that was there when the mailboxes were opened, of which the newest is there first. */
  async fill(): Promise<void> {
    await Promise.allSettled([...this.#boxes.values()].map((box) => box.fill()))
  }

  /** All messages, newest first; how many are unread; and their tags. */
  get all(): { list: Entry[]; unread: number; tags: string[] } {
    if (this.#all) return this.#all
    const newestFirst = (a: Entry, b: Entry) => b.created - a.created || (a.id < b.id ? 1 : -1)
    const list = [...this.#byId.values()].filter(({ arrival }) => arrival > 0).sort(newestFirst)
    this.#all = { list, unread: unreadOf(list), tags: [...new Set(list.flatMap(tagsOf))].sort() }
    return this.#all
  }

  /** A tag as messages have it already: tags that differ in letter case alone are one. */
  spelt(tag: string): string {
    return this.all.tags.find((one) => fold(one) === fold(tag)) ?? tag
  }

  find(id: string): Entry | undefined {
    const entry = this.#byId.get(id)
    return entry?.arrival ? entry : undefined
  }

  /** Looks into all mailboxes now, but those that were away at the last look. */
  async refresh(): Promise<void> {
    const boxes = [...this.#boxes.values()].filter(({ isUp }) => isUp !== false)
    await Promise.allSettled(boxes.map((box) => box.look()))
  }

  /** Has the mailboxes looked at often until the function that it gives is called, once. */
  follow(how: 'waiting' | 'watching'): () => void {
    this.#users[how]++
    this.#pause.abort()
    this.#pause = new AbortController()
    setMaxListeners(0, this.#pause.signal)
    return () => this.#users[how]--
  }

  /** Tells of a change. */
  tell(type: Change['type'], entry?: Entry, isNews?: boolean): void {
    this.#all = undefined
    this.emit('change', { type, entry, isNews })
  }

  /** A message's bytes; undefined where it is gone. */
  async source({ copies }: Entry): Promise<Buffer | undefined> {
    for (const { box, uid } of copies) {
      const found = await box.client.fetchOne(String(uid), { source: true }, BY_UID)
      if (found) return found.source
    }
    return undefined
  }

  /** Reads the first words of messages into their `snippet`. */
  async readSnippets(entries: Entry[]): Promise<void> {
    const unknown = entries.filter(({ snippet }) => snippet === undefined)
    await eachBox(firstsOf(unknown), async (client, uids, box) => {
      for await (const { uid, source } of client.fetch(uids, { source: { maxLength: SNIPPET.read } }, BY_UID)) {
        const entry = this.#entryAt(box, uid)
        const { readableText } = readMail(source ?? Buffer.of())
        if (entry) entry.snippet = readableText.replace(/\s+/g, ' ').trim().slice(0, SNIPPET.shown)
      }
    })
  }

  /** Which of the messages have a text in their bodies, as Dovecot reads them. In every header stands "delivered". */
  async containing(entries: Entry[], text: string): Promise<Set<Entry | undefined>> {
    const found = new Set<Entry | undefined>()
    await eachBox(firstsOf(entries), async (client, uid, box) => {
      for (const hit of (await client.search({ uid, body: text }, BY_UID)) || []) found.add(this.#entryAt(box, hit))
    })
    return found
  }

  /** Sets or takes a flag of all copies. */
  async flag(entries: Entry[], flag: string, on: boolean): Promise<void> {
    const changed = entries.filter(({ copies }) => copies.some(({ flags }) => flags.has(flag) !== on))
    const copies = changed.flatMap((entry) => entry.copies)
    // Here first: what the server then says is no news.
    for (const { flags } of copies) on ? flags.add(flag) : flags.delete(flag)
    for (const entry of changed) this.tell('update', entry)
    const options = { uid: true, silent: true }
    await eachBox(copies, (client, uids) =>
      on ? client.messageFlagsAdd(uids, [flag], options) : client.messageFlagsRemove(uids, [flag], options),
    )
  }

  async delete(entries: Entry[]): Promise<void> {
    await eachBox(
      entries.flatMap(({ copies }) => copies),
      async (client, uids, box) => {
        await client.messageDelete(uids, BY_UID)
        box.forget(uids.split(',').map(Number))
      },
    )
  }

  arrived(copy: Copy, message: FetchMessageObject, isNews: boolean): void {
    const { entry: read, recipient, isAlone } = readCopy(copy, message)
    const entry = this.#byId.get(read.id) ?? read
    copy.recipient = recipient
    entry.copies.push(copy)
    entry.words += `\n<${fold(recipient)}>`
    this.#byId.set(entry.id, entry)
    this.#byCopy.set(copy, entry)
    if (entry.arrival) return void this.tell('update', entry)
    const show = () => {
      entry.arrival = ++this.arrivals
      this.tell('new', entry, isNews)
    }
    clearTimeout(entry.timer)
    if (isAlone || !isNews) show()
    else entry.timer = setTimeout(show, SETTLE)
  }

  flagged(copy: Copy): void {
    const entry = this.#byCopy.get(copy)
    if (entry?.arrival) this.tell('update', entry)
  }

  gone(copy: Copy): void {
    const entry = this.#byCopy.get(copy)
    if (!entry) return
    this.#byCopy.delete(copy)
    entry.copies = entry.copies.filter((one) => one !== copy)
    const isGone = entry.copies.length === 0
    if (isGone) {
      clearTimeout(entry.timer)
      this.#byId.delete(entry.id)
    }
    if (entry.arrival) this.tell(isGone ? 'delete' : 'update', entry)
  }

  looked(): void {
    const isUp = [...this.#boxes.values()].some((box) => box.isUp)
    if (isUp === this.isUp) return
    this.isUp = isUp
    this.tell('server')
  }

  async pause(): Promise<void> {
    const { waiting, watching } = this.#users
    const pace = waiting > 0 ? PACE.waiting : watching > 0 ? PACE.watching : PACE.idle
    // A hundred mailboxes are not looked at a hundred times a second each.
    await sleep(Math.max(pace, this.#boxes.size), undefined, { signal: this.#pause.signal }).catch(() => {})
  }

  #entryAt(box: Mailbox, uid: number): Entry | undefined {
    const copy = box.copies.get(uid)
    return copy && this.#byCopy.get(copy)
  }

  /** Opens the mailboxes of new accounts, and closes those of accounts that are gone. */
  #followAccounts(isNews: boolean): void {
    let addresses: string[]
    try {
      addresses = readAccounts().map(({ address }) => address)
    } catch {
      // Being written, or wrong: the mailboxes of before stay, and the doctor says why.
      return
    }
    for (const [address, box] of this.#boxes) {
      if (!addresses.includes(address) && this.#boxes.delete(address)) box.close()
    }
    for (const address of addresses.filter((one) => !this.#boxes.has(one))) {
      this.#boxes.set(address, new Mailbox(this.#settings, address, isNews, this))
    }
  }
}

const firstsOf = (entries: Entry[]) => entries.flatMap(({ copies }) => copies.slice(0, 1))

/** Does a piece of work in each mailbox that has some of the copies, for a portion of its UIDs after the other. */
async function eachBox(
  copies: Copy[],
  work: (client: ImapFlow, uids: string, box: Mailbox) => Promise<unknown>,
): Promise<void> {
  const uidsIn = (box: Mailbox) => copies.flatMap((copy) => (copy.box === box ? copy.uid : []))
  const boxes = new Set(copies.map(({ box }) => box))
  await Promise.all(
    [...boxes].map(async (box) => {
      for (const uids of portionsOf(uidsIn(box))) await work(box.client, uids, box)
    }),
  )
}
