/** All mailboxes as one list of messages in memory, live. Bodies stay in Dovecot. */
import { EventEmitter, setMaxListeners } from 'node:events'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FetchMessageObject } from 'imapflow'
import { readAccounts } from '../accounts/accounts.ts'
import { fold } from '../mail/filters.ts'
import { CONFIG_DIR, type Settings } from '../settings.ts'
import { type Entry, envelopeOf, readCopy, tagsOf, unreadOf } from './entry.ts'
import { type Copy, type Listener, Mailbox } from './mailbox.ts'

/** Milliseconds in which the copies of a message to several recipients come together; of one that the API has sent. */
const SETTLE = { any: 50, sent: 10_000 }
/** Milliseconds between two looks into a mailbox: while somebody waits, while a page is open, and else. */
const PACE = { waiting: 10, watching: 80, idle: 2_000 }
/** Milliseconds between two looks for accounts that were added or deleted. */
const ACCOUNTS = 500

interface Events {
  /** A message is there, which may be old news: part of a mailbox that was opened. */
  new: [Entry, isNews: boolean]
  /** Of a change of flags that the inbox made itself, which flag it was. */
  update: [Entry, flag?: string]
  delete: [Entry]
  /** All messages were deleted at once. */
  truncate: []
  /** The mail server is back, or away. */
  server: [boolean]
}

export class Index extends EventEmitter<Events> implements Listener {
  /** Whether the mail server answers. */
  isUp = false
  /** The `arrival` of the newest message. */
  arrivals = 0
  /** Messages that the API has just sent, by ID: they are told of when all recipients have them. */
  readonly sent = new Map<string, { username: string; recipients: string[] }>()
  readonly #settings: Settings
  readonly #boxes = new Map<string, Mailbox>()
  readonly #byId = new Map<string, Entry>()
  readonly #byCopy = new Map<Copy, Entry>()
  readonly #timer = setInterval(() => this.#followAccounts(), ACCOUNTS)
  #all: { list: Entry[]; unread: number; tags: string[] } | undefined
  #accountsChanged = 0
  #users = { waiting: 0, watching: 0 }
  #pause = new AbortController()

  constructor(settings: Settings) {
    super()
    this.setMaxListeners(0)
    this.#settings = settings
    for (const event of ['new', 'update', 'delete'] as const) {
      this.on(event, () => {
        this.#all = undefined
      })
    }
    this.#followAccounts()
  }

  close(): void {
    clearInterval(this.#timer)
    for (const box of this.#boxes.values()) box.close()
    this.#pause.abort()
  }

  get mailboxes(): string[] {
    return [...this.#boxes.keys()]
  }

  /** Settled when all is read that was there when the mailboxes were opened. */
  get filled(): Promise<unknown> {
    return Promise.all([...this.#boxes.values()].map(({ filled }) => filled))
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

  /** Looks into all mailboxes now, and waits for those that are being opened at the start or again. */
  async refresh(): Promise<void> {
    const look = (box: Mailbox) => (box.isOpen ? box.look() : box.isAwaited ? box.opened : undefined)
    await Promise.allSettled([...this.#boxes.values()].map(look))
  }

  /** Has the mailboxes looked at often until the function that it gives is called, once. */
  follow(how: 'waiting' | 'watching'): () => void {
    this.#users[how]++
    this.#pause.abort()
    this.#pause = new AbortController()
    setMaxListeners(0, this.#pause.signal)
    return () => this.#users[how]--
  }

  /** A message's bytes; undefined where it is gone. */
  async source({ copies }: Entry): Promise<Buffer | undefined> {
    for (const { box, uid } of copies) {
      const source = await box.source(uid)
      if (source) return source
    }
    return undefined
  }

  /** Reads the first words of messages into their `snippet`. */
  async readSnippets(entries: Entry[]): Promise<void> {
    const unknown = entries.filter(({ snippet }) => snippet === undefined)
    await eachBox(firstsOf(unknown), async (box, uids) => {
      // Where Dovecot is too old for it there are none.
      for (const [uid, preview] of await box.previews(uids).catch(() => [])) {
        const entry = this.#entryAt(box, uid)
        if (entry) entry.snippet = preview
      }
    })
  }

  /** Which of the messages have a text anywhere in them. */
  async containing(entries: Entry[], text: string): Promise<Set<Entry | undefined>> {
    const found = new Set<Entry | undefined>()
    await eachBox(firstsOf(entries), async (box, uids) => {
      for (const uid of await box.containing(uids, text)) found.add(this.#entryAt(box, uid))
    })
    return found
  }

  /** Sets or takes a flag of all copies. */
  async flag(entries: Entry[], flag: string, on: boolean): Promise<void> {
    const changed = entries.filter(({ copies }) => copies.some(({ flags }) => flags.has(flag) !== on))
    const copies = changed.flatMap((entry) => entry.copies)
    // Here first: what the server then says is no news.
    for (const { flags } of copies) on ? flags.add(flag) : flags.delete(flag)
    for (const entry of changed) this.emit('update', entry, flag)
    await eachBox(copies, (box, uids) => box.flag(uids, flag, on))
  }

  async delete(entries: Entry[]): Promise<void> {
    const copies = entries.flatMap((entry) => entry.copies)
    await eachBox(copies, (box, uids) => box.delete(uids))
  }

  arrived(copy: Copy, message: FetchMessageObject): void {
    const { entry: read, recipient, isAlone } = readCopy(copy, message)
    const entry = this.#byId.get(read.id) ?? read
    copy.recipient = recipient
    entry.copies.push(copy)
    entry.words += `\n<${fold(recipient)}>`
    this.#byId.set(entry.id, entry)
    this.#byCopy.set(copy, entry)
    if (entry.arrival) return void this.emit('update', entry)
    const { isNews } = copy.box
    const sent = this.sent.get(entry.id)
    const there = envelopeOf(entry).map(fold)
    const isWhole = sent ? sent.recipients.every((one) => there.includes(fold(one))) : isAlone
    const show = () => {
      clearTimeout(entry.timer)
      entry.arrival = ++this.arrivals
      entry.username = this.sent.get(entry.id)?.username ?? ''
      this.sent.delete(entry.id)
      this.emit('new', entry, isNews)
    }
    clearTimeout(entry.timer)
    if (isWhole || !isNews) show()
    else entry.timer = setTimeout(show, sent ? SETTLE.sent : SETTLE.any)
  }

  flagged(copy: Copy): void {
    const entry = this.#byCopy.get(copy)
    if (entry?.arrival) this.emit('update', entry)
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
    if (entry.arrival) this.emit(isGone ? 'delete' : 'update', entry)
  }

  turned(): void {
    const isUp = [...this.#boxes.values()].some(({ isOpen }) => isOpen)
    if (isUp === this.isUp) return
    this.isUp = isUp
    this.emit('server', isUp)
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
  #followAccounts(): void {
    const changed = statSync(join(CONFIG_DIR, 'postfix-accounts.cf'), { throwIfNoEntry: false })?.mtimeMs ?? 0
    if (changed === this.#accountsChanged) return
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
      this.#boxes.set(address, new Mailbox(this.#settings, address, this.#accountsChanged > 0, this))
    }
    this.#accountsChanged = changed
  }
}

const firstsOf = (entries: Entry[]) => entries.flatMap(({ copies }) => copies.slice(0, 1))

async function eachBox(copies: Copy[], work: (box: Mailbox, uids: number[]) => Promise<unknown>): Promise<void> {
  const uidsIn = (box: Mailbox) => copies.flatMap((copy) => (copy.box === box ? copy.uid : []))
  const boxes = new Set(copies.map(({ box }) => box))
  await Promise.all([...boxes].map((box) => work(box, uidsIn(box))))
}
