/** pop_email --wait and --delete: in time, nothing lost, and each reader gets its own. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { connect } from 'node:net'
import { after, before, beforeEach, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { BAR, CATCHALL } from '../scripts/lib/accounts/accounts.ts'
import { until } from './harness.ts'
import { listen } from './listener.ts'
import { loginAt, Mailboxes, ok, pop, simple, subjects } from './mailboxes.ts'
import { type Behaviour, serve } from './pop3_server.ts'
import { sendRaw } from './smtp_raw.ts'

let mailboxes: Mailboxes
before(async () => {
  mailboxes = await Mailboxes.start()
})
after(() => mailboxes.project.remove())
beforeEach(() => mailboxes.empty())
const send = (to: string, content: Buffer) => sendRaw(mailboxes.project.ports.smtp, to, content)

/** A process of its own, for what happens to processes. */
function spawned(...options: string[]) {
  const [program = '', ...args] = mailboxes.project.command('pop_email', ...options)
  return spawn(program, args, { cwd: mailboxes.project.dir, env: mailboxes.project.env })
}

/** What pop_email does with a scripted server, and what that server heard. */
async function popFrom(behaviour: Behaviour, ...args: string[]) {
  const server = await serve('none', behaviour)
  const result = await pop(...loginAt(server.port), ...args)
  await server.close()
  return { ...result, heard: server.heard }
}

describe('--delete', () => {
  test('removes exactly what was shown, and marks nothing before all of it is written out', async () => {
    await mailboxes.deliver(BAR, simple('one'), simple('two'), simple('three'))
    const { stdout, stderr, code } = await pop('--subject', 'two', '--delete')
    assert.deepEqual([subjects(stdout), code], [['two'], 0])
    assert.match(stderr, /Deleted: 1 mail\./)
    assert.deepEqual(subjects(ok(await pop())), ['one', 'three'])
    const { heard } = await popFrom({ messages: [simple('one'), simple('two')] }, '--delete')
    const order = heard.filter((line) => /^(RETR|DELE|QUIT)/.test(line))
    assert.deepEqual(order, ['RETR 1', 'RETR 2', 'QUIT', 'DELE 1', 'DELE 2', 'QUIT'])
  })

  test('keeps everything when the reader goes away, and at Ctrl-C, which exits 130', async () => {
    await mailboxes.deliver(BAR, ...[0, 1].map((index) => simple(`mail ${index}`, 'x\r\n'.repeat(100_000))))
    const [piped, waiting] = [spawned('--delete'), spawned('--delete', '--wait', '20', '--expect', '3')]
    piped.stdout.once('data', () => piped.stdout.destroy())
    waiting.stderr.once('data', () => waiting.kill('SIGINT'))
    const [, code] = await Promise.all([piped, waiting].map((child) => new Promise((end) => child.once('close', end))))
    assert.equal(code, 130)
    assert.equal(mailboxes.count(BAR), 2)
  })

  test('says that the server kept the mail when QUIT fails, in each way that it can', async () => {
    const replies = [
      { QUIT: '-ERR disk full\r\n' },
      { DELE: '-ERR read only\r\n' },
      { QUIT: undefined },
      { QUIT: 'end' },
    ]
    for (const each of replies) {
      const messages = [simple('one'), simple('two')]
      const { code, stdout, stderr } = await popFrom({ messages, replies: each }, '--delete', '--timeout', '1')
      assert.equal(code, 12, stderr)
      assert.deepEqual(subjects(stdout), ['one', 'two'])
      assert.match(stderr, /The server kept the mail that was to be deleted.*: 2 mails of a\./)
    }
  })

  test('one reader at a time: the next one waits, and says what for when the time is up', async () => {
    await mailboxes.deliver(BAR, simple('one', 'x\r\n'.repeat(200_000)))
    // Its pipe is full, and it waits for a reader, as with a pager.
    const first = spawned('--delete')
    await until('it writes', () => first.stdout.readableLength > 0)
    for (const [args, exit] of [
      [['--delete', '--timeout', '0.3'], 1],
      [['--delete', '--wait', '300ms'], 11],
    ] as const) {
      const { code, stderr } = await pop(...args)
      assert.equal(code, exit, stderr)
      assert.match(stderr, /Another pop_email --delete is at work on bar@.*Wait for it, or end it/)
    }
    assert.equal((await pop('--list')).code, 0)
    first.kill('SIGKILL')
    // The claim ends with its holder, however that ends.
    assert.equal(subjects(ok(await pop('--delete')))[0], 'one')
  })
})

describe('a message that another reader deletes meanwhile', () => {
  const gone = { RETR: '-ERR Message 1 expunged.\r\n', TOP: '-ERR Message 1 expunged.\r\n' }
  const views = ['--last=1', '--list', '--headers', '--html', '--links', '--code', '--raw', '--json', '--save=/tmp/no']

  test('is skipped in every view, and none that was waited for; a server in trouble is told', async () => {
    const scripted = { messages: [simple('one')], replies: gone }
    for (const [index, view] of views.entries()) {
      const filter = [[], ['--subject', 'one'], ['--body', 'text']][index % 3] ?? []
      const { code, stdout, stderr, heard } = await popFrom(scripted, view, ...filter, '--delete')
      assert.deepEqual([code, stdout], [0, ''], `${view} ${filter}: ${stderr}`)
      assert.ok(!heard.some((line) => line.startsWith('DELE')))
    }
    assert.equal((await popFrom(scripted, '--wait', '300ms', '--code', '--subject', 'one')).code, 11)
    const trouble = { ...scripted, replies: { RETR: '-ERR [SYS/TEMP] Internal error\r\n' } }
    const { code, stderr } = await popFrom(trouble)
    assert.equal(code, 1)
    assert.match(stderr, /RETR 1 refused: \[SYS\/TEMP\] Internal error/)
  })

  test('of eight readers that wait for eight mails each gets its own, whether or not they are for one address', async () => {
    for (const isSame of [true, false]) {
      const addresses = Array.from({ length: 8 }, (_, index) => `x${isSame ? 0 : index}@gmail.com`)
      const codes = addresses.map((_, index) => String(471_100 + index))
      const reading = addresses.map((address, index) => {
        const args = ['--account', 'catchall', '--to', address, '--wait', '60', '--delete']
        args.push(index % 2 > 0 ? '--json' : '--code')
        // In this process and in others.
        return index > 1 || !isSame ? pop(...args) : mailboxes.project.run('pop_email', ...args)
      })
      for (const [index, code] of codes.entries()) {
        await send(addresses[index] ?? '', simple('code', `Your code is ${code}`))
      }
      const read = (await Promise.all(reading)).map((result) => /4711\d\d/.exec(ok(result))?.[0])
      assert.deepEqual(isSame ? read.sort() : read, codes)
      assert.equal(mailboxes.count(CATCHALL), 0)
    }
  })
})

describe('--wait', () => {
  test('finds mail that comes, in one mailbox or in all; with --new what comes after the call', async () => {
    await mailboxes.deliver(BAR, simple('other'), simple('awaited', 'code 1111'))
    const vain = await pop('--wait', '500ms', '--new')
    assert.equal(vain.code, 11)
    assert.match(vain.stderr, /awaited/)
    for (const account of [[], ['--account', 'bar'], ['--all']]) {
      const waiting = pop(...account, '--wait', '60', '--new', '--subject', 'awaited', '--code', '--delete')
      // Into the next second: what has come in that of the call may be older.
      await sleep(1_100)
      await send(BAR, simple('awaited', 'code 7788'))
      assert.equal(ok(await waiting), '7788\n')
    }
  })

  test('a big mailbox keeps nobody from new mail, and its old mail is found as well', async () => {
    mailboxes.fill(BAR, 1_000)
    const waiting = pop('--wait', '60', '--subject', 'awaited', '--code')
    await send(BAR, simple('awaited', 'code 7788'))
    assert.equal(ok(await waiting), '7788\n')
    assert.deepEqual(subjects(ok(await pop('--wait', '1', '--subject', '/^filled 0$/'))), ['filled 0'])
  })

  test('one expected mail is the newest that matches, where one is shown', async () => {
    for (const n of [1, 2]) await mailboxes.deliver(BAR, simple(`x ${n}`, `code 770${n} https://x.example/${n}`))
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
    for (const [index, [args, expected]] of cases.entries()) {
      const wait = ['--wait=10', '--wait=500ms', '--wait=0s'][index % 3] ?? ''
      assert.match(ok(await pop(wait, ...args)), expected, `${wait} ${args}`)
    }
    // The one that was not shown stays.
    ok(await pop('--wait', '--code', '--delete'))
    assert.deepEqual(subjects(ok(await pop())), ['x 1'])
  })

  test('when the time is up it says what was there instead', async () => {
    await mailboxes.deliver(BAR, simple('日本語 one'), simple('two'))
    const { code, stdout, stderr } = await pop('--all', '--wait', '0', '--subject', 'two', '--expect', '3')
    assert.deepEqual([code, stdout], [11, ''])
    const begin = /^No match after 0 s: 1 of 3 mails.*\ncatchall@.*: 0 mails\n[\s\S]*^bar@.*: 2 mails\n/m
    assert.match(stderr, begin)
    assert.match(stderr, /^ {2}Mailbox .*\n.*bar@.* 日本語 one\n.*two$/m)
  })

  test('a server that comes up meanwhile is waited for; one that never does is told', async () => {
    await mailboxes.deliver(BAR, simple('there'))
    const { port, close } = await listen(() => {})
    await close()
    const vain = await pop('--port', String(port), '--wait', '500ms')
    assert.equal(vain.code, 3, vain.stderr)
    const waiting = pop('--port', String(port), '--wait', '60')
    await sleep(300)
    const proxy = await listen((client) => {
      const upstream = connect(mailboxes.project.ports.pop3, '127.0.0.1')
      client.pipe(upstream).pipe(client)
      upstream.on('error', () => {})
    }, port)
    const result = await waiting
    await proxy.close()
    assert.deepEqual(subjects(ok(result)), ['there'])
  })

  test('a server that is busy is tried again, a refused login is not; one connection at a time', async () => {
    const refusing = (words: string) => popFrom({ replies: { PASS: `-ERR ${words}\r\n` } }, '--wait', '2')
    const [busy, closed] = await Promise.all([
      refusing('[IN-USE] Maximum number of connections'),
      refusing('[AUTH] no'),
    ])
    assert.deepEqual([busy.code, closed.code], [5, 5], busy.stderr)
    const looks = [busy, closed].map(({ heard }) => heard.filter((line) => line.startsWith('PASS')).length)
    // Ten a second at most, one at the beginning and one at the end.
    assert.ok(looks[0] && looks[0] > 1 && looks[0] <= 22 && looks[1] === 1, String(looks))
  })
})
