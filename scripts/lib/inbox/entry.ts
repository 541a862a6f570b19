/** A message as the inbox knows it without its body: once, however many copies of it are stored. */
import type { FetchMessageObject, MessageStructureObject } from 'imapflow'
import { type Address, toEnvelope } from '../mail/addresses.ts'
import { fold } from '../mail/filters.ts'
import { type Headers, readHeaders } from '../mail/mail.ts'
import type { Copy } from './mailbox.ts'

export interface Entry extends Pick<Headers, 'from' | 'to' | 'cc' | 'bcc' | 'replyTo' | 'subject' | 'messageId'> {
  /** Letters and digits, the same after a restart: Postfix's queue id, which the sender saw in "250 queued as". */
  id: string
  copies: Copy[]
  /** When Postfix accepted it, in milliseconds. */
  created: number
  size: number
  attachments: number
  inline: number
  /** In lower case all names and addresses, those of the envelope as well, subject, files: what most mails are not found by. */
  words: string
  /** The first words, once somebody wanted them. */
  snippet?: string
  /** Counts up as messages are told of; 0 before that. */
  arrival: number
  timer?: NodeJS.Timeout
}

/** What a stored copy says of its message, whom the copy is for, and whether no other copy will come. */
export function readCopy(
  { box, uid }: Copy,
  { headers: raw, internalDate, size = 0, bodyStructure }: FetchMessageObject,
) {
  const { headers, envelopeRecipient, ...head } = readHeaders(raw ?? Buffer.of())
  const { from, to, cc, bcc, replyTo, subject, messageId } = head
  const { queueId, isAlone } = traceOf(headers)
  const time = timeOf(queueId)
  const people = [from, to, cc, bcc, replyTo].flat().map(({ name, address }) => `${name} <${address}>`)
  const { names, ...counts } = partsOf(bodyStructure)
  const entry: Entry = {
    // Short queue ids, Postfix's own default, come back with other mail.
    id: time ? queueId : box.key + uid.toString(36),
    ...{ copies: [], created: time ?? Number(internalDate), size, ...counts },
    ...{ from, to, cc, bcc, replyTo, subject, messageId: messageId.replace(/^<|>$/g, '') },
    ...{ words: fold([...people, subject, messageId, ...names].join('\n')), arrival: 0 },
  }
  return { entry, recipient: envelopeRecipient || box.address, isAlone: isAlone || !time }
}

export const SEEN = '\\Seen'
export const isRead = ({ copies }: Entry) => copies.every(({ flags }) => flags.has(SEEN))
export const unreadOf = (entries: Entry[]) => entries.filter((entry) => !isRead(entry)).length
/** Mailpit's tags are IMAP keywords, in hexadecimal: keywords have no letter case, and in Dovecot 50 characters. */
export const TAG = /^[\w .@-]{1,24}$/
export const flagOf = (tag: string) => `t_${Buffer.from(tag).toString('hex')}`
const tagOf = (flag: string) => (/^t_[\da-f]+$/i.test(flag) ? Buffer.from(flag.slice(2), 'hex').toString() : [])
export const tagsOf = ({ copies }: Entry) => unique(copies.flatMap(({ flags }) => [...flags].flatMap(tagOf))).sort()
/** The recipients of the envelope whose copies are here. */
export const envelopeOf = ({ copies }: Entry) => unique(copies.map(({ recipient }) => recipient))
export const mailboxesOf = ({ copies }: Entry) => unique(copies.map(({ box }) => box.address))
/** Bcc: who has a copy and stands in no header. */
export function bccOf(entry: Entry): Address[] {
  const named = [...entry.to, ...entry.cc, ...entry.bcc].map(({ address }) => toEnvelope(address).toLowerCase())
  const hidden = envelopeOf(entry).filter((address) => !named.includes(toEnvelope(address).toLowerCase()))
  return [...entry.bcc, ...hidden.map((address) => ({ name: '', address }))]
}

function unique<T>(list: T[]): T[] {
  return list.length > 1 ? [...new Set(list)] : list
}

/**
 * The queue id that this server's own Postfix wrote: the topmost, for what stands below came with the mail. Of a single
 * recipient Postfix says so ("for <...>").
 */
function traceOf(headers: Headers['headers']): { queueId: string; isAlone: boolean } {
  const wrote = /^(?:from\s.*\s)?by\s+\S+\s+\(Postfix[^)]*\)(?:\s+with\s+\S+)?\s+id\s+(\w+)(\s+for\s+<)?/
  for (const { name, value } of headers) {
    const [, queueId, alone] = (/^received$/i.test(name) && wrote.exec(value)) || []
    if (queueId) return { queueId, isAlone: alone !== undefined }
  }
  return { queueId: '', isAlone: true }
}

/**
 * The milliseconds in one of Postfix's long queue ids (enable_long_queue_ids): seconds and microseconds to the base of 52,
 * "z", the file's number. Undefined for other ids.
 */
function timeOf(queueId: string): number | undefined {
  const [, seconds, micros] = /^([\dA-Za-z]{6,})([\dA-Za-z]{4})z[^z]+$/.exec(queueId) ?? []
  if (!seconds || !micros) return undefined
  const digits = '0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz'
  const numberOf = (text: string) => [...text].reduce((sum, digit) => sum * 52 + digits.indexOf(digit), 0)
  return numberOf(seconds) * 1_000 + Math.floor(numberOf(micros) / 1_000)
}

/** How many attachments a mail has, and how many parts that belong into its text, as `readMail` counts them; their names. */
function partsOf(root: MessageStructureObject | undefined) {
  const counts = { attachments: 0, inline: 0, names: [] as string[] }
  const walk = (part: MessageStructureObject) => {
    const { type = '', id, disposition, dispositionParameters, parameters, childNodes } = part
    if (childNodes && !type.startsWith('message/')) return childNodes.forEach(walk)
    const name = dispositionParameters?.filename ?? parameters?.name ?? ''
    const isNamed = name !== '' && disposition !== 'inline'
    if (/^text\/(plain|html)$/.test(type) && disposition !== 'attachment' && !isNamed) return
    counts.names.push(name)
    counts[disposition === 'inline' || (disposition !== 'attachment' && id) ? 'inline' : 'attachments']++
  }
  if (root) walk(root)
  return counts
}
