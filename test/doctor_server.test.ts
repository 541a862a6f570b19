/** The doctor against a running server: healthy, and broken in one thing at a time. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { appendFileSync, cpSync, readFileSync, writeFileSync } from 'node:fs'
import { after, test } from 'node:test'
import { BAR, CATCHALL } from '../scripts/lib/accounts/accounts.ts'
import type { Result } from '../scripts/lib/doctor/check.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import { BROKEN_SERVER, BROKEN_TLS } from './broken_setups.ts'
import { messagesOf, send, subjectsOf } from './deliveries.ts'
import { bad, DoctorWorld } from './doctor_world.ts'
import { AS_NOBODY, until } from './harness.ts'

const world = await DoctorWorld.create()
const { project } = world
after(() => project.remove())
await project.start()

test('a healthy server is told in its particulars, and the test mails are gone', async () => {
  await send(project.ports, BAR, 'stays')
  await until('the mail', async () => (await messagesOf(project, BAR)).length === 1)
  const verbose = await world.run(['--verbose'])
  assert.match(verbose.stdout, /\n\n\d+ checks, all ok\n$/)
  assert.deepEqual(subjectsOf(await messagesOf(project, BAR)), ['stays'])
  assert.deepEqual(await messagesOf(project, CATCHALL), [])
  assert.match(verbose.stdout, /ok {2}mail-virtual\n {2}read over POP3 after \d+ ms, over IMAP after \d+ ms\n/)
  assert.match(verbose.stdout, /ok {2}mail-foreign\n {2}someone-\w+@\w+\.example ends in catchall after \d+ ms\n/)
  assert.match(verbose.stdout, /ok {2}mail-unknown\n {2}550 5\.1\.1/)
})

test('--json is one object of the documented shape; old troubles of the log are over when mail flows', async () => {
  const { stateDir } = project
  const line = 'host postfix/cleanup[1]: fatal: A1: queue file write error: No space left on device\n'
  writeFileSync(
    `${stateDir}/log/mail.log`,
    `Nov 22 10:00:00 ${line}${readFileSync(`${stateDir}/log/mail.log`, 'utf8')}`,
  )
  appendFileSync(`${stateDir}/log/mail.log`, `Nov 22 10:00:00 ${line}`)
  const report = JSON.parse((await world.run(['--json'])).stdout)
  const { results, mended, ...numbers } = report as Record<string, number> & { results: Result[]; mended: string[] }
  assert.deepEqual(Object.keys(numbers), ['ok', 'warnings', 'failures', 'skipped', 'milliseconds'])
  assert.ok(Object.values(numbers).every(Number.isInteger))
  assert.deepEqual([mended, numbers.warnings, numbers.failures], [[], 0, 0])
  assert.equal(results.length, (numbers.ok ?? 0) + (numbers.skipped ?? 0))
  for (const { check, title, level, evidence, fix, milliseconds, ...others } of results) {
    assert.ok(/^[a-z-]+$/.test(check) && title && evidence && Number.isInteger(milliseconds), check)
    assert.deepEqual([/ok|skipped/.test(level), fix, others], [true, null, {}], check)
  }
})

test('ports that were changed while the server runs', async () => {
  const { results } = await world.ask([], { POP3_PORT: String(Number(project.ports.pop3) + 1) })
  const said = bad(results).map(({ check, fix }) => `${check} ${fix}`)
  assert.equal(said.join(), 'ports npm start')
})

test('with Docker the same questions go through docker exec', async () => {
  // A docker whose container is this server: exec runs the program with the instance's configuration.
  const docker = `state=${project.stateDir}
case "$1 $2" in
  "version "*) echo 28.0.1 ;;
  "compose version") echo 2.35.0 ;;
  "compose "*) echo "unknown command: compose" >&2; exit 1 ;;
  "logs --since") tail -n 5 $state/log/mail.log ;;
  "container inspect") case "$*" in
    *Status*) echo running ;;
    *Config.Env*) echo '[]' ;;
    *) echo 'true false "2026-01-01T00:00:00Z" 0123 {"com.docker.compose.project":"development-mail-server"}' ;;
    esac ;;
  "exec --interactive") shift 5; script=$1; shift 2
    exec sh -c "$script" "-c $state/postfix" $(echo "$@" | sed "s#/tmp/docker-mailserver#$state/config#g") ;;
  "exec development-mail-server") shift 2; program=$1; shift
    case $program in
      cat) exec cat -- "$(echo "$2" | sed "s#^/etc#$state#")" </dev/null ;;
      find) exit 0 ;;
      doveadm|doveconf) exec $program -c $state/dovecot/dovecot.conf "$@" </dev/null ;;
      postconf) postconf -c $state/postfix "$@" </dev/null | sed "s#$state/config#/tmp/docker-mailserver#g" ;;
      *) exec $program -c $state/postfix "$@" </dev/null ;;
    esac ;;
  *) echo "unknown: $*" >&2; exit 1 ;;
esac
`
  world.docker(docker)
  const { results } = await world.ask([], { MAIL_SERVER_ENGINE: 'docker' })
  world.restore()
  // The ports are not held by Docker, and that is found out; whatever a client sees follows from it.
  const said = bad(results).map(({ check, level }) => `${check} ${level}`)
  assert.deepEqual([...new Set(said)], ['ports failure'], JSON.stringify(bad(results)))
  const evidence = Object.fromEntries(results.map(({ check, evidence }) => [check, evidence]))
  for (const [check, words] of Object.entries({
    engine: /^docker /,
    tables: /postmap answers for \d+ addresses/,
    live: /are those of the files/,
  }))
    assert.match(evidence[check] ?? '', words)
})

for (const row of BROKEN_SERVER)
  test(`told once, at its cause: ${row[0]}`, () => world.assertToldAndHealed([row], false))

test('what is wrong with a key and its certificate', async () => {
  const [tls, kept] = [`${project.stateDir}/tls`, project.path('kept')]
  cpSync(tls, kept, { recursive: true })
  for (const [what, breaks, check, level, said] of BROKEN_TLS) {
    await breaks(project)
    const found = await world.troubles(check)
    cpSync(kept, tls, { recursive: true })
    assert.deepEqual([found.length, found[0]?.level], [1, level], what)
    assert.match(found[0]?.evidence ?? '', said as RegExp)
    assert.match(found[0]?.fix ?? '', /^rm \S+\*\.pem && npm stop && npm start$/)
  }
})

// Whether a file is there is asked without the capability (access(2)).
const LOOK = ['--reuid', 'nobody', '--clear-groups', 'ls', `${ROOT}/node_modules/tsx/package.json`]
const skip = spawnSync('setpriv', LOOK).status !== 0 && 'nobody may not read the packages here'
test('another user than root hears that root is needed, and nothing else', { skip }, async () => {
  project.runner = ['setpriv', ...AS_NOBODY]
  const { stdout } = await project.run('doctor', '--json')
  project.runner = []
  const found = bad(JSON.parse(stdout).results)
  assert.equal(found.map(({ check }) => check).join(), 'root', stdout)
})

test('a server that was stopped has no trouble but that, and npm start explains a failure by the same checks', async () => {
  await world.script('send_email', '--to', 'nobody@development-virtual.example.com')
  await world.script('stop')
  const stopped = await world.troubles()
  assert.equal(stopped.map(({ check }) => check).join(), 'running', JSON.stringify(stopped))
  appendFileSync(project.config('postfix-main.cf'), 'smtpd_timeout = 5x\r\n')
  const { code, stderr } = await world.script('start')
  assert.equal(code, 1)
  assert.match(stderr, /npm run doctor says:\nline-ends: .*CRLF.*\n {2}fix: npm run doctor -- --fix/)
})
