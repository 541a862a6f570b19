/** The POP3 client: a scripted server that does what a real one does at its worst, and Dovecot for exactness. */
import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { Failure } from '../scripts/lib/cli.ts'
import { type Pop3Message, Pop3Refusal, Pop3Session, type TlsMode } from '../scripts/lib/mail/pop3.ts'
import { until } from './harness.ts'
import { BAR, Mailboxes } from './mailboxes.ts'
import { type Behaviour, serve as serveMessages } from './pop3_server.ts'

/** Messages as they should come back: dots at the beginnings of lines, terminators inside, nothing at all. */
const MESSAGES = ['Subject: 1\r\n\r\n', '.\r\n..\r\n.a\r\n\r\n.\r\n', '', `\r\n${'\xff\x00\x80.'.repeat(3)}\r\n`].map(
  (text) => Buffer.from(text, 'latin1'),
)
const serve = (tls: TlsMode, behaviour: Behaviour = {}) => serveMessages(tls, { messages: MESSAGES, ...behaviour })

const LOGIN = { user: 'bar@example.com', password: 'pass word ' }
const MODES: TlsMode[] = ['none', 'starttls', 'implicit']

/** Whatever escapes the promises ends a script; so it fails these tests. */
const escaped: unknown[] = []
process.on('uncaughtException', (error) => escaped.push(error))
process.on('unhandledRejection', (error) => escaped.push(error))
after(() => assert.deepEqual(escaped, []))

/** A whole session; everything that is read has to be exact. */
async function wholeSession(server: Parameters<typeof Pop3Session.open>[0]): Promise<void> {
  const session = await Pop3Session.open(server, LOGIN)
  try {
    assert.deepEqual(await session.stat(), { count: 4, bytes: MESSAGES.reduce((sum, { length }) => sum + length, 0) })
    const list = await session.list()
    const expected = MESSAGES.map(({ length: size }, index) => ({ number: index + 1, uidl: `uidl-${index + 1}`, size }))
    assert.deepEqual(list, expected)
    for (const message of list) assert.deepEqual(await session.retrieve(message), MESSAGES[message.number - 1])
    assert.deepEqual(await session.top(list[0] as Pop3Message), MESSAGES[0])
    for await (const [{ number }, body] of session.each(list, 'RETR')) assert.deepEqual(body, MESSAGES[number - 1])
    await session.delete(list[1] as Pop3Message)
    await session.quit()
  } finally {
    session.close()
  }
}

/** Runs a whole session and expects that it fails with this exit, and without anything beside. */
async function failsWith(tls: TlsMode, behaviour: Behaviour, exit: string | RegExp, timeout = 150): Promise<Failure> {
  const server = await serve(tls, behaviour)
  try {
    const error = await wholeSession(server.at(timeout)).then(
      () => assert.fail(`the session did not fail: ${JSON.stringify(behaviour).slice(0, 100)}`),
      (thrown: unknown) => thrown,
    )
    assert.ok(error instanceof Failure, String(error instanceof Error ? error.stack : error))
    if (typeof exit === 'string') assert.equal(error.exit, exit, error.message)
    else assert.match(error.exit, exit, error.message)
    assert.match(error.message, /^POP3 on 127\.0\.0\.1:\d+: /)
    await until('the connection is closed', async () => (await server.connections()) === 0)
    return error
  } finally {
    await server.close()
  }
}

for (const tls of MODES) {
  describe(`a scripted server, TLS ${tls}`, () => {
    const phases = ['greeting', 'STLS', 'USER', 'PASS', 'STAT', 'LIST', 'UIDL', 'RETR', 'TOP', 'DELE', 'QUIT']
    const spoken = phases.filter((name) => name !== 'STLS' || tls === 'starttls')

    test('a session is exact however the replies are cut in two, or byte by byte', async () => {
      let position = 0
      let sent = 0
      const inTwo = async (socket: Socket, bytes: Buffer) => {
        const cut = position - sent
        sent += bytes.length
        if (cut <= 0 || cut >= bytes.length) return void socket.write(bytes)
        socket.write(bytes.subarray(0, cut))
        await sleep(1)
        socket.write(bytes.subarray(cut))
      }
      const server = await serve(tls, { write: inTwo })
      for (; position === 0 || position < sent; position++) {
        sent = 0
        await wholeSession(server.at())
      }
      await server.close()
      assert.ok(position > 200)
      const write = async (socket: Socket, bytes: Buffer) => {
        for (const byte of bytes) {
          socket.write(Buffer.of(byte))
          await turn()
        }
      }
      const slow = await serve(tls, { write })
      await wholeSession(slow.at())
      await slow.close()
    })

    test('the login reaches the server with all its spaces and letters', async () => {
      const server = await serve(tls)
      await (await Pop3Session.open(server.at(), { user: ' ü', password: ' a  ü ' })).quit()
      await server.close()
      const expected = ['USER  ü', 'PASS  a  ü ', 'QUIT'].map((line) => Buffer.from(line).toString('latin1'))
      const heard = server.heard.filter((line) => line !== 'STLS')
      assert.deepEqual(heard, expected)
    })

    test('silence, an end, a reset, -ERR and what is no POP3 are told at every command', async () => {
      const inHandshake = /^(connection|tls)$/
      const refusals: Record<string, string> = { greeting: 'connection', STLS: 'tls', USER: 'login', PASS: 'login' }
      for (const phase of spoken) {
        await failsWith(tls, { replies: { [phase]: undefined } }, 'timeout')
        const exit = phase === 'STLS' || (phase === 'greeting' && tls === 'implicit') ? inHandshake : 'connection'
        await failsWith(tls, { closeAt: phase }, exit)
        await failsWith(tls, { closeAt: phase, how: 'reset' }, exit)
        const replies = { [phase]: '-ERR because\r\n' }
        const error = await failsWith(tls, { replies }, refusals[phase] ?? 'failed', 1_000)
        assert.match(error.message, /because/)
        const strange = ['HTTP/1.1 400 Bad Request\r\n', '\x1b[2J\r\n', '+OKAY\r\n', `+OK ${'x'.repeat(100_000)}`]
        for (const reply of strange) {
          const { message } = await failsWith(tls, { replies: { [phase]: reply } }, inHandshake, 1_000)
          assert.doesNotMatch(message, /[\x00-\x09\x0b-\x1f]/)
        }
      }
    })

    test('half a message and then silence, or the end, or drops for ever, are told', async () => {
      await failsWith(tls, { replies: { RETR: '+OK\r\nSubject: x\r\n\r\n.' } }, 'timeout')
      const cutOff = async (socket: Socket, bytes: Buffer) => {
        if (bytes.length < 60) socket.write(bytes)
        else socket.end(bytes.subarray(0, -3))
      }
      await failsWith(tls, { write: cutOff, replies: { RETR: `+OK\r\n${'x'.repeat(100)}\r\n.\r\n` } }, 'connection')
      const drip = async (socket: Socket, bytes: Buffer) => {
        if (!bytes.includes('drip')) return void socket.write(bytes)
        for (let count = 0; count < 1_000 && !socket.destroyed; count++) {
          socket.write('x')
          await sleep(20)
        }
      }
      for (const phase of ['RETR', 'greeting']) {
        await failsWith(tls, { write: drip, replies: { [phase]: 'drip' } }, /^(timeout|connection)$/, 300)
      }
    })

    test('many are read exactly, by pipelining where the server knows it; the loop can be left early', async () => {
      const many = Array.from({ length: 60 }, (_, index) => MESSAGES[index % MESSAGES.length] as Buffer)
      for (const CAPA of ['+OK\r\nPIPELINING\r\n.\r\n', '+OK\r\n.\r\n', '-ERR what?\r\n']) {
        const server = await serve(tls, { messages: many, replies: { CAPA } })
        const session = await Pop3Session.open(server.at(), LOGIN)
        const list = await session.list()
        for await (const [{ number }, body] of session.each(list, 'RETR')) {
          assert.deepEqual(body, many[number - 1])
          if (CAPA.includes('PIPELINING')) assert.equal(server.heard.filter((line) => /^RETR/.test(line)).length, 60)
        }
        for await (const [{ number }] of session.each(list, 'TOP')) if (number === 30) break
        assert.deepEqual(await session.retrieve(list[1] as Pop3Message), MESSAGES[1])
        await session.quit()
        await server.close()
      }
    })
  })
}

describe('what only one server does', () => {
  test('nobody listens; no DNS knows the name; TLS meets none, and the other way about', async () => {
    const [plain, secure, closed] = [await serve('none'), await serve('implicit'), await serve('none')]
    await closed.close()
    const cases: [Parameters<typeof Pop3Session.open>[0], RegExp, RegExp][] = [
      ...MODES.map((tls): (typeof cases)[0] => [{ ...closed.at(), tls }, /^connection$/, /REFUSED.*npm run status/]),
      [{ host: 'no-such-host.invalid', port: 110, tls: 'none', timeout: 5_000 }, /^(connection|timeout)$/, /invalid/],
      [{ ...plain.at(1_000), tls: 'implicit' }, /^tls$/, /./],
      [{ ...secure.at(300), tls: 'none' }, /^(timeout|connection)$/, /./],
    ]
    for (const [server, exit, message] of cases) {
      const error = await Pop3Session.open(server, LOGIN).catch((thrown) => thrown)
      assert.match(error.exit, exit, error.message)
      assert.match(error.message, message)
    }
    await Promise.all([plain.close(), secure.close()])
  })

  test('silence in the handshake, and clear text behind STLS, are told', async () => {
    await failsWith('starttls', { deafAfterStls: true }, 'timeout')
    const error = await failsWith('starttls', { replies: { STLS: '+OK\r\n+OK injected\r\n' } }, 'tls')
    assert.match(error.message, /between STLS and TLS/)
  })

  test('a refused login names the user and never the password; a refusal for the moment is known as one', async () => {
    for (const [reply, isTemporary] of [
      ['[AUTH] no', false],
      ['[IN-USE] too many', true],
      ['[SYS/TEMP] later', true],
    ] as const) {
      const error = await failsWith('none', { replies: { PASS: `-ERR ${reply}\r\n` } }, 'login', 1_000)
      assert.ok(error instanceof Pop3Refusal)
      assert.equal(error.isTemporary, isTemporary)
      assert.match(error.message, /bar@example\.com/)
      assert.doesNotMatch(error.message, /pass word/)
    }
    const server = await serve('none')
    const attempt = Pop3Session.open(server.at(), { user: 'a', password: 'x\r\nDELE 1' })
    await assert.rejects(attempt, { exit: 'usage' })
    assert.deepEqual(server.heard, [])
    await server.close()
  })

  test('listings that do not agree, or are about another message, are told', async () => {
    const cases: [Record<string, string>, number | undefined, string][] = [
      [{ UIDL: '+OK\r\n9 zz\r\n.\r\n' }, undefined, 'connection'],
      [{ UIDL: '+OK\r\nnonsense\r\n.\r\n' }, undefined, 'connection'],
      [{ LIST: '+OK 1 7\r\n' }, 1, 'connection'],
      [{ LIST: '+OK 2 many\r\n' }, 1, 'connection'],
      [{ LIST: '+OK 2 7\r\n', UIDL: '+OK\r\n' }, 1, 'connection'],
      [{ LIST: '-ERR no such message\r\n' }, 1, 'failed'],
    ]
    for (const [replies, limit, exit] of cases) {
      const server = await serve('none', { replies: { STAT: '+OK 2 14\r\n', ...replies } })
      const session = await Pop3Session.open(server.at(), { user: 'u', password: 'p' })
      await assert.rejects(session.list(limit), { exit }, JSON.stringify(replies))
      session.close()
      await server.close()
    }
  })
})

describe('Dovecot', () => {
  let mailboxes: Mailboxes
  before(async () => {
    mailboxes = await Mailboxes.start()
  })
  after(() => mailboxes.project.remove())
  const openAt = (tls: TlsMode, password = 'foo') => {
    const port = mailboxes.project.ports[tls === 'implicit' ? 'pop3s' : 'pop3']
    return Pop3Session.open({ host: '127.0.0.1', port, tls, timeout: 10_000 }, { user: BAR, password })
  }

  test('gives back every message byte for byte, in every TLS mode', async () => {
    const line = 'The quick brown fox jumps over the lazy dog; 0123456789 ABCDEFGHIJ.\r\n'
    const everyByte = Array.from({ length: 255 }, (_, index) => String.fromCharCode(index + 1)).join('')
    const bodies = [
      '\x93\xfa\x96\x7b\x8c\xea\r\n',
      `${everyByte.replace(/[\r\n]/g, '')}\r\n`,
      '.\r\n..\r\n...\r\n.a\r\n\r\n.\r\n',
      '',
      line.repeat(Math.ceil(20e6 / line.length)),
    ].map((text) => Buffer.from(`Subject: x\r\n\r\n${text}`, 'latin1'))
    await mailboxes.deliver(BAR, ...bodies)
    for (const tls of MODES) {
      const session = await openAt(tls)
      const list = await session.list()
      assert.equal(list.length, bodies.length)
      for (const [index, message] of list.entries()) {
        const raw = await session.retrieve(message)
        const body = bodies[index] as Buffer
        assert.equal(raw.length, message.size)
        // Above stand the lines that the server added.
        assert.ok(raw.subarray(raw.length - body.length + 12).equals(body.subarray(12)), `${tls} ${index}`)
        assert.match(raw.toString('latin1', 0, 200), /^Return-Path: .*\r\nDelivered-To: /)
      }
      for (const limit of [1, 2, list.length, 100, 101]) {
        assert.deepEqual(await session.list(limit), list.slice(-limit), `newest ${limit}`)
      }
      await session.quit()
    }
  })

  test('a wrong password is refused, and the next session works', async () => {
    await assert.rejects(openAt('none', 'wrong'), { exit: 'login' })
    await (await openAt('none')).quit()
  })

  test('deletes at quit and only then; what another session deletes is known as gone', async () => {
    const [first, second] = [await openAt('none'), await openAt('none')]
    const messages = await first.list()
    const [oldest] = messages as [Pop3Message]
    for (const message of messages) await first.delete(message)
    first.close()
    assert.equal((await second.list()).length, messages.length)
    const third = await openAt('none')
    await second.delete(oldest)
    await second.quit()
    for (const command of ['retrieve', 'top'] as const) {
      const error = await third[command](oldest).catch((thrown) => thrown)
      assert.ok(error instanceof Pop3Refusal && error.isGone, error.message)
    }
    const there = []
    for await (const [{ uidl }, raw] of third.each(messages, 'TOP')) if (raw) there.push(uidl)
    assert.deepEqual(
      there,
      messages.slice(1).map(({ uidl }) => uidl),
    )
    third.close()
  })
})
