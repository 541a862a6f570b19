/** What the configuration is made of, and what is off in it until somebody turns it on. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { CATCHALL, FOO } from '../scripts/lib/accounts/accounts.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import { messagesOf, send, subjectsOf } from './deliveries.ts'
import { Project, until } from './harness.ts'
import { logIn } from './logins.ts'

const CONFIG = 'docker-data/mail-server/config'
/** The same for both releases of Dovecot, in the same order. */
const TWINS = [
  ['docker-data/native/dovecot-2.3.conf', 'docker-data/native/dovecot-2.4.conf'],
  [`${CONFIG}/dovecot.cf`, `${CONFIG}/dovecot-2.4.cf`],
] as const
const read = (name: string) => readFileSync(join(ROOT, name), 'utf8')

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

const project = await Project.create()
after(() => project.remove())

/** Changes a file of the project; what is changed has to be there. */
function change(name: string, what: string, by: string): void {
  const text = readFileSync(project.path(name), 'utf8')
  assert.ok(text.includes(what), `${name}: ${what}`)
  writeFileSync(project.path(name), text.replace(what, by))
}

change('development-mail-server.env', 'SMTP_ANY_LOGIN=1', 'SMTP_ANY_LOGIN=0')
for (const name of TWINS[1]) change(name, '#autoexpunge_max_mails = 1000', 'autoexpunge_max_mails = 3')
await project.start()

test('with SMTP_ANY_LOGIN=0 only the accounts log in', async () => {
  for (const user of ['apikey', 'postmaster@mg.client.com']) {
    await assert.rejects(logIn(project, 'smtp', 'none', { user, password: 'x' }), /535 5\.7\.8/)
  }
  await logIn(project, 'smtp', 'none', { user: FOO, password: 'foo' })
})

test('with retention the newest three mails of a mailbox stay; older than a second they go, too', async () => {
  const subjects = async () => subjectsOf(await messagesOf(project, CATCHALL)).join()
  for (let number = 1; number <= 5; number++) {
    await send(project.ports, CATCHALL, `${number}`)
    // One after the other: mails that are stored at the same time have no order.
    await until(`mail ${number}`, async () => (await subjects()).includes(`${number}`))
  }
  await until('the newest three', async () => (await subjects()) === '3,4,5')
  for (const name of TWINS[1]) change(name, '#autoexpunge = 7 days', 'autoexpunge = 1 secs')
  await project.run('start')
  await until('none', async () => (await subjects()) === '')
})

test('the daemons read what was made without a word', async () => {
  const ask = async (program: string, path: string) =>
    promisify(execFile)(program, ['-c', join(project.stateDir, path), '-n'])
  const [postfix, dovecot] = await Promise.all([ask('postconf', 'postfix'), ask('doveconf', 'dovecot/dovecot.conf')])
  assert.equal(postfix.stderr + dovecot.stderr, '')
})
