/** Which mails match: the filters of pop_email, without a server. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Failure } from '../scripts/lib/cli.ts'
import { behind, type FilterValues, parseFilters } from '../scripts/lib/mail/filters.ts'
import { Mail } from '../scripts/lib/mail/mail.ts'
import { mail } from './mailboxes.ts'

const NOW = Date.parse('2026-11-22T12:00:00.500Z')
const received = (date: string) => [
  `Received: from mail.example by mail.example with LMTP id x; ${date}`,
  'Received: by mail.example (Postfix) id y; Sun, 22 Nov 2026 11:59:00 +0000 (UTC)',
  'Delivered-To: Hidden@Example.com',
  'Received: from client (unknown [127.0.0.1]) by mail.example (Postfix) with ESMTP id z; Sun, 22 Nov 2026 11:59:00 +0000',
]
const sample = mail(
  'Delivered-To: catchall@mail.example',
  ...received('Sun, 22 Nov 2026 12:59:00 +0100 (CET)'),
  'From: "Doe, =?utf-8?B?SsO8cmdlbg==?=" <Juergen@client.example>',
  'To: list@client.example, other@client.example',
  'Date: Sat, 21 Nov 2026 00:00:00 +0000',
  'Subject: =?utf-8?B?5pel5pys6Kqe?= Confirm/Now (1+1)',
  'Message-ID: <Unique.1@client.example>',
  'Content-Type: text/html; charset=utf-8',
  '',
  '<p>Your <b>code</b></p><!-- secret -->',
)

function matches(values: FilterValues): boolean {
  const { matchesHeader, matchesBody } = parseFilters(values, NOW)
  const read = new Mail(sample)
  return (matchesHeader?.(read) ?? true) && (matchesBody?.(read) ?? true)
}

describe('filters', () => {
  const cases: [FilterValues, boolean][] = [
    [{}, true],
    [{ subject: ['日本語 confirm'] }, true],
    [{ subject: ['(1+1)'] }, true],
    [{ subject: ['/^日本語.*now/i'] }, true],
    [{ subject: ['/now/'] }, false],
    [{ subject: ['/CONFIRM\\/now/gi'] }, true],
    [{ subject: ['confirm', 'never'] }, false],
    [{ from: ['jürgen'] }, true],
    [{ from: ['ju\u0308rgen'] }, true],
    [{ from: ['/^juergen@client\\.example$/i'] }, true],
    [{ to: ['OTHER@client'] }, true],
    [{ to: ['hidden@example.com'] }, true],
    [{ to: ['/^hidden@example\\.com$/i'] }, true],
    [{ to: ['juergen'] }, false],
    [{ 'message-id': ['<unique.1@client.example>'] }, true],
    [{ 'message-id': ['unique.2'] }, false],
    [{ body: ['your code'] }, true],
    [{ body: ['secret'] }, true],
    [{ body: ['confirm'] }, false],
    [{ since: '60s' }, true],
    [{ since: '59s' }, false],
    [{ since: '1m' }, true],
    [{ since: '1h' }, true],
    [{ since: '0.001d' }, true],
    [{ subject: ['confirm'], body: ['code'], since: '5m', to: ['hidden'] }, true],
    [{ subject: ['confirm'], body: ['code'], since: '5m', to: ['nobody'] }, false],
  ]
  for (const [values, expected] of cases) {
    test(`${JSON.stringify(values)} ${expected ? 'matches' : 'does not match'}`, () => {
      assert.equal(matches(values), expected)
      // Twice, as a regular expression with /g would go on where it stopped.
      assert.equal(matches(values), expected)
    })
  }

  test('a wrong value names the option', () => {
    const wrong: [FilterValues, RegExp][] = [
      [{ subject: [''] }, /^--subject is empty/],
      [{ subject: ['/(/'] }, /^--subject \/\(\/: Invalid regular expression/],
      [{ body: ['/a/q'] }, /^--body \/a\/q: Invalid/],
      [{ since: '5' }, /^--since 5: .*5m/],
      [{ since: '-5m' }, /^--since -5m/],
      [{ since: '5y' }, /^--since 5y/],
      [{ last: '0' }, /^--last 0/],
      [{ last: '1e3' }, /^--last 1e3/],
      [{ 'unseen-since': 'a b' }, /^--unseen-since "a b"/],
      [{ 'unseen-since': '' }, /^--unseen-since ""/],
    ]
    for (const [values, message] of wrong) {
      assert.throws(
        () => parseFilters(values, NOW),
        (error: Failure) => error.exit === 'usage' && message.test(error.message),
        String(message),
      )
    }
  })

  test('a regular expression gets a second on a mail, not more', () => {
    const { matchesHeader } = parseFilters({ subject: ['/^(a+)+$/'] }, NOW)
    const begin = Date.now()
    assert.throws(() => matchesHeader?.(new Mail(mail(`Subject: ${'a'.repeat(60)}!`, '', ''))), /takes more than 1 s/)
    assert.ok(Date.now() - begin < 5_000)
  })

  test('what is behind a UIDL, also of a mail that is gone', () => {
    const list = (...uidls: string[]) => uidls.map((uidl, index) => ({ number: index + 1, uidl, size: 1 }))
    const uidlsBehind = (uidl: string, ...uidls: string[]) =>
      behind(list(...uidls), uidl).map((message) => message.uidl)
    assert.deepEqual(uidlsBehind('b', 'a', 'b', 'c', 'd'), ['c', 'd'])
    assert.deepEqual(uidlsBehind('a'), [])
    assert.deepEqual(uidlsBehind('000000026b030f25', '000000016b030f25', '000000036b030f25'), ['000000036b030f25'])
    assert.deepEqual(uidlsBehind('000000fe6b030f25', '000000ff6b030f25', '000001006b030f25').length, 2)
    assert.throws(() => uidlsBehind('x', 'a'), /--unseen-since x: this mailbox has no mail of that UIDL/)
    assert.throws(() => uidlsBehind('000000026b030f25', '0000000300000000'), /no mail of that UIDL/)
  })
})
