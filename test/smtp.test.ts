/** The SMTP session against servers that say and take anything: nothing hangs, nothing is sent twice, no byte is changed. */
import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { test } from 'node:test'
import fc from 'fast-check'
import { Failure } from '../scripts/lib/cli.ts'
import { sendAll } from '../scripts/lib/mail/bulk.ts'
import { SmtpSession } from '../scripts/lib/mail/smtp.ts'
import { SmtpServer } from './smtp_server.ts'

// The same cases in every run: what fails here fails again. FUZZ_SEED chooses others.
fc.configureGlobal({ seed: Number(process.env.FUZZ_SEED ?? 20_250_701) })

const NOBODY = { login: undefined, loginWasChosen: false }
const serverOn = (port: number, timeout = 20_000) => ({ host: '127.0.0.1', port, tls: 'none', timeout }) as const

test('any bytes reach the server as they are, but for line ends, which become CRLF', async () => {
  const server = await SmtpServer.start()
  const session = await SmtpSession.open(serverOn(server.port), NOBODY)
  const piece = fc.oneof(
    fc.constantFrom('.', '\r\n', '\n', '\r', '\r\n.\r\n', '\n.\n', '\r.\r'),
    fc.string({ unit: 'binary-ascii' }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(piece), fc.uint8Array(), async (pieces, bytes) => {
      const message = Buffer.concat([Buffer.from(pieces.join(''), 'latin1'), bytes])
      const { exit } = await session.deliver({ envelope: { from: '', to: ['a@b'] }, bytes: message })
      assert.equal(exit, 'ok')
      const lines = message.toString('latin1').replace(/\r\n|\r|\n/g, '\r\n')
      const expected = lines.endsWith('\r\n') ? lines : `${lines}\r\n`
      assert.equal(server.received.at(-1)?.message.toString('latin1'), expected)
    }),
    { numRuns: 500 },
  )
  await session.close()
  await server.stop()
})

test('whatever a server says, the session opens or throws a Failure that fits a terminal, and a message has an outcome', async () => {
  const piece = fc.oneof(
    fc.constantFrom('220 hello\r\n', '250-x\r\n', '250 PIPELINING\r\n', '250 ok\r\n', '354 go\r\n', '421 bye\r\n'),
    fc.constantFrom('250', '250-', ' ', '\r\n', '\n', 'x', '5.1.1', '334 more\r\n', '550 no\r\n', 'é', '\x9b2J', '\0'),
    fc.string({ unit: 'binary', maxLength: 8 }),
  )
  let answer: string[] = []
  const server = createServer((socket) => {
    socket.on('error', () => {})
    // What it says does not depend on what it hears, and it hangs up in the end.
    for (const part of answer) socket.write(part)
    setTimeout(() => socket.destroy(), 20)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  const isFit = (text: string | null) => assert.doesNotMatch(text ?? '', /[\x00-\x1f\x7f-\x9f]/)
  await fc.assert(
    fc.asyncProperty(fc.array(piece, { maxLength: 12 }), fc.boolean(), async (parts, greets) => {
      answer = greets ? ['220 hello\r\n', '250 hi\r\n', ...parts] : parts
      try {
        const login = { user: 'a', password: 'b' }
        const session = await SmtpSession.open(serverOn(port), { login, loginWasChosen: false, tell: isFit })
        const { reply, problem } = await session.deliver({
          envelope: { from: '', to: ['a@b', 'c@d'] },
          bytes: Buffer.from('x'),
        })
        isFit(reply)
        isFit(problem)
        await session.close()
      } catch (error) {
        if (!(error instanceof Failure)) throw error
        isFit(error.message)
      }
    }),
    { numRuns: 150 },
  )
  server.close()
})

test('however connections break, every message is reported once, and none is handed over twice', async () => {
  const fate = fc.constantFrom('ok', 'ok', 'ok', 'refused', 'broken before', 'broken behind')
  await fc.assert(
    fc.asyncProperty(
      ...([fc.integer({ min: 1, max: 25 }), fc.integer({ min: 1, max: 5 })] as const),
      ...([fc.infiniteStream(fc.boolean()), fc.infiniteStream(fate), fc.infiniteStream(fc.nat({ max: 3 }))] as const),
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
          close = pause
        }
        await sendAll({
          ...{ count, concurrency, notify: undefined, patience: -1, stopped: () => false },
          make: async (n) => ({ envelope: { from: '', to: [String(n)] }, bytes: Buffer.from('x'), messageId: null }),
          open: async () => {
            await pause()
            if (!connects.next().value) throw new Failure('connection', 'no connection')
            return new Session() as unknown as SmtpSession
          },
          report: (n) => reported.push(n),
        })
        const everyNumber = Array.from({ length: count }, (_, index) => index + 1)
        assert.deepEqual(
          reported.sort((a, b) => a - b),
          everyNumber,
        )
        assert.equal(new Set(handedOver).size, handedOver.length)
      },
    ),
    { numRuns: 500 },
  )
})
