/** npx tsx scripts/send_email.ts: sends the test mail from foo to bar. */
import { parseArgs } from 'node:util'
import { createTransport } from 'nodemailer'
import { BAR, FOO } from './lib/accounts.ts'
import { print, run } from './lib/cli.ts'
import { readSettings } from './lib/settings.ts'
import { smtpFailure, smtpOptions } from './lib/smtp.ts'

await run(async () => {
  parseArgs({ options: {} })
  const settings = readSettings()
  const server = { host: settings.host, port: settings.ports.smtp, tls: 'none', timeout: 30_000 } as const
  try {
    const sent = await createTransport(smtpOptions(server, { user: FOO, password: 'foo' })).sendMail({
      from: { name: 'ふうー', address: FOO },
      to: { name: 'バー', address: BAR },
      subject: 'テストメール: 開発用メールサーバーから、ふうーがバーに送るメールの、とても長い件名です',
      text: `バーさん、こんにちは。\n\nこのメールは ${new Date().toISOString()} に送られました。\n\nふうー\n`,
    })
    print(sent.response)
    print(sent.messageId)
  } catch (error) {
    throw smtpFailure(error, server)
  }
})
