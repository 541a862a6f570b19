/** A start is all or nothing, a stop waits for it, and half a server is called that. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { BAR } from '../scripts/lib/accounts/accounts.ts'
import { send } from './deliveries.ts'
import { AS_NOBODY, Project, processesOf, until } from './harness.ts'
import { runIn } from './here.ts'
import { mastersOf, pidsOf } from './instance.ts'

let project: Project
before(async () => {
  project = await Project.create()
})
after(() => project.remove())

const run = (script: string, ...args: string[]) => runIn(project, {}, script, ...args)
const isThere = (path: string) => existsSync(join(project.stateDir, path))

/** A script that is not waited for, and what came of it. */
function begin(script: string): { child: ChildProcess; ended: Promise<{ code: number | null; talk: string }> } {
  const [program = '', ...args] = project.command(script)
  const child = spawn(program, args, { cwd: project.dir, env: project.env })
  let talk = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (talk += chunk))
  return { child, ended: new Promise((resolve) => child.once('close', (code) => resolve({ code, talk }))) }
}

describe('a start that is interrupted', () => {
  for (const [what, isReached, signals] of [
    ['before its daemons', () => isThere('next/postfix'), ['SIGINT']],
    ['between them', () => isThere('run/master.pid'), ['SIGTERM']],
    ['behind them, twice', () => processesOf(project).includes('/queue'), ['SIGINT', 'SIGINT']],
  ] as const) {
    test(`${what}: no daemon is left`, async () => {
      const { child, ended } = begin('start')
      await until('that moment', () => child.exitCode !== null || isReached())
      for (const signal of signals) child.kill(signal)
      const { code, talk } = await ended
      assert.equal(code, 130, talk)
      assert.match(talk, /interrupted\. Start again: npm start/)
      assert.equal(processesOf(project), '')
    })
  }

  test('by a kill: the next one ends what it left', async () => {
    const { child, ended } = begin('start')
    await until('a daemon', () => child.exitCode !== null || processesOf(project).includes('/queue'))
    child.kill('SIGKILL')
    await ended
    const { code, stderr } = await run('start')
    assert.equal(code, 0, stderr)
  })

  test('of a server that runs: it runs on', async () => {
    const masters = mastersOf(project)
    const { child, ended } = begin('start')
    await until('the start under way', () => isThere('start.lock'))
    child.kill('SIGINT')
    await ended
    assert.deepEqual(mastersOf(project), masters)
    assert.equal(await send(project.ports, BAR, 'still there'), null)
  })
})

describe('half a server', () => {
  for (const [index, fact] of ['Dovecot without Postfix', 'Postfix without Dovecot'].entries()) {
    test(`${fact}: status, reset and add-account say so, and a start mends it`, async () => {
      process.kill(mastersOf(project)[index] ?? 0, 'SIGKILL')
      const said = new RegExp(`Half of the mail server runs: ${fact}\\. Mend it: npm start`)
      const status = await until('half a server', async () => {
        const result = await run('status')
        return said.test(result.stdout) ? result : undefined
      })
      const reset = await run('reset', '--yes')
      assert.deepEqual([status.code, reset.code, said.test(reset.stderr)], [1, 1, true], reset.stderr)
      const { code, stdout, stderr } = await run('start')
      assert.equal(code, 0, stderr)
      assert.match(stdout, /is up after/)
      assert.match(stderr, new RegExp(fact))
    })
  }

  test('one whose processes are all stopped is told in time, and can be stopped', async () => {
    for (const pid of pidsOf(project)) process.kill(pid, 'SIGSTOP')
    const accounts = readFileSync(project.config('postfix-accounts.cf'))
    const said = /does not answer: SMTP .*npm stop && npm start/
    await Promise.all(
      [
        ['status'],
        ['add_account', 'nora@development-virtual.example.com', 'x'],
        ['add_account', '--delete', BAR, '--yes'],
      ].map(async ([script = '', ...args]) => {
        const { code, stderr } = await project.runWith({ timeout: 60_000 }, script, ...args)
        assert.deepEqual([code, said.test(stderr)], [3, true], stderr)
      }),
    )
    writeFileSync(project.config('postfix-accounts.cf'), accounts)
    assert.equal((await run('stop')).code, 0)
    assert.equal(processesOf(project), '')
  })

  test('a stop during a start waits for it, and nothing is left', async () => {
    const starting = begin('start')
    await until('the start under way', () => isThere('start.lock'))
    const { code, stdout } = await run('stop')
    assert.deepEqual([code, /is stopped/.test(stdout)], [0, true], stdout)
    await starting.ended
    assert.equal(processesOf(project), '')
  })
})

describe('elsewhere', () => {
  const skip = existsSync('/proc/net/if_inet6') ? false : 'this machine has no IPv6'
  test('BIND_ADDRESS=::1', { skip }, async () => {
    const env = { BIND_ADDRESS: '::1' }
    const { code, stdout, stderr } = await runIn(project, { env }, 'start')
    assert.equal(code, 0, stderr)
    assert.match(stdout, /read back over POP3/)
    assert.equal((await runIn(project, { env }, 'status')).code, 0)
    assert.equal((await runIn(project, { env }, 'stop')).code, 0)
  })

  test('another address, no /usr/sbin in PATH, and a start-up file that breaks every shell', async () => {
    const bin = project.path('bin')
    mkdirSync(bin)
    symlinkSync(process.execPath, join(bin, 'node'))
    writeFileSync(join(bin, '.bashrc'), 'echo noise; exit 7\n')
    const noise = { HOME: bin, BASH_ENV: join(bin, '.bashrc'), ENV: join(bin, '.bashrc'), SHLVL: undefined }
    Object.assign(project.env, { BIND_ADDRESS: '127.0.0.2' })
    const { code, stderr } = await project.runWith({ env: { ...noise, PATH: `${bin}:/usr/bin:/bin` } }, 'start')
    assert.equal(code, 0, stderr)
  })

  test('another user sees as much as that may be, and is told what wants root', async () => {
    chmodSync(project.dir, 0o755)
    project.runner = ['setpriv', ...AS_NOBODY, 'env', 'PATH=/usr/bin:/bin']
    try {
      const status = await project.run('status', '--json')
      assert.equal(status.code, 0, status.stderr)
      const { running, accounts, queue } = JSON.parse(status.stdout)
      assert.deepEqual([running, accounts.length, queue], [true, 4, null])
      for (const command of [['stop'], ['reset', '--yes']] as const) {
        const { code, stderr } = await project.run(command[0], ...command.slice(1))
        assert.deepEqual(
          [code, stderr.includes('needs root') && stderr.includes(command.join('.ts '))],
          [1, true],
          stderr,
        )
      }
    } finally {
      project.runner = []
    }
    assert.equal((await project.run('stop')).code, 0)
  })

  test('before npm ci every command says so in one line', () => {
    const away = project.path('node_modules.away')
    renameSync(project.path('node_modules'), away)
    const scripts = ['start', 'status', 'send_email', 'pop_email', 'add_account', 'reset']
    const commands = scripts.map((script) => ['scripts/lib/launch.mjs', script])
    // The script itself where the tests have it as JavaScript.
    if (isThere('../scripts/pop_email.js')) commands.push(['scripts/pop_email.js'])
    for (const command of commands) {
      const { status, stderr } = spawnSync(process.execPath, command, { cwd: project.dir, env: project.env })
      assert.equal(status, 1)
      assert.match(String(stderr), /^The packages? .*not installed\. Type: npm ci\n$/, command.join(' '))
    }
    renameSync(away, project.path('node_modules'))
  })
})
