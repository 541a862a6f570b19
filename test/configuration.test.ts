/** What the configuration is made of, and what is off in it until somebody turns it on. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { BAR, CATCHALL, FOO } from '../scripts/lib/accounts/accounts.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import { messagesOf, send, subjectsOf, type Where } from './deliveries.ts'
import { Project, until } from './harness.ts'
import { logIn } from './logins.ts'

const CONFIG = 'docker-data/mail-server/config'
/** The same for both releases of Dovecot, in the same order. */
const TWINS = [
  ['docker-data/native/dovecot-2.3.conf', 'docker-data/native/dovecot-2.4.conf'],
  [`${CONFIG}/dovecot.cf`, `${CONFIG}/dovecot-2.4.cf`],
] as const
const read = (name: string) => readFileSync(join(ROOT, name), 'utf8')

/** Changes a file of a project; what is changed has to be there. */
function change(project: Project, name: string, what: RegExp, by: string): void {
  const text = readFileSync(project.path(name), 'utf8')
  assert.match(text, what)
  writeFileSync(project.path(name), text.replace(what, by))
}

for (const [old, current] of TWINS) {
  test(`${current} is the twin of ${old}`, () => {
    const parts = (name: string, pattern: RegExp) => read(name).match(pattern) ?? []
    for (const pattern of [
      /^# --- .*$/gm,
      /^ +(inet|unix)_listener [\w-]+/gm,
      /@[A-Z0-9_]+@/g,
      /^ *#auto\w+ = .*$/gm,
      /^# SMTP_ANY.*$/gm,
    ]) {
      assert.deepEqual(parts(current, pattern), parts(old, pattern), `${pattern}`)
    }
  })
}

describe('with SMTP_ANY_LOGIN=0 and retention', () => {
  let project: Project
  let where: Where

  before(async () => {
    project = await Project.create()
    where = { host: '127.0.0.1', ports: project.ports }
    change(project, 'development-mail-server.env', /^SMTP_ANY_LOGIN=1$/m, 'SMTP_ANY_LOGIN=0')
    for (const name of TWINS[1]) {
      change(project, name, /#autoexpunge = 7 days/, 'autoexpunge = 15 secs')
      change(project, name, /#autoexpunge_max_mails = 1000/, 'autoexpunge_max_mails = 3')
    }
    await project.start()
  })
  after(() => project?.remove())

  const subjects = async (account: string) => subjectsOf(await messagesOf(where, account)).join()

  test('only the accounts log in', async () => {
    for (const user of ['apikey', 'postmaster@mg.client.com']) {
      await assert.rejects(logIn(where, 'smtp', 'none', { user, password: 'x' }), /535 5\.7\.8/)
    }
    await logIn(where, 'smtp', 'none', { user: FOO, password: 'foo' })
  })

  test('the newest three mails of a mailbox stay, and go after fifteen seconds', async () => {
    await Promise.all(
      [BAR, CATCHALL].map(async (account) => {
        for (let number = 1; number <= 5; number++) {
          await send(project.ports, account, `${number}`)
          // One after the other: mails that are stored at the same time have no order.
          await until(`mail ${number}`, async () => (await subjects(account)).includes(`${number}`))
        }
        await until('the newest three', async () => (await subjects(account)) === '3,4,5')
        // Each look is a login, and there is a while to wait.
        await sleep(12_000)
        await until('none', async () => (await subjects(account)) === '', 60_000)
      }),
    )
  })

  test('the daemons read what was made without a word', async () => {
    const state = (...parts: string[]) => join(project.stateDir, ...parts)
    const [postfix, dovecot] = await Promise.all([
      promisify(execFile)('postconf', ['-c', state('postfix'), '-n']),
      promisify(execFile)('doveconf', ['-c', state('dovecot/dovecot.conf'), '-n']),
    ])
    assert.equal(postfix.stderr + dovecot.stderr, '')
    for (const text of [postfix.stdout, dovecot.stdout]) assert.doesNotMatch(text, /@[A-Z0-9_]+@/)
  })

  test('Postfix has no program that could carry mail away', async () => {
    const { stdout } = await promisify(execFile)('postconf', ['-c', join(project.stateDir, 'postfix'), '-M'])
    const programs = stdout.split('\n').map((line) => line.split(/\s+/)[7])
    assert.ok(programs.includes('lmtp') && programs.includes('local'))
    assert.ok(!programs.includes('smtp') && !programs.includes('pipe') && !programs.includes('uucp'), stdout)
  })
})
