/** Reading a mail: every charset, every structure, whatever is broken. Bytes in these tables are latin1 characters. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { codeOf } from '../scripts/lib/mail/codes.ts'
import { linksOf, textOfHtml } from '../scripts/lib/mail/links.ts'
import { type Mail, readHeaders, readMail } from '../scripts/lib/mail/mail.ts'

const raw = (...lines: string[]) => Buffer.from(`${lines.join('\n').replace(/\r?\n/g, '\r\n')}\r\n`, 'latin1')
const read = (...lines: string[]) => readMail(raw(...lines))
const hex = (text: string) => Buffer.from(text, 'hex').toString('latin1')
const utf8 = (text: string) => Buffer.from(text).toString('latin1')
const base64 = (bytes: string) => Buffer.from(bytes, 'latin1').toString('base64')
const escaped = (bytes: string, mark: string) =>
  bytes.replace(/./gs, (c) => `${mark}${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`)
const enclosed = (boundary: string, type: string, ...parts: string[]) =>
  `Content-Type: multipart/${type}; boundary="${boundary}"\n\n${parts.map((part) => `--${boundary}\n${part}\n`).join('')}--${boundary}--`
const multipart = (type: string, ...parts: string[]) => enclosed('b', type, ...parts)

// By python3 -c "print('日本語'.encode('iso2022_jp').hex())" and the like, not by what is tested here.
const NIHONGO = ['e697a5e69cace8aa9e', '1b2442467c4b5c386c1b2842', '93fa967b8cea', 'c6fccbdcb8ec']
/** Labels as mail has them, each for the table that its senders use, not for the standard that it names. */
const LABELS = `
UTF-8 UTF8 us-ascii              e697a5e69cace8aa9e        日本語
ISO-2022-JP iso-2022-jp-2        1b2442467c4b5c386c1b2842  日本語
Shift_JIS x-sjis SJIS-win MS932  8740878aeee08160817c93fa  ①㈱髙～－日
Windows-31J                      8740                      ①
EUC-JP eucJP CP51932             c6fc8fb0a1a1c1            日丂～
ks_c_5601-1987 euc-kr cp949      8c63b9e6b0a2c7cf          똠방각하
gb2312 cp936 gbk gb18030         d6ece946bbf981408139ee39  朱镕基丂㐀
big5 x-big5 cp950                a4a4a4e5f9d6a3e1          中文碁€
iso-8859-1 windows-1252 latin1   8093e99485                €“é”…
ISO_8859-1:1987 iso8859_1 ansi   8093e9                    €“é
iso-8859-9                       fe80                      ş€
tis-620                          e4b7c280                  ไทย€
utf-7 unicode-1-1-utf-7          2b5a65566e4c412d          日本
utf-16be                         65e5672c                  日本`

test('labels mean what their senders mean, in body, encoded word, name (RFC 2231) and raw header', () => {
  for (const row of LABELS.trim().split('\n')) {
    const [, labels = '', code = '', text = ''] = /^(.*?) +([\da-f]+) +(\S+)$/.exec(row) ?? []
    const bytes = hex(code)
    for (const label of labels.split(' ')) {
      const mail = read(
        `Subject: =?${label}?B?${base64(bytes)}?=`,
        `From: =?${label}*ja?q?${escaped(bytes, '=')}?= <a@b.example>`,
        multipart(
          'mixed',
          `Content-Type: text/plain; charset="${label}"\n\n${bytes}`,
          `Content-Disposition: attachment; filename*=${label}'ja'${escaped(bytes, '%')}.txt\n`,
        ),
      )
      assert.deepEqual([mail.text, mail.subject, mail.from[0]?.name, mail.warnings], [text, text, text, []], label)
      if (!/utf-(7|16)/.test(label)) assert.equal(mail.attachments[0]?.name, `${text}.txt`, label)
    }
  }
})

test('bytes without a label are UTF-8, Japanese, Chinese, Russian or Western, in body, header, name and address', () => {
  const cases: [string, string][] = [
    ...NIHONGO.map((code): [string, string] => [hex(code), '日本語']),
    [utf8('Größe: fünf Äpfel'), 'Größe: fünf Äpfel'],
    // A byte order mark, and no more that is not ASCII.
    [utf8('\ufeff<p>ok</p>'), '<p>ok</p>'],
    ['Gr\xf6\xdfe: f\xfcnf \xc4pfel', 'Größe: fünf Äpfel'],
    ['Cr\xe8me br\xfbl\xe9e, d\xe9j\xe0 vu', 'Crème brûlée, déjà vu'],
    ['\x93Hello\x94 it\x92s \x80\x99', '“Hello” it’s €™'],
    ...['M\xfcller', 'caf\xe9', '\xdcber', 'Fr\xf6sche', '\xc9t\xe9 \xe0 No\xebl'].map((word): [string, string] => [
      word,
      word,
    ]),
    [hex('93fa967b8cea82cc8381815b838b'), '日本語のメール'],
    [hex('c6fccbdcb8eca4cea5e1a1bca5eb'), '日本語のメール'],
    [`Re: ${hex('93fa967b8cea')} OK`, 'Re: 日本語 OK'],
    [`Re: ${hex('c6fccbdcb8ec')} OK`, 'Re: 日本語 OK'],
    [hex('c4fabac3a3acd1e9d6a4c2eb'), '您好，验证码'],
    [hex('cff0e8e2e5f22c20ece8f021'), 'Привет, мир!'],
    // Cut off in the middle of a character.
    [utf8('日本語のメール').slice(0, -1), '日本語のメー\ufffd'],
  ]
  for (const [bytes, text] of cases) {
    for (const label of ['', '; charset=us-ascii', '; charset=unknown-8bit']) {
      const mail = read(`X-Raw: ${bytes}`, `Content-Type: text/plain${label}`, '', bytes)
      assert.deepEqual([mail.text, mail.headers[0]?.value, mail.warnings], [`${text}\n`, text, []], text + label)
    }
    const attached = read(`To: "${bytes}" <a@b.example>`, `Content-Type: a/b; name="${bytes}.txt"`, '', 'x')
    assert.equal(attached.attachments[0]?.name, `${text}.txt`)
    assert.deepEqual(attached.to, [{ name: text, address: 'a@b.example' }])
  }
  // What the mail names elsewhere comes first.
  const subject = (bytes: string, charset: string) =>
    read(`Subject: ${bytes}`, `Content-Type: text/plain; charset=${charset}`, '', '').subject
  assert.equal(subject('\xf0\xd2\xc9\xd7\xc5\xd4', 'koi8-r'), 'Привет')
  assert.equal(subject(hex('d6ece946bbf9'), 'gb2312'), '朱镕基')
  assert.equal(subject('Fr\xf6sche', 'utf-8'), 'Frösche')
})

test('text that is not what its label says, or in a charset that nobody knows', () => {
  const kanji = utf8('日本語')
  const cases: [string, string, string | RegExp][] = [
    ['utf-8', `a ${hex('c6fccbdc')} b`, /^a \ufffd+.* b$/],
    ['shift_jis', hex('93ff41'), /\ufffd.*A/],
    ['utf-8', hex(NIHONGO[1] ?? ''), '日本語'],
    ['iso-2022-jp', hex('93fa967b8cea'), '日本語'],
    ['iso-2022-jp', kanji, '日本語'],
    // UTF-16 with its mark.
    ...['utf-16', 'utf-8', '', 'utf-16le'].flatMap((label): [string, string, string][] => [
      [label, hex('fffee5652c67'), '日本'],
      [label, hex('feff65e5672c'), '日本'],
    ]),
    ['x-klingon', kanji, '日本語'],
    ['__proto__', 'Fr\xf6sche', 'Frösche'],
  ]
  for (const [label, bytes, text] of cases) {
    const type = `Content-Type: text/plain; charset="${label}"`
    const mail = read(type, 'Content-Transfer-Encoding: base64', '', base64(bytes))
    if (typeof text === 'string') assert.equal(mail.text, text, label)
    else assert.match(mail.text ?? '', text, label)
    assert.equal(mail.warnings.join(), /klingon|proto/.test(label) ? `unknown charset "${label}"` : '')
  }
})

test('encoded words are whole again, wherever they are cut', () => {
  const nihongo = utf8('日本語')
  const b = (bytes: string, charset = 'utf-8') => `=?${charset}?B?${base64(bytes)}?=`
  const q = (bytes: string, charset = 'utf-8') => `=?${charset}?Q?${escaped(bytes, '=')}?=`
  const cases: [string, string][] = [
    ['=?UTF-8?B?5LqI5w==?= =?UTF-8?B?tITnorroqo0=?=', '予約確認'],
    // Every place to cut, folded or not, of one or of both encodings, with one label or another of the same charset.
    ...[1, 2, 3, 5].flatMap((cut): [string, string][] => {
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
    // Raw bytes in a word are against the rules; raw text beside it too.
    ['=?iso-8859-1?Q?Fr\xf6sche?= =?x-klingon?Q?_tlhIngan?=', 'Frösche tlhIngan'],
    ['=?iso-8859-1?Q?Fr\xc3\xb6sche?=', 'Frösche'],
    ['=?utf-8?Q?two words_=C3=BC?=', 'two words ü'],
    [`${utf8('山田')} =?utf-8?q?=C3=A9?= ${utf8('花子')}`, '山田 é 花子'],
    // Kanji whose halves are "=?" in raw ISO-2022-JP.
    ['\x1b$B=?\x1b(B =?utf-8?q?=C3=A9?=', '戎 é'],
    // No words.
    ['=?utf-8?X?abc?= =?utf-8?Q?abc =', '=?utf-8?X?abc?= =?utf-8?Q?abc ='],
    ['=??Q?x?= 1 =? 2 ?=', '=??Q?x?= 1 =? 2 ?='],
  ]
  for (const [value, text] of cases) {
    const { subject, warnings } = read(`Subject: ${value}`, '', '')
    assert.deepEqual([subject, warnings], [text, []], value)
  }
})

test('names of attachments', () => {
  const kanji = utf8('日本語')
  const [first, second] = [kanji.slice(0, 4), kanji.slice(4)]
  const cases: [string, string][] = [
    ['filename="a; b=\\"c\\".txt"', 'a; b="c".txt'],
    [`filename="=?utf-8?B?${base64(first)}?=\r\n =?utf-8?Q?${escaped(second, '=')}?=.txt"`, '日本語.txt'],
    ["filename=plain; filename*=utf-8''%C3%A9", 'é'],
    ["filename*=utf-8''%C3%A9; filename=plain", 'é'],
    ["filename*=utf-8''..%2F..%2Fpasswd", '../../passwd'],
    [`filename*0*=utf-8'ja'${escaped(first, '%')}; filename*1*=${escaped(second, '%')}; filename*2=.pdf`, '日本語.pdf'],
    [`filename*1*=${escaped(second, '%')}; filename*0*=utf-8''${escaped(first, '%')}`, '日本語'],
    ['filename*0="long "; filename*1="name.txt"', 'long name.txt'],
    ["filename*0*=shift_jis''%93%FA%96; filename*1*=%7B.txt", '日本.txt'],
    ["filename*=''%C3%A9", 'é'],
    ['filename=report (1).pdf', 'report (1).pdf'],
    ['filename="it\'s 100%41 (1).txt"', "it's 100%41 (1).txt"],
    ['filename="C:\\\\dir\\\\a.txt"', 'C:\\dir\\a.txt'],
    ['filename="C:\\dir\\a.txt"', 'C:\\dir\\a.txt'],
  ]
  for (const [parameters, name] of cases) {
    const mail = read(`Content-Disposition: attachment; ${parameters}`, 'Content-Type: a/b', '', '')
    assert.equal(mail.attachments[0]?.name, name, parameters)
  }
  const typed = read("Content-Type: a/b; name*0*=utf-8'ja'%E6%97%A5%E6; name*1*=%9C%AC; name*2=.pdf", '', 'x')
  assert.equal(typed.attachments[0]?.name, '日本.pdf')
})

test('address lists are parsed first and decoded then', () => {
  const cases: [string, string][] = [
    [`${utf8('山田')} <a@b.example>, =?utf-8?Q?Doe=2C_J?= <c@d.example>`, '山田 <a@b.example>|Doe, J <c@d.example>'],
    ['Doe, J <a@b.example>', 'Doe, J <a@b.example>'],
    [
      '=?utf-8?Q?a=40b=2Eexample_=3Cevil=40x=2Eexample=3E?= <c@d.example>',
      'a@b.example <evil@x.example> <c@d.example>',
    ],
    ['=?utf-8?Q?Evil_=3Cevil=40x=2Eexample=3E?=', 'Evil <evil@x.example> <>'],
    ['"=?utf-8?Q?=22Doe=22=3B?= J" <a@b.example>', '"Doe"; J <a@b.example>'],
    ['=?utf-8?B?5LqI5w==?= =?utf-8?B?tIQ=?= =?utf-8?Q?=2C?= <a@b.example>', '予約, <a@b.example>'],
    [
      '=?utf-8?Q?gr=3Bup?=: a@b.example, =?utf-8?Q?X=2C?= <c@d.example>;, e@f.example',
      ' <a@b.example>|X, <c@d.example>| <e@f.example>',
    ],
    ['undisclosed-recipients:;', ''],
    ['\x1b$B;3ED\x1b(B <a@b.example>, \x1b$B2V;R\x1b(B <c@d.example>', '山田 <a@b.example>|花子 <c@d.example>'],
    [`${hex('8352815b8368')} <a@b.example>`, 'コード <a@b.example>'],
    [
      'a@[IPv6:::1], "x [y]" <b@[127.0.0.1]>, [z] <c@d.example>',
      ' <a@[IPv6:::1]>|x [y] <b@[127.0.0.1]>|[z] <c@d.example>',
    ],
  ]
  for (const [field, list] of cases) {
    for (const name of ['From', 'To', 'Cc', 'Bcc', 'Reply-To']) {
      const { from, to, cc, bcc, replyTo, warnings } = readHeaders(raw(`${name}: ${field}`))
      const found = [...from, ...to, ...cc, ...bcc, ...replyTo].map((one) => `${one.name} <${one.address}>`)
      assert.equal(found.join('|'), list, `${name}: ${field}`)
      assert.deepEqual(warnings, [])
    }
  }
  const { to } = readHeaders(raw('To: a@x.example', 'Subject: s', 'TO: b@x.example'))
  assert.deepEqual(
    to.map(({ address }) => address),
    ['a@x.example', 'b@x.example'],
  )
})

test('header fields: unfolded, in order, and nothing that is none', () => {
  const fields = ['A: 1', 'b : 2', 'C:', '  folded', '\ttwice', 'no field', 'D:x:y', 'Message-ID: <1@x>']
  const header = readHeaders(raw(...fields, 'Date: Sun, 22 Nov 2026 10:00:00 +0900 (JST)'))
  const found = header.headers.map(({ name, value }) => `${name}=${value}`)
  assert.deepEqual(found.slice(0, 4), ['A=1', 'b=2', 'C=folded twice', 'D=x:y'])
  assert.equal(header.date?.toISOString(), '2026-11-22T01:00:00.000Z')
  assert.deepEqual([header.arrived, header.messageId], [header.date, '<1@x>'])
  assert.equal(readHeaders(raw('Date: some day')).date, undefined)
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
  assert.equal(readHeaders(raw(lmtp, smtp)).arrived?.toISOString(), '2026-11-22T15:26:21.000Z')
})

describe('structure', () => {
  const html =
    'Content-Type: text/html; charset=utf-8\n\n<p>caf&eacute; <a href="https://x.example/?a=1&amp;b=2">go</a></p>'
  const logo = 'Content-Type: image/png\nContent-ID: <logo@x>\nContent-Transfer-Encoding: base64\n\niVBORw0K'
  const plain =
    'Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\ncaf=C3=A9 =\nau lait=3D'
  const notes =
    'Content-Type: text/plain; name="notes.txt"\nContent-Disposition: attachment; filename="notes.txt"\n\nkept\napart'
  const usual = enclosed(
    'outer one',
    'mixed',
    `${enclosed('inner', 'alternative', plain, enclosed('deep', 'related', html, logo))}\nepilogue`,
    notes,
  )
  const attached = ({ attachments }: Mail) =>
    attachments.map(({ name, type, part, bytes }) => `${part} ${name} ${type} ${bytes.length}`)

  test('text, HTML, inline image and attachment of a usual mail', () => {
    for (const end of ['\r\n', '\n']) {
      const mail = readMail(Buffer.from(usual.replaceAll('\n', end)))
      assert.deepEqual([mail.text, mail.readableText, mail.warnings], ['café au lait=', 'café au lait=', []])
      assert.match(mail.html ?? '', /^<p>.*<\/p>$/)
      assert.deepEqual(attached(mail), ['1.2.2  image/png 6', `2 notes.txt text/plain ${9 + end.length}`])
      assert.equal(
        mail.attachments.map(({ contentId, inline }) => `${contentId} ${inline}`).join(),
        'logo@x true, false',
      )
      assert.deepEqual(linksOf(mail), ['https://x.example/?a=1&b=2'])
    }
    assert.deepEqual(readHeaders(raw(usual.slice(0, usual.indexOf('\n')))).warnings, [])
  })

  test('a mail that is cut off anywhere is shown as far as it goes, with one warning at most', () => {
    for (let length = 0; length <= usual.length; length += 3) {
      const mail = readMail(Buffer.from(usual.slice(0, length)))
      // A label may be cut as well.
      const warnings = mail.warnings.filter((warning) => !/^unknown charset "u?t?f?-?"$/.test(warning))
      const isCut = length > usual.indexOf('text/plain') && length < usual.lastIndexOf('--outer one--')
      assert.ok(isCut ? warnings.length === 1 : warnings.length <= 1, `${length}: ${warnings}`)
      if (length > usual.indexOf('--deep')) assert.match(mail.text ?? '', /^café au lait=/)
    }
  })

  test('what is shown as text, and what is an attachment', () => {
    const named = (type: string, text: string) => `Content-Type: text/${type}; name="body.${type}"\n\n${text}`
    const code = 'Content-Type: text/html\n\n<p>Your code: 482913</p>'
    const cases: [string, string, string?][] = [
      ['Content-Type: text/html\n\n<h1>Hi</h1><p>a &lt; b', 'Hi\n\na < b'],
      [multipart('mixed', 'Content-Type: text/html\n\n<b>body</b>', '\nfooter'), 'body\nfooter'],
      // Where the text is blank the HTML is shown.
      [multipart('alternative', 'Content-Type: text/plain\n\n ', code), 'Your code: 482913'],
      [multipart('alternative', '\nUse an HTML client', code), 'Use an HTML client'],
      // Messages in a digest, and forwarded.
      [multipart('digest', '\nSubject: one\n\nx', 'Content-Type: text/plain\n\nnote'), 'note', '1  message/rfc822 17'],
      [
        multipart('mixed', '\nsee below', `Content-Type: message/rfc822\n\n${logo}`),
        'see below',
        '2  message/rfc822 92',
      ],
      // A text with a name is shown where it is meant to be read.
      [multipart('alternative', named('plain', 'text'), named('html', '<p>html</p>')), 'text'],
      [multipart('mixed', '\ntext', named('plain', 'other')), 'text', '2 body.plain text/plain 5'],
      ['Content-Disposition: inline; filename=a.txt\n\nx', 'x\n', '1 a.txt text/plain 3'],
      ['Content-Type: text/html; name=a.html\n\nx', 'x', '1 a.html text/html 3'],
      ['Content-Disposition: attachment; filename=a.txt\n\nx', '', '1 a.txt text/plain 3'],
      // What format=flowed broke is joined.
      [
        'Content-Type: text/plain; format=flowed\n\na long \nline\n stuffed\n> quoted \n> too\n-- \nx',
        'a long line\nstuffed\n> quoted \n> too\n-- \nx\n',
      ],
      ['Content-Type: text/plain; format="Flowed"; DelSp=yes\n\na \nb', 'ab\n'],
      // Comments, odd types and odd cases in the fields of a part.
      ['Content-Type: text/plain; charset=iso-8859-15 (Latin 9)\n\n\xa4', '€\n'],
      ['CONTENT-TYPE: TEXT/PLAIN; CHARSET="ISO-8859-15"\n\n\xa4', '€\n'],
      ['Content-Transfer-Encoding: (x) BASE64\n\nSGVsbG8=', 'Hello'],
      // Without a header, without a body, without anything.
      ['\nonly a body', 'only a body\n'],
      ['From a@b.example Sun Nov 22 15:26:20 2026\nSubject: s\n\ntext', 'text\n'],
      ['Subject: s', ''],
      ['', ''],
    ]
    for (const [text, readable, attachments = ''] of cases) {
      const mail = read(text)
      assert.deepEqual([mail.readableText, attached(mail).join(), mail.warnings], [readable, attachments, []], text)
    }
    assert.equal(read('Content-Type: text/html\n\nx').text, null)
    assert.deepEqual([read('\nx').html, read(multipart('alternative', '\n ', code)).text], [null, ''])
    const shared = Buffer.concat([Buffer.from('xx'), raw('Subject: s\n\ntext'), Buffer.from('yy')])
    assert.equal(readMail(new Uint8Array(shared.buffer, shared.byteOffset + 2, shared.length - 4)).text, 'text\n')
  })

  test('what is broken is shown as far as it goes, with one true warning, what is odd and allowed without', () => {
    const encoded = (encoding: string, body: string) => `Content-Transfer-Encoding: ${encoding}\n\n${body}`
    const [cut, apart] = ['cut off: a multipart has no end', 'a multipart that cannot be taken apart']
    const cases: [string, string, string?][] = [
      ['Content-Type: multipart/mixed\n\ntext', 'text\n', apart],
      ['Content-Type: multipart/mixed; boundary=b\n\ntext', 'text\n', apart],
      ['Content-Type: multipart/mixed; boundary=b\n\n--b\n\ntext', 'text\n', cut],
      [multipart('mixed', '\ntext').replace(/\n.*$/, ''), 'text\n', cut],
      [encoded('base64', 'SGVsb!!!G8='), 'Hello', 'broken base64'],
      [encoded('base64', 'SGVsbG8=\n-- \nlist'), 'Hello', 'broken base64'],
      [encoded('base64', 'SGVs\nbG8g\n\n____\nlist'), 'Hello ', 'broken base64'],
      [encoded('quoted-printable', 'a=ZZb=E'), 'a=ZZb=E\n', 'broken quoted-printable'],
      [encoded('base64', 'SGVs\nbG8=\nSGVsbG8='), 'HelloHello'],
      [encoded('quoted-printable', 'a =  \nb=e9=\n'), 'a bé\n'],
      // One boundary in itself, one that begins like another, spaces behind, a part without an empty line.
      [multipart('mixed', '\none', multipart('mixed', '\ntwo'), '\nthree'), 'one\ntwo\nthree'],
      [multipart('mixed', enclosed('bb', 'mixed', '\na'), '\n--bbb\n--b c'), 'a\n--bbb\n--b c'],
      ['Content-Type: multipart/mixed; boundary="b"\n\n--b  \n\ntext\n--b-- \n', 'text'],
      // Parameters in sections with a charset (RFC 2231), as Python folds them.
      [
        "Content-Type: multipart/mixed; boundary*0*=us-ascii''%3D;\n boundary*1*=%3Db\n\n--==b\n\ntext\n--==b--",
        'text',
      ],
      ["Content-Type: text/plain; charset*=us-ascii''iso-8859-2\n\n\xb1", 'ą\n'],
      [multipart('mixed', 'Content-Type: text/plain', '', '\ntext'), '\n\ntext'],
    ]
    for (const [text, shown, warning] of cases) {
      const mail = read(text)
      assert.deepEqual([mail.text, mail.warnings], [shown, warning ? [warning] : []], text)
    }
  })
})

test('links of text and HTML: absolute, decoded, once each, in the order of the mail, and no longer than they are', () => {
  const text = `See https://x.example/a?b=1&c=2. And (http://y.example/(z)), <https://w.example/>, https://v.example/あ ftp://f.example/
(https://a.example/x_(y)), [https://b.example/?q=[1]]; "https://c.example/a,b"! http://localhost:3000/?t=a&u=1_* http://[::1]:80/x
https://bücher.example/größe?q=ä, dann https://пример.example/ж und URLはhttps://x.example/aです`
  const html = `<a class=x href="https://x.example/a?b=1&amp;c=2">1</a><A HREF='HTTPS://u.example/&#x40;'>2</A> https://s.example/in-text
<a href=https://t.example/>https://shown.example/</a><a href="#top"></a><a href="javascript:x"></a><a href="mailto:a@b.example">4</a>
<a title="a > b" href="myapp://open?t=1">5</a><!-- <a href="https://no.example/"> --><a name=x>6</a><a href="/relative">7</a>
<map><area href="https://r.example/\n x"></map>`
  assert.deepEqual(linksOf({ text, html }), [
    ...['https://x.example/a?b=1&c=2', 'http://y.example/(z)', 'https://w.example/', 'https://v.example/'],
    ...['https://a.example/x_(y)', 'https://b.example/?q=[1]', 'https://c.example/a,b'],
    ...['http://localhost:3000/?t=a&u=1_', 'http://[::1]:80/x'],
    ...['https://bücher.example/größe?q=ä', 'https://пример.example/ж', 'https://x.example/a'],
    ...['HTTPS://u.example/@', 'https://s.example/in-text', 'https://t.example/', 'https://r.example/ x'],
  ])
})

test('the text of HTML', () => {
  const cases: [string, string][] = [
    ['a<br>b<br/>c', 'a\nb\nc'],
    ['<p>a</p>\n<p>b</p>', 'a\n\nb'],
    ['<head><title>t</title><style>x</style></head><body>a<script>1<2</script>b', 'ab'],
    ['1 < 2 && 3 > 2 &amp;&#38;&#x26; &nope;', '1 < 2 && 3 > 2 &&& &nope;'],
    ['<h1>Title</h1><table><tr><td>a</td><td>b</td></tr></table>', 'Title\n\na b'],
    ['<a href="https://x.example/">go</a><!-- never closed', 'go'],
    ['\ufdd0a\ufdd1b\ufdd2', 'ab'],
  ]
  for (const [html, text] of cases) assert.equal(textOfHtml(html), text, html)
})

describe('large and hostile mail is shown as far as it goes, in time', () => {
  const levels = (count: number) =>
    Array.from({ length: count }, (_, at) => `Content-Type: multipart/mixed; boundary=b${at}\r\n\r\n--b${at}\r\n`).join(
      '',
    )
  const [mixed, html] = ['Content-Type: multipart/mixed; boundary=b\r\n\r\n', 'Content-Type: text/html\r\n\r\n']
  const part = '--b\r\nContent-Disposition: attachment; filename=f\r\n\r\nx\r\n'
  const people = Array.from({ length: 2_000 }, (_, at) => `=?utf-8?Q?a=2C?= <u${at}@x.example>`)
  const late = (field: string) => `Subject: s\r\n${field}\r\nTo: late@x.example\r\n\r\nthe text`
  const isLate = ({ to, text, subject }: Mail) => `${to[0]?.address} ${text} ${subject}` === 'late@x.example the text s'
  const isShown = ({ readableText }: Mail) => readableText.includes('deep inside')
  // The server takes no more than 10 MB; what is quadratic or backtracks takes minutes long before that.
  const cases: [string, string, (mail: Mail) => boolean][] = [
    ['10,000 parts', `${mixed}${part.repeat(10_000)}--b--`, ({ attachments }) => attachments.length === 10_000],
    ['20,000 levels', `${levels(20_000)}\r\ndeep inside\r\n--b0--`, isShown],
    ['delimiters of nothing', `${levels(200)}\r\ndeep inside\r\n${'--x\r\n'.repeat(1e5)}`, isShown],
    ['2,000 recipients', `To: ${people.join(',\r\n ')}\r\n\r\nx`, ({ to }) => to[1_999]?.name === 'a,'],
    ['a folded field', late(`X: ${`\r\n ${'x'.repeat(70)}`.repeat(137_000)}`), isLate],
    ['fields', late(`${'a: b\r\n'.repeat(200_000)}c: d`), isLate],
    ['HTML', `${html}${'<b><a href="https://x.example/">x</a>'.repeat(60_000)}`, (mail) => linksOf(mail).length === 1],
    ['a quote that never closes', `${html}${'<a =">"\r\n'.repeat(60_000)}<a ="`, () => true],
    ['encoded words', `Subject: ${'=?utf-8?q?=E3=81?= '.repeat(20_000)}=?utf-8?q?\r\n\r\nx`, () => true],
  ]
  const readAll = (bytes: Buffer) => {
    const mail = readMail(bytes)
    assert.ok([mail.readableText, ...linksOf(mail), codeOf(mail) ?? ''].every((text) => typeof text === 'string'))
    return mail
  }

  for (const [what, text, isRight] of cases) {
    test(what, () => assert.ok(isRight(readAll(Buffer.from(text, 'latin1')))))
  }

  test('a piece that is repeated, in every place', () => {
    const places = ['Subject: ', 'From: ', 'Content-Type: ', 'Content-Disposition: ', 'Received: ', 'Date: ']
    const types = ['text/html', 'text/plain; format=flowed', 'multipart/mixed; boundary=b']
    places.push(...types.map((type) => `Content-Type: ${type}\r\n\r\n`))
    const words =
      '( < " \\ , ; = @ =? ?= & &# <a <!-- <style </ href= a 1 code コード http:// http://a. . - : <<a> --b \xff %'
    const piece = fc.constantFrom(...words.split(' '), ' ', '\t', '12345 ', '<a ', '=\r\n', '\r\n ', '\r\n', '\0')
    const work = (a: string, b: string, end: string) => {
      const text = `${a}${(a + b).repeat(10_000)}${end}`
      for (const place of places) readAll(Buffer.from(`${place}${text}\r\n\r\nx`))
    }
    fc.assert(fc.property(piece, piece, piece, work), { numRuns: 4, seed: 1 })
  })

  test('whatever bytes come, a mail is read', () => {
    const lines = `--b|--b--||Content-Type: multipart/mixed; boundary=b|Content-Type: text/html; charset=iso-2022-jp|
Content-Type: multipart/digest; boundary=b|Content-Transfer-Encoding: base64|Subject: =?utf-8?b?4pyT?=|=?x?q?=1b[2J?=|
Content-Disposition: attachment; filename*0*=x''%|To: a:b;c,<|\x1b$B|\xff\xfe|code 1234`.split(/\||\n/)
    const line = fc.oneof(
      fc.constantFrom(...lines),
      fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
    )
    const work = (found: string[]) => void readAll(Buffer.from(found.join('\r\n'), 'latin1'))
    fc.assert(fc.property(fc.array(line, { maxLength: 40 }), work), { numRuns: 200, seed: 1 })
  })
})
