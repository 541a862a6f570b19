/** Reading a mail: every charset, every structure, whatever is broken. Bytes in these tables are latin1 characters. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { codesOf } from '../scripts/lib/mail/codes.ts'
import { linksOf, textOfHtml } from '../scripts/lib/mail/links.ts'
import { type Mail, readHeaders, readMail } from '../scripts/lib/mail/mail.ts'
import { PUMPED } from './pumped.ts'

const raw = (...lines: string[]) => Buffer.from(`${lines.join('\r\n')}\r\n`, 'latin1')
const read = (...lines: string[]) => readMail(raw(...lines))
const hex = (text: string) => Buffer.from(text, 'hex').toString('latin1')
const utf8 = (text: string) => Buffer.from(text).toString('latin1')
const base64 = (bytes: string) => Buffer.from(bytes, 'latin1').toString('base64')
const escaped = (bytes: string, mark: string) =>
  bytes.replace(/./gs, (c) => `${mark}${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`)

// By python3 -c "print('日本語'.encode('iso2022_jp').hex())" and the like, not by what is tested here.
const NIHONGO: [string, string][] = [
  ['utf-8', hex('e697a5e69cace8aa9e')],
  ['iso-2022-jp', '\x1b$BF|K\\8l\x1b(B'],
  ['shift_jis', hex('93fa967b8cea')],
  ['euc-jp', hex('c6fccbdcb8ec')],
]
/** Labels as mail has them, bytes, and the text that the sender saw. */
const LABELS: [string, string, string][] = [
  ...NIHONGO.map(([label, bytes]): [string, string, string] => [label.toUpperCase(), bytes, '日本語']),
  // A label stands for the table that its senders use, not for the standard that it names.
  ['ks_c_5601-1987', hex('8c63b9e6b0a2c7cf'), '똠방각하'],
  ['euc-kr', hex('8c63b9e6b0a2c7cf'), '똠방각하'],
  ['cp949', hex('8c63b9e6b0a2c7cf'), '똠방각하'],
  ['windows-949', hex('8c63'), '똠'],
  ['gb2312', hex('d6ece946bbf9'), '朱镕基'],
  ['gbk', hex('8140'), '丂'],
  ['gb2312', hex('8139ee39'), '㐀'],
  ['cp936', hex('d6ece946bbf9'), '朱镕基'],
  ['gb18030', hex('8139ee39'), '㐀'],
  ['shift_jis', hex('8740878aeee0'), '①㈱髙'],
  ['x-sjis', hex('8740878aeee0'), '①㈱髙'],
  ['cp932', hex('8740878aeee0'), '①㈱髙'],
  ['MS932', hex('8740'), '①'],
  ['Windows-31J', hex('8740'), '①'],
  ['eucJP', hex('c6fc'), '日'],
  ['euc-jp', hex('8fb0a1a1c1'), '丂～'],
  ['shift_jis', hex('8160817c'), '～－'],
  ['eucJP-ms', hex('ada1'), '①'],
  ['CP51932', hex('c6fc'), '日'],
  ['iso-2022-jp', '\x1b$B-!\x1b(I6@\x1b(B', '①ｶﾀ'],
  ['iso-2022-jp-2', '\x1b$BF|\x1b(B', '日'],
  ['CP50220', '\x1b$BF|\x1b(J\\', '日\\'],
  ['iso-8859-1', hex('8093e99485'), '€“é”…'],
  ['ISO_8859-1:1987', hex('80'), '€'],
  ['latin1', hex('93'), '“'],
  ['windows-1252', hex('8093e99485'), '€“é”…'],
  ['cp1252', hex('80'), '€'],
  ['iso8859_1', hex('80'), '€'],
  ['ansi', hex('80'), '€'],
  ['iso-8859-15', hex('a4'), '€'],
  ['iso-8859-9', hex('fe'), 'ş'],
  ['tis-620', hex('e4b7c2'), 'ไทย'],
  ['koi8-r', hex('f0d2c9d7c5d4'), 'Привет'],
  ['big5', hex('a4a4a4e5'), '中文'],
  ['cp950', hex('f9d6a3e1'), '碁€'],
  ['x-big5', hex('a4a4'), '中'],
  ['cp437', hex('e1'), 'ß'],
  ['utf-7', '+ZeVnLA-', '日本'],
  ['unicode-1-1-utf-7', '+ZeVnLA-', '日本'],
  ['UTF8', hex('e697a5'), '日'],
  ['us-ascii', hex('e697a5'), '日'],
]

test('labels mean what their senders mean, in body, encoded word, name (RFC 2231) and raw header', async () => {
  for (const [label, bytes, text] of LABELS) {
    const mail = await read(
      `Subject: =?${label}?B?${base64(bytes)}?=`,
      `From: =?${label}*ja?q?${escaped(bytes, '=')}?= <a@b.example>`,
      'Content-Type: multipart/mixed; boundary=b',
      ...['', '--b', `Content-Type: text/plain; charset="${label}"`, '', bytes],
      ...['--b', `Content-Disposition: attachment; filename*=${label}'ja'${escaped(bytes, '%')}.txt`, '', '--b--'],
    )
    assert.equal(mail.text, text, label)
    assert.equal(mail.subject, text, label)
    assert.deepEqual(mail.from, [{ name: text, address: 'a@b.example' }], label)
    assert.equal(mail.attachments[0]?.name, `${text}.txt`, label)
    assert.deepEqual(mail.warnings, [], label)
  }
})

test('bytes without a label are UTF-8, Japanese or windows-1252, in body, header, name and address', async () => {
  const german = 'Größe: fünf Äpfel'
  const cases: [string, string][] = [
    ...NIHONGO.map(([, bytes]): [string, string] => [bytes, '日本語']),
    [utf8(german), german],
    [hex('4772f6df653a2066fc6e6620c47066656c'), german],
    [hex('4372e86d65206272fb6ce965'), 'Crème brûlée'],
    ['Fr\xf6sche', 'Frösche'],
    [hex('9348656c6c6f94 20 8099'.replaceAll(' ', '')), '“Hello” €™'],
    [hex('6974927320'), 'it’s '],
    ['d\xe9j\xe0 vu', 'déjà vu'],
    ['M\xfcller', 'Müller'],
    ['caf\xe9', 'café'],
    ['\xdcber', 'Über'],
    [hex('93fa967b8cea82cc8381815b838b'), '日本語のメール'],
    [hex('c6fccbdcb8eca4cea5e1a1bca5eb'), '日本語のメール'],
    [`Re: ${hex('93fa967b8cea')} OK`, 'Re: 日本語 OK'],
    [`Re: ${hex('c6fccbdcb8ec')} OK`, 'Re: 日本語 OK'],
    // Cut off in the middle of a character.
    [utf8('日本語のメール').slice(0, -1), '日本語のメー\ufffd'],
  ]
  for (const [bytes, text] of cases) {
    for (const label of ['', '; charset=us-ascii', '; charset=unknown-8bit']) {
      const mail = await read(`X-Raw: ${bytes}`, `Content-Type: text/plain${label}`, '', bytes)
      assert.equal(mail.text, `${text}\n`, text + label)
      assert.equal(mail.headers[0]?.value, text.trim(), text)
      assert.deepEqual(mail.warnings, [])
    }
    const attached = await read(`To: "${bytes}" <a@b.example>`, `Content-Type: a/b; name="${bytes}.txt"`, '', 'x')
    assert.equal(attached.attachments[0]?.name, `${text}.txt`)
    assert.deepEqual(attached.to, [{ name: text.trim(), address: 'a@b.example' }])
  }
})

test('a header without a label is read by the charset that the mail names', async () => {
  const type = (charset: string) => `Content-Type: text/plain; charset=${charset}`
  assert.equal((await read('Subject: \xf0\xd2\xc9\xd7\xc5\xd4', type('koi8-r'), '', '')).subject, 'Привет')
  assert.equal((await read(`Subject: ${hex('d6ece946bbf9')}`, type('gb2312'), '', '')).subject, '朱镕基')
  assert.equal((await read('Subject: Fr\xf6sche', type('utf-8'), '', '')).subject, 'Frösche')
  assert.equal(readHeaders(raw('Subject: Fr\xf6sche')).subject, 'Frösche')
})

test('text that is not what its label says', async () => {
  const body = async (charset: string, bytes: string) =>
    (await read(`Content-Type: text/plain; charset=${charset}`, '', bytes)).text
  assert.match((await body('utf-8', `a ${hex('c6fccbdc')} b`)) ?? '', /^a \ufffd+.* b\n$/)
  assert.match((await body('shift_jis', hex('93ff41'))) ?? '', /\ufffd.*A/)
  assert.equal(await body('utf-8', '\x1b$BF|K\\8l\x1b(B'), '日本語\n')
  assert.equal(await body('iso-2022-jp', hex('93fa967b8cea')), '日本語\n')
  assert.equal(await body('iso-2022-jp', utf8('日本語')), '日本語\n')
  for (const label of ['utf-16', 'utf-8', '', 'utf-16le']) {
    const marked = label && `; charset=${label}`
    const little = await readMail(
      Buffer.concat([raw(`Content-Type: text/plain${marked}`, ''), Buffer.from('fffee5652c67', 'hex')]),
    )
    assert.equal(little.text, '日本', label)
    const big = await readMail(
      Buffer.concat([raw(`Content-Type: text/plain${marked}`, ''), Buffer.from('feff65e5672c', 'hex')]),
    )
    assert.equal(big.text, '日本', label)
  }
  const bare = base64(hex('65e5672c'))
  const encoded = ['Content-Transfer-Encoding: base64', '', bare]
  assert.equal((await read('Content-Type: text/plain; charset=utf-16be', ...encoded)).text, '日本')
  assert.equal((await read('Content-Type: text/plain; charset=utf-16', ...encoded)).text?.length, 2)
})

describe('encoded words', () => {
  const nihongo = utf8('日本語')
  const b = (bytes: string, charset = 'utf-8') => `=?${charset}?B?${base64(bytes)}?=`
  const q = (bytes: string, charset = 'utf-8') => `=?${charset}?Q?${escaped(bytes, '=')}?=`
  const cases: [string, string][] = [
    ['=?UTF-8?B?5LqI5w==?= =?UTF-8?B?tITnorroqo0=?=', '予約確認'],
    // Every place to cut, folded or not, of one or of both encodings, with one label or another of the same charset.
    ...Array.from({ length: 8 }, (_, index) => index + 1).flatMap((cut): [string, string][] => {
      const [one, other] = [nihongo.slice(0, cut), nihongo.slice(cut)]
      return [b, q].flatMap((first) =>
        [b, q].flatMap((second): [string, string][] => [
          [`${first(one)} ${second(other)}`, '日本語'],
          [`${first(one)}\r\n\t ${second(other, 'UTF-8')} x`, '日本語 x'],
          [`a ${first(one, 'utf8')}${second(other)}`, 'a 日本語'],
        ]),
      )
    }),
    [[...nihongo].map((byte) => q(byte)).join(' '), '日本語'],
    // The base64 and the escape themselves are cut.
    ['=?utf-8?B?5pel5py?= =?utf-8?B?s6Kqe?=', '日本語'],
    ['=?utf-8?Q?=E6=97=A5=E?= =?utf-8?Q?6=9C=AC?=', '日本'],
    // Shift_JIS and ISO-2022-JP cut in a character, and without the way back to ASCII.
    [`${b(hex('93fa96'), 'shift_jis')} ${b(hex('7b8cea'), 'Shift-JIS')}`, '日本語'],
    [`${b('\x1b$BF|K', 'iso-2022-jp')} ${b('\\8l\x1b(B', 'iso-2022-jp')}`, '日本語'],
    [`${b('\x1b$BF|\x1b(B', 'iso-2022-jp')} ${b('\x1b$BK\\8l\x1b(B', 'ISO-2022-JP')}`, '日本語'],
    // Charsets side by side; a word next to text; words next to punctuation.
    [`${b(hex('93fa967b'), 'shift_jis')} ${q(utf8('語'))} =?iso-8859-1?Q?_fr=FCh?=`, '日本語 früh'],
    ['Re: =?utf-8?q?a_b?= c =?utf-8?q?d?= =?utf-8?q?e?=', 'Re: a b c de'],
    ['(=?utf-8?q?=C3=A9?=), [=?utf-8?q?x?=]', '(é), [x]'],
    ['"=?utf-8?q?=C3=A9?="', '"é"'],
    // Words without padding, one by one and in a row.
    ['=?utf-8?B?5pel5pys6Kqe5A?= =?utf-8?B?YQ?=', '日本語\ufffda'],
    ['=?utf-8?B?YQ?= =?utf-8?B?Yg?=', 'ab'],
    // Raw bytes in a word are against the rules.
    ['=?iso-8859-1?Q?Fr\xf6sche?=', 'Frösche'],
    ['=?iso-8859-1?Q?Fr\xc3\xb6sche?=', 'Frösche'],
    ['=?utf-8?Q?Fr\xc3\xb6sche_=C3=BC?=', 'Frösche ü'],
    ['=?utf-8?Q?two words?=', 'two words'],
    // Beside raw text.
    [`${utf8('山田')} =?utf-8?q?=C3=A9?= ${utf8('花子')}`, '山田 é 花子'],
    ['\x1b$BF|K\\8l\x1b(B =?utf-8?q?=C3=A9?=', '日本語 é'],
    // Kanji whose halves are "=?" in raw ISO-2022-JP.
    ['\x1b$B=?\x1b(B', '戎'],
    // No words.
    ['=?utf-8?X?abc?= =?utf-8?Q?abc =', '=?utf-8?X?abc?= =?utf-8?Q?abc ='],
    ['=??Q?x?= 1 =? 2 ?=', '=??Q?x?= 1 =? 2 ?='],
    ['=?utf-8?Q??=', ''],
  ]
  test('are whole again, wherever they are cut', async () => {
    for (const [value, text] of cases) {
      const { subject, warnings } = await read(`Subject: ${value}`, '', '')
      assert.equal(subject, text, value)
      assert.deepEqual(warnings, [])
    }
  })

  test('an unknown charset is one warning, and the text is shown', async () => {
    const mail = await read(
      'Subject: =?x-klingon?Q?tlhIngan?=',
      'Content-Type: text/plain; charset=x-klingon',
      '',
      nihongo,
    )
    assert.equal(mail.text, '日本語\n')
    assert.equal(mail.subject, 'tlhIngan')
    assert.deepEqual(mail.warnings, ['unknown charset "x-klingon"'])
    for (const label of ['hex', 'base64', 'internal', 'x'.repeat(300), 'hz-gb-2312', '__proto__', 'constructor']) {
      const other = await read(`Content-Type: text/plain; charset=${label}`, '', 'abc')
      assert.equal(other.text, 'abc\n', label)
      assert.equal(other.warnings.length, 1, label)
    }
  })
})

test('names of attachments', async () => {
  const kanji = utf8('日本語')
  const cases: [string, string][] = [
    ['filename="a; b=\\"c\\".txt"', 'a; b="c".txt'],
    ['filename=my file.txt; size=1', 'my file.txt'],
    ['filename=first; filename=second', 'first'],
    ['FileName = "x.txt" ; size=3', 'x.txt'],
    [`filename="=?utf-8?B?${base64(kanji)}?="`, '日本語'],
    [
      `filename="=?utf-8?B?${base64(kanji.slice(0, 4))}?=\r\n =?utf-8?Q?${escaped(kanji.slice(4), '=')}?=.txt"`,
      '日本語.txt',
    ],
    [`filename==?utf-8?B?${base64(kanji)}?=`, '日本語'],
    ["filename=plain; filename*=utf-8''%C3%A9", 'é'],
    ["filename*=utf-8''%C3%A9; filename=plain", 'é'],
    ["filename*=utf-8''..%2F..%2Fpasswd", '../../passwd'],
    [
      `filename*0*=utf-8'ja'${escaped(kanji.slice(0, 4), '%')}; filename*1*=${escaped(kanji.slice(4), '%')}; filename*2=.pdf`,
      '日本語.pdf',
    ],
    [`filename*1*=${escaped(kanji.slice(4), '%')}; filename*0*=utf-8''${escaped(kanji.slice(0, 4), '%')}`, '日本語'],
    ['filename*0="long "; filename*1="name.txt"', 'long name.txt'],
    ["filename*0*=shift_jis''%93%FA%96; filename*1*=%7B.txt", '日本.txt'],
    ["filename*=ks_c_5601-1987''%8Cc.txt", '똠.txt'],
    ["filename*=''%C3%A9", 'é'],
    ["filename*=iso-8859-1'de'%80%fc.txt", '€ü.txt'],
    ['filename=""', ''],
    ['x=1', ''],
    ['filename="it\'s 100%41.txt"', "it's 100%41.txt"],
    ['filename="C:\\\\dir\\\\a.txt"', 'C:\\dir\\a.txt'],
  ]
  for (const [parameters, name] of cases) {
    const mail = await read(`Content-Disposition: attachment; ${parameters}`, 'Content-Type: a/b', '', '')
    assert.equal(mail.attachments[0]?.name, name, parameters)
  }
  const typed = await read(
    "Content-Type: application/pdf; name*0*=utf-8'ja'%E6%97%A5%E6; name*1*=%9C%AC; name*2=.pdf",
    '',
    'x',
  )
  assert.equal(typed.attachments[0]?.name, '日本.pdf')
})

describe('addresses', () => {
  const cases: [string, string][] = [
    [`${utf8('山田')} <a@b.example>, =?utf-8?Q?Doe=2C_J?= <c@d.example>`, '山田 <a@b.example>|Doe, J <c@d.example>'],
    ['"Doe, J" <a@b.example>, c@d.example', 'Doe, J <a@b.example>| <c@d.example>'],
    [
      '=?utf-8?Q?a=40b=2Eexample_=3Cevil=40x=2Eexample=3E?= <c@d.example>',
      'a@b.example <evil@x.example> <c@d.example>',
    ],
    ['=?utf-8?Q?Evil_=3Cevil=40x=2Eexample=3E?=', 'Evil <evil@x.example> <>'],
    ['"=?utf-8?Q?=22Doe=22=3B?= J" <a@b.example>', '"Doe"; J <a@b.example>'],
    ['=?utf-8?B?5LqI5w==?= =?utf-8?B?tIQ=?= =?utf-8?Q?=2C?= <a@b.example>', '予約, <a@b.example>'],
    [
      'friends: a@b.example, =?utf-8?Q?X=2C?= <c@d.example>;, e@f.example',
      ' <a@b.example>|X, <c@d.example>| <e@f.example>',
    ],
    ['=?utf-8?Q?gr=3Bup?=: a@b.example;', ' <a@b.example>'],
    ['undisclosed-recipients:;', ''],
    ['a@b.example (a comment)', 'a comment <a@b.example>'],
    ['\x1b$B;3ED\x1b(B <a@b.example>, \x1b$B2V;R\x1b(B <c@d.example>', '山田 <a@b.example>|花子 <c@d.example>'],
    [`${hex('8352815b8368')} <a@b.example>`, 'コード <a@b.example>'],
    ['"a b"@c.example', ' <a b@c.example>'],
    ['J\xfcrgen <a@b.example>', 'Jürgen <a@b.example>'],
    [
      'a@[IPv6:::1], "x [y]" <b@[127.0.0.1]>, [z] <c@d.example>',
      ' <a@[IPv6:::1]>|x [y] <b@[127.0.0.1]>|[z] <c@d.example>',
    ],
    ['', ''],
  ]
  test('are parsed first and decoded then', async () => {
    for (const [field, list] of cases) {
      for (const name of ['From', 'To', 'Cc', 'Bcc', 'Reply-To']) {
        const { from, to, cc, bcc, replyTo, headers, ...mail } = readHeaders(raw(`${name}: ${field}`))
        const found = [...from, ...to, ...cc, ...bcc, ...replyTo].map((one) => `${one.name} <${one.address}>`)
        assert.equal(found.join('|'), list, `${name}: ${field}`)
        assert.deepEqual(mail.warnings, [])
      }
    }
  })

  test('of several fields are one list', () => {
    const { to } = readHeaders(raw('To: a@x.example', 'Subject: s', 'TO: b@x.example,\r\n\tc@x.example'))
    assert.deepEqual(
      to.map(({ address }) => address),
      ['a@x.example', 'b@x.example', 'c@x.example'],
    )
  })
})

describe('structure', () => {
  const alternative = [
    ...['Content-Type: multipart/mixed; boundary="outer one"', '', 'for old programs', '--outer one'],
    ...[
      'Content-Type: multipart/alternative; boundary=inner',
      '',
      '--inner',
      'Content-Type: text/plain; charset=utf-8',
    ],
    ...['Content-Transfer-Encoding: quoted-printable', '', 'caf=C3=A9 =', 'au lait=3D', '--inner'],
    ...['Content-Type: multipart/related; boundary=deep', '', '--deep', 'Content-Type: text/html; charset=utf-8', ''],
    ...['<p>caf&eacute; <a href="https://x.example/?a=1&amp;b=2">go</a></p>', '--deep', 'Content-Type: image/png'],
    ...[
      'Content-ID: <logo@x>',
      'Content-Transfer-Encoding: base64',
      '',
      'iVBORw0K',
      '--deep--',
      '--inner--',
      'epilogue',
    ],
    ...[
      '--outer one',
      'Content-Type: text/plain; name="notes.txt"',
      'Content-Disposition: attachment; filename="notes.txt"',
    ],
    ...['', 'kept', 'apart', '--outer one--', 'more epilogue'],
  ]
  const parts = (type: string, ...parts: string[][]) => [
    ...[`Content-Type: multipart/${type}; boundary=b`, ''],
    ...[...parts.flatMap((lines) => ['--b', ...lines]), '--b--'],
  ]
  const attached = ({ attachments }: Mail) =>
    attachments.map(({ name, type, part, bytes }) => `${part} ${name} ${type} ${bytes.length}`)

  test('text, HTML, inline image and attachment of a usual mail', async () => {
    for (const end of ['\r\n', '\n']) {
      const mail = await readMail(Buffer.from(alternative.join(end)))
      assert.equal(mail.text, 'café au lait=')
      assert.equal(mail.readableText, 'café au lait=')
      assert.match(mail.html ?? '', /^<p>.*<\/p>$/)
      assert.deepEqual(attached(mail), [`1.2.2  image/png 6`, `2 notes.txt text/plain ${9 + end.length}`])
      assert.deepEqual(
        mail.attachments.map(({ contentId, inline }) => [contentId, inline]),
        [
          ['logo@x', true],
          ['', false],
        ],
      )
      assert.deepEqual(linksOf(mail), ['https://x.example/?a=1&b=2'])
      assert.deepEqual(mail.warnings, [])
    }
    assert.deepEqual(readHeaders(raw(...alternative)).warnings, [])
    assert.deepEqual(readHeaders(raw(...alternative.slice(0, 1))).warnings, [])
  })

  test('a mail that is cut off at any byte is shown as far as it goes, with one warning at most', async () => {
    const bytes = Buffer.from(alternative.join('\r\n'))
    for (let length = 0; length <= bytes.length; length++) {
      const mail = await readMail(bytes.subarray(0, length))
      // A label may be cut as well.
      const warnings = mail.warnings.filter((warning) => !/^unknown charset "u?t?f?-?"$/.test(warning))
      assert.ok(warnings.length <= 1, `${length}: ${warnings}`)
      if (length > 200 && length < alternative.join('\r\n').indexOf('--outer one--')) assert.equal(warnings.length, 1)
      if (length > 450) assert.equal(mail.text?.trim(), 'café au lait=', String(length))
    }
  })

  test('HTML alone is shown as text, and beside a plain footer too', async () => {
    assert.equal((await read('Content-Type: text/html', '', '<h1>Hi</h1><p>a &lt; b')).readableText, 'Hi\n\na < b')
    assert.equal((await read('Content-Type: text/html', '', 'x')).text, null)
    assert.equal((await read('', 'x')).html, null)
    const mail = await read(...parts('mixed', ['Content-Type: text/html', '', '<b>body</b>'], ['', 'footer']))
    assert.equal(mail.readableText, 'body\nfooter')
  })

  test('where the text is blank the HTML is shown', async () => {
    const html = ['Content-Type: text/html', '', '<p>Your code: 482913</p>']
    const blank = await read(...parts('alternative', ['Content-Type: text/plain', '', ' '], html))
    assert.deepEqual([blank.readableText, blank.text], ['Your code: 482913', ''])
    const other = await read(...parts('alternative', ['Content-Type: text/plain', '', 'Use an HTML client'], html))
    assert.equal(other.readableText, 'Use an HTML client')
  })

  test('messages are attachments: in a digest, forwarded, returned', async () => {
    const digest = await read(
      ...parts(
        'digest',
        ['', 'Subject: one', '', 'x'],
        ['Content-Type: text/plain', '', 'note'],
        ['', 'From: a', '', 'y'],
      ),
    )
    assert.deepEqual(attached(digest), ['1  message/rfc822 17', '3  message/rfc822 12'])
    assert.equal(digest.text, 'note')
    const forwarded = await read(
      ...parts('mixed', ['', 'see below'], ['Content-Type: message/rfc822', '', ...alternative]),
    )
    assert.equal(forwarded.text, 'see below')
    assert.match(attached(forwarded).join(), /^2 {2}message\/rfc822 \d+$/)
    assert.ok(forwarded.attachments[0]?.bytes.equals(Buffer.from(alternative.join('\r\n'))))
  })

  test('a text with a name is shown where it is meant to be read', async () => {
    const named = (type: string) => [
      `Content-Type: text/${type}; name="body.${type}"`,
      '',
      type === 'html' ? '<p>html</p>' : 'plain',
    ]
    const both = await read(...parts('alternative', named('plain'), named('html')))
    assert.deepEqual([both.text, both.html, attached(both)], ['plain', '<p>html</p>', []])
    for (const [lines, name] of [
      [['Content-Disposition: inline; filename=body.txt', 'Content-Type: text/plain'], 'body.txt'],
      [['Content-Type: text/html; name=mail.html'], 'mail.html'],
    ] as const) {
      const mail = await read(...lines, '', 'to be read')
      assert.equal(mail.readableText.trim(), 'to be read')
      assert.equal(mail.attachments[0]?.name, name)
    }
    const apart = await read(...parts('mixed', ['', 'text'], named('plain')))
    assert.deepEqual([apart.text, attached(apart)], ['text', ['2 body.plain text/plain 5']])
    assert.equal((await read('Content-Disposition: attachment; filename=a.txt', '', 'no')).readableText, '')
  })

  test('what format=flowed broke is joined', async () => {
    const lines = ['a long ', 'line', ' stuffed', '> quoted ', '> too', '-- ', 'sig']
    const flowed = await read('Content-Type: text/plain; format=flowed', '', ...lines)
    assert.equal(flowed.text, 'a long line\nstuffed\n> quoted \n> too\n-- \nsig\n')
    const delsp = await read('Content-Type: text/plain; format="Flowed"; DelSp=yes', '', 'a ', 'b')
    assert.equal(delsp.text, 'ab\n')
  })

  test('comments, odd types and odd cases in the fields of a part', async () => {
    const text = async (...fields: string[]) => (await read(...fields, '', '\xa4')).text
    assert.equal(await text('Content-Type: text/plain; charset=iso-8859-15 (Latin 9)'), '€\n')
    assert.equal(await text('CONTENT-TYPE: TEXT/PLAIN; CHARSET="ISO-8859-15"'), '€\n')
    assert.equal(await text('Content-Type: text'), '¤\n')
    assert.equal(await text('Content-Type:'), '¤\n')
    assert.equal((await read('Content-Transfer-Encoding: (x) BASE64', '', 'SGVsbG8=')).text, 'Hello')
    assert.equal((await read('Content-Transfer-Encoding: x-unknown', '', 'SGVsbG8=')).text, 'SGVsbG8=\n')
  })

  test('a mail without a header, without a body, without anything', async () => {
    assert.equal((await read('', 'only a body')).text, 'only a body\n')
    assert.equal((await readMail(Buffer.from('Subject: s'))).subject, 's')
    assert.equal((await readMail(Buffer.alloc(0))).readableText, '')
    assert.equal((await read('no header at all', '', 'text')).text, 'text\n')
    const mbox = await read('From a@b.example Sun Nov 22 15:26:20 2026', 'Subject: s', '', 'text')
    assert.deepEqual([mbox.subject, mbox.text], ['s', 'text\n'])
    const shared = Buffer.concat([Buffer.from('xx'), raw('Subject: s', '', 'text'), Buffer.from('yy')])
    assert.equal(
      (await readMail(new Uint8Array(shared.buffer, shared.byteOffset + 2, shared.length - 4))).text,
      'text\n',
    )
  })

  test('header fields: unfolded, in order, and nothing that is none', () => {
    const { headers, date, arrived, messageId } = readHeaders(
      raw(
        'A: 1',
        'b : 2',
        'C:',
        '  folded',
        '\ttwice',
        'no field',
        'D:x:y',
        'Message-ID: <1@x>',
        'Date: Sun, 22 Nov 2026 10:00:00 +0900 (JST)',
      ),
    )
    assert.deepEqual(
      headers.slice(0, 4).map(({ name, value }) => `${name}=${value}`),
      ['A=1', 'b=2', 'C=folded twice', 'D=x:y'],
    )
    assert.equal(date?.toISOString(), '2026-11-22T01:00:00.000Z')
    assert.equal(arrived, date)
    assert.equal(messageId, '<1@x>')
    assert.equal(readHeaders(raw('Date: some day')).date, undefined)
  })

  test('what is broken is shown as far as it goes, with one true warning', async () => {
    const encoded = (encoding: string, body: string) => [`Content-Transfer-Encoding: ${encoding}`, '', body]
    const cases: [string[], string, string[]][] = [
      [['Content-Type: multipart/mixed', '', 'text'], 'text\n', ['a multipart without a boundary']],
      [['Content-Type: multipart/mixed; boundary=b', '', 'text'], 'text\n', ['a multipart without parts']],
      [
        ['Content-Type: multipart/mixed; boundary=b', '', '--b', '', 'text'],
        'text\n',
        ['cut off: a multipart has no end'],
      ],
      [parts('mixed', ['', 'text']).slice(0, -1), 'text\n', ['cut off: a multipart has no end']],
      [encoded('base64', 'SGVsb!!!G8='), 'Hello', ['broken base64']],
      [encoded('base64', 'SGVsbG8'), 'Hello', ['broken base64']],
      [encoded('base64', 'SGVsbG8=\r\n-- \r\nlist'), 'Hello', ['broken base64']],
      [encoded('base64', 'SGVs\r\nbG8g\r\n\r\n____\r\nlist'), 'Hello ', ['broken base64']],
      [encoded('base64', '-----\r\nSGVs'), 'Hel', ['broken base64']],
      [encoded('base64', '!SGVsbG8='), 'Hello', ['broken base64']],
      [encoded('quoted-printable', 'a=ZZb=E'), 'a=ZZb=E\n', ['broken quoted-printable']],
      [encoded('quoted-printable', '100% = all'), '100% = all\n', ['broken quoted-printable']],
    ]
    for (const [lines, text, warnings] of cases) {
      const mail = await read(...lines)
      assert.equal(mail.text, text, lines.join('|'))
      assert.deepEqual(mail.warnings, warnings, lines.join('|'))
    }
  })

  test('what is odd and allowed has no warning', async () => {
    const cases: [string[], string][] = [
      [['Content-Transfer-Encoding: base64', '', 'SGVs', 'bG8=', 'SGVsbG8='], 'HelloHello'],
      [['Content-Transfer-Encoding: base64', '', ' SGVs bG8= '], 'Hello'],
      [['Content-Transfer-Encoding: quoted-printable', '', 'a =  ', 'b=e9=', ''], 'a bé\n'],
      [
        parts(
          'mixed',
          ['', 'one'],
          ['Content-Type: multipart/mixed; boundary=b', '', '--b', '', 'two', '--b--'],
          ['', 'three'],
        ),
        'one\ntwo\nthree',
      ],
      [
        parts(
          'mixed',
          ['Content-Type: multipart/mixed; boundary=bb', '', '--bb', '', 'a', '--bb--'],
          ['', '--bbb', '--b c'],
        ),
        'a\n--bbb\n--b c',
      ],
      [['Content-Type: multipart/mixed; boundary="b"', '', '--b  ', '', 'text', '--b-- ', ''], 'text'],
    ]
    for (const [lines, text] of cases) {
      const mail = await read(...lines)
      assert.equal(mail.text, text, lines.join('|'))
      assert.deepEqual(mail.warnings, [], lines.join('|'))
    }
  })
})

test('the envelope recipient is what the server wrote, never what the sender wrote', () => {
  const smtp =
    'Received: from client (unknown [127.0.0.1])\r\n\tby mail.example (Postfix) with ESMTP id 1;\r\n\tSun, 22 Nov 2026 15:26:20 +0000 (UTC)'
  const lmtp = 'Received: from mail.example\r\n\tby mail.example with LMTP\r\n\tid abc; Sun, 22 Nov 2026 15:26:21 +0000'
  const local =
    'Received: by mail.example (Postfix, from userid 0)\r\n\tid 4CD5E216485; Sun, 22 Nov 2026 15:26:21 +0000 (UTC)'
  const [original, forged] = ['X-Original-To: someone@gmail.com', 'X-Original-To: forged@evil.example']
  const recipient = (...fields: string[]) => readHeaders(raw(...fields)).envelopeRecipient
  assert.equal(recipient('Delivered-To: x@y.example', lmtp, original, smtp, forged), 'someone@gmail.com')
  assert.equal(recipient(original, lmtp, local, forged), 'someone@gmail.com')
  assert.equal(recipient(lmtp, smtp, forged), '')
  assert.equal(recipient(local, forged), '')
  assert.equal(recipient('Subject: x'), '')
  assert.equal(readHeaders(raw(lmtp, smtp)).arrived?.toISOString(), '2026-11-22T15:26:21.000Z')
})

describe('links', () => {
  test('of text and HTML, absolute, decoded, once each, in the order of the mail', async () => {
    const mail = await read(
      ...['Content-Type: multipart/alternative; boundary=b', '', '--b', '', 'See https://x.example/a?b=1&c=2.'],
      `And (http://y.example/(z)), <https://w.example/>, https://v.example/${utf8('あ')} ftp://f.example/`,
      ...['--b', 'Content-Type: text/html', ''],
      '<a class=x href="https://x.example/a?b=1&amp;c=2">1</a><A HREF=\'HTTPS://u.example/&#x40;\'>2</A> https://s.example/in-text',
      '<a href=https://t.example/>https://shown.example/</a><a href="#top"></a><a href="javascript:x"></a><a href="mailto:a@b.example">4</a>',
      '<a title="a > b" href="myapp://open?t=1">5</a><!-- <a href="https://no.example/"> --><a name=x>6</a><a href="/relative">7</a>',
      '<map><area href="https://r.example/\r\n x"></map>',
      '--b--',
    )
    const absolute = ['https://x.example/a?b=1&c=2', 'http://y.example/(z)', 'https://w.example/', 'https://v.example/']
    const html = ['HTTPS://u.example/@', 'https://s.example/in-text', 'https://t.example/', 'https://r.example/ x']
    assert.deepEqual(linksOf(mail), [...absolute, ...html])
  })

  test('of text end where the sentence goes on', async () => {
    const text =
      'x (https://a.example/x_(y)), [https://b.example/?q=[1]]; "https://c.example/a,b"! http://localhost:3000/?t=a&u=1* http://[::1]:80/x'
    assert.deepEqual(linksOf(await read('', text)), [
      ...['https://a.example/x_(y)', 'https://b.example/?q=[1]', 'https://c.example/a,b'],
      ...['http://localhost:3000/?t=a&u=1', 'http://[::1]:80/x'],
    ])
    const german = utf8(
      'https://bücher.example/größe?q=ä, dann https://пример.example/ж und URLはhttps://x.example/aです',
    )
    assert.deepEqual(linksOf(await read('Content-Type: text/plain; charset=utf-8', '', german)), [
      ...['https://bücher.example/größe?q=ä', 'https://пример.example/ж', 'https://x.example/a'],
    ])
  })

  test('the text of HTML', () => {
    const cases: [string, string][] = [
      ['a<br>b<br/>c', 'a\nb\nc'],
      ['<p>a</p>\n<p>b</p>', 'a\n\nb'],
      ['<ul><li>a</li><li>b</li></ul>', ' * a\n * b'],
      ['<head><title>t</title><style>x</style></head><body>a<script>1<2</script>b', 'ab'],
      ['1 < 2 && 3 > 2 &amp;&#38;&#x26; &nope;', '1 < 2 && 3 > 2 &&& &nope;'],
      ["<p title=it's>one</p> it's", "one\n\nit's"],
      ['<h1>Title</h1><table><tr><td>a</td><td>b</td></tr></table>', 'Title\n\na b'],
      ['<a href="https://x.example/">go</a>', 'go'],
      ['a <!-- never closed', 'a'],
      ['\ufdd0a\ufdd1b\ufdd2', 'ab'],
      ['', ''],
    ]
    for (const [html, text] of cases) assert.equal(textOfHtml(html), text, html)
  })
})

describe('large and hostile mail', () => {
  const CRLF = '\r\n'
  const wide = (count: number) =>
    `Content-Type: multipart/mixed; boundary=b\r\n\r\n${Array.from({ length: count }, (_, at) => `--b\r\nContent-Disposition: attachment; filename=f${at}\r\n\r\nx\r\n`).join('')}--b--`
  const deep = (levels: number) => {
    const level = Array.from({ length: levels }, (_, at) => at)
    return `${level.map((at) => `Content-Type: multipart/mixed; boundary=b${at}\r\n\r\n--b${at}\r\n`).join('')}\r\ndeep inside${level
      .reverse()
      .map((at) => `\r\n--b${at}--`)
      .join('')}`
  }
  const late = (field: string) => `Subject: s\r\n${field}\r\nTo: late@x.example\r\n\r\nthe text`
  const isLate = ({ to, text, subject }: Mail) =>
    to[0]?.address === 'late@x.example' && text === 'the text' && subject === 's'
  const cases: [string, string, (mail: Mail) => boolean, number][] = [
    ['10,000 parts', wide(10_000), ({ attachments }) => attachments[9_999]?.name === 'f9999', 1],
    ['1,000 levels', deep(1_000), ({ text }) => text === 'deep inside', 0],
    [
      'levels that end at once',
      `${deep(20_000).split('\r\n--b19999--')[0]}\r\n--b0--`,
      ({ readableText }) => readableText.includes('deep inside'),
      1,
    ],
    ['20,000 levels', deep(20_000), ({ text }) => text === 'deep inside', 0],
    ['one boundary', 'Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n'.repeat(5_000), () => true, 1],
    [
      'messages in messages',
      `${'Content-Type: message/rfc822\r\n\r\n'.repeat(10_000)}x`,
      ({ attachments }) => attachments.length === 1,
      0,
    ],
    [
      '5,000 recipients',
      `To: ${Array.from({ length: 5_000 }, (_, at) => `=?utf-8?Q?a=2C?= <u${at}@x.example>`).join(',\r\n ')}\r\n\r\nx`,
      ({ to }) => to.length === 5_000 && to[4_999]?.name === 'a,',
      0,
    ],
    ['a field of 20 MB', late(`X: ${'x'.repeat(20e6)}`), isLate, 1],
    ['a folded field of 20 MB', late(`X: ${`\r\n ${'x'.repeat(70)}`.repeat(275_000)}`), isLate, 1],
    ['20 MB of fields', late(`${'a: b\r\n'.repeat(3_300_000)}c: d`), isLate, 1],
    [
      '20 MB of text',
      `${CRLF}${'The quick brown fox jumps over the lazy dog.\r\n'.repeat(430_000)}`,
      ({ text }) => text?.length === 430_000 * 45,
      0,
    ],
    ['20 MB of line breaks', `${CRLF}${CRLF.repeat(10e6)}`, ({ readableText }) => readableText.length === 10e6, 0],
    [
      '20 MB of HTML',
      `Content-Type: text/html\r\n\r\n${'<a href="https://x.example/">x</a>'.repeat(600_000)}`,
      (mail) => linksOf(mail).length === 1,
      1,
    ],
    ['unfinished encoded words', `Subject: ${'=?utf-8?q?'.repeat(50_000)}\r\n\r\nx`, () => true, 0],
    ['encoded words', `Subject: ${'=?utf-8?q?=E3=81?= '.repeat(30_000)}\r\n\r\nx`, () => true, 0],
    ['parameters', `Content-Type: text/plain; ${'name*1*=a; '.repeat(50_000)}\r\n\r\nx`, () => true, 0],
    [
      'tags before a quote that never closes',
      `Content-Type: text/html\r\n\r\n${'<a =">"\r\n'.repeat(100_000)}<a ="`,
      () => true,
      1,
    ],
  ]
  /** Milliseconds of CPU: what backtracks or is quadratic takes minutes. */
  const PATIENCE = 10_000

  async function inTime(what: string, bytes: Buffer): Promise<Mail> {
    const begin = process.cpuUsage()
    const mail = await readMail(bytes)
    linksOf(mail)
    codesOf(mail)
    const { user, system } = process.cpuUsage(begin)
    assert.ok(user + system < PATIENCE * 1_000, `${what}: ${(user + system) / 1_000} ms of CPU`)
    return mail
  }

  for (const [what, text, isRight, warnings] of cases) {
    test(`${what}: shown as far as it goes, in time`, async () => {
      const mail = await inTime(what, Buffer.from(text, 'latin1'))
      assert.ok(isRight(mail))
      assert.equal(mail.warnings.length, warnings, mail.warnings.join('; '))
    })
  }

  test('a piece that is repeated, in every place', async () => {
    await fc.assert(
      fc.asyncProperty(PUMPED, async (text) => {
        const what = JSON.stringify(`${text.slice(0, 20)}...${text.slice(-5)}`)
        for (const field of ['Subject', 'From', 'Content-Type', 'Content-Disposition', 'Received', 'Date']) {
          await inTime(`${field} ${what}`, Buffer.from(`${field}: ${text}\r\n\r\nx`))
        }
        for (const type of ['text/html', 'text/plain', 'text/plain; format=flowed', 'multipart/mixed; boundary=b']) {
          await inTime(`${type} ${what}`, Buffer.from(`Content-Type: ${type}\r\n\r\n${text}`))
        }
      }),
      { numRuns: 10, seed: 1 },
    )
  })

  test('whatever bytes come, a mail is read', async () => {
    const line = fc.oneof(
      fc.constantFrom(
        ...[
          '--b',
          '--b--',
          '',
          'Content-Type: multipart/mixed; boundary=b',
          'Content-Type: text/html; charset=iso-2022-jp',
        ],
        ...[
          'Content-Type: multipart/digest; boundary=b',
          'Content-Transfer-Encoding: base64',
          'Subject: =?utf-8?b?4pyT?=',
          '=?x?q?=1b[2J?=',
        ],
        ...["Content-Disposition: attachment; filename*0*=x''%", 'To: a:b;c,<', '\x1b$B', '\xff\xfe', 'code 1234'],
      ),
      fc.string({ unit: 'binary', maxLength: 40 }),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(line, { maxLength: 40 }), async (lines) => {
        const mail = await readMail(Buffer.from(lines.join('\r\n'), 'latin1'))
        assert.ok([mail.readableText, ...linksOf(mail), ...codesOf(mail)].every((text) => typeof text === 'string'))
      }),
      { numRuns: 500, seed: 1 },
    )
  })
})
