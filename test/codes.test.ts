/** One-time codes, in mails as they are sent: dates, order numbers, prices and telephone numbers stand beside them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { codeOf, codesOf } from '../scripts/lib/mail/codes.ts'
import { readMail } from '../scripts/lib/mail/mail.ts'

const read = (subject: string, type: string, body: string) =>
  readMail(Buffer.from(`Subject: ${subject}\r\nContent-Type: text/${type}; charset=utf-8\r\n\r\n${body}`))

/** The code, or undefined, and the text; a text that begins with "<" is HTML, and its first line may be the subject. */
const MAILS: [string | undefined, string][] = [
  // English
  ['4821', 'Order 20251126. Your code is 4821.'],
  ['4821', 'your code is 4821'],
  ['123456', 'Your code is 123456.'],
  ['4821', 'Code:4821'],
  ['A7F9KQ', 'Your code is A7F9KQ (valid till 2026)'],
  ['48-21-99', 'Your security code: 48-21-99'],
  [
    '482913',
    'Hello Ann,\n\nuse the code below to sign in to Shop. It is valid for 10 minutes.\n\n    482913\n\nIf you did not ask for it, call +1 555 123 4567.\n© 2026 Shop Inc., 1200 Main St, Springfield, IL 62704',
  ],
  ['482913', '482913 is your Shop verification code.'],
  ['G-482913', 'G-482913 is your verification code.'],
  ['482913', 'Your verification code\n482 913\nThis code expires at 15:26 on 26 November 2026.'],
  ['482913', 'Enter this code: 4 8 2 9 1 3'],
  ['482913', 'Your one-time password (OTP) for transaction 998877 of $1,250.00 at 12:45 is 482913. Card ending 4242.'],
  ['482913', 'OTP: 482913. Do not share it. Ref: 20251126-0099'],
  ['4821', 'Your PIN is 4821 and your member number is 77881234.'],
  ['4821', 'Order no. 99887766\nInvoice 2026-0042\nPIN: 4821\nPhone: 0800 123 4567'],
  ['XK4T-9QPM', 'Your activation code is XK4T-9QPM.'],
  ['ABCD-EF12-3456', 'Enter the code ABCD-EF12-3456 on your television.'],
  ['QWZTRK', 'Your confirmation code is: QWZTRK.'],
  ['482913', 'Use 482913 as your login code. Ticket #123456 was closed on 2026-11-22.'],
  ['482913', 'Please confirm your address.\n\n482913\n\nShop GmbH, 10115 Berlin'],
  ['2026', 'Your code is 2026.'],
  ['7788', 'On 2026-11-22 at 15:26:33 code 7788'],
  ['7788', 'Since 2019 we ship to ZIP 94105. Code: 7788'],
  ['7788', 'Parcel 1Z999AA10123456784 is on its way. To open the locker, use code 7788 until 30/11/2026.'],
  ['7788', 'https://x.example/1234/5678?code=9999 code 7788'],
  ['7788', 'From user1234@x.example and 1234@x.example: code 7788'],
  ['7788', 'Promo code SAVE2026 for your next order. Your login code: 7788'],
  ['7788', 'Your login code is 7788. It is not your zip code 94105.'],
  ['482913', 'Your sign-in code for Shop (device 4711, Berlin) is: 482913'],
  ['0042', 'Security code 0042'],
  ['994411', 'Your verification number: *994411*'],
  ['TK7Q2M', 'Your token: TK7Q2M'],
  ['48291357', 'Temporary password: 48291357'],
  ['x7k9Qp2', 'Your one-time password is x7k9Qp2'],
  ['482-913', 'Your WhatsApp code: 482-913'],
  ['K8D-2FQ', 'Slack confirmation code: K8D-2FQ'],
  ['9XK2M', 'The Steam Guard code you need to log in to account bob99:\n\n9XK2M\n\nfrom 203.0.113.5'],
  ['482913', 'Enter 482913 in the app to verify your phone +44 7700 900123'],
  ['482913', 'Your code - 482913 - is valid until 2026-12-01'],
  ['482913', 'Reset code: 482913\nCustomer number 10042\nAcme Corp | 500 Terry Francois St | San Francisco, CA 94158'],
  ['482913', 'Enter this code to confirm your account: 482913\n\nRequest ID: 8f14e45f-ceea-467f-a9d5-1234567890ab'],
  ['482913', 'Use the code for order 99887766: 482913'],
  [
    'ZAP4X',
    'Here is the Steam Guard code you need to login to account ann:\nZAP4X\nThis email was sent to 203.0.113.5.',
  ],
  // In the subject
  ['482913', 'Subject: Your login code\n482913'],
  ['998877', 'Subject: 998877 is your code\nHello'],
  ['998877', 'Subject: Your Shop code: 998877\nWe sent this on 22.11.2026 to customer 12345678.'],
  // Japanese
  ['123456', '認証コードは123456です。'],
  ['123456', '認証コード：１２３４５６'],
  [
    '482913',
    'ご注文番号：20251126-001\n確認コード：482913（有効期限：2026年11月26日 15:30）\nお問い合わせ：03-1234-5678',
  ],
  [
    '482913',
    '2026年11月22日\n山田様\n\n以下の認証番号を入力してください。\n\n482913\n\n有効期限は30分です。\n〒100-0001 東京都千代田区1-1-1\n電話 0120-123-456',
  ],
  ['4821', '会員番号 12345678 のお客様\n認証番号 4821 を画面に入力してください。'],
  ['4821', 'ログイン用のPINは「4821」です。合計 12,800円（税込）'],
  ['482913', 'ワンタイムパスワードは 482913 です。10分以内にご入力ください。'],
  ['A7F9KQ', 'セキュリティコード【A7F9KQ】'],
  ['48-21-99', '確認コード: 48-21-99'],
  ['482913', '482913 があなたの認証コードです。'],
  ['7788', '2026年11月22日 コード 7788'],
  ['7788', '郵便番号 1000001、クーポンコード WINTER2026、認証コード 7788'],
  ['482913', 'お客様の確認コードは以下の通りです。\n482913\n注文番号 99887766'],
  ['482913', '二段階認証の数字6桁は 482913 です。受付番号：1126-4455'],
  // German
  ['482913', 'Ihr Bestätigungscode lautet 482913.'],
  [
    '482913',
    'Hallo Jürgen,\n\ndein Code für die Anmeldung am 22. November 2026 um 15:26 Uhr:\n\n482 913\n\nBestellnummer 4711-0815, Kundennummer 99887766\nTelefon 030 1234567',
  ],
  ['482913', 'Ihre TAN: 482913 für die Überweisung von 1.250,00 EUR an DE89370400440532013000'],
  ['4821', 'Die PIN für Ihr Schließfach ist 4821. Rechnung Nr. 2026-0042 vom 22.11.2026, 49,90 €'],
  ['482913', 'Geben Sie 482913 als Sicherheitscode ein. PLZ 10115'],
  ['482913', 'Ihr Einmalpasswort: 482913, gültig bis 26.11.2026 15:30'],
  ['7788', 'Mit dem Rabattcode SPAR2026 sparen Sie 20 %. Ihr Zugangscode: 7788'],
  ['482913', 'Mit der smsTAN 482913 geben Sie den Auftrag 99887766 frei.'],
  ['482913', 'Hier ist Ihr 6-stelliger Code: 482913'],
  ['ABCD-1234', 'Ihr Aktivierungsschlüssel: ABCD-1234, Kundennummer 99887766'],
  // Others
  ['482913', 'Votre code de vérification est 482913.'],
  ['482913', 'Su código de verificación es: 482913'],
  ['482913', '您的验证码是 482913，10分钟内有效。'],
  ['482913', '인증번호: 482913'],
  // HTML alone
  ['654321', '<style>a{width:6000px}</style><b>12</b><p>Your code</p><p>654321</p>'],
  ['482913', '<table><tr><td>Order</td><td>20251126</td></tr><tr><td>Code</td><td>482913</td></tr></table>'],
  ['482913', '<p>Your code is</p><table><tr><td>4</td><td>8</td><td>2</td><td>9</td><td>1</td><td>3</td></tr></table>'],
  ['A7F9KQ', '<div>確認コード</div><div style="font-size:32px"><strong>A7F9KQ</strong></div><div>注文 99887766</div>'],
  ['482913', '<p>Enter <span>482</span><span>913</span> as your code, order 1234567</p>'],
  // No code at all
  [undefined, 'nothing 123 here'],
  [undefined, 'only 2026-11-22 here'],
  [
    undefined,
    'Your order 99887766 of 22 November 2026 has shipped. Total: $1,250.00. Tracking number: 1Z999AA10123456784',
  ],
  [undefined, 'Meet in room 4021 at 15:30. Call 555-123-4567.'],
  [undefined, 'Our zip code is 94105. Use promo code SAVE2026 before 2026-12-31.'],
  [undefined, 'ご注文番号：20251126-001\n合計：12,800円\nお届け先：〒100-0001 東京都\n電話：03-1234-5678'],
  [undefined, 'Ihre Rechnung Nr. 20260042 vom 22.11.2026 über 49,90 €. Kundennummer 99887766. 10115 Berlin'],
  [undefined, 'Newsletter 2026\n\nThe year 2025 was good: 1500 people came. © 2026 Shop'],
  [undefined, 'The source code is on our server. Error code 5042 was seen 1200 times.'],
  [undefined, 'Please confirm your address: https://shop.example/confirm/482913?token=998877'],
  [undefined, 'Merge request !4821: Fix code in module 1234'],
  [undefined, 'Please sign in to see invoice 482913.\n\nShop Ltd\n12345 Springfield'],
  [undefined, 'Your booking code is below. Flight LH4821 on 26 Nov 2026'],
  [undefined, ''],
]

test(`the code of each of ${MAILS.length} mails`, async () => {
  const wrong: string[] = []
  for (const [code, mail] of MAILS) {
    const [, subject = 'News', text = ''] = /^(?:Subject: ([^\n]*)\n)?(.*)$/s.exec(mail) ?? []
    const found = codeOf(await read(subject, text.startsWith('<') ? 'html' : 'plain', text))
    if (found !== code) wrong.push(`${found} instead of ${code}: ${mail}`)
  }
  assert.deepEqual(wrong, [])
})

test('several codes come best first, once each, from the text, the HTML and the subject', async () => {
  const mail = await read('Code 1111', 'plain', 'Login for 3333-4444 with code 2222, or PIN 5555, or code 2222')
  assert.deepEqual(codesOf(mail).sort(), ['1111', '2222', '3333-4444', '5555'])
  assert.ok(codesOf(mail).indexOf('3333-4444') === 3)
  const both = await readMail(
    Buffer.from(
      [
        ...['Content-Type: multipart/alternative; boundary=b', '', '--b', '', 'Please use an HTML mail client', '--b'],
        ...['Content-Type: text/html', '', '<p>Your code: 482913</p>', '--b--', ''],
      ].join('\r\n'),
    ),
  )
  assert.equal(codeOf(both), '482913')
})
