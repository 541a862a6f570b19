/** npx tsx scripts/pop_email.ts: shows mail over POP3, waits for it, saves it, deletes it. Without an option, all of bar's. */
import { EXIT, type ExitName, explainExitCodes, Failure, type Io, load, parse, run, step, style } from './lib/cli.ts'
import type { Mail } from './lib/mail/mail.ts'
import type { Mailbox } from './lib/mail/mailbox.ts'
import type { Pop3Message, Pop3Session } from './lib/mail/pop3.ts'
import { Folder } from './lib/mail/save.ts'
import type { Listed } from './lib/mail/views.ts'
import { visibleLine } from './lib/mail/visible.ts'

const { explainClientOptions } = await load(() => import('./lib/mail/client_options.ts'))
const { parseFilters, parseText } = await load(() => import('./lib/mail/filters.ts'))
const { adviceFor, chooseMailboxes, chooseView, POP_OPTIONS, parseWait, withValues } = await load(
  () => import('./lib/mail/pop_options.ts'),
)

const HELP = `Usage: npx tsx scripts/pop_email.ts [options]   (Node 22.18 and newer: node scripts/pop_email.ts)

Shows the mails of a mailbox, oldest first, and leaves them there.

Which mailbox:
  --account NAME         an account of this server, by its address or local part; needs no password
  --all                  every account, the catchall included
  otherwise that of --user, see below. Mail for an address that has no account is in the catchall: it is looked up there

Which mails (all that is given has to be true; TEXT occurs in any letter case, or is a /regex/flags):
  --from TEXT --to TEXT  a whole address (ann@shop.example) is that address alone; a part (ann@, @shop.example, ann) occurs
                         in an address or name. --to also looks at the envelope recipient that the server recorded; of
                         a caught mail to several, a whole address is in its own copy alone
  --subject TEXT --body TEXT --message-id TEXT
  --since 5m             arrived in the last 5 minutes; s, m, h, d
  --last N               of those that match, the newest N of each mailbox

Waiting:
  --wait [TIME]          until a matching mail is there: 10, 10s, 500ms (30 s); 0 looks once. Without --expect the newest
                         match alone is shown; without --delete, --list, --headers, --json and --save show all
  --expect N             until N matching mails are there; all that match are shown
  --new                  mail that was there before does not count

What to show:
  (nothing)              From, To, Date, Subject, the text, the attachments
  --list                 a line each: number, UIDL (on a wide terminal), bytes, date, envelope recipient, from, subject
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

/** The views that show the newest match alone where one mail is waited for. */
const FOR_ONE = ['text', 'html', 'links', 'code', 'raw']
/** Bytes that are written together: a system call for each of 1,000 mails takes as long as reading them. */
const TOGETHER = 65_536

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values: given } = parse(withValues(args), POP_OPTIONS)
  if (given.help) return void io.print(HELP)
  const begin = Date.now()
  const wait = parseWait(given, begin)
  const view = chooseView(given)
  const wantsLink = given.links === undefined ? () => true : parseText('--links', given.links).test
  const [mailFolder, attachmentFolder] = (['save', 'save-attachments'] as const).map((name) =>
    given[name] === undefined ? undefined : new Folder(`--${name}`, given[name]),
  )
  const { server, mailboxes, values } = await chooseMailboxes(given, io)
  const filters = parseFilters(values, begin)

  // All is checked; from here on the modules that take time to load are needed.
  const { deleteMails, headersOf, mails, newestOf, searchFor, select, visit } = await import('./lib/mail/mailbox.ts')
  const { HEADER_VIEWS, listOf, saver, VIEWS } = await import('./lib/mail/views.ts')

  const names = mailboxes.map(({ account }) => visibleLine(account)).join(', ')
  // Who waits for one mail and deletes it leaves the others to those who wait for them.
  const isForOne = wait?.expect === 1 && (values.delete || FOR_ONE.includes(view))
  const isOneOfMany = mailboxes.length > 1
  const isHeader = HEADER_VIEWS.includes(view)
  const isAsItIs = view === 'raw' || (view === 'save' && !attachmentFolder)
  const reader = isAsItIs ? undefined : await import('./lib/mail/mail.ts')
  const listed: Listed[] = []
  const save = saver(mailFolder, attachmentFolder)
  const views = { ...VIEWS, list: (source: Listed) => void listed.push(source), save, 'save-attachments': save }
  const counts = { there: 0, read: 0, shown: 0 }
  const shown = new Map<Mailbox, Set<string>>()
  let output: Uint8Array[] = []

  /** Shows what matches of one mailbox. */
  async function show(mailbox: Mailbox, session: Pop3Session, messages: Pop3Message[]): Promise<void> {
    const { account, verdicts } = mailbox
    const uidls = new Set<string>()
    shown.set(mailbox, uidls)
    counts.there += messages.length
    const wanted = await select(session, messages, mailbox, filters, isForOne ? 1 : filters.last)
    for await (const [message, raw] of session.each(wanted, isHeader ? 'TOP' : 'RETR')) {
      // Undefined where another reader has deleted it meanwhile.
      verdicts.set(message.uidl, raw !== undefined)
      if (!raw) continue
      counts.read++
      // A view gets as much of the mail as it shows.
      const mail = (isHeader ? reader?.readHeaders(raw) : reader?.readMail(raw)) ?? { warnings: [] }
      const result = views[view]({ account, isOneOfMany, message, raw, mail: mail as Mail, wantsLink })
      if (result !== undefined || view === 'list') {
        await write(result ?? '')
        uidls.add(message.uidl)
        counts.shown++
      }
      const warning = `Mail ${message.number} of ${account}: ${mail.warnings.join('; ')}. Shown as far as it goes.`
      if (mail.warnings.length > 0) io.say(style('yellow', visibleLine(warning), io.stderr))
    }
  }

  async function write(result: string | Uint8Array, most = TOGETHER): Promise<void> {
    output.push(typeof result === 'string' ? Buffer.from(result) : result)
    if (output.reduce((sum, { length }) => sum + length, 0) <= most) return
    await io.write(Buffer.concat(output))
    output = []
  }

  let isDeleting = false
  const interrupt = () => {
    io.say(values.delete && !isDeleting ? 'Interrupted; nothing was deleted.' : 'Interrupted.')
    process.exit(EXIT.interrupted.code)
  }
  process.on('SIGINT', interrupt)
  const search = wait && searchFor(wait, server, mailboxes, filters)
  let release: (() => void) | undefined
  try {
    while (counts.read === 0) {
      if (search) {
        const title = `Waiting up to ${wait.seconds} s for ${mails(wait.expect)} in ${names}`
        let found = await search.look()
        if (found < wait.expect && Date.now() < wait.end) found = await step(title, search.lookOn, io.stderr)
        if (found < wait.expect) {
          io.say(`No match after ${wait.seconds} s: ${found} of ${mails(wait.expect)}. What is there instead:`)
          const there = await headersOf(server, mailboxes, io.say)
          const columns = (io.stderr.columns ?? Number.POSITIVE_INFINITY) - 2
          if (there.length > 0) io.say(listOf(there, columns).replace(/^/gm, '  '))
          return 'noMatch'
        }
      }
      if (values.delete) {
        // One reader at a time: two POP3 sessions that delete the same message are both told +OK.
        const { claim } = await import('./lib/claim.ts')
        const other = `Another pop_email --delete is at work on ${names}`
        // The master user's login has "*master" behind the account.
        const own = mailboxes.map(({ account }) =>
          `${server.host}:${server.port} ${account.split('*')[0]}`.toLowerCase(),
        )
        const patience = () => claim(own, wait ? wait.end : Date.now() + server.timeout)
        release = (await claim(own, 0)) ?? (await step(other, patience, io.stderr))
        if (!release) throw new Failure(wait ? 'noMatch' : 'failed', `${other}. Wait for it, or end it.`)
      }
      // What was found may have gone to the reader before.
      if (!search || !release || (await search.look()) >= wait.expect) {
        const chosen = isForOne && isOneOfMany ? await newestOf(server, mailboxes, filters) : mailboxes
        for (const mailbox of chosen) await visit(server, mailbox, (...args) => show(mailbox, ...args))
        if (!search) break
      }
      if (counts.read === 0) release?.()
    }
    if (listed.length > 0) await write(`${listOf(listed, io.stdout.columns)}\n`)
    await write('', 0)

    if (counts.read === 0) {
      io.say(counts.there > 0 ? `No match in ${names}: ${mails(counts.there)} there.` : `No mail in ${names}.`)
    }
    if (values.delete && counts.shown > 0) {
      isDeleting = true
      let deleted = 0
      for (const [mailbox, uidls] of shown) deleted += await deleteMails(server, mailbox, uidls)
      const others = counts.shown > deleted ? `; another reader had taken ${mails(counts.shown - deleted)}` : ''
      io.say(`Deleted: ${mails(deleted)}${others}.`)
    }
    if (counts.read === 0 || counts.shown > 0) return
    io.say(`Nothing to show: ${mails(counts.read)}, and none has what --${view} asks for.`)
    return 'failed'
  } catch (error) {
    if (!(error instanceof Failure && error.exit === 'login')) throw error
    throw new Failure('login', `${error.message}\n${await adviceFor(mailboxes[0]?.account ?? '')}`)
  } finally {
    release?.()
    process.off('SIGINT', interrupt)
  }
}

await run(import.meta.url, main)
