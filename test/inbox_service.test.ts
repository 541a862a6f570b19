/** The inbox as npm start, npm stop and npm run inbox run it. */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { after, before, test } from 'node:test'
import { ROOT } from '../scripts/lib/settings.ts'
import { Project, type Result, until } from './harness.ts'
import { runIn } from './here.ts'
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

const run = (script: string, ...args: string[]) => runIn(project, {}, script, ...args)
const ok = ({ code, stdout, stderr }: Result) => {
  assert.equal(code, 0, stderr)
  return stdout
}
const get = async (path: string) => (await fetch(url + path)).json()
const isUp = (at = url) => fetch(at).then(Boolean, () => false)
const record = () => `${project.stateDir}/inbox.json`
const recordOf = () => JSON.parse(readFileSync(record(), 'utf8'))
const statusOf = async () => JSON.parse(ok(await run('status', '--json')))

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}

/** Runs a script until SIGINT, sent when something is true; gives its exit code. */
async function interrupt(script: string, when: (out: string) => boolean): Promise<unknown> {
  const command = ['scripts/lib/launch.mjs', script]
  const child: ChildProcess = spawn(process.execPath, command, { cwd: project.dir, env: project.env })
  const ended = new Promise((resolve) => child.once('close', resolve))
  let out = ''
  child.stdout?.on('data', (text) => {
    out += text
  })
  await until('it is as far', () => when(out), 60_000)
  child.kill('SIGINT')
  return ended
}

test('npm start starts the inbox, once, and status names it; an interrupted one leaves none', async () => {
  assert.equal(await interrupt('start', () => existsSync(record())), 130)
  assert.deepEqual([await isUp(), existsSync(record())], [false, false])
  assert.match(ok(await run('start')), new RegExp(`^${url} +Inbox +none$`, 'm'))
  assert.equal((await get('api/v1/mailboxes')).length, 4)
  const { pid } = recordOf()
  assert.match(ok(await run('start')), new RegExp(url))
  assert.equal(recordOf().pid, pid)
  assert.match(ok(await run('status')), new RegExp(`^${url} +Inbox +none$`, 'm'))
  assert.equal((await statusOf()).inbox, url)
})

test('an account that is added later is there, with its mail', async () => {
  const address = 'later@development-virtual.example.com'
  ok(await runIn(project, { input: 'secret\n' }, 'add_account', address, '--password-stdin'))
  await sendRaw(project.ports.smtp, address, Buffer.from('Subject: Later\r\n\r\ntext\r\n'))
  const message = await get(`api/v1/message/latest?query=to:${address}&wait=60`)
  assert.deepEqual(message.Mailboxes, [address])
  assert.equal((await get('api/v1/mailboxes')).length, 5)
  ok(await run('add_account', '--delete', address, '--yes'))
  await until('the mailbox is gone', async () => (await get('api/v1/mailboxes')).length === 4)
  assert.deepEqual((await get(`api/v1/search?query=to:${address}`)).messages, [])
})

const AS_NOBODY = ['--reuid', 'nobody', '--clear-groups', 'ls', `${ROOT}/node_modules`]
// The packages are the checkout's own, which may lie below somebody's closed home.
const skip = spawnSync('setpriv', AS_NOBODY).status !== 0 && 'nobody may not read the packages here'
test('one that was killed is started anew; by sudo as the user whose project it is', { skip }, async () => {
  process.kill(recordOf().pid, 'SIGKILL')
  await until('it is gone', async () => !(await isUp()))
  assert.equal((await statusOf()).inbox, null)
  execFileSync('chown', ['65534:65534', project.dir])
  execFileSync('chown', ['-R', '65534:65534', project.path('scripts'), project.path('docker-data')])
  ok(await runIn(project, { env: { SUDO_UID: '65534', SUDO_GID: '65534' } }, 'start'))
  const ids = readFileSync(`/proc/${recordOf().pid}/status`, 'utf8')
  assert.match(ids, /^Uid:\t65534\t65534\t65534\t65534\nGid:\t65534\t/m)
  assert.equal((await get('api/v1/mailboxes')).length, 4)
})

test('another port takes effect; a taken one is a line, and the mail server runs without its inbox', async () => {
  const port = await freePort()
  const other = `http://127.0.0.1:${port}/`
  // Where others reach it, the start says so.
  const { stderr: warning } = await runIn(
    project,
    { env: { INBOX_PORT: String(port), BIND_ADDRESS: '0.0.0.0' } },
    'start',
  )
  assert.match(
    warning,
    /^BIND_ADDRESS=0\.0\.0\.0: whoever reaches port \d+ of this machine reads and deletes all mail\.$/m,
  )
  assert.deepEqual([await isUp(), await isUp(other)], [false, true])
  const taken = createServer().listen(Number(project.env.INBOX_PORT), '127.0.0.1')
  try {
    const why = String.raw`Port \d+ \(inbox\) on 127\.0\.0\.1 is in use by node`
    const { code, stderr } = await run('start')
    assert.equal(code, 0)
    assert.match(
      stderr,
      new RegExp(`^The mail server runs without its inbox\\. ${why} \\(pid \\d+\\)\\. .*INBOX_PORT`, 'm'),
    )
    const foreground = await run('inbox')
    assert.equal(foreground.code, 1)
    assert.match(foreground.stderr, new RegExp(`^${why}`))
  } finally {
    taken.close()
  }
  assert.equal((await statusOf()).inbox, null)
  assert.doesNotMatch(ok(await runIn(project, { env: { INBOX_PORT: '0' } }, 'start')), /Inbox/)
  const off = await runIn(project, { env: { INBOX_PORT: '0' } }, 'inbox')
  assert.deepEqual([off.code, /INBOX_PORT=0/.test(off.stderr)], [2, true])
  const same = await runIn(project, { env: { INBOX_PORT: String(project.ports.smtp) } }, 'start')
  assert.deepEqual([same.code, /INBOX_PORT=\d+: SMTP_PORT has this port/.test(same.stderr)], [2, true])
})

test('npm run inbox runs until it is interrupted; npm stop ends that of npm start', async () => {
  assert.equal(await interrupt('inbox', (out) => out.includes(url)), 0)
  assert.equal(await isUp(), false)
  ok(await run('start'))
  assert.ok(await isUp())
  ok(await run('stop'))
  assert.deepEqual([await isUp(), existsSync(record())], [false, false])
})

test('what the scripts load is installed without the packages of the tests', () => {
  const { dependencies } = JSON.parse(readFileSync(`${ROOT}/package.json`, 'utf8'))
  const files = readdirSync(`${ROOT}/scripts`, { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\.ts$/.test(name),
  )
  const texts = files.map((name) => readFileSync(`${ROOT}/scripts/${name}`, 'utf8')).join('\n')
  const names = [...texts.matchAll(/(?:^import .* from |import\()'(?!node:|\.)([\w-]+)/gm)].map(([, name = '']) => name)
  assert.ok(names.length > 10)
  assert.deepEqual(
    names.filter((name) => !(name in dependencies)),
    [],
  )
})
