/**
 * The accounts of `postfix-accounts.cf` (docker-mailserver's format: `address|{SCHEME}hash`, optional attributes
 * behind a second `|`) and the master user that opens every mailbox.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { verify } from 'unixcrypt'
import { Failure } from './cli.ts'
import { CONFIG_DIR } from './settings.ts'

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
 * Parses the text of `postfix-accounts.cf`. Comments and empty lines are skipped, as docker-mailserver does. Throws a
 * Failure that names the line when one is no account.
 */
export function parseAccounts(text: string, file = 'docker-data/mail-server/config/postfix-accounts.cf'): Account[] {
  const accounts: Account[] = []
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (/^\s*(#|$)/.test(line)) continue
    const [address = '', hash = '', ...attributes] = line.split('|')
    if (!/^[^\s@:|]+@[^\s@:|]+$/.test(address) || !/^\{[\w.-]+\}\S+$|^\$\S+$/.test(hash)) {
      throw new Failure('failed', `${file} line ${index + 1}: "${line}" is no account; write address|{SCHEME}hash.`)
    }
    accounts.push({ address, hash, attributes: attributes.join('|'), line: index + 1 })
  }
  return accounts
}

/** The accounts as the configuration folder has them now. */
export function readAccounts(): Account[] {
  return parseAccounts(readFileSync(join(CONFIG_DIR, 'postfix-accounts.cf'), 'utf8'))
}

/** The account's initial password, where it still is the password; undefined where only its owner knows it. */
export function knownPassword(account: Account): string | undefined {
  const password = INITIAL_PASSWORDS[account.address.toLowerCase()]
  const hash = account.hash.replace(/^\{SHA512-CRYPT\}/i, '')
  return password && hash.startsWith('$6$') && verify(password, hash) ? password : undefined
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
  const file = join(CONFIG_DIR, 'dovecot-master-users')
  const [, user, password] = /^([^:#\s]+):\{PLAIN\}([^:\s]+)/m.exec(readFileSync(file, 'utf8')) ?? []
  if (!user || !password) throw new Failure('failed', `${file}: no line "user:{PLAIN}password" for the master user.`)
  return { user: `${address}*${user}`, password }
}
