/** Which mails match: the filters of pop_email, without a server. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Failure } from '../scripts/lib/cli.ts'
import { type FilterValues, matchesAddress, parseFilters } from '../scripts/lib/mail/filters.ts'
import { readMail } from '../scripts/lib/mail/mail.ts'
import { mail } from './mailboxes.ts'

const NOW = Date.parse('2026-11-22T12:00:00.500Z')
const SAMPLE = mail(
  'Delivered-To: catchall@mail.example',
  'Received: from mail.example by mail.example with LMTP id x; Sun, 22 Nov 2026 12:59:00 +0100 (CET)',
  'X-Original-To: Hidden@Example.com',
  'Received: from client (unknown [127.0.0.1]) by mail.example (Postfix) with ESMTP id z; Sun, 22 Nov 2026 11:59:00 +0000',
  'From: "Doe, =?utf-8?B?SsO8cmdlbg==?=" <Juergen@client.example>',
  'To: list@client.example, "Ann B." <ann@shop.example>',
  'Date: Sat, 21 Nov 2026 00:00:00 +0000',
  'Subject: =?utf-8?B?5pel5pys6Kqe?= Confirm/Now (1+1)',
  'Message-ID: <Unique.1@client.example>',
  'Content-Type: text/html; charset=utf-8',
  '',
  '<p>Your <b>code</b></p><!-- secret -->',
)

test('what matches, and what does not', () => {
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
    [{ to: ['LIST@client'] }, true],
    [{ to: ['hidden@example.com'] }, true],
    [{ to: ['/^hidden@example\\.com$/i'] }, true],
    [{ to: ['juergen'] }, false],
    // A name and an address as they stand in the field.
    [{ to: ['Ann B. <ann@shop.example>'] }, true],
    [{ to: ['nn B. <ann@shop'] }, true],
    [{ to: ['/^ann@shop\\.example$/'] }, true],
    [{ to: ['/nn@shop\\.example/'] }, true],
    [{ from: ['jürgen'], to: ['nn@shop.example'] }, false],
    [{ 'message-id': ['<unique.1@client.example>'] }, true],
    [{ 'message-id': ['unique.2'] }, false],
    [{ body: ['your code'] }, true],
    [{ body: ['secret'] }, true],
    [{ body: ['confirm'] }, false],
    [{ since: '60s' }, true],
    [{ since: '59s' }, false],
    [{ since: '1m' }, true],
    [{ since: '0.001d' }, true],
    [{ subject: ['confirm'], body: ['code'], since: '5m', to: ['hidden'] }, true],
    [{ subject: ['confirm'], body: ['code'], since: '5m', to: ['nobody'] }, false],
  ]
  const read = readMail(SAMPLE)
  for (const [values, expected] of cases) {
    const { matchesHeader, matchesBody } = parseFilters(values, NOW)
    const look = () => (matchesHeader?.(read) ?? true) && (matchesBody?.(read) ?? true)
    // Twice, as a regular expression with /g would go on where it stopped.
    assert.deepEqual([look(), look()], [expected, expected], JSON.stringify(values))
  }
})

test('a wrong value names the option', () => {
  const wrong: [FilterValues, RegExp][] = [
    [{ subject: [''] }, /^--subject is empty/],
    [{ subject: ['/(/'] }, /^--subject \/\(\/: Invalid regular expression/],
    [{ body: ['/a/q'] }, /^--body \/a\/q: Invalid/],
    [{ since: '5' }, /^--since 5: .*5m/],
    [{ since: '-5m' }, /^--since -5m/],
    [{ last: '0' }, /^--last 0/],
    [{ last: '1e3' }, /^--last 1e3/],
  ]
  for (const [values, message] of wrong) {
    const isRight = (error: Failure) => error.exit === 'usage' && message.test(error.message)
    assert.throws(() => parseFilters(values, NOW), isRight, String(message))
  }
})

test('a whole address matches whole, a part as a part, in any letter case', () => {
  const same = [
    '1@gmail.com',
    '1@GMAIL.com',
    '<1@gmail.com>',
    ' 1@gmail.com ',
    '1@',
    '@gmail.com',
    'gmail',
    '@',
    '1@gmail',
  ]
  const cases: [string, string, boolean][] = [
    ...same.map((pattern): [string, string, boolean] => [pattern, '1@gmail.COM', true]),
    ['1@gmail.com', '11@gmail.com', false],
    ['1@gmail.com', '1@gmail.com.example', false],
    ['<1@gmail.com>', '11@gmail.com', false],
    ['ann+tag@shop.example', 'ann+tag@shop.example', true],
    ['ann@shop.example', 'ann+tag@shop.example', false],
    ['root@localhost', 'root@localhost', true],
    ['oot@localhost', 'root@localhost', false],
    ['"a b"@shop.example', '"a b"@shop.example', true],
    ['müller@bücher.example', 'MÜLLER@BÜCHER.example', true],
    ['ann@shop', 'joann@shop.example', false],
    ['ann@shop.exam', 'ann@shop.example', false],
    ['ann@[127.0.0.1]', 'ann@[127.0.0.1]', true],
    ['ann@', 'joann@shop.example', true],
    ['someone', 'else@gmail.com', false],
  ]
  for (const [pattern, address, expected] of cases) {
    assert.equal(matchesAddress(pattern, address), expected, `${pattern} ${address}`)
    for (const field of [`X-Original-To: ${address}`, `To: x@y.example, "N" <${address}>`, `From: ${address}`]) {
      const read = readMail(mail(field, '', ''))
      const values = { [field.startsWith('From') ? 'from' : 'to']: [pattern] }
      assert.equal(parseFilters(values, NOW).matchesHeader?.(read), expected, `${pattern} ${field}`)
    }
  }
})
