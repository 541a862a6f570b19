/** send_email against servers that refuse, hang up and fall silent, at every phase. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { Ajv } from 'ajv'
import { Project, type Result } from './harness.ts'
import { type Phase, type Script, SmtpServer } from './smtp_server.ts'

let project: Project
before(async () => {
  project = await Project.create()
})
after(() => project.remove())

const schema = JSON.parse(readFileSync(new URL('../scripts/send_email.schema.json', import.meta.url), 'utf8'))
const isResult = new Ajv().compile(schema)

interface JsonResult {
  n: number
  status: string
  exitCode: number
  reply: string | null
  queueId: string | null
  accepted: string[]
  refused: { recipient: string; code: number; enhancedCode: string | null; reply: string }[]
  error: string | null
}

/** The lines of --json, each checked against the schema. */
function resultsOf({ stdout }: Result): JsonResult[] {
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
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

const send = (server: SmtpServer, ...args: string[]) => project.run('send_email', ...server.options, ...args)

describe('a server that fails at a phase', { concurrency: 3 }, () => {
  const REFUSED: [Phase, number][] = [
    ['connection', 3],
    ['AUTH', 5],
    ['MAIL', 6],
    ['RCPT', 7],
    ['DATA', 9],
    ['message', 9],
  ]
  for (const [phase, code] of REFUSED) {
    for (const reply of ['451 4.3.0 not now', '550 5.7.1 never', '421 4.3.2 closing']) {
      test(`"${reply}" to ${phase} is exit code ${code}, with the reply`, () =>
        withServer(
          (at) => (at === phase ? reply : undefined),
          async (server) => {
            const result = await send(server, '--json', '--to', 'a@b.example')
            const [line, ...more] = resultsOf(result)
            assert.equal(result.code, code, result.stderr)
            assert.equal(more.length, 0)
            assert.equal(line?.exitCode, code)
            assert.ok(line?.error?.includes(reply), result.stdout)
            assert.match(result.stderr, /^SMTP on 127\.0\.0\.1:\d+: [^\n]+\n$/)
            assert.equal(server.received.length, 0)
          },
        ))
    }
  }

  const BROKEN: Phase[] = ['connection', 'EHLO', 'AUTH', 'MAIL', 'RCPT', 'DATA', 'message']
  for (const phase of BROKEN) {
    test(`a connection dropped at ${phase} is exit code 3`, () =>
      withServer(
        (at) => (at === phase ? 'drop' : undefined),
        async (server) => {
          const result = await send(server, '--json', '--to', 'a@b.example')
          assert.equal(result.code, 3, result.stderr)
          assert.deepEqual(
            resultsOf(result).map(({ status }) => status),
            ['failed'],
          )
          assert.match(result.stderr, /^SMTP on 127\.0\.0\.1:\d+: [^\n]+\n$/)
          assert.equal(/not known/.test(result.stderr), phase === 'message')
        },
      ))

    test(`silence at ${phase} is exit code 10 when --timeout is over`, () =>
      withServer(
        (at) => (at === phase ? 'stall' : undefined),
        async (server) => {
          const begin = Date.now()
          const result = await send(server, '--json', '--to', 'a@b.example', '--timeout', '0.7')
          assert.equal(result.code, 10, result.stderr)
          assert.deepEqual(
            resultsOf(result).map(({ status }) => status),
            ['failed'],
          )
          assert.match(result.stderr, /within 0\.7 s/)
          assert.ok(Date.now() - begin < 15_000)
        },
      ))
  }

  test('a reply that comes byte by byte and never ends is exit code 10', () =>
    withServer(
      (at) => (at === 'MAIL' ? 'trickle' : undefined),
      async (server) => {
        const result = await send(server, '--to', 'a@b.example', '--timeout', '0.7')
        assert.equal(result.code, 10, result.stderr)
      },
    ))

  test('a refused EHLO is followed by HELO', () =>
    withServer(
      (at) => (at === 'EHLO' ? '502 5.5.1 what' : undefined),
      async (server) => {
        const { code, stderr } = await send(server, '--to', 'a@b.example')
        assert.equal(code, 0, stderr)
        assert.ok(server.commands.some((line) => line.startsWith('HELO ')))
      },
    ))

  test('a refused STARTTLS, and one that is not offered, are exit code 4 and nothing is sent in the clear', () =>
    withServer(
      (at) => (at === 'STARTTLS' ? '454 4.7.0 no TLS today' : undefined),
      async (server) => {
        for (const [extensions, words] of [
          [['STARTTLS'], /454 4\.7\.0 no TLS today/],
          [[], /does not offer STARTTLS/],
        ] as const) {
          server.extensions.splice(0, Number.POSITIVE_INFINITY, ...extensions)
          const { code, stderr } = await send(server, '--to', 'a@b.example', '--tls', 'starttls')
          assert.equal(code, 4, stderr)
          assert.match(stderr, words)
        }
        assert.ok(!server.commands.some((line) => /^(AUTH|MAIL)/.test(line)))
      },
    ))

  test('a connection dropped after STARTTLS is exit code 4', () =>
    withServer(
      (at) => (at === 'STARTTLS' ? '220 go\ndrop' : undefined),
      async (server) => {
        const { code, stderr } = await send(server, '--to', 'a@b.example', '--tls', 'starttls')
        assert.equal(code, 4, stderr)
      },
      ['STARTTLS'],
    ))

  test('TLS with a server that speaks none is exit code 4', () =>
    withServer(undefined, async (server) => {
      const { code, stderr } = await send(server, '--to', 'a@b.example', '--tls', 'implicit')
      assert.equal(code, 4)
      assert.match(stderr, /TLS \(implicit\) failed: wrong version number/)
    }))

  test('a connection dropped in the TLS handshake is exit code 4', () =>
    withServer(
      (at) => (at === 'connection' ? 'drop' : undefined),
      async (server) => {
        const { code, stderr } = await send(server, '--to', 'a@b.example', '--tls', 'implicit')
        assert.equal(code, 4, stderr)
      },
    ))

  test('a port where nobody listens is exit code 3, with the next command', async () => {
    const server = await SmtpServer.start()
    const { options } = server
    await server.stop()
    const { code, stderr } = await project.run('send_email', ...options)
    assert.equal(code, 3)
    assert.match(stderr, /ECONNREFUSED.*npm run status/)
  })

  test('some recipients refused is exit code 8: the others have the mail, and each refusal has its line', () =>
    withServer(
      (at, line) => (at === 'RCPT' && /bad/.test(line) ? '452 4.2.2 full' : undefined),
      async (server) => {
        const to = ['good@b.example', 'bad1@b.example', 'bad2@b.example']
        const args = to.flatMap((address) => ['--to', address])
        const text = await send(server, ...args)
        assert.equal(text.code, 8)
        assert.match(
          text.stdout,
          /Refused: +bad1@b\.example: 452 4\.2\.2 full\nRefused: +bad2@b\.example: 452 4\.2\.2 full\n/,
        )
        const [json] = resultsOf(await send(server, '--json', ...args))
        assert.deepEqual(json?.accepted, ['good@b.example'])
        assert.deepEqual(json?.refused[1], {
          recipient: 'bad2@b.example',
          code: 452,
          enhancedCode: '4.2.2',
          reply: '452 4.2.2 full',
        })
        assert.equal(json?.status, 'partial')
        assert.deepEqual(
          server.received.map((message) => message.to),
          [['good@b.example'], ['good@b.example']],
        )
      },
    ))

  test('what was refused stays known when the connection breaks behind it', () =>
    withServer(
      (at) => (at === 'MAIL' ? '553 5.1.8 not you\ndrop' : undefined),
      async (server) => {
        const { code, stderr } = await send(server, '--to', 'a@b.example')
        assert.equal(code, 6, stderr)
        assert.match(stderr, /553 5\.1\.8 not you/)
      },
    ))

  test('a server without PIPELINING and EHLO gets one command at a time', () =>
    withServer(
      (at, line) => (at === 'EHLO' ? '500 what' : at === 'RCPT' && /no@/.test(line) ? '550 no' : undefined),
      async (server) => {
        const { code, stderr } = await send(server, '--to', 'no@b.example, yes@b.example')
        assert.equal(code, 8, stderr)
        assert.equal((await send(server, '--to', 'no@b.example')).code, 7)
        assert.equal(server.commands.filter((line) => line === 'DATA').length, 1)
        assert.deepEqual(
          server.received.map(({ to }) => to),
          [['yes@b.example']],
        )
      },
    ))

  test('a login that was asked for and is not offered is exit code 5; the default login is then left out', () =>
    withServer(
      undefined,
      async (server) => {
        const chosen = await send(server, '--user', 'me', '--password', 'secret')
        assert.equal(chosen.code, 5)
        assert.match(chosen.stderr, /offers no login \(AUTH\)/)
        assert.equal((await send(server)).code, 0)
      },
      ['8BITMIME'],
    ))

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
        const { code, stderr } = await send(server, '--text', 'x'.repeat(2000))
        assert.equal(code, 9)
        assert.match(stderr, /the server takes 1000 at most \(SIZE\)/)
        assert.ok(!server.commands.includes('DATA'))
      },
      ['SIZE 1000'],
    ))

  test('control characters in a reply do not reach the terminal', () =>
    withServer(
      (at) => (at === 'message' ? '550 5.7.1 \x1b]0;title\x07 \u202e no' : undefined),
      async (server) => {
        const { stdout, stderr } = await send(server, '--verbose')
        assert.match(stderr, /\\x1b\]0;title\\x07 \\u202e/)
        assert.ok(!/[\x00-\x09\x0b-\x1f]/.test(stdout + stderr))
      },
    ))
})

describe('the dialogue of --verbose', () => {
  for (const [name, extension] of [
    ['PLAIN', 'AUTH PLAIN'],
    ['LOGIN', 'AUTH LOGIN'],
  ] as const) {
    test(`has the password masked with AUTH ${name}`, () =>
      withServer(
        undefined,
        async (server) => {
          const { code, stdout, stderr } = await send(
            server,
            '-v',
            '--user',
            'me',
            '--password',
            'sesame',
            '--from',
            'a@b',
          )
          assert.equal(code, 0, stderr)
          assert.ok(
            server.commands.some((line) => Buffer.from(line.split(' ').at(-1) ?? '', 'base64').includes('sesame')),
          )
          assert.match(stderr, /^> (AUTH PLAIN )?\*{4}$/m)
          assert.match(stderr, /^> MAIL FROM:<a@b>/m)
          assert.match(stderr, /^< 250 2\.0\.0 Ok: queued as Q1$/m)
          for (const word of `${stdout}\n${stderr}`.split(/\s+/)) {
            assert.ok(!word.includes('sesame') && !Buffer.from(word, 'base64').includes('sesame'), word)
          }
        },
        [extension],
      ))
  }
})

describe('--count', () => {
  /** Every number from 1 to `count` once. */
  const assertEachOnce = (results: JsonResult[], count: number) =>
    assert.deepEqual(
      results.map(({ n }) => n).sort((a, b) => a - b),
      Array.from({ length: count }, (_, index) => index + 1),
    )
  const subjects = (server: SmtpServer) =>
    server.received.map(({ message }) => /^Subject: (.*)\r$/m.exec(message.toString())?.[1] ?? '').sort()

  test('goes on after refused messages; the exit code is that of the lowest number', () =>
    withServer(
      (at, line) =>
        at === 'RCPT' && /u[38]@/.test(line)
          ? '550 5.1.1 no'
          : at === 'MAIL' && /s12@/.test(line)
            ? '451 4.1.8 no'
            : undefined,
      async (server) => {
        const args = [
          '--count',
          '20',
          '--concurrency',
          '3',
          '--to',
          'u{n}@b.example',
          '--envelope-from',
          's{n}@c.example',
        ]
        const json = await send(server, '--json', ...args)
        const results = resultsOf(json)
        assertEachOnce(results, 20)
        assert.deepEqual(
          results
            .filter(({ status }) => status !== 'accepted')
            .map(({ n }) => n)
            .sort(),
          [12, 3, 8],
        )
        assert.equal(json.code, 7)
        assert.match(json.stderr, /17 accepted, 3 refused of 20 messages in [\d.]+ s: [\d.]+ messages per second/)
        assert.equal(server.connections, 3)
        assert.equal(server.received.length, 17)
        const text = await send(server, ...args)
        assert.match(text.stdout, /^Message 8 refused: u8@b\.example: 550 5\.1\.1 no$/m)
        assert.match(text.stdout, /^17 accepted, 3 refused of 20 messages/m)
      },
    ))

  for (const phase of ['MAIL', 'DATA', 'message'] as const) {
    test(`takes up a connection lost at ${phase}; no message is counted twice or left out`, () =>
      withServer(
        (at, _line, count) => (at === phase && (count === 4 || count === 11) ? 'drop' : undefined),
        async (server) => {
          const args = ['--count', '30', '--concurrency', '2', '--subject', 'Mail {n}', '--to', 'a@b.example']
          const { code, stdout, stderr } = await send(server, '--json', ...args)
          const results = resultsOf({ code, stdout, stderr })
          assertEachOnce(results, 30)
          const accepted = results.filter(({ status }) => status === 'accepted')
          // Lost behind the last byte, the server may have the message: it is not sent again.
          assert.equal(accepted.length, phase === 'message' ? 28 : 30, stderr)
          assert.equal(code, phase === 'message' ? 3 : 0)
          assert.equal(server.received.length, accepted.length)
          assert.equal(new Set(subjects(server)).size, accepted.length)
        },
      ))
  }

  test('sends all to a server that closes each connection after five messages with 421', () => {
    const perConnection = new Map<number, number>()
    const script: Script = (phase, _line, _count, connection) => {
      if (phase !== 'MAIL') return undefined
      const sent = perConnection.get(connection) ?? 0
      perConnection.set(connection, sent + 1)
      return sent === 5 ? '421 4.7.0 enough for one connection' : undefined
    }
    return withServer(script, async (server) => {
      const { code, stdout } = await send(server, '--count', '40', '--concurrency', '2', '--subject', 'Mail {n}')
      assert.equal(code, 0, stdout)
      assert.match(stdout, /^40 accepted, 0 refused of 40 /)
      assert.equal(new Set(subjects(server)).size, 40)
    })
  })

  test('sends all where the server allows fewer connections than --concurrency', () =>
    withServer(
      (phase, _line, _count, connection) =>
        phase === 'connection' && connection > 2 ? '421 4.7.0 too many' : undefined,
      async (server) => {
        const { code, stdout } = await send(server, '--count', '30', '--concurrency', '8')
        assert.equal(code, 0, stdout)
        assert.equal(server.received.length, 30)
      },
    ))

  test('goes on when the server was away for a moment', () =>
    withServer(undefined, async (first) => {
      const { port } = first
      const running = send(first, '--json', '--count', '1500', '--concurrency', '3', '--subject', 'Mail {n}')
      while (first.received.length < 20) await new Promise((resolve) => setTimeout(resolve, 5))
      await first.stop()
      await new Promise((resolve) => setTimeout(resolve, 600))
      await first.listen(port)
      const result = await running
      const results = resultsOf(result)
      assertEachOnce(results, 1500)
      assert.ok(results.filter(({ status }) => status !== 'accepted').length <= 3, result.stderr)
    }))

  test('Ctrl-C ends it after the messages under way, with the sum so far and exit code 130', () =>
    withServer(undefined, async (server) => {
      const args = ['--import', 'tsx', 'scripts/send_email.ts', ...server.options, '--count', '1000000']
      const child = spawn(process.execPath, args, { cwd: project.dir, env: project.env, timeout: 60_000 })
      let stdout = ''
      child.stdout.on('data', (chunk) => {
        stdout += chunk
      })
      while (server.received.length < 20 && child.exitCode === null)
        await new Promise((resolve) => setTimeout(resolve, 5))
      child.kill('SIGINT')
      const [code] = await once(child, 'close')
      assert.equal(code, 130)
      const [, accepted, left] = /^(\d+) accepted, 0 refused, (\d+) not sent of 1000000/.exec(stdout) ?? []
      assert.equal(Number(accepted), server.received.length, stdout)
      assert.equal(Number(accepted) + Number(left), 1_000_000)
    }))

  test('ends when the server is gone for good, with a result for every message', () =>
    withServer(undefined, async (server) => {
      const running = send(server, '--json', '--count', '1500', '--concurrency', '3', '--timeout', '1')
      while (server.received.length < 20) await new Promise((resolve) => setTimeout(resolve, 5))
      await server.stop()
      const result = await running
      assertEachOnce(resultsOf(result), 1500)
      assert.equal(result.code, 3)
      assert.match(result.stderr, /\d+ accepted, 0 refused, \d+ failed of 1500 messages/)
    }))
})
