/** All mailboxes as one list of messages in memory, live. Bodies stay in Dovecot. */
import { EventEmitter, setMaxListeners } from 'node:events'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FetchMessageObject } from 'imapflow'
import { readAccounts } from '../accounts/accounts.ts'
import { CONFIG_DIR, type Settings } from '../settings.ts'
import { type Entry, envelopeOf, fold, readCopy, tagsOf, unreadOf } from './entry.ts'
import { type Copy, type Listener, Mailbox } from './mailbox.ts'

/** Milliseconds in which the copies of a message to several recipients come together. */
const SETTLE = 50
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
  readonly #settings: Settings
  readonly #boxes = new Map<string, Mailbox>()
  readonly #byKey = new Map<string, Entry>()
  readonly #byCopy = new Map<Copy, Entry>()
  readonly #timer = setInterval(() => this.#followAccounts(), ACCOUNTS)
  readonly #expected = new Map<string, { username: string; recipients: string[] }>()
  #sorted: Entry[] | undefined
  #totals: { unread: number; tags: string[] } | undefined
  #accountsChanged = 0
  #users = { waiting: new Set(), watching: new Set() }
  #pause = new AbortController()

  constructor(settings: Settings) {
    super()
    this.setMaxListeners(0)
    this.#settings = settings
    for (const event of ['new', 'update', 'delete'] as const) {
      this.on(event, () => {
        this.#totals = undefined
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

  /** All messages, newest first. */
  list(): Entry[] {
    const newestFirst = (a: Entry, b: Entry) => b.created - a.created || (a.key < b.key ? 1 : -1)
    this.#sorted ??= [...this.#byKey.values()].filter(({ arrival }) => arrival > 0).sort(newestFirst)
    return this.#sorted
  }

  /** How many messages are unread, and the tags of all. */
  get totals(): { unread: number; tags: string[] } {
    const all = this.list()
    this.#totals ??= { unread: unreadOf(all), tags: [...new Set(all.flatMap(tagsOf))].sort() }
    return this.#totals
  }

  /** The messages of a mailbox, in no order. */
  inMailbox(name: string): Entry[] {
    const copies = [...(this.#boxes.get(name)?.copies.values() ?? [])]
    return [...new Set(copies.flatMap((copy) => this.#byCopy.get(copy) ?? []))].filter(({ arrival }) => arrival > 0)
  }

  find(id: string): Entry | undefined {
    const entry = this.#byKey.get(id) ?? this.list().find((one) => one.id === id)
    return entry?.arrival ? entry : undefined
  }

  /** Looks into all mailboxes now, and waits for those that are being opened at the start or again. */
  async refresh(): Promise<void> {
    const isOpening = (box: Mailbox) => box.isStarting || (this.isUp && box.wasOpen)
    const look = (box: Mailbox) => (box.isOpen ? box.look() : isOpening(box) ? box.opened : undefined)
    await Promise.allSettled([...this.#boxes.values()].map(look))
  }

  /** Has the mailboxes looked at often until the function that it gives is called. */
  follow(how: 'waiting' | 'watching'): () => void {
    const [users, user] = [this.#users[how], Symbol(how)]
    users.add(user)
    this.#pause.abort()
    this.#pause = new AbortController()
    setMaxListeners(0, this.#pause.signal)
    return () => users.delete(user)
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
    const firsts = entries.flatMap(({ snippet, copies }) => (snippet === undefined ? copies.slice(0, 1) : []))
    await eachBox(firsts, async (box, uids) => {
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
    const firsts = entries.flatMap(({ copies }) => copies.slice(0, 1))
    await eachBox(firsts, async (box, uids) => {
      for (const uid of await box.containing(uids, text)) found.add(this.#entryAt(box, uid))
    })
    return found
  }

  /** Sets or takes a flag of all copies. */
  async flag(entries: Entry[], flag: string, on: boolean): Promise<void> {
    const changed = entries.filter(({ copies }) => copies.some(({ flags }) => flags.has(flag) !== on))
    // Here first: what the server then says is no news.
    for (const { flags } of changed.flatMap(({ copies }) => copies)) on ? flags.add(flag) : flags.delete(flag)
    for (const entry of changed) this.emit('update', entry, flag)
    await eachBox(
      changed.flatMap(({ copies }) => copies),
      (box, uids) => box.flag(uids, flag, on),
    )
  }

  async delete(entries: Entry[]): Promise<void> {
    await eachBox(
      entries.flatMap(({ copies }) => copies),
      (box, uids) => box.delete(uids),
    )
  }

  /**
   * The message with this queue id, which the server has just accepted, once it is there for all of the recipients; what
   * there is of it when `patience` milliseconds are over. It is told of no sooner.
   */
  expect(id: string, recipients: string[], username: string, patience: number): Promise<Entry | undefined> {
    this.#expected.set(id, { username, recipients: recipients.map(fold) })
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer)
        this.#expected.delete(id)
        this.off('new', look).off('update', look)
        const entry = this.#byKey.get(id)
        if (entry && !entry.arrival) this.#show(entry, true)
        resolve(entry)
      }
      const look = (entry = this.#byKey.get(id)) => entry?.id === id && this.#isWhole(entry, false) && end()
      const timer = setTimeout(end, patience)
      this.on('new', look).on('update', look)
      look()
    })
  }

  arrived(copy: Copy, message: FetchMessageObject): void {
    const { entry: read, recipient, isAlone } = readCopy(copy, message)
    const entry = this.#byKey.get(read.key) ?? read
    entry.copies.push({ ...copy, recipient })
    entry.words += `\n<${fold(recipient)}>`
    this.#byKey.set(entry.key, entry)
    this.#byCopy.set(copy, entry)
    if (entry.arrival) this.emit('update', entry)
    else if (this.#isWhole(entry, isAlone) || !copy.box.isNews) this.#show(entry, copy.box.isNews)
    else if (!this.#expected.has(entry.id)) {
      clearTimeout(entry.timer)
      entry.timer = setTimeout(() => this.#show(entry, true), SETTLE)
    }
  }

  flagged(copy: Copy): void {
    const entry = this.#byCopy.get(copy)
    if (entry?.arrival) this.emit('update', entry)
  }

  gone(copy: Copy): void {
    const entry = this.#byCopy.get(copy)
    if (!entry) return
    this.#byCopy.delete(copy)
    entry.copies = entry.copies.filter(({ box, uid }) => box !== copy.box || uid !== copy.uid)
    if (entry.copies.length > 0) {
      if (entry.arrival) this.emit('update', entry)
      return
    }
    clearTimeout(entry.timer)
    this.#byKey.delete(entry.key)
    this.#sorted = undefined
    if (entry.arrival) this.emit('delete', entry)
  }

  turned(): void {
    const isUp = [...this.#boxes.values()].some(({ isOpen }) => isOpen)
    if (isUp === this.isUp) return
    this.isUp = isUp
    this.emit('server', isUp)
  }

  async pause(): Promise<void> {
    const { waiting, watching } = this.#users
    const pace = waiting.size > 0 ? PACE.waiting : watching.size > 0 ? PACE.watching : PACE.idle
    // A hundred mailboxes are not looked at a hundred times a second each.
    await sleep(Math.max(pace, this.#boxes.size), undefined, { signal: this.#pause.signal }).catch(() => {})
  }

  #isWhole(entry: Entry, isAlone: boolean): boolean {
    const expected = this.#expected.get(entry.id)
    if (expected) entry.username = expected.username
    const there = envelopeOf(entry).map(fold)
    return expected?.recipients.every((one) => there.includes(one)) ?? isAlone
  }

  #show(entry: Entry, isNews: boolean): void {
    entry.arrival = ++this.arrivals
    clearTimeout(entry.timer)
    this.#sorted = undefined
    this.emit('new', entry, isNews)
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
    for (const address of addresses) {
      if (this.#boxes.has(address)) continue
      this.#boxes.set(address, new Mailbox(this.#settings, address, this.#accountsChanged > 0, this))
    }
    this.#accountsChanged = changed
  }
}

async function eachBox(copies: Copy[], work: (box: Mailbox, uids: number[]) => Promise<unknown>): Promise<void> {
  const uids = new Map<Mailbox, number[]>()
  for (const { box, uid } of copies) {
    const list = uids.get(box)
    if (list) list.push(uid)
    else uids.set(box, [uid])
  }
  await Promise.all([...uids].map(([box, list]) => work(box, list)))
}
