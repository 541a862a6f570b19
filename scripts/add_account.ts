/** npm run add-account: adds, updates, deletes and lists accounts, like docker-mailserver's "setup email". */
import { checkAddress } from './lib/accounts/account_address.ts'
import { addAccount, deleteAccount, updateAccount } from './lib/accounts/account_changes.ts'
import { checkPassword, hashPassword, masterLogin, parseAccounts, parseQuotas } from './lib/accounts/accounts.ts'
import {
  checkEdit,
  editConfiguration,
  type ReadConfiguration,
  readConfiguration,
} from './lib/accounts/configuration_files.ts'
import { parseAliases } from './lib/accounts/postfix_tables.ts'
import { Prompter } from './lib/accounts/prompts.ts'
import { EXIT, type ExitName, explainExitCodes, Failure, messageOf, parse, print, run, say, table } from './lib/cli.ts'
import { enabledProtocols, HOSTNAME, readServerEnvironment, readSettings, type Settings } from './lib/settings.ts'

const HELP = `Usage: npm run add-account -- ADDRESS [PASSWORD] [options]

Adds an account, and waits until it can log in over POP3 and receives mail. A password that is not given is asked
for. Works with the server running or stopped. In brackets: docker-mailserver's command for the same.

  ADDRESS [PASSWORD]             add an account (setup email add)
  --update ADDRESS [PASSWORD]    give it a new password (setup email update)
  --delete ADDRESS               delete it with its aliases, its quota and its mail (setup email del)
  --list                         list the accounts (setup email list)

  --quota SIZE        size of its mailbox: a number with B, k, M, G or T; 0 is no limit (setup quota set)
  --alias ADDRESS     one more address for its mail; can be repeated (setup alias add)
                      Both also go with an account that is there already, then without PASSWORD.
  --password-stdin    the password is what stdin has, less one line end
  --yes               with --delete: do not ask; needed where no terminal is there to ask on
  --keep-mail         with --delete: leave the mail where it is
  --force             with --delete: also the last account, or the catchall
  --json              with --list: one JSON array of {address, domain, quota, aliases, messages, bytes};
                      quota is null without a line of its own, messages and bytes are null without a server

Examples:
  npm run add-account -- alice@development-virtual.example.com secret
  npm run add-account -- bob@shop.example secret --quota 10M --alias info@shop.example
  printf %s "$PASSWORD" | npm run add-account -- --update bob@shop.example --password-stdin

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'connection', 'timeout', 'interrupted')}
  A bad address or password is exit code ${EXIT.failed.code}; nothing is changed then.`

const OPTIONS = {
  help: { type: 'boolean', short: 'h' },
  update: { type: 'boolean' },
  delete: { type: 'boolean' },
  list: { type: 'boolean' },
  quota: { type: 'string' },
  alias: { type: 'string', multiple: true },
  'password-stdin': { type: 'boolean' },
  yes: { type: 'boolean', short: 'y' },
  'keep-mail': { type: 'boolean' },
  force: { type: 'boolean' },
  json: { type: 'boolean' },
} as const

type Option = keyof typeof OPTIONS

/** What goes with each action: options, and how many arguments at most. */
const ACTIONS: Record<'add' | 'update' | 'delete' | 'list', { options: Option[]; arguments: number }> = {
  add: { options: ['quota', 'alias', 'password-stdin'], arguments: 2 },
  update: { options: ['update', 'quota', 'alias', 'password-stdin'], arguments: 2 },
  delete: { options: ['delete', 'yes', 'keep-mail', 'force'], arguments: 1 },
  list: { options: ['list', 'json'], arguments: 0 },
}

const BYTES: Record<string, number> = { B: 1, k: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

export async function main(args: string[]): Promise<ExitName | undefined> {
  const { values, positionals } = parse(args, OPTIONS, { positionals: true })
  if (values.help) {
    print(HELP)
    return
  }
  const action = values.list ? 'list' : values.delete ? 'delete' : values.update ? 'update' : 'add'
  const actionName = action === 'add' ? 'adding an account' : `--${action}`
  const stray = (Object.keys(values) as Option[]).find((name) => !ACTIONS[action].options.includes(name))
  if (stray) throw new Failure('usage', `--${stray} does not go with ${actionName}. See --help.`)
  if (positionals.length > ACTIONS[action].arguments) {
    throw new Failure('usage', `Too many arguments for ${actionName}. Quote a password that has spaces. See --help.`)
  }
  const settings = readSettings()
  const terminal = new Prompter()
  try {
    if (action === 'list') {
      await list(settings, values)
      return
    }
    const instead = 'Give the address: npm run add-account -- ADDRESS'
    const typed = positionals[0] ?? (await terminal.ask('Address: ', instead)).trim()
    if (action === 'delete') return await remove(settings, terminal, addressOf(typed), values)
    await store(settings, terminal, typed, { ...values, password: positionals[1] })
    return
  } finally {
    terminal.close()
  }
}

interface StoreValues {
  update?: boolean | undefined
  quota?: string | undefined
  alias?: string[] | undefined
  password?: string | undefined
  'password-stdin'?: boolean | undefined
}

/** Adds an account or changes one. */
async function store(settings: Settings, terminal: Prompter, typed: string, values: StoreValues) {
  const environment = readServerEnvironment()
  const quota = values.quota === undefined ? undefined : parseQuota(values.quota)
  if (quota !== undefined && environment.ENABLE_QUOTAS === '0') {
    throw new Failure('failed', '--quota has no effect: ENABLE_QUOTAS=0 in development-mail-server.env.')
  }
  if (values.password !== undefined && values['password-stdin']) {
    throw new Failure('usage', 'PASSWORD and --password-stdin: give the password once.')
  }
  const address = addressOf(typed)
  const aliases = (values.alias ?? []).map(addressOf)
  const hostname = environment.OVERRIDE_HOSTNAME || HOSTNAME
  const hasPassword = values.password !== undefined || values['password-stdin'] === true
  const keepsPassword = !hasPassword && !values.update && exists(address) && (quota ?? aliases[0]) !== undefined
  const change = (read: ReadConfiguration, hash?: string) =>
    (values.update || keepsPassword ? updateAccount : addAccount)(read, { address, hash, quota, aliases }, hostname)
  // What the files refuse, they refuse before a password is asked for.
  checkEdit((read) => change(read))
  sayLowerCase([typed, ...(values.alias ?? [])])
  const password = keepsPassword ? undefined : await passwordOf(terminal, address, values)
  const hash = password === undefined ? undefined : hashPassword(password)
  terminal.close()

  const { becomeVirtual } = await editConfiguration((read) => change(read, hash))

  const { bringIntoEffect } = await import('./lib/accounts/live_changes.ts')
  const { acceptsRecipient, canLogIn } = await import('./lib/server/proof.ts')
  const accepts = (recipient: string) => () => acceptsRecipient(settings, recipient)
  const refuses = (recipient: string) => async () => !(await acceptsRecipient(settings, recipient))
  // Mail to a new domain is accepted before and after, first for the catchall; only the refusal shows the change.
  const unknown = becomeVirtual
    .map((domain) => `no-such-account-${process.pid}@${domain}`)
    .filter((recipient) => !hasAlias(recipient) && !hasPatterns())
  const seconds = await bringIntoEffect(settings, address, [
    ...[address, ...aliases].map(accepts),
    ...unknown.map(refuses),
    async () => password === undefined || canLogIn(settings, { user: address, password }),
    async () => quota === undefined || hasQuota(settings, address, quota),
  ])
  const done = values.update ? 'Updated' : keepsPassword ? 'Changed' : 'Added'
  const proof = password === undefined ? 'in effect' : 'it can log in and receives mail'
  print(
    seconds === undefined
      ? `${done} ${address}. The mail server is not running; this takes effect at the next start: npm start`
      : `${done} ${address}: ${proof}, ${seconds} s after the change.`,
  )
  for (const domain of becomeVirtual) {
    print(`From now on ${domain} is a virtual mailbox domain: unknown addresses there are refused, no longer caught.`)
  }
}

interface RemoveValues {
  yes?: boolean | undefined
  'keep-mail'?: boolean | undefined
  force?: boolean | undefined
}

/** Deletes an account. */
async function remove(
  settings: Settings,
  terminal: Prompter,
  address: string,
  values: RemoveValues,
): Promise<ExitName | undefined> {
  const change = (read: ReadConfiguration) => deleteAccount(read, address, values.force ?? false)
  checkEdit(change)
  const { bringIntoEffect, mailFolder, runningServer } = await import('./lib/accounts/live_changes.ts')
  const { acceptsRecipient, canLogIn } = await import('./lib/server/proof.ts')
  const { emptyMailbox, usageOf } = await import('./lib/server/mailboxes.ts')
  const running = await runningServer(settings)
  const folder = values['keep-mail'] ? undefined : await mailFolder(settings, address, running)
  const usage = running && (await usageOf(settings, address).catch(() => undefined))
  const mail = usage ? messagesText(usage.messages) : 'mail'
  if (!values.yes) {
    const what = values['keep-mail'] ? `${address}, but not its ${mail}` : `${address} and its ${mail}`
    const answer = await terminal.ask(`Delete ${what}? [y/N] `, 'To delete without being asked: --yes')
    terminal.close()
    if (!/^y(es)?$/i.test(answer.trim())) {
      print('Nothing was deleted.')
      return 'failed'
    }
  }
  const aliases = parseAliases(readConfiguration('postfix-virtual.cf')).filter(
    ({ alias, recipients }) => recipients.includes(address) && alias !== address,
  )
  // A server whose folders are out of reach empties the mailbox while it still can be logged into.
  if (running && !values['keep-mail'] && !folder) await emptyMailbox(settings, address)

  const { becomeCaught } = await editConfiguration(change)

  const isCaught = becomeCaught.includes(domainOf(address)) || hasAlias(address)
  const seconds = await bringIntoEffect(settings, address, [
    async () => hasPatterns() || (await acceptsRecipient(settings, address)) === isCaught,
    async () => !(await canLogIn(settings, masterLogin(address))),
  ])
  folder?.removeMailbox(address)
  const deleted = values['keep-mail'] ? `${address}; its mail stays` : `${address} and its ${mail}`
  print(
    seconds === undefined
      ? `Deleted ${deleted}. The mail server is not running.`
      : `Deleted ${deleted}. The server knows it no longer, ${seconds} s after the change.`,
  )
  for (const { alias } of aliases) print(`The alias ${alias} does not go to it any more.`)
  for (const domain of becomeCaught) {
    print(`No account is left in ${domain}: mail to any address there is caught again.`)
  }
  return
}

/** Prints the accounts. */
async function list(settings: Settings, values: { json?: boolean | undefined }) {
  const { isAnswering } = await import('./lib/server/proof.ts')
  const { usageOf } = await import('./lib/server/mailboxes.ts')
  const isRunning = await isAnswering(settings)
  const quotas = parseQuotas(readConfiguration('dovecot-quotas.cf'))
  const aliases = parseAliases(readConfiguration('postfix-virtual.cf'))
  const rows = []
  for (const account of parseAccounts(readConfiguration('postfix-accounts.cf'), 'postfix-accounts.cf', say)) {
    const address = account.address.toLowerCase()
    const usage = isRunning ? await usageOf(settings, address).catch((error) => say(messageOf(error))) : undefined
    rows.push({
      address,
      domain: domainOf(address),
      quota: quotas.get(address) ?? null,
      aliases: aliases.flatMap(({ alias, recipients }) =>
        recipients.includes(address) && alias !== address ? [alias] : [],
      ),
      messages: usage?.messages ?? null,
      bytes: usage?.bytes ?? null,
    })
  }
  if (values.json) {
    print(JSON.stringify(rows))
    return
  }
  print(
    table([
      ['Account', 'Domain', 'Quota', 'Messages', 'Size', 'Aliases'],
      ...rows.map(({ address, domain, quota, messages, bytes, aliases }) => [
        address,
        domain,
        quota ?? '-',
        String(messages ?? '-'),
        bytes === null ? '-' : sizeText(bytes),
        aliases.join(', '),
      ]),
    ]),
  )
  if (!isRunning) say('The mail server is not running, so nothing was counted. Start it: npm start')
}

/** An account's address as it stands in the file; a new one is checked. */
function addressOf(text: string): string {
  const lower = text.toLowerCase()
  return exists(lower) ? lower : checkAddress(text)
}

function sayLowerCase(typed: string[]): void {
  for (const text of typed) {
    if (text !== text.toLowerCase()) say(`${text} is written in lower case: ${text.toLowerCase()}`)
  }
}

function exists(address: string): boolean {
  const accounts = parseAccounts(readConfiguration('postfix-accounts.cf'), 'postfix-accounts.cf', () => {})
  return accounts.some((account) => account.address.toLowerCase() === address)
}

/** The password: an argument, stdin, or asked for twice. Throws a Failure when it cannot be used. */
async function passwordOf(terminal: Prompter, address: string, values: StoreValues): Promise<string> {
  const instead = 'Give the password as a second argument, or by --password-stdin.'
  const password =
    values.password ??
    (values['password-stdin']
      ? await passwordFromStdin()
      : await terminal.askUnseen(`Password for ${address}: `, instead))
  checkPassword(password)
  // What the command line had in another encoding has become U+FFFD, which nobody could type again.
  if (values.password?.includes('\ufffd')) throw new Failure('failed', 'The password cannot be used: it is not UTF-8.')
  if (values.password !== undefined || values['password-stdin']) return password
  if ((await terminal.askUnseen('The same password again: ', instead)) !== password) {
    throw new Failure('failed', 'The two passwords differ. Nothing was changed.')
  }
  return password
}

async function passwordFromStdin(): Promise<string> {
  if (process.stdin.isTTY) {
    throw new Failure('usage', '--password-stdin: stdin is the terminal. Leave the option out to be asked.')
  }
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk)
  try {
    // Any byte counts, a byte order mark too.
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.concat(chunks))
    return text.replace(/\r?\n$/, '')
  } catch {
    throw new Failure('failed', 'The password cannot be used: it is not UTF-8.')
  }
}

/** A quota as docker-mailserver writes it. Throws a usage Failure. */
function parseQuota(text: string): string {
  const [, digits, unit = ''] = /^(\d{1,15})([bkmgt]?)$/i.exec(text) ?? []
  const letter = Object.keys(BYTES).find((name) => name.toLowerCase() === unit.toLowerCase()) ?? ''
  if (digits && letter) return `${Number(digits)}${letter}`
  if (digits && Number(digits) === 0) return '0'
  throw new Failure('usage', `--quota ${JSON.stringify(text)}: a number with B, k, M, G or T (10M), or 0 for no limit.`)
}

/** Whether the server keeps to a quota. IMAP tells it in units of 1,024 bytes (RFC 2087). */
async function hasQuota(settings: Settings, address: string, quota: string): Promise<boolean> {
  if (!enabledProtocols().imap) return true
  const { usageOf } = await import('./lib/server/mailboxes.ts')
  const kibibytes = Math.floor((Number.parseInt(quota, 10) * (BYTES[quota.slice(-1)] ?? 0)) / 1024)
  const usage = await usageOf(settings, address).catch(() => undefined)
  return usage !== undefined && (usage.limit ?? 0) === kibibytes * 1024
}

function messagesText(count: number): string {
  return `${count} message${count === 1 ? '' : 's'}`
}

function domainOf(address: string): string {
  return address.slice(address.lastIndexOf('@') + 1)
}

/** Whether `postfix-virtual.cf` knows an address, by itself or with all of its domain. */
function hasAlias(address: string): boolean {
  const aliases = parseAliases(readConfiguration('postfix-virtual.cf'))
  return aliases.some(({ alias }) => alias === address || alias === `@${domainOf(address)}`)
}

/** With alias patterns in `postfix-regexp.cf` nothing can be told from the recipients that the server accepts. */
function hasPatterns(): boolean {
  return readConfiguration('postfix-regexp.cf') !== ''
}

function sizeText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3))
  return `${power === 0 ? bytes : (bytes / 1000 ** power).toFixed(1)} ${units[power]}`
}

await run(import.meta.url, main)
