/** The pure parts of sending: address lists, composed messages, messages that are sent as they are. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseAddressList, problemOfAddress, toEnvelope } from '../scripts/lib/mail/addresses.ts'
import { prepareEml } from '../scripts/lib/mail/eml.ts'
import { readMail } from '../scripts/lib/mail/mail.ts'
import { compose, type Draft } from '../scripts/lib/mail/message.ts'

// The same cases in every run: what fails here fails again. FUZZ_SEED chooses others.
fc.configureGlobal({ seed: Number(process.env.FUZZ_SEED ?? 20_250_701) })

test('address lists are read as people and header fields write them', () => {
  const cases: [string, [string, string][]][] = [
    ['a@b', [['', 'a@b']]],
    ['名前 <a@b>', [['名前', 'a@b']]],
    [
      '"Doe, \\"J\\"" <j@x>, c@d',
      [
        ['Doe, "J"', 'j@x'],
        ['', 'c@d'],
      ],
    ],
    [
      'a@b (comment, with comma), <c@d>',
      [
        ['comment, with comma', 'a@b'],
        ['', 'c@d'],
      ],
    ],
    [
      'friends: a@b, "x; y" <c@d>;, e@f',
      [
        ['', 'a@b'],
        ['x; y', 'c@d'],
        ['', 'e@f'],
      ],
    ],
    ['undisclosed-recipients:;', []],
    [
      'root, user@[1.2.3.4], user@[IPv6:::1]',
      [
        ['', 'root'],
        ['', 'user@[1.2.3.4]'],
        ['', 'user@[IPv6:::1]'],
      ],
    ],
    [
      '"a b"@c, a..b.@docomo.ne.jp',
      [
        ['', '"a b"@c'],
        ['', 'a..b.@docomo.ne.jp'],
      ],
    ],
    [' , ,', []],
  ]
  for (const [list, expected] of cases) {
    assert.deepEqual(
      parseAddressList(list),
      expected.map(([name, address]) => ({ name, address })),
      list,
    )
  }
})

test('what is no address is refused with its own words', () => {
  for (const list of [
    'a b@c',
    'a@b@c',
    '<a@b',
    'a@b>',
    '<>',
    '名前',
    'a@',
    '@b',
    'a@b:c',
    'a@b c',
    'a\0b@c',
    'a@"b"',
    '"<"@x',
  ]) {
    assert.throws(
      () => parseAddressList(list),
      (error: Error) => error.message.startsWith('"'),
      list,
    )
  }
})

test('an address that passes cannot end or extend an SMTP command', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'grapheme' }), (local, domain) => {
      for (const address of [`${local}@${domain}`, `"${local}"@${domain}`, local]) {
        if (problemOfAddress(address)) continue
        assert.doesNotMatch(toEnvelope(address), /[\x00-\x1f\x7f<>]/)
        // A space stands only inside quotes.
        assert.doesNotMatch(toEnvelope(address).replace(/^".*"@/, ''), /\s/)
      }
    }),
    { numRuns: 2000 },
  )
})

const DRAFT: Draft = {
  ...{ from: [{ name: '', address: 'a@b.example' }], to: [], cc: [], replyTo: [], attachments: [], headers: [] },
  ...{ subject: '', text: 'x', html: undefined, calendar: undefined, messageId: undefined, inReplyTo: undefined },
  date: new Date(0),
}
const headerOf = (bytes: Buffer) => bytes.toString('latin1').split('\r\n\r\n')[0] ?? ''

test('subjects and header fields of any length are folded, and read as they were typed', async () => {
  const subject = fc.oneof(
    fc.string({ unit: 'grapheme', minLength: 1, maxLength: 400 }),
    fc.array(fc.stringMatching(/^[!-~]{1,200}$/), { minLength: 1, maxLength: 20 }).map((words) => words.join(' ')),
    fc.stringMatching(/^[!-~]{900,2000}$/),
    fc.constantFrom('x'.repeat(1_386), `${'word '.repeat(300)}end`, `a${' '.repeat(300)}b`),
  )
  const isOneLine = (text: string) =>
    text.trim() === text && !text.includes('=?') && !/[\0-\x1f\x7f-\x9f\u2028\u2029]/.test(text)
  await fc.assert(
    fc.asyncProperty(subject.filter(isOneLine), subject.filter(isOneLine), async (text, value) => {
      const { bytes } = await compose({ ...DRAFT, subject: text, headers: [{ name: 'X-Note', value }] })
      const lines = headerOf(bytes).split('\r\n')
      const fields = headerOf(bytes).split(/\r\n(?=\S)/)
      assert.ok(
        lines.every((line) => line.length <= 998 && line.trim() !== ''),
        JSON.stringify(lines),
      )
      const own = fields.find((field) => field.startsWith('Subject:')) ?? ''
      assert.ok(
        own.split('\r\n').every((line) => line.length <= 78),
        own,
      )
      const mail = await readMail(bytes)
      assert.equal(mail.subject, text)
      assert.equal(mail.headers.find(({ name }) => name === 'X-Note')?.value, value)
    }),
    { numRuns: 300 },
  )
})

test('a message that is sent as it is loses its Bcc and Resent-Bcc fields and nothing else', () => {
  const field = fc.constantFrom(
    ...['To: a@b', 'Bcc: x@y', 'bcc : x@y,\r\n\tz@y', 'BCC:\n x@y', 'bCc:', 'X-Bcc: no', 'Bcc-Note: no'],
    ...[
      'Resent-Bcc: r@y',
      'RESENT-BCC:\r r@y',
      'resent-bcc: r@y\n\t,s@y',
      'Subject: ü\r\n more',
      'Subject: x\n Bcc: y',
    ],
  )
  const lineEnd = fc.constantFrom('\r\n', '\n', '\r')
  const before = fc.constantFrom(
    '',
    '\n',
    ' \r\n\r\n',
    'From a@b Tue Jul  1 00:00:00 2025\n',
    '\xef\xbb\xbf',
    '>From x\r\n\n',
  )
  fc.assert(
    fc.property(fc.array(fc.tuple(field, lineEnd)), lineEnd, fc.uint8Array(), before, (fields, end, body, mark) => {
      const message = (parts: [string, string][]) =>
        Buffer.concat([Buffer.from(`${mark}${parts.map((part) => part.join('')).join('')}${end}`, 'latin1'), body])
      // A line feed behind a lone CR would belong to it.
      fc.pre(!/\r\n/.test(`${fields.at(-1)?.[1] === '\r' && end[0] === '\n' ? '\r\n' : ''}`) && fields.length > 0)
      const prepared = prepareEml(message(fields), { sender: false, recipients: false })
      assert.deepEqual(prepared.bytes, message(fields.filter(([text]) => !/^(resent-)?bcc[ :]/i.test(text))))
      assert.equal(prepared.before === undefined, mark === '')
    }),
    { numRuns: 1_000 },
  )
})

test('what stands before the header of a message is named, and its fields are found behind it', () => {
  const message = 'From: f@x.example\nTo: t@x.example\nBcc: b@x.example\n\ntext\n'
  for (const [mark, named] of [
    ['', undefined],
    ['From a@b Tue Jul  1 00:00:00 2025\n', /an mbox line/],
    ['>From a@b\r\n', /an mbox line/],
    ['\n\n', /a blank line/],
    [' \r\n', /a blank line/],
    ['\ufeff', /a byte order mark/],
    ['\ufeff\nFrom x\n', /a byte order mark and a blank line and an mbox line/],
  ] as const) {
    const prepared = prepareEml(Buffer.from(mark + message), { sender: true, recipients: true })
    assert.match(prepared.before ?? '', named ?? /^$/)
    assert.deepEqual(
      [prepared.from[0]?.address, prepared.to.map(({ address }) => address)],
      ['f@x.example', ['t@x.example', 'b@x.example']],
    )
    assert.equal(prepared.bytes.toString(), mark + message.replace('Bcc: b@x.example\n', ''))
  }
})
