/** Logins at every port, in every way that it can be used. */
import assert from 'node:assert/strict'
import { ImapFlow } from 'imapflow'
import { createTransport } from 'nodemailer'
import type { Login } from '../scripts/lib/accounts/accounts.ts'
import type { TlsMode } from '../scripts/lib/mail/client_options.ts'
import { Pop3Session } from '../scripts/lib/mail/pop3.ts'
import type { ServiceName } from '../scripts/lib/settings.ts'
import { nodemailerOptions, type Where } from './deliveries.ts'

/** Every port with every way to use it: port 25 offers no TLS. */
export const ENTRANCES: [ServiceName, TlsMode][] = [
  ['smtp', 'none'],
  ['submission', 'none'],
  ['submission', 'starttls'],
  ['submissions', 'implicit'],
  ['pop3', 'none'],
  ['pop3', 'starttls'],
  ['pop3s', 'implicit'],
  ['imap', 'none'],
  ['imap', 'starttls'],
  ['imaps', 'implicit'],
]

/** Logs in at one port; throws where that is refused, or where TLS is not as it should be. */
export async function logIn({ host, ports }: Where, service: ServiceName, tls: TlsMode, login: Login): Promise<void> {
  const server = { host, port: ports[service], tls, timeout: 20_000 }
  if (service.startsWith('pop3')) {
    const session = await Pop3Session.open(server, login)
    await session.quit()
  } else if (service.startsWith('imap')) {
    const client = new ImapFlow({
      host,
      port: server.port,
      secure: tls === 'implicit',
      doSTARTTLS: tls === 'starttls',
      tls: { rejectUnauthorized: false },
      auth: { user: login.user, pass: login.password },
      logger: false,
    })
    client.on('error', () => {})
    await client.connect()
    assert.equal(client.secureConnection, tls !== 'none')
    await client.logout()
  } else {
    await createTransport(nodemailerOptions(server.port, tls, login)).verify()
  }
}
