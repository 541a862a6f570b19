/** What an address of this server may look like: RFC 5321, less what Postfix, Dovecot or the files cannot hold. */
import { domainToASCII } from 'node:url'
import { Failure } from '../cli.ts'

const octets = (text: string) => `${Buffer.byteLength(text)} octets`

/** What an address may not match, and why; the first that matches is told. */
const RULES: [pattern: RegExp, reason: string | ((part: string) => string)][] = [
  [/^$/, 'it is empty'],
  [/[\p{Cc}\u2028\u2029]/u, 'it has a control character'],
  [/\s/, 'it has white space'],
  [/\|/, '"|" separates address and password in postfix-accounts.cf'],
  [/"/, 'quoted local parts are not supported'],
  [/^[^@]*$/, 'it has no domain; write name@domain'],
  [/^@[^@]*$/, 'it has no local part; write name@domain'],
  [/@.*@/, 'it has more than one "@"'],
  [/:.*@/, '":" separates the fields of Dovecot\'s passwd-file'],
  [/\*.*@/, '"*" stands between account and master user at login (auth_master_user_separator)'],
  [/\+.*@/, '"+" begins an extension (recipient_delimiter): mail to name+anything goes to name'],
  [/\/.*@/, '"/" cannot be part of the mailbox\'s folder name'],
  [/[^\0-\x7f].*@/, 'its local part is not ASCII, and the server has SMTPUTF8 (RFC 6531) off'],
  [/[^\w.@-](?=.*@)/, (other) => `Dovecot allows no ${JSON.stringify(other)} in a login (auth_username_chars)`],
  [/^-/, 'Postfix refuses a leading "-" (allow_min_user)'],
  [/^\.|\.\..*@|\.@/, 'a dot stands at an end of the local part or beside another (RFC 5321)'],
  [/^.{65,}(?=@)/, (local) => `its local part has ${octets(local)}, and RFC 5321 allows 64`],
  [/@$/, 'it has no domain; write name@domain'],
  [/@\[/, 'its domain is an address literal, which cannot be a virtual mailbox domain'],
  [
    /(?<=@).*[^\0-\x7f].*/,
    (domain) => `its domain is not ASCII${domainToASCII(domain) && `; write ${domainToASCII(domain)}`}`,
  ],
  [/(?<=@).{256,}/, (domain) => `its domain has ${octets(domain)}, and RFC 5321 allows 255`],
  [/@[\d.]+$/, 'its domain is a number, not a name'],
  [/@.*\.\.|@\.|\.$/, 'its domain has an empty label: a dot at an end or beside another'],
  [/(?<=@.*)[^.@]{64,}/, (label) => `a label of its domain has ${octets(label)}, and RFC 1035 allows 63`],
  [
    /(?<=[@.])(?!([a-z\d]([a-z\d-]*[a-z\d])?)(\.|$))[^.@]+(?=[^@]*$)/i,
    (label) => `"${label}" is no label of a domain: letters, digits and inner hyphens`,
  ],
  // A path of 256 with its angle brackets.
  [/^.{255,}$/, (address) => `it has ${octets(address)}, and a path of RFC 5321 leaves room for 254`],
]

/**
 * Checks an address of an account or an alias and gives it in lower case. Throws a Failure that names the value and
 * the reason.
 */
export function checkAddress(text: string): string {
  for (const [pattern, reason] of RULES) {
    const [part] = pattern.exec(text) ?? []
    if (part === undefined) continue
    const why = typeof reason === 'string' ? reason : reason(part)
    throw new Failure('usage', `${JSON.stringify(text)} cannot be an address here: ${why}.`)
  }
  return text.toLowerCase()
}
