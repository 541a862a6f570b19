/** Every port with every way to use it, as libraries and real clients of several languages do. */
import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { randomUUID, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { createTransport } from 'nodemailer'
import { BAR, CATCHALL, FOO, type Login, masterLogin } from '../scripts/lib/accounts/accounts.ts'
import type { TlsMode } from '../scripts/lib/mail/client_options.ts'
import { ROOT, type ServiceName } from '../scripts/lib/settings.ts'
import { CLIENTS, type Client } from './clients.ts'
import { messagesOf, nodemailerOptions, originalRecipient, subjectsOf } from './deliveries.ts'
import { type Project, startedProject, until } from './harness.ts'
import { runIn } from './here.ts'
import { ENTRANCES, logIn as logInAt } from './logins.ts'

let project: Project

before(async () => {
  project = await startedProject()
})
after(() => project?.remove())

const logIn = (service: ServiceName, tls: TlsMode, login: Login) => logInAt(project, service, tls, login)
/** nodemailer as an application has it. */
const transportTo = (service: ServiceName, tls: TlsMode, login?: Login) =>
  createTransport(nodemailerOptions(project.ports[service], tls, login))

// The first of all: each wrong password before it would count.
test('a wrong password slows down no right one', async () => {
  const timed = async (password: string) => {
    const begin = performance.now()
    const login = logIn('pop3', 'none', { user: FOO, password })
    await (password === 'foo' ? login : assert.rejects(login))
    return performance.now() - begin
  }
  const usual = (await timed('foo')) + (await timed('wrong'))
  // Dovecot's penalty for the next login would be four seconds.
  const right = await timed('foo')
  assert.ok(right < 1_000 + 4 * usual, `${right} ms where ${usual} ms are usual`)
})

// They wait for each other's wrong passwords else.
describe('every entrance', { concurrency: 5 }, () => {
  for (const [service, tls] of ENTRANCES) {
    test(`${service} with TLS ${tls} lets foo, the catchall and the master user in, and nobody else`, async () => {
      const wrong = [
        { user: FOO, password: 'bar' },
        masterLogin(BAR.replace('bar', 'nobody')),
        { user: FOO.replace('foo', 'nobody'), password: 'foo' },
      ]
      const right = [{ user: FOO, password: 'foo' }, { user: CATCHALL, password: 'catchall' }, masterLogin(BAR)]
      await Promise.all([
        ...right.map((login) => logIn(service, tls, login)),
        ...wrong.map((login) => assert.rejects(logIn(service, tls, login), login.user)),
      ])
    })
  }

  // What applications carry of their mail provider.
  for (const user of ['apikey', 'AKIAIOSFODNN7EXAMPLE', 'postmaster@mg.client.com', 'foo@gmail.com']) {
    test(`the foreign login ${user} is right at SMTP, and wrong at POP3 and IMAP`, async () => {
      const login = { user, password: `not/a+real=secret ${user}` }
      await Promise.all(
        ENTRANCES.map(([service, tls]) => {
          const result = logIn(service, tls, login)
          // In the words of POP3 and of IMAP: not an error of the server.
          const isWrong = ({ message, serverResponseCode }: Error & { serverResponseCode?: string }) =>
            /\[AUTH\] Authentication failed|AUTHENTICATIONFAILED/.test(message + serverResponseCode)
          return /^(smtp|sub)/.test(service) ? result : assert.rejects(result, isWrong, `${service} ${tls}`)
        }),
      )
    })
  }

  test('a user of an own domain is no foreign login: unknown ones, and wrong passwords, in any letter case', async () => {
    const users = [FOO, FOO.toUpperCase(), FOO.replace('foo', 'nobody'), CATCHALL.replace('catchall', 'x')]
    const refused = (user: string) =>
      assert.rejects(logIn('smtp', 'none', { user, password: 'wrong' }), /535 5\.7\.8/, user)
    await Promise.all(users.map(refused))
  })
})

test('submission without a login is refused', async () => {
  const sent = transportTo('submission', 'none').sendMail({ from: FOO, to: BAR, text: 'x' })
  await assert.rejects(sent, /554 5\.7\.1/)
})

test('an unknown recipient is refused at RCPT on every SMTP port', async () => {
  for (const [service, tls] of ENTRANCES.filter(([name]) => /^(smtp|sub)/.test(name))) {
    const transport = transportTo(service, tls, { user: FOO, password: 'foo' })
    const to = FOO.replace('foo', 'nobodyhere')
    await assert.rejects(transport.sendMail({ from: FOO, to, text: 'x' }), /550 5\.1\.1/, `${service} ${tls}`)
  }
})

test('a message over the size limit is refused with 552, one just below it arrives', async () => {
  const transport = transportTo('smtp', 'none')
  const line = `${'x'.repeat(75)}\r\n`
  await assert.rejects(transport.sendMail({ from: FOO, to: BAR, text: line.repeat(140_000) }), /552 5\.3\.4/)
  const body = line.repeat(132_000)
  await transport.sendMail({ envelope: { from: BAR, to: [FOO] }, raw: `Subject: large\r\n\r\n${body}` })
  await until('the large message', async () => (await messagesOf(project, FOO)).some((source) => source.endsWith(body)))
})

test('the domain of an account that is added is an own one at once', async () => {
  const login = { user: 'nobody@new-domain.example', password: 'x' }
  await logIn('smtp', 'none', login)
  const ann = { user: 'ann@new-domain.example', password: 'secret' }
  const added = await runIn(project, { input: 'secret\n' }, 'add_account', ann.user, '--password-stdin')
  assert.equal(added.code, 0, added.stderr)
  const isRefused = () =>
    logIn('smtp', 'none', login).then(
      () => false,
      () => true,
    )
  await until('the login to be refused', isRefused)
  await logIn('smtp', 'none', ann)
})

test('the certificate is right for all names of the server where it is trusted', async () => {
  const ca = readFileSync(join(project.stateDir, 'tls/certificate.pem'))
  const options = nodemailerOptions(project.ports.submissions, 'implicit', { user: FOO, password: 'foo' })
  for (const servername of ['localhost', 'development-mail-server', 'development-mail-server.example.com']) {
    await createTransport({ ...options, tls: { ca, servername } }).verify()
  }
  for (const host of ['127.0.0.1', '::1']) assert.equal(new X509Certificate(ca).checkIP(host), host)
})

// Real clients, as their users write them. Those that are not installed are skipped; apt-get has all of them.
/** Milliseconds for a client to send a mail; none takes a second. */
const PATIENCE = 120_000
/** What a provider hands out, with characters that have to be escaped somewhere. */
const PROVIDERS = ['apikey', "SG.a+b/c=d'e"]

/** Why a client cannot run here; false when it can. */
function obstacle({ name, command, probe }: Client): string | false {
  try {
    const [program = '', ...args] = command
    execFileSync(program, [...args, probe], { cwd: ROOT, stdio: 'pipe', timeout: PATIENCE })
    return false
  } catch {
    return `${name} is not installed`
  }
}

/**
 * Sends a mail and gives the protocol that Postfix has noted; throws with the client's words. `trust` is whether the
 * server's certificate is to be trusted.
 */
async function send(client: Client, program: string, port: number, trust: boolean, login: string[]): Promise<string> {
  const subject = `${client.name} ${randomUUID()}`
  const to = 'someone@gmail.com'
  const [command = '', ...args] = client.command
  const certificate = join(project.stateDir, 'tls/certificate.pem')
  const { NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, SSL_CERT_DIR, ...env } = process.env
  const trusted = trust ? { NODE_EXTRA_CA_CERTS: certificate, SSL_CERT_FILE: certificate } : {}
  const options = { cwd: ROOT, env: { ...env, ...trusted }, timeout: PATIENCE }
  // PHP takes what stands behind "--" as the program's.
  const own = command === 'php' ? ['--'] : []
  await promisify(execFile)(command, [...args, program, ...own, 'localhost', `${port}`, to, subject, ...login], options)
  const source = await until(`"${subject}"`, async () =>
    (await messagesOf(project, CATCHALL)).find((each) => subjectsOf([each])[0] === subject),
  )
  assert.equal(originalRecipient(source), to)
  return /^\s*by .* \(Postfix\) with (\w+)/m.exec(source)?.[1] ?? ''
}

for (const client of CLIENTS) {
  const skip = obstacle(client)
  if (skip) console.log(`A client is not tested: ${skip}`)
  describe(client.name, { skip }, () => {
    const { program, implicitTls } = client
    for (const [what, protocol, text, service, trust, login] of [
      ['sends on port 25', 'ESMTP', program, 'smtp', false, []],
      ["logs in with a provider's key on port 25", 'ESMTPA', program, 'smtp', false, PROVIDERS],
      ['turns to STARTTLS on port 587 with the certificate trusted', 'ESMTPSA', program, 'submission', true, PROVIDERS],
      ['logs in on port 465 with the certificate trusted', 'ESMTPSA', implicitTls, 'submissions', true, PROVIDERS],
    ] as const) {
      test(what, async () => {
        assert.equal(await send(client, text, project.ports[service], trust, [...login]), protocol)
      })
    }
    // Else the two tests above would say nothing about the certificate.
    test('refuses the certificate on port 465 where it is not trusted', () =>
      assert.rejects(send(client, implicitTls, project.ports.submissions, false, PROVIDERS), /certificate|SSL|TLS/i))
  })
}
