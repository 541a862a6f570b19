/** The parts of sending: address lists, composed messages, messages that are sent as they are. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseAddressList, problemOfAddress, toEnvelope } from '../scripts/lib/mail/addresses.ts'
import { prepareEml } from '../scripts/lib/mail/eml.ts'
import { readMail } from '../scripts/lib/mail/mail.ts'
import { compose } from '../scripts/lib/mail/message.ts'

// The same cases in every run: what fails here fails again. FUZZ_SEED chooses others.
fc.configureGlobal({ seed: Number(process.env.FUZZ_SEED ?? 20_250_701) })

/** Any short text of one character a byte. */
const latin1 = fc.uint8Array({ maxLength: 8 }).map((bytes) => Buffer.from(bytes).toString('latin1'))

test('address lists are read as people and header fields write them', () => {
  for (const [list, expected] of Object.entries({
    'a@b': '|a@b',
    '名前 <a@b>': '名前|a@b',
    '"Doe, \\"J\\"" <j@x>, c@d': 'Doe, "J"|j@x  |c@d',
    'a@b (comment, with comma), <c@d>': 'comment, with comma|a@b  |c@d',
    'friends: a@b, "x; y" <c@d>;, e@f': '|a@b  x; y|c@d  |e@f',
    'undisclosed-recipients:;': '',
    root: '|root',
    ' <root> ': '|root',
    'user@[1.2.3.4], user@[IPv6:::1]': '|user@[1.2.3.4]  |user@[IPv6:::1]',
    '"a b"@c, a..b.@docomo.ne.jp': '|"a b"@c  |a..b.@docomo.ne.jp',
    'J <a@b>, CORP\\jd <c@d>': 'J|a@b  CORP\\jd|c@d',
    ' , ,': '',
  })) {
    const found = parseAddressList(list).map(({ name, address }) => `${name}|${address}`)
    assert.equal(found.join('  '), expected, list)
  }
})

test('what is no address is refused with its own words; a name with a comma wants quotes', () => {
  const lists = 'a b@c;a@b@c;<a@b;a@b>;<>;名前;a@;@b;a@b:c;a@b c;a@b> RCPT TO:<c@d;"<"@x;Doe, J <a@b>;a@b, foo'.split(
    ';',
  )
  for (const list of [...lists, '"root"', '<root>, a@b']) {
    assert.throws(() => parseAddressList(list), /^Error: "[^"]/, list)
  }
  // However it is typed, nobody is left out in silence.
  for (const list of [
    'foo,Bar <a@b>',
    'Doe ,  J <a@b>',
    '鈴木,花子 <a@b>',
    'Doe (x), J <a@b>',
    '"x" <a@b>、c@d',
    '<a@b> <c@d>',
  ]) {
    assert.throws(() => parseAddressList(list), /^Error: ".* a name with a comma goes in double quotes$/, list)
  }
  const message = /^"a@b, Doe, J <c@d>": not an address\..* a name with a comma goes in double quotes$/
  assert.throws(() => parseAddressList('a@b, Doe, J <c@d>'), { message })
  // What backtracks takes minutes.
  for (const text of ['(', '"\\', '<', 'a, ', '[', '=?']) {
    assert.throws(() => parseAddressList(`${text.repeat(50_000)}@`), Error, text)
  }
})

test('an address that passes cannot end or extend an SMTP command', () => {
  fc.assert(
    fc.property(latin1, latin1, (local, domain) => {
      for (const address of [`${local}@${domain}`, `"${local}"@${domain}`, local]) {
        if (problemOfAddress(address)) continue
        // A space stands only inside quotes.
        assert.doesNotMatch(toEnvelope(address).replace(/^"[^\x00-\x1f\x7f<>]*"@/, ''), /[\x00-\x1f\x7f<>\s]/)
      }
    }),
    { numRuns: 200 },
  )
})

test('subjects and header fields of any length are folded, and read as they were typed', async () => {
  const text = fc
    .oneof(
      fc.array(fc.constantFrom(...'aé日本 語𝒳 -=?_'), { minLength: 1, maxLength: 400 }).map((all) => all.join('')),
      fc.array(fc.stringMatching(/^[!-~]{1,200}$/), { minLength: 1, maxLength: 20 }).map((words) => words.join(' ')),
      fc.stringMatching(/^[!-~]{900,2000}$/),
      fc.constantFrom('x'.repeat(1_386), `${'word '.repeat(300)}end`, `a${' '.repeat(300)}b`),
    )
    .filter((each) => each.trim() === each && !each.includes('=?') && !/[\0-\x1f\x7f-\x9f\u2028\u2029]/.test(each))
  await fc.assert(
    fc.asyncProperty(text, text, async (subject, value) => {
      const draft = { from: [{ name: '', address: 'a@b.example' }], to: [], subject, text: 'x' }
      const { bytes } = await compose({ ...draft, headers: [{ name: 'X-Note', value }] })
      const [header = ''] = bytes.toString('latin1').split('\r\n\r\n')
      const isFolded = (line: string) => line.length <= 998 && line.trim() !== ''
      assert.ok(header.split('\r\n').every(isFolded), header)
      const own = header.split(/\r\n(?=\S)/).find((field) => field.startsWith('Subject:')) ?? ''
      assert.ok(Math.max(...own.split('\r\n').map((line) => line.length)) <= 78, own)
      const mail = readMail(bytes)
      assert.equal(mail.subject, subject)
      assert.equal(mail.headers.find(({ name }) => name === 'X-Note')?.value, value)
    }),
    { numRuns: 60 },
  )
})

test('a message that is sent as it is loses its Bcc and Resent-Bcc fields and nothing else', () => {
  const field = fc.constantFrom(
    ...['To: a@b', 'Bcc: x@y', 'bcc : x@y,\r\n\tz@y', 'BCC:\n x@y', 'bCc:', 'X-Bcc: no', 'Bcc-Note: no'],
    ...['RESENT-BCC:\r r@y', 'resent-bcc: r@y\n\t,s@y', 'Subject: ü\r\n more', 'Subject: x\n Bcc: y'],
  )
  const lineEnd = fc.constantFrom('\r\n', '\n', '\r')
  const before = fc.constantFrom(
    '',
    '\n',
    ' \r\n\r\n',
    'From a@b Tue Jul  1 00:00:00 2025\n',
    '\xef\xbb\xbf',
    '>From x\n',
  )
  const fields = fc.array(fc.tuple(field, lineEnd), { minLength: 1 })
  fc.assert(
    fc.property(fields, lineEnd, fc.uint8Array(), before, (parts, end, body, mark) => {
      const message = (kept: string[][]) =>
        Buffer.concat([Buffer.from(`${mark}${kept.map((part) => part.join('')).join('')}${end}`, 'latin1'), body])
      // A line feed behind a lone CR would belong to it.
      fc.pre(parts.at(-1)?.[1] !== '\r' || end !== '\n')
      const prepared = prepareEml(message(parts))
      assert.deepEqual(prepared.bytes, message(parts.filter(([text]) => !/^(resent-)?bcc[ :]/i.test(text))))
      assert.equal(prepared.before === undefined, mark === '')
    }),
    { numRuns: 200 },
  )
})

test('what stands before the header of a message is named, and its fields are found behind it', () => {
  const message = 'From: f@x.example\nTo: t@x.example\nBcc: b@x.example\n\ntext\n'
  for (const [mark, named] of [
    ['', /^$/],
    ['From a@b Tue Jul  1 00:00:00 2025\n', /an mbox line/],
    ['>From a@b\r\n', /an mbox line/],
    ['\n\n', /a blank line/],
    [' \r\n', /a blank line/],
    ['\ufeff', /a byte order mark/],
    ['\ufeff\nFrom x\n', /an mbox line/],
  ] as const) {
    const { before = '', bytes, addressesIn } = prepareEml(Buffer.from(mark + message))
    assert.match(before, named)
    const found = ['From', 'To', 'Bcc'].flatMap(addressesIn).map(({ address }) => address)
    assert.equal(found.join(), 'f@x.example,t@x.example,b@x.example')
    assert.equal(bytes.toString(), mark + message.replace('Bcc: b@x.example\n', ''))
  }
})
