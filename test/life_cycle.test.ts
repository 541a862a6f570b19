/** One server from its first start to its last: what takes effect how, and that no mail is lost on the way. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, chmodSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { after, test } from 'node:test'
import { encrypt } from 'unixcrypt'
import { BAR, CATCHALL, FOO, masterLogin } from '../scripts/lib/accounts/accounts.ts'
import { overImap } from '../scripts/lib/server/mailboxes.ts'
import { messagesOf, send, subjectsOf } from './deliveries.ts'
import { Project, processesOf, until } from './harness.ts'
import { runIn } from './here.ts'
import { DOVECOT_CF, holdDeliveries, mastersOf } from './instance.ts'
import { ok } from './mailboxes.ts'

const project = await Project.create()
// Only root can enter the project's folder; the state folder lies elsewhere.
chmodSync(project.dir, 0o700)
Object.assign(project, { stateDir: `${project.dir}-state` })
project.env.MAIL_SERVER_STATE_DIR = project.stateDir
after(async () => {
  await project.remove()
  rmSync(project.stateDir, { recursive: true })
})

const run = (script: string, ...args: string[]) => runIn(project, {}, script, ...args)
const status = async () => JSON.parse((await run('status', '--json')).stdout)
const subjects = async (account: string) => subjectsOf(await messagesOf(project, account))

/** What a run that goes well prints. */
const done = async (script: string, ...args: string[]) => ok(await run(script, ...args))

/** Changes a file until `work` is done. */
async function changed(path: string, change: (text: string) => string, work: () => Promise<void>): Promise<void> {
  const text = readFileSync(path, 'utf8')
  writeFileSync(path, change(text))
  await work().finally(() => writeFileSync(path, text))
}

test('the first start proves itself by a mail, shows ports, accounts, passwords and commands, and leaves no mail', async () => {
  const first = await done('start')
  assert.match(first, /read back over POP3 and deleted: \d+ ms/)
  for (const port of Object.values(project.ports)) assert.match(first, new RegExp(`127\\.0\\.0\\.1:${port} `))
  for (const name of ['catchall@development-mail-server', 'foo@development-virtual', 'baz@development-virtual']) {
    assert.match(first, new RegExp(`${name}\\.example\\.com +(catchall|foo)\n`))
  }
  assert.match(first, /npx tsx scripts\/send_email\.ts/)
  const { accounts, queue, running, engine } = await status()
  assert.deepEqual([running, engine, queue], [true, 'native', 0])
  for (const { inbox, otherFolders } of accounts) assert.deepEqual([inbox, otherFolders], [0, 0])
  // What holds a password hash is for its owners only, and nothing of the instance stands below /etc.
  for (const name of ['config/postfix-accounts.cf', 'config/dovecot-master-users', 'dovecot/userdb', 'tls/key.pem']) {
    assert.equal(statSync(`${project.stateDir}/${name}`).mode & 0o007, 0, name)
  }
  const grep = `grep -rl '${project.dir}' /etc/postfix /etc/dovecot 2>/dev/null || true`
  assert.equal(execFileSync('sh', ['-c', grep]).toString(), '')
})

test('status shows engine, versions, messages and queue; logs the last lines', async () => {
  await send(project.ports, BAR, 'counted')
  await until('one message', async () => (await status()).accounts[2].inbox === 1)
  const shown = /engine: native, Postfix 3\.\d+\.\d+, Dovecot 2\.\d+\.[\s\S]*bar@\S+ +1 +0\n[\s\S]*Queue: empty/
  assert.match(await done('status'), shown)
  // One more in the file, which no start has told the server of.
  const accounts = readFileSync(project.config('postfix-accounts.cf'))
  appendFileSync(project.config('postfix-accounts.cf'), `early@later.example|{PLAIN}x\n`)
  const early = await run('status', '--json')
  writeFileSync(project.config('postfix-accounts.cf'), accounts)
  const counts = JSON.parse(early.stdout).accounts.map(({ inbox }: { inbox: number | null }) => inbox)
  assert.deepEqual([early.code, counts], [3, [0, 0, 1, 0, null]], early.stderr)
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
    assert.match(await starting, new RegExp(`runs already[\\s\\S]*${address} +\\(set by you\\)`))
  }
  flowing = false
  await flow
  assert.deepEqual(mastersOf(project), masters)
  const arrived = async () => (await subjects(CATCHALL)).filter((one) => /^flow/.test(one)).length
  await until('all of the flow', async () => (await arrived()) === sent)
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

test('mail survives a stop and a start under the same UIDL, also one of several at the same time', async () => {
  await send(project.ports, BAR, 'survivor')
  await until('the survivor', async () => (await subjects(BAR)).includes('survivor'))
  const mails = await done('pop_email', '--json')
  assert.match(await done('stop'), /is stopped/)
  assert.equal(processesOf(project), '')
  assert.match(await done('stop'), /was not running/)
  const down = await run('status')
  assert.deepEqual([down.code, /not running/.test(down.stdout)], [1, true])
  const starts = await Promise.all([run('start'), project.run('start')])
  for (const { code, stderr } of starts) assert.equal(code, 0, stderr)
  assert.equal(await done('pop_email', '--json'), mails)
})

test('reset asks for --yes without a terminal, then empties all folders and the queue and keeps the accounts', async () => {
  assert.equal((await run('reset')).code, 2)
  await overImap(project, masterLogin(FOO), async (client) => {
    const { path } = await client.mailboxCreate(['Projects', 'Alpha'])
    await client.append(path, 'Subject: kept apart\r\n\r\nx\r\n')
    await client.append('Sent', 'Subject: sent\r\n\r\nx\r\n')
  })
  holdDeliveries(project)
  await until('a queued message', async () => {
    await send(project.ports, BAR, 'queued')
    return (await status()).queue > 0
  })
  assert.match(await done('reset', '--yes'), /Deleted: \d+ messages in 6 mailboxes, \d+ in the queue/)
  const { accounts, queue } = await status()
  assert.deepEqual([queue, accounts.length], [0, 6])
  for (const { inbox, otherFolders } of accounts) assert.deepEqual([inbox, otherFolders], [0, 0])
})

test('a new port that is taken leaves the server as it is', async () => {
  const masters = mastersOf(project)
  const holder = createServer().listen(0, '127.0.0.1')
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
    const { code, stdout, stderr } = await run('start')
    assert.equal(code, 0, stderr)
    assert.ok(!existsSync(`${project.stateDir}/run/master.pid`))
    assert.match(
      stdout,
      /SMTP_ONLY=1 .*: there are no mailboxes, and nobody can log in\. Mail .*\n.*waits in the queue/,
    )
    assert.doesNotMatch(stdout + stderr, /Password|catchall|POP3|pop_email|send_email/)
    assert.equal(await send(project.ports, BAR, 'queued for lack of Dovecot'), null)
    const said = /\n\nNo mailboxes and no logins: SMTP_ONLY=1 .*\n.*\nQueue: 1 message\n/
    assert.match(await done('status'), said)
    const doctor = (await run('doctor', '--verbose')).stdout
    assert.match(doctor, /^warning {2}environment\n.* SMTP_ONLY=1[\s\S]* 0 failures, 1 warning/m)
    assert.match(doctor, /ok {2}logins\n.*without a login/)
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
  assert.match(await done('stop'), /is stopped/)
  await assert.rejects(send(project.ports, BAR, 'too late'), /ECONNREFUSED/)
  project.runner = ['sh', '-c', 'umask 077 && exec "$@"', 'sh']
  assert.equal((await project.run('start')).code, 0)
  // By this file other users see that the server runs.
  assert.equal(statSync(`${project.stateDir}/started.json`).mode & 0o777, 0o644)
})
