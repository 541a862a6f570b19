import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { BAR, CATCHALL } from '../scripts/lib/accounts/accounts.ts'
import { mailboxOf } from '../scripts/lib/server/native_configuration.ts'
import { send, smtpClient } from './deliveries.ts'
import { Project, processesOf, type Result, until } from './harness.ts'
import { runIn } from './here.ts'

const host = '127.0.0.1'

let project: Project
before(async () => {
  project = await Project.create()
})
after(() => project?.remove())

/** Changes a file of the configuration for one start. */
async function startWith(name: string, change: (text: string) => string): Promise<Result> {
  const file = name.endsWith('.env') ? project.path(name) : project.config(name)
  const text = readFileSync(file, 'utf8')
  writeFileSync(file, change(text))
  try {
    return await runIn(project, {}, 'start')
  } finally {
    writeFileSync(file, text)
  }
}

for (const [name, value, said] of [
  ['SMTP_PORT', 'abc', /SMTP_PORT=abc: a port is a number/],
  ['POP3S_PORT', '70000', /POP3S_PORT=70000/],
  ['IMAP_PORT', '-1', /IMAP_PORT=-1/],
  ['MAIL_SERVER_ENGINE', 'podman', /MAIL_SERVER_ENGINE=podman: no such engine/],
  ['BIND_ADDRESS', 'localhost:25', /BIND_ADDRESS=localhost:25/],
  ['BIND_ADDRESS', '192.0.2.1', /BIND_ADDRESS=192\.0\.2\.1: this machine has no such address/],
  ['MAIL_SERVER_STATE_DIR', `/tmp/${'long/'.repeat(20)}`, /too long for Unix sockets/],
  ['MAIL_SERVER_STATE_DIR', '/tmp/with space', /spaces/],
] as const) {
  test(`${name}=${value.slice(0, 20)} is one clear line and exit 2`, async () => {
    const { code, stdout, stderr } = await runIn(project, { env: { [name]: value } }, 'start')
    assert.equal(code, 2)
    assert.equal(stdout, '')
    assert.match(stderr, said)
    assert.equal(stderr.trim().split('\n').length, 1)
  })
}

test('two services on one port are named', async () => {
  const env = { SMTP_PORT: '2525', SUBMISSION_PORT: '2525' }
  const { code, stderr } = await runIn(project, { env }, 'start')
  assert.equal(code, 2)
  assert.match(stderr, /SUBMISSION_PORT=2525: SMTP_PORT has this port already/)
})

test('a real environment variable wins over .env, and .env over the default', async () => {
  writeFileSync(project.path('.env'), 'SMTP_PORT=fromfile\n')
  const fromEnvironment = await project.run('status')
  const fromFile = await project.runWith({ env: { SMTP_PORT: undefined } }, 'status')
  rmSync(project.path('.env'))
  const fromDefault = await project.runWith({ env: { SMTP_PORT: undefined } }, 'status')
  assert.deepEqual([fromEnvironment.code, fromFile.code, fromDefault.code], [1, 2, 1])
  assert.match(fromFile.stderr, /SMTP_PORT=fromfile/)
})

test('a taken port is named with its holder and the variable to change', async () => {
  const holder = createServer().listen(project.ports.pop3, host)
  await until('the port taken', () => holder.listening)
  const { code, stderr } = await runIn(project, {}, 'start')
  holder.close()
  assert.equal(code, 1)
  assert.match(stderr, new RegExp(`Port ${project.ports.pop3} .*node \\(pid ${process.pid}\\).*POP3_PORT`))
  assert.equal(processesOf(project), '')
})

test('a state folder that others cannot reach is named', async () => {
  const folder = project.path('private')
  execFileSync('mkdir', ['-m', '700', folder])
  const { code, stderr } = await runIn(project, { env: { MAIL_SERVER_STATE_DIR: `${folder}/state` } }, 'start')
  assert.equal(code, 2)
  assert.match(stderr, new RegExp(`${folder}: only its owner can enter`))
})

for (const [what, file, line, said] of [
  ['no parameter', 'postfix-main.cf', 'this is no parameter', /postfix-main\.cf, line LAST/],
  ['a wrong number', 'postfix-main.cf', 'message_size_limit = much', /message_size_limit.*postfix-main\.cf, line LAST/],
  ['an unknown restriction', 'postfix-main.cf', 'smtpd_client_restrictions = nonsense', /postfix-main\.cf, line LAST/],
  ['an unknown service', 'postfix-master.cf', 'nonsense/inet/x=y', /postfix-master\.cf line LAST/],
  ['an unknown setting', 'dovecot.cf', 'nonsense = yes', /dovecot\.cf line LAST/],
  ['an open brace', 'dovecot.cf', 'plugin {', /dovecot\.cf/],
  ['no account', 'postfix-accounts.cf', 'nobody', /postfix-accounts\.cf line LAST/],
] as const) {
  test(`${what} in ${file} is an error that names file and line, and leaves nothing running`, async () => {
    let last = 0
    const { code, stderr } = await startWith(file, (text) => {
      last = text.split('\n').length
      return `${text}${line}\n`
    })
    assert.equal(code, 1, stderr)
    assert.match(stderr, new RegExp(said.source.replace('LAST', `${last}\\b`)))
    assert.doesNotMatch(stderr, / at .*\.ts:/)
    await runIn(project, {}, 'stop')
    assert.equal(processesOf(project), '')
  })
}

test('SSL_TYPE empty, POP3 off and another host name are honoured', async () => {
  await runIn(project, {}, 'stop')
  const { code, stdout, stderr } = await startWith('development-mail-server.env', (text) =>
    text
      .replace('SSL_TYPE=snakeoil', 'SSL_TYPE=\nOVERRIDE_HOSTNAME=mx.tests.example')
      .replace('ENABLE_POP3=1', 'ENABLE_POP3=0'),
  )
  assert.equal(code, 0, stderr)
  assert.match(stderr, /POP3 is off/)
  assert.match(stdout, /Port .*Protocol +TLS\n(\S+ +SMTP.* none\n){3}\S+ +IMAP +none\n\n/)
  const connection = await smtpClient({ host, ports: project.ports })
  assert.match(connection.lastServerResponse || '', /mx\.tests\.example/)
  connection.quit()
  // The catchall's domain stays what it is.
  const inbox = join(project.stateDir, 'mail', mailboxOf(CATCHALL), 'new')
  const caught = () => (existsSync(inbox) ? readdirSync(inbox).length : 0)
  const before = caught()
  for (const to of ['x@gmail.com', 'x@mx.tests.example', 'x'])
    assert.equal(await send(project.ports, to, 'caught'), null)
  await until('three more caught', () => caught() === before + 3)
  await assert.rejects(smtpClient({ host, ports: project.ports }, project.ports.pop3))
  await runIn(project, {}, 'stop')
})

test('limits of messages and of mailboxes: what is accepted arrives, and the catchall has none', async () => {
  const { code, stderr } = await startWith('development-mail-server.env', (text) =>
    text
      .replace(/(POSTFIX_MESSAGE_SIZE_LIMIT)=\d+/, '$1=1990000')
      .replace(/(POSTFIX_MAILBOX_SIZE_LIMIT)=\d+/, '$1=3000000'),
  )
  assert.equal(code, 0, stderr)
  const large = 'x'.repeat(70).concat('\r\n').repeat(26_000)
  const before = JSON.parse((await runIn(project, {}, 'status', '--json')).stdout).accounts[0].inbox
  for (const to of [BAR, 'x@gmail.com', 'y@gmail.com'])
    assert.equal(await send(project.ports, to, 'large', large), null)
  await until('all three', async () => {
    const [catchall, , bar] = JSON.parse((await runIn(project, {}, 'status', '--json')).stdout).accounts
    return catchall.inbox - before === 2 && bar.inbox === 1
  })
  await runIn(project, {}, 'stop')
})
