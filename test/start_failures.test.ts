/** What npm start refuses, each in one line with the next step; it leaves nothing running. And what it honours. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { after, describe, test } from 'node:test'
import { BAR, CATCHALL } from '../scripts/lib/accounts/accounts.ts'
import { usageOf } from '../scripts/lib/server/mailboxes.ts'
import type { Settings } from '../scripts/lib/settings.ts'
import { send, smtpClient } from './deliveries.ts'
import { Project, processesOf, type Result, until } from './harness.ts'
import { runIn } from './here.ts'
import { DOVECOT_CF } from './instance.ts'

const [ENV, CONFIG] = ['development-mail-server.env', 'docker-data/mail-server/config']

const project = await Project.create()
after(() => project.remove())

const start = (env: Record<string, string> = {}) => runIn(project, { env }, 'start')

/** Starts with a file in another state, made by `put` where the file was. */
async function startWith(name: string, put: (path: string, text: string) => void): Promise<Result> {
  const [path, aside] = [project.path(name), project.path('aside')]
  renameSync(path, aside)
  put(path, statSync(aside).isFile() ? readFileSync(aside, 'utf8') : '')
  const result = await start()
  rmSync(path, { recursive: true, force: true })
  renameSync(aside, path)
  return result
}

function assertRefused({ code, stdout, stderr }: Result, said: RegExp): void {
  assert.equal(code, 2, stderr)
  assert.match(stderr, said)
  assert.deepEqual([stdout, stderr.trim().split('\n').length], ['', 1], stderr)
  assert.equal(processesOf(project), '')
}

describe('a wrong setting', () => {
  mkdirSync(project.path('private'), { mode: 0o700 })
  for (const [name, value, said] of [
    ['SMTP_PORT', 'abc', /SMTP_PORT=abc: a port is a number/],
    ['POP3S_PORT', '70000', /POP3S_PORT=70000/],
    ['IMAP_PORT', '-1', /IMAP_PORT=-1/],
    ['SUBMISSION_PORT', `${project.ports.smtp}`, /SUBMISSION_PORT=\d+: SMTP_PORT has this port already/],
    ['MAIL_SERVER_ENGINE', 'podman', /MAIL_SERVER_ENGINE=podman: no such engine/],
    ['BIND_ADDRESS', 'localhost:25', /BIND_ADDRESS=localhost:25/],
    ['BIND_ADDRESS', '192.0.2.1', /BIND_ADDRESS=192\.0\.2\.1: this machine has no such address/],
    ['MAIL_SERVER_STATE_DIR', `/tmp/${'long/'.repeat(20)}`, /too long for Unix sockets/],
    ['MAIL_SERVER_STATE_DIR', '/tmp/with space', /spaces/],
    ['MAIL_SERVER_STATE_DIR', 'state', /MAIL_SERVER_STATE_DIR=state: not an absolute path/],
    ['MAIL_SERVER_STATE_DIR', project.path('package.json/state'), /package\.json is no folder/],
    ['MAIL_SERVER_STATE_DIR', '/proc/mail', /\/proc\/mail.*\. Set MAIL_SERVER_STATE_DIR/],
    ['MAIL_SERVER_STATE_DIR', project.path('scripts'), /it is not the mail server's own folder/],
    ['MAIL_SERVER_STATE_DIR', project.path('private/state'), /private: only its owner can enter/],
  ] as const) {
    test(`${name}: ${said.source}`, async () => assertRefused(await start({ [name]: value }), said))
  }

  test('a real environment variable wins over .env', async () => {
    writeFileSync(project.path('.env'), 'SMTP_PORT=fromfile\n')
    const fromFile = await project.runWith({ env: { SMTP_PORT: undefined } }, 'status')
    assert.deepEqual([fromFile.code, (await project.run('status')).code], [2, 1])
    assert.match(fromFile.stderr, /SMTP_PORT=fromfile/)
    rmSync(project.path('.env'))
  })
})

describe('a file', () => {
  const [env, main, accounts] = [ENV, `${CONFIG}/postfix-main.cf`, `${CONFIG}/postfix-accounts.cf`]
  const some = [env, main, 'docker-data/native/master.cf', `${CONFIG}/dovecot-quotas.cf`]
  for (const [what, files, put, said] of [
    ['missing', [env, main, accounts, CONFIG, 'docker-data/native/main.cf'], () => {}, 'there is no such file'],
    ['a pipe', some, (path: string) => execFileSync('mkfifo', [path]), 'it is a pipe'],
    ['a folder', some, (path: string) => mkdirSync(path), 'it is a folder and not a file'],
    ['UTF-16', some, (path: string) => writeFileSync(path, '\ufeffa = b', 'utf16le'), 'it is UTF-16 or binary'],
  ] as const) {
    test(`that is ${what}`, async () => {
      for (const file of files) {
        assertRefused(await startWith(file, put), new RegExp(`^${file}.*: ${said}.*\\. .*git checkout -- ${file}`))
      }
    })
  }

  for (const [file, line, said] of [
    ['postfix-main.cf', 'this is no parameter', /postfix-main\.cf line LAST: .*"this is no parameter"/],
    [
      'postfix-main.cf',
      'smtpd_client_restrictions = nonsense',
      /\n\S*main\.cf line LAST: .*restriction: "nonsense"\n {2}fix: Delete/,
    ],
    ['postfix-master.cf', 'nonsense/inet/x=y', /postfix-master\.cf line LAST: .*nonsense/],
    [DOVECOT_CF, 'nonsense = yes', /config\/dovecot.*\.cf line LAST: .*Unknown setting: nonsense/],
    ['postfix-accounts.cf', 'nobody', /postfix-accounts\.cf line LAST/],
  ] as const) {
    test(`${file} with "${line}": what is wrong, and where`, async () => {
      let last = 0
      const { code, stderr } = await startWith(`${CONFIG}/${file}`, (path, text) => {
        last = text.split('\n').length
        writeFileSync(path, `${text}${line}\n`)
      })
      assert.equal(code, 1, stderr)
      assert.match(stderr, new RegExp(said.source.replace('LAST', `${last}`)))
      assert.doesNotMatch(stderr, / at .*\.ts:/)
      assert.equal(processesOf(project), '')
    })
  }
})

test('no TLS, no POP3, another host name, and limits: all honoured, and what is accepted arrives', async () => {
  const changes = { SSL_TYPE: '', ENABLE_POP3: '0', OVERRIDE_HOSTNAME: 'mx.tests.example' }
  const limits = { POSTFIX_MESSAGE_SIZE_LIMIT: '1990000', POSTFIX_MAILBOX_SIZE_LIMIT: '3000000' }
  const lines = Object.entries({ ...changes, ...limits }).map(([name, value]) => `${name}=${value}\n`)
  appendFileSync(project.path(ENV), lines.join(''))
  const { code, stdout, stderr } = await start()
  assert.equal(code, 0, stderr)
  assert.match(stdout, /read back over IMAP and deleted/)
  assert.match(stdout, /Port .*Protocol +TLS\n(\S+ +SMTP.* none\n){3}\S+ +IMAP +none\n\n/)
  await assert.rejects(smtpClient(project, project.ports.pop3))
  const connection = await smtpClient(project)
  assert.match(connection.lastServerResponse || '', /mx\.tests\.example/)
  connection.quit()
  // The catchall's domain stays what it is, and it has no limit.
  const large = 'x'.repeat(70).concat('\r\n').repeat(26_000)
  for (const to of ['x@mx.tests.example', 'x']) assert.equal(await send(project.ports, to, 'caught'), null)
  for (const to of [BAR, 'x@gmail.com', 'y@gmail.com'])
    assert.equal(await send(project.ports, to, 'large', large), null)
  // Beside a notice to the postmaster of the tests before.
  const holds = async (account: string, messages: number, bytes: number) => {
    const usage = await usageOf(project as unknown as Settings, account)
    return usage.inbox >= messages && usage.bytes > bytes
  }
  await until('all of them', async () => (await holds(CATCHALL, 4, 2 * large.length)) && holds(BAR, 1, large.length))
})
