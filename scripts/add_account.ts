/** npm run add-account: adds, updates, deletes and lists accounts, like docker-mailserver's "setup email". */
import { buffer } from 'node:stream/consumers'
import type { Configuration } from './lib/accounts/configuration.ts'
import { EXIT, type ExitName, explainExitCodes, Failure, type Io, messageOf, parse, run, table } from './lib/cli.ts'

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
type Values = Partial<ReturnType<typeof parse<typeof OPTIONS>>['values']>

/** What goes with each action: options, and how many arguments at most. */
const ACTIONS: Record<'add' | 'update' | 'delete' | 'list', { options: Option[]; most: number }> = {
  add: { options: ['quota', 'alias', 'password-stdin'], most: 2 },
  update: { options: ['update', 'quota', 'alias', 'password-stdin'], most: 2 },
  delete: { options: ['delete', 'yes', 'keep-mail', 'force'], most: 1 },
  list: { options: ['list', 'json'], most: 0 },
}

/** Loaded behind --help, so that missing packages are told in one line. */
const modules = async () => ({
  ...(await import('./lib/settings.ts')),
  ...(await import('./lib/accounts/accounts.ts')),
  ...(await import('./lib/accounts/address.ts')),
  ...(await import('./lib/accounts/changes.ts')),
  ...(await import('./lib/accounts/configuration.ts')),
  ...(await import('./lib/accounts/prompts.ts')),
  ...(await import('./lib/accounts/tables.ts')),
  ...(await import('./lib/server/mailboxes.ts')),
  ...(await import('./lib/server/proof.ts')),
})

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
  if (positionals.length > ACTIONS[action].most) {
    throw new Failure('usage', `Too many arguments for ${actionName}. Quote a password that has spaces. See --help.`)
  }
  if (action === 'list') return list(values, io)
  const { ask, readConfiguration, refuse } = await modules()
  const instead = 'Give the address: npm run add-account -- ADDRESS'
  const typed = positionals[0] ?? (await ask(io, 'Address: ', instead)).trim()
  const now = readConfiguration(refuse)
  const address = await addressOf(typed, now)
  return action === 'delete' ? remove(address, now, values, io) : store(address, positionals[1], now, values, io)
}

/** Adds an account or changes one; `now` is what the files say before anything is asked. */
async function store(address: string, given: string | undefined, now: Configuration, values: Values, io: Io) {
  const of = await modules()
  const settings = of.readSettings()
  const quota = values.quota === undefined ? undefined : of.parseQuota(values.quota)
  if (quota !== undefined && of.readServerEnvironment().ENABLE_QUOTAS === '0') {
    throw new Failure('failed', '--quota has no effect: ENABLE_QUOTAS=0 in development-mail-server.env.')
  }
  const isGiven = given !== undefined || values['password-stdin']
  if (given !== undefined && values['password-stdin']) {
    throw new Failure('usage', 'PASSWORD and --password-stdin: give the password once.')
  }
  const aliases = await Promise.all((values.alias ?? []).map((alias) => addressOf(alias, now)))
  const exists = of.accountLines(now, address).length > 0
  const keepsPassword = !isGiven && !values.update && exists && (quota ?? aliases[0]) !== undefined
  const edit = values.update || keepsPassword ? of.updateAccount : of.addAccount
  // What the files refuse, they refuse before a password is asked for.
  edit(now, { address, quota, aliases })
  const password = keepsPassword ? undefined : await passwordOf(address, given, values, io)
  const hash = password === undefined ? undefined : of.hashPassword(password)

  const { before, after } = await of.change((before) => edit(before, { address, hash, quota, aliases }))

  const domains = of.newDomains(before, after)
  // Mail to a new domain is accepted before and after, first for the catchall; only the refusal shows the change.
  const refused = domains.map(of.anyAt).filter((nobody) => !of.isCaught(after, nobody))
  const seconds = await of.bringIntoEffect(settings, await of.serverOf(settings), address, [
    ...[address, ...aliases].map((recipient) => () => of.acceptsRecipient(settings, recipient)),
    ...refused.map((nobody) => async () => !(await of.acceptsRecipient(settings, nobody))),
    async () => password === undefined || of.canLogIn(settings, { user: address, password }),
    async () => quota === undefined || of.hasQuota(settings, address, quota),
  ])
  const done = `${values.update ? 'Updated' : keepsPassword ? 'Changed' : 'Added'} ${address}`
  const proof = password === undefined ? 'in effect' : 'it can log in and receives mail'
  io.print(
    seconds === undefined
      ? `${done}. The mail server is not running; this takes effect at the next start: npm start`
      : `${done}: ${proof}, ${seconds} s after the change.`,
  )
  const fact = 'is a virtual mailbox domain: unknown addresses there are refused, no longer caught'
  for (const domain of domains) io.print(`From now on ${domain} ${fact}.`)
  return sayRemains(after, io)
}

/** Deletes an account. */
async function remove(address: string, now: Configuration, values: Values, io: Io): Promise<ExitName | undefined> {
  const of = await modules()
  const settings = of.readSettings()
  const edit = (configuration: Configuration) => of.deleteAccount(configuration, address, values.force ?? false)
  edit(now)
  const server = await of.serverOf(settings)
  await of.assertAnswers(settings, server, 'Nothing was changed.')
  const { engine, running } = server
  const keeps = values['keep-mail'] === true
  // Who is not root reaches the native server's mail over IMAP alone, and so does who has no Docker client.
  const reaches = engine?.name === 'docker' || (engine?.name === 'native' && process.getuid?.() === 0)
  if (!keeps && !running && !reaches) {
    const place = 'lies in a Docker volume, and no Docker engine answers'
    const fact = engine ? "belongs to the mail server's own user" : place
    const advice = 'Start the server (npm start) and repeat this, or leave the mail: --keep-mail'
    throw new Failure('failed', `The mail of ${address} ${fact}. ${advice}`)
  }
  const usage = running ? await of.usageOf(settings, address).catch(() => undefined) : undefined
  const count = usage && usage.inbox + usage.otherFolders
  const mail = count === undefined ? 'mail' : `${count} message${count === 1 ? '' : 's'}`
  if (!values.yes) {
    const what = keeps ? `${address}, but not its ${mail}` : `${address} and its ${mail}`
    const answer = await of.ask(io, `Delete ${what}? [y/N] `, 'To delete without being asked: --yes')
    if (!/^y(es)?$/i.test(answer.trim())) {
      io.print('Nothing was deleted.')
      return 'failed'
    }
  }
  // Where the folder is out of reach, the mailbox is emptied while it still can be logged into: when the new files are
  // safe on the disk, and before they are in place.
  const empty = async () => void (running && !keeps && !reaches && (await of.emptyMailbox(settings, address)))
  const { before, after } = await of.change(edit, empty)

  const seconds = await of.bringIntoEffect(settings, server, address, [
    async () => (await of.acceptsRecipient(settings, address)) === of.isCaught(after, address),
    async () => !(await of.canLogIn(settings, of.masterLogin(address))),
  ])
  if (!keeps && reaches) {
    await engine.removeMailbox(address).catch((error) => {
      throw new Failure('failed', `${address} is deleted, and its mail is left. ${messageOf(error)}`)
    })
  }
  const deleted = keeps ? `${address}; its mail stays` : `${address} and its ${mail}`
  const live = `The server knows it no longer, ${seconds} s after the change.`
  io.print(`Deleted ${deleted}. ${seconds === undefined ? 'The mail server is not running.' : live}`)
  for (const alias of of.aliasesOf(before, address)) io.print(`The alias ${alias} does not go to it any more.`)
  for (const domain of of.newDomains(after, before)) {
    io.print(`No account is left in ${domain}: mail to any address there is caught again.`)
  }
  return sayRemains(after, io)
}

/** Prints the accounts. */
async function list(values: Values, io: Io): Promise<undefined> {
  const { accountRows, readSettings } = await modules()
  const { isRunning, rows } = await accountRows(readSettings(), io.say)
  if (values.json) {
    io.print(JSON.stringify(rows))
    return
  }
  const cells = rows.map(({ address, domain, quota, messages, bytes, aliases }) => {
    const size = bytes === null ? '-' : `${(bytes / 1000).toLocaleString('en', { maximumFractionDigits: 1 })} kB`
    return [address, domain, quota ?? '-', String(messages ?? '-'), size, aliases.join(', ')]
  })
  io.print(table([['Account', 'Domain', 'Quota', 'Messages', 'Size', 'Aliases'], ...cells]))
  if (!isRunning) io.say('The mail server is not running, so nothing was counted. Start it: npm start')
}

/** What killed runs have left is told, and is the doctor's to mend. */
async function sayRemains(configuration: Configuration, io: Io): Promise<undefined> {
  const { remainsOf } = await modules()
  for (const { file, line, fact } of remainsOf(configuration)) {
    io.say(`${file} line ${line}: ${fact}. To mend it: npm run doctor -- --fix`)
  }
}

/** An account's address as it stands in the file; a new one is checked. */
async function addressOf(text: string, configuration: Configuration): Promise<string> {
  const { accountLines, checkAddress } = await modules()
  const lower = text.toLowerCase()
  return accountLines(configuration, lower).length > 0 ? lower : checkAddress(text)
}

/** The password: an argument, stdin, or asked for twice. Throws a Failure when it cannot be used. */
async function passwordOf(address: string, argument: string | undefined, values: Values, io: Io): Promise<string> {
  const { ask, checkPassword } = await modules()
  const instead = 'Give the password as a second argument, or by --password-stdin.'
  // Any byte of stdin counts, a byte order mark too.
  const read = async () => (await buffer(io.stdin)).toString('utf8').replace(/\r?\n$/, '')
  const given = values['password-stdin'] ? await read() : argument
  const password = given ?? (await ask(io, `Password for ${address}: `, instead, { echo: false }))
  checkPassword(password)
  if (given === undefined && (await ask(io, 'The same password again: ', instead, { echo: false })) !== password) {
    throw new Failure('failed', 'The two passwords differ. Nothing was changed.')
  }
  return password
}

await run(import.meta.url, main)
