/** npm run add-account: adds, updates, deletes and lists accounts, like docker-mailserver's "setup email". */
import type { Configuration } from './lib/accounts/configuration.ts'
import type { Prompter } from './lib/accounts/prompts.ts'
import { EXIT, type ExitName, explainExitCodes, Failure, type Io, messageOf, parse, run, table } from './lib/cli.ts'
import type { Settings } from './lib/settings.ts'

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
  A bad address, password or alias is exit code ${EXIT.usage.code}; nothing is changed then.`

const OPTIONS = {
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

interface Values {
  update?: boolean | undefined
  quota?: string | undefined
  alias?: string[] | undefined
  password?: string | undefined
  'password-stdin'?: boolean | undefined
  yes?: boolean | undefined
  'keep-mail'?: boolean | undefined
  force?: boolean | undefined
  json?: boolean | undefined
}

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values, positionals } = parse(args, OPTIONS, { positionals: true })
  if (values.help) {
    io.print(HELP)
    return
  }
  const action = values.list ? 'list' : values.delete ? 'delete' : values.update ? 'update' : 'add'
  const actionName = action === 'add' ? 'adding an account' : `--${action}`
  const stray = (Object.keys(values) as Option[]).find((name) => !ACTIONS[action].options.includes(name))
  if (stray) throw new Failure('usage', `--${stray} does not go with ${actionName}. See --help.`)
  if (positionals.length > ACTIONS[action].arguments) {
    throw new Failure('usage', `Too many arguments for ${actionName}. Quote a password that has spaces. See --help.`)
  }
  const { readSettings } = await import('./lib/settings.ts')
  const settings = readSettings()
  if (action === 'list') return list(settings, values, io)
  const { Prompter } = await import('./lib/accounts/prompts.ts')
  const terminal = new Prompter(io)
  try {
    const instead = 'Give the address: npm run add-account -- ADDRESS'
    const typed = positionals[0] ?? (await terminal.ask('Address: ', instead)).trim()
    if (action === 'delete') return await remove(settings, terminal, typed, values, io)
    await store(settings, terminal, typed, { ...values, password: positionals[1] }, io)
    return
  } finally {
    terminal.close()
  }
}

/** Adds an account or changes one. */
async function store(settings: Settings, terminal: Prompter, typed: string, values: Values, io: Io): Promise<void> {
  const { HOSTNAME, readServerEnvironment } = await import('./lib/settings.ts')
  const { hashPassword } = await import('./lib/accounts/accounts.ts')
  const { assertCanChange, change, readConfiguration, refuse } = await import('./lib/accounts/configuration.ts')
  const { accountLines, addAccount, isCaught, updateAccount, domainsOf } = await import('./lib/accounts/changes.ts')
  const { anyAt } = await import('./lib/accounts/tables.ts')
  const { acceptsRecipient, canLogIn } = await import('./lib/server/proof.ts')
  const { bringIntoEffect, hasQuota, parseQuota, serverOf } = await import('./lib/server/effect.ts')
  const environment = readServerEnvironment()
  const quota = values.quota === undefined ? undefined : parseQuota(values.quota)
  if (quota !== undefined && environment.ENABLE_QUOTAS === '0') {
    throw new Failure('failed', '--quota has no effect: ENABLE_QUOTAS=0 in development-mail-server.env.')
  }
  if (values.password !== undefined && values['password-stdin']) {
    throw new Failure('usage', 'PASSWORD and --password-stdin: give the password once.')
  }
  const now = readConfiguration(refuse)
  const address = await addressOf(typed, now)
  const aliases: string[] = []
  for (const alias of values.alias ?? []) aliases.push(await addressOf(alias, now))
  const hasPassword = values.password !== undefined || values['password-stdin'] === true
  const exists = accountLines(now, address).length > 0
  const keepsPassword = !hasPassword && !values.update && exists && (quota ?? aliases[0]) !== undefined
  const edit = (configuration: Configuration, hash?: string) => {
    const store = values.update || keepsPassword ? updateAccount : addAccount
    return store(configuration, { address, hash, quota, aliases }, environment.OVERRIDE_HOSTNAME || HOSTNAME)
  }
  // What the files refuse, they refuse before a password is asked for.
  assertCanChange(now, edit(now, keepsPassword ? undefined : 'to come'))
  for (const text of [typed, ...(values.alias ?? [])]) {
    if (text !== text.toLowerCase()) io.say(`${text} is written in lower case: ${text.toLowerCase()}`)
  }
  const password = keepsPassword ? undefined : await passwordOf(terminal, address, values, io)
  const hash = password === undefined ? undefined : hashPassword(password)
  terminal.close()

  const { before, configuration } = await change((before) => ({ before, configuration: edit(before, hash) }))

  const known = domainsOf(before)
  const newDomains = [...domainsOf(configuration)].filter((domain) => !known.has(domain))
  // Mail to a new domain is accepted before and after, first for the catchall; only the refusal shows the change.
  const refused = newDomains.map(anyAt).filter((nobody) => !isCaught(configuration, nobody))
  const seconds = await bringIntoEffect(settings, await serverOf(settings), address, [
    ...[address, ...aliases].map((recipient) => () => acceptsRecipient(settings, recipient)),
    ...refused.map((nobody) => async () => !(await acceptsRecipient(settings, nobody))),
    async () => password === undefined || canLogIn(settings, { user: address, password }),
    async () => quota === undefined || hasQuota(settings, address, quota),
  ])
  const done = `${values.update ? 'Updated' : keepsPassword ? 'Changed' : 'Added'} ${address}`
  const proof = password === undefined ? 'in effect' : 'it can log in and receives mail'
  io.print(
    seconds === undefined
      ? `${done}. The mail server is not running; this takes effect at the next start: npm start`
      : `${done}: ${proof}, ${seconds} s after the change.`,
  )
  for (const domain of newDomains) {
    const fact = 'is a virtual mailbox domain: unknown addresses there are refused, no longer caught'
    io.print(`From now on ${domain} ${fact}.`)
  }
  await sayRemains(configuration, io)
}

/** Deletes an account. */
async function remove(settings: Settings, terminal: Prompter, typed: string, values: Values, io: Io) {
  const { masterLogin } = await import('./lib/accounts/accounts.ts')
  const { assertCanChange, change, readConfiguration, refuse } = await import('./lib/accounts/configuration.ts')
  const { aliasesOf, deleteAccount, isCaught, domainsOf } = await import('./lib/accounts/changes.ts')
  const { acceptsRecipient, canLogIn } = await import('./lib/server/proof.ts')
  const { emptyMailbox, usageOf } = await import('./lib/server/mailboxes.ts')
  const { assertAnswers, bringIntoEffect, serverOf } = await import('./lib/server/effect.ts')
  const now = readConfiguration(refuse)
  const address = await addressOf(typed, now)
  const edit = (configuration: Configuration) => deleteAccount(configuration, address, values.force ?? false)
  assertCanChange(now, edit(now))
  const server = await serverOf(settings)
  await assertAnswers(settings, server, 'Nothing was changed.')
  const { engine, running } = server
  const keeps = values['keep-mail'] === true
  // Who is not root reaches the native server's mail over IMAP alone, and so does who has no Docker client.
  const reaches = engine?.name === 'docker' || (engine?.name === 'native' && process.getuid?.() === 0)
  if (!keeps && !running && !reaches && engine?.hasMailbox?.(address) !== false) {
    const fact = engine
      ? "belongs to the mail server's own user"
      : 'lies in a Docker volume, and no Docker engine answers'
    const advice = 'Start the server (npm start) and repeat this, or leave the mail: --keep-mail'
    throw new Failure('failed', `The mail of ${address} ${fact}. ${advice}`)
  }
  const usage = running ? await usageOf(settings, address).catch(() => undefined) : undefined
  const mail = usage ? `${usage.messages} message${usage.messages === 1 ? '' : 's'}` : 'mail'
  if (!values.yes) {
    const what = keeps ? `${address}, but not its ${mail}` : `${address} and its ${mail}`
    const answer = await terminal.ask(`Delete ${what}? [y/N] `, 'To delete without being asked: --yes')
    terminal.close()
    if (!/^y(es)?$/i.test(answer.trim())) {
      io.print('Nothing was deleted.')
      return 'failed'
    }
  }
  // Where the folder is out of reach, the mailbox is emptied while it still can be logged into: when the new files are
  // safe on the disk, and before they are in place.
  const empty = async () => void (running && !keeps && !reaches && (await emptyMailbox(settings, address)))
  const { before, configuration } = await change((before) => ({ before, configuration: edit(before) }), empty)

  const seconds = await bringIntoEffect(settings, server, address, [
    async () => (await acceptsRecipient(settings, address)) === isCaught(configuration, address),
    async () => !(await canLogIn(settings, masterLogin(address))),
  ])
  if (!keeps && reaches) {
    await engine?.removeMailbox(address).catch((error) => {
      throw new Failure('failed', `${address} is deleted, and its mail is left. ${messageOf(error)}`)
    })
  }
  const deleted = keeps ? `${address}; its mail stays` : `${address} and its ${mail}`
  const live = `The server knows it no longer, ${seconds} s after the change.`
  io.print(`Deleted ${deleted}. ${seconds === undefined ? 'The mail server is not running.' : live}`)
  for (const alias of aliasesOf(before, address)) io.print(`The alias ${alias} does not go to it any more.`)
  const left = domainsOf(configuration)
  for (const domain of [...domainsOf(before)].filter((domain) => !left.has(domain))) {
    io.print(`No account is left in ${domain}: mail to any address there is caught again.`)
  }
  await sayRemains(configuration, io)
  return undefined
}

/** Prints the accounts. */
async function list(settings: Settings, values: Values, io: Io): Promise<undefined> {
  const { accountRows } = await import('./lib/server/effect.ts')
  const { isRunning, rows } = await accountRows(settings, io.say)
  if (values.json) {
    io.print(JSON.stringify(rows))
    return
  }
  const cells = rows.map(({ address, domain, quota, messages, bytes, aliases }) => {
    const size = bytes === null ? '-' : sizeText(bytes)
    return [address, domain, quota ?? '-', String(messages ?? '-'), size, aliases.join(', ')]
  })
  io.print(table([['Account', 'Domain', 'Quota', 'Messages', 'Size', 'Aliases'], ...cells]))
  if (!isRunning) io.say('The mail server is not running, so nothing was counted. Start it: npm start')
}

/** What killed runs have left is told, and is the doctor's to mend. */
async function sayRemains(configuration: Configuration, io: Io): Promise<void> {
  const { remainsOf } = await import('./lib/accounts/changes.ts')
  for (const { file, line, fact } of remainsOf(configuration)) {
    io.say(`${file}${line ? ` line ${line}` : ''}: ${fact}. To mend it: npm run doctor -- --fix`)
  }
}

/** An account's address as it stands in the file; a new one is checked. */
async function addressOf(text: string, configuration: Configuration): Promise<string> {
  const { checkAddress } = await import('./lib/accounts/address.ts')
  const { accountLines } = await import('./lib/accounts/changes.ts')
  const lower = text.toLowerCase()
  return accountLines(configuration, lower).length > 0 ? lower : checkAddress(text)
}

/** The password: an argument, stdin, or asked for twice. Throws a Failure when it cannot be used. */
async function passwordOf(terminal: Prompter, address: string, values: Values, io: Io): Promise<string> {
  const { checkPassword } = await import('./lib/accounts/accounts.ts')
  const instead = 'Give the password as a second argument, or by --password-stdin.'
  const given = values['password-stdin'] ? await passwordFromStdin(io) : values.password
  const password = given ?? (await terminal.ask(`Password for ${address}: `, instead, { echo: false }))
  checkPassword(password)
  // What the command line had in another encoding has become U+FFFD, which nobody could type again.
  if (values.password?.includes('\ufffd')) throw new Failure('usage', 'The password cannot be used: it is not UTF-8.')
  if (given === undefined && (await terminal.ask('The same password again: ', instead, { echo: false })) !== password) {
    throw new Failure('failed', 'The two passwords differ. Nothing was changed.')
  }
  return password
}

async function passwordFromStdin({ stdin }: Io): Promise<string> {
  if (stdin.isTTY) {
    throw new Failure('usage', '--password-stdin: stdin is the terminal. Leave the option out to be asked.')
  }
  const chunks: Buffer[] = []
  for await (const chunk of stdin) chunks.push(Buffer.from(chunk))
  try {
    // Any byte counts, a byte order mark too.
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.concat(chunks))
    return text.replace(/\r?\n$/, '')
  } catch {
    throw new Failure('usage', 'The password cannot be used: it is not UTF-8.')
  }
}

function sizeText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3))
  return `${power === 0 ? bytes : (bytes / 1000 ** power).toFixed(1)} ${units[power]}`
}

await run(import.meta.url, main)
