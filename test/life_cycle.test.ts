import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync, chmodSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { ImapFlow } from 'imapflow'
import { encrypt } from 'unixcrypt'
import { BAR, CATCHALL, FOO, masterLogin } from '../scripts/lib/accounts/accounts.ts'
import { Pop3Session } from '../scripts/lib/mail/pop3.ts'
import { messagesOf, send, subjectsOf } from './deliveries.ts'
import { Project, processesOf, type Result, startedProject, until } from './harness.ts'
import { runIn } from './here.ts'

const host = '127.0.0.1'

async function status(project: Project) {
  return JSON.parse((await runIn(project, {}, 'status', '--json')).stdout)
}

describe('a running server', () => {
  let project: Project
  let first: Result
  before(async () => {
    project = await Project.create()
    first = await project.run('start')
  })
  after(() => project?.remove())

  const run = (script: string, ...args: string[]) => runIn(project, {}, script, ...args)

  test('the first start proves itself by a mail and shows ports, accounts, passwords and commands', () => {
    assert.equal(first.code, 0, first.stderr)
    assert.match(first.stdout, /read back over POP3 and deleted: \d+ ms/)
    for (const port of Object.values(project.ports)) assert.match(first.stdout, new RegExp(`127\\.0\\.0\\.1:${port} `))
    assert.match(first.stdout, /catchall@development-mail-server\.example\.com +catchall/)
    for (const name of ['foo', 'bar', 'baz']) {
      assert.match(first.stdout, new RegExp(`${name}@development-virtual\\.example\\.com +foo`))
    }
    assert.match(first.stdout, /npx tsx scripts\/send_email\.ts/)
  })

  test('the test mail is gone and nothing is queued', async () => {
    const { accounts, queue, running, engine } = await status(project)
    assert.deepEqual([running, engine, queue], [true, 'native', 0])
    for (const account of accounts) assert.deepEqual([account.inbox, account.otherFolders], [0, 0])
  })

  test('a second start says that it runs and ends with 0', async () => {
    const { code, stdout } = await run('start')
    assert.equal(code, 0)
    assert.match(stdout, /runs already/)
  })

  test('status shows engine, versions, ports, messages and queue', async () => {
    await send(project.ports, BAR, 'counted')
    await until('one message', async () => (await status(project)).accounts[2].inbox === 1)
    const { stdout } = await run('status')
    assert.match(stdout, /engine: native, Postfix 3\.\d+\.\d+, Dovecot 2\.3\./)
    assert.match(stdout, /bar@development-virtual\.example\.com +1 +0/)
    assert.match(stdout, /Queue: empty/)
  })

  test('logs shows the last lines and ends', async () => {
    const { code, stdout } = await project.run('logs', '--lines', '5')
    assert.equal(code, 0)
    assert.equal(stdout.trim().split('\n').length, 5)
    assert.equal((await project.run('logs', '--lines', 'many')).code, 2)
  })

  test('an account added while mail flows goes live by one more start, and no mail is lost', async () => {
    const sent: string[] = []
    let flowing = true
    const flow = (async () => {
      for (let n = 0; flowing; n++) {
        assert.equal(await send(project.ports, 'someone@gmail.com', `flow ${n}`), null)
        sent.push(`flow ${n}`)
      }
    })()
    const alice = 'alice@development-virtual.example.com'
    assert.match(String(await send(project.ports, alice, 'too early')), /550 5\.1\.1/)
    const { postfix } = pids(project)
    appendFileSync(project.config('postfix-accounts.cf'), `${alice}|{SHA512-CRYPT}${encrypt('secret')}\n`)
    const { code, stdout, stderr } = await run('start')
    assert.equal(code, 0, stderr)
    assert.match(stdout, /alice@development-virtual\.example\.com +\(set by you\)/)
    await until('mail to the new account accepted', async () => (await send(project.ports, alice, 'hello')) === null)
    const server = { host, port: project.ports.pop3, tls: 'none', timeout: 20_000 } as const
    await until('the mail read by the new account', async () => {
      // Dovecot looks at its passwd-file once a second at the most.
      const session = await Pop3Session.open(server, { user: alice, password: 'secret' }).catch(() => undefined)
      if (!session) return false
      const { count } = await session.stat()
      await session.quit()
      return count === 1
    })
    flowing = false
    await flow
    assert.equal(pids(project).postfix, postfix, 'Postfix was not restarted')
    assert.ok(sent.length > 5)
    await until('all of the flow', async () => {
      const found = subjectsOf(await messagesOf({ host, ports: project.ports }, CATCHALL))
      return found.filter((subject) => subject.startsWith('flow')).length === sent.length
    })
  })

  test('mail that is accepted for a new account reaches it, however early it comes', async () => {
    for (const name of ['carol', 'dave']) {
      const address = `${name}@development-virtual.example.com`
      appendFileSync(project.config('postfix-accounts.cf'), `${address}|{SHA512-CRYPT}${encrypt('secret')}\n`)
      const started = run('start')
      await until(`mail to ${name} accepted`, async () => (await send(project.ports, address, 'early')) === null)
      await until(`mail to ${name} read`, async () => {
        const sources = await messagesOf({ host, ports: project.ports }, address).catch(() => [])
        return subjectsOf(sources).join() === 'early'
      })
      assert.equal((await started).code, 0)
    }
  })

  test('a mailbox over its quota bounces the mail to its sender', async () => {
    writeFileSync(project.config('dovecot-quotas.cf'), 'baz@development-virtual.example.com:1M\n')
    const { code, stderr } = await run('start')
    assert.equal(code, 0, stderr)
    const body = `${'x'.repeat(70)}\r\n`.repeat(20_000)
    assert.equal(await send(project.ports, 'baz@development-virtual.example.com', 'too large for baz', body), null)
    const bounce = await until('the bounce', async () =>
      (await messagesOf({ host, ports: project.ports }, FOO)).find((source) => source.includes('too large for baz')),
    )
    assert.match(bounce, /552 5\.2\.2/)
    assert.match(bounce, /Quota exceeded/i)
  })

  test('mail survives a stop and a start', async () => {
    await send(project.ports, BAR, 'survivor')
    const where = { host, ports: project.ports }
    const before = await until('the survivor', async () => {
      const subjects = subjectsOf(await messagesOf(where, BAR))
      return subjects.includes('survivor') && subjects
    })
    const stopped = await run('stop')
    assert.equal(stopped.code, 0)
    assert.equal(processesOf(project), '')
    assert.match((await run('stop')).stdout, /was not running/)
    const down = await run('status')
    assert.deepEqual([down.code, /not running/.test(down.stdout)], [1, true])
    await project.start()
    assert.deepEqual(subjectsOf(await messagesOf(where, BAR)), before)
  })

  test('reset asks for --yes without a terminal, then empties all folders and the queue and keeps the accounts', async () => {
    assert.equal((await run('reset')).code, 2)
    const { user, password } = masterLogin(FOO)
    const auth = { user, pass: password }
    const client = new ImapFlow({
      host,
      port: project.ports.imap,
      secure: false,
      doSTARTTLS: false,
      auth,
      logger: false,
    })
    await client.connect()
    const { path } = await client.mailboxCreate(['Projects', 'Alpha'])
    await client.append(path, 'Subject: kept apart\r\n\r\nx\r\n')
    await client.append('Sent', 'Subject: sent\r\n\r\nx\r\n')
    await client.logout()
    // Held mail stays in the queue until somebody releases it.
    execFileSync('postconf', ['-c', `${project.stateDir}/postfix`, '-e', 'defer_transports=lmtp'])
    execFileSync('postfix', ['-c', `${project.stateDir}/postfix`, 'reload'], { stdio: 'ignore' })
    await until('a queued message', async () => {
      await send(project.ports, BAR, 'queued')
      return (await status(project)).queue > 0
    })
    const { code, stdout } = await run('reset', '--yes')
    assert.equal(code, 0)
    assert.match(stdout, /Deleted: \d+ messages in 7 mailboxes, \d+ in the queue/)
    const { accounts, queue } = await status(project)
    assert.equal(queue, 0)
    assert.equal(accounts.length, 7)
    for (const account of accounts) assert.deepEqual([account.inbox, account.otherFolders], [0, 0])
  })

  test('new ports make a start a restart', async () => {
    await project.takePorts()
    const { code, stderr } = await project.run('start')
    assert.equal(code, 0)
    assert.match(stderr, /Other ports/)
    assert.equal(await send(project.ports, BAR, 'on the new port'), null)
  })

  test('without Dovecot, and with it again, a start is a restart', async () => {
    const file = project.path('development-mail-server.env')
    const text = readFileSync(file, 'utf8')
    writeFileSync(file, text.replace('SMTP_ONLY=0', 'SMTP_ONLY=1'))
    const alone = await run('start')
    const isAlone = !existsSync(`${project.stateDir}/run/master.pid`)
    const refused = await send(project.ports, BAR, 'queued for lack of Dovecot')
    writeFileSync(file, text)
    assert.deepEqual([alone.code, isAlone, refused], [0, true, null], alone.stderr)
    assert.equal((await run('start')).code, 0)
    assert.equal((await run('status')).code, 0)
  })

  test('settings that cannot be read are told at each start, and the server keeps the old ones', async () => {
    const before = pids(project)
    for (const [name, wrong, starts] of [
      ['dovecot.cf', 'no_such_setting = 1', 2],
      ['postfix-main.cf', 'default_process_limit = no_such_setting', 1],
    ] as const) {
      const file = project.config(name)
      const text = readFileSync(file, 'utf8')
      writeFileSync(file, `${text}${wrong}\n`)
      try {
        for (let start = 0; start < starts; start++) {
          const { code, stderr } = await run('start')
          assert.equal(code, 1)
          assert.match(stderr, /^The server runs on with its old settings/m)
          const where = `config/${name},? line ${text.split('\n').length}\\b`
          assert.match(stderr, new RegExp(`^(?=.*no_such_setting).*${where}`, 'm'))
        }
        assert.equal(await send(project.ports, BAR, 'all the same'), null)
      } finally {
        writeFileSync(file, text)
      }
    }
    assert.equal((await run('start')).code, 0)
    assert.deepEqual(pids(project), before)
  })

  test('starts at the same time all end well, and one server runs', async () => {
    assert.equal((await run('stop')).code, 0)
    for (const { code, stderr } of await Promise.all(Array.from({ length: 3 }, () => project.run('start')))) {
      assert.equal(code, 0, stderr)
    }
    assert.equal((await run('status')).code, 0)
  })

  test('a server whose state folder is gone can be stopped, and the next one made in spite of a umask', async () => {
    rmSync(project.stateDir, { recursive: true })
    const { code, stdout } = await run('stop')
    assert.equal(code, 0)
    assert.match(stdout, /is stopped/)
    await assert.rejects(send(project.ports, BAR, 'too late'), /ECONNREFUSED/)
    project.runner = ['sh', '-c', 'umask 077 && exec "$@"', 'sh']
    assert.equal((await project.run('start')).code, 0)
    project.runner = []
    // By this file other users see that the server runs.
    assert.equal(statSync(`${project.stateDir}/started.json`).mode & 0o777, 0o644)
  })

  test('files with password hashes are for their owners only', () => {
    for (const name of ['config/postfix-accounts.cf', 'config/dovecot-master-users', 'dovecot/userdb', 'tls/key.pem']) {
      assert.equal(statSync(`${project.stateDir}/${name}`).mode & 0o007, 0, name)
    }
  })

  test('nothing of the instance stands below /etc', () => {
    for (const folder of ['/etc/postfix', '/etc/dovecot']) {
      const found = execFileSync('sh', ['-c', `grep -rl '${project.dir}' ${folder} 2>/dev/null || true`]).toString()
      assert.equal(found, '')
    }
  })
})

/** The pids of the two masters. */
function pids(project: Project): { postfix: number; dovecot: number } {
  const pid = (file: string) => Number(readFileSync(`${project.stateDir}/${file}`, 'utf8').trim())
  return { postfix: pid('queue/pid/master.pid'), dovecot: pid('run/master.pid') }
}

test('two instances run side by side, and one from a folder that only its owner can enter', async () => {
  const [one, two] = await Promise.all([startedProject(), Project.create()])
  try {
    chmodSync(two.dir, 0o700)
    // Short and outside of the closed folder.
    two.env.MAIL_SERVER_STATE_DIR = `${one.dir}/other`
    await two.start()
    assert.equal(await send(one.ports, BAR, 'for one'), null)
    assert.equal(await send(two.ports, BAR, 'for two'), null)
    for (const [project, subject] of [
      [one, 'for one'],
      [two, 'for two'],
    ] as const) {
      await until(
        subject,
        async () => subjectsOf(await messagesOf({ host, ports: project.ports }, BAR)).join() === subject,
      )
    }
    assert.equal((await two.run('stop')).code, 0)
    assert.equal((await one.run('status')).code, 0)
  } finally {
    await two.run('stop')
    await two.remove()
    await one.remove()
  }
})
