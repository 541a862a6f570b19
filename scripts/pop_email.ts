/** npx tsx scripts/pop_email.ts: prints the mails of bar. */
import { parseArgs } from 'node:util'
import PostalMime, { addressParser } from 'postal-mime'
import { BAR } from './lib/accounts.ts'
import { print, run } from './lib/cli.ts'
import { Pop3Session } from './lib/pop3.ts'
import { readSettings } from './lib/settings.ts'

await run(async () => {
  const { values } = parseArgs({ options: { delete: { type: 'boolean' } } })
  const settings = readSettings()
  const server = { host: settings.host, port: settings.ports.pop3, tls: 'none', timeout: 30_000 } as const
  const session = await Pop3Session.open(server, { user: BAR, password: 'foo' })
  for (const message of await session.list()) {
    const mail = await PostalMime.parse(await session.retrieve(message))
    print(`From: ${mail.headers.find(({ key }) => key === 'from')?.value}`)
    print(`Subject: ${mail.subject}`)
    print(`Date: ${mail.date}`)
    print()
    print(mail.text)
    if (values.delete) await session.delete(message)
  }
  await session.quit()
  void addressParser
})
