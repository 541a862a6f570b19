/** What pop_email shows and saves of a mail: which mails match, their codes, safe text, safe names of files. No server. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { codeOf } from '../scripts/lib/mail/codes.ts'
import { type FilterValues, matchesAddress, parseFilters } from '../scripts/lib/mail/filters.ts'
import { readMail } from '../scripts/lib/mail/mail.ts'
import { safeFileName } from '../scripts/lib/mail/save.ts'

const mail = (...lines: string[]) => Buffer.from(`${lines.join('\r\n')}\r\n`)

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

test('a whole address matches whole, a part as a part, in any letter case', () => {
  const same = '1@gmail.com|1@GMAIL.com|<1@gmail.com>| 1@gmail.com |1@|@gmail.com|gmail|@|1@gmail'.split('|')
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

/** The code, or "-" for none, and the text, ⏎ for its line breaks; one that begins with "<" is HTML. */
const MAILS = `
4821  Order 20251126. Your code is 4821.
A7F9KQ  Your code is A7F9KQ (valid till 2026)
48-21-99  Your security code: 48-21-99
482913  Hello Ann,⏎⏎use the code below to sign in to Shop. It is valid for 10 minutes.⏎⏎    482913⏎⏎If you did not ask for it, call +1 555 123 4567.⏎© 2026 Shop Inc., 1200 Main St, Springfield, IL 62704
G-482913  G-482913 is your verification code.
482913  Your verification code⏎482 913⏎This code expires at 15:26 on 26 November 2026.
482913  Enter this code: 4 8 2 9 1 3
482913  Your one-time password (OTP) for transaction 998877 of $1,250.00 at 12:45 is 482913. Card ending 4242.
4821  Your PIN is 4821 and your member number is 77881234.
4821  Order no. 99887766⏎Invoice 2026-0042⏎PIN: 4821⏎Phone: 0800 123 4567
XK4T-9QPM  Your activation code is XK4T-9QPM.
ABCD-EF12-3456  Enter the code ABCD-EF12-3456 on your television.
QWZTRK  Your confirmation code is: QWZTRK.
482913  Use 482913 as your login code. Ticket #123456 was closed on 2026-11-22.
482913  Please confirm your address.⏎⏎482913⏎⏎Shop GmbH, 10115 Berlin
2026  Your code is 2026.
7788  Parcel 1Z999AA10123456784 is on its way. To open the locker, use code 7788 until 30/11/2026.
7788  https://x.example/1234/5678?code=9999 code 7788
7788  Promo code SAVE2026 for your next order. Your login code: 7788
7788  Your login code is 7788. It is not your zip code 94105.
482913  Your sign-in code for Shop (device 4711, Berlin) is: 482913
TK7Q2M  Your token: TK7Q2M
x7k9Qp2  Your one-time password is x7k9Qp2
9XK2M  The Steam Guard code you need to log in to account bob99:⏎⏎9XK2M⏎⏎from 203.0.113.5
482913  Enter 482913 in the app to verify your phone +44 7700 900123
482913  Reset code: 482913⏎Customer number 10042⏎Acme Corp | 500 Terry Francois St | San Francisco, CA 94158
482913  Enter this code to confirm your account: 482913⏎⏎Request ID: 8f14e45f-ceea-467f-a9d5-1234567890ab
482913  Use the code for order 99887766: 482913
998877  Subject: Your Shop code: 998877⏎We sent this on 22.11.2026 to customer 12345678.
123456  認証コードは123456です。
482913  ご注文番号：20251126-001⏎確認コード：482913（有効期限：2026年11月26日 15:30）⏎お問い合わせ：03-1234-5678
482913  2026年11月22日⏎山田様⏎⏎以下の認証番号を入力してください。⏎⏎482913⏎⏎有効期限は30分です。⏎〒100-0001 東京都千代田区1-1-1⏎電話 0120-123-456
4821  会員番号 12345678 のお客様⏎認証番号 4821 を画面に入力してください。
4821  ログイン用のPINは「4821」です。合計 12,800円（税込）
482913  ワンタイムパスワードは 482913 です。10分以内にご入力ください。
7788  郵便番号 1000001、クーポンコード WINTER2026、認証コード 7788
482913  二段階認証の数字6桁は 482913 です。受付番号：1126-4455
482913  Ihr Bestätigungscode lautet 482913.
482913  Hallo Jürgen,⏎⏎dein Code für die Anmeldung am 22. November 2026 um 15:26 Uhr:⏎⏎482 913⏎⏎Bestellnummer 4711-0815, Kundennummer 99887766⏎Telefon 030 1234567
4821  Die PIN für Ihr Schließfach ist 4821. Rechnung Nr. 2026-0042 vom 22.11.2026, 49,90 €
-  We use 20000 servers to serve 45000 users. Sign in now.
418205  ログインするには 418205 を入力してください。
771230  Verwende 771 230, um dich bei Foo anzumelden. © 2026 Foo GmbH
482913  Geben Sie 482913 als Sicherheitscode ein. PLZ 10115
482913  Mit der smsTAN 482913 geben Sie den Auftrag 99887766 frei.
ABCD-1234  Ihr Aktivierungsschlüssel: ABCD-1234, Kundennummer 99887766
482913  Votre code de vérification est 482913.
482913  您的验证码是 482913，10分钟内有效。
482913  인증번호: 482913
654321  <style>a{width:6000px}</style><b>12</b><p>Your code</p><p>654321</p>
482913  <table><tr><td>Order</td><td>20251126</td></tr><tr><td>Code</td><td>482913</td></tr></table>
482913  <p>Your code is</p><table><tr><td>4</td><td>8</td><td>2</td><td>9</td><td>1</td><td>3</td></tr></table>
A7F9KQ  <div>確認コード</div><div style="font-size:32px"><strong>A7F9KQ</strong></div><div>注文 99887766</div>
482913  <p>Enter <span>482</span><span>913</span> as your code, order 1234567</p>
-  nothing 123 here, only 2026-11-22
-  Your order 99887766 of 22 November 2026 has shipped. Total: $1,250.00. Tracking number: 1Z999AA10123456784
-  Our zip code is 94105. Use promo code SAVE2026 before 2026-12-31.
-  ご注文番号：20251126-001⏎合計：12,800円⏎お届け先：〒100-0001 東京都⏎電話：03-1234-5678
-  The source code is on our server. Error code 5042 was seen 1200 times.
-  Please confirm your address: https://shop.example/confirm/482913?token=998877
-  Merge request !4821: Fix code in module 1234
-  Please sign in to see invoice 482913.⏎⏎Shop Ltd⏎12345 Springfield
-  Your booking code is below. Flight LH4821 on 26 Nov 2026
`

test('the code of each of these mails', () => {
  const wrong = MAILS.trim()
    .split('\n')
    .filter((row) => {
      const [, code, subject = 'News', text = ''] = /^(\S+) {2}(?:Subject: (.*?)⏎)?(.*)$/.exec(row) ?? []
      const type = text.startsWith('<') ? 'html' : 'plain'
      const header = `Subject: ${subject}\nContent-Type: text/${type}; charset=utf-8\n\n`
      return (codeOf(readMail(Buffer.from(header + text.replaceAll('⏎', '\n')))) ?? '-') !== code
    })
  assert.deepEqual(wrong, [])
})

test('of several codes the best, from the HTML where the text has none', () => {
  const several = 'Subject: News\n\nLogin for 3333-4444 or 2222, with the PIN 5555'
  assert.equal(codeOf(readMail(Buffer.from(several))), '5555')
  const parts = ['Use an HTML mail client', 'Content-Type: text/html\n\n<p>Your code: 482913</p>']
  const both = `Content-Type: multipart/alternative; boundary=b\n\n--b\n\n${parts.join('\n--b\n')}\n--b--\n`
  assert.equal(codeOf(readMail(Buffer.from(both))), '482913')
})

test('names of attachments stay in the folder, are no devices, and fit any file system with their extension', () => {
  const cases: [string, string][] = [
    ['日本語 の 名前.txt', '日本語 の 名前.txt'],
    ['../../etc/passwd', 'passwd'],
    ['..\\..\\boot.ini', 'boot.ini'],
    ['C:x.dll', 'C_x.dll'],
    ['a\0b.txt', 'a_b.txt'],
    ['a\u202etxt.exe', 'a_txt.exe'],
    ['CON', '_CON'],
    ['nul.txt', '_nul.txt'],
    ['Com1.tar.gz', '_Com1.tar.gz'],
    ['lpt\u00b9.txt', '_lpt\u00b9.txt'],
    ['console.txt', 'console.txt'],
    ['trailing. . ', 'trailing'],
    ['.bashrc', '_bashrc'],
    ['-rf', '_rf'],
    ...['..', '.', '', '///'].map((name): [string, string] => [name, 'otherwise']),
    [`${'あ'.repeat(300)}.txt`, `${'あ'.repeat(65)}.txt`],
    ['x'.repeat(300), 'x'.repeat(200)],
    [`a.${'x'.repeat(300)}`, `a.${'x'.repeat(198)}`],
  ]
  for (const [name, safe] of cases) assert.equal(safeFileName(name, 'otherwise'), safe, JSON.stringify(name))
  const dots = safeFileName(`${'.'.repeat(1_000_000)}x`, 'otherwise')
  assert.ok(/^_+x$/.test(dots) && dots.length <= 255)
})
