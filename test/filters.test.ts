/** Which mails match: the filters of pop_email, without a server. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Failure } from '../scripts/lib/cli.ts'
import { type FilterValues, matchesAddress, parseFilters } from '../scripts/lib/mail/filters.ts'
import { readMail } from '../scripts/lib/mail/mail.ts'
import { mail } from './mailboxes.ts'

const NOW = Date.parse('2026-11-22T12:00:00.500Z')
const received = (date: string) => [
  `Received: from mail.example by mail.example with LMTP id x; ${date}`,
  'X-Original-To: Hidden@Example.com',
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

async function matches(values: FilterValues): Promise<boolean> {
  const { matchesHeader, matchesBody } = parseFilters(values, NOW)
  const read = await readMail(sample)
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
    test(`${JSON.stringify(values)} ${expected ? 'matches' : 'does not match'}`, async () => {
      assert.equal(await matches(values), expected)
      // Twice, as a regular expression with /g would go on where it stopped.
      assert.equal(await matches(values), expected)
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
    ]
    for (const [values, message] of wrong) {
      assert.throws(
        () => parseFilters(values, NOW),
        (error: Failure) => error.exit === 'usage' && message.test(error.message),
        String(message),
      )
    }
  })

  test('a whole address matches whole, a part as a part, in any letter case', async () => {
    const cases: [string, string, boolean][] = [
      ['1@gmail.com', '1@gmail.com', true],
      ['1@gmail.com', '11@gmail.com', false],
      ['1@gmail.com', '1@gmail.com.example', false],
      ['1@GMAIL.com', '1@gmail.COM', true],
      ['<1@gmail.com>', '1@gmail.com', true],
      ['<1@gmail.com>', '11@gmail.com', false],
      [' 1@gmail.com ', '1@gmail.com', true],
      ['ann+tag@shop.example', 'ann+tag@shop.example', true],
      ['ann@shop.example', 'ann+tag@shop.example', false],
      ['root@localhost', 'root@localhost', true],
      ['oot@localhost', 'root@localhost', false],
      ['"a b"@shop.example', '"a b"@shop.example', true],
      ['müller@bücher.example', 'MÜLLER@BÜCHER.example', true],
      ['ann@shop', 'ann@shop.example', true],
      ['ann@shop', 'joann@shop.example', false],
      ['ann@shop.exam', 'ann@shop.example', false],
      ['ann@[127.0.0.1]', 'ann@[127.0.0.1]', true],
      ['ann@', 'joann@shop.example', true],
      ['Ann@', 'ann@shop.example', true],
      ['@shop.example', 'ann@SHOP.example', true],
      ['shop', 'ann@shop.example', true],
      ['someone', 'Someone@gmail.com', true],
      ['someone', 'else@gmail.com', false],
      ['@', 'ann@shop.example', true],
    ]
    for (const [pattern, address, expected] of cases) {
      const what = `${pattern} ${address}`
      assert.equal(matchesAddress(pattern, address), expected, what)
      for (const field of ['X-Original-To: ', 'To: ', 'To: x@y.example, "N" <', 'From: ']) {
        const end = field.endsWith('<') ? '>' : ''
        const read = await readMail(mail(`${field}${address}${end}`, '', ''))
        const option = field.startsWith('From') ? 'from' : 'to'
        assert.equal(parseFilters({ [option]: [pattern] }, NOW).matchesHeader?.(read), expected, `${field}${what}`)
      }
    }
  })

  test('a name and an address as they stand in the field match as they stand', async () => {
    const read = await readMail(
      mail('To: "Ann B." <ann@shop.example>', 'From: =?utf-8?q?J=C3=BCrgen?= <j@x.example>', '', ''),
    )
    const cases: [FilterValues, boolean][] = [
      [{ to: ['Ann B. <ann@shop.example>'] }, true],
      [{ to: ['<ann@shop.example>'] }, true],
      [{ to: ['nn B. <ann@shop'] }, true],
      [{ to: ['/^ann@shop\\.example$/'] }, true],
      [{ to: ['/nn@shop\\.example/'] }, true],
      [{ from: ['Jürgen <j@x.example>'] }, true],
      [{ from: ['jürgen'], to: ['ann@shop.example'] }, true],
      [{ from: ['jürgen'], to: ['nn@shop.example'] }, false],
    ]
    for (const [values, expected] of cases) {
      assert.equal(parseFilters(values, NOW).matchesHeader?.(read), expected, JSON.stringify(values))
    }
  })
})
