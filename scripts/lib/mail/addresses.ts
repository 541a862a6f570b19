/** Address lists as people and header fields write them (RFC 5322 section 3.4), and what may stand in an envelope. */
import { domainToASCII } from 'node:url'
import addressParser from 'nodemailer/lib/addressparser'

export interface Address {
  /** The display name, or an empty string. */
  name: string
  /** Without angle brackets. */
  address: string
}

/**
 * Parses a list such as `"Doe, J." <j@x>, 名前 <a@b>, friends: c@d;`, or a user without a domain that stands alone.
 * Comments become the name where there is no other; groups are dissolved into their members. Throws an Error that quotes
 * what is no address.
 */
export function parseAddressList(list: string): Address[] {
  // In quotes and comments anything may stand. An escaped character begins neither, or a long text is searched often.
  const plain = list.replace(/\\.|"(?:\\.|[^"\\])*"|\((?:\\.|[^()\\])*\)/gs, '')
  const areBracketsWhole = /^(?:[^<>]*<[^<>]*>\s*(?=[,;]|$))*[^<>]*$/.test(plain)
  // nodemailer writes the comma of a name as ", ", however it was typed.
  const squeezed = (text: string) => text.replace(/[\s,]+/g, '')
  const words = squeezed(plain)
  const alone = list.trim().replace(/^<(.*)>$/, '$1')
  return addressParser(list, { flatten: true }).map(({ name, address }) => {
    if (name === alone && BARE_USER.test(name)) return { name: '', address: name }
    // nodemailer finds an address in "a b@c" as well, and in `Doe, J <a@b>` one of many who meant two.
    const isBare =
      name !== '' &&
      (name.includes(',') ? words.includes(squeezed(name)) : !plain.includes('<') && plain.includes(name))
    const problem = isBare || !areBracketsWhole ? NO_ADDRESS : problemOfAddress(address)
    const typed = isBare || !areBracketsWhole || !address ? list.trim().slice(0, 200) : address
    if (problem) throw new Error(`${JSON.stringify(typed)}: ${problem}`)
    return { name, address }
  })
}

const LOCAL_PART = String.raw`"(?:[^"\\<>\x00-\x1f\x7f]|\\[^<>\x00-\x1f\x7f])*"|[^\s"(),:;<>@[\\\]\x00-\x1f\x7f]+`
const DOMAIN = String.raw`\[[^\s[\]\\<>\x00-\x1f\x7f]+\]|[^\s"(),:;<>@[\\\]\x00-\x1f\x7f]+`
const ADDRESS = new RegExp(`^(?:${LOCAL_PART})@(?:${DOMAIN})$`)
const NO_ADDRESS =
  'not an address. Write user@domain, "Name" <user@domain> or a user alone; a name with a comma goes in double quotes'
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
