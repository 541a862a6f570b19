/** npx tsx scripts/pop_email.ts: shows mail over POP3, waits for it, saves it, deletes it. Without an option, all of bar's. */
import { EXIT, type ExitName, explainExitCodes, Failure, type Io, load, parse, run, step, style } from './lib/cli.ts'
import type { Mail } from './lib/mail/mail.ts'
import type { Mailbox } from './lib/mail/mailbox.ts'
import type { Pop3Message, Pop3Session } from './lib/mail/pop3.ts'
import type { Listed, View } from './lib/mail/views.ts'

const { explainClientOptions } = await load(() => import('./lib/mail/client_options.ts'))
const { parseFilters, parseText } = await load(() => import('./lib/mail/filters.ts'))
const { chooseMailboxes, chooseView, POP_OPTIONS, parseWait, withValues } = await load(
  () => import('./lib/mail/pop_options.ts'),
)
const { Folder } = await load(() => import('./lib/mail/save.ts'))
const { visibleLine } = await load(() => import('./lib/mail/visible.ts'))

const HELP = `Usage: npx tsx scripts/pop_email.ts [options]

Shows the mails of a mailbox, oldest first, and leaves them there.

Which mailbox:
  --account NAME         an account of this server, by its address or local part; needs no password. An address that has
                         no account: what was sent to it, out of the catchall
  --all                  every account, the catchall included
  otherwise that of --user, see below; the catchall where --to is an address that has no account

Which mails (all that is given has to be true; TEXT occurs in any letter case, or is a /regex/flags):
  --from TEXT --to TEXT  a whole address (ann@shop.example) is that address alone; a part (ann@, @shop.example, ann) occurs
                         in an address or name. --to also looks at the envelope recipient that the server recorded
  --subject TEXT --body TEXT --message-id TEXT
  --since 5m             arrived in the last 5 minutes; s, m, h, d
  --last N               of those that match, the newest N of each mailbox

Waiting:
  --wait [TIME]          until a matching mail is there: 10, 10s, 500ms (30 s); 0 looks once. Without --expect the newest
                         match alone is shown, but by --list, --headers, --json and --save all that match,
                         unless --delete is given
  --expect N             until N matching mails are there; all that match are shown
  --new                  mail that was there before does not count

What to show:
  (nothing)              From, To, Date, Subject, the text, the attachments
  --list                 one line each: number, UIDL (where the terminal is wide), bytes, date, envelope recipient, from,
                         subject
  --headers              every header field, decoded
  --html                 the HTML
  --links [TEXT]         the http and https links in the order of the mail, one a line; those with TEXT or /regex/ in them
  --code                 the one-time code
  --raw                  the exact bytes
  --json                 one JSON object a line: {account, uidl, size, envelopeRecipient, messageId, from, to, cc, date,
                         subject, text, html, headers, attachments: [{name, type, size, cid}], links}
                         The JSON Schema: scripts/pop_email.schema.json
  --save DIR             saves each mail as an .eml file and shows its path
  --save-attachments DIR saves the attachments and shows their paths

  --delete               deletes exactly what was shown, when all of it is written out. Of several that wait for the same
                         mail on this machine each gets its own

${explainClientOptions('pop3')}

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'connection', 'tls', 'login', 'timeout', 'noMatch', 'kept', 'interrupted')}
  1 also when no mail had what --code, --links or --html asked for.

Examples:
  npx tsx scripts/pop_email.ts --account foo --last 1
  npx tsx scripts/pop_email.ts --to someone@gmail.com --wait 10 --code
  npx tsx scripts/pop_email.ts --all --list
  npx tsx scripts/pop_email.ts --wait --new --subject '/confirm/i' --links=/confirm/ --delete`

/** How many mails of a mailbox are named when the wait was in vain. */
const INSTEAD = 10
const OTHER = 'Another pop_email --delete is at work on'
/** The views that show the newest match alone where one mail is waited for. */
const FOR_ONE: readonly string[] = ['text', 'html', 'links', 'code', 'raw']

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values: given } = parse(withValues(args), POP_OPTIONS)
  if (given.help) {
    io.print(HELP)
    return
  }
  const begin = Date.now()
  parseFilters(given, begin)
  const wait = parseWait(given, begin)
  const view = chooseView(given)
  const wantsLink = given.links === undefined ? () => true : parseText('--links', given.links).test
  const mailFolder = given.save === undefined ? undefined : new Folder('--save', given.save)
  const attachments = given['save-attachments']
  const attachmentFolder = attachments === undefined ? undefined : new Folder('--save-attachments', attachments)
  const { server, mailboxes, values } = await chooseMailboxes(given, io)
  const filters = parseFilters(values, begin)

  // All is checked; from here on the modules that take time to load are needed.
  const { claim } = await import('./lib/mail/claim.ts')
  const { readHeaders, readMail } = await import('./lib/mail/mail.ts')
  const { claimsOf, deleteMails, mails, newestOf, Search, select, visit } = await import('./lib/mail/mailbox.ts')
  const { HEADER_VIEWS, listOf, saver, VIEWS } = await import('./lib/mail/views.ts')

  const names = mailboxes.map(({ account }) => visibleLine(account)).join(', ')
  // Who waits for one mail and deletes it leaves the others to those who wait for them.
  const isForOne = wait?.expect === 1 && (values.delete || FOR_ONE.includes(view))
  const isHeader = HEADER_VIEWS.includes(view)
  const isAsItIs = view === 'raw' || (view === 'save' && !attachmentFolder)
  // Where nothing else is asked for, only the newest of a large mailbox need be listed.
  const newest = wait || filters.matchesHeader || filters.matchesBody ? undefined : filters.last
  const listed: Listed[] = []
  const list = (source: Listed) => {
    listed.push(source)
    return ''
  }
  const save = saver(mailFolder, attachmentFolder)
  const views: Record<typeof view, View> = { ...VIEWS, list, save, 'save-attachments': save }
  const counts = { there: 0, read: 0, shown: 0 }
  const shown = new Map<Mailbox, Set<string>>()
  const { write, flush } = writer(io)

  /** Shows what matches of one mailbox. */
  async function show(mailbox: Mailbox, session: Pop3Session, messages: Pop3Message[]): Promise<void> {
    const { account, verdicts } = mailbox
    const uidls = new Set<string>()
    shown.set(mailbox, uidls)
    counts.there += messages.length
    const wanted = await select(session, messages, mailbox, filters, isForOne ? 1 : filters.last)
    for await (const [message, raw] of session.each(wanted, isHeader ? 'TOP' : 'RETR')) {
      if (!raw) {
        // Another reader has deleted it meanwhile.
        verdicts.set(message.uidl, false)
        counts.there--
        continue
      }
      counts.read++
      // A view gets as much of the mail as it shows.
      const mail = (isAsItIs ? { warnings: [] } : isHeader ? readHeaders(raw) : await readMail(raw)) as unknown as Mail
      const output = views[view]({ account, isOneOfMany: mailboxes.length > 1, message, raw, mail, wantsLink })
      if (output !== undefined) {
        await write(output)
        uidls.add(message.uidl)
        counts.shown++
      }
      if (mail.warnings.length > 0) {
        const what = `Mail ${message.number} of ${account}: ${mail.warnings.join('; ')}. Shown as far as it goes.`
        io.say(style('yellow', visibleLine(what), io.stderr))
      }
    }
  }

  /** What is there, when the wait was in vain. */
  async function tellInstead(mailbox: Mailbox): Promise<void> {
    const there = await visit(server, mailbox, async (session, messages) => {
      const count = messages.length
      io.say(`${visibleLine(mailbox.account)}: ${mails(count)}${count > INSTEAD ? ', the newest:' : ''}`)
      const headers: Listed[] = []
      for await (const [message, raw] of session.each(messages.slice(-INSTEAD), 'TOP')) {
        if (raw) headers.push({ account: mailbox.account, isOneOfMany: false, message, mail: readHeaders(raw) })
      }
      return headers
    })
    if (there.length > 0)
      io.say(listOf(there, (io.stderr.columns ?? Number.POSITIVE_INFINITY) - 2).replace(/^/gm, '  '))
  }

  let isDeleting = false
  const interrupt = () => {
    io.say(values.delete && !isDeleting ? 'Interrupted; nothing was deleted.' : 'Interrupted.')
    process.exit(EXIT.interrupted.code)
  }
  process.on('SIGINT', interrupt)
  const isForDeletion = values.delete ?? false
  const search = wait && new Search({ ...wait, server, mailboxes, filters, isForDeletion })
  let release: (() => void) | undefined
  try {
    if (isForDeletion && !search) {
      const claims = claimsOf(server, mailboxes)
      const patience = () => claim(claims, Date.now() + server.timeout)
      release = (await claim(claims, 0)) ?? (await step(`${OTHER} ${names}`, patience, io.stderr))
      if (!release) throw new Failure('failed', `${OTHER} ${names}. Wait for it, or end it.`)
    }
    do {
      if (search) {
        const title = `Waiting up to ${wait.seconds} s for ${mails(wait.expect)} in ${names}`
        const found = (await search.look()) ?? (await step(title, () => search.untilFound(), io.stderr))
        if (found < wait.expect) {
          io.say(`No match after ${wait.seconds} s: ${found} of ${mails(wait.expect)}. What is there instead:`)
          for (const mailbox of mailboxes) await tellInstead(mailbox)
          if (search.isHeld) io.say(`${OTHER} ${names}.`)
          return 'noMatch'
        }
      }
      const chosen = isForOne && mailboxes.length > 1 ? await newestOf(server, mailboxes, filters) : mailboxes
      for (const mailbox of chosen) await visit(server, mailbox, (...args) => show(mailbox, ...args), newest)
      // What was found may be gone already.
    } while (search && counts.read === 0)
    if (listed.length > 0) await write(`${listOf(listed, io.stdout.columns)}\n`)
    await flush()

    if (counts.read === 0) {
      const matching = counts.there > 0 ? ` matches, of ${mails(counts.there)} that are there` : ''
      io.say(`No mail${matching} in ${names}.`)
    }
    if (isForDeletion && counts.shown > 0) {
      isDeleting = true
      let deleted = 0
      for (const [mailbox, uidls] of shown) deleted += await deleteMails(server, mailbox, uidls)
      const others = counts.shown > deleted ? `; another reader had taken ${mails(counts.shown - deleted)}` : ''
      io.say(`Deleted: ${mails(deleted)}${others}.`)
    }
    if (counts.read === 0 || counts.shown > 0) return
    io.say(`Nothing to show: ${mails(counts.read)}, and none has what --${view} asks for.`)
    return 'failed'
  } finally {
    release?.()
    search?.release()
    process.off('SIGINT', interrupt)
  }
}

/** Writes to stdout, small pieces together: a system call for each of 1,000 mails takes as long as reading them. */
function writer(io: Io) {
  let pending: Uint8Array[] = []
  let size = 0
  const flush = async () => {
    const [bytes = Buffer.alloc(0)] = pending.length > 1 ? [Buffer.concat(pending)] : pending
    pending = []
    size = 0
    if (bytes.length > 0) await io.write(bytes)
  }
  const write = async (output: string | Uint8Array) => {
    const bytes = typeof output === 'string' ? Buffer.from(output) : output
    pending.push(bytes)
    size += bytes.length
    if (size > 65_536) await flush()
  }
  return { write, flush }
}

await run(import.meta.url, main)
