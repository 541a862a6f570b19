/** pop_email and mail that means harm, or is just large: shown as far as it goes, in time and memory. */
import assert from 'node:assert/strict'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { BAR, loginAt, Mailboxes, mail, ok } from './mailboxes.ts'
import { serve } from './pop3_server.ts'

let mailboxes: Mailboxes
before(async () => {
  mailboxes = await Mailboxes.start()
})
after(() => mailboxes.project.remove())

describe('hostile and large mail', () => {
  const LIMIT = { milliseconds: 10_000, megabytes: 512 }
  /** Prints the peak of resident memory at the end. */
  const measure = () => {
    const file = mailboxes.project.path('measure.mjs')
    writeFileSync(file, 'process.on("exit", () => console.error("RSS", process.resourceUsage().maxRSS))')
    return { NODE_OPTIONS: `--max-old-space-size=384 --import ${file}` }
  }
  const head = ['From: a@client.example', 'Subject: hostile', 'MIME-Version: 1.0']

  async function read(content: Buffer, ...args: string[]) {
    const server = await serve('none', { messages: [content] })
    try {
      const begin = Date.now()
      const result = await mailboxes.popWith({ env: measure() }, ...loginAt(server.port), ...args)
      const megabytes = Number(/RSS (\d+)/.exec(result.stderr)?.[1]) / 1024
      assert.equal(result.code, 0, result.stderr)
      assert.ok(Date.now() - begin < LIMIT.milliseconds, `${Date.now() - begin} ms`)
      assert.ok(megabytes < LIMIT.megabytes, `${megabytes} MB`)
      const warnings = result.stderr.split('\n').filter((line) => line !== '' && !line.startsWith('RSS'))
      return { ...result, warnings }
    } finally {
      await server.close()
    }
  }
  const nested = (levels: number) => {
    const boundary = (level: number) => `Content-Type: multipart/mixed; boundary=b${level}`
    const down = Array.from({ length: levels }, (_, level) => [`--b${level}`, boundary(level + 1), ''])
    return mail(...head, boundary(0), '', ...down.flat(), `--b${levels}`, '', 'deep inside')
  }
  const wide = (parts: number) =>
    mail(
      ...[...head, 'Content-Type: multipart/mixed; boundary=b', ''],
      ...Array.from({ length: parts }, (_, index) => [
        '--b',
        `Content-Disposition: attachment; filename=f${index}`,
        '',
        'x',
      ]).flat(),
      '--b--',
    )
  const long = (field: string) => mail(...head, `${field}`, 'To: late@client.example', '', 'the text')
  const cases: [string, () => Buffer, RegExp][] = [
    ['10,000 parts', () => wide(10_000), /f9999/],
    ['1,000 levels', () => nested(1_000), /deep inside/],
    ['a header of 20 MB in one line', () => long(`X-Long: ${'x'.repeat(20e6)}`), /To: late@[\s\S]*the text/],
    [
      'a header of 20 MB in folded lines',
      () => long(`X-Long: ${'x'.repeat(70)}${`\r\n ${'x'.repeat(70)}`.repeat(275_000)}`),
      /To: late@[\s\S]*the text/,
    ],
    [
      'a header of 20 MB in small fields',
      () => long(`${'a: b\r\n'.repeat(3_300_000)}c: d`),
      /To: late@[\s\S]*the text/,
    ],
    ['an unknown charset', () => mail(...head, 'Content-Type: text/plain; charset=x-nope', '', 'the text'), /the text/],
    ['broken base64', () => mail(...head, 'Content-Transfer-Encoding: base64', '', 'dGhl!!!IHRleHQ'), /the text/],
  ]
  for (const [name, content, shown] of cases) {
    test(`${name}: shown as far as it goes, one warning`, async () => {
      const { stdout, warnings } = await read(content())
      assert.match(stdout, /^Subject: hostile$/m)
      assert.match(stdout, shown)
      assert.equal(warnings.length, 1, warnings.join('\n'))
      assert.match(warnings[0] ?? '', /^Mail 1 of a: .*Shown as far as it goes\.$/)
    })
  }

  test('20 MB of escape characters, of line breaks, of HTML', async () => {
    const bodies = ['\x1b'.repeat(20e6), '\r\n'.repeat(10e6), '<a href="https://x.example/">x</a>'.repeat(600_000)]
    for (const body of bodies) {
      const content = mail(...head, `Content-Type: text/${body.startsWith('<') ? 'html' : 'plain'}`, '', body)
      await read(content)
      await read(content, '--json')
    }
  })

  test('a mail of 20 MB comes over TLS, exact, and memory is that of one mail', async () => {
    await mailboxes.empty()
    const line = 'The quick brown fox jumps over the lazy dog; 0123456789 ABCDEFGHIJ.\r\n'
    const content = mail('Subject: big', '', line.repeat(Math.ceil(20e6 / line.length)))
    await mailboxes.deliver(BAR, content, content, content)
    const begin = performance.now()
    const dir = mailboxes.project.path('big')
    const result = await mailboxes.popWith({ env: measure() }, '--tls', 'implicit', '--save', dir)
    const paths = ok(result).trim().split('\n')
    assert.ok(performance.now() - begin < 10_000)
    assert.equal(paths.length, 3)
    for (const path of paths)
      assert.ok(
        readFileSync(path)
          .subarray(-content.length + 60)
          .equals(content.subarray(60)),
      )
    assert.ok(Number(/RSS (\d+)/.exec(result.stderr)?.[1]) / 1024 < 250, result.stderr)
    rmSync(dir, { recursive: true })
  })
})
