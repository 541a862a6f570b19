/** The inbox as npm start, npm stop and npm run inbox run it. */
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { after, before, test } from 'node:test'
import { ROOT } from '../scripts/lib/settings.ts'
import { Project, type Result, until } from './harness.ts'
import { sendRaw } from './smtp_raw.ts'

let project: Project
let url: string
before(async () => {
  project = await Project.create()
  const port = await freePort()
  project.env.INBOX_PORT = String(port)
  url = `http://127.0.0.1:${port}/`
})
after(() => project?.remove())

const ok = ({ code, stdout, stderr }: Result) => {
  assert.equal(code, 0, stderr)
  return stdout
}
const get = async (path: string) => (await fetch(url + path)).json()
const isUp = (at = url) =>
  fetch(at).then(
    () => true,
    () => false,
  )
const recordOf = () => JSON.parse(readFileSync(`${project.stateDir}/inbox.json`, 'utf8'))

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}

test('npm start starts the inbox, once, and status names it', async () => {
  assert.match(ok(await project.run('start')), new RegExp(`^${url} +Inbox +none$`, 'm'))
  assert.equal((await get('api/v1/mailboxes')).length, 4)
  const { pid } = recordOf()
  assert.match(ok(await project.run('start')), new RegExp(url))
  assert.equal(recordOf().pid, pid)
  assert.match(ok(await project.run('status')), new RegExp(`^${url} +Inbox +none$`, 'm'))
  assert.equal(JSON.parse(ok(await project.run('status', '--json'))).inbox, url)
})

test('an account that is added later is there, with its mail', async () => {
  const address = 'later@development-virtual.example.com'
  ok(await project.runWith({ input: 'secret\n' }, 'add_account', address, '--password-stdin'))
  await sendRaw(project.ports.smtp, address, Buffer.from('Subject: Later\r\n\r\ntext\r\n'))
  const message = await get(`api/v1/message/latest?query=to:${address}&wait=60`)
  assert.deepEqual(message.Mailboxes, [address])
  assert.equal((await get('api/v1/mailboxes')).length, 5)
  ok(await project.run('add_account', '--delete', address, '--yes'))
  await until('the mailbox is gone', async () => (await get('api/v1/mailboxes')).length === 4)
  assert.deepEqual((await get(`api/v1/search?query=to:${address}`)).messages, [])
})

test('another port takes effect; a taken one is a line, and the mail server runs without its inbox', async () => {
  const port = await freePort()
  const other = `http://127.0.0.1:${port}/`
  assert.match(ok(await project.runWith({ env: { INBOX_PORT: String(port) } }, 'start')), new RegExp(other))
  assert.deepEqual([await isUp(), await isUp(other)], [false, true])
  const taken = createServer().listen(Number(project.env.INBOX_PORT), '127.0.0.1')
  try {
    const { code, stderr } = await project.run('start')
    assert.equal(code, 0)
    assert.match(
      stderr,
      /^The mail server runs without its inbox\. Port \d+ \(inbox\) on 127\.0\.0\.1 is in use by node \(pid \d+\)\. .*INBOX_PORT.*$/m,
    )
    const foreground = await project.run('inbox')
    assert.equal(foreground.code, 1)
    assert.match(foreground.stderr, /^Port \d+ \(inbox\) on 127\.0\.0\.1 is in use by node/)
  } finally {
    taken.close()
  }
  assert.equal(JSON.parse(ok(await project.run('status', '--json'))).inbox, null)
  assert.doesNotMatch(ok(await project.runWith({ env: { INBOX_PORT: '0' } }, 'start')), /Inbox/)
  const off = await project.runWith({ env: { INBOX_PORT: '0' } }, 'inbox')
  assert.deepEqual([off.code, /INBOX_PORT=0/.test(off.stderr)], [2, true])
  const same = await project.runWith({ env: { INBOX_PORT: String(project.ports.smtp) } }, 'start')
  assert.deepEqual([same.code, /INBOX_PORT=\d+: SMTP_PORT has this port/.test(same.stderr)], [2, true])
})

test('npm run inbox runs until it is interrupted', async () => {
  const child = spawn(process.execPath, ['scripts/lib/launch.mjs', 'inbox'], { cwd: project.dir, env: project.env })
  let out = ''
  child.stdout.on('data', (text) => {
    out += text
  })
  const ended = new Promise((resolve) => child.once('close', (code) => resolve(code)))
  await until('it listens', () => out.includes(url), 60_000)
  assert.ok(await isUp())
  child.kill('SIGINT')
  assert.equal(await ended, 0)
  assert.equal(await isUp(), false)
})

test('an inbox that was killed is started anew; npm stop ends it', async () => {
  ok(await project.run('start'))
  process.kill(recordOf().pid, 'SIGKILL')
  await until('it is gone', async () => !(await isUp()))
  assert.equal(JSON.parse(ok(await project.run('status', '--json'))).inbox, null)
  ok(await project.run('start'))
  assert.ok(await isUp())
  ok(await project.run('stop'))
  assert.equal(await isUp(), false)
  assert.ok(!existsSync(`${project.stateDir}/inbox.json`))
})

test('a start that fails leaves no inbox; one that is killed leaves none that nobody knows of', async () => {
  const accounts = project.config('dovecot.cf')
  const before = readFileSync(accounts, 'utf8')
  writeFileSync(accounts, `${before}\nservice imap-login {\n  executable = /bin/false\n}\n`)
  try {
    const { code } = await project.runWith({ timeout: 120_000 }, 'start')
    assert.notEqual(code, 0)
    assert.equal(await isUp(), false)
    assert.ok(!existsSync(`${project.stateDir}/inbox.json`))
  } finally {
    writeFileSync(accounts, before)
  }
  for (const milliseconds of [1_500, 2_500, 4_000]) {
    await project.runWith({ timeout: milliseconds }, 'start')
    await until('recorded, or gone', async () => existsSync(`${project.stateDir}/inbox.json`) || !(await isUp()))
  }
  ok(await project.run('stop'))
  assert.equal(await isUp(), false)
})

test('where others reach it, the start says so', async () => {
  const { stderr } = await project.runWith({ env: { BIND_ADDRESS: '0.0.0.0' } }, 'start')
  assert.match(
    stderr,
    /^BIND_ADDRESS=0\.0\.0\.0: whoever reaches port \d+ of this machine reads and deletes all mail\.$/m,
  )
  ok(await project.runWith({ env: { BIND_ADDRESS: '0.0.0.0' } }, 'stop'))
})

const AS_NOBODY = ['--reuid', 'nobody', '--clear-groups', 'ls', `${ROOT}/node_modules`]
// The packages are the checkout's own, which may lie below somebody's closed home.
const skip = spawnSync('setpriv', AS_NOBODY).status !== 0 && 'nobody may not read the packages here'
test('by sudo it is the user whose project it is that serves, and not root', { skip }, async () => {
  ok(await project.run('stop'))
  execFileSync('chown', ['65534:65534', project.dir])
  execFileSync('chown', ['-R', '65534:65534', project.path('scripts'), project.path('docker-data')])
  ok(await project.runWith({ env: { SUDO_UID: '65534', SUDO_GID: '65534' } }, 'start'))
  assert.match(
    readFileSync(`/proc/${recordOf().pid}/status`, 'utf8'),
    /^Uid:\t65534\t65534\t65534\t65534\nGid:\t65534\t/m,
  )
  assert.equal((await get('api/v1/mailboxes')).length, 4)
  ok(await project.run('stop'))
  assert.equal(await isUp(), false)
})
