/** pop_email --wait and --delete: in time, and nothing lost. Scripted servers for what the real one will not do. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { connect } from 'node:net'
import { after, before, beforeEach, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from './harness.ts'
import { BAR, loginAt, Mailboxes, ok, simple, subjects } from './mailboxes.ts'
import { listen, serve } from './pop3_server.ts'
import { sendRaw } from './smtp_raw.ts'

let mailboxes: Mailboxes
before(async () => {
  mailboxes = await Mailboxes.start()
})
after(() => mailboxes.project.remove())

describe('--delete', () => {
  beforeEach(() => mailboxes.empty())

  test('removes exactly what was shown', async () => {
    await mailboxes.deliver(BAR, simple('one'), simple('two'), simple('three'))
    const { stdout, stderr, code } = await mailboxes.pop('--subject', 'two', '--delete')
    assert.deepEqual([subjects(stdout), code], [['two'], 0])
    assert.match(stderr, /Deleted: 1 mail\./)
    assert.deepEqual(subjects(ok(await mailboxes.pop())), ['one', 'three'])
  })

  test('keeps everything when the reader goes away', async () => {
    await mailboxes.deliver(
      BAR,
      ...Array.from({ length: 3 }, (_, index) => simple(`mail ${index}`, 'x\r\n'.repeat(100_000))),
    )
    const child = spawn(process.execPath, ['--import', 'tsx', 'scripts/pop_email.ts', '--delete'], {
      cwd: mailboxes.project.dir,
      env: mailboxes.project.env,
    })
    child.stdout.once('data', () => child.stdout.destroy())
    await new Promise((resolve) => child.once('close', resolve))
    assert.equal(await mailboxes.count(BAR), 3)
  })

  test('keeps everything at Ctrl-C, and exits 130', async () => {
    await mailboxes.deliver(BAR, simple('one', 'x\r\n'.repeat(200_000)), simple('two'))
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', 'scripts/pop_email.ts', '--delete', '--wait', '20', '--expect', '3'],
      {
        cwd: mailboxes.project.dir,
        env: mailboxes.project.env,
      },
    )
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
        const { code, stdout, stderr } = await mailboxes.pop(...loginAt(server.port), '--delete', '--timeout', '0.5')
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
      ok(await mailboxes.pop(...loginAt(server.port), '--delete'))
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
})

describe('--wait', () => {
  beforeEach(() => mailboxes.empty())

  test('ends within 250 ms of the mail being readable', async () => {
    await mailboxes.deliver(BAR, simple('other'))
    for (const account of [[], ['--account', 'bar'], ['--all']]) {
      const waiting = mailboxes.pop(...account, '--wait', '20', '--subject', 'awaited', '--code')
      let ended = 0
      void waiting.then(() => {
        ended = Date.now()
      })
      await sleep(1_500)
      assert.equal(ended, 0)
      const before = await mailboxes.count(BAR)
      await sendRaw(mailboxes.project.ports.smtp, BAR, simple('awaited', 'code 7788'))
      const readable = await until('it is readable', async () =>
        (await mailboxes.count(BAR)) > before ? Date.now() : 0,
      )
      assert.equal(ok(await waiting), '7788\n')
      // What the process needs to end is not part of the promise, but small; a busy machine gets some more.
      assert.ok(ended - readable < 1_000, `${account}: ${ended - readable} ms`)
      ok(await mailboxes.pop('--subject', 'awaited', '--delete'))
    }
  })

  test('mail that was there counts, with --expect for all of them; and 0 only looks', async () => {
    await mailboxes.deliver(BAR, simple('x 1'), simple('x 2'))
    assert.deepEqual(subjects(ok(await mailboxes.pop('--wait', '--expect', '2', '--subject', 'x'))), ['x 1', 'x 2'])
    const missing = await mailboxes.pop('--wait=0', '--expect', '3')
    assert.deepEqual([missing.code, missing.stdout], [11, ''])
    assert.match(missing.stderr, /No match after 0 s: 2 of 3 mails[\s\S]*x 1[\s\S]*x 2/)
  })

  test('--new wants mail that comes after the call', async () => {
    await mailboxes.deliver(BAR, simple('old'))
    const vain = await mailboxes.pop('--wait', '1', '--new')
    assert.equal(vain.code, 11)
    assert.match(vain.stderr, /old/)
    const waiting = mailboxes.pop('--wait', '20', '--new')
    await sleep(1_500)
    await sendRaw(mailboxes.project.ports.smtp, BAR, simple('new'))
    assert.deepEqual(subjects(ok(await waiting)), ['new'])
  })

  test('when the time is up it says what was there instead, and takes no longer', async () => {
    await mailboxes.deliver(BAR, simple('日本語 one'), simple('two'))
    const begin = Date.now()
    const { code, stdout, stderr } = await mailboxes.pop('--all', '--wait', '1', '--subject', 'never')
    assert.deepEqual([code, stdout], [11, ''])
    assert.match(stderr, /^catchall@.*: 0 mails\n[\s\S]*^bar@.*: 2 mails\n.*日本語 one\n.*two$/m)
    assert.ok(Date.now() - begin < 5_000)
  })

  test('a server that comes up meanwhile is waited for; one that never does is told', async () => {
    await mailboxes.deliver(BAR, simple('there'))
    const { server: free, port } = await listen(() => {})
    await new Promise((resolve) => free.close(resolve))
    const vain = await mailboxes.pop('--port', String(port), '--wait', '1')
    assert.equal(vain.code, 3, vain.stderr)
    const waiting = mailboxes.pop('--port', String(port), '--wait', '20')
    await sleep(1_000)
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
      const waitAt = (port: number) => mailboxes.pop(...loginAt(port), '--wait', '3')
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
