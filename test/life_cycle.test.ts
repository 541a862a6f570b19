/** One server from its first start to its last: what takes effect how, and that no mail is lost on the way. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, chmodSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { after, before, test } from 'node:test'
import { encrypt } from 'unixcrypt'
import { BAR, CATCHALL, FOO, masterLogin } from '../scripts/lib/accounts/accounts.ts'
import { overImap } from '../scripts/lib/server/mailboxes.ts'
import { messagesOf, send, subjectsOf } from './deliveries.ts'
import { Project, processesOf, type Result, until } from './harness.ts'
import { runIn } from './here.ts'
import { DOVECOT_CF, mastersOf } from './instance.ts'

const host = '127.0.0.1'
let project: Project
let first: Result
before(async () => {
  project = await Project.create()
  // Only root can enter the project's folder; the state folder lies elsewhere.
  chmodSync(project.dir, 0o700)
  Object.assign(project, { stateDir: `${project.dir}-state` })
  project.env.MAIL_SERVER_STATE_DIR = project.stateDir
  first = await run('start')
})
after(async () => {
  await project.remove()
  rmSync(project.stateDir, { recursive: true })
})

const run = (script: string, ...args: string[]) => runIn(project, {}, script, ...args)
const status = async () => JSON.parse((await run('status', '--json')).stdout)
const messages = (account: string) => messagesOf({ host, ports: project.ports }, account)
const subjects = async (account: string) => subjectsOf(await messages(account))

/** `run` for what has to end well. */
async function done(script: string, ...args: string[]): Promise<Result> {
  const result = await run(script, ...args)
  assert.equal(result.code, 0, result.stdout + result.stderr)
  return result
}

/** Changes a file until `work` is done. */
async function changed(path: string, change: (text: string) => string, work: () => Promise<void>): Promise<void> {
  const text = readFileSync(path, 'utf8')
  writeFileSync(path, change(text))
  await work().finally(() => writeFileSync(path, text))
}

test('the first start proves itself by a mail, shows ports, accounts, passwords and commands, and leaves no mail', async () => {
  assert.equal(first.code, 0, first.stderr)
  assert.match(first.stdout, /read back over POP3 and deleted: \d+ ms/)
  for (const port of Object.values(project.ports)) assert.match(first.stdout, new RegExp(`127\\.0\\.0\\.1:${port} `))
  for (const name of ['catchall@development-mail-server', 'foo@development-virtual', 'baz@development-virtual']) {
    assert.match(first.stdout, new RegExp(`${name}\\.example\\.com +(catchall|foo)\n`))
  }
  assert.match(first.stdout, /npx tsx scripts\/send_email\.ts/)
  const { accounts, queue, running, engine } = await status()
  assert.deepEqual([running, engine, queue], [true, 'native', 0])
  for (const { inbox, otherFolders } of accounts) assert.deepEqual([inbox, otherFolders], [0, 0])
})

test('what holds a password hash is for its owners only, and nothing of the instance stands below /etc', () => {
  for (const name of ['config/postfix-accounts.cf', 'config/dovecot-master-users', 'dovecot/userdb', 'tls/key.pem']) {
    assert.equal(statSync(`${project.stateDir}/${name}`).mode & 0o007, 0, name)
  }
  const grep = `grep -rl '${project.dir}' /etc/postfix /etc/dovecot 2>/dev/null || true`
  assert.equal(execFileSync('sh', ['-c', grep]).toString(), '')
})

test('status shows engine, versions, messages and queue; logs the last lines', async () => {
  await send(project.ports, BAR, 'counted')
  await until('one message', async () => (await messages(BAR)).length === 1)
  assert.equal((await status()).accounts[2].inbox, 1)
  const { stdout } = await done('status')
  assert.match(stdout, /engine: native, Postfix 3\.\d+\.\d+, Dovecot 2\.\d+\.[\s\S]*bar@\S+ +1 +0\n[\s\S]*Queue: empty/)
  const logs = await project.run('logs', '--lines', '5')
  assert.deepEqual([logs.code, logs.stdout.trim().split('\n').length], [0, 5])
  assert.equal((await run('logs', '--lines', 'many')).code, 2)
})

test('accounts added while mail flows go live by one more start: no mail is lost, and theirs comes however early', async () => {
  let [sent, flowing] = [0, true]
  const flow = (async () => {
    for (; flowing; sent++) assert.equal(await send(project.ports, 'someone@gmail.com', `flow ${sent}`), null)
  })()
  const masters = mastersOf(project)
  for (const name of ['alice', 'carol']) {
    const address = `${name}@development-virtual.example.com`
    assert.match(String(await send(project.ports, address, 'too early')), /550 5\.1\.1/)
    appendFileSync(project.config('postfix-accounts.cf'), `${address}|{SHA512-CRYPT}${encrypt('secret')}\n`)
    const starting = done('start')
    await until(`mail to ${name} accepted`, async () => (await send(project.ports, address, 'early')) === null)
    await until(`mail to ${name}`, async () => (await subjects(address).catch(() => [])).join() === 'early')
    assert.match((await starting).stdout, new RegExp(`runs already[\\s\\S]*${address} +\\(set by you\\)`))
  }
  flowing = false
  await flow
  assert.deepEqual(mastersOf(project), masters)
  const arrived = async () => (await subjects(CATCHALL)).filter((one) => /^flow/.test(one)).length
  await until('all of the flow', async () => (await arrived()) === sent)
})

test('a mailbox over its quota bounces the mail to its sender', async () => {
  writeFileSync(project.config('dovecot-quotas.cf'), 'baz@development-virtual.example.com:1M\n')
  await done('start')
  const body = `${'x'.repeat(70)}\r\n`.repeat(20_000)
  assert.equal(await send(project.ports, 'baz@development-virtual.example.com', 'too large for baz', body), null)
  const find = async () => (await messages(FOO)).find((source) => source.includes('too large for baz'))
  assert.match(await until('the bounce', find), /552 5\.2\.2[\s\S]*Quota exceeded/i)
})

test('settings that cannot be read are told at each start, and the server keeps the old ones', async () => {
  const masters = mastersOf(project)
  const [file, env] = [project.config(DOVECOT_CF), project.path('development-mail-server.env')]
  const line = readFileSync(file, 'utf8').split('\n').length
  for (const [path, wrong, said] of [
    [file, 'no_such_setting = 1', `dovecot\\S*.cf line ${line}: .*no_such_se`],
    [file, 'service imap {', `Missing '}' .*dovecot\\S*.cf:${line}`],
    [env, 'SSL_TYPE=self-signed', 'env: .*config/ssl/\\S+-key.pem'],
  ] as const) {
    const add = (text: string) => `${text}${wrong}\n`
    await changed(path, add, async () => {
      const { code, stderr } = await run('start')
      assert.match(stderr, new RegExp(`^The server runs on with its old settings.*${said}`, 'm'))
      assert.deepEqual([code, await send(project.ports, BAR, 'all the same')], [1, null])
    })
  }
  await done('start')
  assert.deepEqual(mastersOf(project), masters)
})

test('mail survives a stop and a start, also one of several at the same time', async () => {
  await send(project.ports, BAR, 'survivor')
  await until('the survivor', async () => (await subjects(BAR)).includes('survivor'))
  const mails = await subjects(BAR)
  assert.match((await done('stop')).stdout, /is stopped/)
  assert.equal(processesOf(project), '')
  assert.match((await done('stop')).stdout, /was not running/)
  const down = await run('status')
  assert.deepEqual([down.code, /not running/.test(down.stdout)], [1, true])
  const starts = await Promise.all([run('start'), project.run('start')])
  for (const { code, stderr } of starts) assert.equal(code, 0, stderr)
  assert.deepEqual(await subjects(BAR), mails)
})

test('reset asks for --yes without a terminal, then empties all folders and the queue and keeps the accounts', async () => {
  assert.equal((await run('reset')).code, 2)
  await overImap({ host, ports: project.ports }, masterLogin(FOO), async (client) => {
    const { path } = await client.mailboxCreate(['Projects', 'Alpha'])
    await client.append(path, 'Subject: kept apart\r\n\r\nx\r\n')
    await client.append('Sent', 'Subject: sent\r\n\r\nx\r\n')
  })
  // Held mail stays in the queue until somebody releases it.
  execFileSync('postconf', ['-c', `${project.stateDir}/postfix`, '-e', 'defer_transports=lmtp'])
  execFileSync('postfix', ['-c', `${project.stateDir}/postfix`, 'reload'], { stdio: 'ignore' })
  await until('a queued message', async () => {
    await send(project.ports, BAR, 'queued')
    return (await status()).queue > 0
  })
  assert.match((await done('reset', '--yes')).stdout, /Deleted: \d+ messages in 6 mailboxes, \d+ in the queue/)
  const { accounts, queue } = await status()
  assert.deepEqual([queue, accounts.length], [0, 6])
  for (const { inbox, otherFolders } of accounts) assert.deepEqual([inbox, otherFolders], [0, 0])
})

test('a new port that is taken leaves the server as it is', async () => {
  const masters = mastersOf(project)
  const holder = createServer().listen(0, host)
  await once(holder, 'listening')
  const { port } = holder.address() as AddressInfo
  const taken = await runIn(project, { env: { POP3S_PORT: `${port}` } }, 'start')
  holder.close()
  assert.match(taken.stderr, new RegExp(`Port ${port} .* in use by node \\(pid ${process.pid}\\).*POP3S_PORT`))
  assert.deepEqual(mastersOf(project), masters)
})

test('SMTP_ONLY=1 is a restart without Dovecot, and says what is off; mail waits', async () => {
  const change = (text: string) => text.replace('SMTP_ONLY=0', 'SMTP_ONLY=1')
  await changed(project.path('development-mail-server.env'), change, async () => {
    const { stdout, stderr } = await done('start')
    assert.ok(!existsSync(`${project.stateDir}/run/master.pid`))
    assert.match(
      stdout,
      /SMTP_ONLY=1 .*: there are no mailboxes, and nobody can log in\. Mail .*\n.*waits in the queue/,
    )
    assert.doesNotMatch(stdout + stderr, /Password|catchall|POP3|pop_email|send_email/)
    assert.equal(await send(project.ports, BAR, 'queued for lack of Dovecot'), null)
    const said = /\n\nNo mailboxes and no logins: SMTP_ONLY=1 .*\n.*\nQueue: 1 message\n/
    assert.match((await done('status')).stdout, said)
  })
})

test('with new ports and all services a start is a restart, and what waited arrives', async () => {
  await project.takePorts()
  project.env.MAIL_SERVER_STATE_DIR = project.stateDir
  assert.match((await run('start')).stderr, /Postfix without Dovecot\. It is started anew/)
  assert.equal(await send(project.ports, BAR, 'on the new port'), null)
  await until('the mail', async () => (await subjects(BAR)).includes('queued for lack of Dovecot'))
})

test('a server whose state folder is gone can be stopped, and the next one made in spite of a umask', async () => {
  rmSync(project.stateDir, { recursive: true })
  assert.match((await done('stop')).stdout, /is stopped/)
  await assert.rejects(send(project.ports, BAR, 'too late'), /ECONNREFUSED/)
  project.runner = ['sh', '-c', 'umask 077 && exec "$@"', 'sh']
  assert.equal((await project.run('start')).code, 0)
  // By this file other users see that the server runs.
  assert.equal(statSync(`${project.stateDir}/started.json`).mode & 0o777, 0o644)
})
