/** add-account changes the files of a stopped server: whole files, whoever else writes and whatever ends it. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { hostname } from 'node:os'
import { after, beforeEach, test } from 'node:test'
import { type Configuration, FILES, type FileName } from '../scripts/lib/accounts/configuration.ts'
import { diesAt } from './death.ts'
import { AS_NOBODY, Project, type Result, until } from './harness.ts'
import { load, runIn } from './here.ts'
import { ok } from './mailboxes.ts'

const DOMAIN = 'development-virtual.example.com'
const LOCK = 'check-for-changes.sh.lock'
/** docker-mailserver's own lock has a UUID in it. */
const FOREIGN = '0f3b0a5e-5d6f-4d7c-9a43-5a5bb4f4c6a1\n'

const project = await Project.create()
after(() => project.remove())
beforeEach(() => write(original))

const read = (name: FileName) => fs.readFileSync(project.config(name), 'utf8')
const texts = () => Object.fromEntries(FILES.map((name) => [name, read(name)])) as Configuration
const original = texts()
const write = (all: Configuration) => {
  for (const name of FILES) fs.writeFileSync(project.config(name), all[name])
}
const leftovers = () => fs.readdirSync(project.config('.')).filter((name) => /\.(lock|tmp)$/.test(name))
const add = (...args: string[]) => runIn(project, {}, 'add_account', ...args)
/** What a run that goes well prints. */
const succeeds = async (...args: string[]) => ok(await add(...args))
/** The environment of a script that gets a signal as soon as one of its calls has changed a file whose path matches. */
const signalled = (call: 'writeFileSync' | 'renameSync', path: RegExp, signal: NodeJS.Signals) => {
  const preload = project.path('preload.cjs')
  const code = `const fs = require('node:fs'), real = fs.${call}
    fs.${call} = (...args) => { real(...args); if (args.some((path) => ${path}.test(path))) process.kill(process.pid, '${signal}') }
    require('node:module').syncBuiltinESMExports()`
  fs.writeFileSync(preload, code)
  return { NODE_OPTIONS: `--require ${preload}` }
}
/** One line of what is wrong, and the files are what they were. */
const fails = ({ code, stderr }: Result, message: RegExp) => {
  assert.deepEqual([code, stderr.trim().split('\n').length], [1, 1], stderr)
  assert.match(stderr, message)
  assert.deepEqual(texts(), original)
}
const asNobody = async (...args: string[]) => {
  project.runner = ['setpriv', ...AS_NOBODY]
  try {
    return await project.run('add_account', ...args)
  } finally {
    project.runner = []
  }
}

test('mode, owner, link and bytes of a file are kept; a missing accounts file is made for its owner alone', async () => {
  const file = project.config('postfix-accounts.cf')
  const target = project.path('elsewhere.cf')
  fs.renameSync(file, target)
  fs.symlinkSync(target, file)
  fs.chmodSync(target, 0o640)
  fs.chownSync(target, 1234, 1235)
  const latin = Buffer.from('# Fr\xf6sche, \xe3\x81\x82\n', 'latin1')
  fs.appendFileSync(target, latin)
  const stdout = await succeeds(`alice@${DOMAIN}`, 'secret')
  assert.match(stdout, /^Added alice@\S+\. The mail server is not running; .* npm start\n$/)
  const { mode, uid, gid } = fs.statSync(target)
  assert.deepEqual([mode & 0o7777, uid, gid, fs.lstatSync(file).isSymbolicLink()], [0o640, 1234, 1235, true])
  assert.match(fs.readFileSync(target, 'latin1'), /sche, \xe3\x81\x82\nalice@/)
  const rows = JSON.parse(await succeeds('--list', '--json'))
  assert.deepEqual([rows.length, rows[4].address, rows[4].messages], [5, `alice@${DOMAIN}`, null])
  fs.rmSync(file)
  await succeeds(`alice@${DOMAIN}`, 'secret')
  assert.equal(fs.statSync(file).mode & 0o777, 0o600)
  assert.match(read('postfix-accounts.cf'), /^alice@\S+\n$/)
  fs.chmodSync(file, 0o644)
})

test('twenty at once lose no line, and the lock of a dead process stops none of them', async () => {
  // This process lives, and does not hold it.
  fs.writeFileSync(project.config(LOCK), `${hostname()} ${process.pid}\n`)
  const names = Array.from({ length: 20 }, (_, index) => `user${index}@domain${index % 4}.example`)
  const run = (name: string, index: number) => {
    const args = ['add_account', name, 'secret', '--alias', `alias.${name}`] as const
    return index % 7 ? runIn(project, {}, ...args) : project.run(...args)
  }
  for (const { code, stderr } of await Promise.all(names.map(run))) assert.equal(code, 0, stderr)
  const accounts = read('postfix-accounts.cf').split('\n')
  for (const name of names) {
    assert.equal(accounts.filter((line) => line.startsWith(`${name}|{SHA512-CRYPT}$6$`)).length, 1, name)
    assert.match(read('postfix-virtual.cf'), new RegExp(`^alias\\.${name} ${name}$`, 'm'))
  }
  assert.equal(read('postfix-transport_maps').match(/^\/@domain\d\\\.example\$\/ +:$/gm)?.length, 4)
  assert.equal(accounts.length, original['postfix-accounts.cf'].split('\n').length + 20)
  assert.deepEqual(leftovers(), [])
})

test("another's lock is waited for, and taken over when it is older than a minute; an empty one sooner", async () => {
  const lock = project.config(LOCK)
  fs.writeFileSync(lock, FOREIGN)
  const waiting = add(`alice@${DOMAIN}`, 'secret')
  const isOver = waiting.then(() => true)
  // It looks at the lock every 20 ms.
  let looks = 0
  await until('many looks', async () => ++looks > 20 || Promise.race([isOver, false]))
  assert.deepEqual(texts(), original)
  fs.rmSync(lock)
  assert.equal((await waiting).code, 0)
  for (const [name, text, age] of [
    ['bob', FOREIGN, 61_000],
    ['eve', '', 2_000],
  ] as const) {
    fs.writeFileSync(lock, text)
    const past = new Date(Date.now() - age)
    fs.utimesSync(lock, past, past)
    await succeeds(`${name}@${DOMAIN}`, 'secret')
    assert.deepEqual(leftovers(), [])
  }
})

test('a lock whose holder lives, and is stopped, is kept from others and from the doctor', async () => {
  const held = project.config('dovecot-quotas.cf.tmp')
  // Stops when it holds the lock and has written the first file.
  const env = signalled('writeFileSync', /quotas.*tmp$/, 'SIGSTOP')
  const stopped = project.runWith({ env }, 'add_account', `alice@${DOMAIN}`, 'x', '--quota', '1M')
  await until('the lock and a file', () => fs.existsSync(held), 60_000)
  const owner = Number(fs.readFileSync(project.config(LOCK), 'utf8').split(' ')[1])
  fs.utimesSync(project.config(LOCK), 0, 0)
  await runIn(project, {}, 'doctor', '--fix', '--only', 'leftovers')
  assert.deepEqual(leftovers().sort(), [LOCK, 'dovecot-quotas.cf.tmp'])
  process.kill(owner, 'SIGCONT')
  assert.equal((await stopped).code, 0)
  assert.deepEqual(leftovers(), [])
})

test('stopped at any of its steps, a change leaves whole files, and is found, mended, or done again', async (context) => {
  const { change, readConfiguration } = await load(project, 'lib/accounts/configuration')
  const { addAccount, deleteAccount, remainsOf, repaired } = await load(project, 'lib/accounts/changes')
  const account = 'user@domain.example'
  const request = { address: account, hash: '{PLAIN}x', quota: '1M', aliases: ['info@also.example'] }
  const adding = (now: Configuration) => addAccount(now, request)
  const deleting = (now: Configuration) => deleteAccount(now, account, false)
  const whole = adding(original)
  /** Half a lock is somebody's until it is old. */
  const bury = () => fs.existsSync(project.config(LOCK)) && fs.utimesSync(project.config(LOCK), 0, 0)
  let [deaths, remains] = [0, 0]
  for (const [edit, begin, end] of [
    [adding, original, whole],
    [deleting, whole, original],
  ] as const) {
    write(begin)
    for (let step = 0; await diesAt(step, project.config('.'), () => change(edit)); step++, deaths++) {
      bury()
      const half = readConfiguration()
      const left: { name: string }[] = remainsOf(half)
      remains += left.length
      for (const { name } of left) assert.match(name, /^(user@)?(domain|also)\.example$/)
      // An account is there only when all that it needs is, and without it what is left is told.
      const isThere = half['postfix-accounts.cf'].includes(account)
      assert.deepEqual(isThere || left.length === 0 ? half : original, isThere ? whole : original)
      await change(repaired)
      assert.deepEqual([texts(), leftovers()], [isThere ? whole : original, []], `step ${step}, mended`)
      write(half)
      if (isThere === (edit === adding) && left.length === 0) assert.deepEqual(texts(), end)
      else await change(edit)
      assert.deepEqual([texts(), leftovers()], [end, []], `step ${step}, done again`)
      write(begin)
    }
  }
  context.diagnostic(`${deaths} deaths, ${remains} remains`)
  assert.ok(deaths > 40 && remains > 20)
})

test('really killed between two files, it is taken back by the doctor, or done by the next run', async () => {
  const adding = ['add_account', 'user@domain.example', 'secret', '--quota', '1M'] as const
  const dies = async (file: RegExp, ...args: [string, ...string[]]) =>
    assert.equal((await project.runWith({ env: signalled('renameSync', file, 'SIGKILL') }, ...args)).code, null)
  await dies(/regexp\.cf$/, ...adding)
  assert.deepEqual(leftovers().sort(), [LOCK, 'dovecot-quotas.cf.tmp', 'postfix-accounts.cf.tmp'])
  for (const check of ['remains', 'leftovers']) await runIn(project, {}, 'doctor', '--fix', '--only', check)
  assert.deepEqual([texts(), leftovers()], [original, []])

  await succeeds(...adding.slice(1), '--alias', 'info@also.example')
  const mailbox = `${project.stateDir}/mail/domain.example/user`
  fs.mkdirSync(mailbox, { recursive: true })
  const deleting = ['add_account', '--delete', 'user@domain.example', '--yes'] as const
  await dies(/postfix-virtual\.cf$/, ...deleting)
  assert.ok(!fs.existsSync(mailbox))
  const { stderr } = await add(`alice@${DOMAIN}`, 'x')
  assert.match(stderr, /transport_maps line \d+: also\.example .*doctor -- --fix/)
  await succeeds('--delete', `alice@${DOMAIN}`, '--yes')
  await succeeds(...deleting.slice(1))
  assert.deepEqual([texts(), leftovers()], [original, []])
})

test('a disk that is really full, a read-only folder: nothing changes, and the message names the next command', async () => {
  const folder = project.config('.')
  const saved = project.path('saved')
  execFileSync('cp', ['-a', folder, saved])
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=96k', 'tmpfs', folder])
  try {
    fs.appendFileSync(`${saved}/postfix-aliases.cf`, '# CRLF\r\n')
    const fill = `cp -a ${saved}/. ${folder}/ && (cat /dev/zero >${folder}/filler || true)`
    execFileSync('sh', ['-c', fill], { stdio: 'ignore' })
    const adding = ['a@full.example', 'secret', '--quota', '1M']
    fails(await add(...adding), /lock cannot be written: ENOSPC: .*Nothing was changed\. .*df -h/)
    // Room for the lock alone.
    fs.truncateSync(project.config('filler'), fs.statSync(project.config('filler')).size - 4096)
    fails(await add(...adding), /transport_maps cannot be written: ENOSPC: .*Nothing was changed\. .*df -h/)
    const { stderr } = await runIn(project, {}, 'doctor', '--fix', '--only', 'line-ends')
    assert.match(stderr, /not mended: .*postfix-aliases\.cf cannot be written: ENOSPC: .*df -h/)
    fs.rmSync(project.config('filler'))
    assert.deepEqual(leftovers(), [])
    execFileSync('mount', ['-o', 'remount,ro', folder])
    fails(await add(...adding), /cannot be written: EROFS: .*Nothing was changed\. .*findmnt/)
  } finally {
    execFileSync('umount', [folder])
    fs.rmSync(saved, { recursive: true })
  }
})

test('files that cannot be written or read are named, and nothing changes', async () => {
  for (const name of ['postfix-accounts.cf', 'postfix-transport_maps'] as const) {
    fs.chmodSync(project.config(name), 0o444)
    fails(await add('a@read-only.example', 'x'), new RegExp(`${name} cannot be written: it is read-only.*ls -ld`))
    fs.chmodSync(project.config(name), 0o644)
  }
  const quotas = project.config('dovecot-quotas.cf')
  for (const [make, fact] of [
    [() => fs.mkdirSync(quotas), /dovecot-quotas\.cf: it is a folder.*npm run doctor/],
    [() => fs.writeFileSync(quotas, Buffer.from('# x', 'utf16le')), /dovecot-quotas\.cf: it is UTF-16/],
  ] as const) {
    fs.rmSync(quotas)
    make()
    const { code, stderr } = await add(`alice@${DOMAIN}`, 'secret')
    assert.deepEqual([code, fact.test(stderr)], [1, true], stderr)
    fs.rmSync(quotas, { recursive: true })
    write(original)
  }
  assert.deepEqual(leftovers(), [])
  execFileSync('chown', ['-R', '0', project.path('docker-data')])
  fails(await asNobody(`a@${DOMAIN}`, 'secret'), /lock cannot be written: EACCES.*ls -ld/)
})

test('the mail of a stopped server goes with its account, and where it is out of reach nothing goes', async () => {
  const folder = `${project.stateDir}/mail/${DOMAIN}/baz`
  fs.mkdirSync(`${folder}/cur`, { recursive: true })
  assert.equal((await add('--delete', `baz@${DOMAIN}`)).code, 2)
  fails(await asNobody('--delete', `baz@${DOMAIN}`, '--yes'), /needs root.* scripts\/add_account\.ts --delete baz@/)
  await succeeds('--delete', `baz@${DOMAIN}`, '--yes')
  assert.ok(!fs.existsSync(folder))
  fs.rmSync(project.stateDir, { recursive: true })
})

test('the mail in the Docker volume of a stopped server goes with its account', async () => {
  const bin = project.path('bin')
  const log = project.path('docker.log')
  fs.mkdirSync(bin)
  const docker = `echo "$*" >>${log}\n[ "$1" = container ] && exit 1\ncase "$* $BROKEN" in *" run "*y) echo no volume >&2; exit 1; esac\n`
  fs.writeFileSync(`${bin}/docker`, `#!/bin/sh\n${docker}`, { mode: 0o755 })
  const env = { MAIL_SERVER_ENGINE: 'docker', PATH: `${bin}:${process.env.PATH}` }
  const remove = (more: object) =>
    project.runWith({ env: { ...env, ...more } }, 'add_account', '--delete', `baz@${DOMAIN}`, '--yes')
  const deleted = await remove({})
  assert.equal(deleted.code, 0, deleted.stderr)
  assert.match(deleted.stdout, /^Deleted baz@\S+ and its mail\. The mail server is not running/)
  const run = `run --rm --no-deps --entrypoint rm development-mail-server -rf -- /var/mail/${DOMAIN}/baz\n`
  assert.ok(fs.readFileSync(log, 'utf8').endsWith(run), fs.readFileSync(log, 'utf8'))

  write(original)
  const left = await remove({ BROKEN: 'y' })
  fails(left, /mail of baz@\S+ could not be removed: .*no volume/)
})
