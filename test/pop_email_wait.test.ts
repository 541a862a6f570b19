/** pop_email --wait and --delete: in time, nothing lost, and each reader gets its own. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { connect } from 'node:net'
import { after, before, beforeEach, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from './harness.ts'
import { BAR, CATCHALL, loginAt, Mailboxes, ok, simple, subjects } from './mailboxes.ts'
import { listen, serve } from './pop3_server.ts'
import { sendRaw } from './smtp_raw.ts'

let mailboxes: Mailboxes
before(async () => {
  mailboxes = await Mailboxes.start()
})
after(() => mailboxes.project.remove())
beforeEach(() => mailboxes.empty())
const pop = (...args: string[]) => mailboxes.pop(...args)

/** A process of its own, for what happens to processes. */
function spawned(...args: string[]) {
  const { dir, env } = mailboxes.project
  return spawn(process.execPath, ['scripts/pop_email.js', ...args], { cwd: dir, env })
}

describe('--delete', () => {
  test('removes exactly what was shown', async () => {
    await mailboxes.deliver(BAR, simple('one'), simple('two'), simple('three'))
    const { stdout, stderr, code } = await pop('--subject', 'two', '--delete')
    assert.deepEqual([subjects(stdout), code], [['two'], 0])
    assert.match(stderr, /Deleted: 1 mail\./)
    assert.deepEqual(subjects(ok(await pop())), ['one', 'three'])
  })

  test('keeps everything when the reader goes away', async () => {
    const large = [0, 1, 2].map((index) => simple(`mail ${index}`, 'x\r\n'.repeat(100_000)))
    await mailboxes.deliver(BAR, ...large)
    const child = spawned('--delete')
    child.stdout.once('data', () => child.stdout.destroy())
    await new Promise((resolve) => child.once('close', resolve))
    assert.equal(await mailboxes.count(BAR), 3)
  })

  test('keeps everything at Ctrl-C, and exits 130', async () => {
    await mailboxes.deliver(BAR, simple('one'), simple('two'))
    const child = spawned('--delete', '--wait', '20', '--expect', '3')
    child.stderr.once('data', () => child.kill('SIGINT'))
    const code = await new Promise((resolve) => child.once('close', resolve))
    assert.equal(code, 130)
    assert.equal(await mailboxes.count(BAR), 2)
  })

  test('says that the server kept the mail when QUIT fails, in each way that it can', async () => {
    const messages = [simple('one'), simple('two')]
    for (const behaviour of [
      { replies: { QUIT: '-ERR disk full\r\n' } },
      { closeAt: 'QUIT' },
      { replies: { QUIT: undefined } },
      { replies: { DELE: '-ERR read only\r\n' } },
    ]) {
      const server = await serve('none', { messages, ...behaviour })
      try {
        const { code, stdout, stderr } = await pop(...loginAt(server.port), '--delete', '--timeout', '0.5')
        assert.equal(code, 12, stderr)
        assert.deepEqual(subjects(stdout), ['one', 'two'])
        assert.match(stderr, /The server kept the mail that was to be deleted.*: 2 mails of a\./)
      } finally {
        await server.close()
      }
    }
  })

  test('marks nothing before all of it is written out', async () => {
    const server = await serve('none', { messages: [simple('one'), simple('two')] })
    try {
      ok(await pop(...loginAt(server.port), '--delete'))
      const words = server.heard.map((line) => line.split(' ')[0])
      assert.ok(words.indexOf('DELE') > words.lastIndexOf('RETR'))
      assert.deepEqual(
        server.heard.filter((line) => line.startsWith('DELE')),
        ['DELE 1', 'DELE 2'],
      )
    } finally {
      await server.close()
    }
  })

  test('one reader at a time: the next one waits, and says what for when the time is up', async () => {
    await mailboxes.deliver(BAR, simple('one', 'x\r\n'.repeat(200_000)))
    // Its pipe is full, and it waits for a reader, as with a pager.
    const first = spawned('--delete')
    await until('it writes', () => first.stdout.readableLength > 0)
    const { code, stderr } = await pop('--delete', '--timeout', '0.3')
    assert.equal(code, 1)
    assert.match(stderr, /Another pop_email --delete is at work on bar@.*Wait for it, or end it/)
    assert.equal((await pop('--wait', '300ms', '--delete')).code, 11)
    assert.equal((await pop('--list')).code, 0)
    first.kill('SIGKILL')
    // The claim ends with its holder, however that ends.
    assert.equal(subjects(ok(await pop('--delete')))[0], 'one')
  })
})

describe('a message that another reader deletes meanwhile', () => {
  const gone = { RETR: '-ERR Message 1 expunged.\r\n', TOP: '-ERR Message 1 expunged.\r\n' }
  const views = [
    '--last=1',
    '--list',
    '--headers',
    '--html',
    '--links',
    '--code',
    '--raw',
    '--json',
    '--save=/tmp/never',
  ]

  test('is skipped in every view; a server in trouble is told', async () => {
    for (const view of views) {
      for (const filter of [[], ['--subject', 'one'], ['--body', 'text']]) {
        const server = await serve('none', { messages: [simple('one')], replies: gone })
        const { code, stdout, stderr } = await pop(...loginAt(server.port), view, ...filter, '--delete')
        await server.close()
        assert.deepEqual([code, stdout], [0, ''], `${view} ${filter}: ${stderr}`)
        assert.ok(!server.heard.some((line) => line.startsWith('DELE')))
      }
    }
    const replies = { RETR: '-ERR [SYS/TEMP] Internal error\r\n' }
    const server = await serve('none', { messages: [simple('one')], replies })
    const { code, stderr } = await pop(...loginAt(server.port))
    await server.close()
    assert.equal(code, 1)
    assert.match(stderr, /RETR 1 refused: \[SYS\/TEMP\] Internal error/)
  })

  test('is none that was waited for', async () => {
    const server = await serve('none', { messages: [simple('one')], replies: gone })
    for (const filter of [[], ['--subject', 'one']]) {
      const { code, stderr } = await pop(...loginAt(server.port), '--wait', '300ms', '--code', ...filter)
      assert.equal(code, 11, stderr)
    }
    await server.close()
  })

  test('deletions by others while a real mailbox is read, in every view', async () => {
    const mails = Array.from({ length: 40 }, (_, index) => simple(`n${index}`, 'code 4711 https://x.example/'))
    await mailboxes.deliver(BAR, ...mails)
    const deleting = mailboxes.visit(BAR, async (session) => {
      for (const message of await session.list()) {
        await mailboxes.visit(BAR, async (other) => {
          const same = (await other.list()).find(({ uidl }) => uidl === message.uidl)
          if (same) await other.delete(same)
        })
      }
    })
    let isOver = false
    void deleting.finally(() => {
      isOver = true
    })
    for (let round = 0; !isOver; round++) {
      const view = views[round % (views.length - 1)] ?? ''
      const { code, stderr } = await pop(view, '--subject', 'n')
      // Nothing to show where the last one has no HTML.
      assert.ok(code === 0 || (code === 1 && /^Nothing to show/m.test(stderr)), `${view}: ${code} ${stderr}`)
    }
    await deleting
  })

  test('of eight readers that wait for eight mails each gets its own, whether or not they are for one address', async () => {
    for (const isSame of [true, false]) {
      const addresses = Array.from({ length: 8 }, (_, index) => `x${isSame ? 0 : index}@gmail.com`)
      const codes = addresses.map((_, index) => String(471_100 + index))
      const reading = addresses.map((address, index) => {
        const args = [
          '--account',
          'catchall',
          '--to',
          address,
          '--wait',
          '60',
          index % 2 > 0 ? '--json' : '--code',
          '--delete',
        ]
        // In this process and in others.
        return index % 4 > 0 ? pop(...args) : mailboxes.project.run('pop_email', ...args)
      })
      const sending = addresses.map((address, index) =>
        sendRaw(mailboxes.project.ports.smtp, address, simple('code', `Your code is ${codes[index]}`)),
      )
      const read = (await Promise.all(reading)).map((result) =>
        ok(result)
          .match(/4711\d\d/g)
          ?.at(0),
      )
      await Promise.all(sending)
      assert.deepEqual(isSame ? read.sort() : read, codes)
      assert.equal(await mailboxes.count(CATCHALL), 0)
    }
  })
})

describe('--wait', () => {
  test('finds mail that comes, in one mailbox or in all', async () => {
    await mailboxes.deliver(BAR, simple('other'))
    for (const account of [[], ['--account', 'bar'], ['--all']]) {
      let isOver = false
      const waiting = pop(...account, '--wait', '60', '--subject', 'awaited', '--code', '--delete').finally(() => {
        isOver = true
      })
      await sleep(500)
      assert.equal(isOver, false)
      await sendRaw(mailboxes.project.ports.smtp, BAR, simple('awaited', 'code 7788'))
      assert.equal(ok(await waiting), '7788\n')
    }
  })

  test('a big mailbox keeps nobody from new mail, and its old mail is found as well', async () => {
    await mailboxes.fill(BAR, 3_000)
    const waiting = pop('--wait', '60', '--subject', 'awaited', '--code')
    await sendRaw(mailboxes.project.ports.smtp, BAR, simple('awaited', 'code 7788'))
    assert.equal(ok(await waiting), '7788\n')
    assert.deepEqual(subjects(ok(await pop('--wait', '1', '--subject', '/^filled 0$/'))), ['filled 0'])
  })

  test('one expected mail is the newest that matches, where one is shown', async () => {
    for (const n of [1, 2]) {
      await mailboxes.deliver(BAR, simple(`x ${n}`, `code 770${n} https://x.example/${n}`))
    }
    const cases: [string[], RegExp][] = [
      [['--code'], /^7702\n$/],
      [['--links'], /^https:\/\/x\.example\/2\n$/],
      [['--raw'], /^(?![\s\S]*x 1)[\s\S]*Subject: x 2/],
      [[], /^From: .*\n.*\n.*\nSubject: x 2\n/],
      [['--all', '--code'], /^7702\n$/],
      [['--expect', '1', '--code'], /^7702\n$/],
      [['--expect', '2', '--code'], /^7701\n7702\n$/],
      [['--list'], /^No.*\n1 .*x 1\n2 .*x 2\n$/],
      [['--subject', 'x 1', '--code'], /^7701\n$/],
    ]
    for (const [args, expected] of cases) {
      for (const wait of ['--wait=10', '--wait=500ms', '--wait=0s'])
        assert.match(ok(await pop(wait, ...args)), expected, String(args))
    }
    // The one that was not shown stays.
    ok(await pop('--wait', '--code', '--delete'))
    assert.deepEqual(subjects(ok(await pop())), ['x 1'])
    const missing = await pop('--wait=0', '--expect', '3')
    assert.deepEqual([missing.code, missing.stdout], [11, ''])
    assert.match(missing.stderr, /No match after 0 s: 1 of 3 mails[\s\S]*x 1/)
  })

  test('--new wants mail that comes after the call', async () => {
    await mailboxes.deliver(BAR, simple('old'))
    const vain = await pop('--wait', '1', '--new')
    assert.equal(vain.code, 11)
    assert.match(vain.stderr, /old/)
    const waiting = pop('--wait', '60', '--new')
    await sleep(1_500)
    await sendRaw(mailboxes.project.ports.smtp, BAR, simple('new'))
    assert.deepEqual(subjects(ok(await waiting)), ['new'])
  })

  test('when the time is up it says what was there instead', async () => {
    await mailboxes.deliver(BAR, simple('日本語 one'), simple('two'))
    const { code, stdout, stderr } = await pop('--all', '--wait', '1', '--subject', 'never')
    assert.deepEqual([code, stdout], [11, ''])
    assert.match(stderr, /^catchall@.*: 0 mails\n[\s\S]*^bar@.*: 2 mails\n {2}No .*\n.*日本語 one\n.*two$/m)
  })

  test('a server that comes up meanwhile is waited for; one that never does is told', async () => {
    await mailboxes.deliver(BAR, simple('there'))
    const { server: free, port } = await listen(() => {})
    await new Promise((resolve) => free.close(resolve))
    const vain = await pop('--port', String(port), '--wait', '1')
    assert.equal(vain.code, 3, vain.stderr)
    const waiting = pop('--port', String(port), '--wait', '60')
    await sleep(500)
    const proxy = await listen((client) => {
      const upstream = connect(mailboxes.project.ports.pop3, '127.0.0.1')
      client.pipe(upstream).pipe(client)
      client.on('error', () => {})
      upstream.on('error', () => {})
    }, port)
    try {
      assert.deepEqual(subjects(ok(await waiting)), ['there'])
    } finally {
      proxy.server.close()
    }
  })

  test('a server that is busy is tried again, a refused login is not; one connection at a time', async () => {
    const busy = await serve('none', { replies: { PASS: '-ERR [IN-USE] Maximum number of connections\r\n' } })
    const closed = await serve('none', { replies: { PASS: '-ERR [AUTH] no\r\n' } })
    try {
      const waitAt = (port: number) => pop(...loginAt(port), '--wait', '3')
      const [tried, refused] = await Promise.all([waitAt(busy.port), waitAt(closed.port)])
      assert.equal(tried.code, 5, tried.stderr)
      const looks = busy.heard.filter((line) => line.startsWith('PASS')).length
      assert.ok(looks > 2 && looks <= 31, String(looks))
      assert.equal(refused.code, 5)
      assert.equal(closed.heard.filter((line) => line.startsWith('PASS')).length, 1)
    } finally {
      await Promise.all([busy.close(), closed.close()])
    }
  })
})
