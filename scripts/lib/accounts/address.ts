/** What an address of this server may look like: RFC 5321, less what Postfix, Dovecot or the files cannot hold. */
import { domainToASCII } from 'node:url'
import { Failure } from '../cli.ts'

/** Postfix refuses a leading "-" (allow_min_user); other letters mean something in the files, or to Dovecot's login. */
const LOCAL_PART = /^\w[\w-]*(\.[\w-]+)*$/
const DOMAIN = /^(?![\d.]+$)[a-z\d]([a-z\d-]{0,61}[a-z\d])?(\.[a-z\d]([a-z\d-]{0,61}[a-z\d])?)*$/i

/**
 * Checks an address of an account or an alias and gives it in lower case. Throws a Failure that names the value and
 * the reason.
 */
export function checkAddress(text: string): string {
  const [, local = '', domain = ''] = /^(.*?)@(.*)$/s.exec(text) ?? []
  const reason =
    (!domain && 'it has no domain; write name@domain') ||
    (local.includes('+') && '"+" begins an extension (recipient_delimiter): mail to name+anything goes to name') ||
    (!LOCAL_PART.test(local) && 'before the "@" it may have letters, digits, "_", inner "-" and single inner dots') ||
    (/[^\0-\x7f]/.test(domain) && `its domain is not ASCII; write ${domainToASCII(domain) || 'another'}`) ||
    (!DOMAIN.test(domain) &&
      'its domain is no name: labels of up to 63 letters, digits and inner "-", dots in between') ||
    (/^localhost(\.|$)/i.test(domain) && "localhost is the server's own (mydestination): all mail to it is caught") ||
    ((local.length > 64 || text.length > 254) && 'more than 64 octets stand before the "@", or 254 in all (RFC 5321)')
  if (reason) throw new Failure('usage', `${JSON.stringify(text)} cannot be an address here: ${reason}.`)
  return text.toLowerCase()
}
