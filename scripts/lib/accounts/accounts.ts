/**
 * The accounts of `postfix-accounts.cf` (docker-mailserver's format: `address|{SCHEME}hash`, optional attributes
 * behind a second `|`), their passwords and quotas, and the master user that opens every mailbox.
 */
import { createHash, randomBytes } from 'node:crypto'
import { join, relative } from 'node:path'
import { encrypt, verify } from 'unixcrypt'
import { Failure } from '../cli.ts'
import { CONFIG_DIR, ROOT, readProjectFile } from '../settings.ts'
import { entriesOf } from './tables.ts'

const CONFIG = relative(ROOT, CONFIG_DIR)

export const VIRTUAL_DOMAIN = 'development-virtual.example.com'
/** Receives the mail of all recipients that have no account. */
export const CATCHALL = 'catchall@development-mail-server.example.com'
/** The accounts that the test mail goes between. */
export const FOO = `foo@${VIRTUAL_DOMAIN}`
export const BAR = `bar@${VIRTUAL_DOMAIN}`

/** The passwords of the accounts that come with the project. */
const INITIAL_PASSWORDS: Record<string, string> = {
  [CATCHALL]: 'catchall',
  [FOO]: 'foo',
  [BAR]: 'foo',
  [`baz@${VIRTUAL_DOMAIN}`]: 'foo',
}

export interface Account {
  /** The mailbox's address, which is also the login. */
  address: string
  /** Password hash with its scheme in front, `{SHA512-CRYPT}$6$...`. */
  hash: string
  /** Dovecot user attributes (`userdb_...=...`), or an empty string. */
  attributes: string
  /** Line number in the file, from 1. */
  line: number
}

/**
 * Parses the text of `postfix-accounts.cf`. Comments and empty lines are skipped, as docker-mailserver does. A line
 * that is no account goes to `onBadLine` as a sentence that names it; without that, it is thrown as a Failure.
 */
export function parseAccounts(
  text: string,
  file = 'docker-data/mail-server/config/postfix-accounts.cf',
  onBadLine: (problem: string) => void = (problem) => {
    throw new Failure('failed', problem)
  },
): Account[] {
  return text.split(/\r?\n/).flatMap((written, index) => {
    if (/^\s*(#|$)/.test(written)) return []
    const [address = '', hash = '', ...attributes] = written.split('|')
    const isAccount = /^[^\s@:|]+@[^\s@:|]+$/.test(address) && /^(\{[\w.-]+\}|\$)\S+$/.test(hash)
    if (isAccount) return [{ address, hash, attributes: attributes.join('|'), line: index + 1 }]
    // Its text may be a password, and is not shown.
    onBadLine(`${file} line ${index + 1} is no account; write address|{SCHEME}hash.`)
    return []
  })
}

/** The accounts as the configuration folder has them now. */
export function readAccounts(): Account[] {
  return parseAccounts(readProjectFile(CONFIG, 'postfix-accounts.cf'))
}

/**
 * The account with this address or, where it is the only one, this local part; in any letter case. Throws a usage
 * Failure with the known ones.
 */
export function findAccount(name: string, accounts = readAccounts()): Account {
  const wanted = name.toLowerCase()
  const exact = accounts.find(({ address }) => address.toLowerCase() === wanted)
  const [byLocalPart, another] = accounts.filter(({ address }) => address.toLowerCase().split('@')[0] === wanted)
  const found = exact ?? (another ? undefined : byLocalPart)
  if (found) return found
  const reason = another ? 'several accounts have that name' : 'no such account'
  const known = accounts.map(({ address }) => `  ${address}`).join('\n')
  throw new Failure('usage', `--account ${name}: ${reason}. Known accounts:\n${known}`)
}

/** The account's initial password, where it still is the password; undefined where only its owner knows it. */
export function knownPassword(account: Account): string | undefined {
  const password = INITIAL_PASSWORDS[account.address.toLowerCase()]
  const hash = account.hash.replace(/^\{SHA512-CRYPT\}/i, '')
  return password && hash.startsWith('$6$') && verify(password, hash) ? password : undefined
}

/** Throws a Failure when a password could not be used over POP3. Its text names the reason and never the password. */
export function checkPassword(password: string): void {
  const length = Buffer.byteLength(password)
  const reason =
    (length === 0 && 'it is empty') ||
    (length > 1000 && `it has ${length} bytes, and 1000 are the limit`) ||
    // What bytes become that are none, and nobody could type again.
    (password.includes('\ufffd') && 'it is not UTF-8') ||
    (/[\r\n\0]/.test(password) && 'it has a line break or NUL, which no POP3 command can carry') ||
    (password.trim() !== password && 'it begins or ends with a space, which POP3 clients trim away')
  if (reason) throw new Failure('usage', `The password cannot be used: ${reason}.`)
}

/**
 * A password's hash as Dovecot reads it: {SHA512-CRYPT}, or {SSHA512} where the password is too long for crypt(3) or
 * has a multiple of 64 bytes, SHA-512's own size, which unixcrypt 3.0 hashes unlike crypt(3).
 */
export function hashPassword(password: string): string {
  const length = Buffer.byteLength(password)
  // libxcrypt answers longer ones with an error.
  if (length <= 511 && length % 64 !== 0) return `{SHA512-CRYPT}${encrypt(password)}`
  const salt = randomBytes(16)
  const digest = createHash('sha512').update(password).update(salt).digest()
  return `{SSHA512}${Buffer.concat([digest, salt]).toString('base64')}`
}

/** The lines of `dovecot-quotas.cf` (`address:size`): the address in lower case, the size as it stands there. */
export function quotaLines(text: string): { name: string; size: string; lines: number[] }[] {
  return entriesOf(text, false).flatMap(({ text, lines }) => {
    const [, address = '', size = ''] = /^([^:]*?)\s*:\s*(.*)$/.exec(text) ?? []
    return address && size ? { name: address.toLowerCase(), size, lines } : []
  })
}

/** The sizes of `quotaLines` by address. docker-mailserver takes the first of several lines. */
export function parseQuotas(text: string): Map<string, string> {
  const lines = quotaLines(text).reverse()
  return new Map(lines.map(({ name, size }) => [name, size]))
}

/** A login: what SMTP AUTH, POP3 and IMAP ask for. */
export interface Login {
  user: string
  password: string
}

/**
 * The login that opens an account's mailbox without its password: Dovecot's master user behind
 * `auth_master_user_separator`. Refused by the server when the account does not exist.
 */
export function masterLogin(address: string): Login {
  const file = join(CONFIG, 'dovecot-master-users')
  const [, user, password] = /^([^:#\s]+):\{PLAIN\}([^:\s]+)/m.exec(readProjectFile(file)) ?? []
  if (!user || !password) throw new Failure('failed', `${file}: no line "user:{PLAIN}password" for the master user.`)
  return { user: `${address}*${user}`, password }
}
