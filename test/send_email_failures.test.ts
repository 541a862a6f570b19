/** send_email against servers that refuse, hang up and fall silent, at every phase: what a real server will not do. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { Ajv } from 'ajv'
import fc from 'fast-check'
import { ROOT } from '../scripts/lib/settings.ts'
import { main } from '../scripts/send_email.ts'
import { type Result, until } from './harness.ts'
import { runHere } from './here.ts'
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

async function withServer(script: Script | undefined, extensions: readonly string[] | undefined, work: Work) {
  const server = await SmtpServer.start(script, extensions && [...extensions])
  try {
    await work(server)
  } finally {
    await server.stop()
  }
}
type Work = (server: SmtpServer) => Promise<void>

const send = (server: SmtpServer, ...args: string[]) =>
  runHere(main, {}, ...server.options, '--to', 'a@b.example', ...args)
const at =
  (phase: Phase, answer: string): Script =>
  (now) =>
    now === phase ? answer : undefined

/** Commands one at a time, as to a server without PIPELINING. */
const PLAIN = ['AUTH PLAIN', 'SIZE 10240000']
const ONE_LINE = /^SMTP on 127\.0\.0\.1:\d+: [^\n]+\n$/

describe('a server that fails at a phase', () => {
  test('a refusal is the exit code of its phase, with the reply', async () => {
    const replies = ['451 4.3.0 no', '421 4.3.2 bye', '550-5.7.1 on\n550 5.7.1 two lines']
    const phases = { connection: 3, AUTH: 5, MAIL: 6, RCPT: 7, DATA: 9, message: 9 }
    for (const [index, [phase, code]] of replies.flatMap(() => Object.entries(phases)).entries()) {
      const reply = replies[Math.floor(index / 6)] ?? ''
      await withServer(at(phase as Phase, reply), index % 2 > 0 ? PLAIN : undefined, async (server) => {
        const result = await send(server, '--json')
        assert.equal(result.code, code, `${phase}: ${result.stderr}`)
        assert.deepEqual([resultsOf(result).map(({ exitCode }) => exitCode), server.received], [[code], []])
        const words = reply.replace('-', ' ').replace('\n550 5.7.1', '')
        assert.ok(resultsOf(result)[0]?.error?.includes(words), result.stdout)
        assert.match(result.stderr, ONE_LINE)
      })
    }
  })

  test('who drops, falls silent, trickles or speaks no SMTP is told, and what is not known of the message', async () => {
    const phases = ['connection', 'AUTH', 'MAIL', 'RCPT', 'DATA', 'message'] as const
    const answers: [string, number, RegExp][] = [
      ['drop', 3, /closed the connection|ECONNRESET/],
      ['stall', 10, /no answer to .* within 3 s \(--timeout\)/],
      ['trickle', 10, /no answer to .* within 3 s \(--timeout\)/],
      ['hello, this is no SMTP', 3, /not an SMTP reply: "hello/],
    ]
    const checks = answers.flatMap(([answer, code, words]) =>
      phases.map((phase) =>
        withServer(at(phase, answer), undefined, async (server) => {
          const result = await send(server, '--json', ...(code === 10 ? ['--timeout', '3'] : []))
          assert.equal(result.code, code, `${phase}: ${result.stderr}`)
          assert.equal(resultsOf(result)[0]?.status, 'failed')
          assert.match(result.stderr, words)
          assert.match(result.stderr, ONE_LINE)
          assert.equal(/Whether the server took the message is not known/.test(result.stderr), phase === 'message')
        }),
      ),
    )
    await Promise.all(checks)
  })

  const LOGIN = ['--user', 'me', '--password', 'secret']
  const STARTTLS = ['--tls', 'starttls']
  const IMPLICIT = ['--tls', 'implicit']
  const CASES: [string, Script | undefined, string[] | undefined, string[], number, RegExp, RegExp][] = [
    ['a login that asks on', at('AUTH', '334 more'), PLAIN, ['--timeout', '2'], 10, /no answer to AUTH/, /MAIL/],
    ['a refused EHLO: HELO follows', at('EHLO', '502 5.5.1 what'), PLAIN, [], 0, /^$/, /^AUTH/],
    ['STARTTLS refused', at('STARTTLS', '454 4.7.0 no'), ['STARTTLS'], STARTTLS, 4, /454 4/, /MAIL|AUTH/],
    ['no STARTTLS', undefined, [], STARTTLS, 4, /does not offer STARTTLS/, /MAIL|AUTH/],
    ['STARTTLS dropped', at('STARTTLS', '220 go\ndrop'), ['STARTTLS'], STARTTLS, 4, /TLS .* failed/, /MAIL|AUTH/],
    ['TLS not spoken', undefined, [], IMPLICIT, 4, /TLS \(implicit\) failed: wrong version/, /MAIL|AUTH/],
    ['TLS dropped', at('connection', 'drop'), [], IMPLICIT, 4, /TLS \(implicit\) failed/, /MAIL|AUTH/],
    ['a break behind a refusal', at('MAIL', '553 5.1.8 no\ndrop'), undefined, [], 6, /553 5\.1\.8 no/, /^From:/],
    ['no login, none chosen', undefined, ['8BITMIME'], [], 0, /^$/, /^AUTH/],
    ['no login, one chosen', undefined, ['8BITMIME'], LOGIN, 5, /offers no login \(AUTH\)/, /MAIL|AUTH/],
    ['no known kind of login', undefined, ['AUTH GSSAPI'], LOGIN, 5, /offers no login \(AUTH\)/, /MAIL|AUTH/],
    ['--dsn without DSN', undefined, ['8BITMIME'], ['--dsn', 'never'], 2, /never: .*does not offer DSN/, /MAIL/],
    ['more than its SIZE', undefined, ['SIZE 100'], [], 9, /larger than allowed 100 \(SIZE\)/, /MAIL/],
  ]
  for (const [what, script, extensions, args, code, words, never] of CASES) {
    test(`${what}: exit code ${code}, and not a word too much`, () =>
      withServer(script, extensions, async (server) => {
        const result = await send(server, ...args)
        assert.equal(result.code, code, result.stderr)
        assert.match(result.stderr, words)
        assert.ok(!server.commands.some((line) => never.test(line)), server.commands.join())
      }))
  }

  test('some recipients refused is exit code 8: the others have the mail, and each refusal has its line', async () => {
    for (const extensions of [undefined, PLAIN]) {
      const script: Script = (phase, line) => (phase === 'RCPT' && /bad/.test(line) ? '452 4.2.2 full' : undefined)
      await withServer(script, extensions, async (server) => {
        const to = ['--to', 'bad1@b.example', '--to', 'bad2@b.example']
        const text = await send(server, ...to)
        assert.equal(text.code, 8)
        const lines = ['bad1', 'bad2'].map((name) => `Refused: +${name}@b\\.example: 452 4\\.2\\.2 full\\n`)
        assert.match(text.stdout, new RegExp(lines.join('')))
        const [json] = resultsOf(await send(server, '--json', ...to))
        assert.deepEqual([json?.status, json?.accepted], ['partial', ['a@b.example']])
        const refusal = { recipient: 'bad2@b.example', code: 452, enhancedCode: '4.2.2', reply: '452 4.2.2 full' }
        assert.deepEqual(json?.refused[1], refusal)
        assert.deepEqual(server.received.map((message) => message.to).join(), 'a@b.example,a@b.example')
      })
    }
  })

  test('control characters in a reply do not reach the terminal', () =>
    withServer(at('message', '550 5.7.1 \x1b]0;title\x07 \u202e no'), undefined, async (server) => {
      const { stdout, stderr } = await send(server, '--verbose')
      assert.match(stderr, /\\x1b\]0;title\\x07 \\u202e/)
      const json = await send(server, '--json')
      assert.doesNotMatch(stdout + stderr + json.stdout, /[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]/)
    }))

  for (const mechanism of ['PLAIN', 'LOGIN', 'CRAM-MD5']) {
    test(`the dialogue of --verbose has the password masked with AUTH ${mechanism}`, async () => {
      const script: Script = (phase, line) => (phase === 'AUTH' && /CRAM/.test(line) ? '334 PDFAeD4=' : undefined)
      await withServer(script, [`AUTH ${mechanism}`], async (server) => {
        const { stdout, stderr } = await send(server, '-v', '--user', 'me', '--password', 'sesame', '--from', 'a@b')
        assert.match(stderr, /^> (AUTH PLAIN )?\*{4}$/m)
        assert.match(stderr, /^> MAIL FROM:<a@b>.*\n(?:.*\n)*< 250 2\.0\.0 Ok: queued as Q1$/m)
        const shows = (word: string) => `${word}${Buffer.from(word, 'base64')}`.includes('sesame')
        assert.equal(server.commands.join(' ').split(' ').some(shows), mechanism !== 'CRAM-MD5')
        assert.ok(!`${stdout}\n${stderr}`.split(/\s+/).some(shows))
      })
    })
  }
})

describe('--count', () => {
  /** Every number from 1 to `count` once. */
  const assertEachOnce = (results: JsonResult[], count: number) => {
    const numbers = results.map(({ n }) => n).sort((a, b) => a - b)
    const all = Array.from({ length: count }, (_, index) => index + 1)
    assert.deepEqual(numbers, all)
  }
  const subjects = (server: SmtpServer) =>
    server.received.map(({ message }) => /^Subject: (.*)\r$/m.exec(message)?.[1] ?? '')
  const MAILS = ['--json', '--text', 'x', '--subject', 'Mail {n}', '--count']

  test('goes on after refused messages; the exit code is that of the lowest number', () => {
    const script: Script = (phase, line) => {
      if (phase === 'RCPT' && /u[38]@/.test(line)) return '550 5.1.1 no'
      return phase === 'MAIL' && /s12@/.test(line) ? '451 4.1.8 no' : undefined
    }
    return withServer(script, undefined, async (server) => {
      const addresses = ['--envelope-to', 'u{n}@b.example', '--envelope-from', 's{n}@c.example']
      const args = [...addresses, '--count', '20', '--concurrency', '3']
      const json = await send(server, '--json', ...args)
      const results = resultsOf(json)
      assertEachOnce(results, 20)
      const refused = results.filter(({ status }) => status === 'refused').map(({ n }) => n)
      assert.deepEqual([json.code, refused.sort((a, b) => a - b)], [7, [3, 8, 12]])
      assert.match(json.stderr, /17 accepted, 3 refused of 20 messages in [\d.]+ s: [\d.]+ messages per second/)
      assert.deepEqual([server.connections, server.received.length], [3, 17])
      const text = await send(server, ...args)
      assert.match(text.stdout, /^Message 8 refused: u8@b\.example: 550 5\.1\.1 no$/m)
      assert.match(text.stdout, /^17 accepted, 3 refused of 20 messages/m)
    })
  })

  const perConnection = new Map<number, number>()
  const everySixth: Script = (phase, _line, _count, connection) => {
    if (phase !== 'MAIL') return undefined
    perConnection.set(connection, (perConnection.get(connection) ?? -1) + 1)
    return perConnection.get(connection) === 5 ? '421 4.7.0 enough for one connection' : undefined
  }
  const onlyTwo: Script = (phase, _line, _count, connection) =>
    phase === 'connection' && connection > 2 ? '421 4.7.0 too many' : undefined
  const noReset: Script = (phase, _line, count) => {
    if (phase === 'RSET') return '502 5.5.1 what'
    return phase === 'MAIL' && count === 3 ? '451 4.1.8 no' : undefined
  }
  const lostAt =
    (phase: Phase): Script =>
    (now, _line, count) =>
      now === phase && (count === 4 || count === 11) ? 'drop' : undefined
  for (const [what, script, lost] of [
    ['closes each connection after five messages with 421', everySixth, 0],
    ['allows fewer connections than --concurrency', onlyTwo, 0],
    ['refuses RSET behind a refused message', noReset, 1],
    ['drops connections at DATA', lostAt('DATA'), 0],
    // It may have the message, which is therefore not sent again.
    ['drops connections behind the last byte', lostAt('message'), 2],
  ] as const) {
    test(`no message is counted twice or left out by a server that ${what}`, () =>
      withServer(script, undefined, async (server) => {
        const result = await send(server, '--concurrency', '4', ...MAILS, '40')
        const results = resultsOf(result)
        assertEachOnce(results, 40)
        assert.equal(results.filter(({ status }) => status === 'accepted').length, 40 - lost, result.stderr)
        assert.deepEqual([subjects(server).length, new Set(subjects(server)).size], [40 - lost, 40 - lost])
      }))
  }

  test('however connections break, every message is reported once, and none is handed over twice', async () => {
    const fate = fc.constantFrom(...Array(12).fill(undefined), '451 4.0.0 no', 'drop', '421 4.0.0 bye')
    const check = fc.asyncProperty(fc.infiniteStream(fate), fc.integer({ min: 1, max: 5 }), (fates, concurrency) =>
      withServer(
        (phase) => (phase === 'QUIT' || phase === 'EHLO' ? undefined : fates.next().value),
        undefined,
        async (server) => {
          const args = ['--user', '', '--concurrency', `${concurrency}`, ...MAILS, '12']
          const results = resultsOf(await send(server, ...args))
          assertEachOnce(results, 12)
          assert.equal(new Set(subjects(server)).size, subjects(server).length)
          assert.equal(results.filter(({ status }) => status === 'accepted').length, server.received.length)
        },
      ),
    )
    await fc.assert(check, { numRuns: 8, seed: Number(process.env.FUZZ_SEED ?? 20_250_701) })
  })

  test('goes on when the server was away for a moment, and ends when it is gone for good', () =>
    withServer(undefined, undefined, async (server) => {
      const { port } = server
      const running = send(server, '--concurrency', '3', '--timeout', '2', ...MAILS, '400')
      await until('20 messages', () => server.received.length >= 20)
      await server.stop()
      await new Promise((resolve) => setTimeout(resolve, 300))
      await server.listen(port)
      const soFar = server.received.length
      await until('20 more', () => server.received.length >= soFar + 20)
      await server.stop()
      const result = await running
      const results = resultsOf(result)
      assertEachOnce(results, 400)
      assert.equal(result.code, 3)
      assert.match(result.stderr, /\d+ accepted, 0 refused, \d+ failed of 400 messages/)
      assert.ok(results.filter(({ status }) => status === 'accepted').length <= server.received.length)
    }))

  test('Ctrl-C ends it after the messages under way, with the sum so far and exit code 130', () =>
    withServer(undefined, undefined, async (server) => {
      const args = ['--import', 'tsx', 'scripts/send_email.ts', ...server.options, '--count', '1000000']
      const child = spawn(process.execPath, args, { cwd: ROOT, timeout: 180_000 })
      let stdout = ''
      child.stdout.on('data', (chunk) => {
        stdout += chunk
      })
      await until('20 messages', () => server.received.length >= 20 || child.exitCode !== null)
      child.kill('SIGINT')
      const [code] = await once(child, 'close')
      assert.equal(code, 130)
      const [, accepted, left] = /^(\d+) accepted, 0 refused, (\d+) not sent of 1000000/.exec(stdout) ?? []
      assert.equal(Number(accepted), server.received.length, stdout)
      assert.equal(Number(accepted) + Number(left), 1_000_000)
    }))
})
