/** npm run doctor without a server: what it says before the first start, its options, what --fix mends. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { CHECKS } from '../scripts/lib/doctor/all.ts'
import type { Result } from '../scripts/lib/doctor/check.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import { Project, until } from './harness.ts'

let project: Project
before(async () => {
  project = await Project.create()
})
after(() => project?.remove())

test('says that the server is not running, and nothing else is wrong', async () => {
  const { code, stdout, stderr } = await project.run('doctor')
  assert.equal(code, 1)
  const lines = stdout.trimEnd().split('\n')
  assert.match(lines.at(-1) ?? '', /^\d+ checks: 1 failure, 0 warnings, \d+ skipped$/)
  assert.deepEqual(lines.slice(0, 3), ['failure  running', '  the server is not running', '  fix: npm start'])
  for (const line of lines) assert.ok(line.length <= 80, line)
  assert.doesNotMatch(stdout + stderr, / at .*\.ts:/)
})

test('--list names every check once, --only runs those that are named', async () => {
  const { stdout } = await project.run('doctor', '--list')
  const names = stdout
    .trim()
    .split('\n')
    .map((line) => line.split(/\s+/)[0])
  assert.deepEqual(
    names,
    CHECKS.map(({ name }) => name),
  )
  assert.equal(new Set(names).size, names.length)
  const some = await project.run('doctor', '--only', 'accounts', '--only', 'main-cf')
  assert.equal(some.code, 0)
  assert.equal(some.stdout, '2 checks, all ok\n')
  const verbose = await project.run('doctor', '--only', 'accounts', '--only', 'main-cf', '--verbose')
  assert.match(verbose.stdout, /^ok {2}accounts\n {2}4 accounts\nok {2}main-cf\n {2}.*\n\n2 checks, all ok\n$/)
})

for (const [args, said] of [
  [['--only', 'nonsense'], /--only nonsense: no such check.*--list/],
  [['--onyl', 'accounts'], /--onyl/],
  [['accounts'], /accounts/],
] as const) {
  test(`${args.join(' ')} is a usage error`, async () => {
    const { code, stdout, stderr } = await project.run('doctor', ...args)
    assert.equal(code, 2)
    assert.equal(stdout, '')
    assert.match(stderr, said)
  })
}

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
  const { code, stdout } = await project.runWith({ env: { SMTP_PORT: 'abc' } }, 'doctor', '--json')
  assert.equal(code, 1)
  const { results } = JSON.parse(stdout)
  const failures = results.filter(({ level }: Result) => level === 'failure')
  assert.deepEqual(
    failures.map(({ check }: Result) => check),
    ['settings'],
  )
  assert.match(failures[0].evidence, /SMTP_PORT=abc/)
  assert.ok(results.some(({ check, level }: Result) => check === 'accounts' && level === 'ok'))
})

test('a port of somebody else is named with its holder', async () => {
  const holder = createServer().listen(project.ports.imap, '127.0.0.1')
  await until('the port taken', () => holder.listening)
  const { code, stdout } = await project.run('doctor', '--only', 'ports')
  holder.close()
  assert.equal(code, 1)
  assert.match(
    stdout,
    new RegExp(`port ${project.ports.imap} \\(IMAP\\)[\\s\\S]*node[\\s\\S]*\\(pid ${process.pid}\\)`),
  )
  // The port comes from the environment, where .env has no say.
  assert.match(stdout, /fix: export IMAP_PORT=\d+/)
})

test('a Docker that hangs is named, and the rest is judged all the same', async () => {
  const bin = project.path('bin')
  mkdirSync(bin)
  writeFileSync(`${bin}/docker`, '#!/bin/sh\ntrap "" TERM\nsleep 60\n')
  chmodSync(`${bin}/docker`, 0o755)
  const env = { PATH: `${bin}:${process.env.PATH}` }
  for (const [engine, failing] of [
    ['docker', ['engine']],
    ['auto', ['engine', 'running']],
  ] as const) {
    const begin = performance.now()
    const { stdout } = await project.runWith({ env: { ...env, MAIL_SERVER_ENGINE: engine } }, 'doctor', '--json')
    assert.ok(performance.now() - begin < 20_000)
    const { results } = JSON.parse(stdout)
    const bad = results.filter(({ level }: Result) => level === 'failure' || level === 'warning')
    assert.deepEqual(
      bad.map(({ check }: Result) => check),
      failing,
    )
    assert.match(bad[0].evidence, /silent for 4 s.*Restart it/)
  }
})

for (const [what, script, said, fix] of [
  [
    'no permission',
    'echo "permission denied while trying to connect" >&2; exit 1',
    /permission denied/,
    /usermod -aG docker/,
  ],
  ['no daemon', 'echo "Cannot connect to the Docker daemon" >&2; exit 1', /Cannot connect/, /^(?![\s\S]*fix:)/],
  ['no Compose', 'case "$1" in version) echo 28.0.1;; *) exit 1;; esac', /has no Compose v2/, /docker-compose-plugin/],
] as const) {
  test(`a Docker with ${what} is named where Docker is asked for`, async () => {
    const bin = project.path('bin')
    mkdirSync(bin, { recursive: true })
    writeFileSync(`${bin}/docker`, `#!/bin/sh\n${script}\n`)
    chmodSync(`${bin}/docker`, 0o755)
    const env = { PATH: `${bin}:${process.env.PATH}`, MAIL_SERVER_ENGINE: 'docker' }
    const { code, stdout } = await project.runWith({ env }, 'doctor', '--only', 'engine')
    assert.equal(code, 1)
    assert.match(stdout, said)
    assert.match(stdout, fix)
  })
}

test('an image that is not here is a warning where it can be pulled, else a failure', async () => {
  const bin = project.path('bin')
  mkdirSync(bin, { recursive: true })
  const docker = (manifest: string) => {
    const cases = `image) exit 1;; manifest) ${manifest};; container) exit 1;; *) echo 28.0.1;;`
    writeFileSync(`${bin}/docker`, `#!/bin/sh\ncase "$1" in ${cases} esac\n`)
    chmodSync(`${bin}/docker`, 0o755)
  }
  const env = { PATH: `${bin}:${process.env.PATH}`, MAIL_SERVER_ENGINE: 'docker' }
  docker('exit 0')
  const pullable = await project.runWith({ env }, 'doctor', '--only', 'image')
  assert.equal(pullable.code, 0)
  assert.match(pullable.stdout, /^warning {2}image\n.*15\.1\.0 is not here yet[\s\S]* {2}fix: docker pull mailserver/)
  docker('echo "no such manifest" >&2; exit 1')
  const gone = await project.runWith({ env }, 'doctor', '--only', 'image')
  assert.equal(gone.code, 1)
  assert.match(gone.stdout, /cannot be\s+pulled:\s+no\s+such\s+manifest/)
  assert.doesNotMatch(gone.stdout, /fix:/)
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

  const found = await project.run('doctor', '--json')
  const bad = new Set(
    JSON.parse(found.stdout)
      .results.filter(({ fix }: Result) => fix)
      .map(({ check }: Result) => check),
  )
  assert.deepEqual(bad, new Set(['environment', 'line-ends', 'accounts', 'running', 'leftovers']))
  const mended = await project.run('doctor', '--fix', '--json')
  const { results, mended: done } = JSON.parse(mended.stdout)
  assert.equal(done.length, 4, mended.stderr)
  assert.deepEqual(
    results.filter(({ fix }: Result) => fix).map(({ check }: Result) => check),
    ['environment', 'running'],
  )
  assert.equal(readFileSync(file('postfix-accounts.cf'), 'utf8'), before)
  assert.ok(!existsSync(file('postfix-accounts.cf.lock')))
  assert.match(readFileSync(environment, 'utf8'), /RELAY_HOST/)
})

test('--fix leaves a lock alone that another machine may hold', async () => {
  writeFileSync(project.config('postfix-accounts.cf.lock'), 'another-machine 1 12345\n')
  const { stdout } = await project.run('doctor', '--fix', '--only', 'leftovers')
  assert.equal(stdout, '1 check, all ok\n')
  assert.ok(existsSync(project.config('postfix-accounts.cf.lock')))
  rmSync(project.config('postfix-accounts.cf.lock'))
})

test('--help loads no package', async () => {
  const { code, stdout } = await project.run('doctor', '--help')
  assert.equal(code, 0)
  assert.match(stdout, /--only NAME/)
  assert.match(stdout, /results: \[\{check, title, level/)
})
