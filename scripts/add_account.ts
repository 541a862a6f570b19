/** npm run add-account: adds, updates, deletes and lists accounts, like docker-mailserver's "setup email". */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Prompter } from './lib/accounts/prompts.ts'
import {
  EXIT,
  type ExitName,
  explainExitCodes,
  Failure,
  type Io,
  messageOf,
  parse,
  run,
  step,
  table,
} from './lib/cli.ts'
import type { Engine } from './lib/server/engine.ts'
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

const BYTES: Record<string, number> = { B: 1, k: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

/** Milliseconds for the server to take a change. docker-mailserver needs 6 s, and longer when it is at work. */
const PATIENCE = 60_000
/** Milliseconds between two looks at the server; a refused recipient is a line in its log. */
const INTERVAL = 100
/** Milliseconds that docker-mailserver 10.5.0 keeps its ports closed when it restarts itself, and some more. */
const RESTART = 20_000

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
  const { change, check, readConfiguration } = await import('./lib/accounts/configuration.ts')
  const { accountLines, addAccount, updateAccount } = await import('./lib/accounts/changes.ts')
  const environment = readServerEnvironment()
  const quota = values.quota === undefined ? undefined : parseQuota(values.quota)
  if (quota !== undefined && environment.ENABLE_QUOTAS === '0') {
    throw new Failure('failed', '--quota has no effect: ENABLE_QUOTAS=0 in development-mail-server.env.')
  }
  if (values.password !== undefined && values['password-stdin']) {
    throw new Failure('usage', 'PASSWORD and --password-stdin: give the password once.')
  }
  const address = await addressOf(typed)
  const aliases: string[] = []
  for (const alias of values.alias ?? []) aliases.push(await addressOf(alias))
  const hasPassword = values.password !== undefined || values['password-stdin'] === true
  const exists = accountLines(readConfiguration(), address).length > 0
  const keepsPassword = !hasPassword && !values.update && exists && (quota ?? aliases[0]) !== undefined
  const store = values.update || keepsPassword ? updateAccount : addAccount
  const edit = (hash?: string) => (configuration: Parameters<typeof addAccount>[0]) =>
    store(configuration, { address, hash, quota, aliases }, environment.OVERRIDE_HOSTNAME || HOSTNAME)
  // What the files refuse, they refuse before a password is asked for.
  check(edit())
  for (const text of [typed, ...(values.alias ?? [])]) {
    if (text !== text.toLowerCase()) io.say(`${text} is written in lower case: ${text.toLowerCase()}`)
  }
  const password = keepsPassword ? undefined : await passwordOf(terminal, address, values, io)
  const hash = password === undefined ? undefined : hashPassword(password)
  terminal.close()

  const { becomeVirtual, configuration } = await change(edit(hash))

  const { acceptsRecipient, canLogIn } = await import('./lib/server/proof.ts')
  const { anyAt, lookUp, parseAliases } = await import('./lib/accounts/tables.ts')
  // Mail to a new domain is accepted before and after, first for the catchall; only the refusal shows the change.
  const catchAlls = parseAliases(configuration['postfix-virtual.cf'].text).map(({ alias }) => alias)
  const refused = becomeVirtual.filter(
    (domain) => !catchAlls.includes(`@${domain}`) && !lookUp(configuration['postfix-regexp.cf'].text, anyAt(domain)),
  )
  const seconds = await bringIntoEffect(settings, await serverOf(settings), address, [
    ...[address, ...aliases].map((recipient) => () => acceptsRecipient(settings, recipient)),
    ...refused.map((domain) => async () => !(await acceptsRecipient(settings, anyAt(domain)))),
    async () => password === undefined || canLogIn(settings, { user: address, password }),
    async () => quota === undefined || hasQuota(settings, address, quota),
  ])
  const done = values.update ? 'Updated' : keepsPassword ? 'Changed' : 'Added'
  const proof = password === undefined ? 'in effect' : 'it can log in and receives mail'
  io.print(
    seconds === undefined
      ? `${done} ${address}. The mail server is not running; this takes effect at the next start: npm start`
      : `${done} ${address}: ${proof}, ${seconds} s after the change.`,
  )
  for (const domain of becomeVirtual) {
    io.print(
      `From now on ${domain} is a virtual mailbox domain: unknown addresses there are refused, no longer caught.`,
    )
  }
  await sayRemains(io)
}

/** Deletes an account. */
async function remove(settings: Settings, terminal: Prompter, typed: string, values: Values, io: Io) {
  const { CATCHALL, masterLogin } = await import('./lib/accounts/accounts.ts')
  const { change, check } = await import('./lib/accounts/configuration.ts')
  const { deleteAccount, domainOf } = await import('./lib/accounts/changes.ts')
  const { parseAliases, lookUp } = await import('./lib/accounts/tables.ts')
  const { acceptsRecipient, canLogIn } = await import('./lib/server/proof.ts')
  const { emptyMailbox, usageOf } = await import('./lib/server/mailboxes.ts')
  const address = await addressOf(typed)
  const edit = (configuration: Parameters<typeof deleteAccount>[0]) =>
    deleteAccount(configuration, address, values.force ?? false)
  check(edit)
  const server = await serverOf(settings)
  await assertAnswers(settings, server, 'Nothing was changed.')
  const { engine, running } = server
  const keeps = values['keep-mail'] === true
  // Who is not root reaches the native server's mail over IMAP alone, and so does who has no Docker client.
  const reaches = engine?.name === 'docker' || (engine?.name === 'native' && process.getuid?.() === 0)
  if (!keeps && !running && !reaches && engine?.hasMailbox?.(address) !== false) {
    const why = engine
      ? "belongs to the mail server's own user"
      : 'lies in a Docker volume, and no Docker engine answers'
    const advice = 'Start the server (npm start) and repeat this, or leave the mail: --keep-mail'
    throw new Failure('failed', `The mail of ${address} ${why}. ${advice}`)
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
  const { configuration, becomeCaught, goneAliases } = await change(edit, async () => {
    if (running && !keeps && !reaches) await emptyMailbox(settings, address)
  })

  const aliases = parseAliases(configuration['postfix-virtual.cf'].text).map(({ alias }) => alias)
  const isCaught =
    becomeCaught.includes(domainOf(address)) ||
    aliases.some((alias) => alias === address || alias === `@${domainOf(address)}`) ||
    lookUp(configuration['postfix-regexp.cf'].text, address)?.result.toLowerCase() === CATCHALL
  const seconds = await bringIntoEffect(settings, server, address, [
    async () => (await acceptsRecipient(settings, address)) === isCaught,
    async () => !(await canLogIn(settings, masterLogin(address))),
  ])
  if (!keeps && reaches) {
    try {
      await engine?.removeMailbox(address)
    } catch (error) {
      throw new Failure('failed', `${address} is deleted, and its mail is left. ${messageOf(error)}`)
    }
  }
  const deleted = keeps ? `${address}; its mail stays` : `${address} and its ${mail}`
  io.print(
    seconds === undefined
      ? `Deleted ${deleted}. The mail server is not running.`
      : `Deleted ${deleted}. The server knows it no longer, ${seconds} s after the change.`,
  )
  for (const alias of goneAliases) io.print(`The alias ${alias} does not go to it any more.`)
  for (const domain of becomeCaught) {
    io.print(`No account is left in ${domain}: mail to any address there is caught again.`)
  }
  await sayRemains(io)
  return undefined
}

/** Prints the accounts. */
async function list(settings: Settings, values: Values, io: Io): Promise<undefined> {
  const { parseAccounts, parseQuotas } = await import('./lib/accounts/accounts.ts')
  const { readConfiguration } = await import('./lib/accounts/configuration.ts')
  const { domainOf } = await import('./lib/accounts/changes.ts')
  const { parseAliases } = await import('./lib/accounts/tables.ts')
  const { isAnswering } = await import('./lib/server/proof.ts')
  const { usageOf } = await import('./lib/server/mailboxes.ts')
  const isRunning = await isAnswering(settings)
  const configuration = readConfiguration()
  for (const [name, { problem }] of Object.entries(configuration)) {
    if (!problem) continue
    if (name === 'postfix-accounts.cf') throw new Failure('failed', `${name}: ${problem}. See: npm run doctor`)
    io.say(`${name}: ${problem}. See: npm run doctor`)
  }
  const quotas = parseQuotas(configuration['dovecot-quotas.cf'].text)
  const aliases = parseAliases(configuration['postfix-virtual.cf'].text)
  const rows = []
  for (const account of parseAccounts(configuration['postfix-accounts.cf'].text, 'postfix-accounts.cf', io.say)) {
    const address = account.address.toLowerCase()
    const usage = isRunning ? await usageOf(settings, address).catch((error) => io.say(messageOf(error))) : undefined
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
    io.print(JSON.stringify(rows))
    return
  }
  io.print(
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
  if (!isRunning) io.say('The mail server is not running, so nothing was counted. Start it: npm start')
}

interface Server {
  /** Undefined where none can be used here, such as Docker without its client. */
  engine: (Engine & { hasMailbox?(address: string): boolean }) | undefined
  running: boolean
}

/** The engine and whether its server is up. One that restarts itself is: its ports are asked again for a while. */
async function serverOf(settings: Settings): Promise<Server> {
  const { chooseEngine, runningNativeEngine } = await import('./lib/server/choose.ts')
  const { isAnswering } = await import('./lib/server/proof.ts')
  const native = await runningNativeEngine(settings)
  if (native) return { engine: native, running: true }
  const engine = await chooseEngine(settings).catch(() => undefined)
  if (engine) return { engine, running: (await engine.isRunning()) || (await isAnswering(settings)) }
  const running = await step('Looking for the mail server', async () => {
    for (const deadline = Date.now() + RESTART; Date.now() < deadline; await sleep(INTERVAL)) {
      if (await isAnswering(settings)) return true
    }
    return false
  })
  return { engine, running }
}

/** Throws a Failure where a native server runs and does not answer; a container may be restarting itself. */
async function assertAnswers(settings: Settings, { engine, running }: Server, state: string): Promise<void> {
  if (!running || engine?.name !== 'native') return
  const { silentProtocols } = await import('./lib/server/proof.ts')
  const silent = await silentProtocols(settings)
  if (silent.length === 0) return
  const fact = `${state} The mail server runs and does not answer: ${silent.join(', ')}.`
  throw new Failure('connection', `${fact} Start it anew: npm stop && npm start`)
}

/**
 * Tells a running server about the change and waits until all conditions hold, one after the other. Gives the seconds
 * that took, or undefined when no server runs. Throws a Failure when it takes too long.
 */
async function bringIntoEffect(
  settings: Settings,
  { engine, running }: Server,
  address: string,
  conditions: (() => Promise<boolean>)[],
): Promise<string | undefined> {
  if (!running) return undefined
  await assertAnswers(settings, { engine, running }, `${address} is written.`)
  const begin = performance.now()
  await step('Waiting until the server has taken the change', async () => {
    try {
      // docker-mailserver looks at its configuration files every two seconds by itself.
      await engine?.reload()
    } catch (error) {
      throw new Failure('failed', `${address} is written, and the server has not taken it: ${messageOf(error)}`)
    }
    for (const holds of conditions) {
      while (!(await holds())) {
        if (performance.now() - begin > PATIENCE) {
          const fact = `${address} is written, and the server has not taken it in ${PATIENCE / 1000} s`
          throw new Failure('timeout', `${fact} (port ${settings.ports.smtp}). See: npm run doctor`)
        }
        await sleep(INTERVAL)
      }
    }
  })
  return ((performance.now() - begin) / 1000).toFixed(1)
}

/** What killed runs have left is told, and is the doctor's to mend. */
async function sayRemains(io: Io): Promise<void> {
  const { readConfiguration } = await import('./lib/accounts/configuration.ts')
  const { remainsOf } = await import('./lib/accounts/changes.ts')
  for (const { file, line, fact } of remainsOf(readConfiguration())) {
    io.say(`${file}${line ? ` line ${line}` : ''}: ${fact}. To mend it: npm run doctor -- --fix`)
  }
}

/** An account's address as it stands in the file; a new one is checked. */
async function addressOf(text: string): Promise<string> {
  const { checkAddress } = await import('./lib/accounts/address.ts')
  const { readConfiguration } = await import('./lib/accounts/configuration.ts')
  const { accountLines } = await import('./lib/accounts/changes.ts')
  const lower = text.toLowerCase()
  return accountLines(readConfiguration(), lower).length > 0 ? lower : checkAddress(text)
}

/** The password: an argument, stdin, or asked for twice. Throws a Failure when it cannot be used. */
async function passwordOf(terminal: Prompter, address: string, values: Values, io: Io): Promise<string> {
  const { checkPassword } = await import('./lib/accounts/accounts.ts')
  const instead = 'Give the password as a second argument, or by --password-stdin.'
  const password =
    values.password ??
    (values['password-stdin']
      ? await passwordFromStdin(io)
      : await terminal.askUnseen(`Password for ${address}: `, instead))
  checkPassword(password)
  // What the command line had in another encoding has become U+FFFD, which nobody could type again.
  if (values.password?.includes('\ufffd')) throw new Failure('usage', 'The password cannot be used: it is not UTF-8.')
  if (values.password !== undefined || values['password-stdin']) return password
  if ((await terminal.askUnseen('The same password again: ', instead)) !== password) {
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
  const { enabledProtocols } = await import('./lib/settings.ts')
  if (!enabledProtocols().imap) return true
  const { usageOf } = await import('./lib/server/mailboxes.ts')
  const kibibytes = Math.floor((Number.parseInt(quota, 10) * (BYTES[quota.slice(-1)] ?? 0)) / 1024)
  const usage = await usageOf(settings, address).catch(() => undefined)
  return usage !== undefined && (usage.limit ?? 0) === kibibytes * 1024
}

function sizeText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3))
  return `${power === 0 ? bytes : (bytes / 1000 ** power).toFixed(1)} ${units[power]}`
}

await run(import.meta.url, main)
