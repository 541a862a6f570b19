import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { createTransport } from 'nodemailer'
import { BAR, CATCHALL, FOO, type Login, masterLogin, readAccounts } from '../scripts/lib/accounts/accounts.ts'
import { Failure } from '../scripts/lib/cli.ts'
import type { TlsMode } from '../scripts/lib/mail/pop3.ts'
import type { ServiceName } from '../scripts/lib/settings.ts'
import { messagesOf, nodemailerOptions } from './deliveries.ts'
import { type Project, startedProject, until } from './harness.ts'
import { ENTRANCES, logIn as logInAt } from './logins.ts'
import { RawClient, REPLY } from './raw_client.ts'

let project: Project
const host = '127.0.0.1'
const timeout = 20_000

before(async () => {
  project = await startedProject()
})
after(() => project?.remove())

const logIn = (service: ServiceName, tls: TlsMode, login: Login) =>
  logInAt({ host, ports: project.ports }, service, tls, login)

// They wait for each other's wrong passwords else.
describe('every entrance', { concurrency: 4 }, () => {
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
})

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

for (const [service, offersTls] of [
  ['smtp', false],
  ['submission', true],
] as const) {
  test(`EHLO at ${service} offers AUTH, DSN and SIZE, and ${offersTls ? '' : 'no '}STARTTLS`, async () => {
    const client = await RawClient.open(project.ports[service], REPLY.smtp)
    const text = await client.say('EHLO tests.example', /^250 .*\r\n/m)
    client.close()
    for (const keyword of [/^250[- ]AUTH PLAIN LOGIN/m, /^250[- ]DSN/m, /^250[- ]SIZE 10240000/m]) {
      assert.match(text, keyword)
    }
    assert.equal(/^250[- ]STARTTLS/m.test(text), offersTls)
  })
}

// What applications carry of their mail provider.
for (const user of ['apikey', 'AKIAIOSFODNN7EXAMPLE', 'postmaster@mg.client.com', 'foo@gmail.com']) {
  const login = { user, password: `not/a+real=secret ${user}` }
  test(`the foreign login ${user} is right at SMTP, and wrong at POP3 and IMAP`, async () => {
    await Promise.all(
      ENTRANCES.map(async ([service, tls]) => {
        const result = logIn(service, tls, login)
        if (/^(smtp|sub)/.test(service)) await result
        else await assert.rejects(result, `${service} ${tls}`)
      }),
    )
  })
}

test('POP3 and IMAP call a foreign login wrong, not an error of the server', async () => {
  const pop3 = await RawClient.open(project.ports.pop3, REPLY.pop3)
  await pop3.say('USER apikey', REPLY.pop3)
  assert.match(await pop3.say('PASS x', REPLY.pop3), /^-ERR \[AUTH\] Authentication failed/)
  pop3.close()
  const imap = await RawClient.open(project.ports.imap, REPLY.imap)
  assert.match(await imap.say('a LOGIN apikey x', REPLY.imap), /^a NO \[AUTHENTICATIONFAILED\]/)
  imap.close()
})

test('a user of an own domain is no foreign login: unknown ones, and wrong passwords, in any letter case', async () => {
  const users = [FOO, FOO.toUpperCase(), FOO.replace('foo', 'nobody'), CATCHALL.replace('catchall', 'x')]
  const refused = (user: string) =>
    assert.rejects(logIn('smtp', 'none', { user, password: 'wrong' }), /535 5\.7\.8/, user)
  await Promise.all(users.map(refused))
})

test('the domain of an account that is added is an own one at once', async () => {
  const login = { user: 'nobody@new-domain.example', password: 'x' }
  await logIn('smtp', 'none', login)
  const added = await project.runWith(
    { input: 'secret\n' },
    'add_account',
    'ann@new-domain.example',
    '--password-stdin',
  )
  assert.equal(added.code, 0, added.stderr)
  await until('the login to be refused', () =>
    logIn('smtp', 'none', login).then(
      () => false,
      () => true,
    ),
  )
  await logIn('smtp', 'none', { user: 'ann@new-domain.example', password: 'secret' })
})

test('the certificate is right for all names of the server where it is trusted', async () => {
  const ca = readFileSync(join(project.stateDir, 'tls/certificate.pem'))
  for (const servername of ['localhost', 'development-mail-server', 'development-mail-server.example.com']) {
    for (const [service, tls] of [
      ['submissions', 'implicit'],
      ['submission', 'starttls'],
    ] as const) {
      const options = nodemailerOptions(project.ports[service], tls, { user: FOO, password: 'foo' })
      await createTransport({ ...options, tls: { ca, servername } }).verify()
    }
  }
  for (const host of ['127.0.0.1', '::1']) assert.equal(new X509Certificate(ca).checkIP(host), host)
})

test('all accounts of the file can be opened by the master user', async () => {
  for (const { address } of readAccounts()) await logIn('imap', 'none', masterLogin(address))
})
