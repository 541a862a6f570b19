/** The inbox as npm start, npm stop and npm run inbox run it. */
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { after, before, test } from 'node:test'
import { ROOT, type Settings } from '../scripts/lib/settings.ts'
import { Project, programOf, until } from './harness.ts'
import { load, runIn } from './here.ts'
import { ok } from './mailboxes.ts'
import { sendRaw } from './smtp_raw.ts'

let project: Project
let url: string
let settings: Settings
let service: typeof import('../scripts/lib/inbox/service.ts')
before(async () => {
  project = await Project.create()
  project.env.INBOX_PORT = String(project.inboxPort)
  url = urlAt(project.inboxPort)
  Object.assign(process.env, project.env)
  settings = (await load(project, 'lib/settings')).readSettings()
  service = await load(project, 'lib/inbox/service')
})
after(() => project?.remove())

const urlAt = (port: number) => `http://127.0.0.1:${port}/`
const run = (script: string, ...args: string[]) => runIn(project, {}, script, ...args)
const get = async (path: string) => (await fetch(url + path)).json()
const isUp = (at = url) => fetch(at).then(Boolean, () => false)
const pid = () => service.runningInbox(settings)?.pid

/** Runs a script until SIGINT, sent when something is true; gives its exit code. */
async function interrupt(script: string, when: (out: string) => boolean): Promise<unknown> {
  const child = spawn(process.execPath, programOf(`scripts/${script}`, project.dir), { env: project.env })
  const ended = new Promise((resolve) => child.once('close', resolve))
  let out = ''
  child.stdout.on('data', (text) => {
    out += text
  })
  await until('it is as far', () => when(out), 120_000)
  child.kill('SIGINT')
  return ended
}

test('npm start starts the inbox, once, and status names it; an interrupted one leaves none; npm stop ends it', async () => {
  assert.equal(await interrupt('start', () => Boolean(pid())), 130)
  assert.deepEqual([await isUp(), pid()], [false, undefined])
  const line = new RegExp(`^${url} +Inbox +none$`, 'm')
  assert.match(ok(await run('start')), line)
  const first = pid()
  assert.match(ok(await run('start')), line)
  assert.equal(pid(), first)
  assert.match(ok(await run('status')), line)

  // An account that is added later is there, with its mail.
  const address = 'later@development-virtual.example.com'
  ok(await runIn(project, { input: 'secret\n' }, 'add_account', address, '--password-stdin'))
  await sendRaw(project.ports.smtp, address, Buffer.from('Subject: Later\r\n\r\ntext\r\n'))
  const message = await get(`api/v1/message/latest?query=to:${address}&wait=120`)
  assert.deepEqual(message.Mailboxes, [address])
  assert.equal((await get('api/v1/mailboxes')).length, 5)
  ok(await run('add_account', '--delete', address, '--yes'))
  await until('the mailbox is gone', async () => (await get('api/v1/mailboxes')).length === 4, 60_000)
  assert.deepEqual((await get(`api/v1/search?query=to:${address}`)).messages, [])

  ok(await run('stop'))
  assert.deepEqual([await isUp(), existsSync(`${project.stateDir}/inbox.json`)], [false, false])
})

test('npm run inbox runs until it is interrupted', async () => {
  assert.equal(await interrupt('inbox', (out) => out.includes(url)), 0)
  assert.equal(await isUp(), false)
})

test('another port takes effect; a taken one, one that is off and an open one are told in a line', async () => {
  const start = (inboxPort = project.inboxPort) => {
    process.env.INBOX_PORT = String(inboxPort)
    return service.startInbox({ ...settings, inboxPort }, 'native')
  }
  assert.deepEqual(await start(), { url, isNew: true })
  process.kill(pid() ?? 0, 'SIGSTOP')
  assert.deepEqual(await start(), { url, isNew: true })
  const other = project.inboxPort + 1
  assert.deepEqual(await start(other), { url: urlAt(other), isNew: true })
  assert.deepEqual([await isUp(), await isUp(urlAt(other))], [false, true])
  const taken = createServer().listen(project.inboxPort, '127.0.0.1')
  try {
    const why = String.raw`Port \d+ \(inbox\) on 127\.0\.0\.1 is in use by node \(pid \d+\)\. .*INBOX_PORT`
    const { problem = '' } = await start()
    assert.match(problem, new RegExp(`^The mail server runs without its inbox\\. ${why}`))
    const { code, stderr } = await run('inbox')
    assert.deepEqual([code, new RegExp(`^${why}`).test(stderr)], [1, true], stderr)
  } finally {
    taken.close()
  }
  assert.equal(pid(), undefined)
  assert.deepEqual(await start(0), {})
  for (const port of ['0', String(project.ports.smtp)]) {
    const { code, stderr } = await runIn(project, { env: { INBOX_PORT: port } }, 'inbox')
    assert.deepEqual([code, /INBOX_PORT=\d+/.test(stderr)], [2, true], stderr)
  }
  assert.match(
    service.exposure({ ...settings, bindAddress: '0.0.0.0' }) ?? '',
    /^BIND_ADDRESS=0\.0\.0\.0: whoever reaches port \d+ of this machine reads and deletes all mail\.$/,
  )
})

// The packages are the checkout's own, which may lie below somebody's closed home.
const AS_NOBODY = ['--reuid', 'nobody', '--clear-groups', 'ls', `${ROOT}/node_modules/tsx/package.json`]
const skip = spawnSync('setpriv', AS_NOBODY).status !== 0 && 'nobody may not read the packages here'
test('one that was killed is started anew; by sudo as the user whose project it is', { skip }, async () => {
  process.env.INBOX_PORT = String(project.inboxPort)
  await service.startInbox(settings, 'native')
  process.kill(pid() ?? 0, 'SIGKILL')
  // A killed process may hold its port for a moment longer than it lives.
  await until('it is gone', async () => pid() === undefined && !(await isUp()), 60_000)
  execFileSync('chown', ['65534:65534', project.dir])
  Object.assign(process.env, { SUDO_UID: '65534', SUDO_GID: '65534' })
  assert.deepEqual(await service.startInbox(settings, 'native'), { url, isNew: true })
  const ids = readFileSync(`/proc/${pid()}/status`, 'utf8')
  assert.match(ids, /^Uid:\t65534\t65534\t65534\t65534\nGid:\t65534\t/m)
  assert.equal(await service.stopInbox(settings), true)
})

test('what the scripts load is installed without the packages of the tests', () => {
  const { dependencies } = JSON.parse(readFileSync(`${ROOT}/package.json`, 'utf8'))
  const files = readdirSync(`${ROOT}/scripts`, { recursive: true, encoding: 'utf8' })
  const texts = files
    .filter((name) => name.endsWith('.ts'))
    .map((name) => readFileSync(`${ROOT}/scripts/${name}`, 'utf8'))
  const imports = /(?:^import .* from |import\()'(?!node:|\.)([\w-]+)/gm
  const names = [...texts.join('\n').matchAll(imports)].map(([, name = '']) => name)
  assert.ok(names.length > 10)
  assert.deepEqual(
    names.filter((name) => !(name in dependencies)),
    [],
  )
})
