/** send_email against the real server: what arrives is what was asked for. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { Ajv } from 'ajv'
import { BAR, CATCHALL, FOO, masterLogin } from '../scripts/lib/accounts/accounts.ts'
import { type Mail, readMail } from '../scripts/lib/mail/mail.ts'
import { Pop3Session } from '../scripts/lib/mail/pop3.ts'
import { main } from '../scripts/send_email.ts'
import { Project, startedProject, until } from './harness.ts'
import { type HereOptions, runHere } from './here.ts'
import { SmtpServer } from './smtp_server.ts'

const BAZ = 'baz@development-virtual.example.com'

let project: Project
before(async () => {
  project = await startedProject()
  Object.assign(process.env, project.env)
})
after(() => project.remove())
beforeEach(async () => {
  for (const account of [FOO, BAR, BAZ, CATCHALL]) await take(account)
})

const sendHere = (options: HereOptions, ...args: string[]) => runHere(main, options, ...args)
const send = (...args: string[]) => sendHere({}, ...args)

/** Reads all mails of an account and deletes them. */
async function take(account: string): Promise<Buffer[]> {
  const server = { host: '127.0.0.1', port: project.ports.pop3, tls: 'none', timeout: 20_000 } as const
  const session = await Pop3Session.open(server, masterLogin(account))
  const mails: Buffer[] = []
  for (const message of await session.list()) {
    mails.push(await session.retrieve(message))
    await session.delete(message)
  }
  await session.quit()
  return mails
}

/** Waits for `count` mails of an account. */
async function arrived(account: string, count = 1): Promise<Buffer[]> {
  const mails: Buffer[] = []
  await until(
    `${count} mails for ${account}`,
    async () => {
      mails.push(...(await take(account)))
      return mails.length >= count
    },
    60_000,
  )
  assert.equal(mails.length, count)
  return mails
}

/** Sends, expects success, and gives the one mail that arrived. */
async function sent(account: string, ...args: string[]): Promise<Mail & { raw: string }> {
  const { code, stderr } = await send(...args)
  assert.equal(code, 0, stderr)
  const [mail] = await arrived(account)
  return { ...(await readMail(mail as Buffer)), raw: (mail as Buffer).toString('latin1') }
}

describe('without an option', () => {
  test('logs in as foo and sends the test mail to bar, in UTF-8, with display names, a long subject and the time', async () => {
    const begin = Date.now()
    const { code, stdout, stderr } = await send()
    assert.equal(code, 0, stderr)
    const [mail] = await arrived(BAR)
    const { from, to, subject, text, messageId } = await readMail(mail as Buffer)
    assert.deepEqual(from, [{ name: 'ふうー', address: FOO }])
    assert.deepEqual(to, [{ name: 'バー', address: BAR }])
    assert.ok((mail?.toString().match(/=\?UTF-8\?/gi) ?? []).length > 5)
    assert.match(subject, /^テストメール.*とても長い件名です$/)
    const [time = ''] = /\d{4}-\d\d-\d\dT[\d:.]+Z/.exec(text ?? '') ?? []
    assert.ok(Date.parse(time) >= begin && Date.parse(time) <= Date.now(), text ?? '')
    const queueId = /queued as (\w+)/.exec(stdout)?.[1]
    assert.match(
      stdout,
      new RegExp(`^Reply: +250 .*queued as ${queueId}\nQueue id: +${queueId}\nMessage-ID: +${messageId}\n$`),
    )
    assert.match(
      readFileSync(project.path('state', 'log', 'mail.log'), 'utf8'),
      new RegExp(`${queueId}: .*sasl_username=${FOO}`),
    )
  })
})

describe('a composed mail', () => {
  test('has every part that the options name', async () => {
    const name = '請求書 "7月"; 100%.pdf'
    writeFileSync(project.path(name), Buffer.from([0, 255, 13, 10, 46, 13, 10, 128]))
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
    assert.deepEqual(mail.from, [{ name: '山田, 太郎', address: 'yamada@example.jp' }])
    assert.deepEqual(mail.to, [
      { name: 'バー', address: BAR },
      { name: 'x, y', address: CATCHALL },
    ])
    assert.deepEqual(mail.cc, [
      { name: 'A', address: BAZ },
      { name: '', address: 'b@xn--r8jz45g.jp' },
    ])
    assert.equal(mail.replyTo[0]?.address, 'reply@example.jp')
    assert.equal(mail.subject, '件名')
    assert.equal(mail.text?.replaceAll('\r\n', '\n').trimEnd(), '本文\n.\n..two')
    assert.match(mail.html ?? '', /日本/)
    assert.equal(mail.messageId, '<one@example.jp>')
    for (const name of ['In-Reply-To', 'References'])
      assert.match(mail.raw, new RegExp(`^${name}: <zero@example\\.jp>\r$`, 'm'))
    assert.match(mail.raw, /^Date: Tue, 01 Jul 2025 09:00:00 \+0900\r$/m)
    assert.match(mail.raw, /^X-MyApp-ID: =\?UTF-8\?.*\r\nx-two: 2\r$/m)
    assert.match(mail.raw, /^Content-Type: text\/calendar; charset=utf-8; method=REQUEST\r$/m)
    const file = mail.attachments.find((each) => each.name === name)
    assert.equal(file?.type, 'application/pdf')
    assert.deepEqual([...(file?.bytes ?? [])], [0, 255, 13, 10, 46, 13, 10, 128])
    const logo = mail.attachments.find((each) => each.name === 'ロゴ.png')
    assert.deepEqual([logo?.contentId, logo?.inline], ['logo@x', true])
    await arrived(BAZ)
    await arrived(CATCHALL, 2)
  })

  test('reaches its Bcc recipients and shows them to nobody', async () => {
    const mail = await sent(BAR, '--to', BAR, '--bcc', `"secret" <${BAZ}>`)
    const [copy] = await arrived(BAZ)
    for (const raw of [mail.raw, copy?.toString('latin1') ?? '']) assert.ok(!/^bcc|secret/im.test(raw), raw)
    assert.match(copy?.toString() ?? '', new RegExp(`^To: ${BAR}\r$`, 'm'))
  })

  test('takes texts from stdin and from files', async () => {
    const { code } = await sendHere({ input: 'von der Pipe: ü\n' }, '--text', '-')
    assert.equal(code, 0)
    const [mail] = await arrived(BAR)
    assert.equal((await readMail(mail as Buffer)).text?.trimEnd(), 'von der Pipe: ü')
  })

  test('may have an envelope of its own, the null sender included', async () => {
    const mail = await sent(BAZ, '--envelope-from', '', '--envelope-to', BAZ, '--from', 'a@b.example', '--to', BAR)
    assert.match(mail.raw, /^Return-Path: <>\r$/m)
    assert.equal(mail.to[0]?.address, BAR)
    assert.deepEqual(await take(BAR), [])
  })

  test('reaches the catchall for any address that a developer may type', async () => {
    const usual = ['root', 'user@[1.2.3.4]', 'a..b.@docomo.ne.jp']
    const odd = [...usual, '"quoted, local"@example.com', 'n@例え.jp', '名前@example.jp']
    const { code, stderr } = await send('--to', odd.join(', '))
    assert.equal(code, 0, stderr)
    await arrived(CATCHALL, odd.length)
  })

  test('asks for a delivery status notification', async () => {
    const mail = await sent(FOO, '--to', BAR, '--dsn', 'success,failure')
    assert.match(mail.raw, /^Subject: Successful Mail Delivery Report\r$/m)
    await arrived(BAR)
  })

  test('goes through STARTTLS and implicit TLS; a port that is for TLS says so by itself', async () => {
    const { smtp, submission, submissions } = project.ports
    for (const [args, words] of [
      [['--tls', 'starttls'], /^$/],
      [['--tls', 'starttls', '--port', `${smtp}`], /does not offer STARTTLS/],
      [['--tls', 'implicit'], /^$/],
      [['--port', `${submission}`], /^--port \d+: that is the port for TLS, so --tls starttls\.\n$/],
      [['--port', `${submissions}`], /^--port \d+: that is the port for TLS, so --tls implicit\.\n$/],
    ] as const) {
      const { code, stderr } = await send(...args)
      assert.match(stderr, words)
      if (words.test('does not offer STARTTLS')) continue
      assert.equal(code, 0)
      assert.match(String((await arrived(BAR))[0]), /with ESMTPSA/)
    }
    for (const [port, tls] of [
      ['465', 'implicit'],
      ['587', 'starttls'],
    ]) {
      const { stderr } = await send('--host', '127.0.0.9', '--port', `${port}`)
      assert.match(
        stderr,
        new RegExp(`^--port ${port}: .*--tls ${tls}\\.\\nSMTP on 127\\.0\\.0\\.9:${port}: .*ECONNREFUSED`),
      )
    }
    assert.match((await send('--port', '587', '--tls', 'none', '--host', '127.0.0.9')).stderr, /^SMTP on/)
  })
})

describe('server and login', () => {
  test('come from the option, else the environment, else .env, else the default', async () => {
    const file = project.path('.env')
    writeFileSync(file, `SMTP_USER=${BAR}\nSMTP_PASSWORD=wrong\nMAIL_TIMEOUT=nonsense\n`)
    const run = (env: Record<string, string>, ...args: string[]) => project.runWith({ env }, 'send_email', ...args)
    try {
      const timeout = ['--timeout', '20']
      assert.match((await run({})).stderr, /^MAIL_TIMEOUT=nonsense: a number of seconds/)
      assert.equal((await run({}, ...timeout)).code, 5)
      const env = { SMTP_PASSWORD: 'foo' }
      assert.equal((await run(env, ...timeout)).code, 0)
      const [mail] = await arrived(BAR)
      assert.match(mail?.toString() ?? '', new RegExp(`^From: ${BAR}\r$`, 'm'))
      assert.equal((await run(env, ...timeout, '--password', 'no')).code, 5)
      const input = 'foo\nnot this line\n'
      const piped = await project.runWith({ input }, 'send_email', ...timeout, '--user', FOO, '--password-stdin')
      assert.equal(piped.code, 0, piped.stderr)
    } finally {
      rmSync(file)
    }
    await arrived(BAR)
  })

  test('a .env that cannot be read, or has a name that is nearly one of ours, is told about once', async () => {
    const file = project.path('.env')
    for (const [contents, code, words] of [
      [Buffer.from('SMTP_USER=x\n', 'utf16le'), 2, /^\.env: it is UTF-16/],
      [undefined, 2, /^\.env: it is a folder/],
      [
        Buffer.from('SMTPPORT=1\nMAIL_HOTS=x\n'),
        0,
        /^\.env: SMTPPORT .*SMTP_PORT\?\n\.env: MAIL_HOTS .*MAIL_HOST\?\n$/,
      ],
    ] as const) {
      if (contents) writeFileSync(file, contents)
      else mkdirSync(file)
      try {
        const result = await project.run('send_email', '--to', 'x@y.example')
        assert.equal(result.code, code, result.stderr)
        assert.match(result.stderr, words)
        assert.equal(result.stderr.split('\n').length, code === 0 ? 3 : 2, result.stderr)
      } finally {
        rmSync(file, { recursive: true })
      }
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

  test('the script runs from any folder and by npm --prefix', async () => {
    const env = { ...process.env, ...project.env }
    const cwd = tmpdir()
    const run = (program: string, ...args: string[]) => execFileSync(program, args, { cwd, env, encoding: 'utf8' })
    const tsx = project.path('node_modules', '.bin', 'tsx')
    assert.match(run(tsx, project.path('scripts', 'send_email.ts'), '--to', 'x@y.example'), /^Reply: +250 /)
    assert.match(
      run('npm', '--prefix', project.dir, 'run', '-s', 'send-email', '--', '--to', 'x@y.example'),
      /^Reply: +250 /,
    )
    await arrived(CATCHALL, 2)
  })
})

describe('--eml', () => {
  const EML = Buffer.concat([
    Buffer.from(
      'From: =?utf-8?B?44G144GG?= <sender@example.jp>\r\nTo: "Doe, J." <u1@example.jp>, group: u2@example.jp;\r\n',
    ),
    Buffer.from(
      'Cc:\r\n u3@example.jp\r\nSubject: 8bit \r\n folded\r\nX-Bcc: stays\r\nMessage-ID: <eml@example.jp>\r\n',
    ),
    Buffer.from('Date: Tue, 1 Jul 2025 09:00:00 +0900\r\nMIME-Version: 1.0\r\n\r\n'),
    Buffer.from('Bcc: this is text\r\n.\r\n..\r\n.x\r\n \r\ntrailing space \r\n'),
    Buffer.from(Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => ![0, 10, 13].includes(byte))),
    Buffer.from('\r\n\r\n\r\n.\r\nend without line end'),
  ])

  test('arrives byte for byte: 8-bit, lone dots, trailing spaces and lines', async () => {
    writeFileSync(project.path('exact.eml'), EML)
    const { code, stdout, stderr } = await send('--eml', project.path('exact.eml'))
    assert.equal(code, 0, stderr)
    assert.match(stdout, /Message-ID: +<eml@example\.jp>/)
    for (const mail of await arrived(CATCHALL, 3)) {
      const at = mail.indexOf('From: =?utf-8')
      assert.deepEqual(mail.subarray(at).toString('latin1'), `${EML.toString('latin1')}\r\n`)
      assert.match(mail.toString('latin1'), /^Return-Path: <sender@example\.jp>\r$/m)
    }
  })

  test('leaves only the Bcc fields out on the wire, and sends to those that they name', async () => {
    const server = await SmtpServer.start()
    const header =
      'To: a@x.example\nbcc : b@x.example,\n\tc@x.example\nBCC: d@x.example\nResent-Bcc: e@x.example\rbcc: g@x.example\rFrom: f@x.example'
    // SMTP has no lone CR, and nodemailer makes a line end of it: a Bcc field behind one would be a field.
    const body = '\n\nBcc: text\n.\n\r.\r \r\r\nünï\n'
    const input = Buffer.from(`Bcc: first@x.example\n${header}${body}`)
    const { code, stderr } = await sendHere({ input }, '--eml', '-', ...server.options)
    await server.stop()
    assert.equal(code, 0, stderr)
    const expected = `To: a@x.example\nFrom: f@x.example${body}`
    assert.equal(server.received[0]?.message.toString(), expected.replace(/\r\n|\r|\n/g, '\r\n'))
    assert.equal(server.received[0]?.from, 'f@x.example')
    assert.deepEqual(
      server.received[0]?.to,
      ['a', 'first', 'b', 'c', 'd', 'g'].map((name) => `${name}@x.example`),
    )
    assert.ok(server.commands.some((line) => /^MAIL FROM:.* BODY=8BITMIME/.test(line)))
  })

  test('has recipients and sender from the options where they are given', async () => {
    writeFileSync(project.path('exact.eml'), EML)
    const mail = await sent(BAR, '--eml', project.path('exact.eml'), '--to', BAR, '--from', 'x@y.example')
    assert.match(mail.raw, /^Return-Path: <x@y\.example>\r$/m)
    assert.deepEqual(await take(CATCHALL), [])
  })

  test('that begins with an mbox line is told about, and arrives without its Bcc field', async () => {
    const input = 'From x Tue Jul  1 00:00:00 2025\nSubject: mbox\nBcc: secret@x.example\n\ntext\n'
    const { code, stderr } = await sendHere({ input }, '--eml', '-', '--to', BAR)
    assert.equal(code, 0)
    assert.match(stderr, /^--eml - begins with an mbox line \("From \.\.\."\)[^\n]*\n$/)
    const [mail] = await arrived(BAR)
    assert.match(String(mail), /^Subject: mbox\r$/m)
    assert.doesNotMatch(String(mail), /secret/)
  })
})

describe('--count', () => {
  test('numbers subject, text and addresses, and every mail arrives once', async () => {
    const { code, stdout, stderr } = await send(
      ...[
        '--count',
        '120',
        '--concurrency',
        '4',
        '--to',
        'user{n}@example.com',
        '--from',
        'Sender {n} <s{n}@x.example>',
      ],
      ...['--subject', '件名 {n}', '--text', 'Nummer {n} {x}'],
    )
    assert.equal(code, 0, stderr)
    assert.match(stdout, /^120 accepted, 0 refused of 120 messages in [\d.]+ s: [\d.]+ messages per second\n$/)
    const mails = await Promise.all((await arrived(CATCHALL, 120)).map(readMail))
    const line = (mail: Mail) =>
      [mail.subject, mail.text?.trim(), mail.to[0]?.address, mail.from[0]?.address, mail.from[0]?.name].join()
    const expected = (n: number) => `件名 ${n},Nummer ${n} {x},user${n}@example.com,s${n}@x.example,Sender ${n}`
    assert.deepEqual(mails.map(line).sort(), Array.from({ length: 120 }, (_, index) => expected(index + 1)).sort())
    assert.equal(new Set(mails.map(({ messageId }) => messageId)).size, 120)
    const log = readFileSync(project.path('state', 'log', 'mail.log'), 'utf8')
    assert.ok(log.split('\n').some((entry) => / disconnect from .* mail=30 /.test(entry) || / mail=\d\d /.test(entry)))
  })

  test('counts on a terminal; without --count {n} is left alone', async () => {
    assert.equal((await sent(BAR, '--subject', '{n}')).subject, '{n}')
    const { stdout, stderr } = await sendHere({ isTTY: true }, '--count', '300', '--to', 'x@example.com')
    assert.match(stderr, /\r\d+ of 300/)
    assert.match(stdout, /^300 accepted, 0 refused of 300 messages/)
    await arrived(CATCHALL, 300)
  })
})

describe('the result', () => {
  test('tells the phases of the real server apart; --json is one line of the documented shape and nothing else', async () => {
    const schema = JSON.parse(readFileSync(project.path('scripts', 'send_email.schema.json'), 'utf8'))
    const isResult = new Ajv().compile(schema)
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
  })

  test('of --dry-run is envelope and message; no server is needed and nothing is sent', async () => {
    const args = '--dry-run --host no.such.invalid --to a@例え.jp --bcc b@x --text x'
    const { code, stdout, stderr } = await send(...args.split(' '))
    assert.equal(code, 0, stderr)
    assert.match(stdout, /^MAIL FROM:<foo@.*>\nRCPT TO:<a@xn--r8jz45g\.jp>\nRCPT TO:<b@x>\n\n[\s\S]*\r\n\r\nx\r\n$/)
    assert.ok(!/^Bcc/im.test(stdout))
    assert.equal(stderr, '')
  })
})

describe('wrong usage', () => {
  test('a line break in any option but the texts is an error that names it', async () => {
    /** The options that go into a header, a command or the name of a file. */
    const names = 'from to bcc subject message-id in-reply-to date envelope-from envelope-to attach eml user dsn'.split(
      ' ',
    )
    const values = { ...Object.fromEntries(names.map((name) => [name, 'a@b'])), header: 'X-A: b', inline: 'a=b' }
    const check = async ([name, value]: [string, string], index: number) => {
      const evil = `${value}${['\r\n', '\n', '\r'][index % 3]}Bcc: victim@example.com`
      const { code, stdout, stderr } = await send(`--${name}=${evil}`)
      assert.equal(code, 2, `${name}: ${stderr}`)
      assert.match(stderr, new RegExp(`^--${name} [^\\n]*line break[^\\n]*\\n$`))
      assert.equal(stdout, '')
    }
    await Promise.all(Object.entries(values).map(check))
    assert.deepEqual(await take(BAR), [])
  })

  const WRONG: [string[], RegExp][] = [
    [['--sbject', 'x'], /--sbject/],
    [['extra'], /extra/],
    [['--to', 'a b@c'], /--to "a b@c"/],
    [['--to', 'a@b> RCPT TO:<c@d'], /--to /],
    [['--to', '株式会社A, 山田 <y@x>'], /--to "株式会社A".*double quotes/],
    [['--to', ''], /--to no address/],
    [['--envelope-from', 'a@b SIZE=1'], /--envelope-from "a@b SIZE=1"/],
    [['--envelope-to', '<>'], /--envelope-to/],
    [['--header', 'no colon'], /--header "no colon"/],
    [['--header', 'Bcc: a@b'], /--header Bcc: .*--bcc/],
    [['--header', 'X A: b'], /--header "X A: b"/],
    [['--message-id', 'a b@c'], /--message-id "a b@c"/],
    [['--date', 'tomorrow'], /--date "tomorrow"/],
    [['--priority', 'high'], /--priority/],
    [['--header', 'Resent-Bcc: a@b'], /--header Resent-Bcc: .*--bcc/],
    [['--attach', 'no such file.pdf'], /--attach "no such file\.pdf": no such file/],
    [['--attach', '.'], /--attach "\.": a folder/],
    [['--inline', 'logo'], /--inline "logo"/],
    [['--text', '@none.txt'], /--text "none\.txt": no such file/],
    [['--eml', 'none.eml'], /--eml "none\.eml": no such file/],
    [['--eml', '-', '--subject', 'x'], /--subject: --eml sends the message as it is/],
    [['--eml', '-'], /--eml -: no recipient/],
    [['--text', '-', '--html', '-'], /--text and --html: only one option can read stdin/],
    [['--text', '-', '--password-stdin'], /--text and --password-stdin/],
    [['--password', 'x', '--password-stdin'], /--password and --password-stdin/],
    [['--dsn', 'never,success'], /--dsn "never,success"/],
    [['--count', '0'], /--count "0"/],
    [['--concurrency', '1e3'], /--concurrency "1e3"/],
    [['--tls', 'ssl'], /--tls=ssl: choose one of none, starttls, implicit/],
    [['--port', '70000'], /--port=70000/],
    [['--timeout', '-1'], /--timeout=-XYZ'\. See --help\.\n$/],
    [['--timeout', '0'], /--timeout=0: a number of seconds/],
    [['--user', 'stranger'], /No password is known for "stranger"/],
  ]

  test('has exit code 2 and one line that names the option', async () => {
    for (const [args, words] of WRONG) {
      const { code, stdout, stderr } = await send(...args)
      assert.equal(code, 2, `${args}: ${stderr}`)
      assert.match(stderr, words)
      assert.match(stderr, /^[^\n]+\n$/)
      assert.equal(stdout, '')
    }
  })

  test('like --help loads no nodemailer; what needs it says what to type where it is missing', async () => {
    const bare = await Project.create()
    try {
      unlinkSync(bare.path('node_modules'))
      mkdirSync(bare.path('node_modules'))
      for (const name of readdirSync(project.path('node_modules')).filter((entry) => entry !== 'nodemailer')) {
        symlinkSync(join(project.path('node_modules'), name), bare.path('node_modules', name))
      }
      const help = await bare.run('send_email', '--help')
      assert.equal(help.code, 0, help.stderr)
      assert.match(help.stdout, /^Usage: [\s\S]*Exit codes:[\s\S]*\n {4}7 {2}all recipients refused\n/)
      assert.equal((await bare.run('send_email', '--to', 'a b')).code, 2)
      assert.match((await bare.run('send_email')).stderr, /^The package nodemailer is not installed\. Type: npm ci\n$/)
    } finally {
      rmSync(bare.dir, { recursive: true })
    }
  })
})
