/** The POP3 client: a scripted server that does what a real one does at its worst. Dovecot is in pop_email.test.ts. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { after, test } from 'node:test'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { Failure } from '../scripts/lib/cli.ts'
import type { TlsMode } from '../scripts/lib/mail/client_options.ts'
import { type Pop3Message, Pop3Refusal, Pop3Session } from '../scripts/lib/mail/pop3.ts'
import { until } from './harness.ts'
import { type Behaviour, serve as serveMessages } from './pop3_server.ts'

/** Messages as they should come back: dots at the beginnings of lines, terminators inside, nothing at all. */
const MESSAGES = [
  ...['Subject: 1\r\n\r\n', '.\r\n..\r\n.a\r\n\r\n.\r\n', ''],
  `\r\n${'\xff\x00\x80.'.repeat(3)}\r\na.\r\n\r\r\n\n.\r\n.x\r\n`,
].map((text) => Buffer.from(text, 'latin1'))
const servers: Awaited<ReturnType<typeof serveMessages>>[] = []
const serve = async (tls: TlsMode, behaviour: Behaviour = {}) => {
  const server = await serveMessages(tls, { messages: MESSAGES, ...behaviour })
  servers.push(server)
  return server
}
const LOGIN = { user: ' ü', password: ' pass  ü ' }
const MODES: TlsMode[] = ['none', 'starttls', 'implicit']

/** Whatever escapes the promises ends a script; so it fails these tests. */
const escaped: unknown[] = []
process.on('uncaughtException', (error) => escaped.push(error))
process.on('unhandledRejection', (error) => escaped.push(error))
after(async () => {
  for (const { close } of servers) await close()
  assert.deepEqual(escaped, [])
})

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
async function failsWith(
  tls: TlsMode,
  behaviour: Behaviour,
  exit: string,
  words = /^/,
  timeout = 20_000,
): Promise<void> {
  const server = await serve(tls, behaviour)
  const error = await wholeSession(server.at(timeout)).catch((thrown) => thrown)
  const what = `${tls} ${JSON.stringify(behaviour).slice(0, 100)}: ${error?.stack}`
  assert.ok(error instanceof Failure && exit.split(' ').includes(error.exit), what)
  assert.match(error.message, /^POP3 on 127\.0\.0\.1:\d+: [^\x00-\x1f]*$/)
  assert.match(error.message, words)
  assert.doesNotMatch(error.message, /pass {2}/)
  await until('the connection is closed', async () => (await server.connections()) === 0)
}

test('a session is exact where the replies come byte by byte, the login included', async () => {
  const write = async (socket: Socket, bytes: Buffer) => {
    for (const byte of bytes) {
      socket.write(Buffer.of(byte))
      await turn()
    }
  }
  for (const tls of MODES) {
    const server = await serve(tls, { write })
    await wholeSession(server.at())
    const login = server.heard.filter((line) => /^(USER|PASS)/.test(line))
    const expected = Buffer.from(`USER ${LOGIN.user}\nPASS ${LOGIN.password}`).toString('latin1')
    assert.equal(login.join('\n'), expected)
  }
})

test('silence, an end, a reset, -ERR and what is no POP3 are told at every command', async () => {
  const all = ['greeting', 'USER', 'PASS', 'STAT', 'LIST', 'UIDL', 'RETR', 'TOP', 'DELE', 'QUIT']
  const [starttls, implicit] = [
    ['greeting', 'STLS', 'PASS', 'RETR'],
    ['greeting', 'PASS', 'RETR'],
  ]
  const refusals: Record<string, string> = { greeting: 'connection', STLS: 'tls', USER: 'login', PASS: 'login' }
  const others = ['HTTP/1.1 400 Bad Request\r\n', '\x1b[2J\r\n', '+OKAY\r\n']
  for (const [tls, phases] of Object.entries({ none: all, starttls, implicit }) as [TlsMode, string[]][]) {
    const checks = phases.map(async (phase, index) => {
      const isHandshake = phase === 'STLS' || (phase === 'greeting' && tls === 'implicit')
      const lost = isHandshake ? 'connection tls' : 'connection'
      const reply = (text: string | undefined) => ({ replies: { [phase]: text } })
      await failsWith(tls, reply('end'), lost)
      await failsWith(tls, reply('reset'), lost)
      await failsWith(tls, reply('-ERR because\r\n'), refusals[phase] ?? 'failed', /because/)
      await failsWith(tls, reply(others[index % others.length]), lost)
    })
    await Promise.all(checks)
    const silent = phases.map((phase) => failsWith(tls, { replies: { [phase]: undefined } }, 'timeout', /0\.5 s/, 500))
    await Promise.all(silent)
  }
})

test('half a message and then silence, or the end, or drops for ever, are told', async () => {
  const half = async (socket: Socket, bytes: Buffer) => {
    if (!bytes.includes('half')) socket.write(bytes)
    else socket.end(bytes.subarray(0, -3))
  }
  const drip = async (socket: Socket, bytes: Buffer) => {
    if (!bytes.includes('half')) return void socket.write(bytes)
    while (!socket.destroyed && socket.write('+')) await sleep(20)
  }
  const checks = MODES.flatMap((tls) => [
    failsWith(tls, { replies: { RETR: '+OK\r\nSubject: x\r\n\r\n.' } }, 'timeout', /^/, 500),
    failsWith(tls, { write: half, replies: { RETR: '+OK\r\nhalf\r\n.\r\n' } }, 'connection'),
    failsWith(tls, { write: drip, replies: { RETR: 'half' } }, 'timeout', /^/, 500),
    failsWith(tls, { write: drip, replies: { greeting: 'half' } }, 'timeout', /^/, 500),
  ])
  await Promise.all(checks)
})

test('a server that ends behind the login, between two commands, is told like any other', async () => {
  const write = async (socket: Socket, bytes: Buffer) =>
    void (bytes.includes('bye') ? socket.end(bytes) : socket.write(bytes))
  const server = await serve('none', { write, replies: { PASS: '+OK bye\r\n' } })
  const session = await Pop3Session.open(server.at(), LOGIN)
  const quit = once(session._socket as Socket, 'end').then(() => session.quit())
  await assert.rejects(quit, { exit: 'connection', message: /the server closed the connection/ })
})

test('many are read exactly, asked for at once where the server knows PIPELINING; the loop can be left early', async () => {
  const many = Array.from({ length: 60 }, (_, index) => MESSAGES[index % MESSAGES.length] as Buffer)
  for (const CAPA of ['+OK\r\nPIPELINING\r\n.\r\n', '+OK\r\n.\r\n', '-ERR what?\r\n']) {
    const server = await serve('none', { messages: many, replies: { CAPA } })
    const session = await Pop3Session.open(server.at(), LOGIN)
    const list = await session.list()
    for await (const [{ number }, body] of session.each(list, 'RETR')) {
      assert.deepEqual(body, many[number - 1])
      if (CAPA.includes('PIPELINING')) assert.equal(server.heard.filter((line) => /^RETR/.test(line)).length, 60)
    }
    for await (const [{ number }] of session.each(list, 'TOP')) if (number === 30) break
    assert.deepEqual(await session.retrieve(list[1] as Pop3Message), MESSAGES[1])
    await session.quit()
  }
})

test('nobody listens, no DNS knows the name, TLS meets none or the other way about, clear text behind STLS', async () => {
  const [plain, secure, closed] = [await serve('none'), await serve('implicit'), await serve('none')]
  await closed.close()
  const cases: [Parameters<typeof Pop3Session.open>[0], RegExp, RegExp][] = [
    ...MODES.map((tls): (typeof cases)[0] => [{ ...closed.at(), tls }, /^connection$/, /REFUSED.*npm run status/]),
    [{ host: 'no-such-host.invalid', port: 110, tls: 'none', timeout: 5_000 }, /^(connection|timeout)$/, /invalid/],
    [{ ...plain.at(), tls: 'implicit' }, /^tls$/, /\d: TLS \(implicit\) failed: [a-z ]+\.$/],
    [{ ...secure.at(300), tls: 'none' }, /^(timeout|connection)$/, /./],
  ]
  for (const [server, exit, message] of cases) {
    const error = await Pop3Session.open(server, LOGIN).catch((thrown) => thrown)
    assert.match(error.exit, exit, error.message)
    assert.match(error.message, message)
  }
  await failsWith('starttls', { deafAfterStls: true }, 'timeout', /^/, 300)
  await failsWith('starttls', { replies: { STLS: '+OK\r\n+OK injected\r\n' } }, 'tls', /between STLS and TLS/)
  const attempt = Pop3Session.open(plain.at(), { user: 'a', password: 'x\r\nDELE 1' })
  await assert.rejects(attempt, { exit: 'usage' })
  assert.ok(!plain.heard.some((line) => line.startsWith('USER')))
})

test('who pauses longer than the server may be silent goes on, also over STLS', async () => {
  const server = await serve('starttls')
  const session = await Pop3Session.open(server.at(1_000), LOGIN)
  await sleep(1_300)
  assert.equal((await session.list()).length, 4)
  await session.quit()
})

test('a refusal for the moment is known as one; listings that do not agree are told', async () => {
  for (const [words, isTemporary] of Object.entries({
    '[AUTH] no': false,
    '[IN-USE] x': true,
    '[SYS/TEMP] x': true,
  })) {
    const server = await serve('none', { replies: { PASS: `-ERR ${words}\r\n` } })
    const error = await Pop3Session.open(server.at(), LOGIN).catch((thrown) => thrown)
    assert.ok(error instanceof Pop3Refusal && error.isTemporary === isTemporary, words)
  }
  const lists = ['9 zz', 'nonsense'].map((line) => ({ UIDL: `+OK\r\n${line}\r\n.\r\n` }))
  for (const replies of [...lists, { LIST: '+OK\r\n1 many\r\n.\r\n' }]) {
    const server = await serve('none', { replies })
    const session = await Pop3Session.open(server.at(), LOGIN)
    await assert.rejects(session.list(), { exit: 'connection' }, JSON.stringify(replies))
    session.close()
  }
})
