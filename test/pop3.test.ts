/** The POP3 client: a scripted server that does what a real one does at its worst, and Dovecot for exactness. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../scripts/lib/cli.ts'
import { Pop3Refusal, Pop3Session, type TlsMode } from '../scripts/lib/mail/pop3.ts'
import { Project, until } from './harness.ts'
import { type Behaviour, serve as serveMessages } from './pop3_server.ts'
import { sendRaw } from './smtp_raw.ts'

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

/** A whole session; gives what was read. */
async function wholeSession(server: { host: string; port: number; tls: TlsMode; timeout: number }) {
  const session = await Pop3Session.open(server, LOGIN)
  try {
    const stat = await session.stat()
    const list = await session.list()
    const bodies = []
    for (const message of list) bodies.push(await session.retrieve(message))
    const top = await session.top(list[0] as (typeof list)[0])
    for await (const [message, body] of session.each(list, 'RETR')) assert.deepEqual(body, bodies[message.number - 1])
    await session.delete(list[1] as (typeof list)[0])
    await session.quit()
    return { stat, list, bodies, top }
  } finally {
    session.close()
  }
}

function assertExact({ stat, list, bodies, top }: Awaited<ReturnType<typeof wholeSession>>): void {
  assert.deepEqual(stat, { count: 4, bytes: MESSAGES.reduce((sum, { length }) => sum + length, 0) })
  assert.deepEqual(
    list.map(({ number, uidl, size }) => [number, uidl, size]),
    MESSAGES.map(({ length }, index) => [index + 1, `uidl-${index + 1}`, length]),
  )
  for (const [index, message] of MESSAGES.entries()) assert.deepEqual(bodies[index], message)
  assert.deepEqual(top, MESSAGES[0])
}

after(() => assert.deepEqual(escaped, []))

for (const tls of MODES) {
  describe(`a scripted server, TLS ${tls}`, () => {
    test('a session is exact however the replies are cut in two', async () => {
      let position = 0
      let sent = 0
      const write = async (socket: Socket, bytes: Buffer) => {
        const cut = position - sent
        sent += bytes.length
        if (cut <= 0 || cut >= bytes.length) return void socket.write(bytes)
        socket.write(bytes.subarray(0, cut))
        await sleep(2)
        socket.write(bytes.subarray(cut))
      }
      const server = await serve(tls, { write })
      try {
        do {
          sent = 0
          position++
          assertExact(await wholeSession(server.at()))
        } while (position < sent)
        assert.ok(position > 200)
      } finally {
        await server.close()
      }
    })

    test('a session is exact byte by byte', async () => {
      const server = await serve(tls, {
        write: async (socket, bytes) => {
          for (const byte of bytes) {
            socket.write(Buffer.of(byte))
            await new Promise((resolve) => setImmediate(resolve))
          }
        },
      })
      try {
        assertExact(await wholeSession(server.at()))
      } finally {
        await server.close()
      }
    })

    test('the login reaches the server with all its spaces and letters', async () => {
      const server = await serve(tls)
      try {
        await (await Pop3Session.open(server.at(), { user: ' ü', password: ' a  ü ' })).quit()
        const expected = ['USER  ü', 'PASS  a  ü ', 'QUIT'].map((line) => Buffer.from(line).toString('latin1'))
        assert.deepEqual(
          server.heard.filter((line) => line !== 'STLS'),
          expected,
        )
      } finally {
        await server.close()
      }
    })

    const phases = ['greeting', 'STLS', 'USER', 'PASS', 'STAT', 'LIST', 'UIDL', 'RETR', 'TOP', 'DELE', 'QUIT']
    for (const phase of phases.filter((name) => name !== 'STLS' || tls === 'starttls')) {
      test(`silence at ${phase} is a time out`, async () => {
        await failsWith(tls, { replies: { [phase]: undefined } }, 'timeout')
      })
      test(`a closed connection at ${phase} is told`, async () => {
        const exit =
          phase === 'STLS' || (phase === 'greeting' && tls === 'implicit') ? /^(connection|tls)$/ : 'connection'
        await failsWith(tls, { closeAt: phase }, exit)
        await failsWith(tls, { closeAt: phase, how: 'reset' }, exit)
      })
      test(`-ERR at ${phase} is told in the server's words`, async () => {
        const exits: Record<string, string> = { greeting: 'connection', STLS: 'tls', USER: 'login', PASS: 'login' }
        const error = await failsWith(tls, { replies: { [phase]: '-ERR because\r\n' } }, exits[phase] ?? 'failed')
        assert.match(error.message, /because/)
      })
      test(`something that is not POP3 at ${phase} is told`, async () => {
        const exits = phase === 'STLS' ? /^(tls|connection)$/ : 'connection'
        for (const reply of [
          'HTTP/1.1 400 Bad Request\r\n',
          '\x1b[2J\r\n',
          '+OKAY\r\n',
          `+OK ${'x'.repeat(100_000)}`,
        ]) {
          const error = await failsWith(tls, { replies: { [phase]: reply } }, exits, 1_000)
          assert.doesNotMatch(error.message, /[\x00-\x1f]/)
        }
      })
    }

    test('many are read exactly, by pipelining where the server knows it, and the loop can be left early', async () => {
      const many = Array.from({ length: 60 }, (_, index) => MESSAGES[index % MESSAGES.length] as Buffer)
      for (const CAPA of ['+OK\r\nPIPELINING\r\n.\r\n', '+OK\r\n.\r\n', '-ERR what?\r\n']) {
        const server = await serve(tls, { messages: many, replies: { CAPA, STLS: '+OK\r\n' } })
        try {
          const session = await Pop3Session.open(server.at(), LOGIN)
          const list = await session.list()
          for await (const [{ number }, body] of session.each(list, 'RETR')) {
            assert.deepEqual(body, many[number - 1])
            if (CAPA.includes('PIPELINING')) assert.equal(server.heard.filter((line) => /^RETR/.test(line)).length, 60)
          }
          for await (const [{ number }] of session.each(list, 'TOP')) if (number === 30) break
          assert.deepEqual(await session.retrieve(list[1] as (typeof list)[0]), MESSAGES[1])
          await session.quit()
        } finally {
          await server.close()
        }
      }
    })

    test('half a message and then silence, or the end, is told', async () => {
      await failsWith(tls, { replies: { RETR: '+OK\r\nSubject: x\r\n\r\n.' } }, 'timeout')
      const write = async (socket: Socket, bytes: Buffer) => {
        if (bytes.length < 60) return void socket.write(bytes)
        socket.end(bytes.subarray(0, -3))
      }
      await failsWith(tls, { write, replies: { RETR: `+OK\r\n${'x'.repeat(100)}\r\n.\r\n` } }, 'connection')
    })

    test('a server that drips for ever is given up', async () => {
      const write = async (socket: Socket, bytes: Buffer) => {
        if (!bytes.includes('drip')) return void socket.write(bytes)
        for (let count = 0; count < 100 && !socket.destroyed; count++) {
          socket.write('x')
          await sleep(20)
        }
      }
      await failsWith(tls, { write, replies: { RETR: 'drip' } }, /^(timeout|connection)$/, 300)
      await failsWith(tls, { write, replies: { greeting: 'drip' } }, /^(timeout|connection)$/, 300)
    })

    test('no connection stays open behind a failure', async () => {
      const server = await serve(tls, { replies: { PASS: '-ERR no\r\n' } })
      try {
        await assert.rejects(Pop3Session.open(server.at(), LOGIN))
        await until('the connection is closed', async () => (await server.connections()) === 0, 2_000)
      } finally {
        await server.close()
      }
    })
  })
}

/** Runs a whole session and expects that it fails with this exit, in time, and without anything beside. */
async function failsWith(tls: TlsMode, behaviour: Behaviour, exit: string | RegExp, timeout = 150): Promise<Failure> {
  const server = await serve(tls, behaviour)
  try {
    const begin = Date.now()
    // A whole session may take long on a busy machine; the silent phase alone counts.
    const error = await wholeSession(server.at(timeout)).then(
      () => assert.fail('the session did not fail'),
      (thrown: unknown) => thrown,
    )
    assert.ok(error instanceof Failure, String(error instanceof Error ? error.stack : error))
    if (typeof exit === 'string') assert.equal(error.exit, exit, error.message)
    else assert.match(error.exit, exit, error.message)
    assert.ok(Date.now() - begin < timeout + 5_000)
    assert.match(error.message, /^POP3 on 127\.0\.0\.1:\d+: /)
    return error
  } finally {
    await server.close()
  }
}

describe('what only one server does', () => {
  test('nobody listens: no connection, with or without TLS', async () => {
    const server = await serve('none')
    const { port } = server.at()
    await server.close()
    for (const tls of MODES) {
      const error = await Pop3Session.open({ host: '127.0.0.1', port, tls, timeout: 1_000 }, LOGIN).catch((e) => e)
      assert.equal(error.exit, 'connection', error.message)
      assert.match(error.message, /ECONNREFUSED.*npm run status/)
    }
  })

  test('a name that no DNS knows is told', async () => {
    const error = await Pop3Session.open(
      { host: 'no-such-host.invalid', port: 110, tls: 'none', timeout: 5_000 },
      LOGIN,
    ).catch((e) => e)
    assert.match(error.exit, /^(connection|timeout)$/, error.message)
  })

  test('TLS to a server that speaks none, and the other way about', async () => {
    const plain = await serve('none')
    const secure = await serve('implicit')
    try {
      const first = await Pop3Session.open({ ...plain.at(1_000), tls: 'implicit' }, LOGIN).catch((e) => e)
      assert.match(first.exit, /^tls$/, first.message)
      const second = await Pop3Session.open({ ...secure.at(300), tls: 'none' }, LOGIN).catch((e) => e)
      assert.match(second.exit, /^(timeout|connection)$/, second.message)
    } finally {
      await Promise.all([plain.close(), secure.close()])
    }
  })

  test('silence in the handshake, and clear text behind STLS, are told', async () => {
    await failsWith('starttls', { deafAfterStls: true }, 'timeout')
    const error = await failsWith('starttls', { replies: { STLS: '+OK\r\n+OK injected\r\n' } }, 'tls')
    assert.match(error.message, /between STLS and TLS/)
  })

  test('the password is in no message, and a refusal for the moment is known as one', async () => {
    for (const [reply, isTemporary] of [
      ['[AUTH] no', false],
      ['[IN-USE] too many', true],
      ['[SYS/TEMP] later', true],
    ] as const) {
      const error = await failsWith('none', { replies: { PASS: `-ERR ${reply}\r\n` } }, 'login')
      assert.doesNotMatch(error.message, /pass word/)
      assert.equal((error as Pop3Refusal).isTemporary, isTemporary)
      assert.ok(error instanceof Pop3Refusal)
    }
  })

  test('a login with a line break sends nothing', async () => {
    const server = await serve('none')
    try {
      const attempt = Pop3Session.open(server.at(), { user: 'a', password: 'x\r\nDELE 1' })
      await assert.rejects(attempt, (error: Failure) => error.exit === 'usage')
      assert.deepEqual(server.heard, [])
    } finally {
      await server.close()
    }
  })

  test('LIST and UIDL that do not agree are told', async () => {
    await failsWith('none', { replies: { UIDL: '+OK\r\n9 zz\r\n.\r\n' } }, 'connection')
    await failsWith('none', { replies: { UIDL: '+OK\r\nnonsense\r\n.\r\n' } }, 'connection')
  })

  test('a listing of one message that is about another, or refused, is told', async () => {
    for (const [replies, exit] of [
      [{ LIST: '+OK 1 7\r\n' }, 'connection'],
      [{ LIST: '+OK 2 many\r\n' }, 'connection'],
      [{ LIST: '+OK 2 7\r\n', UIDL: '+OK\r\n' }, 'connection'],
      [{ LIST: '-ERR no such message\r\n' }, 'failed'],
    ] as const) {
      const server = await serve('none', { replies: { STAT: '+OK 2 14\r\n', ...replies } })
      const session = await Pop3Session.open(server.at(), { user: 'u', password: 'p' })
      await assert.rejects(session.list(1), { exit })
      session.close()
      await server.close()
    }
  })
})

describe('Dovecot', () => {
  let project: Project
  before(async () => {
    project = await Project.create()
    const file = project.path('development-mail-server.env')
    writeFileSync(file, readFileSync(file, 'utf8').replace(/(POSTFIX_MESSAGE_SIZE_LIMIT)=.*/, '$1=40000000'))
    await project.start()
  })
  after(() => project.remove())

  const user = 'bar@development-virtual.example.com'
  const line = 'The quick brown fox jumps over the lazy dog; 0123456789 ABCDEFGHIJ.\r\n'
  const bodies: Record<string, Buffer> = {
    Shift_JIS: Buffer.from([...Buffer.from('Subject: sjis\r\n\r\n'), 0x93, 0xfa, 0x96, 0x7b, 0x8c, 0xea, 0x0d, 0x0a]),
    'every byte but line breaks and NUL': Buffer.from(
      `Subject: binary\r\n\r\n${Array.from({ length: 255 }, (_, index) => String.fromCharCode(index + 1))
        .join('')
        .replace(/[\r\n]/g, '')}\r\n`,
      'latin1',
    ),
    dots: Buffer.from('Subject: dots\r\n\r\n.\r\n..\r\n...\r\n.a\r\n\r\n.\r\n'),
    'an empty body': Buffer.from('Subject: empty\r\n\r\n'),
    '20 MB': Buffer.from(`Subject: big\r\n\r\n${line.repeat(Math.ceil(20e6 / line.length))}`),
  }

  for (const [name, body] of Object.entries(bodies)) {
    test(`gives back ${name} byte for byte, in every TLS mode`, async () => {
      await sendRaw(project.ports.smtp, user, body)
      for (const tls of MODES) {
        const port = tls === 'implicit' ? project.ports.pop3s : project.ports.pop3
        const server = { host: '127.0.0.1', port, tls, timeout: 10_000 }
        const raw = await until('the mail is there', async () => {
          const session = await Pop3Session.open(server, { user, password: 'foo' })
          try {
            const message = (await session.list()).at(-1)
            const content = message && (await session.retrieve(message))
            if (content) assert.equal(content.length, message.size)
            await session.quit()
            return content?.includes(body.subarray(0, body.indexOf('\r\n'))) ? content : undefined
          } finally {
            session.close()
          }
        })
        // Above stand the lines that the server added.
        const added = raw.subarray(0, raw.length - body.length)
        const content = body.subarray(body.indexOf('\r\n\r\n'))
        assert.ok(raw.subarray(raw.length - content.length).equals(content))
        assert.match(added.toString('latin1'), /^Return-Path: .*\r\nDelivered-To: /)
      }
    })
  }

  test('the newest are listed as in the whole list', async () => {
    const server = { host: '127.0.0.1', port: project.ports.pop3, tls: 'none', timeout: 10_000 } as const
    const session = await Pop3Session.open(server, { user, password: 'foo' })
    const all = await session.list()
    assert.ok(all.length >= Object.keys(bodies).length)
    for (const limit of [1, 2, all.length, 100, 101])
      assert.deepEqual(await session.list(limit), all.slice(-limit), `newest ${limit}`)
    await session.quit()
  })

  test('a wrong password is refused, and the next session works', async () => {
    const server = { host: '127.0.0.1', port: project.ports.pop3, tls: 'none', timeout: 10_000 } as const
    const error = await Pop3Session.open(server, { user, password: 'wrong' }).catch((e) => e)
    assert.equal(error.exit, 'login')
    await (await Pop3Session.open(server, { user, password: 'foo' })).quit()
  })

  test('deletes at quit and only then', async () => {
    const server = { host: '127.0.0.1', port: project.ports.pop3, tls: 'none', timeout: 10_000 } as const
    const open = () => Pop3Session.open(server, { user, password: 'foo' })
    const first = await open()
    const messages = await first.list()
    for (const message of messages) await first.delete(message)
    first.close()
    const second = await open()
    assert.equal((await second.list()).length, messages.length)
    for (const message of messages) await second.delete(message)
    second.close()
    const next = await open()
    await next.delete(messages[0] as (typeof messages)[0])
    await next.quit()
    const third = await open()
    assert.deepEqual(
      (await third.list()).map(({ uidl }) => uidl),
      messages.slice(1).map(({ uidl }) => uidl),
    )
    await third.quit()
  })
})
