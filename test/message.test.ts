/** The pure parts of sending: address lists, messages that are sent as they are, the bytes on the wire. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import * as base64 from 'nodemailer/lib/base64'
import MailComposer from 'nodemailer/lib/mail-composer'
import * as qp from 'nodemailer/lib/qp'
import { Failure } from '../scripts/lib/cli.ts'
import { parseAddressList, problemOfAddress, toEnvelope } from '../scripts/lib/mail/addresses.ts'
import { sendAll } from '../scripts/lib/mail/bulk.ts'
import { prepareEml, render, withLineEnd } from '../scripts/lib/mail/message.ts'
import { SmtpSession } from '../scripts/lib/mail/smtp.ts'
import { SmtpServer } from './smtp_server.ts'

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

test('a message that is sent as it is loses its Bcc fields and nothing else', () => {
  const field = fc.constantFrom(
    'To: a@b',
    'Bcc: x@y',
    'bcc : x@y,\r\n\tz@y',
    'BCC:\n x@y',
    'X-Bcc: no',
    'Resent-Bcc: r@y',
    'Subject: ü\r\n more',
  )
  const lineEnd = fc.constantFrom('\r\n', '\n')
  fc.assert(
    fc.property(fc.array(fc.tuple(field, lineEnd)), lineEnd, fc.uint8Array(), (fields, end, body) => {
      const message = (parts: [string, string][]) =>
        Buffer.concat([Buffer.from(`${parts.map((part) => part.join('')).join('')}${end}`), body])
      const { bytes } = prepareEml(message(fields), { sender: true, recipients: true })
      assert.deepEqual(bytes, message(fields.filter(([text]) => !/^bcc/i.test(text))))
    }),
  )
})

test('any bytes reach the server as they are, but for LF, which becomes CRLF', async () => {
  const server = await SmtpServer.start()
  const session = await SmtpSession.open(
    { host: '127.0.0.1', port: server.port, tls: 'none', timeout: 5_000 },
    { login: undefined, loginWasChosen: false },
  )
  const piece = fc.oneof(
    fc.constantFrom('.', '\r\n', '\n', '\r', '\r\n.\r\n', '\n.\n', '\r.\r'),
    fc.string({ unit: 'binary-ascii' }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(piece), fc.uint8Array(), async (pieces, bytes) => {
      const message = Buffer.concat([Buffer.from(pieces.join(''), 'latin1'), bytes])
      const { exit } = await session.deliver({ envelope: { from: '', to: ['a@b'] }, bytes: message })
      assert.equal(exit, 'ok')
      const text = message.toString('latin1').replace(/\r?\n/g, '\r\n')
      const expected = text === '' || text.endsWith('\r\n') ? text : `${text}\r\n`
      assert.equal(server.received.at(-1)?.message.toString('latin1'), expected)
    }),
    { numRuns: 500 },
  )
  await session.close()
  await server.stop()
})

test('a composed message has the bytes that nodemailer itself would give it', async () => {
  const text = fc.option(fc.oneof(fc.string({ unit: 'grapheme' }), fc.stringMatching(/^[ -~\n]{0,300}$/)), {
    nil: undefined,
  })
  const attachment = fc.record({
    filename: fc.constantFrom('a.txt', '名前.pdf', 'mail.eml'),
    content: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
    cid: fc.option(fc.constant('c@d'), { nil: undefined }),
  })
  await fc.assert(
    fc.asyncProperty(text, text, fc.array(attachment, { maxLength: 2 }), async (plain, html, attachments) => {
      const mail = {
        ...(plain ? { text: plain } : {}),
        ...(html ? { html } : {}),
        attachments,
        to: '名@例え.jp',
        date: new Date(0),
      }
      const node = new MailComposer(mail).compile()
      const theirs = await node.build()
      assert.equal(withLineEnd(render(node, { base64, qp })).toString('latin1'), theirs.toString('latin1'))
    }),
    // A random run once found that an attached message may end in a lone CR.
    {
      numRuns: 300,
      examples: [[undefined, undefined, [{ filename: 'mail.eml', content: Buffer.from('a\r'), cid: undefined }]]],
    },
  )
})

/** Large enough that not all messages are made ahead. */
const BYTES = Buffer.alloc(20_000_000)

test('however connections break, every message is reported once, and none is handed over twice', async () => {
  const fate = fc.constantFrom('ok', 'ok', 'ok', 'refused', 'broken before', 'broken behind')
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 25 }),
      fc.integer({ min: 1, max: 5 }),
      fc.infiniteStream(fc.boolean()),
      fc.infiniteStream(fate),
      fc.infiniteStream(fc.nat({ max: 3 })),
      async (count, concurrency, connects, fates, pauses) => {
        const pause = async () => {
          for (let turns = pauses.next().value; turns > 0; turns--)
            await new Promise((resolve) => setImmediate(resolve))
        }
        const handedOver: string[] = []
        const reported: number[] = []
        /** Stands in for SmtpSession: breaks as told. */
        class Session {
          usable = true
          async deliver({ envelope }: { envelope: { to: string[] } }) {
            await pause()
            const what = this.usable ? fates.next().value : 'broken before'
            if (what.startsWith('broken')) this.usable = false
            if (what !== 'broken before') handedOver.push(envelope.to.join())
            const exit = what === 'ok' ? 'ok' : what === 'refused' ? 'message' : 'connection'
            return { exit, untaken: what === 'broken before' }
          }
          async close() {
            await pause()
          }
        }
        await sendAll({
          count,
          concurrency,
          notify: undefined,
          patience: -1,
          make: async (n) => ({ envelope: { from: '', to: [String(n)] }, bytes: BYTES, messageId: null }),
          open: async () => {
            await pause()
            if (!connects.next().value) throw new Failure('connection', 'no connection')
            return new Session() as unknown as SmtpSession
          },
          report: (n) => reported.push(n),
          stopped: () => false,
        })
        assert.deepEqual(
          reported.sort((a, b) => a - b),
          Array.from({ length: count }, (_, index) => index + 1),
        )
        assert.equal(new Set(handedOver).size, handedOver.length)
      },
    ),
    { numRuns: 500 },
  )
})
