/** Messages that are sent as they are: their bytes, and what their headers say. */
import { type Address, parseAddressList } from './addresses.ts'
import type { Message } from './message.ts'

/** A message that is sent as it is. */
export interface PreparedMessage extends Message {
  /** What stands before the header and is sent with it, such as "an mbox line"; undefined where nothing does. */
  before: string | undefined
  /** The addresses in the fields of a name. Throws an Error that names the field when an address in it is none. */
  addressesIn: (field: string) => Address[]
}

/** What text editors and mailboxes put before a header. Line ends are those that leave: a lone CR becomes one as well. */
const BEFORE = /^(?:\xef\xbb\xbf|>?From (?!\s*:)[^\r\n]*(?:\r\n|\r|\n)|[ \t]*(?:\r\n|\r|\n))*/
const FIELD = /(?<![^\r\n])([!-9;-~]+)[ \t]*:([^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*)(?:\r\n|\r|\n|$)/g

/**
 * Prepares the bytes of a message for sending: they stay as they are, but for the Bcc and Resent-Bcc fields, which no
 * recipient may see (RFC 5322 sections 3.6.3 and 3.6.6).
 */
export function prepareEml(bytes: Buffer): PreparedMessage {
  // One character for each byte, so that positions and bytes stay what they are.
  const text = bytes.toString('latin1')
  const [before = ''] = BEFORE.exec(text) ?? []
  const rest = text.slice(before.length)
  const end = /(\r\n|\r(?!\n)|\n)(?:\r\n|\r|\n)/.exec(rest)
  const header = end ? rest.slice(0, end.index + (end[1] ?? '').length) : rest
  const fields: { name: string; value: string }[] = []
  const kept: Buffer[] = []
  let at = 0
  for (const { 0: all, 1: name = '', 2: value = '', index } of header.matchAll(FIELD)) {
    fields.push({ name: name.toLowerCase(), value: unfold(value) })
    if (!/^(?:resent-)?bcc$/i.test(name)) continue
    kept.push(bytes.subarray(at, before.length + index))
    at = before.length + index + all.length
  }
  return {
    bytes: at === 0 ? bytes : Buffer.concat([...kept, bytes.subarray(at)]),
    messageId: fields.find(({ name }) => name === 'message-id')?.value ?? null,
    before: before === '' ? undefined : nameOf(before),
    addressesIn(field) {
      try {
        return fields.flatMap(({ name, value }) => (name === field.toLowerCase() ? parseAddressList(value) : []))
      } catch (error) {
        throw new Error(`its ${field} field has ${(error as Error).message}`)
      }
    },
  }
}

function nameOf(before: string): string {
  if (before.includes('From ')) return 'an mbox line ("From ...")'
  return before.startsWith('\xef') ? 'a byte order mark' : 'a blank line'
}

/** A field's value on one line, as text: internationalised headers are UTF-8 (RFC 6532). */
function unfold(value: string): string {
  return Buffer.from(value.replace(/[\r\n]/g, ''), 'latin1')
    .toString('utf8')
    .trim()
}
