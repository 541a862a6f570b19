/** A start is all or nothing, a stop waits for it, and half a server is called that; on addresses of its own. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { BAR } from '../scripts/lib/accounts/accounts.ts'
import { AS_NOBODY, Project, processesOf, until } from './harness.ts'
import { runIn } from './here.ts'
import { mastersOf, pidsOf } from './instance.ts'

const project = await Project.create()
project.env.BIND_ADDRESS = '127.0.0.2'
after(() => project.remove())

const run = (script: string, ...args: string[]) => runIn(project, {}, script, ...args)
const isThere = (path: string) => existsSync(join(project.stateDir, path))

/** Starts and sends signals at a moment of it; gives what came of it. */
async function interrupt(isReached: () => boolean, ...signals: NodeJS.Signals[]) {
  const child = spawn(process.execPath, ['scripts/lib/launch.mjs', 'start'], { cwd: project.dir, env: project.env })
  let talk = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (talk += chunk))
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
  await until('that moment', () => child.exitCode !== null || isReached(), 60_000)
  for (const signal of signals) child.kill(signal)
  return { code: await ended, talk }
}

for (const [what, isReached, signals] of [
  ['before its daemons', () => isThere('next/postfix'), ['SIGINT']],
  ['behind the first of them, twice', () => processesOf(project).includes('/queue'), ['SIGTERM', 'SIGINT']],
] as const) {
  test(`a start that is interrupted ${what}: no daemon is left`, async () => {
    const { code, talk } = await interrupt(isReached, ...signals)
    assert.equal(code, 130, talk)
    assert.match(talk, /interrupted\. Start again: npm start/)
    assert.equal(processesOf(project), '')
  })
}

test('what a killed start left is ended by the next, without /usr/sbin and with a start-up file that breaks shells', async () => {
  await interrupt(() => processesOf(project).includes('/queue'), 'SIGKILL')
  const bin = project.path('bin')
  mkdirSync(bin)
  symlinkSync(process.execPath, join(bin, 'node'))
  writeFileSync(join(bin, '.bashrc'), 'echo noise; exit 7\n')
  // Dovecot's own, of a living process: it would wait for that, and its clients would find nobody.
  writeFileSync(join(project.stateDir, 'state/instances.lock'), `${process.pid}:${hostname()}`)
  const noise = { HOME: bin, BASH_ENV: join(bin, '.bashrc'), ENV: join(bin, '.bashrc'), SHLVL: undefined }
  const { code, stderr } = await project.runWith({ env: { ...noise, PATH: `${bin}:/usr/bin:/bin` } }, 'start')
  assert.equal(code, 0, stderr)
})

test('an interrupted start of a server that runs leaves it running', async () => {
  const masters = mastersOf(project)
  await interrupt(() => isThere('start.lock'), 'SIGINT')
  assert.deepEqual(mastersOf(project), masters)
  assert.equal((await run('send_email')).code, 0)
})

test('Dovecot without Postfix is half a server, and a start mends it, on ::1 where that is asked for', async () => {
  process.kill(mastersOf(project)[0] ?? 0, 'SIGKILL')
  const said = /Half of the mail server runs: Dovecot without Postfix\. Mend it: npm start/
  const status = await until('half a server', async () => {
    const result = await run('status')
    return said.test(result.stdout) ? result : undefined
  })
  const reset = await run('reset', '--yes')
  assert.deepEqual([status.code, reset.code, said.test(reset.stderr)], [1, 1, true], reset.stderr)
  if (existsSync('/proc/net/if_inet6')) project.env.BIND_ADDRESS = '::1'
  const { code, stdout, stderr } = await run('start')
  assert.deepEqual([code, /Dovecot without Postfix/.test(stderr)], [0, true], stderr)
  assert.match(stdout, /is up after[\s\S]*read back over POP3/)
  assert.equal((await run('status')).code, 0)
})

test('another user sees as much as that may be, and is told what wants root', async () => {
  chmodSync(project.dir, 0o755)
  project.runner = ['setpriv', ...AS_NOBODY, 'env', 'PATH=/usr/bin:/bin']
  const [status, ...others] = await Promise.all([
    project.run('status', '--json'),
    project.run('stop'),
    project.run('reset', '--yes'),
    project.run('add_account', '--update', BAR, 'geheim'),
  ])
  project.runner = []
  assert.equal(status.code, 0, status.stderr)
  const { running, accounts, queue } = JSON.parse(status.stdout)
  assert.deepEqual([running, accounts.length, queue], [true, 4, null])
  for (const [index, command] of ['stop', 'reset.ts --yes', `--update ${BAR}\n`].entries()) {
    const { code, stderr = '' } = others[index] ?? {}
    assert.deepEqual([code, /needs root/.test(stderr), stderr.includes(command)], [1, true, true], stderr)
  }
})

test('a server whose processes are all stopped is told, and can be stopped', async () => {
  for (const pid of pidsOf(project)) process.kill(pid, 'SIGSTOP')
  const accounts = readFileSync(project.config('postfix-accounts.cf'))
  const commands = [['status'], ['reset', '--yes'], ['add_account', 'nora@development-virtual.example.com', 'x']]
  await Promise.all(
    [...commands, ['add_account', '--delete', BAR, '--yes']].map(async ([script = '', ...args]) => {
      const { code, stderr } = await run(script, ...args)
      assert.deepEqual([code, /does not answer: SMTP .*npm stop && npm start/.test(stderr)], [3, true], stderr)
    }),
  )
  writeFileSync(project.config('postfix-accounts.cf'), accounts)
  assert.equal((await run('stop')).code, 0)
  assert.equal(processesOf(project), '')
})

test('a stop during a start waits for it, and nothing is left', async () => {
  const starting = interrupt(() => isThere('start.lock'))
  await until('the start under way', () => isThere('start.lock'))
  const { code, stdout } = await run('stop')
  assert.deepEqual([code, /is stopped/.test(stdout)], [0, true], stdout)
  await starting
  assert.equal(processesOf(project), '')
})

test('before npm ci every command says so in one line', () => {
  const away = project.path('node_modules.away')
  renameSync(project.path('node_modules'), away)
  const scripts = ['start', 'status', 'send_email', 'pop_email', 'add_account', 'reset']
  const commands = scripts.map((script) => ['scripts/lib/launch.mjs', script])
  // The script itself where the tests have it as JavaScript.
  for (const name of ['pop_email', 'add_account']) {
    if (existsSync(project.path(`scripts/${name}.js`))) commands.push([`scripts/${name}.js`])
  }
  for (const command of commands) {
    const { status, stderr } = spawnSync(process.execPath, command, { cwd: project.dir, env: project.env })
    assert.equal(status, 1)
    assert.match(String(stderr), /^The packages? .*not installed\. Type: npm ci\n$/, command.join(' '))
  }
  renameSync(away, project.path('node_modules'))
})
