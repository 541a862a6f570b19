/** pop_email against the real server: usage, which mailbox, which mails, every view. */
import assert from 'node:assert/strict'
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { Ajv } from 'ajv'
import { BAR, CATCHALL, FOO, loginAt, Mailboxes, mail, ok, simple, subjects } from './mailboxes.ts'
import { listen, serve } from './pop3_server.ts'

let mailboxes: Mailboxes
before(async () => {
  mailboxes = await Mailboxes.start()
})
after(() => mailboxes.project.remove())

describe('usage', () => {
  test('help and mistakes load neither a mail library nor a protocol', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'coverage-'))
    try {
      for (const args of [['--help'], ['--subjekt', 'x'], ['--account', 'nobody'], ['--subject', '/(/']]) {
        await mailboxes.popWith({ env: { NODE_V8_COVERAGE: dir } }, ...args)
      }
      const loaded = readdirSync(dir)
        .map((name) => readFileSync(join(dir, name), 'utf8'))
        .join('')
      // Not assert.match, which would print a megabyte.
      assert.ok(/pop_email\.[jt]s/.test(loaded))
      assert.equal(/node_modules\/(nodemailer|postal-mime|imapflow|node-pop3)\//.exec(loaded), null)
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  test('help has every option, the examples and the exit codes', async () => {
    const help = ok(await mailboxes.pop('--help'))
    for (const word of [
      '--unseen-since',
      '--save-attachments',
      '--password-stdin',
      'Examples:',
      '  130  ',
      '   11  ',
    ]) {
      assert.ok(help.includes(word), word)
    }
  })

  test('every mistake is named, exits 2 and prints no result', async () => {
    const cases: [string[], RegExp][] = [
      [['--subjekt', 'x'], /--subjekt/],
      [['stray'], /stray/],
      [['--account', 'nobody'], /--account nobody: [\s\S]*catchall@[\s\S]*bar@development-virtual\.example\.com/],
      [['--account', 'foo', '--all'], /one way/],
      [['--account', 'foo', '--user', 'x'], /one way/],
      [['--all', '--unseen-since', 'x'], /--unseen-since and --all/],
      [['--list', '--json'], /--list and --json/],
      [['--raw', '--save', '/tmp/x'], /--raw and --save/],
      [['--subject', '/(a/'], /--subject \/\(a\/: Invalid regular expression/],
      [['--last', '0'], /--last 0/],
      [['--wait=x'], /--wait=x/],
      [['--wait', '1', '--expect', '-1'], /expect/],
      [['--expect', '2'], /--expect needs --wait/],
      [['--new'], /--new needs --wait/],
      [['--save', '/dev/null'], /--save \/dev\/null.*no folder/],
      [['--tls', 'maybe'], /maybe/],
      [['--port', '0'], /0/],
    ]
    for (let index = 0; index < cases.length; index += 4) {
      await Promise.all(
        cases.slice(index, index + 4).map(async ([args, message]) => {
          const { code, stdout, stderr } = await mailboxes.pop(...args)
          assert.equal(code, 2, `${args}: ${stderr}`)
          assert.match(stderr, message)
          assert.doesNotMatch(stderr, / at .*:\d+:\d+/)
          assert.equal(stdout, '')
        }),
      )
    }
  })

  test('a wrong password, a closed port, TLS that is not there: an exit code each', async () => {
    const server = await serve('none', { replies: { STLS: '-ERR no TLS here\r\n' } })
    try {
      const [login, connection, tls] = await Promise.all([
        mailboxes.pop('--user', BAR, '--password', 'wrong'),
        mailboxes.pop('--port', '1'),
        mailboxes.pop(...loginAt(server.port), '--tls', 'starttls'),
      ])
      assert.equal(login.code, 5, login.stderr)
      assert.equal(connection.code, 3, connection.stderr)
      assert.equal(tls.code, 4, tls.stderr)
    } finally {
      await server.close()
    }
    const silent = await listen((socket) => socket.on('error', () => {}))
    try {
      const timeout = await mailboxes.pop('--port', String(silent.port), '--timeout', '0.3')
      assert.equal(timeout.code, 10, timeout.stderr)
    } finally {
      silent.server.close()
    }
  })
})

describe('the mailbox', () => {
  beforeEach(() => mailboxes.empty())

  test('without an option: the mails of bar, oldest first, and they stay', async () => {
    assert.equal((await mailboxes.project.run('send_email')).code, 0)
    await mailboxes.deliver(BAR, simple('second', 'other text'))
    for (const round of [1, 2]) {
      const { code, stdout, stderr } = await mailboxes.pop()
      assert.equal(code, 0, stderr)
      const [first, second] = stdout.split('Subject: second')
      assert.match(
        first ?? '',
        /^From: .*<foo@.*\nTo: .*<bar@.*\nDate: .*\nSubject: テストメール.*\n\nバーさん/,
        String(round),
      )
      assert.match(second ?? '', /^\n\nother text\n/)
      assert.equal(stderr, '')
    }
    assert.equal(await mailboxes.count(BAR), 2)
  })

  test('--account by local part or address, --all with the catchall; a caught mail is found by its address', async () => {
    await mailboxes.deliver(FOO, simple('to foo'))
    await mailboxes.deliver('someone@gmail.com', simple('caught'))
    await mailboxes.deliver('other@gmail.com', simple('caught too'))
    assert.deepEqual(subjects(ok(await mailboxes.pop('--account', 'foo'))), ['to foo'])
    assert.deepEqual(subjects(ok(await mailboxes.pop('--account', FOO.toUpperCase()))), ['to foo'])
    assert.deepEqual(subjects(ok(await mailboxes.pop('--all', '--to', 'SOMEONE@gmail'))), ['caught'])
    const all = ok(await mailboxes.pop('--all'))
    assert.deepEqual(subjects(all).sort(), ['caught', 'caught too', 'to foo'])
    assert.match(all, new RegExp(`^Mailbox: ${CATCHALL}$`, 'm'))
    const json = JSON.parse(ok(await mailboxes.pop('--account', 'catchall', '--json', '--last', '1')))
    assert.deepEqual([json.account, json.envelopeRecipient], [CATCHALL, 'other@gmail.com'])
  })

  test('filters are joined by and; --last is of those that match; --unseen-since continues', async () => {
    await mailboxes.deliver(
      BAR,
      simple('Alpha one', 'red'),
      simple('Beta two', 'red'),
      simple('Alpha three', 'green', '"Zoë, R." <z@client.example>'),
    )
    const found = async (...args: string[]) => subjects(ok(await mailboxes.pop(...args)))
    assert.deepEqual(await found('--subject', 'alpha', '--body', 'red'), ['Alpha one'])
    assert.deepEqual(await found('--subject', 'alpha', '--last', '1'), ['Alpha three'])
    assert.deepEqual(await found('--last', '2'), ['Beta two', 'Alpha three'])
    assert.deepEqual(await found('--to', BAR, '--since', '5m', '--body', '/gr.en/'), ['Alpha three'])
    const lines = ok(await mailboxes.pop('--json'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    assert.deepEqual(await found('--unseen-since', lines[0].uidl), ['Beta two', 'Alpha three'])
    // Deleted meanwhile: the UIDL still tells what came later.
    ok(await mailboxes.pop('--message-id', 'Beta two', '--delete'))
    assert.deepEqual(await found('--unseen-since', lines[1].uidl), ['Alpha three'])
    const unknown = await mailboxes.pop('--unseen-since', 'unknown')
    assert.equal(unknown.code, 2)
    const none = await mailboxes.pop('--subject', 'nothing')
    assert.deepEqual([none.code, none.stdout], [0, ''])
    assert.match(none.stderr, /No mail matches, of 2 mails/)
  })

  test('a regular expression that never ends is stopped and named', async () => {
    await mailboxes.deliver(BAR, simple(`${'a'.repeat(60)}!`))
    const { code, stderr } = await mailboxes.pop('--subject', '/^(a+)+$/')
    assert.equal(code, 2)
    assert.match(stderr, /--subject .*takes more than 1 s/)
  })

  test('every view', async () => {
    const html = '<p>Hello <a href="https://x.example/confirm?a=1&amp;b=2">here</a>\x1b[31m</p>'
    const parts = [
      ...[
        '--b',
        'Content-Type: multipart/alternative; boundary=c',
        '',
        '--c',
        'Content-Type: text/plain; charset=utf-8',
        '',
      ],
      ...['Your code is 482913. See https://y.example/', '--c', 'Content-Type: text/html', '', html, '--c--'],
      ...[
        '--b',
        'Content-Type: image/png',
        'Content-ID: <logo>',
        'Content-Disposition: inline; filename="logo.png"',
        '',
        'PNG',
        '--b--',
      ],
    ]
    const content = mail(
      'From: =?utf-8?B?5pel5pys6Kqe?= <a@client.example>',
      `To: ${BAR}`,
      'Date: Sun, 22 Nov 2026 10:00:00 +0900',
      'Subject: views',
      'Message-ID: <views@client.example>',
      'Content-Type: multipart/mixed; boundary=b',
      '',
      ...parts,
    )
    await mailboxes.deliver(BAR, content)
    assert.match(ok(await mailboxes.pop()), /Your code is 482913[\s\S]*Attachment: logo\.png \(image\/png, 3 bytes\)/)
    assert.match(
      ok(await mailboxes.pop('--list')),
      /^1 {2}\S+ {2}\d+ {2}2026-11-2\d \d\d:00 {2}日本語 <a@client\.example> {2}views\n$/,
    )
    assert.match(
      ok(await mailboxes.pop('--headers')),
      /^Return-Path: [\s\S]*^From: 日本語 <a@client\.example>$[\s\S]*^Subject: views$/m,
    )
    assert.equal(ok(await mailboxes.pop('--html')), `${html.replace('\x1b', '\\x1b')}\n`)
    assert.equal(ok(await mailboxes.pop('--links')), 'https://x.example/confirm?a=1&b=2\nhttps://y.example/\n')
    assert.equal(ok(await mailboxes.pop('--code')), '482913\n')
    const raw = ok(await mailboxes.pop('--raw'))
    assert.ok(raw.endsWith(content.subarray(content.indexOf('From:')).toString()))
    const lines = ok(await mailboxes.pop('--json')).split('\n')
    assert.equal(lines.length, 2)
    const json = JSON.parse(lines[0] as string)
    const { text, html: htmlText, attachments, links, date, size, messageId } = json
    assert.deepEqual(
      [text, htmlText, attachments, links, date, size, messageId],
      [
        'Your code is 482913. See https://y.example/',
        html,
        [{ name: 'logo.png', type: 'image/png', size: 3, cid: 'logo' }],
        ['https://x.example/confirm?a=1&b=2', 'https://y.example/'],
        '2026-11-22T01:00:00.000Z',
        Buffer.byteLength(raw),
        '<views@client.example>',
      ],
    )
  })

  test('--json keeps its documented shape for every mail', async () => {
    await mailboxes.deliver(
      BAR,
      mail('X: nothing else', '', ''),
      simple('some', 'text'),
      mail('From: broken <', 'To: a, "b', 'Date: never', '', ''),
    )
    await mailboxes.deliver('x@gmail.com', simple('caught'))
    const schema = JSON.parse(readFileSync(mailboxes.project.path('scripts', 'pop_email.schema.json'), 'utf8'))
    const validate = new Ajv({ allErrors: true }).compile(schema)
    const lines = ok(await mailboxes.pop('--all', '--json'))
      .trim()
      .split('\n')
    assert.equal(lines.length, 4)
    for (const line of lines) assert.ok(validate(JSON.parse(line)), JSON.stringify(validate.errors))
    assert.ok(!validate({ ...JSON.parse(lines[0] as string), size: 'big' }))
  })

  test('no code, no link, no HTML: nothing is printed, and that is told', async () => {
    await mailboxes.deliver(BAR, simple('none', 'no number'))
    for (const option of ['--code', '--links', '--html', '--save-attachments=/tmp/never-made']) {
      const { code, stdout, stderr } = await mailboxes.pop(option, '--delete')
      assert.deepEqual([code, stdout], [1, ''], option)
      assert.match(stderr, /Nothing to show: 1 mail/)
    }
    assert.equal(await mailboxes.count(BAR), 1)
  })

  test('--save and --save-attachments: byte for byte, in the folder, over nothing', async () => {
    const names = [
      '../../escape.txt',
      '/etc/passwd',
      'C:\\x\\NUL.txt',
      'same.txt',
      'same.txt',
      'SAME.txt',
      'link.txt',
      `${'n'.repeat(300)}.txt`,
    ]
    const parts = names.flatMap((name, index) => [
      '--b',
      `Content-Disposition: attachment; filename="${name}"`,
      '',
      `content ${index}`,
    ])
    const content = mail(
      'Subject: files\u202e\x1b[2J',
      'Content-Type: multipart/mixed; boundary=b',
      '',
      ...parts,
      '--b--',
    )
    await mailboxes.deliver(BAR, content)
    const dir = mailboxes.project.path('saved')
    mkdirSync(dir)
    symlinkSync(mailboxes.project.path('outside'), join(dir, 'link.txt'))
    try {
      const paths = ok(await mailboxes.pop('--save', join(dir, 'mail'), '--save-attachments', dir))
        .trim()
        .split('\n')
      assert.equal(paths.length, names.length + 1)
      const [eml = '', ...attachments] = paths
      assert.ok(eml.startsWith(join(dir, 'mail', 'bar-')) && eml.endsWith('.eml'))
      assert.ok(readFileSync(eml).equals(await mailboxes.newest(BAR)))
      for (const [index, path] of attachments.entries()) {
        assert.equal(join(path, '..'), dir)
        assert.equal(readFileSync(path, 'utf8'), `content ${index}`)
        assert.ok(lstatSync(path).isFile())
      }
      assert.ok(!readdirSync(mailboxes.project.dir).includes('outside'))
      const again = ok(await mailboxes.pop('--save', join(dir, 'mail'))).trim()
      assert.notEqual(again, eml)
      assert.ok(readFileSync(again).equals(readFileSync(eml)))
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  test('nothing that a terminal would obey comes out, in any view', async () => {
    const hostile = 'a\x1b[31m\x1b]0;title\x07\x9b2J\u202ecod.exe\u2066'
    await mailboxes.deliver(
      BAR,
      mail(
        ...[
          `From: "${hostile}" <a@client.example>`,
          `Subject: ${hostile}`,
          'Content-Type: multipart/mixed; boundary=b',
          '',
        ],
        ...['--b', 'Content-Type: text/plain; charset=utf-8', '', `${hostile} https://x.example/${hostile}`],
        ...[
          '--b',
          'Content-Type: text/html; charset=utf-8',
          '',
          `<a href="https://x.example/${hostile}">${hostile}</a>`,
        ],
        ...['--b', `Content-Disposition: attachment; filename="${hostile}.txt"`, 'Content-Type: x/y', '', 'x', '--b--'],
      ),
    )
    const views = [
      '--list',
      '--headers',
      '--html',
      '--links',
      '--json',
      `--save-attachments=${mailboxes.project.path('hostile')}`,
    ]
    for (const view of [undefined, ...views]) {
      const { stdout, stderr } = await mailboxes.pop(...(view ? [view] : []))
      assert.notEqual(stdout, '', view)
      assert.doesNotMatch(stdout + stderr, /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/, view)
    }
    rmSync(mailboxes.project.path('hostile'), { recursive: true })
  })
})
