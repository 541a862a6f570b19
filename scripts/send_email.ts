/** npx tsx scripts/send_email.ts: sends mail over SMTP; with no option the test mail from foo to bar. */
import { EXIT, type ExitName, explainExitCodes, Failure, type Io, load, parse, run, style, table } from './lib/cli.ts'
import type { Delivery, Outgoing } from './lib/mail/delivery.ts'
import type { SmtpSession } from './lib/mail/smtp.ts'

const { CLIENT_OPTIONS, chosenUser, explainClientOptions, resolveClient } = await load(
  () => import('./lib/mail/client_options.ts'),
)
const { MAIL_OPTIONS, mailMaker } = await load(() => import('./lib/mail/mail_options.ts'))
const { jsonLine, visible, visibleLine } = await load(() => import('./lib/mail/visible.ts'))

const HELP = `Usage: npx tsx scripts/send_email.ts [options]   (Node 22.18 and newer: node scripts/send_email.ts)

Sends a mail over SMTP. What is not given is taken from the test mail: from foo to bar, with a Japanese subject.

Compose (addresses: user@domain, "Name <user@domain>", lists with commas; the options marked * may be repeated):
  --from ADDRESS *       also the envelope sender; default: the login's user, else foo
  --to, --cc, --bcc ADDRESS *
  --reply-to ADDRESS *
  --subject TEXT
  --text TEXT, --html TEXT
                         the text itself, @FILE, or - for stdin (UTF-8)
  --attach FILE *        its type comes from its name
  --inline CID=FILE *    an image that the HTML shows as <img src="cid:CID">
  --calendar FILE        an iCalendar file as text/calendar, with the method that it names
  --header 'NAME: VALUE' *
  --message-id ID        --in-reply-to ID        (the second also sets References)
  --date DATE            'Tue, 1 Jul 2025 09:00:00 +0900', or ISO 8601

Send as it is:
  --eml FILE             the bytes of FILE (- for stdin) unchanged, without Bcc and Resent-Bcc. Recipients: --to, --cc
                         and --bcc, else its To, Cc and Bcc. Sender: --from, else its Sender or From.

Envelope:
  --envelope-from ADDRESS
                         MAIL FROM; '' is the null sender <> of bounces
  --envelope-to ADDRESS *
                         RCPT TO, instead of all other recipients
  --dsn WHEN             ask for delivery status notifications: never, or some of success,failure,delay

Many:
  --count N              send N messages; {n} in subject, texts, addresses, --header and --message-id becomes 1 to N
  --concurrency C        over C connections, each used again and again (10)
                         At the end: accepted, refused, the seconds and the rate, composing included.

Output:
  --dry-run              print envelope and message, send nothing
  --verbose, -v          the SMTP dialogue on stderr, passwords masked
  --json                 one JSON object a message on stdout, see below

${explainClientOptions('smtp')}
                         The default login is used only where the server offers AUTH.

JSON, one line a message:
  {n, status, exitCode, messageId, queueId, reply, envelope: {from, to}, accepted: [address],
  refused: [{recipient, code, enhancedCode, reply}], error, message}
  status is accepted, partial (some recipients refused), refused, failed (connection, TLS, login, time out) or dry-run;
  reply is the one that decided; message is null but for a dry run. What is not known is null.
  The JSON Schema: scripts/send_email.schema.json

Exit codes:
${explainExitCodes('ok', 'failed', 'usage', 'connection', 'tls', 'login', 'sender', 'allRecipients', 'someRecipients', 'message', 'timeout', 'interrupted')}
  With --count: of the message with the lowest number that was not accepted for all its recipients.
  --dsn at a server that does not offer DSN is wrong usage (2); nothing is sent.

Examples:
  npx tsx scripts/send_email.ts
  npx tsx scripts/send_email.ts --to someone@gmail.com --subject Hello --text 'Caught, not delivered.'
  npx tsx scripts/send_email.ts --to 'バー <bar@development-virtual.example.com>' --html @mail.html --inline logo=logo.png
  npx tsx scripts/send_email.ts --eml bounce.eml --envelope-from '' --envelope-to foo@development-virtual.example.com
  npx tsx scripts/send_email.ts --count 1000 --to 'user{n}@example.com' --subject 'Mail {n}'`

const MOST_CONNECTIONS = 500
/** RFC 3461 section 4.1: NEVER stands alone. */
const DSN = /^(?:never|(?:success|failure|delay)(?:,(?:success|failure|delay))*)$/i

export async function main(args: string[], io: Io): Promise<ExitName | undefined> {
  const { values } = parse(args, {
    ...{ json: { type: 'boolean' }, verbose: { type: 'boolean', short: 'v' }, 'dry-run': { type: 'boolean' } },
    ...{ dsn: { type: 'string' }, count: { type: 'string' }, concurrency: { type: 'string' } },
    ...MAIL_OPTIONS,
    ...CLIENT_OPTIONS,
  })
  if (values.help) {
    io.print(HELP)
    return
  }
  refuseLineBreaks(values)
  refuseTwoReadersOfStdin(values)
  const { json = false, verbose, dsn } = values
  const count = wholeNumber('count', values.count ?? '1', 1_000_000_000)
  const concurrency = wholeNumber('concurrency', values.concurrency ?? '10', MOST_CONNECTIONS)
  if (dsn !== undefined && !DSN.test(dsn)) {
    throw new Failure('usage', `--dsn ${JSON.stringify(dsn)}: never, or a list of success, failure, delay.`)
  }
  const user = await chosenUser('smtp', values)
  const make = await mailMaker(values, { numbered: values.count !== undefined, user, io })

  if (values['dry-run']) {
    for (let n = 1; n <= count; n++) await printDryRun(n, await make(n), json, io)
    return
  }

  const client = await resolveClient('smtp', values, io)
  const { server } = client
  const { SmtpSession } = await import('./lib/mail/smtp.ts')
  const { sendAll, tallyOf } = await import('./lib/mail/bulk.ts')
  const { statusOf } = await import('./lib/mail/delivery.ts')

  async function open(connection: number): Promise<SmtpSession> {
    const label = concurrency > 1 && count > 1 ? `[${connection}] ` : ''
    const tell = verbose ? (line: string) => io.say(label + line) : undefined
    const session = await SmtpSession.open(server, { ...client, tell })
    if (!dsn || session.offers('DSN')) return session
    await session.close()
    const fact = `SMTP on ${server.host}:${server.port} does not offer DSN in its EHLO reply`
    throw new Failure('usage', `--dsn ${dsn}: ${fact}. Nothing was sent; leave --dsn out.`)
  }

  const tally = tallyOf(count, json, io)
  let exit: ExitName = 'ok'
  let stopped = false
  /** A second Ctrl-C finds no handler and ends the process. */
  const stop = () => {
    stopped = true
    tally.clear()
    io.say('The messages under way come to their end; Ctrl-C again stops at once.')
  }
  if (count > 1) process.once('SIGINT', stop)
  await sendAll({
    ...{ count, concurrency, notify: dsn, make, open, patience: server.timeout, stopped: () => stopped },
    report(n, { messageId = null, envelope }, delivery) {
      const { queueId, reply, accepted, refused, problem: error } = delivery
      exit = delivery.exit
      const outcome = { n, status: statusOf(exit), exitCode: EXIT[exit].code, messageId, queueId, reply }
      if (json) io.print(jsonLine({ ...outcome, envelope, accepted, refused, error, message: null }))
      else if (count === 1) printResult(messageId, delivery, io)
      if (count > 1) tally.add(n, delivery)
      else if (error) io.say(style('red', error, io.stderr))
    },
  })
  process.removeListener('SIGINT', stop)
  if (count > 1) exit = tally.end()
  return stopped ? 'interrupted' : exit
}

function printResult(messageId: string | null, { reply, queueId, accepted, refused }: Delivery, io: Io): void {
  const rows = refused.map(({ recipient, reply }) => ['Refused:', `${recipient}: ${reply}`])
  if (accepted.length > 0) {
    rows.unshift(['Reply:', reply ?? ''], ['Queue id:', queueId ?? '-'], ['Message-ID:', visibleLine(messageId ?? '-')])
  }
  if (rows.length > 0) io.print(table(rows))
}

/** Envelope and message; on a terminal without what that would obey. */
async function printDryRun(
  n: number,
  { envelope, bytes, messageId = null }: Outgoing,
  json: boolean,
  io: Io,
): Promise<void> {
  const message = bytes.toString('utf8')
  if (json) {
    const nothing = { queueId: null, reply: null, accepted: [], refused: [], error: null }
    io.print(jsonLine({ n, status: 'dry-run', exitCode: 0, messageId, envelope, ...nothing, message }))
    return
  }
  if (n > 1) io.print()
  const commands = [`MAIL FROM:<${envelope.from}>`, ...envelope.to.map((recipient) => `RCPT TO:<${recipient}>`)]
  io.print(`${commands.join('\n')}\n`)
  await io.write(io.stdout.isTTY ? visible(message) : bytes)
  if (bytes.at(-1) !== 0x0a) io.print()
}

/** Nothing that goes into a header or a command may bring its own lines; texts may. */
function refuseLineBreaks(values: Record<string, string | boolean | string[] | undefined>): void {
  for (const [name, value] of Object.entries(values)) {
    const texts = name === 'text' || name === 'html' ? [] : [value].flat()
    const bad = texts.find((text) => typeof text === 'string' && /[\r\n\0]/.test(text))
    if (bad) throw new Failure('usage', `--${name} ${JSON.stringify(bad)}: a line break or NUL cannot stand here.`)
  }
}

function refuseTwoReadersOfStdin(values: Record<string, unknown>): void {
  const readers = ['text', 'html', 'eml'].filter((name) => values[name] === '-')
  if (values['password-stdin']) readers.push('password-stdin')
  if (readers.length < 2) return
  throw new Failure('usage', `${readers.map((name) => `--${name}`).join(' and ')}: only one option can read stdin.`)
}

function wholeNumber(name: string, text: string, most: number): number {
  if (/^\d{1,10}$/.test(text) && Number(text) >= 1 && Number(text) <= most) return Number(text)
  throw new Failure('usage', `--${name} ${JSON.stringify(text)}: a whole number from 1 to ${most}.`)
}

await run(import.meta.url, main)
