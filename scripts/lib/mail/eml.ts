/** Messages that are sent as they are: their bytes, and what their headers say about the envelope. */
import { type Mailbox, parseAddressList } from './addresses.ts'
import type { Message } from './message.ts'

/** A message that is sent as it is, and what its header says. */
export interface PreparedMessage extends Message {
  /** Of Sender, else of From. */
  from: Mailbox[]
  /** Of To, Cc and Bcc. */
  to: Mailbox[]
  /** What stands before the header and is sent with it, such as "an mbox line"; undefined where nothing does. */
  before: string | undefined
}

/** What text editors and mailboxes put before a header. Line ends are those that leave: a lone CR becomes one as well. */
const BEFORE: [string, RegExp][] = [
  ['a byte order mark', /^\xef\xbb\xbf/],
  ['an mbox line ("From ...")', /^(?:>?From (?!\s*:)[^\r\n]*(?:\r\n|\r|\n))+/],
  ['a blank line', /^(?:[ \t]*(?:\r\n|\r|\n))+/],
]
const FIELD = /(?<![^\r\n])([!-9;-~]+)[ \t]*:([^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*)(?:\r\n|\r|\n|$)/g

/**
 * Prepares the bytes of a message for sending: they stay as they are, but for the Bcc and Resent-Bcc fields, which no
 * recipient may see (RFC 5322 sections 3.6.3 and 3.6.6). `readEnvelope` says whether the addresses in the header are
 * wanted. Throws an Error that names the field when an address in it is none.
 */
export function prepareEml(bytes: Buffer, readEnvelope: { sender: boolean; recipients: boolean }): PreparedMessage {
  // One character for each byte, so that positions and bytes stay what they are.
  let rest = bytes.toString('latin1')
  const found = new Set<string>()
  for (let known = BEFORE[0]; known; ) {
    known = BEFORE.find(([, pattern]) => pattern.test(rest))
    if (known) found.add(known[0])
    rest = known ? rest.replace(known[1], '') : rest
  }
  const begin = bytes.length - rest.length
  const end = /(\r\n|\r(?!\n)|\n)(?:\r\n|\r|\n)/.exec(rest)
  const header = end ? rest.slice(0, end.index + (end[1] ?? '').length) : rest
  const fields = [...header.matchAll(FIELD)].map(({ 0: all, 1: name = '', 2: value = '', index }) => {
    return { name: name.toLowerCase(), value: unfold(value), from: begin + index, to: begin + index + all.length }
  })
  const mailboxesOf = (...names: string[]) =>
    names.flatMap((name) =>
      fields.flatMap((field) => {
        try {
          return field.name === name ? parseAddressList(field.value) : []
        } catch (error) {
          throw new Error(`its ${name[0]?.toUpperCase()}${name.slice(1)} field has ${(error as Error).message}`)
        }
      }),
    )
  const senders = readEnvelope.sender ? mailboxesOf('sender') : []
  const kept: Buffer[] = []
  let at = 0
  for (const field of fields.filter(({ name }) => name === 'bcc' || name === 'resent-bcc')) {
    kept.push(bytes.subarray(at, field.from))
    at = field.to
  }
  return {
    bytes: at === 0 ? bytes : Buffer.concat([...kept, bytes.subarray(at)]),
    messageId: fields.find(({ name }) => name === 'message-id')?.value ?? null,
    from: readEnvelope.sender && senders.length === 0 ? mailboxesOf('from') : senders,
    to: readEnvelope.recipients ? mailboxesOf('to', 'cc', 'bcc') : [],
    before: found.size > 0 ? [...found].join(' and ') : undefined,
  }
}

/** A field's value on one line, as text: internationalised headers are UTF-8 (RFC 6532). */
function unfold(value: string): string {
  return Buffer.from(value.replace(/[\r\n]/g, ''), 'latin1')
    .toString('utf8')
    .trim()
}
