/** npm run doctor without a server: what it says before the first start, its options, what --fix mends. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, test } from 'node:test'
import { CHECKS } from '../scripts/lib/doctor/all.ts'
import type { Result } from '../scripts/lib/doctor/check.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import { bad, DoctorWorld } from './doctor_world.ts'
import { until } from './harness.ts'

const world = await DoctorWorld.create()
const { project } = world
after(() => project.remove())
afterEach(() => world.restore())

const names = (results: Result[]) => results.map(({ check }) => check)

test('says that the server is not running, and nothing else is wrong', async () => {
  const { code, stdout, stderr } = await project.run('doctor')
  assert.equal(code, 1)
  const lines = stdout.trimEnd().split('\n')
  assert.match(lines.at(-1) ?? '', /^\d+ checks: 1 failure, 0 warnings, \d+ skipped$/)
  assert.deepEqual(lines.slice(0, 3), ['failure  running', '  the server is not running', '  fix: npm start'])
  for (const line of lines) assert.ok(line.length <= 80, line)
  assert.doesNotMatch(stdout + stderr, / at .*\.ts:/)
})

test('--list names every check once, --only runs those that are named and no others, --help says how', async () => {
  const { stdout } = await world.run(['--list'])
  const listed = stdout.trim().split('\n')
  assert.deepEqual(
    listed.map((line) => line.split(/\s+/)[0]),
    CHECKS.map(({ name }) => name),
  )
  assert.equal(new Set(CHECKS.map(({ name }) => name)).size, CHECKS.length)
  const some = await world.run(['--only', 'accounts', '--only', 'main-cf'])
  assert.deepEqual([some.code, some.stdout], [0, '2 checks, all ok\n'])
  const verbose = await world.run(['--only', 'accounts', '--only', 'main-cf', '--verbose'])
  assert.match(verbose.stdout, /^ok {2}accounts\n {2}4 accounts\nok {2}main-cf\n {2}.*\n\n2 checks, all ok\n$/)
  const wrong = await world.run(['--only', 'nonsense'])
  assert.deepEqual([wrong.code, wrong.stdout], [2, ''])
  assert.match(wrong.stderr, /--only nonsense: no such check.*--list/)
  const { stdout: help } = await world.run(['--help'])
  assert.match(help, /--only NAME[\s\S]*results: \[\{check, title, level/)
})

test('without the packages, that is the one thing it says', async () => {
  const link = project.path('node_modules')
  rmSync(link)
  mkdirSync(link)
  try {
    // tsx comes from elsewhere, as npx would get it.
    const args = ['--import', import.meta.resolve('tsx'), 'scripts/doctor.ts']
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: project.dir, encoding: 'utf8' })
    assert.equal(status, 1)
    assert.match(stdout, /^failure {2}node-packages\n {2}not installed: [\s\S]*zx/)
    assert.match(stdout, /\n {2}fix: npm ci\n\n1 check: 1 failure, 0 warnings\n$/)
    assert.doesNotMatch(stderr, / at /)
  } finally {
    rmSync(link, { recursive: true })
    symlinkSync(join(ROOT, 'node_modules'), link)
  }
})

test('a wrong setting is named by its check; the files are judged all the same', async () => {
  const { results } = await world.ask([], { SMTP_PORT: 'abc' })
  assert.deepEqual(names(bad(results)), ['settings'])
  assert.match(bad(results)[0]?.evidence ?? '', /SMTP_PORT=abc/)
  assert.ok(results.some(({ check, level }) => check === 'accounts' && level === 'ok'))
  const open = (await world.run(['--only', 'settings'], { BIND_ADDRESS: '0.0.0.0' })).stdout
  assert.match(open, /whoever reaches this machine sends without[\s\S]*fix: unset BIND_ADDRESS/)
})

test('a port of somebody else is named with its holder', async () => {
  const holder = createServer().listen(project.ports.imap, '127.0.0.1')
  await until('the port taken', () => holder.listening)
  const [found, ...others] = bad((await world.ask([])).results)
  holder.close()
  assert.deepEqual([found?.check, others], ['ports', []])
  const who = `port ${project.ports.imap} \\(IMAP\\) on \\S+ is in use by node.* \\(pid ${process.pid}\\)`
  assert.match(found?.evidence ?? '', new RegExp(who))
  // The port comes from the environment, where .env has no say.
  assert.match(found?.fix ?? '', /^export IMAP_PORT=\d+$/)
})

test('a Docker that hangs is named, and the rest is judged all the same', async () => {
  world.docker('trap "" TERM\nsleep 60')
  const { results } = await world.ask([], { MAIL_SERVER_ENGINE: 'auto' })
  assert.deepEqual(names(bad(results)), ['engine', 'running'])
  assert.match(bad(results)[0]?.evidence ?? '', /silent for 4 s.*Restart it/)
})

for (const [what, script, said, fix] of [
  ['no permission', 'echo "permission denied while connecting" >&2; exit 1', /permission denied/, /usermod -aG docker/],
  ['no daemon', 'echo "Cannot connect to the Docker daemon" >&2; exit 1', /Cannot connect/, /^(?![\s\S]*fix:)/],
  ['no Compose', 'case "$1" in version) echo 28;; *) exit 1;; esac', /has no Compose v2/, /docker-compose-plugin/],
] as const) {
  test(`a Docker with ${what} is named where Docker is asked for`, async () => {
    world.docker(script)
    const { code, stdout } = await world.run(['--only', 'engine'], { MAIL_SERVER_ENGINE: 'docker' })
    assert.equal(code, 1)
    assert.match(stdout, said)
    assert.match(stdout, fix)
  })
}

test('a container of another project is one finding', async () => {
  const container = 'true false "2026-01-01T00:00:00Z" 0123 {"com.docker.compose.project":"other"}'
  world.docker(`case "$1 $2" in container*) echo '${container}';; "compose config") exit 1;; *) echo 28.0.1;; esac`)
  const { results } = await world.ask([], { MAIL_SERVER_ENGINE: 'docker' })
  assert.deepEqual(names(bad(results)), ['engine'])
  assert.match(bad(results)[0]?.evidence ?? '', /Compose project: other.*docker rm --force/)
})

test('--fix mends what is safe to mend, and leaves the rest', async () => {
  const file = (name: string) => project.config(name)
  const before = readFileSync(file('postfix-accounts.cf'), 'utf8')
  writeFileSync(file('postfix-accounts.cf'), before.replace('bar@', 'Bar@').replaceAll('\n', '\r\n'))
  writeFileSync(file('postfix-virtual.cf'), readFileSync(file('postfix-virtual.cf'), 'utf8').trimEnd())
  const environment = project.path('development-mail-server.env')
  // No process has this number: Linux ends at 4194304.
  writeFileSync(file('postfix-accounts.cf.lock'), `${hostname()} 4999999 12345\n`)
  writeFileSync(environment, `${readFileSync(environment, 'utf8')}RELAY_HOST=x.example\n`)

  const found = bad((await world.ask([])).results)
  assert.deepEqual(new Set(names(found)), new Set(['environment', 'line-ends', 'accounts', 'running', 'leftovers']))
  const { results, mended } = await world.ask(['--fix'])
  assert.equal(mended.length, 4)
  assert.deepEqual(names(bad(results)), ['environment', 'running'])
  assert.equal(readFileSync(file('postfix-accounts.cf'), 'utf8'), before)
  assert.ok(!existsSync(file('postfix-accounts.cf.lock')))
  assert.match(readFileSync(environment, 'utf8'), /RELAY_HOST/)
  // Another machine may hold this one.
  writeFileSync(file('postfix-accounts.cf.lock'), 'another-machine 1 12345\n')
  assert.equal((await world.run(['--fix', '--only', 'leftovers'])).stdout, '1 check, all ok\n')
  assert.ok(existsSync(file('postfix-accounts.cf.lock')))
})
