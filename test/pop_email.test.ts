/** pop_email against the real server: usage, which mailbox, which mails, every view. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { lstatSync, mkdirSync, openSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { Ajv } from 'ajv'
import { BAR, CATCHALL, FOO } from '../scripts/lib/accounts/accounts.ts'
import { columnsOf } from '../scripts/lib/cli.ts'
import { POP_OPTIONS } from '../scripts/lib/mail/pop_options.ts'
import { type Pop3Message, Pop3Refusal } from '../scripts/lib/mail/pop3.ts'
import { visit } from './deliveries.ts'
import { runIn } from './here.ts'
import { listen } from './listener.ts'
import { loginAt, Mailboxes, mail, ok, pop, popOn, simple, subjects } from './mailboxes.ts'
import { serve } from './pop3_server.ts'

let mailboxes: Mailboxes
before(async () => {
  mailboxes = await Mailboxes.start()
})
after(() => mailboxes.project.remove())
const NOBODY = `nobody@${BAR.split('@')[1]}`

describe('usage', () => {
  test('help has every option, the examples and the exit codes', async () => {
    const help = ok(await pop('--help'))
    for (const name of Object.keys(POP_OPTIONS)) assert.match(help, new RegExp(`--${name}\\b`))
    for (const word of ['Examples:', '  130  ', '   11  ', 'whole address']) assert.ok(help.includes(word), word)
  })

  test('every mistake is named, exits 2 and prints no result', async () => {
    const cases: [string[], RegExp][] = [
      [['--acount', 'x'], /--acount.*--account/],
      [['--account', 'nobody'], /--account nobody: [\s\S]*catchall@[\s\S]*bar@development-virtual\.example\.com/],
      [['--account', 'foo', '--user', 'x'], /one way/],
      [['--user', NOBODY], /nobody@.*no account here.*--password/],
      [['--list', '--json'], /--list and --json/],
      [['--raw', '--save', '/tmp/x'], /--raw and --save/],
      [['--subject', '/(a/'], /--subject \/\(a\/: Invalid regular expression/],
      [['--links='], /--links is empty/],
      [['--last', '1e3'], /--last 1e3/],
      [['--since', '5'], /--since 5: .*5m/],
      [['--body', '/a/q'], /--body \/a\/q: Invalid/],
      [['--wait=x'], /--wait=x: .*10s/],
      [['--wait', '-5'], /--wait=-5: .*10s/],
      [['--host', 'localhost:110'], /--host=localhost:110: .*--port/],
      [['--expect', '2'], /--expect needs --wait/],
      [['--save', '/dev/null'], /--save \/dev\/null.*no folder/],
      [['--user', 'a\r\nDELE 1', '--password', 'x'], /line break/],
    ]
    for (const [args, message] of cases) {
      const { code, stdout, stderr } = await pop(...args)
      assert.deepEqual([code, stdout], [2, ''], `${args}: ${stderr}`)
      assert.match(stderr, message)
      assert.doesNotMatch(stderr, / at .*:\d+:\d+/)
    }
  })

  test('a wrong password, a closed port, no TLS, silence: an exit code each, and what to type next', async () => {
    const server = await serve('none', { replies: { STLS: '-ERR no TLS here\r\n' } })
    const silent = await listen(() => {})
    const cases: [string[], number, RegExp][] = [
      [['--user', BAR, '--password', 'wrong'], 5, /login refused for bar@.*\nSee .*npm run add-account -- --list/],
      [['--user', NOBODY, '--password', 'x'], 5, /\nnobody@.* has no account here\. See .*--list/],
      [['--user', 'x@gmail.com', '--password', 'x'], 5, /no account here; .*catchall: --account x@gmail\.com\. See/],
      [['--port', '1'], 3, /npm run status/],
      [[...loginAt(server.port), '--tls', 'starttls'], 4, /no TLS here/],
      [['--port', String(silent.port), '--timeout', '0.3'], 10, /0\.3 s/],
    ]
    for (const [args, exit, words] of cases) {
      const { code, stderr } = await pop(...args)
      assert.equal(code, exit, stderr)
      assert.match(stderr, words)
    }
    await server.close()
    await silent.close()
  })

  test('a result that cannot be written ends with 1, whatever the view, and deletes nothing', async () => {
    await mailboxes.deliver(FOO, simple('one'))
    const runs = ['--list', '--raw'].map(async (view) => {
      const { dir: cwd, env } = mailboxes.project
      const [program = '', ...args] = mailboxes.project.command('pop_email', '--account', 'foo', view, '--delete')
      const child = spawn(program, args, { cwd, env, stdio: ['ignore', openSync('/dev/full', 'w'), 'ignore'] })
      assert.equal(await new Promise((resolve) => child.once('close', resolve)), 1, view)
    })
    await Promise.all(runs)
    assert.equal(mailboxes.count(FOO), 1)
  })
})

describe('the mailbox', () => {
  beforeEach(() => mailboxes.empty())

  test('without an option: the mails of bar, oldest first, and they stay', async () => {
    assert.equal((await runIn(mailboxes.project, {}, 'send_email')).code, 0)
    await mailboxes.deliver(BAR, simple('second', 'other text'))
    for (const round of [1, 2]) {
      const { code, stdout, stderr } = await pop()
      assert.deepEqual([code, stderr], [0, ''], String(round))
      const [first, second] = stdout.split('Subject: second')
      assert.match(first ?? '', /^From: .*<foo@.*\nTo: .*<bar@.*\nDate: .*\nSubject: テストメール.*\n\nバーさん/)
      assert.match(second ?? '', /^\n\nother text\n/)
    }
  })

  test('a broken file that says nothing about an address keeps nobody from its mail', async () => {
    await mailboxes.deliver('someone@gmail.com', simple('caught'))
    const path = mailboxes.project.path('docker-data/mail-server/config/dovecot-quotas.cf')
    const bytes = readFileSync(path)
    writeFileSync(path, '\xff\xfea\0', 'latin1')
    try {
      const run = (...args: string[]) => runIn(mailboxes.project, {}, 'pop_email', ...args)
      assert.match(ok(await run('--to', 'someone@gmail.com')), /Subject: caught/)
      assert.equal((await run('--user', 'x@gmail.com', '--password', 'x')).code, 5)
    } finally {
      writeFileSync(path, bytes)
    }
  })

  test('by account, by user, by the address that mail was sent to; filters are joined by and', async () => {
    await mailboxes.deliver(FOO, simple('to foo'))
    await mailboxes.deliver('someone@gmail.com', simple('caught'))
    await mailboxes.deliver('1someone@gmail.com', simple('caught too'))
    const two = ['To: a@shop.example, B <b@shop.example>', 'Subject: two', '', 'x']
    for (const to of ['a', 'b', 'hidden']) await mailboxes.deliver(`${to}@shop.example`, mail(`X-For: ${to}`, ...two))
    await mailboxes.deliver(BAR, simple('Alpha one', 'red'), simple('Beta two', 'red'))
    await mailboxes.deliver(BAR, mail(`To: ${BAR}, c@shop.example`, 'Subject: Alpha three', '', 'green'))
    const cases: [string[], string[], string[]][] = [
      [['--account', 'foo'], ['to foo'], []],
      [['--account', FOO.toUpperCase()], ['to foo'], []],
      [['--user', 'foo'], ['to foo'], []],
      [['--all', '--to', 'SOMEONE@'], ['caught', 'caught too'], []],
      [['--all', '--to', 'Someone@Gmail.com'], ['caught'], []],
      [['--to', 'someone@gmail.com'], ['caught'], ['someone@gmail.com', 'catchall']],
      [['--to', 'Doe, J <someone@gmail.com>'], ['caught'], ['someone@gmail.com has', 'catchall']],
      [['--account', '1Someone@gmail.com'], ['caught too'], ['1Someone@gmail.com', 'catchall']],
      [[`--port=${mailboxes.project.ports.pop3s}`, '--user', 'foo'], ['to foo'], ['--tls implicit']],
      // The copy for hidden@ is nobody's of the two, and so it is found by both.
      [['--all', '--to', 'a@shop.example'], ['two', 'two'], []],
      [['--all', '--to', 'shop.example'], ['two', 'two', 'two', 'Alpha three'], []],
      [['--to', 'a@shop.example', '--wait', '0', '--expect', '3'], [], ['2 of 3 mails']],
      [['--account', 'bar', '--to', 'c@shop.example'], ['Alpha three'], []],
      [['--subject', 'alpha', '--body', 'red'], ['Alpha one'], []],
      [['--subject', 'alpha', '--last', '1'], ['Alpha three'], []],
      [['--subject', 'nothing'], [], ['No match in bar@', ': 3 mails there.\n']],
      [['--account', 'baz'], [], ['No mail in baz@']],
    ]
    for (const [args, expected, hints] of cases) {
      const { code, stdout, stderr } = await pop(...args)
      assert.deepEqual(subjects(stdout).sort(), expected.sort(), args.join(' '))
      assert.equal(code, args.includes('--wait') ? 11 : 0)
      if (hints.length === 0) assert.equal(stderr, '', args.join(' '))
      for (const hint of hints) assert.ok(stderr.includes(hint), stderr)
    }
    // With one mail that is waited for and deleted, b's copy stays b's.
    const copy = ok(await pop('--to', 'b@shop.example', '--subject', 'two', '--wait', '--raw', '--delete'))
    assert.doesNotMatch(copy, /^X-For: a/m)
    const json = JSON.parse(ok(await pop('--account', 'catchall', '--json', '--subject', '/^caught$/')))
    assert.deepEqual([json.account, json.envelopeRecipient], [CATCHALL, 'someone@gmail.com'])
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

  test('every view; --json keeps its documented shape for every mail', async () => {
    await mailboxes.deliver(BAR, views)
    const shown: [string[], RegExp | string][] = [
      [[], /Your code is 4829[\s\S]*Attachment: logo\.png \(image\/png, 3 bytes\)/],
      [['--headers'], /^Return-Path: [\s\S]*^From: 日本語 <a@client\.example>$[\s\S]*^Subject: views$/m],
      [['--html'], `${html.replace('\x1b', '\\x1b')}\n`],
      [['--links', 'confirm'], 'https://x.example/confirm?a=1&b=2\n'],
      [['--links'], 'https://y.example/\nhttps://x.example/confirm?a=1&b=2\n'],
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
    await mailboxes.deliver(
      BAR,
      mail('X: nothing else', '', ''),
      mail('From: broken <', 'To: a, "b', 'Date: never', '', ''),
    )
    const lines = ok(await pop('--json'))
      .trim()
      .split('\n')
    assert.equal(lines.length, 3)
    const { text, html: htmlText, attachments, links, date, size, messageId } = JSON.parse(lines[0] as string)
    assert.deepEqual([text, htmlText], ['Order 20261122. Your code is 4829. See https://y.example/', html])
    assert.deepEqual(attachments, [{ name: 'logo.png', type: 'image/png', size: 3, cid: 'logo' }])
    assert.deepEqual(links, ['https://y.example/', 'https://x.example/confirm?a=1&b=2'])
    assert.deepEqual([date, messageId], ['2026-11-22T01:00:00.000Z', '<views@client.example>'])
    assert.equal(size, Buffer.byteLength(raw))
    const schema = JSON.parse(readFileSync(mailboxes.project.path('scripts', 'pop_email.schema.json'), 'utf8'))
    const validate = new Ajv({ allErrors: true }).compile(schema)
    for (const line of lines) assert.ok(validate(JSON.parse(line)), JSON.stringify(validate.errors))
    assert.ok(!validate({ ...JSON.parse(lines[0] as string), size: 'big' }))
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
    for (const columns of [80, 20]) {
      for (const which of ['--account=catchall', '--all']) {
        const list = ok(await popOn({ isTTY: true, columns }, which, '--list'))
        for (const line of list.trimEnd().split('\n')) assert.ok(columnsOf(line) <= columns, `${columns}: ${line}`)
        if (columns >= 80) assert.match(list, /someone@/)
      }
    }
  })

  test('no code, no link, no HTML, no attachment: nothing is printed, and that is told', async () => {
    await mailboxes.deliver(BAR, simple('none', 'no number'))
    for (const option of ['--code', '--links', '--links=x', '--html', '--save-attachments=/tmp/never-made']) {
      const { code, stdout, stderr } = await pop(option, '--delete')
      assert.deepEqual([code, stdout], [1, ''], option)
      assert.match(stderr, new RegExp(`Nothing to show: 1 mail, and none has what ${option.split('=')[0]} asks`))
    }
    assert.equal(mailboxes.count(BAR), 1)
  })

  test('--save and --save-attachments: in the folder, over nothing', async () => {
    const hostile = ['../../escape.txt', '/etc/passwd', 'C:\\x\\NUL.txt', 'same.txt', 'same.txt', 'link.txt']
    const names = [...hostile, `${'n'.repeat(300)}.txt`]
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
    const hostile = 'a\x1b[31m\x1b]0;title\x07\x9b2J\u202ecod.exe\u2066\u061c\u200e\u200f\u2028\x7f'
    const link = `https://x.example/${hostile}`
    const head = [`From: "${hostile}" <a@client.example>`, `Subject: ${hostile}`]
    const parts = [
      ...['--b', 'Content-Type: text/plain; charset=utf-8', '', `${hostile} ${link}`],
      ...['--b', 'Content-Type: text/html; charset=utf-8', '', `<a href="${link}">${hostile}</a>`],
      ...['--b', `Content-Disposition: attachment; filename="${hostile}.txt"`, 'Content-Type: x/y', '', 'x', '--b--'],
    ]
    await mailboxes.deliver(BAR, mail(...head, 'Content-Type: multipart/mixed; boundary=b', '', ...parts))
    const folder = mailboxes.project.path('hostile')
    const all = ['--last=1', '--list', '--headers', '--html', '--links', '--json', `--save-attachments=${folder}`]
    for (const view of all) {
      for (const isTTY of [false, true]) {
        const { stdout, stderr } = await popOn({ isTTY, columns: 100 }, view)
        assert.notEqual(stdout, '', view)
        // A terminal gets the names of the fields in bold.
        const text = (stdout + stderr).replace(isTTY ? /\x1b\[(1|22)m/g : '', '')
        assert.doesNotMatch(text, /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/, view)
        if (view === '--json') assert.ok(JSON.parse(stdout).text.startsWith(hostile))
      }
    }
  })

  test('what is broken is shown with one warning; a good multipart has none', async () => {
    const broken = mail('Subject: broken', 'Content-Transfer-Encoding: base64', '', 'dGhl!!!IHRleHQ')
    await mailboxes.deliver(FOO, broken, views)
    const { stdout, stderr } = await pop('--account', 'foo')
    assert.match(stdout, /^Subject: broken\n\nthe text$/m)
    assert.match(stderr, /^Mail 1 of foo@.*: .*Shown as far as it goes\.\n$/)
    for (const view of ['--list', '--headers']) assert.equal((await pop('--account', 'foo', view)).stderr, '')
  })

  test('a mail of 10 MB is shown in little memory', async () => {
    const long = `X-Long: ${`${'x'.repeat(70)}\r\n `.repeat(50_000)}`
    const server = await serve('none', { messages: [mail('Subject: immense', long, '', '\x1b'.repeat(7e6))] })
    const options = { env: { NODE_OPTIONS: '--max-old-space-size=384' }, timeout: 300_000 }
    const result = await mailboxes.project.runWith(options, 'pop_email', ...loginAt(server.port), '--json')
    await server.close()
    // Not assert.match, which would print megabytes.
    assert.ok(/u001b/.test(ok(result)))
  })
})

describe('Dovecot', () => {
  beforeEach(() => mailboxes.empty())

  test('every message is saved byte for byte, in every TLS mode', async () => {
    const everyByte = Array.from({ length: 255 }, (_, index) => String.fromCharCode(index + 1)).join('')
    const bodies = [
      '\x93\xfa\x96\x7b\x8c\xea\r\n',
      `${everyByte.replace(/[\r\n]/g, '')}\r\n`,
      '.\r\n..\r\n...\r\n.a\r\n\r\n.\r\n',
      '',
      'The quick brown fox; 0123456789.\r\n'.repeat(300_000),
    ].map((text) => Buffer.from(`Subject: x\r\n\r\n${text}`, 'latin1'))
    await mailboxes.deliver(BAR, ...bodies)
    const { pop3, pop3s } = mailboxes.project.ports
    for (const tls of ['none', 'starttls', 'implicit']) {
      const server = ['--tls', tls, '--port', `${tls === 'implicit' ? pop3s : pop3}`]
      const files = ok(await pop(...server, '--save', mailboxes.project.path(`saved-${tls}`)))
      for (const [index, file] of files.trim().split('\n').entries()) {
        const [raw, body = Buffer.of()] = [readFileSync(file), bodies[index]]
        // Above stand the lines that the server added.
        assert.ok(raw.subarray(12 - body.length).equals(body.subarray(12)), `${tls} ${index}`)
        assert.match(raw.toString('latin1', 0, 200), /^Return-Path: .*\r\nDelivered-To: /)
      }
    }
  })

  test('what another session deletes is known as gone', async () => {
    await mailboxes.deliver(BAR, simple('one'), simple('two'))
    await visit(mailboxes.project, BAR, async (session, messages) => {
      ok(await pop('--subject', 'one', '--delete'))
      const error = await session.retrieve(messages[0] as Pop3Message).catch((thrown) => thrown)
      assert.ok(error instanceof Pop3Refusal && error.isGone, error.message)
      const there = []
      for await (const [message, raw] of session.each(messages, 'TOP')) if (raw) there.push(message)
      assert.deepEqual(there, messages.slice(1))
    })
  })
})
