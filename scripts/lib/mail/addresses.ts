/** Address lists as people and header fields write them (RFC 5322 section 3.4), and what may stand in an envelope. */
import { domainToASCII } from 'node:url'

export interface Address {
  /** The display name, or an empty string. */
  name: string
  /** Without angle brackets. */
  address: string
}

const QUOTED = String.raw`"(?:\\.|[^"\\])*"`
const COMMENT = String.raw`\((?:\\.|[^()\\])*\)`
/**
 * In quotes, comments, angle brackets and domain literals (user@[IPv6:::1]) commas and colons separate nothing. An escaped
 * character never begins one of them, so that a long text without an end is searched only once.
 */
const TOKEN = new RegExp(String.raw`${QUOTED}|${COMMENT}|<[^<>]*>|\[[^[\]]*\]|\\["(<[\\]|.`, 'gs')
const QUOTED_OR_COMMENT = new RegExp(String.raw`${QUOTED}|${COMMENT}|\\.`, 'gs')

/**
 * Parses a list such as `"Doe, J." <j@x>, 名前 <a@b>, bareuser, friends: c@d;`. Comments become the name where there is
 * no other; groups are dissolved into their members. Throws an Error that quotes what is no address.
 */
export function parseAddressList(list: string): Address[] {
  const entries: string[] = []
  let entry = ''
  for (const [token] of list.matchAll(TOKEN)) {
    if (token === ',' || token === ';') {
      entries.push(entry.trim())
      entry = ''
    } else {
      // A colon ends the name of a group.
      entry = token === ':' && !entry.includes('@') ? '' : entry + token
    }
  }
  entries.push(entry.trim())
  const given = entries.filter((each) => each !== '')
  return given.map((each) => parseAddress(each, given.length === 1))
}

function parseAddress(entry: string, isAlone: boolean): Address {
  let comment = ''
  const plain = entry.replace(QUOTED_OR_COMMENT, (part) => {
    if (!part.startsWith('(')) return part
    comment ||= part.slice(1, -1).trim()
    return ''
  })
  const [, phrase = '', bracketed] = /^(.*?)<([^<>]*)>\s*$/s.exec(plain) ?? []
  const address = (bracketed ?? plain).trim()
  // Nobody means to write to a user Doe in `Doe, J <a@b>`.
  const problem = isAlone || address.includes('@') ? problemOfAddress(address) : NO_ADDRESS
  if (problem) throw new Error(`${JSON.stringify(entry)}: ${problem}`)
  const unquoted = (part: string) => (part.startsWith('"') ? part.slice(1, -1).replace(/\\(.)/g, '$1') : part)
  return { name: phrase.trim().replace(QUOTED_OR_COMMENT, unquoted) || comment, address }
}

const LOCAL_PART = String.raw`"(?:[^"\\<>\x00-\x1f\x7f]|\\[^<>\x00-\x1f\x7f])*"|[^\s"(),:;<>@[\\\]\x00-\x1f\x7f]+`
const DOMAIN = String.raw`\[[^\s[\]\\<>\x00-\x1f\x7f]+\]|[^\s"(),:;<>@[\\\]\x00-\x1f\x7f]+`
const ADDRESS = new RegExp(`^(?:${LOCAL_PART})@(?:${DOMAIN})$`)
const NO_ADDRESS =
  'not an address. Write user@domain or "Name" <user@domain>; a name with a comma goes in double quotes'
/** The name of a user of the server, without a domain; it has to stand alone. */
const BARE_USER = /^[\w.!#$%&'*+/=?^`{|}~-]+$/

/**
 * What keeps an address out of an SMTP command, or undefined. More is allowed than RFC 5321 does (dots anywhere in the
 * local part, non-ASCII, no domain at all), as servers meet all of it: only what could end or split the command is not.
 */
export function problemOfAddress(address: string): string | undefined {
  if (address === '') return 'the address is empty'
  if (BARE_USER.test(address)) return undefined
  if (!ADDRESS.test(address)) return NO_ADDRESS
  return toEnvelope(address).endsWith('@') ? 'the domain has characters that no domain has' : undefined
}

/** The address as the envelope has it: an internationalised domain in its ASCII form (RFC 5891). */
export function toEnvelope(address: string): string {
  const at = address.lastIndexOf('@')
  const domain = address.slice(at + 1)
  return at < 0 || /^[\x21-\x7e]*$/.test(domain) ? address : `${address.slice(0, at)}@${domainToASCII(domain)}`
}
