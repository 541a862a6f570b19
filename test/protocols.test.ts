import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createTransport } from 'nodemailer'
import { BAR, CATCHALL, FOO, type Login, masterLogin, readAccounts } from '../scripts/lib/accounts/accounts.ts'
import { Failure } from '../scripts/lib/cli.ts'
import type { TlsMode } from '../scripts/lib/mail/pop3.ts'
import type { ServiceName } from '../scripts/lib/settings.ts'
import { messagesOf, nodemailerOptions } from './deliveries.ts'
import { type Project, startedProject, until } from './harness.ts'
import { ENTRANCES, logIn as logInAt } from './logins.ts'

let project: Project
const host = '127.0.0.1'
const timeout = 20_000

before(async () => {
  project = await startedProject()
})
after(() => project?.remove())

const logIn = (service: ServiceName, tls: TlsMode, login: Login) =>
  logInAt({ host, ports: project.ports }, service, tls, login)

for (const [service, tls] of ENTRANCES) {
  describe(`${service} with TLS ${tls}`, () => {
    test('lets foo in', () => logIn(service, tls, { user: FOO, password: 'foo' }))
    test('lets the catchall in', () => logIn(service, tls, { user: CATCHALL, password: 'catchall' }))
    test('refuses a wrong password', () => assert.rejects(logIn(service, tls, { user: FOO, password: 'bar' })))
    test('lets the master user into an account', () => logIn(service, tls, masterLogin(BAR)))
    test('refuses the master user an account that does not exist', () =>
      assert.rejects(logIn(service, tls, masterLogin(BAR.replace('bar', 'nobody')))))
  })
}

test('a port without TLS is a TLS failure for implicit TLS', async () => {
  const refusal = await logIn('pop3', 'implicit', { user: FOO, password: 'foo' }).catch((error) => error)
  assert.ok(refusal instanceof Failure)
  assert.equal(refusal.exit, 'tls')
})

test('a wrong password slows down no right one', async () => {
  await Promise.all([1, 2, 3, 4].map(() => logIn('pop3', 'none', { user: FOO, password: 'x' }).catch(() => {})))
  const begin = performance.now()
  await logIn('pop3', 'none', { user: FOO, password: 'foo' })
  assert.ok(performance.now() - begin < 3_000)
})

test('submission without a login is refused', async () => {
  const server = { host, port: project.ports.submission, tls: 'none', timeout } as const
  const sent = createTransport(nodemailerOptions(server.port, server.tls)).sendMail({ from: FOO, to: BAR, text: 'x' })
  await assert.rejects(sent, /554 5\.7\.1/)
})

test('an unknown recipient is refused at RCPT on every SMTP port', async () => {
  for (const [service, tls] of ENTRANCES.filter(([name]) => /^(smtp|sub)/.test(name))) {
    const server = { host, port: project.ports[service], tls, timeout }
    const transport = createTransport(nodemailerOptions(server.port, server.tls, { user: FOO, password: 'foo' }))
    const to = 'nobodyhere@development-virtual.example.com'
    await assert.rejects(transport.sendMail({ from: FOO, to, text: 'x' }), /550 5\.1\.1/, `${service} ${tls}`)
  }
})

test('a message over the size limit is refused with 552', async () => {
  const server = { host, port: project.ports.smtp, tls: 'none', timeout } as const
  const transport = createTransport(nodemailerOptions(server.port, server.tls))
  const text = `${'x'.repeat(75)}\r\n`.repeat(140_000)
  await assert.rejects(transport.sendMail({ from: FOO, to: BAR, text }), /552 5\.3\.4/)
})

test('a message just below the size limit arrives', async () => {
  const server = { host, port: project.ports.smtp, tls: 'none', timeout } as const
  const transport = createTransport(nodemailerOptions(server.port, server.tls))
  const body = `${'x'.repeat(75)}\r\n`.repeat(132_000)
  const message = `Subject: large\r\n\r\n${body}`
  await transport.sendMail({ envelope: { from: FOO, to: [CATCHALL] }, raw: message })
  await until('the large message', async () =>
    (await messagesOf({ host, ports: project.ports }, CATCHALL)).some((source) => source.endsWith(body)),
  )
})

test('EHLO offers AUTH, STARTTLS and DSN on 25 and 587', async () => {
  const { connect } = await import('node:net')
  for (const service of ['smtp', 'submission'] as const) {
    const socket = connect(project.ports[service], host)
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk
    })
    await until('greeting', () => text.startsWith('220 '))
    socket.write('EHLO tests.example\r\n')
    await until('the end of EHLO', () => /^250 /m.test(text))
    socket.destroy()
    for (const keyword of [
      /^250[- ]AUTH PLAIN LOGIN/m,
      /^250[- ]STARTTLS/m,
      /^250[- ]DSN/m,
      /^250[- ]SIZE 10240000/m,
    ]) {
      assert.match(text, keyword)
    }
  }
})

test('all accounts of the file can be opened by the master user', async () => {
  for (const { address } of readAccounts()) await logIn('imap', 'none', masterLogin(address))
})
