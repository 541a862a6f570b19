/** A start is all or nothing, a stop waits for it, and half a server is called that. */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
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

/** Starts a script without waiting for it. */
function begin(script: string): { child: ChildProcess; ended: Promise<{ code: number | null; talk: string }> } {
  const child = spawn(process.execPath, ['scripts/lib/launch.mjs', script], { cwd: project.dir, env: project.env })
  let talk = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (talk += chunk))
  return { child, ended: new Promise((resolve) => child.once('close', (code) => resolve({ code, talk }))) }
}

describe('what is missing or wrong is named, and nothing is left running', () => {
  for (const [missing, said] of [
    ['docker-data/mail-server/config', /config\/postfix-main\.cf: there is no such file\. .*git checkout -- /],
    ['docker-data/mail-server/config/postfix-main.cf', /postfix-main\.cf: there is no such file/],
    ['docker-data/mail-server/config/postfix-accounts.cf', /postfix-accounts\.cf: there is no such file/],
    ['docker-data/native/main.cf', /native\/main\.cf: there is no such file/],
    ['development-mail-server.env', /development-mail-server\.env: there is no such file/],
  ] as const) {
    test(`without ${missing}`, async () => {
      renameSync(project.path(missing), project.path('aside'))
      try {
        const { code, stderr } = await run('start')
        assert.notEqual(code, 0)
        assert.match(stderr, said)
        assert.match(stderr, new RegExp(`git checkout -- ${missing}`))
        assert.doesNotMatch(stderr, /ENOENT| at .*\.ts:/)
        assert.equal(processesOf(project), '')
      } finally {
        renameSync(project.path('aside'), project.path(missing))
      }
    })
  }

  test('a configuration file that is a folder', async () => {
    const file = project.config('postfix-main.cf')
    renameSync(file, project.path('aside'))
    mkdirSync(file)
    const { code, stderr } = await run('start')
    rmSync(file, { recursive: true })
    renameSync(project.path('aside'), file)
    assert.equal(code, 2)
    assert.match(stderr, /postfix-main\.cf: it is a folder/)
  })

  for (const [what, folder, said] of [
    ['a file', () => project.path('package.json'), /package\.json: it is no folder/],
    ['below a file', () => project.path('package.json/state'), /package\.json is no folder/],
    ['below /proc', () => '/proc/mail', /\/proc\/mail: .*\. Set MAIL_SERVER_STATE_DIR/],
    ['relative', () => 'state', /MAIL_SERVER_STATE_DIR=state: not an absolute path/],
    ["somebody else's", () => project.path('scripts'), /it is not the mail server's own folder/],
  ] as const) {
    test(`a state folder that is ${what}`, async () => {
      const { code, stderr } = await runIn(project, { env: { MAIL_SERVER_STATE_DIR: folder() } }, 'start')
      assert.equal(code, 2, stderr)
      assert.match(stderr, said)
      assert.equal(stderr.trim().split('\n').length, 1)
    })
  }
})

describe('interrupted at any moment', () => {
  for (const [index, signal] of (['SIGINT', 'SIGTERM', 'SIGINT'] as const).entries()) {
    test(`${signal}, try ${index + 1}: no daemon is left`, async () => {
      const { child, ended } = begin('start')
      // From before the first daemon to the test mail: the log and the pid files tell how far it is.
      const stages = [
        () => existsSync(join(project.stateDir, 'next', 'postfix')),
        () => existsSync(join(project.stateDir, 'run', 'master.pid')),
        () => processesOf(project).includes('/queue'),
      ]
      await until('the stage', () => child.exitCode !== null || stages[index % 3]?.() || undefined)
      child.kill(signal)
      const { code, talk } = await ended
      assert.equal(code, 130, talk)
      assert.match(talk, /interrupted\. Start again: npm start/)
      assert.equal(processesOf(project), '')
    })
  }

  test('a stop during a start waits for it, and nothing is left', async () => {
    const starting = begin('start')
    await until('the start under way', () => existsSync(join(project.stateDir, 'start.lock')))
    const { code, stdout } = await project.run('stop')
    assert.deepEqual([code, /is stopped/.test(stdout)], [0, true], stdout)
    await starting.ended
    assert.equal(processesOf(project), '')
  })

  test('an interrupted start of a server that runs leaves it running', async () => {
    await project.start()
    const before = mastersOf(project)
    const { child, ended } = begin('start')
    await until('the start under way', () => existsSync(join(project.stateDir, 'start.lock')))
    child.kill('SIGINT')
    await ended
    assert.deepEqual(mastersOf(project), before)
    assert.equal(await send(project.ports, BAR, 'still there'), null)
  })
})

describe('half a server', () => {
  for (const [daemon, index] of [
    ['Postfix', 0],
    ['Dovecot', 1],
  ] as const) {
    test(`without ${daemon}: status, reset and add-account say so, and a start mends it`, async () => {
      process.kill(mastersOf(project)[index] ?? 0, 'SIGKILL')
      const other = daemon === 'Postfix' ? 'Dovecot without Postfix' : 'Postfix without Dovecot'
      const said = new RegExp(`Half of the mail server runs: ${other}\\. Mend it: npm start`)
      const status = await until('half a server', async () => {
        const result = await run('status')
        return said.test(result.stdout) ? result : undefined
      })
      assert.equal(status.code, 1)
      const reset = await run('reset', '--yes')
      assert.deepEqual([reset.code, said.test(reset.stderr)], [1, true], reset.stderr)
      const { code, stdout, stderr } = await run('start')
      assert.equal(code, 0, stderr)
      assert.match(stdout, /is up after/)
      assert.match(stderr, new RegExp(other))
    })
  }

  test('a server whose processes are all stopped is told within ten seconds, and can be stopped', async () => {
    for (const pid of pidsOf(project)) process.kill(pid, 'SIGSTOP')
    const begin = Date.now()
    const status = await run('status')
    assert.ok(Date.now() - begin < 10_000)
    assert.equal(status.code, 3)
    assert.match(status.stderr, /runs \(engine: native\) and does not answer: SMTP .*npm stop && npm start/)
    const accounts = readFileSync(project.config('postfix-accounts.cf'))
    for (const args of [
      ['nora@development-virtual.example.com', 'x'],
      ['--delete', BAR, '--yes'],
    ]) {
      const since = Date.now()
      const { code, stderr } = await run('add_account', ...args)
      assert.ok(Date.now() - since < 10_000)
      assert.equal(code, 3, stderr)
      assert.match(stderr, /does not answer: SMTP .*npm stop && npm start/)
    }
    writeFileSync(project.config('postfix-accounts.cf'), accounts)
    const { code } = await run('stop')
    assert.equal(code, 0)
    assert.equal(processesOf(project), '')
  })
})

describe('where it listens', () => {
  for (const address of ['127.0.0.2', '::1']) {
    const skip = address === '::1' && !existsSync('/proc/net/if_inet6') ? 'this machine has no IPv6' : false
    test(`BIND_ADDRESS=${address}`, { skip }, async () => {
      const env = { BIND_ADDRESS: address }
      const { code, stdout, stderr } = await runIn(project, { env }, 'start')
      assert.equal(code, 0, stderr)
      assert.match(stdout, /read back over POP3/)
      const status = await runIn(project, { env }, 'status')
      assert.equal(status.code, 0, status.stderr)
      assert.equal((await runIn(project, { env }, 'stop')).code, 0)
    })
  }
})

describe('on other machines', () => {
  test('without /usr/sbin in PATH, and with a shell start-up file that breaks every shell', async () => {
    const bin = project.path('bin')
    mkdirSync(bin)
    symlinkSync(process.execPath, join(bin, 'node'))
    writeFileSync(join(bin, '.bashrc'), 'echo noise; exit 7\n')
    const noise = { HOME: bin, BASH_ENV: join(bin, '.bashrc'), ENV: join(bin, '.bashrc'), SHLVL: undefined }
    const { code, stderr } = await project.runWith({ env: { ...noise, PATH: `${bin}:/usr/bin:/bin` } }, 'start')
    assert.equal(code, 0, stderr)
  })

  test('another user sees status and queue as far as that may be, and is told how to stop', async () => {
    chmodSync(project.dir, 0o755)
    project.runner = ['setpriv', ...AS_NOBODY, 'env', 'PATH=/usr/bin:/bin']
    try {
      const status = await project.run('status', '--json')
      assert.equal(status.code, 0, status.stderr)
      const { running, accounts, queue } = JSON.parse(status.stdout)
      assert.deepEqual([running, accounts.length, queue], [true, 4, null])
      const stop = await project.run('stop')
      assert.equal(stop.code, 1)
      assert.match(stop.stderr, /needs root/)
    } finally {
      project.runner = []
    }
    assert.equal((await project.run('stop')).code, 0)
  })

  test('before npm ci every command says so in one line', () => {
    const away = project.path('node_modules.away')
    renameSync(project.path('node_modules'), away)
    try {
      for (const script of ['start', 'status', 'send_email', 'pop_email', 'add_account', 'reset']) {
        for (const command of [['scripts/lib/launch.mjs', script], ...(script === 'pop_email' ? plain(script) : [])]) {
          const { code, stderr } = runNode(command)
          assert.equal(code, 1)
          assert.match(stderr, /^The packages? .*not installed\. Type: npm ci\n$/, command.join(' '))
        }
      }
    } finally {
      renameSync(away, project.path('node_modules'))
    }
  })
})

/** The script itself where Node strips types, or as the tests' JavaScript. */
function plain(script: string): string[][] {
  return existsSync(project.path(`scripts/${script}.js`)) ? [[`scripts/${script}.js`]] : []
}

function runNode(command: string[]): { code: number; stderr: string } {
  try {
    execFileSync(process.execPath, command, { cwd: project.dir, env: project.env, stdio: 'pipe' })
    return { code: 0, stderr: '' }
  } catch (error) {
    const { status, stderr } = error as { status: number; stderr: Buffer }
    return { code: status, stderr: stderr.toString() }
  }
}
