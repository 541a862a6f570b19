/** npm run add-account: adds, updates, deletes and lists accounts, like docker-mailserver's "setup email". */
import { buffer } from 'node:stream/consumers'
import type { Configuration } from './lib/accounts/configuration.ts'
import { EXIT, type ExitName, explainExitCodes, Failure, type Io, load, parse, run, table } from './lib/cli.ts'

const { checkPassword, hashPassword, masterLogin } = await load(() => import('./lib/accounts/accounts.ts'))
const { checkAddress } = await load(() => import('./lib/accounts/address.ts'))
const changes = await load(() => import('./lib/accounts/changes.ts'))
const { change, readConfiguration } = await load(() => import('./lib/accounts/configuration.ts'))
const { ask } = await load(() => import('./lib/accounts/prompts.ts'))
const { anyAt } = await load(() => import('./lib/accounts/tables.ts'))
const mailboxes = await load(() => import('./lib/server/mailboxes.ts'))
const { becomeRoot } = await load(() => import('./lib/server/root.ts'))
const { readServerEnvironment, readSettings } = await load(() => import('./lib/settings.ts'))

const { acceptsRecipient, accountRows, assertTakesChanges, bringIntoEffect, canLogIn } = mailboxes
const { emptyMailbox, hasQuota, parseQuota, serverOf, usageOf } = mailboxes

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

/** The options that go with each action, beside its own name, and how many arguments at most. */
const ACTIONS = {
  add: { options: ['quota', 'alias', 'password-stdin'], most: 2 },
  update: { options: ['quota', 'alias', 'password-stdin'], most: 2 },
  delete: { options: ['yes', 'keep-mail', 'force'], most: 1 },
  list: { options: ['json'], most: 0 },
}

const FLAG = { type: 'boolean' } as const
const OPTIONS = {
  ...{ update: FLAG, delete: FLAG, list: FLAG, force: FLAG, json: FLAG, 'keep-mail': FLAG, 'password-stdin': FLAG },
  quota: { type: 'string' },
  alias: { type: 'string', multiple: true },
  yes: { type: 'boolean', short: 'y' },
} as const

type Values = Partial<ReturnType<typeof parse<typeof OPTIONS>>['values']>

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values, positionals } = parse(args, OPTIONS, { positionals: true })
  if (values.help) return void io.print(HELP)
  const action = values.list ? 'list' : values.delete ? 'delete' : values.update ? 'update' : 'add'
  const { options, most } = ACTIONS[action]
  const name = action === 'add' ? 'adding an account' : `--${action}`
  const stray = Object.keys(values).find((option) => option !== action && !options.includes(option))
  if (stray) throw new Failure('usage', `--${stray} does not go with ${name}. See --help.`)
  if (positionals.length > most) {
    throw new Failure('usage', `Too many arguments for ${name}. Quote a password that has spaces. See --help.`)
  }
  if (action === 'list') return list(values, io)
  const instead = 'Give the address: npm run add-account -- ADDRESS'
  const typed = positionals[0] ?? (await ask(io, 'Address: ', instead)).trim()
  // What the files say before anything is asked.
  const now = readConfiguration()
  const address = addressOf(typed, now)
  return action === 'delete' ? remove(address, now, values, io) : store(address, positionals[1], now, values, io)
}

/** Adds an account or changes one. */
async function store(address: string, given: string | undefined, now: Configuration, values: Values, io: Io) {
  const settings = readSettings()
  const quota = values.quota === undefined ? undefined : parseQuota(values.quota)
  if (quota !== undefined && readServerEnvironment().ENABLE_QUOTAS === '0') {
    throw new Failure('failed', '--quota has no effect: ENABLE_QUOTAS=0 in development-mail-server.env.')
  }
  const fromStdin = values['password-stdin'] === true
  if (given !== undefined && fromStdin) {
    throw new Failure('usage', 'PASSWORD and --password-stdin: give the password once.')
  }
  const aliases = (values.alias ?? []).map((alias) => addressOf(alias, now))
  const exists = changes.accountLines(now, address).length > 0
  const hasMore = quota !== undefined || aliases.length > 0
  const keepsPassword = exists && hasMore && given === undefined && !fromStdin && !values.update
  const edit = values.update || keepsPassword ? changes.updateAccount : changes.addAccount
  // What the files refuse, they refuse before a password is asked for.
  edit(now, { address, quota, aliases })
  await assertTakesChanges(settings, await serverOf(settings), given)
  const password = keepsPassword ? undefined : await passwordOf(address, given, fromStdin, io)
  const hash = password === undefined ? undefined : hashPassword(password)

  const { before, after } = await change((before) => edit(before, { address, hash, quota, aliases }))

  const domains = changes.newDomains(before, after)
  // Mail to a new domain is accepted before and after, first for the catchall; only the refusal shows the change.
  const refused = domains.map(anyAt).filter((nobody) => !changes.isCaught(after, nobody))
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
  const fact = 'is a virtual mailbox domain: unknown addresses there are refused, no longer caught'
  for (const domain of domains) io.print(`From now on ${domain} ${fact}.`)
  sayRemains(after, io)
  return undefined
}

/** Deletes an account. */
async function remove(address: string, now: Configuration, values: Values, io: Io): Promise<ExitName | undefined> {
  const settings = readSettings()
  const edit = (configuration: Configuration) => changes.deleteAccount(configuration, address, values.force ?? false)
  edit(now)
  const server = await serverOf(settings)
  await assertTakesChanges(settings, server)
  const { engine, running } = server
  const keeps = values['keep-mail'] === true
  if (!keeps && !running && !engine) {
    const advice = 'Start the server (npm start) and repeat this, or leave the mail: --keep-mail'
    throw new Failure(
      'failed',
      `The mail of ${address} lies in a Docker volume, and no Docker engine answers. ${advice}`,
    )
  }
  if (!keeps && engine?.name === 'native') await becomeRoot()
  const usage = running ? await usageOf(settings, address).catch(() => undefined) : undefined
  const count = usage && usage.inbox + usage.otherFolders
  const mail = count === undefined ? 'mail' : `${count} message${count === 1 ? '' : 's'}`
  if (!values.yes) {
    const what = keeps ? `${address}, but not its ${mail}` : `${address} and its ${mail}`
    const answer = await ask(io, `Delete ${what}? [y/N] `, 'To delete without being asked: --yes')
    if (!/^y(es)?$/i.test(answer.trim())) {
      io.print('Nothing was deleted.')
      return 'failed'
    }
  }
  // The mail first: while the account is there, a run that was killed can be repeated. Where the folder is out of reach,
  // the server has to empty it, and does so for an account.
  const { before, after } = await change(edit, async () => {
    if (keeps) return
    if (!running) return engine?.removeMailbox(address)
    await emptyMailbox(settings, address).catch((error) => {
      if (!engine) throw error
    })
  })
  const seconds = await bringIntoEffect(settings, server, address, [
    async () => (await acceptsRecipient(settings, address)) === changes.isCaught(after, address),
    async () => !(await canLogIn(settings, masterLogin(address))),
  ])
  // The folder, with what came meanwhile.
  if (running && !keeps) await engine?.removeMailbox(address)
  const deleted = keeps ? `${address}; its mail stays` : `${address} and its ${mail}`
  const live = `The server knows it no longer, ${seconds} s after the change.`
  io.print(`Deleted ${deleted}. ${seconds === undefined ? 'The mail server is not running.' : live}`)
  for (const alias of changes.aliasesOf(before, address)) io.print(`The alias ${alias} does not go to it any more.`)
  for (const domain of changes.newDomains(after, before)) {
    io.print(`No account is left in ${domain}: mail to any address there is caught again.`)
  }
  sayRemains(after, io)
  return undefined
}

/** Prints the accounts. */
async function list(values: Values, io: Io): Promise<undefined> {
  const { isRunning, rows } = await accountRows(readSettings(), io.say)
  if (values.json) return io.print(JSON.stringify(rows)) as undefined
  const cells = rows.map(({ address, domain, quota, messages, bytes, aliases }) => {
    const size = bytes === null ? '-' : `${(bytes / 1000).toLocaleString('en', { maximumFractionDigits: 1 })} kB`
    return [address, domain, quota ?? '-', String(messages ?? '-'), size, aliases.join(', ')]
  })
  io.print(table([['Account', 'Domain', 'Quota', 'Messages', 'Size', 'Aliases'], ...cells]))
  if (!isRunning) io.say('The mail server is not running, so nothing was counted. Start it: npm start')
}

/** What killed runs have left is told, and is the doctor's to mend. */
function sayRemains(configuration: Configuration, io: Io): void {
  for (const { file, line, fact } of changes.remainsOf(configuration)) {
    io.say(`${file} line ${line}: ${fact}. To mend it: npm run doctor -- --fix`)
  }
}

/** An account's address as it stands in the file; a new one is checked. */
function addressOf(text: string, configuration: Configuration): string {
  const lower = text.toLowerCase()
  return changes.accountLines(configuration, lower).length > 0 ? lower : checkAddress(text)
}

/** The password: an argument, stdin, or asked for twice. Throws a Failure when it cannot be used. */
async function passwordOf(address: string, given: string | undefined, fromStdin: boolean, io: Io): Promise<string> {
  const instead = 'Give the password as a second argument, or by --password-stdin.'
  const hidden = (question: string) => ask(io, question, instead, { echo: false })
  // Any byte of stdin counts, a byte order mark too.
  const read = async () => (await buffer(io.stdin)).toString('utf8').replace(/\r?\n$/, '')
  const password = fromStdin ? await read() : (given ?? (await hidden(`Password for ${address}: `)))
  checkPassword(password)
  if (!fromStdin && given === undefined && (await hidden('The same password again: ')) !== password) {
    throw new Failure('failed', 'The two passwords differ. Nothing was changed.')
  }
  return password
}

await run(import.meta.url, main)
