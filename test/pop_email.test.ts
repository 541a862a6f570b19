/** pop_email against the real server: usage, which mailbox, which mails, every view. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { lstatSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { Ajv } from 'ajv'
import { columnsOf } from '../scripts/lib/cli.ts'
import { POP_OPTIONS } from '../scripts/lib/mail/pop_options.ts'
import { BAR, CATCHALL, FOO, loginAt, Mailboxes, mail, ok, simple, subjects } from './mailboxes.ts'
import { listen, serve } from './pop3_server.ts'

let mailboxes: Mailboxes
before(async () => {
  mailboxes = await Mailboxes.start()
})
after(() => mailboxes.project.remove())
const pop = (...args: string[]) => mailboxes.pop(...args)

describe('usage', () => {
  test('help and mistakes load neither a mail library nor a protocol', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'coverage-'))
    try {
      for (const args of [['--help'], ['--subjekt', 'x'], ['--account', 'nobody'], ['--subject', '/(/']]) {
        await mailboxes.project.runWith({ env: { NODE_V8_COVERAGE: dir } }, 'pop_email', ...args)
      }
      const loaded = readdirSync(dir)
        .map((name) => readFileSync(join(dir, name), 'utf8'))
        .join('')
      // Not assert.match, which would print a megabyte.
      assert.ok(/pop_email\.[jt]s/.test(loaded))
      assert.equal(/node_modules\/(nodemailer|postal-mime|html-to-text|imapflow|node-pop3)\//.exec(loaded), null)
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  test('help has every option, the examples and the exit codes', async () => {
    const help = ok(await pop('--help'))
    for (const name of Object.keys(POP_OPTIONS)) assert.match(help, new RegExp(`--${name}\\b`))
    for (const word of ['Examples:', '  130  ', '   11  ', 'whole address']) assert.ok(help.includes(word), word)
  })

  test('every mistake is named, exits 2 and prints no result', async () => {
    const cases: [string[], RegExp][] = [
      [['--acount', 'x'], /--acount.*--account/],
      [['stray'], /stray/],
      [['--account', 'nobody'], /--account nobody: [\s\S]*catchall@[\s\S]*bar@development-virtual\.example\.com/],
      [['--account', 'nobody@development-virtual.example.com'], /no such account/],
      [['--account', 'foo', '--all'], /one way/],
      [['--account', 'foo', '--user', 'x'], /one way/],
      [['--list', '--json'], /--list and --json/],
      [['--raw', '--save', '/tmp/x'], /--raw and --save/],
      [['--subject', '/(a/'], /--subject \/\(a\/: Invalid regular expression/],
      [['--links=/(/'], /--links \/\(\/: Invalid regular expression/],
      [['--links='], /--links is empty/],
      [['--last', '0'], /--last 0/],
      [['--wait=x'], /--wait=x: .*10s/],
      [['--wait', '10x', '--list'], /--wait=10x: .*10s/],
      [['--wait', '10 min'], /--wait=10 min: .*10s/],
      [['--wait', '-5'], /--wait=-5: .*10s/],
      [['--attachments', 'x'], /Did you mean --save-attachments\?/],
      [['--message', 'x'], /Did you mean --message-id\?/],
      [['--host', 'smtp://127.0.0.1'], /--host=smtp:.*--port/],
      [['--host', 'localhost:110'], /--host=localhost:110: .*--port/],
      [['--wait=2d'], /--wait=2d/],
      [['--wait=90000s'], /--wait=90000s/],
      [['--wait', '1', '--expect', '-1'], /expect/],
      [['--expect', '2'], /--expect needs --wait/],
      [['--new'], /--new needs --wait/],
      [['--save', '/dev/null'], /--save \/dev\/null.*no folder/],
      [['--tls', 'maybe'], /maybe/],
      [['--port', '0'], /0/],
      [['--user', 'a\r\nDELE 1', '--password', 'x'], /line break/],
    ]
    for (const [args, message] of cases) {
      const { code, stdout, stderr } = await pop(...args)
      assert.equal(code, 2, `${args}: ${stderr}`)
      assert.match(stderr, message)
      assert.doesNotMatch(stderr, / at .*:\d+:\d+/)
      assert.equal(stdout, '')
    }
  })

  test('a wrong password, a closed port, no TLS, silence: an exit code each, and what to type next', async () => {
    const server = await serve('none', { replies: { STLS: '-ERR no TLS here\r\n' } })
    const silent = await listen((socket) => socket.on('error', () => {}))
    const cases: [string[], number, RegExp][] = [
      [['--user', BAR, '--password', 'wrong'], 5, /login refused for bar@.*\n.*npm run add-account -- --list/],
      [['--port', '1'], 3, /npm run status/],
      [[...loginAt(server.port), '--tls', 'starttls'], 4, /no TLS here/],
      [['--port', String(silent.port), '--timeout', '0.3'], 10, /0\.3 s/],
    ]
    try {
      for (const [args, exit, words] of cases) {
        const { code, stderr } = await pop(...args)
        assert.equal(code, exit, stderr)
        assert.match(stderr, words)
      }
    } finally {
      await server.close()
      silent.server.close()
    }
  })

  test('a result that cannot be written ends with 1, whatever the view, and deletes nothing', async () => {
    await mailboxes.deliver(FOO, simple('one', 'code 4711 https://x.example/'))
    const dir = mailboxes.project.path('full')
    for (const view of [
      '--list',
      '--headers',
      '--links',
      '--code',
      '--raw',
      '--json',
      `--save=${dir}`,
      '--last=1',
      '--help',
    ]) {
      const { dir, env } = mailboxes.project
      const full = openSync('/dev/full', 'w')
      const args = ['scripts/pop_email.js', '--account', 'foo', view, '--delete']
      const child = spawn(process.execPath, args, { cwd: dir, env, stdio: ['ignore', full, 'pipe'] })
      const code = await new Promise((resolve) => child.once('close', resolve))
      assert.equal(code, 1, view)
    }
    assert.equal(await mailboxes.count(FOO), 1)
    await mailboxes.empty()
  })
})

describe('the mailbox', () => {
  beforeEach(() => mailboxes.empty())

  test('without an option: the mails of bar, oldest first, and they stay', async () => {
    assert.equal((await mailboxes.project.run('send_email')).code, 0)
    await mailboxes.deliver(BAR, simple('second', 'other text'))
    for (const round of [1, 2]) {
      const { code, stdout, stderr } = await pop()
      assert.equal(code, 0, stderr)
      const [first, second] = stdout.split('Subject: second')
      const expected = /^From: .*<foo@.*\nTo: .*<bar@.*\nDate: .*\nSubject: テストメール.*\n\nバーさん/
      assert.match(first ?? '', expected, String(round))
      assert.match(second ?? '', /^\n\nother text\n/)
      assert.equal(stderr, '')
    }
    assert.equal(await mailboxes.count(BAR), 2)
  })

  test('by account, by user, by the address that mail was sent to', async () => {
    await mailboxes.deliver(FOO, simple('to foo'))
    await mailboxes.deliver('someone@gmail.com', simple('caught'))
    await mailboxes.deliver('1someone@gmail.com', simple('caught too'))
    const cases: [string, string[], string[]][] = [
      ['--account foo', ['to foo'], []],
      [`--account ${FOO.toUpperCase()}`, ['to foo'], []],
      ['--user foo', ['to foo'], []],
      ['--all --to SOMEONE@', ['caught', 'caught too'], []],
      ['--all --to SOMEONE@gmail', ['caught'], []],
      ['--all --to Someone@Gmail.com', ['caught'], []],
      ['--to someone@gmail.com', ['caught'], ['someone@gmail.com', 'catchall']],
      ['--account 1Someone@gmail.com', ['caught too'], ['1Someone@gmail.com', 'catchall']],
      [`--port ${mailboxes.project.ports.pop3s} --user foo`, ['to foo'], ['--tls implicit']],
    ]
    for (const [line, expected, hints] of cases) {
      const result = await pop(...line.split(' '))
      assert.deepEqual(subjects(ok(result)), expected, line)
      if (hints.length === 0) assert.equal(result.stderr, '', line)
      for (const hint of hints) assert.ok(result.stderr.includes(hint), result.stderr)
    }
    const all = ok(await pop('--all'))
    assert.deepEqual(subjects(all).sort(), ['caught', 'caught too', 'to foo'])
    assert.match(all, new RegExp(`^Mailbox: ${CATCHALL}$`, 'm'))
    const json = JSON.parse(ok(await pop('--account', 'catchall', '--json', '--last', '1')))
    assert.deepEqual([json.account, json.envelopeRecipient], [CATCHALL, '1someone@gmail.com'])
    assert.match((await pop('--to', `unknown@${BAR.split('@')[1]}`)).stderr, /^No mail in bar@/)
  })

  test('filters are joined by and; --last is of those that match', async () => {
    await mailboxes.deliver(
      BAR,
      simple('Alpha one', 'red'),
      simple('Beta two', 'red'),
      simple('Alpha three', 'green', '"Zoë, R." <z@client.example>'),
    )
    const found = async (...args: string[]) => subjects(ok(await pop(...args)))
    assert.deepEqual(await found('--subject', 'alpha', '--body', 'red'), ['Alpha one'])
    assert.deepEqual(await found('--subject', 'alpha', '--last', '1'), ['Alpha three'])
    assert.deepEqual(await found('--last', '2'), ['Beta two', 'Alpha three'])
    assert.deepEqual(await found('--to', BAR, '--since', '5m', '--body', '/gr.en/'), ['Alpha three'])
    assert.deepEqual(await found('--from', 'Z@client.example'), ['Alpha three'])
    const none = await pop('--subject', 'nothing')
    assert.deepEqual([none.code, none.stdout], [0, ''])
    assert.match(none.stderr, /No mail matches, of 3 mails/)
  })

  const html =
    '<p>Hello <a href="https://x.example/confirm?a=1&amp;b=2">here</a> <a href="mailto:a@b.c">us</a>\x1b[31m</p>'
  const views = mail(
    'From: =?utf-8?B?5pel5pys6Kqe?= <a@client.example>',
    `To: ${BAR}`,
    'Date: Sun, 22 Nov 2026 10:00:00 +0900',
    'Subject: views',
    'Message-ID: <views@client.example>',
    'Content-Type: multipart/mixed; boundary=b',
    '',
    ...['--b', 'Content-Type: multipart/alternative; boundary=c', '', '--c'],
    ...['Content-Type: text/plain; charset=utf-8', '', 'Order 20261122. Your code is 4829. See https://y.example/'],
    ...['--c', 'Content-Type: text/html', '', html, '--c--', '--b', 'Content-Type: image/png', 'Content-ID: <logo>'],
    ...['Content-Disposition: inline; filename="logo.png"', '', 'PNG', '--b--'],
  )

  test('every view', async () => {
    await mailboxes.deliver(BAR, views)
    const shown: [string[], RegExp | string][] = [
      [[], /Your code is 4829[\s\S]*Attachment: logo\.png \(image\/png, 3 bytes\)/],
      [['--headers'], /^Return-Path: [\s\S]*^From: 日本語 <a@client\.example>$[\s\S]*^Subject: views$/m],
      [['--html'], `${html.replace('\x1b', '\\x1b')}\n`],
      [['--links', 'confirm'], 'https://x.example/confirm?a=1&b=2\n'],
      [['--links'], 'https://y.example/\nhttps://x.example/confirm?a=1&b=2\n'],
      [['--links=CONFIRM'], 'https://x.example/confirm?a=1&b=2\n'],
      [['--links=/^https:..y/'], 'https://y.example/\n'],
      [['--code'], '4829\n'],
    ]
    for (const [args, expected] of shown) {
      const result = await pop(...args)
      if (typeof expected === 'string') assert.equal(ok(result), expected, String(args))
      else assert.match(ok(result), expected)
      assert.equal(result.stderr, '', String(args))
    }
    const raw = ok(await pop('--raw'))
    assert.ok(raw.endsWith(views.subarray(views.indexOf('From:')).toString()))
    const lines = ok(await pop('--json')).split('\n')
    assert.equal(lines.length, 2)
    const { text, html: htmlText, attachments, links, date, size, messageId } = JSON.parse(lines[0] as string)
    assert.deepEqual(
      [text, htmlText, attachments, links, date, size, messageId],
      [
        'Order 20261122. Your code is 4829. See https://y.example/',
        html,
        [{ name: 'logo.png', type: 'image/png', size: 3, cid: 'logo' }],
        ['https://y.example/', 'https://x.example/confirm?a=1&b=2'],
        '2026-11-22T01:00:00.000Z',
        Buffer.byteLength(raw),
        '<views@client.example>',
      ],
    )
  })

  test('--list has a header line and the envelope recipient, and fits the terminal', async () => {
    const subject = `=?utf-8?B?${Buffer.from('とても長い件名です'.repeat(8)).toString('base64')}?=`
    await mailboxes.deliver('someone@gmail.com', views, simple(subject), simple('short'))
    const [head = '', first = '', ...rest] = ok(await pop('--account', 'catchall', '--list'))
      .trimEnd()
      .split('\n')
    assert.match(head, /^No +UIDL +Bytes +Date +Recipient +From +Subject$/)
    const row = /^1 +[0-9a-f]{16} +\d+ +2026-11-2\d \d\d:00 +someone@gmail\.com +日本語 <a@client\.example> +views$/
    assert.match(first, row)
    assert.equal(rest.length, 2)
    for (const columns of [200, 120, 100, 80, 60, 20]) {
      for (const which of ['--account=catchall', '--all']) {
        const list = ok(await mailboxes.popOn({ isTTY: true, columns }, which, '--list'))
        for (const line of list.trimEnd().split('\n')) assert.ok(columnsOf(line) <= columns, `${columns}: ${line}`)
        if (columns >= 80) assert.match(list, /someone@/)
      }
    }
    const vain = await mailboxes.popOn({ columns: 80 }, '--account', 'catchall', '--wait', '0', '--subject', 'never')
    assert.equal(vain.code, 11)
    assert.match(vain.stderr, /^ {2}No .*Recipient .*\n {2}1 .*someone@.*\n/m)
    for (const line of vain.stderr.split('\n').slice(2)) assert.ok(columnsOf(line) <= 80, line)
  })

  test('--json keeps its documented shape for every mail', async () => {
    const bare = mail('X: nothing else', '', '')
    await mailboxes.deliver(BAR, bare, simple('some'), mail('From: broken <', 'To: a, "b', 'Date: never', '', ''))
    await mailboxes.deliver('x@gmail.com', views)
    const schema = JSON.parse(readFileSync(mailboxes.project.path('scripts', 'pop_email.schema.json'), 'utf8'))
    const validate = new Ajv({ allErrors: true }).compile(schema)
    const lines = ok(await pop('--all', '--json'))
      .trim()
      .split('\n')
    assert.equal(lines.length, 4)
    for (const line of lines) assert.ok(validate(JSON.parse(line)), JSON.stringify(validate.errors))
    assert.ok(!validate({ ...JSON.parse(lines[0] as string), size: 'big' }))
  })

  test('no code, no link, no HTML, no attachment: nothing is printed, and that is told', async () => {
    await mailboxes.deliver(BAR, simple('none', 'no number'))
    for (const option of ['--code', '--links', '--links=x', '--html', '--save-attachments=/tmp/never-made']) {
      const { code, stdout, stderr } = await pop(option, '--delete')
      assert.deepEqual([code, stdout], [1, ''], option)
      assert.match(stderr, new RegExp(`Nothing to show: 1 mail, and none has what ${option.split('=')[0]} asks`))
    }
    assert.equal(await mailboxes.count(BAR), 1)
  })

  test('--save and --save-attachments: byte for byte, in the folder, over nothing', async () => {
    const long = `${'n'.repeat(300)}.txt`
    const hostile = [
      '../../escape.txt',
      '/etc/passwd',
      'C:\\x\\NUL.txt',
      'same.txt',
      'same.txt',
      'SAME.txt',
      'link.txt',
    ]
    const names = [...hostile, long]
    const parts = names.flatMap((name, index) => [
      ...['--b', `Content-Disposition: attachment; filename="${name}"`, '', `content ${index}`],
    ])
    const head = ['Subject: files\u202e\x1b[2J', 'Content-Type: multipart/mixed; boundary=b', '']
    await mailboxes.deliver(BAR, mail(...head, ...parts, '--b--'))
    const dir = mailboxes.project.path('saved')
    mkdirSync(dir)
    symlinkSync(mailboxes.project.path('outside'), join(dir, 'link.txt'))
    const saved = ok(await pop('--save', join(dir, 'mail'), '--save-attachments', dir))
    const [eml = '', ...attachments] = saved.trim().split('\n')
    assert.equal(attachments.length, names.length)
    assert.ok(eml.startsWith(join(dir, 'mail', 'bar-')) && eml.endsWith('.eml'))
    assert.ok(readFileSync(eml).equals(await mailboxes.newest(BAR)))
    for (const [index, path] of attachments.entries()) {
      assert.equal(join(path, '..'), dir)
      assert.equal(readFileSync(path, 'utf8'), `content ${index}`)
      assert.ok(lstatSync(path).isFile())
    }
    assert.ok(!readdirSync(mailboxes.project.dir).includes('outside'))
    const again = ok(await pop('--save', join(dir, 'mail'))).trim()
    assert.notEqual(again, eml)
    assert.ok(readFileSync(again).equals(readFileSync(eml)))
  })

  test('nothing that a terminal would obey comes out, in any view', async () => {
    const hostile = 'a\x1b[31m\x1b]0;title\x07\x9b2J\u202ecod.exe\u2066'
    const link = `https://x.example/${hostile}`
    await mailboxes.deliver(
      BAR,
      mail(
        ...[
          `From: "${hostile}" <a@client.example>`,
          `Subject: ${hostile}`,
          'Content-Type: multipart/mixed; boundary=b',
          '',
        ],
        ...['--b', 'Content-Type: text/plain; charset=utf-8', '', `${hostile} ${link}`],
        ...['--b', 'Content-Type: text/html; charset=utf-8', '', `<a href="${link}">${hostile}</a>`],
        ...['--b', `Content-Disposition: attachment; filename="${hostile}.txt"`, 'Content-Type: x/y', '', 'x', '--b--'],
      ),
    )
    const folder = mailboxes.project.path('hostile')
    const views = ['--last=1', '--list', '--headers', '--html', '--links', '--json', `--save-attachments=${folder}`]
    for (const view of views) {
      for (const isTTY of [false, true]) {
        const { stdout, stderr } = await mailboxes.popOn({ isTTY, columns: 100 }, view)
        assert.notEqual(stdout, '', view)
        // A terminal gets the names of the fields in bold.
        const text = (stdout + stderr).replace(isTTY ? /\x1b\[(1|22)m/g : '', '')
        assert.doesNotMatch(text, /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/, view)
      }
    }
  })

  test('what is broken or large is shown, with one warning; a good multipart has none', async () => {
    const large = mail('Subject: large', '', 'The quick brown fox 0123456789.\r\n'.repeat(600_000))
    await mailboxes.deliver(BAR, large, large)
    const dir = mailboxes.project.path('large')
    const paths = ok(await pop('--tls', 'implicit', '--save', dir))
      .trim()
      .split('\n')
    assert.equal(paths.length, 2)
    for (const path of paths)
      assert.ok(
        readFileSync(path)
          .subarray(-large.length + 20)
          .equals(large.subarray(20)),
      )
    const broken = mail('Subject: broken', 'Content-Transfer-Encoding: base64', '', 'dGhl!!!IHRleHQ')
    await mailboxes.deliver(FOO, broken, views)
    const { stdout, stderr } = await pop('--account', 'foo')
    assert.match(stdout, /^Subject: broken\n\nthe text$/m)
    assert.match(stderr, /^Mail 1 of foo@.*: .*Shown as far as it goes\.\n$/)
    for (const view of ['--list', '--headers']) assert.equal((await pop('--account', 'foo', view)).stderr, '')
  })

  test('mail that is immense is shown in little memory', async () => {
    const head = ['From: a@client.example', 'Subject: immense', 'MIME-Version: 1.0']
    const parts = Array.from(
      { length: 10_000 },
      (_, n) => `--b\r\nContent-Disposition: attachment; filename=f${n}\r\n\r\nx`,
    )
    const cases: [Buffer, string[], RegExp][] = [
      [mail(...head, '', '\x1b'.repeat(20e6)), ['--json'], /u001b/],
      [mail(...head, '', '\r\n'.repeat(10e6)), [], /immense/],
      [mail(...head, 'Content-Type: text/html', '', '<a href="https://x.example/">x</a>'.repeat(600_000)), [], /x/],
      [mail(...head, 'Content-Type: multipart/mixed; boundary=b', '', ...parts, '--b--'), [], /f9999/],
      [
        mail(
          ...head,
          `X-Long: ${'x'.repeat(70)}${`\r\n ${'x'.repeat(70)}`.repeat(275_000)}`,
          'To: late@x.example',
          '',
          'text',
        ),
        [],
        /late@/,
      ],
    ]
    for (const [content, args, shown] of cases) {
      const server = await serve('none', { messages: [content] })
      const env = { NODE_OPTIONS: '--max-old-space-size=384' }
      const result = await mailboxes.project.runWith(
        { env, timeout: 300_000 },
        'pop_email',
        ...loginAt(server.port),
        ...args,
      )
      await server.close()
      // Not assert.match, which would print megabytes.
      assert.ok(shown.test(ok(result)), String(shown))
    }
  })
})
