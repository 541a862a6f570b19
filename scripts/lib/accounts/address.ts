/** What an address of this server may look like: RFC 5321, less what Postfix, Dovecot or the files cannot hold. */
import { domainToASCII } from 'node:url'
import { Failure } from '../cli.ts'

/** Longest local part, domain and label in octets, and longest address: a path of 256 with its angle brackets. */
const LONGEST = { local: 64, domain: 255, label: 63, address: 254 }

/**
 * Checks an address of an account or an alias and gives it in lower case. Throws a Failure that names the value and
 * the reason.
 */
export function checkAddress(text: string): string {
  const reason = reasonAgainst(text)
  if (reason) throw new Failure('usage', `${JSON.stringify(text)} cannot be an address here: ${reason}.`)
  return text.toLowerCase()
}

function reasonAgainst(text: string): string | undefined {
  if (text === '') return 'it is empty'
  if (/[\p{Cc}\u2028\u2029]/u.test(text)) return 'it has a control character'
  if (/\s/.test(text)) return 'it has white space'
  if (text.includes('|')) return '"|" separates address and password in postfix-accounts.cf'
  if (text.includes('"')) return 'quoted local parts are not supported'
  const at = text.lastIndexOf('@')
  if (at < 0) return 'it has no domain; write name@domain'
  const [local, domain] = [text.slice(0, at), text.slice(at + 1)]
  return localReason(local) ?? domainReason(domain) ?? lengthReason(text)
}

function localReason(local: string): string | undefined {
  const special: Record<string, string> = {
    '@': 'it has more than one "@"',
    ':': '":" separates the fields of Dovecot\'s passwd-file',
    '*': '"*" stands between account and master user at login (auth_master_user_separator)',
    '+': '"+" begins an extension (recipient_delimiter): mail to name+anything goes to name',
    '/': '"/" cannot be part of the mailbox\'s folder name',
  }
  if (local === '') return 'it has no local part; write name@domain'
  for (const [character, reason] of Object.entries(special)) if (local.includes(character)) return reason
  if (/[^\0-\x7f]/.test(local)) return 'its local part is not ASCII, and the server has SMTPUTF8 (RFC 6531) off'
  const other = /[^\w.-]/.exec(local)?.[0]
  if (other) return `Dovecot allows no ${JSON.stringify(other)} in a login (auth_username_chars)`
  if (local.startsWith('-')) return 'Postfix refuses a leading "-" (allow_min_user)'
  if (/^\.|\.\.|\.$/.test(local)) return 'a dot stands at an end of the local part or beside another (RFC 5321)'
  const length = Buffer.byteLength(local)
  if (length > LONGEST.local) return `its local part has ${length} octets, and RFC 5321 allows ${LONGEST.local}`
  return undefined
}

function domainReason(domain: string): string | undefined {
  if (domain === '') return 'it has no domain; write name@domain'
  if (domain.startsWith('[')) return 'its domain is an address literal, which cannot be a virtual mailbox domain'
  if (/[^\0-\x7f]/.test(domain)) {
    const ascii = domainToASCII(domain)
    return `its domain is not ASCII${ascii ? `; write ${ascii}` : ''}`
  }
  if (domain.length > LONGEST.domain)
    return `its domain has ${domain.length} octets, and RFC 5321 allows ${LONGEST.domain}`
  if (/^[\d.]+$/.test(domain)) return 'its domain is a number, not a name'
  for (const label of domain.split('.')) {
    if (label === '') return 'its domain has an empty label: a dot at an end or beside another'
    if (label.length > LONGEST.label)
      return `a label of its domain has ${label.length} octets, and RFC 1035 allows ${LONGEST.label}`
    if (!/^[a-z\d]([a-z\d-]*[a-z\d])?$/i.test(label))
      return `"${label}" is no label of a domain: letters, digits and inner hyphens`
  }
  return undefined
}

function lengthReason(address: string): string | undefined {
  if (address.length <= LONGEST.address) return undefined
  return `it has ${address.length} octets, and a path of RFC 5321 leaves room for ${LONGEST.address}`
}
