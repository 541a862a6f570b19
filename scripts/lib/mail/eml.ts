/** Messages that are sent as they are: their bytes, and what their headers say. */
import { type Address, parseAddressList } from './addresses.ts'
import type { Message } from './message.ts'
import { firstOf, isNamed, opened } from './parts.ts'

/** A message that is sent as it is. */
export interface PreparedMessage extends Message {
  /** What stands before the header and is sent with it, such as "an mbox line"; undefined where nothing does. */
  before: string | undefined
  /** The addresses in the fields of a name. Throws an Error that names the field when one is none. */
  addressesIn: (field: string) => Address[]
}

/** What text editors and mailboxes put before a header. Line ends are those that leave: a lone CR becomes one as well. */
const BEFORE = /^(?:\xef\xbb\xbf|>?From (?!\s*:)[^\r\n]*(?:\r\n|\r|\n)|[ \t]*(?:\r\n|\r|\n))*/
const BCC = /(?<![^\r\n])(?:resent-)?bcc[ \t]*:[^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*(?:\r\n|\r|\n|$)/gi

/**
 * Prepares the bytes of a message for sending: they stay as they are, but for the Bcc and Resent-Bcc fields, which no
 * recipient may see (RFC 5322 sections 3.6.3 and 3.6.6).
 */
export function prepareEml(bytes: Buffer): PreparedMessage {
  // One character for each byte, so that all other bytes stay what they are.
  const text = bytes.toString('latin1')
  const [before = ''] = BEFORE.exec(text) ?? []
  const [header = ''] = text.slice(before.length).split(/(?<=\r\n|\r(?!\n)|\n)(?=[\r\n])/, 1)
  const { fields } = opened(Buffer.from(header.replace(/\r\n?/g, '\n'), 'latin1')).root
  const kept = Buffer.from(before + header.replace(BCC, ''), 'latin1')
  return {
    bytes: Buffer.concat([kept, bytes.subarray(before.length + header.length)]),
    messageId: firstOf(fields, 'message-id') || null,
    before: before ? nameOf(before) : undefined,
    addressesIn(field) {
      try {
        // Internationalised headers are UTF-8 (RFC 6532).
        const values = fields
          .filter((one) => isNamed(one, field.toLowerCase()))
          .map(({ value }) => Buffer.from(value, 'latin1'))
        return values.flatMap((value) => parseAddressList(value.toString()))
      } catch (error) {
        throw new Error(`its ${field} field has ${(error as Error).message}`)
      }
    },
  }
}

const nameOf = (before: string) =>
  before.includes('From ') ? 'an mbox line ("From ...")' : 'a blank line or a byte order mark'
