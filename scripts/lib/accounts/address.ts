/** What an address of this server may look like: RFC 5321, less what Postfix, Dovecot or the files cannot hold. */
import { domainToASCII } from 'node:url'
import { Failure } from '../cli.ts'

/** What an address may not match, and why; the first that matches is told. */
const RULES: [pattern: RegExp, reason: string | ((part: string) => string)][] = [
  [/[\p{Cc}\u2028\u2029]/u, 'it has a control character'],
  [/\s/, 'it has white space'],
  [/^[^@]*$|@$/, 'it has no domain; write name@domain'],
  [/^@/, 'it has no local part; write name@domain'],
  [/@.*@/, 'it has more than one "@"'],
  [/\+.*@/, '"+" begins an extension (recipient_delimiter): mail to name+anything goes to name'],
  // The others are letters of the files (| : *), of the file system (/), quoted, or refused by Dovecot at login.
  [/[^\w.-](?=.*@)/u, (other) => `its local part has ${JSON.stringify(other)}, and may have letters, digits and . _ -`],
  [/^-/, 'Postfix refuses a leading "-" (allow_min_user)'],
  [/^\.|\.\..*@|\.@/, 'a dot stands at an end of the local part or beside another (RFC 5321)'],
  [/^.{65,}@/, 'its local part has more than 64 octets (RFC 5321)'],
  // A path of 256 with its angle brackets.
  [/^.{255,}$/, 'it has more than 254 octets (RFC 5321)'],
  [/(?<=@).*[^\0-\x7f].*/, (domain) => `its domain is not ASCII; write ${domainToASCII(domain) || 'another'}`],
  [/@[\d.]+$/, 'its domain is a number, not a name'],
  [
    /@(?!([a-z\d]([a-z\d-]{0,61}[a-z\d])?(\.(?!$)|$))+$)/i,
    'its domain is not made of labels: up to 63 letters, digits and inner hyphens, with one dot in between',
  ],
  [/@localhost(\.|$)/i, "localhost is the server's own (mydestination): all mail to it is caught"],
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
