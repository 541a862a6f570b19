/** All mailboxes as one list in memory: each message once, however many copies of it are stored. Bodies stay in Dovecot. */
import { EventEmitter } from 'node:events'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { readAccounts } from '../accounts/accounts.ts'
import { type Address, readHeaders } from '../mail/mail.ts'
import { CONFIG_DIR, type Settings } from '../settings.ts'
import { type Flags, type Listener, Mailbox, type Stored } from './mailbox.ts'

/** Milliseconds in which the copies of a message to several recipients come together. */
const SETTLE = 50
/** Milliseconds between two looks at the mailboxes: while somebody waits, while a page is open, and else. */
const PACE = { wait: 10, page: 80, idle: 2_000 }
/** Milliseconds between two looks for accounts that were added or deleted. */
const ACCOUNTS = 500

/** A stored copy of a message: one for each recipient. */
interface Copy {
  box: Mailbox
  uid: number
  flags: Flags
  recipient: string
}

/** A message. */
export interface Entry {
  /** Letters and digits, the same after a restart: Postfix's queue id, which the sender saw in "250 queued as". */
  id: string
  key: string
  copies: Copy[]
  /** When Postfix accepted it, in milliseconds. */
  created: number
  /** Counts up as mail comes. */
  arrival: number
  messageId: string
  from: Address[]
  to: Address[]
  cc: Address[]
  bcc: Address[]
  replyTo: Address[]
  subject: string
  size: number
  attachments: number
  inline: number
  snippet: string | undefined
  /** Told of, and so found by all. */
  isShown: boolean
  timer: NodeJS.Timeout | undefined
}

export const isRead = ({ copies }: Entry) => copies.every(({ flags }) => flags.has('\\Seen'))
/** A tag is an IMAP keyword, in hexadecimal: Dovecot's keywords have no letter case and 50 characters at most. */
export const LONGEST_TAG = 24
export const flagOf = (tag: string) => `t_${Buffer.from(tag).toString('hex')}`
const tagOf = (flag: string) => (/^t_[\da-f]+$/i.test(flag) ? Buffer.from(flag.slice(2), 'hex').toString() : [])
export const tagsOf = ({ copies }: Entry) =>
  [...new Set(copies.flatMap(({ flags }) => [...flags].flatMap(tagOf)))].sort()
/** The envelope's recipients, as far as their copies are here. */
export const envelopeOf = ({ copies }: Entry) => [...new Set(copies.map(({ recipient }) => recipient))]
export const mailboxesOf = ({ copies }: Entry) => [...new Set(copies.map(({ box }) => box.address))]
/** Bcc: who has a copy and stands in no header. */
export function bccOf(entry: Entry): Address[] {
  const named = new Set([...entry.to, ...entry.cc, ...entry.bcc].map(({ address }) => address.toLowerCase()))
  const hidden = envelopeOf(entry).filter((address) => !named.has(address.toLowerCase()))
  return [...entry.bcc, ...hidden.map((address) => ({ name: '', address }))]
}

interface Events {
  new: [Entry]
  update: [Entry]
  delete: [Entry]
  /** The mail server went away, or is back. */
  server: [boolean]
}

export class Index extends EventEmitter<Events> implements Listener {
  /** How many wait for mail, and how many watch it come. */
  waiting = 0
  watching = 0
  /** Settled when all mail that was there at the start is in the list. */
  readonly filled: Promise<unknown>
  readonly #settings: Settings
  readonly #boxes = new Map<string, Mailbox>()
  readonly #byKey = new Map<string, Entry>()
  readonly #byCopy = new Map<Mailbox, Map<number, Entry>>()
  readonly #byId = new Map<string, Entry>()
  #sorted: Entry[] | undefined
  #arrivals = 0
  #isUp = false
  #isFilled = false
  #accountsChanged = 0
  readonly #timer: NodeJS.Timeout
  #pace = new AbortController()

  constructor(settings: Settings) {
    super()
    this.#settings = settings
    this.#openAccounts()
    this.#timer = setInterval(() => this.#openAccounts(), ACCOUNTS)
    this.filled = Promise.all([...this.#boxes.values()].map(({ filled }) => filled)).then(() => {
      this.#isFilled = true
    })
  }

  close(): void {
    clearInterval(this.#timer)
    this.#pace.abort()
    for (const box of this.#boxes.values()) box.close()
  }

  /** Whether the mail server answers. */
  get isUp(): boolean {
    return this.#isUp
  }

  /** All messages, newest first. */
  list(): Entry[] {
    this.#sorted ??= [...this.#byKey.values()].filter(({ isShown }) => isShown).sort(newestFirst)
    return this.#sorted
  }

  find(id: string): Entry | undefined {
    const entry = this.#byId.get(id)
    return entry?.isShown ? entry : undefined
  }

  /** Mail that comes from now on has a higher arrival. */
  get arrivals(): number {
    return this.#arrivals
  }

  get mailboxes(): { name: string; entries: Entry[] }[] {
    return [...this.#boxes.values()].map((box) => ({
      name: box.address,
      entries: [...new Set(this.#byCopy.get(box)?.values())].filter(({ isShown }) => isShown),
    }))
  }

  /** Looks into all mailboxes now. */
  async refresh(): Promise<void> {
    await Promise.allSettled([...this.#boxes.values()].map((box) => (box.isOpen ? box.look() : box.key && box.attempt)))
  }

  /** A mail's bytes; undefined where it is gone. */
  async source({ copies }: Entry): Promise<Buffer | undefined> {
    for (const { box, uid } of copies) {
      const source = await box.source(uid)
      if (source) return source
    }
    return undefined
  }

  /** Reads the first words of mails into their `snippet`. */
  async readSnippets(entries: Entry[]): Promise<void> {
    await this.#eachBox(
      entries.filter(({ snippet }) => snippet === undefined).flatMap(({ copies }) => copies[0] ?? []),
      async (box, uids) => {
        for (const [uid, preview] of await box.previews(uids)) {
          const entry = this.#byCopy.get(box)?.get(uid)
          if (entry) entry.snippet = preview
        }
      },
    )
  }

  /** Which of the messages have a text anywhere in them. */
  async containing(entries: Entry[], text: string): Promise<Set<Entry>> {
    const found = new Set<Entry>()
    await this.#eachBox(
      entries.flatMap(({ copies }) => copies[0] ?? []),
      async (box, uids) => {
        const hits = await box.containing(uids, text)
        for (const uid of hits) found.add(this.#byCopy.get(box)?.get(uid) as Entry)
      },
    )
    return found
  }

  /** Sets or takes a flag of all copies. */
  async flag(entries: Entry[], flag: string, on: boolean): Promise<void> {
    const copies = entries.flatMap(({ copies }) => copies).filter(({ flags }) => flags.has(flag) !== on)
    // Here first: what the server then says is no news.
    for (const { flags } of copies) on ? flags.add(flag) : flags.delete(flag)
    for (const entry of entries) if (entry.copies.some((copy) => copies.includes(copy))) this.emit('update', entry)
    await this.#eachBox(copies, (box, uids) => box.flag(uids, flag, on))
  }

  async delete(entries: Entry[]): Promise<void> {
    await this.#eachBox(
      entries.flatMap(({ copies }) => copies),
      (box, uids) => box.delete(uids),
    )
  }

  /** The message with this ID once `isComplete` is true of it; what is there of it after `patience` milliseconds. */
  arrival(id: string, patience: number, isComplete: (entry: Entry) => boolean): Promise<Entry | undefined> {
    return new Promise((resolve) => {
      const look = () => {
        const entry = this.find(id)
        if (entry && isComplete(entry)) end()
      }
      const end = () => {
        clearTimeout(timer)
        this.off('new', look).off('update', look)
        resolve(this.find(id))
      }
      const timer = setTimeout(end, patience)
      this.on('new', look).on('update', look)
      look()
    })
  }

  arrived(box: Mailbox, message: Stored): void {
    const { headers, envelopeRecipient, ...mail } = readHeaders(message.headers ?? Buffer.alloc(0))
    const { queueId, isAlone } = traceOf(headers)
    const copy = {
      box,
      uid: message.uid,
      flags: message.flags ?? new Set(),
      recipient: envelopeRecipient || box.address,
    }
    const isLong = LONG_ID.test(queueId)
    const own = box.key + message.uid.toString(36)
    const key = isLong ? queueId : queueId ? `${queueId} ${mail.messageId}` : own
    const known = this.#byKey.get(key)
    const entry = known ?? {
      id: isLong ? queueId : own,
      key,
      copies: [],
      created: timeOf(queueId) ?? Number(message.internalDate),
      arrival: ++this.#arrivals,
      messageId: mail.messageId.replace(/^<|>$/g, ''),
      from: mail.from,
      to: mail.to,
      cc: mail.cc,
      bcc: mail.bcc,
      replyTo: mail.replyTo,
      subject: mail.subject,
      size: message.size ?? 0,
      ...countsOf(message.bodyStructure),
      snippet: undefined,
      isShown: false,
      timer: undefined,
    }
    entry.copies.push(copy)
    this.#byKey.set(key, entry)
    this.#byId.set(entry.id, entry)
    this.#byCopy.get(box)?.set(message.uid, entry)
    if (entry.isShown) this.emit('update', entry)
    else if (!this.#isFilled || isAlone) this.#show(entry)
    else {
      clearTimeout(entry.timer)
      entry.timer = setTimeout(() => this.#show(entry), SETTLE)
    }
  }

  flagged(box: Mailbox, uid: number, flags: Flags): void {
    const entry = this.#byCopy.get(box)?.get(uid)
    const copy = entry?.copies.find((one) => one.box === box && one.uid === uid)
    if (!entry || !copy || (copy.flags.size === flags.size && [...flags].every((flag) => copy.flags.has(flag)))) return
    copy.flags = new Set(flags)
    if (entry.isShown) this.emit('update', entry)
  }

  gone(box: Mailbox, uid: number): void {
    const entry = this.#byCopy.get(box)?.get(uid)
    if (!entry) return
    this.#byCopy.get(box)?.delete(uid)
    entry.copies = entry.copies.filter((copy) => copy.box !== box || copy.uid !== uid)
    if (entry.copies.length > 0) return
    clearTimeout(entry.timer)
    this.#byKey.delete(entry.key)
    this.#byId.delete(entry.id)
    this.#sorted = undefined
    if (entry.isShown) this.emit('delete', entry)
  }

  turned(): void {
    const isUp = [...this.#boxes.values()].some(({ isOpen }) => isOpen)
    if (isUp === this.#isUp) return
    this.#isUp = isUp
    this.emit('server', isUp)
  }

  pause(): Promise<void> {
    const pace = this.waiting > 0 ? PACE.wait : this.watching > 0 ? PACE.page : PACE.idle
    const { signal } = this.#pace
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', end)
        resolve()
      }
      const timer = setTimeout(end, pace)
      signal.addEventListener('abort', end)
    })
  }

  /** Ends the pauses: somebody waits or watches now. */
  hurry(): void {
    this.#pace.abort()
    this.#pace = new AbortController()
  }

  #show(entry: Entry): void {
    entry.timer = undefined
    entry.isShown = true
    this.#sorted = undefined
    this.emit('new', entry)
  }

  /** Opens the mailboxes of new accounts, and closes those of accounts that are gone. */
  #openAccounts(): void {
    const changed = statSync(join(CONFIG_DIR, 'postfix-accounts.cf'), { throwIfNoEntry: false })?.mtimeMs ?? 0
    if (changed === this.#accountsChanged) return
    let addresses: string[]
    try {
      addresses = readAccounts().map(({ address }) => address)
    } catch {
      // In the middle of a change by hand, or wrong: the mailboxes of before stay, and the doctor says why.
      return
    }
    this.#accountsChanged = changed
    for (const [address, box] of this.#boxes) {
      if (addresses.includes(address)) continue
      this.#boxes.delete(address)
      box.close()
      this.#byCopy.delete(box)
    }
    for (const address of addresses) {
      if (this.#boxes.has(address)) continue
      const box = new Mailbox(this.#settings, address, this)
      this.#boxes.set(address, box)
      this.#byCopy.set(box, new Map())
    }
  }

  async #eachBox(copies: Copy[], work: (box: Mailbox, uids: number[]) => Promise<unknown>): Promise<void> {
    const uids = new Map<Mailbox, number[]>()
    for (const { box, uid } of copies) uids.set(box, [...(uids.get(box) ?? []), uid])
    await Promise.all([...uids].map(([box, list]) => work(box, list)))
  }
}

/** By the time of arrival; within one millisecond queue ids tell. */
function newestFirst(a: Entry, b: Entry): number {
  return b.created - a.created || (a.key < b.key ? 1 : -1)
}

/** Postfix's long queue ids: seconds and microseconds to the base of 52, "z", and the file's number (enable_long_queue_ids). */
const LONG_ID = /^([\dA-Za-z]{6,})([\dA-Za-z]{4})z[^z]+$/
const DIGITS = '0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz'

/** When a message got its queue id, in milliseconds; undefined for ids that do not tell. */
function timeOf(queueId: string): number | undefined {
  const [, seconds, micros] = LONG_ID.exec(queueId) ?? []
  if (!seconds || !micros) return undefined
  const numberOf = (text: string) => [...text].reduce((sum, digit) => sum * 52 + DIGITS.indexOf(digit), 0)
  return numberOf(seconds) * 1_000 + Math.floor(numberOf(micros) / 1_000)
}

/**
 * The queue id that this server's own Postfix wrote, which is the topmost: what stands below came with the mail. With one
 * recipient Postfix names it ("for <...>"): no other copy will come.
 */
function traceOf(headers: { name: string; value: string }[]): { queueId: string; isAlone: boolean } {
  for (const { name, value } of headers) {
    if (name.toLowerCase() !== 'received') continue
    const [, queueId, rest = ''] =
      /^(?:from\s.*\s)?by\s+\S+\s+\(Postfix[^)]*\)(?:\s+with\s+\S+)?\s+id\s+(\w+)(.*)/s.exec(value) ?? []
    if (queueId) return { queueId, isAlone: /^\s+for\s+</.test(rest) }
  }
  return { queueId: '', isAlone: true }
}

interface Node {
  type?: string
  id?: string
  disposition?: string
  dispositionParameters?: { filename?: string }
  parameters?: { name?: string }
  childNodes?: Node[]
}

/** How many parts of a mail are attachments, and how many belong into its text. */
function countsOf(root: Node | undefined): { attachments: number; inline: number } {
  const counts = { attachments: 0, inline: 0 }
  const walk = (node: Node) => {
    if (node.childNodes && !node.type?.startsWith('message/')) for (const child of node.childNodes) walk(child)
    else if (isAttachment(node)) counts[isInline(node) ? 'inline' : 'attachments']++
  }
  if (root) walk(root)
  return counts
}

/** As the reading of a whole mail has it. */
const isInline = ({ disposition, id }: Node) =>
  disposition === 'inline' || (disposition !== 'attachment' && Boolean(id))

function isAttachment({ type = 'text/plain', disposition, dispositionParameters, parameters }: Node): boolean {
  if (!/^text\/(plain|html)$/.test(type)) return true
  return disposition === 'attachment' || Boolean(dispositionParameters?.filename ?? parameters?.name)
}
