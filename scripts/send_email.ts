/** npx tsx scripts/send_email.ts: sends mail over SMTP; with no option the test mail from foo to bar. */
import {
  EXIT,
  type ExitName,
  explainExitCodes,
  Failure,
  load,
  parse,
  print,
  run,
  say,
  style,
  table,
} from './lib/cli.ts'
import type { Outgoing } from './lib/mail/bulk.ts'
import type { Notify } from './lib/mail/smtp.ts'
import type { Delivery } from './lib/mail/smtp_delivery.ts'

const { sendAll } = await load(() => import('./lib/mail/bulk.ts'))
const { CLIENT_OPTIONS, explainClientOptions, resolveClient } = await load(() => import('./lib/mail/client_options.ts'))
const { MAIL_OPTIONS, readMail } = await load(() => import('./lib/mail/mail_options.ts'))
const { SmtpSession } = await load(() => import('./lib/mail/smtp.ts'))
const { statusOf, Tally } = await load(() => import('./lib/mail/tally.ts'))
const { visibleLine } = await load(() => import('./lib/mail/visible.ts'))
const { setting } = await load(() => import('./lib/settings.ts'))

const HELP = `Usage: npx tsx scripts/send_email.ts [options]

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
  --priority high|normal|low

Send as it is:
  --eml FILE             the bytes of FILE (- for stdin) unchanged, without their Bcc field. Recipients: --to, --cc
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
                         At the end: accepted, refused, the seconds from the first connection on, and the rate.

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

export async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(args, {
    json: { type: 'boolean' },
    verbose: { type: 'boolean', short: 'v' },
    'dry-run': { type: 'boolean' },
    dsn: { type: 'string' },
    count: { type: 'string' },
    concurrency: { type: 'string' },
    ...MAIL_OPTIONS,
    ...CLIENT_OPTIONS,
  })
  if (values.help) {
    print(HELP)
    return
  }
  refuseLineBreaks(values)
  refuseTwoReadersOfStdin(values)
  const count = wholeNumber('count', values.count, 1, 1_000_000_000)
  const concurrency = wholeNumber('concurrency', values.concurrency, 10, MOST_CONNECTIONS)
  const notify = readNotify(values.dsn)
  const user = values.user ?? setting('SMTP_USER')
  const make = await readMail(values, { numbered: values.count !== undefined, user })

  if (values['dry-run']) {
    for (let n = 1; n <= count; n++) printDryRun(n, await make(n), values.json)
    return
  }

  const client = await resolveClient('smtp', values)
  const { server } = client

  const tally = new Tally(count)
  async function open(connection: number): Promise<Awaited<ReturnType<typeof SmtpSession.open>>> {
    tally.begin()
    const label = concurrency > 1 && count > 1 ? `[${connection}] ` : ''
    const tell = (who: string, line: string) => say(`${label}${who === 'client' ? '>' : '<'} ${visibleLine(line)}`)
    const session = await SmtpSession.open(server, values.verbose ? { ...client, tell } : client)
    if (notify && !session.offers('DSN')) {
      await session.close()
      throw new Failure(
        'usage',
        `--dsn ${values.dsn}: SMTP on ${server.host}:${server.port} does not offer DSN in its EHLO reply. Nothing was sent; leave --dsn out.`,
      )
    }
    return session
  }

  if (count > 1) process.once('SIGINT', () => tally.stop())
  await sendAll({
    count,
    concurrency,
    notify,
    patience: server.timeout,
    make,
    open,
    stopped: () => tally.stopped,
    report(n, message, delivery) {
      tally.add(n, delivery)
      if (values.json) print(JSON.stringify(jsonOf(n, message, delivery)))
      else if (count === 1) printResult(message, delivery)
      if (count > 1) tally.show(n, delivery, values.json)
      else if (delivery.problem) say(style('red', delivery.problem, process.stderr))
    },
  })
  if (count > 1) tally.end(values.json)
  return tally.exit
}

/** One line of `--json`; its shape is `send_email.schema.json`. */
function jsonOf(n: number, { envelope, messageId }: Outgoing, delivery: Delivery) {
  const { exit, queueId, reply, accepted, refused, problem } = delivery
  const status = statusOf(exit)
  const { code: exitCode } = EXIT[exit]
  return { n, status, exitCode, messageId, queueId, reply, envelope, accepted, refused, error: problem, message: null }
}

function printResult({ messageId }: Outgoing, { reply, queueId, accepted, refused }: Delivery): void {
  const rows = refused.map(({ recipient, reply }) => ['Refused:', `${recipient}: ${reply}`])
  if (accepted.length > 0) {
    rows.unshift(['Reply:', reply ?? ''], ['Queue id:', queueId ?? '-'], ['Message-ID:', visibleLine(messageId ?? '-')])
  }
  if (rows.length > 0) print(table(rows))
}

function printDryRun(n: number, { envelope, bytes, messageId }: Outgoing, json = false): void {
  if (json) {
    const nothing = { queueId: null, reply: null, accepted: [], refused: [], error: null }
    const result = {
      n,
      status: 'dry-run',
      exitCode: 0,
      messageId,
      envelope,
      ...nothing,
      message: bytes.toString('utf8'),
    }
    print(JSON.stringify(result))
    return
  }
  if (n > 1) print()
  print(`MAIL FROM:<${envelope.from}>`)
  for (const recipient of envelope.to) print(`RCPT TO:<${recipient}>`)
  print()
  process.stdout.write(bytes)
  if (bytes.at(-1) !== 0x0a) print()
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
  if (readers.length > 1) {
    throw new Failure('usage', `${readers.map((name) => `--${name}`).join(' and ')}: only one option can read stdin.`)
  }
}

function wholeNumber(name: string, text: string | undefined, otherwise: number, most: number): number {
  const number = Number(text ?? otherwise)
  if (text !== undefined && (!/^\d{1,10}$/.test(text) || number < 1 || number > most)) {
    throw new Failure('usage', `--${name} ${JSON.stringify(text)}: a whole number from 1 to ${most}.`)
  }
  return number
}

/** Checks `--dsn`: NEVER stands alone (RFC 3461 section 4.1). */
function readNotify(text: string | undefined): Notify | undefined {
  if (text === undefined) return undefined
  const words = text.toLowerCase().split(',')
  if (words.join() !== 'never' && words.some((word) => !['success', 'failure', 'delay'].includes(word))) {
    throw new Failure('usage', `--dsn ${JSON.stringify(text)}: never, or a list of success, failure, delay.`)
  }
  return words as Notify
}

await run(import.meta.url, main)
