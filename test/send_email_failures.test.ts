/** send_email against servers that refuse, hang up and fall silent, at every phase: what a real server will not do. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { Ajv } from 'ajv'
import { ROOT } from '../scripts/lib/settings.ts'
import { main } from '../scripts/send_email.ts'
import { type Result, until } from './harness.ts'
import { type HereOptions, runHere } from './here.ts'
import { type Phase, type Script, SmtpServer } from './smtp_server.ts'

const schema = JSON.parse(readFileSync(new URL('../scripts/send_email.schema.json', import.meta.url), 'utf8'))
const isResult = new Ajv().compile(schema)

interface JsonResult {
  n: number
  status: string
  exitCode: number
  accepted: string[]
  refused: { recipient: string; code: number; enhancedCode: string | null; reply: string }[]
  error: string | null
}

/** The lines of --json, each checked against the schema. */
function resultsOf({ stdout }: Result): JsonResult[] {
  const lines = stdout.split('\n').filter((line) => line !== '')
  return lines.map((line) => {
    const result: unknown = JSON.parse(line)
    assert.ok(isResult(result), `${line}: ${JSON.stringify(isResult.errors)}`)
    return result as JsonResult
  })
}

async function withServer<T>(
  script: Script | undefined,
  work: (server: SmtpServer) => Promise<T>,
  extensions?: string[],
) {
  const server = await SmtpServer.start(script, extensions)
  try {
    return await work(server)
  } finally {
    await server.stop()
  }
}

const sendHere = (options: HereOptions, ...args: string[]) => runHere(main, options, ...args)
const send = (server: SmtpServer, ...args: string[]) => sendHere({}, ...server.options, '--to', 'a@b.example', ...args)
const at =
  (phase: Phase, answer: string): Script =>
  (now) =>
    now === phase ? answer : undefined

/** Commands one at a time, as to a server without PIPELINING. */
const PLAIN = ['AUTH PLAIN', 'SIZE 10240000']

describe('a server that fails at a phase', { concurrency: true }, () => {
  const REFUSED: [Phase, number][] = [
    ['connection', 3],
    ['AUTH', 5],
    ['MAIL', 6],
    ['RCPT', 7],
    ['DATA', 9],
    ['message', 9],
  ]
  for (const reply of [
    '451 4.3.0 not now',
    '550 5.7.1 never',
    '421 4.3.2 closing',
    '550-5.7.1 on\n550 5.7.1 two lines',
  ]) {
    test(`"${reply}" is the exit code of the phase, with the reply`, async () => {
      for (const [phase, code] of REFUSED) {
        for (const extensions of [undefined, PLAIN]) {
          await withServer(
            at(phase, reply),
            async (server) => {
              const result = await send(server, '--json')
              const [line, ...more] = resultsOf(result)
              assert.equal(result.code, code, `${phase}: ${result.stderr}`)
              assert.deepEqual([line?.exitCode, more.length], [code, 0])
              assert.ok(line?.error?.includes(reply.replace('-', ' ').replace('\n550 5.7.1', '')), line?.error ?? '')
              assert.match(result.stderr, /^SMTP on 127\.0\.0\.1:\d+: [^\n]+\n$/)
              assert.equal(server.received.length, 0)
            },
            extensions,
          )
        }
      }
    })
  }

  const BROKEN: Phase[] = ['connection', 'EHLO', 'AUTH', 'MAIL', 'RCPT', 'DATA', 'message']
  for (const [answer, code, words] of [
    ['drop', 3, /closed the connection|ECONNRESET/],
    ['stall', 10, /no answer to .* within 3 s \(--timeout\)/],
    ['trickle', 10, /no answer to .* within 3 s \(--timeout\)/],
    ['hello, this is no SMTP', 3, /not an SMTP reply: "hello/],
  ] as const) {
    test(`"${answer}" is exit code ${code}; whether a message was handed over is said where it is not known`, async () => {
      const check = (phase: Phase) =>
        withServer(at(phase, answer), async (server) => {
          const result = await send(server, '--json', '--timeout', '3')
          assert.equal(result.code, code, `${phase}: ${result.stderr}`)
          assert.deepEqual(
            resultsOf(result).map(({ status }) => status),
            ['failed'],
          )
          assert.match(result.stderr, words)
          assert.match(result.stderr, /^SMTP on 127\.0\.0\.1:\d+: [^\n]+\n$/)
          assert.equal(/Whether the server took the message is not known/.test(result.stderr), phase === 'message')
        })
      await Promise.all(BROKEN.map(check))
    })
  }

  test('a login that asks and asks again ends when the time is over', () =>
    withServer(
      (phase) => (phase === 'AUTH' || phase === ('' as Phase) ? '334 more' : undefined),
      async (server) => {
        assert.equal((await send(server, '--timeout', '0.5')).code, 10)
      },
      ['AUTH PLAIN'],
    ))

  test('a refused EHLO is followed by HELO', () =>
    withServer(at('EHLO', '502 5.5.1 what'), async (server) => {
      const { code, stderr } = await send(server)
      assert.equal(code, 0, stderr)
      assert.ok(server.commands.some((line) => line.startsWith('HELO ')))
      assert.ok(!server.commands.some((line) => line.startsWith('AUTH')))
    }))

  for (const [what, script, extensions, tls, words] of [
    ['refused', at('STARTTLS', '454 4.7.0 no TLS today'), ['STARTTLS'], 'starttls', /454 4\.7\.0 no TLS today/],
    ['not offered', undefined, [], 'starttls', /does not offer STARTTLS/],
    ['begun and dropped', at('STARTTLS', '220 go\ndrop'), ['STARTTLS'], 'starttls', /TLS \(starttls\) failed/],
    ['what the server does not speak', undefined, [], 'implicit', /TLS \(implicit\) failed: wrong version number/],
    ['dropped in its handshake', at('connection', 'drop'), [], 'implicit', /TLS \(implicit\) failed/],
  ] as const) {
    test(`TLS that is ${what} is exit code 4, and nothing is sent in the clear`, () =>
      withServer(
        script,
        async (server) => {
          const { code, stderr } = await send(server, '--tls', tls)
          assert.equal(code, 4, stderr)
          assert.match(stderr, words)
          assert.ok(!server.commands.some((line) => /^(AUTH|MAIL)/.test(line)))
        },
        [...extensions],
      ))
  }

  test('a port where nobody listens is exit code 3, with the next command', async () => {
    const server = await SmtpServer.start()
    const { options } = server
    await server.stop()
    const { code, stderr } = await sendHere({}, ...options)
    assert.equal(code, 3)
    assert.match(stderr, /ECONNREFUSED.*npm run status/)
  })

  test('some recipients refused is exit code 8: the others have the mail, and each refusal has its line', async () => {
    for (const extensions of [undefined, PLAIN]) {
      await withServer(
        (phase, line) => (phase === 'RCPT' && /bad/.test(line) ? '452 4.2.2 full' : undefined),
        async (server) => {
          const to = ['--to', 'good@b.example', '--to', 'bad1@b.example', '--to', 'bad2@b.example']
          const text = await sendHere({}, ...server.options, ...to)
          assert.equal(text.code, 8)
          const lines = ['bad1', 'bad2'].map((name) => `Refused: +${name}@b\\.example: 452 4\\.2\\.2 full\\n`)
          assert.match(text.stdout, new RegExp(lines.join('')))
          const [json] = resultsOf(await sendHere({}, ...server.options, '--json', ...to))
          assert.deepEqual([json?.status, json?.accepted], ['partial', ['good@b.example']])
          const refusal = { recipient: 'bad2@b.example', code: 452, enhancedCode: '4.2.2', reply: '452 4.2.2 full' }
          assert.deepEqual(json?.refused[1], refusal)
          assert.deepEqual(
            server.received.map((message) => message.to),
            [['good@b.example'], ['good@b.example']],
          )
        },
        extensions,
      )
    }
  })

  test('what was refused stays known when the connection breaks behind it', () =>
    withServer(at('MAIL', '553 5.1.8 not you\ndrop'), async (server) => {
      const { code, stderr } = await send(server)
      assert.equal(code, 6, stderr)
      assert.match(stderr, /553 5\.1\.8 not you/)
    }))

  test('a login that was asked for and cannot be is exit code 5; the default login is then left out', async () => {
    for (const [extensions, words] of [
      [['8BITMIME'], /offers no login \(AUTH\)/],
      [['AUTH GSSAPI XOAUTH2'], /offers only AUTH GSSAPI XOAUTH2/],
    ] as const) {
      await withServer(
        undefined,
        async (server) => {
          const chosen = await send(server, '--user', 'me', '--password', 'secret')
          assert.equal(chosen.code, 5)
          assert.match(chosen.stderr, words)
          assert.equal((await send(server)).code, extensions[0] === '8BITMIME' ? 0 : 5)
        },
        [...extensions],
      )
    }
  })

  test('--dsn at a server without DSN is an error, and nothing is sent', () =>
    withServer(
      undefined,
      async (server) => {
        const { code, stderr } = await send(server, '--dsn', 'never')
        assert.equal(code, 2)
        assert.match(stderr, /--dsn never: .*does not offer DSN/)
        assert.ok(!server.commands.some((line) => line.startsWith('MAIL')))
      },
      ['8BITMIME'],
    ))

  test('a message above the SIZE of the server is exit code 9 and is not begun', () =>
    withServer(
      undefined,
      async (server) => {
        const { code, stderr } = await send(server, '--text', 'x'.repeat(2000), '--count', '3', '--concurrency', '1')
        assert.equal(code, 9, stderr)
        const { stderr: words } = await send(server, '--text', 'x'.repeat(2000))
        assert.match(words, /the server takes 1000 at most \(SIZE\)/)
        assert.ok(!server.commands.includes('DATA'))
        assert.equal(server.connections, 2)
      },
      ['SIZE 1000'],
    ))

  test('control characters in a reply do not reach the terminal', () =>
    withServer(at('message', '550 5.7.1 \x1b]0;title\x07 \u202e no'), async (server) => {
      const { stdout, stderr } = await send(server, '--verbose')
      assert.match(stderr, /\\x1b\]0;title\\x07 \\u202e/)
      const json = await send(server, '--json')
      assert.doesNotMatch(stdout + stderr + json.stdout, /[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]/)
    }))

  for (const mechanism of ['PLAIN', 'LOGIN', 'CRAM-MD5']) {
    test(`the dialogue of --verbose has the password masked with AUTH ${mechanism}`, () =>
      withServer(
        (phase, line) => (phase === 'AUTH' && /CRAM/.test(line) ? '334 PDFAeD4=' : undefined),
        async (server) => {
          const login = ['--user', 'me', '--password', 'sesame', '--from', 'a@b']
          const { stdout, stderr } = await send(server, '-v', ...login)
          assert.match(stderr, /^> (AUTH PLAIN )?\*{4}$/m)
          if (mechanism !== 'CRAM-MD5') {
            const isThere = (line: string) => Buffer.from(line.split(' ').at(-1) ?? '', 'base64').includes('sesame')
            assert.ok(server.commands.some(isThere))
            assert.match(stderr, /^> MAIL FROM:<a@b>.*\n(?:.*\n)*< 250 2\.0\.0 Ok: queued as Q1$/m)
          }
          for (const word of `${stdout}\n${stderr}`.split(/\s+/)) {
            assert.ok(!word.includes('sesame') && !Buffer.from(word, 'base64').includes('sesame'), word)
          }
        },
        [`AUTH ${mechanism}`],
      ))
  }
})

describe('--count', { concurrency: true }, () => {
  /** Every number from 1 to `count` once. */
  const assertEachOnce = (results: JsonResult[], count: number) =>
    assert.deepEqual(
      results.map(({ n }) => n).sort((a, b) => a - b),
      Array.from({ length: count }, (_, index) => index + 1),
    )
  const subjects = (server: SmtpServer) =>
    server.received.map(({ message }) => /^Subject: (.*)\r$/m.exec(message.toString())?.[1] ?? '').sort()
  const MAILS = ['--subject', 'Mail {n}', '--count']

  test('goes on after refused messages; the exit code is that of the lowest number', () =>
    withServer(
      (phase, line) => {
        if (phase === 'RCPT' && /u[38]@/.test(line)) return '550 5.1.1 no'
        return phase === 'MAIL' && /s12@/.test(line) ? '451 4.1.8 no' : undefined
      },
      async (server) => {
        const addresses = ['--to', 'u{n}@b.example', '--envelope-from', 's{n}@c.example']
        const args = [...server.options, ...addresses, '--count', '20', '--concurrency', '3']
        const json = await sendHere({}, '--json', ...args)
        const results = resultsOf(json)
        assertEachOnce(results, 20)
        const refused = results.filter(({ status }) => status !== 'accepted').map(({ n }) => n)
        assert.deepEqual(
          refused.sort((a, b) => a - b),
          [3, 8, 12],
        )
        assert.equal(json.code, 7)
        assert.match(json.stderr, /17 accepted, 3 refused of 20 messages in [\d.]+ s: [\d.]+ messages per second/)
        assert.deepEqual([server.connections, server.received.length], [3, 17])
        const text = await sendHere({}, ...args)
        assert.match(text.stdout, /^Message 8 refused: u8@b\.example: 550 5\.1\.1 no$/m)
        assert.match(text.stdout, /^17 accepted, 3 refused of 20 messages/m)
      },
    ))

  for (const phase of ['MAIL', 'DATA', 'message'] as const) {
    test(`takes up a connection lost at ${phase}; no message is counted twice or left out`, () =>
      withServer(
        (now, _line, count) => (now === phase && (count === 4 || count === 11) ? 'drop' : undefined),
        async (server) => {
          const result = await send(server, '--json', '--concurrency', '2', ...MAILS, '30')
          const results = resultsOf(result)
          assertEachOnce(results, 30)
          const accepted = results.filter(({ status }) => status === 'accepted')
          // Lost behind the last byte, the server may have the message: it is not sent again.
          assert.equal(accepted.length, phase === 'message' ? 28 : 30, result.stderr)
          assert.equal(result.code, phase === 'message' ? 3 : 0)
          assert.equal(server.received.length, accepted.length)
          assert.equal(new Set(subjects(server)).size, accepted.length)
        },
      ))
  }

  for (const [what, script] of [
    [
      'closes each connection after five messages with 421',
      () => {
        const perConnection = new Map<number, number>()
        return (phase: Phase, _line: string, _count: number, connection: number) => {
          if (phase !== 'MAIL') return undefined
          const sent = perConnection.get(connection) ?? 0
          perConnection.set(connection, sent + 1)
          return sent === 5 ? '421 4.7.0 enough for one connection' : undefined
        }
      },
    ],
    [
      'allows fewer connections than --concurrency',
      () => (phase: Phase, _line: string, _count: number, connection: number) =>
        phase === 'connection' && connection > 2 ? '421 4.7.0 too many' : undefined,
    ],
    [
      'refuses RSET behind a refused message',
      () => (phase: Phase, _line: string, count: number) => {
        if (phase === 'RSET') return '502 5.5.1 what'
        return phase === 'MAIL' && count === 3 ? '451 4.1.8 no' : undefined
      },
    ],
  ] as const) {
    test(`sends all to a server that ${what}`, () =>
      withServer(script(), async (server) => {
        const { stdout } = await send(server, '--concurrency', '4', ...MAILS, '40')
        const refused = what.startsWith('refuses') ? 1 : 0
        assert.match(stdout, new RegExp(`^${40 - refused} accepted, ${refused} refused of 40 `, 'm'))
        assert.equal(new Set(subjects(server)).size, 40 - refused)
      }))
  }

  test('goes on when the server was away for a moment', () =>
    withServer(undefined, async (first) => {
      const { port } = first
      const running = send(first, '--json', '--concurrency', '3', ...MAILS, '1500')
      await until('20 messages', () => first.received.length >= 20)
      await first.stop()
      await new Promise((resolve) => setTimeout(resolve, 600))
      await first.listen(port)
      const result = await running
      const results = resultsOf(result)
      assertEachOnce(results, 1500)
      assert.ok(results.filter(({ status }) => status !== 'accepted').length <= 3, result.stderr)
    }))

  test('ends when the server is gone for good, with a result for every message', () =>
    withServer(undefined, async (server) => {
      const running = send(server, '--json', '--concurrency', '3', '--timeout', '3', ...MAILS, '1500')
      await until('20 messages', () => server.received.length >= 20)
      await server.stop()
      const result = await running
      assertEachOnce(resultsOf(result), 1500)
      assert.equal(result.code, 3)
      assert.match(result.stderr, /\d+ accepted, 0 refused, \d+ failed of 1500 messages/)
    }))

  test('Ctrl-C ends it after the messages under way, with the sum so far and exit code 130', () =>
    withServer(undefined, async (server) => {
      const args = ['--import', 'tsx', 'scripts/send_email.ts', ...server.options, '--count', '1000000']
      const child = spawn(process.execPath, args, { cwd: ROOT, timeout: 60_000 })
      let stdout = ''
      child.stdout.on('data', (chunk) => {
        stdout += chunk
      })
      await until('20 messages', () => server.received.length >= 20 || child.exitCode !== null, 60_000)
      child.kill('SIGINT')
      const [code] = await once(child, 'close')
      assert.equal(code, 130)
      const [, accepted, left] = /^(\d+) accepted, 0 refused, (\d+) not sent of 1000000/.exec(stdout) ?? []
      assert.equal(Number(accepted), server.received.length, stdout)
      assert.equal(Number(accepted) + Number(left), 1_000_000)
    }))
})
