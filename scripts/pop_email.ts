/** npx tsx scripts/pop_email.ts: shows mail over POP3, waits for it, saves it, deletes it. Without an option, all of bar's. */
import type { parseArgs } from 'node:util'
import {
  EXIT,
  type ExitName,
  explainExitCodes,
  Failure,
  load,
  messageOf,
  parse,
  print,
  printAll,
  run,
  say,
  step,
  style,
  table,
} from './lib/cli.ts'
import type { Pop3Message, Pop3Server, Pop3Session } from './lib/mail/pop3.ts'
import type { Mailbox, Wait } from './lib/mail/search.ts'
import type { Source } from './lib/mail/views.ts'

const { findAccount, masterLogin, readAccounts } = await load(() => import('./lib/accounts/accounts.ts'))
const { CLIENT_OPTIONS, explainClientOptions, resolveClient } = await load(() => import('./lib/mail/client_options.ts'))
const { FILTER_OPTIONS, parseCount, parseFilters } = await load(() => import('./lib/mail/filters.ts'))
const { Folder, saver } = await load(() => import('./lib/mail/save.ts'))
const { visibleLine } = await load(() => import('./lib/mail/visible.ts'))

const HELP = `Usage: npx tsx scripts/pop_email.ts [options]

Shows the mails of a mailbox, oldest first, and leaves them there.

Which mailbox:
  --account NAME         an account of this server, by its address or local part; needs no password
  --all                  every account, the catchall included
  otherwise that of --user, see below

Which mails (all that is given has to be true; TEXT occurs in any letter case, or is a /regex/flags):
  --from TEXT --to TEXT --subject TEXT --body TEXT --message-id TEXT
                         --to also looks at the envelope recipient that the server recorded
  --since 5m             arrived in the last 5 minutes; s, m, h, d
  --last N               of those that match, the newest N of each mailbox
  --unseen-since UIDL    behind this one in the mailbox

Waiting:
  --wait [SECONDS]       until a matching mail is there (30); 0 looks once
  --expect N             until N matching mails are there
  --new                  mail that was there before does not count

What to show:
  (nothing)              From, To, Date, Subject, the text, the attachments
  --list                 one line each: number, UIDL, bytes, date, from, subject
  --headers              every header field, decoded
  --html                 the HTML
  --links                every link, one a line
  --code                 the one-time code: the first run of 4 to 8 digits that stands alone
  --raw                  the exact bytes
  --json                 one JSON object a line: {account, uidl, size, envelopeRecipient, messageId, from, to, cc, date,
                         subject, text, html, headers, attachments: [{name, type, size, cid}], links}
                         The JSON Schema: scripts/pop_email.schema.json
  --save DIR             saves each mail as an .eml file and shows its path
  --save-attachments DIR saves the attachments and shows their paths

  --delete               deletes exactly what was shown, when all of it is written out

${explainClientOptions('pop3')}

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'connection', 'tls', 'login', 'timeout', 'noMatch', 'kept', 'interrupted')}
  1 also when no mail had what --code, --links or --html asked for.

Examples:
  npx tsx scripts/pop_email.ts --account foo --last 1
  npx tsx scripts/pop_email.ts --account catchall --to someone@gmail.com --wait 10 --code
  npx tsx scripts/pop_email.ts --all --list
  npx tsx scripts/pop_email.ts --wait --new --subject '/confirm/i' --links --delete`

const OPTIONS = {
  help: { type: 'boolean', short: 'h' },
  account: { type: 'string' },
  all: { type: 'boolean' },
  ...CLIENT_OPTIONS,
  ...FILTER_OPTIONS,
  wait: { type: 'string' },
  expect: { type: 'string' },
  new: { type: 'boolean' },
  list: { type: 'boolean' },
  headers: { type: 'boolean' },
  html: { type: 'boolean' },
  links: { type: 'boolean' },
  code: { type: 'boolean' },
  raw: { type: 'boolean' },
  json: { type: 'boolean' },
  save: { type: 'string' },
  'save-attachments': { type: 'string' },
  delete: { type: 'boolean' },
} as const

/** What to show; one at a time. */
const VIEW_OPTIONS = ['list', 'headers', 'html', 'links', 'code', 'raw', 'json', 'save', 'save-attachments'] as const

/** Seconds of --wait without a number, and at most. */
const WAIT = { default: 30, max: 86_400 }
/** How many mails of a mailbox are named when the wait was in vain. */
const INSTEAD = 10

export async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(withWaitValue(args), OPTIONS)
  if (values.help) {
    print(HELP)
    return
  }
  const begin = performance.timeOrigin
  const filters = parseFilters(values, begin)
  const wait = parseWait(values, begin)
  const view = chooseView(values)
  const mailFolder = values.save === undefined ? undefined : new Folder('--save', values.save)
  const attachments = values['save-attachments']
  const attachmentFolder = attachments === undefined ? undefined : new Folder('--save-attachments', attachments)
  const { server, mailboxes } = await chooseMailboxes(values)

  // All is checked; from here on the modules that take time to load are needed.
  const { Mail } = await import('./lib/mail/mail.ts')
  const { select, visit } = await import('./lib/mail/search.ts')
  const { HEADER_VIEWS, listRow, VIEWS } = await import('./lib/mail/views.ts')

  let isDeleting = false
  process.on('SIGINT', () => {
    say(values.delete && !isDeleting ? 'Interrupted; nothing was deleted.' : 'Interrupted.')
    process.exit(EXIT.interrupted.code)
  })

  if (wait && !(await isThereInTime({ ...wait, server, mailboxes, filters }))) return 'noMatch'

  const rows: string[][] = []
  const views: Record<string, (source: Source) => string | Uint8Array | undefined> = {
    ...VIEWS,
    save: saver(mailFolder, attachmentFolder),
    // Aligned columns want all rows: the table is printed at the end.
    list: (source) => {
      rows.push(listRow(source))
      return ''
    },
  }
  const { write, flush } = writer()
  const shown = new Map<Mailbox, Set<string>>()
  // Where nothing else is asked for, only the newest of a large mailbox need be listed.
  const newest = wait || filters.matchesHeader || filters.matchesBody || filters.unseenSince ? undefined : filters.last
  const counts = { there: 0, selected: 0, shown: 0 }
  for (const mailbox of mailboxes) {
    const uidls = new Set<string>()
    shown.set(mailbox, uidls)
    const { account } = mailbox
    const show = async (session: Pop3Session, messages: Pop3Message[]) => {
      counts.there += messages.length
      const wanted = await select(session, messages, mailbox, filters)
      counts.selected += wanted.length
      for await (const [message, raw] of session.each(wanted, HEADER_VIEWS.includes(view) ? 'TOP' : 'RETR')) {
        const mail = new Mail(raw)
        const output = views[view]?.({ account, isOneOfMany: mailboxes.length > 1, message, raw, mail })
        if (output !== undefined) {
          await write(output)
          uidls.add(message.uidl)
          counts.shown++
        }
        if (mail.problems.length > 0) {
          const what = `Mail ${message.number} of ${account}: ${mail.problems.join('; ')}. Shown as far as it goes.`
          say(style('yellow', visibleLine(what), process.stderr))
        }
      }
    }
    await visit(server, mailbox, show, newest)
  }
  if (rows.length > 0) await write(`${table(rows)}\n`)
  await flush()

  if (counts.selected === 0) {
    const matching = counts.there > 0 ? ` matches, of ${mails(counts.there)} that are there` : ''
    say(`No mail${matching} in ${nameOf(mailboxes)}.`)
  }
  if (values.delete && counts.shown > 0) {
    isDeleting = true
    for (const [mailbox, uidls] of shown) await deleteMails(server, mailbox, uidls)
    say(`Deleted: ${mails(counts.shown)}.`)
  }
  if (counts.selected === 0 || counts.shown > 0) return
  say(`Nothing to show: ${mails(counts.selected)}, and none has what --${view} asks for.`)
  return 'failed'
}

type Values = ReturnType<typeof parseArgs<{ options: typeof OPTIONS }>>['values']

/** `parseArgs` knows no option whose value may be left out: `--wait` and `--wait 10` become `--wait=...`. */
function withWaitValue(args: string[]): string[] {
  return args.flatMap((arg, index) => {
    const isCount = (text: string | undefined) => text !== undefined && /^\d+(\.\d+)?$/.test(text)
    if (arg === '--wait') return [`--wait=${isCount(args[index + 1]) ? args[index + 1] : WAIT.default}`]
    return args[index - 1] === '--wait' && isCount(arg) ? [] : [arg]
  })
}

function parseWait({ wait, expect, new: onlyNew }: Values, begin: number) {
  if (wait === undefined) {
    if (expect === undefined && !onlyNew) return undefined
    throw new Failure('usage', `--${onlyNew ? 'new' : 'expect'} needs --wait: it says what is waited for.`)
  }
  const seconds = Number(wait)
  if (!/^\d+(\.\d+)?$/.test(wait) || seconds > WAIT.max) {
    throw new Failure('usage', `--wait=${wait}: a number of seconds, 0 to ${WAIT.max}.`)
  }
  const count = expect === undefined ? 1 : parseCount('--expect', expect)
  return { seconds, expect: count, onlyNew: onlyNew ?? false, begin, end: begin + seconds * 1_000 }
}

/** The one thing to show. Mails and attachments may be saved together. */
function chooseView(values: Values): string {
  const chosen = VIEW_OPTIONS.filter((name) => values[name] !== undefined)
  if (chosen.length > 1 && !chosen.every((name) => name.startsWith('save'))) {
    throw new Failure('usage', `${chosen.map((name) => `--${name}`).join(' and ')}: choose one of them.`)
  }
  return chosen[0]?.replace(/^save.*/, 'save') ?? 'text'
}

async function chooseMailboxes(values: Values): Promise<{ server: Pop3Server; mailboxes: Mailbox[] }> {
  const { account, all, user, password, 'password-stdin': fromStdin } = values
  if (account === undefined && !all) {
    const { server, login } = await resolveClient('pop3', values)
    if (!login) throw new Failure('usage', 'POP3 has no access without a login. See --help.')
    return { server, mailboxes: [{ account: login.user, login, verdicts: new Map() }] }
  }
  if ((account !== undefined && all) || user !== undefined || password !== undefined || fromStdin) {
    throw new Failure('usage', 'Choose the mailbox in one way: --account, --all, or --user with its password.')
  }
  if (all && values['unseen-since'] !== undefined) {
    throw new Failure('usage', '--unseen-since and --all: a UIDL belongs to one mailbox. Use --account.')
  }
  // The master user opens every mailbox, also where nobody here knows the password.
  const accounts = account === undefined ? readAccounts() : [findAccount(account)]
  const mailboxes = accounts.map(({ address }) => ({
    account: address,
    login: masterLogin(address),
    verdicts: new Map<string, boolean>(),
  }))
  const { server } = await resolveClient('pop3', { ...values, ...mailboxes[0]?.login })
  return { server, mailboxes }
}

/** Waits; when it was in vain, says what is there instead. */
async function isThereInTime(wait: Wait & { seconds: number }): Promise<boolean> {
  const { server, mailboxes, expect, seconds } = wait
  const { Mail } = await import('./lib/mail/mail.ts')
  const { visit, waitForMail } = await import('./lib/mail/search.ts')
  const { listRow } = await import('./lib/mail/views.ts')

  const title = `Waiting up to ${seconds} s for ${mails(expect)} in ${nameOf(mailboxes)}`
  const search = waitForMail(wait)
  const found = (await search.firstLook()) ?? (await step(title, () => search.untilFound()))
  if (found >= expect) return true

  say(`No match after ${seconds} s: ${found} of ${mails(expect)}. What is there instead:`)
  for (const mailbox of mailboxes) {
    const rows = await visit(server, mailbox, async (session, messages) => {
      say(
        `${visibleLine(mailbox.account)}: ${mails(messages.length)}${messages.length > INSTEAD ? ', the newest:' : ''}`,
      )
      const newest = []
      for (const message of messages.slice(-INSTEAD)) {
        const raw = await session.top(message)
        newest.push(listRow({ account: mailbox.account, isOneOfMany: false, message, raw, mail: new Mail(raw) }))
      }
      return newest
    })
    if (rows.length > 0) say(table(rows).replace(/^/gm, '  '))
  }
  return false
}

/**
 * Deletes by UIDL in a session of its own: the session that showed them may have ended meanwhile, where somebody reads
 * the output in a pager, and an interruption before this deletes nothing.
 */
async function deleteMails(server: Pop3Server, { account, login }: Mailbox, uidls: Set<string>): Promise<void> {
  if (uidls.size === 0) return
  const { Pop3Refusal, Pop3Session } = await import('./lib/mail/pop3.ts')
  try {
    const session = await Pop3Session.open(server, login)
    try {
      for (const message of await session.list()) if (uidls.has(message.uidl)) await session.delete(message)
      await session.quit()
    } finally {
      session.close()
    }
  } catch (error) {
    const which = `${mails(uidls.size)} of ${visibleLine(account)}`
    // Without an answer to QUIT nobody knows for sure.
    const doubt = error instanceof Pop3Refusal ? '' : ', as far as can be told'
    throw new Failure('kept', `${messageOf(error)}\nThe server kept the mail that was to be deleted${doubt}: ${which}.`)
  }
}

/** Writes to stdout, small pieces together: a system call for each of 1,000 mails takes as long as reading them. */
function writer() {
  let pending: Buffer[] = []
  let size = 0
  const flush = async () => {
    const [bytes] = pending.length === 1 ? pending : [Buffer.concat(pending)]
    pending = []
    size = 0
    if (bytes && bytes.length > 0) await printAll(bytes)
  }
  const write = async (output: string | Uint8Array) => {
    const bytes =
      typeof output === 'string' ? Buffer.from(output) : Buffer.from(output.buffer, output.byteOffset, output.length)
    pending.push(bytes)
    size += bytes.length
    if (size > 65_536) await flush()
  }
  return { write, flush }
}

function nameOf(mailboxes: Mailbox[]): string {
  return mailboxes.map(({ account }) => visibleLine(account)).join(', ')
}

function mails(count: number): string {
  return `${count} mail${count === 1 ? '' : 's'}`
}

await run(import.meta.url, main)
