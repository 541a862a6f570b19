/** send_email against the real server: what arrives is what was asked for. Each test takes all mail that it has sent. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { after, before, test } from 'node:test'
import { Ajv } from 'ajv'
import { BAR, CATCHALL, FOO } from '../scripts/lib/accounts/accounts.ts'
import { type Mail, readMail } from '../scripts/lib/mail/mail.ts'
import { main } from '../scripts/send_email.ts'
import { visit } from './deliveries.ts'
import { type Project, type Result, startedProject, until } from './harness.ts'
import { type HereOptions, runHere, runIn } from './here.ts'

const BAZ = 'baz@development-virtual.example.com'

let project: Project
before(async () => {
  project = await startedProject()
  Object.assign(process.env, project.env)
})
after(() => project?.remove())

const sendHere = (options: HereOptions, ...args: string[]) => runHere(main, options, ...args)
const send = (...args: string[]) => sendHere({}, ...args)
const mailLog = () => readFileSync(project.path('state', 'log', 'mail.log'), 'utf8')

/** Waits for `count` mails of an account, and takes them out of the mailbox. */
async function arrived(account: string, count = 1): Promise<Buffer[]> {
  const mails: Buffer[] = []
  const look = () =>
    visit(project, account, async (session, list) => {
      for (const message of list) {
        mails.push(await session.retrieve(message))
        await session.delete(message)
      }
      return mails.length >= count
    })
  await until(`${count} mails for ${account}`, look)
  assert.equal(mails.length, count)
  return mails
}

/** Sends, expects success, and gives the one mail that arrived. */
async function sent(account: string, ...args: string[]): Promise<Mail & { raw: string }> {
  const { code, stderr } = await send(...args)
  assert.equal(code, 0, stderr)
  const [mail] = await arrived(account)
  return { ...readMail(mail as Buffer), raw: (mail as Buffer).toString('latin1') }
}

test('without an option it logs in as foo and sends the test mail to bar, with display names, a long subject and the time', async () => {
  const begin = Date.now()
  const { code, stdout, stderr } = await send()
  assert.equal(code, 0, stderr)
  const [mail] = await arrived(BAR)
  const { from, to, subject, text, messageId } = readMail(mail as Buffer)
  assert.deepEqual(from, [{ name: 'ふうー', address: FOO }])
  assert.deepEqual(to, [{ name: 'バー', address: BAR }])
  assert.ok((mail?.toString().match(/=\?UTF-8\?/gi) ?? []).length > 5)
  assert.match(subject, /^テストメール.*とても長い件名です$/)
  const [time = ''] = /\d{4}-\d\d-\d\dT[\d:.]+Z/.exec(text ?? '') ?? []
  assert.ok(Date.parse(time) >= begin && Date.parse(time) <= Date.now(), text ?? '')
  const queueId = /queued as (\w+)/.exec(stdout)?.[1]
  const lines = [`Reply: +250 .*queued as ${queueId}`, `Queue id: +${queueId}`, `Message-ID: +${messageId}`]
  assert.match(stdout, new RegExp(`^${lines.join('\n')}\n$`))
  assert.match(mailLog(), new RegExp(`${queueId}: .*sasl_username=${FOO}`))
})

test('a composed mail has every part that the options name', async () => {
  const name = '請求書 "7月"; 100%.pdf'
  const bytes = [0, 255, 13, 10, 46, 13, 10, 128]
  writeFileSync(project.path(name), Buffer.from(bytes))
  writeFileSync(project.path('ロゴ.png'), 'png')
  writeFileSync(project.path('mail.html'), '<p>日本 <img src="cid:logo@x"></p>')
  writeFileSync(project.path('invite.ics'), 'BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:会議\r\nEND:VCALENDAR\r\n')
  const mail = await sent(
    BAR,
    ...['--from', '"山田, 太郎" <yamada@example.jp>', '--to', `バー <${BAR}>, "x, y" <${CATCHALL}>`],
    ...['--cc', `A <${BAZ}>`, '--cc', 'b@例え.jp', '--reply-to', 'reply@example.jp', '--subject', '件名'],
    ...['--text', '本文\n.\n..two\n', '--html', `@${project.path('mail.html')}`, '--attach', project.path(name)],
    ...['--inline', `logo@x=${project.path('ロゴ.png')}`, '--calendar', project.path('invite.ics')],
    ...['--header', 'X-MyApp-ID: 値 1', '--header', 'x-two:2', '--message-id', 'one@example.jp'],
    ...['--in-reply-to', '<zero@example.jp>', '--date', 'Tue, 01 Jul 2025 09:00:00 +0900'],
  )
  const people = (list: { name: string; address: string }[]) => list.map((each) => `${each.name}|${each.address}`)
  assert.deepEqual(people(mail.from), ['山田, 太郎|yamada@example.jp'])
  assert.deepEqual(people(mail.to), [`バー|${BAR}`, `x, y|${CATCHALL}`])
  assert.deepEqual(people(mail.cc), [`A|${BAZ}`, '|b@xn--r8jz45g.jp'])
  assert.deepEqual(people(mail.replyTo), ['|reply@example.jp'])
  assert.deepEqual([mail.subject, mail.messageId], ['件名', '<one@example.jp>'])
  assert.equal(mail.text?.replaceAll('\r\n', '\n').trimEnd(), '本文\n.\n..two')
  assert.match(mail.html ?? '', /日本/)
  for (const line of [
    /^In-Reply-To: <zero@example\.jp>\r$/m,
    /^References: <zero@example\.jp>\r$/m,
    /^Date: Tue, 01 Jul 2025 09:00:00 \+0900\r$/m,
    /^X-MyApp-ID: =\?UTF-8\?.*\r\nx-two: 2\r$/m,
    /^Content-Type: text\/calendar; charset=utf-8; method=REQUEST\r$/m,
  ]) {
    assert.match(mail.raw, line)
  }
  const file = mail.attachments.find((each) => each.name === name)
  assert.deepEqual([file?.type, [...(file?.bytes ?? [])]], ['application/pdf', bytes])
  const logo = mail.attachments.find((each) => each.name === 'ロゴ.png')
  assert.deepEqual([logo?.contentId, logo?.inline], ['logo@x', true])
  await arrived(BAZ)
  await arrived(CATCHALL, 2)
})

test('Bcc recipients are reached and shown to nobody; the envelope may be another, the null sender included', async () => {
  const mail = await sent(BAR, '--to', BAR, '--bcc', `"secret" <${BAZ}>`)
  const [copy] = await arrived(BAZ)
  for (const raw of [mail.raw, `${copy}`]) assert.ok(!/^bcc|secret/im.test(raw), raw)
  assert.match(`${copy}`, new RegExp(`^To: ${BAR}\r$`, 'm'))
  const own = await sent(BAZ, '--envelope-from', '', '--envelope-to', BAZ, '--from', 'a@b.example', '--to', BAR)
  assert.match(own.raw, /^Return-Path: <>\r$/m)
  assert.equal(own.to[0]?.address, BAR)
})

test('any address that a developer may type reaches the catchall; a text may come from stdin', async () => {
  const odd = 'user@[1.2.3.4], a..b.@docomo.ne.jp, "quoted, local"@example.com, n@例え.jp, 名前@example.jp'
  const { code, stderr } = await sendHere({ input: 'von der Pipe: ü\n' }, '--text', '-', '--to', odd, '--to', 'root')
  assert.equal(code, 0, stderr)
  const [mail] = await arrived(CATCHALL, 6)
  assert.equal(readMail(mail as Buffer).text?.trimEnd(), 'von der Pipe: ü')
})

test('a delivery status notification comes where it was asked for', async () => {
  const mail = await sent(FOO, '--to', BAR, '--dsn', 'success,failure')
  assert.match(mail.raw, /^Subject: Successful Mail Delivery Report\r$/m)
  await arrived(BAR)
})

test('STARTTLS and implicit TLS work; a port that is for TLS says so by itself', async () => {
  const { smtp, submission, submissions } = project.ports
  const own = (port: number, tls: string) => [['--port', `${port}`], `--port ${port}: .* so --tls ${tls}\\.`] as const
  for (const [args, words] of [
    [['--tls', 'starttls'], ''],
    [['--tls', 'implicit'], ''],
    own(submission, 'starttls'),
    own(submissions, 'implicit'),
  ] as const) {
    const { code, stderr } = await send(...args)
    assert.match(stderr, new RegExp(`^${words}\n?$`))
    assert.equal(code, 0)
    assert.match(String((await arrived(BAR))[0]), /with ESMTPSA/)
  }
  for (const [args, words] of [
    [['--tls', 'starttls', '--port', `${smtp}`], /does not offer STARTTLS/],
    [['--host', '127.0.0.9', '--port', '465'], /^--port 465: .*implicit\.\nSMTP on 127\.0\.0\.9:465: .*ECONNREFUSED/],
    [['--host', '127.0.0.9', '--port', '587'], /^--port 587: .*starttls\.\nSMTP on 127\.0\.0\.9:587: .*ECONNREFUSED/],
    [['--host', '127.0.0.9', '--port', '587', '--tls', 'none'], /^SMTP on/],
  ] as const) {
    assert.match((await send(...args)).stderr, words)
  }
})

test('settings come from the option, else the environment, else .env, else the default', async () => {
  const file = project.path('.env')
  writeFileSync(file, `SMTP_USER=${BAR}\nSMTP_PASSWORD=wrong\nMAIL_TIMEOUT=nonsense\n`)
  const results: Result[] = []
  for (const [env, ...args] of [
    [{}],
    [{}, '--timeout', '20'],
    [{ SMTP_PASSWORD: 'foo' }, '--timeout', '20'],
    [{}, '--timeout', '20', '--user', FOO, '--password-stdin'],
  ] as [Record<string, string>, ...string[]][]) {
    results.push(await runIn(project, { env, input: 'foo\nnot this line\n' }, 'send_email', ...args))
  }
  rmSync(file)
  const codes = results.map(({ code }) => code)
  assert.deepEqual(codes, [2, 5, 0, 0], results.map(({ stderr }) => stderr).join())
  assert.match(results[0]?.stderr ?? '', /^MAIL_TIMEOUT=nonsense: a number of seconds/)
  const mails = await arrived(BAR, 2)
  const senders = mails.map((mail) => /^From: .*?<?([\w.@-]+)>?\r$/m.exec(`${mail}`)?.[1])
  assert.deepEqual(senders.sort(), [BAR, FOO])
})

test('a .env that cannot be read, or has a name that is nearly one of ours, is told about once', async () => {
  const file = project.path('.env')
  const misspelt = /^\.env: SMTPPORT .*SMTP_PORT\?\n\.env: MAIL_HOTS .*MAIL_HOST\?\n$/
  for (const [contents, code, words] of [
    [Buffer.from('SMTP_USER=x\n', 'utf16le'), 2, /^\.env: it is UTF-16.*\n$/],
    [Buffer.from('SMTPPORT=1\nMAIL_HOTS=x\n'), 0, misspelt],
  ] as const) {
    writeFileSync(file, contents)
    const result = await project.run('send_email', '--to', 'x@y.example')
    rmSync(file)
    assert.equal(result.code, code, result.stderr)
    assert.match(result.stderr, words)
  }
  await arrived(CATCHALL)
})

test('a user is known by address or by local part; a refused one is named with what to type next', async () => {
  const mail = await sent(FOO, '--user', 'Bar', '--to', FOO)
  assert.match(mail.raw, new RegExp(`^From: ${BAR}\r$`, 'm'))
  const { code, stderr } = await send('--user', 'bar', '--password', 'wrong')
  assert.equal(code, 5)
  assert.match(stderr, new RegExp(`login as ${BAR} refused: 535 5\\.7\\.8 .*npm run add-account -- --list`))
})

test('it runs from any folder by npm --prefix', async () => {
  const options = { cwd: tmpdir(), env: { ...process.env, ...project.env }, encoding: 'utf8' } as const
  const args = ['--prefix', project.dir, 'run', '-s', 'send-email', '--', '--to', 'x@y.example']
  assert.match(execFileSync('npm', args, options), /^Reply: +250 /)
  await arrived(CATCHALL)
})

test('--eml arrives byte for byte: 8-bit, lone dots wherever they are cut, trailing spaces and lines', async () => {
  const head = [
    ...['From: =?utf-8?B?44G144GG?= <sender@example.jp>', 'To: "Doe, J." <u1@example.jp>, group: u2@example.jp;'],
    ...['Cc:', ' u3@example.jp', 'Subject: 8bit ', ' folded', 'X-Bcc: stays', 'Message-ID: <eml@example.jp>'],
    ...['Date: Tue, 1 Jul 2025 09:00:00 +0900', 'MIME-Version: 1.0', '', 'Bcc: this is text', '.', '..', '.x', ' '],
  ].join('\r\n')
  const bytes = Buffer.from(
    Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => ![0, 10, 13].includes(byte)),
  )
  // Longer than what leaves at a time, with every line end and dot at some border.
  const dots = '.\r\n..\r\n.x\r\n\r\n'.repeat(20_000)
  const eml = `${head}\r\ntrailing space \r\n${bytes.toString('latin1')}\r\n${dots}\r\n\r\n.\r\nend without line end`
  const file = project.path('exact.eml')
  writeFileSync(file, eml, 'latin1')
  const { code, stdout, stderr } = await send('--eml', file)
  assert.equal(code, 0, stderr)
  assert.match(stdout, /Message-ID: +<eml@example\.jp>/)
  for (const mail of await arrived(CATCHALL, 3)) {
    const text = mail.toString('latin1')
    assert.ok(text.endsWith(`\r\n${eml}\r\n`))
    assert.match(text, /^Return-Path: <sender@example\.jp>\r$/m)
  }
  const mail = await sent(BAR, '--eml', file, '--to', BAR, '--from', 'x@y.example')
  assert.match(mail.raw, /^Return-Path: <x@y\.example>\r$/m)
})

test('--eml reaches those that its Bcc field names, without it; an mbox line is told about', async () => {
  const input = `From x Tue Jul  1 00:00:00 2025\nSubject: mbox\nTo: ${BAR}\nBcc: secret@x.example\n\nBcc: ünï\n`
  const { code, stderr } = await sendHere({ input }, '--eml', '-')
  assert.equal(code, 0)
  assert.match(stderr, /^--eml - begins with an mbox line \("From \.\.\."\)[^\n]*\n$/)
  for (const [mail] of [await arrived(BAR), await arrived(CATCHALL)]) {
    assert.match(String(mail), /^Subject: mbox\r\nTo: .*\r\n\r\nBcc: ünï\r$/m)
  }
})

test('--count numbers subject, text and addresses; every mail arrives once, and a terminal sees the count', async () => {
  const addresses = ['--to', 'user{n}@example.com', '--from', 'Sender {n} <s{n}@x.example>']
  const texts = ['--subject', '件名 {n}', '--text', 'Nummer {n} {x}']
  const many = ['--count', '40', '--concurrency', '4']
  const { code, stdout, stderr } = await sendHere({ isTTY: true }, ...many, ...addresses, ...texts)
  assert.equal(code, 0, stderr)
  assert.match(stderr, /\r\d+ of 40/)
  assert.match(stdout, /^40 accepted, 0 refused of 40 messages in [\d.]+ s: [\d.]+ messages per second\n$/)
  const mails = await Promise.all((await arrived(CATCHALL, 40)).map(readMail))
  const line = ({ subject, text, to, from }: Mail) =>
    [subject, text?.trim(), to[0]?.address, from[0]?.address, from[0]?.name].join()
  const expected = (n: number) => `件名 ${n},Nummer ${n} {x},user${n}@example.com,s${n}@x.example,Sender ${n}`
  assert.deepEqual(mails.map(line).sort(), Array.from({ length: 40 }, (_, index) => expected(index + 1)).sort())
  assert.equal(new Set(mails.map(({ messageId }) => messageId)).size, 40)
  assert.match(mailLog(), / disconnect from .* mail=\d\d /)
  assert.equal((await sent(BAR, '--subject', '{n}')).subject, '{n}')
})

test('the phases of the real server are told apart; --json is one line of the documented shape and nothing else', async () => {
  const isResult = new Ajv().compile(
    JSON.parse(readFileSync(project.path('scripts', 'send_email.schema.json'), 'utf8')),
  )
  const nobody = 'nobody-here@development-virtual.example.com'
  for (const [args, code, status, words] of [
    [['-v'], 0, 'accepted', /^> AUTH PLAIN \*{4}\n/m],
    [['--dry-run'], 0, 'dry-run', /^$/],
    [['--password', 'wrong'], 5, 'failed', /login as foo@.* refused: 535 5\.7\.8/],
    [['--to', nobody], 7, 'refused', /550 5\.1\.1 /],
    [['--to', nobody, '--to', BAR], 8, 'partial', /1 of 2 recipients were refused/],
    [['--tls', 'implicit', '--port', String(project.ports.smtp)], 4, 'failed', /TLS \(implicit\) failed/],
    [['--port', '1'], 3, 'failed', /ECONNREFUSED/],
  ] as const) {
    const { code: exitCode, stdout, stderr } = await send('--json', ...args)
    assert.equal(exitCode, code, `${args}: ${stderr}`)
    assert.match(stderr, words)
    const result = JSON.parse(stdout)
    assert.ok(isResult(result) as boolean, `${stdout}: ${JSON.stringify(isResult.errors)}`)
    assert.deepEqual([result.status, result.exitCode], [status, code])
    assert.equal(result.message === null, status !== 'dry-run')
    assert.match(result.messageId, /^<.*@development-virtual\.example\.com>$/)
  }
  await arrived(BAR, 2)
})

test('--dry-run prints envelope and message; no server is needed and nothing is sent', async () => {
  const args = '--dry-run --host no.such.invalid --to a@例え.jp --bcc b@x --text x'
  const { code, stdout, stderr } = await send(...args.split(' '))
  assert.deepEqual([code, stderr], [0, ''])
  assert.match(stdout, /^MAIL FROM:<foo@.*>\nRCPT TO:<a@xn--r8jz45g\.jp>\nRCPT TO:<b@x>\n\n[\s\S]*\r\n\r\nx\r\n$/)
  assert.ok(!/^Bcc/im.test(stdout))
})

test('wrong usage has exit code 2 and one line that names the option; --help has the exit codes', async () => {
  const WRONG: [string[], RegExp][] = [
    [['--sbject', 'x'], /--sbject.*--subject/],
    [['--to', 'a b@c'], /--to "a b@c"/],
    [['--to', 'a@b> RCPT TO:<c@d'], /--to /],
    [
      ['--to', 'Doe, J <a@b.example>'],
      /--to "Doe, J <a@b\.example>": not an address\. .*a name with a comma goes in double quotes/,
    ],
    [['--to', ''], /--to no address/],
    [['--envelope-from', 'a@b SIZE=1'], /--envelope-from "a@b SIZE=1"/],
    [['--envelope-from', 'a@b, c@d'], /--envelope-from: an envelope has one sender/],
    [['--header', 'no colon'], /--header "no colon"/],
    [['--header', 'Bcc: a@b'], /--header Bcc: .*--bcc/],
    [['--header', 'Resent-Bcc: a@b'], /--header Resent-Bcc: .*--bcc/],
    [['--message-id', 'a b@c'], /--message-id "a b@c"/],
    [['--date', 'tomorrow'], /--date "tomorrow"/],
    [['--attach', 'no such file.pdf'], /--attach "no such file\.pdf": there is no such file/],
    [['--inline', 'logo'], /--inline "logo"/],
    [['--text', '@none.txt'], /--text "none\.txt": there is no such file/],
    [['--eml', '-', '--subject', 'x'], /--subject: --eml sends the message as it is/],
    [['--eml', '-'], /--eml -: no recipient/],
    [['--text', '-', '--html', '-'], /--text and --html: only one option can read stdin/],
    [['--password', 'x', '--password-stdin'], /--password and --password-stdin/],
    [['--dsn', 'never,success'], /--dsn "never,success"/],
    [['--concurrency', '1e3'], /--concurrency "1e3"/],
    [['--tls', 'ssl'], /--tls=ssl: choose one of none, starttls, implicit/],
    [['--timeout', '-1'], /--timeout=-XYZ'\. See --help\.\n$/],
    [['--timeout', '0'], /--timeout=0: a number of seconds/],
    [['--user', 'stranger'], /No password is known for "stranger"/],
  ]
  // What goes into a header, a command or the name of a file may bring no line of its own.
  for (const name of 'from subject date envelope-to attach header eml user'.split(' ')) {
    WRONG.push([[`--${name}=a@b\rBcc: victim@example.com`], new RegExp(`^--${name} .*line break`)])
  }
  for (const [args, words] of WRONG) {
    const { code, stdout, stderr } = await send(...args)
    assert.equal(code, 2, `${args}: ${stderr}`)
    assert.match(stderr, words)
    assert.match(stderr, /^[^\n]+\n$/)
    assert.equal(stdout, '')
  }
  assert.match((await send('--help')).stdout, /^Usage: [\s\S]*Exit codes:[\s\S]*\n {4}7 {2}all recipients refused\n/)
})
