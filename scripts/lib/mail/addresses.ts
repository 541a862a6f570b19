/** Address lists as people and header fields write them (RFC 5322 section 3.4), and what may stand in an envelope. */
import { domainToASCII } from 'node:url'

export interface Mailbox {
  /** The display name, or an empty string. */
  name: string
  /** The address without angle brackets. */
  address: string
}

/**
 * Parses a list such as `"Doe, J." <j@x>, 名前 <a@b>, bareuser, friends: c@d;`. Comments become the name where there is
 * no other; groups are dissolved into their members. Throws an Error that quotes what is no address.
 */
export function parseAddressList(list: string): Mailbox[] {
  return splitList(list)
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '')
    .map(parseMailbox)
}

const QUOTED = /"(?:\\.|[^"\\])*"/y
const COMMENT = /\((?:\\.|[^()\\])*\)/y
/** In these commas and colons separate nothing; the last is the domain literal, as in user@[IPv6:::1]. */
const [ANGLE, LITERAL] = [/<[^>]*>/y, /\[[^\]]*\]/y]
const WHOLE = [QUOTED, COMMENT, ANGLE, LITERAL]
/** What nothing closes behind one of these, nothing closes behind a later one either. */
const OPENING = new Map([
  [QUOTED, '"'],
  [ANGLE, '<'],
  [LITERAL, '['],
])

/** Cuts a list at its commas, and takes the names of groups (`name: members;`) away. */
function splitList(list: string): string[] {
  const entries: string[] = []
  let entry = ''
  const matchAt = matcher(list)
  for (let at = 0; at < list.length; ) {
    const whole = WHOLE.map((pattern) => matchAt(pattern, at)).find((match) => match)
    const character = list[at] as string
    if (whole) {
      entry += whole
    } else if (character === ',' || character === ';') {
      entries.push(entry)
      entry = ''
    } else if (character === ':' && !entry.includes('@')) {
      entry = ''
    } else {
      entry += character
    }
    at += whole?.length ?? 1
  }
  return [...entries, entry]
}

/** Matches patterns at places of a text, and searches to its end only once for what is never closed. */
function matcher(text: string): (pattern: RegExp, at: number) => string | undefined {
  const unclosed = new Set<RegExp>()
  return (pattern, at) => {
    if (unclosed.has(pattern)) return undefined
    pattern.lastIndex = at
    const match = pattern.exec(text)?.[0]
    if (match === undefined && text[at] === OPENING.get(pattern)) unclosed.add(pattern)
    return match
  }
}

function parseMailbox(entry: string): Mailbox {
  const comments: string[] = []
  let plain = ''
  const matchAt = matcher(entry)
  for (let at = 0; at < entry.length; ) {
    const quoted = matchAt(QUOTED, at)
    const comment = quoted ? undefined : matchAt(COMMENT, at)
    if (comment) comments.push(comment.slice(1, -1).trim())
    else plain += quoted ?? entry[at]
    at += (quoted ?? comment)?.length ?? 1
  }
  const [, phrase, bracketed] = /^(.*?)<([^<>]*)>\s*$/s.exec(plain) ?? []
  const address = (bracketed ?? plain).trim()
  const problem = problemOfAddress(address)
  if (problem) throw new Error(`${JSON.stringify(entry)}: ${problem}`)
  const name = (phrase ?? '').trim().replace(/"((?:\\.|[^"\\])*)"/g, (_, inner) => inner.replace(/\\(.)/g, '$1'))
  return { name: name || (comments[0] ?? ''), address }
}

const LOCAL_PART = String.raw`"(?:[^"\\<>\x00-\x1f\x7f]|\\[^<>\x00-\x1f\x7f])*"|[^\s"(),:;<>@[\\\]\x00-\x1f\x7f]+`
const DOMAIN = String.raw`\[[^\s[\]\\<>\x00-\x1f\x7f]+\]|[^\s"(),:;<>@[\\\]\x00-\x1f\x7f]+`
const ADDRESS = new RegExp(`^(?:${LOCAL_PART})@(?:${DOMAIN})$`)
/** The name of a user of the server, without a domain. ASCII only: otherwise it is a name whose comma wants quotes. */
const BARE_USER = /^[\w.!#$%&'*+/=?^`{|}~-]+$/

/**
 * What keeps an address out of an SMTP command, or undefined. More is allowed than RFC 5321 does (dots anywhere in the
 * local part, non-ASCII, no domain at all), as servers meet all of it: only what could end or split the command is not.
 */
export function problemOfAddress(address: string): string | undefined {
  if (address === '') return 'the address is empty'
  if (BARE_USER.test(address)) return undefined
  if (!ADDRESS.test(address)) {
    return 'not an address. Write user@domain or "Name" <user@domain>; a name with a comma goes in double quotes'
  }
  return toEnvelope(address).endsWith('@') ? 'the domain has characters that no domain has' : undefined
}

/** The address as the envelope has it: an internationalised domain in its ASCII form (RFC 5891). */
export function toEnvelope(address: string): string {
  const at = address.lastIndexOf('@')
  const domain = address.slice(at + 1)
  return at < 0 || /^[\x21-\x7e]*$/.test(domain) ? address : `${address.slice(0, at)}@${domainToASCII(domain)}`
}
