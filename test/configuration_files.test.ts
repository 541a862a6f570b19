import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { hostname } from 'node:os'
import { after, before, beforeEach, describe, test } from 'node:test'
import { PATTERNS } from './configurations.ts'
import { AS_NOBODY, Project, type Result, until } from './harness.ts'
import { runIn } from './here.ts'
import { killAtEveryStep } from './kills.ts'

const DOMAIN = 'development-virtual.example.com'
const FILES = [
  ...['postfix-accounts.cf', 'postfix-virtual.cf', 'dovecot-quotas.cf', 'postfix-transport_maps'],
  'postfix-regexp.cf',
]
const LOCK = 'check-for-changes.sh.lock'

describe('add_account changes the files of a stopped server', () => {
  let project: Project
  const original = new Map<string, string>()
  before(async () => {
    project = await Project.create()
    writeFileSync(project.config('postfix-regexp.cf'), PATTERNS)
    for (const name of FILES) original.set(name, read(name))
  })
  after(() => project?.remove())
  beforeEach(() => {
    for (const [name, text] of original) writeFileSync(project.config(name), text)
  })

  const read = (name: string) => readFileSync(project.config(name), 'utf8')
  const texts = () => FILES.map(read)
  const leftovers = () => readdirSync(project.config('.')).filter((name) => /\.(lock|tmp)$/.test(name))
  const add = (...args: string[]) => runIn(project, {}, 'add_account', ...args)
  const succeeds = async (...args: string[]): Promise<Result> => {
    const result = await add(...args)
    assert.equal(result.code, 0, result.stderr)
    return result
  }

  test('it says that the change takes effect at the next start', async () => {
    const { stdout } = await succeeds(`alice@${DOMAIN}`, 'secret')
    assert.match(stdout, /^Added alice@\S+\. The mail server is not running; .* npm start\n$/)
    const rows = JSON.parse((await succeeds('--list', '--json')).stdout)
    assert.equal(rows.length, 5)
    assert.deepEqual([rows[4].address, rows[4].messages, rows[4].bytes], [`alice@${DOMAIN}`, null, null])
    await succeeds('--delete', `alice@${DOMAIN}`, '--yes')
    assert.deepEqual(texts(), [...original.values()])
  })

  test('comments, order, attributes, line ends and lines of others stay as they are', async () => {
    const file = project.config('postfix-accounts.cf')
    const text = [
      '# comment with a | and an address a@b.example|x',
      '',
      `Foo@${DOMAIN}|{PLAIN}old|userdb_quota_rule=*:bytes=1M|more`,
      '  # indented comment',
      'this is no account',
      `bar@${DOMAIN}|$6$salt$hash`,
      `zoe@${DOMAIN}|{PLAIN}zoe`,
    ]
    for (const end of ['\n', '\r\n']) {
      // Without a final line end, as an editor may leave it.
      writeFileSync(file, text.join(end))
      await succeeds(`new@${DOMAIN}`, 'secret')
      const added = readFileSync(file, 'utf8')
      assert.ok(added.startsWith(text.join(end) + end))
      assert.match(added.slice(text.join(end).length), /^\r?\nnew@\S+\|\{SHA512-CRYPT\}\$6\$\S+\r?\n$/)
      await succeeds('--update', `foo@${DOMAIN}`, '$& $1')
      const lines = readFileSync(file, 'utf8').split(end)
      assert.match(lines[2] ?? '', /^Foo@[^|]+\|\{SHA512-CRYPT\}\$6\$[^|]+\|userdb_quota_rule=\*:bytes=1M\|more$/)
      lines[2] = text[2] ?? ''
      assert.equal(lines.join(end), added)
      await succeeds('--delete', `zoe@${DOMAIN}`, '--yes')
      assert.equal(readFileSync(file, 'utf8').includes('zoe'), false)
    }
  })

  test('a quota stands in front of the line of an account whose name ends like it', async () => {
    // docker-mailserver looks for "address:" anywhere in the file and takes the first line.
    await succeeds(`big-foo@${DOMAIN}`, 'secret', '--quota', '5M')
    await succeeds(`foo@${DOMAIN}`, '--quota', '10m')
    assert.match(read('dovecot-quotas.cf'), /\nfoo@\S+:10M\nbig-foo@\S+:5M\n$/)
    await succeeds(`foo@${DOMAIN}`, '--quota', '0')
    assert.match(read('dovecot-quotas.cf'), /\nfoo@\S+:0\nbig-foo@\S+:5M\n$/)
  })

  test('mode, owner and symbolic link of the file are kept', async () => {
    const file = project.config('postfix-accounts.cf')
    const target = project.path('elsewhere.cf')
    renameSync(file, target)
    symlinkSync(target, file)
    chmodSync(target, 0o640)
    chownSync(target, 1234, 1235)
    await succeeds(`alice@${DOMAIN}`, 'secret')
    const { mode, uid, gid } = statSync(target)
    assert.deepEqual([mode & 0o7777, uid, gid], [0o640, 1234, 1235])
    assert.ok(lstatSync(file).isSymbolicLink())
    assert.match(readFileSync(target, 'utf8'), /\nalice@/)
    rmSync(file)
    rmSync(target)
  })

  test('a missing accounts file is made, readable by its owner alone', async () => {
    const file = project.config('postfix-accounts.cf')
    rmSync(file)
    await succeeds(`alice@${DOMAIN}`, 'secret')
    assert.equal(statSync(file).mode & 0o777, 0o600)
    assert.match(read('postfix-accounts.cf'), /^alice@\S+\n$/)
    chmodSync(file, 0o644)
  })

  test('twenty at once lose no line, and the lock of a dead process stops none of them', async () => {
    // Its pid is this process's, its start time is not.
    writeFileSync(project.config(LOCK), `${hostname()} ${process.pid} 1\n`)
    const names = Array.from({ length: 20 }, (_, index) => `user${index}@domain${index % 4}.example`)
    const run = (name: string, index: number) => {
      const args = ['add_account', name, 'secret', '--alias', `alias.${name}`] as const
      return index % 5 ? runIn(project, {}, ...args) : project.run(...args)
    }
    const results = await Promise.all(names.map(run))
    for (const { code, stderr } of results) assert.equal(code, 0, stderr)
    const accounts = read('postfix-accounts.cf').split('\n')
    for (const name of names) {
      assert.equal(accounts.filter((line) => line.startsWith(`${name}|{SHA512-CRYPT}$6$`)).length, 1, name)
      assert.match(read('postfix-virtual.cf'), new RegExp(`^alias\\.${name} ${name}$`, 'm'))
    }
    assert.equal(read('postfix-transport_maps').match(/^\/@domain\d\\\.example\$\/ +:$/gm)?.length, 4)
    assert.equal(accounts.length, (original.get('postfix-accounts.cf')?.split('\n').length ?? 0) + 20)
    assert.deepEqual(leftovers(), [])
  })

  test("docker-mailserver's own lock is waited for, and taken over when it is older than a minute", async () => {
    writeFileSync(project.config(LOCK), '0f3b0a5e-5d6f-4d7c-9a43-5a5bb4f4c6a1\n')
    let ended = false
    const waiting = add(`alice@${DOMAIN}`, 'secret').finally(() => {
      ended = true
    })
    await new Promise((resolve) => setTimeout(resolve, 500))
    assert.deepEqual([ended, read('postfix-accounts.cf')], [false, original.get('postfix-accounts.cf')])
    rmSync(project.config(LOCK))
    assert.equal((await waiting).code, 0)

    writeFileSync(project.config(LOCK), '0f3b0a5e-5d6f-4d7c-9a43-5a5bb4f4c6a1\n')
    const past = new Date(Date.now() - 61_000)
    utimesSync(project.config(LOCK), past, past)
    await succeeds(`bob@${DOMAIN}`, 'secret')
    assert.deepEqual(leftovers(), [])
  })

  test('a zombie holds no lock', async () => {
    // exec replaces the shell, while its child still runs, by a parent that asks for no dead children.
    const parent = spawn('sh', ['-c', 'sleep 0.3 & echo $!; exec sleep 30'], { stdio: ['ignore', 'pipe', 'ignore'] })
    const pid = String(await new Promise((resolve) => parent.stdout.once('data', resolve))).trim()
    const stat = () => readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    await until('a zombie', () => stat()[0] === 'Z')
    writeFileSync(project.config(LOCK), `${hostname()} ${pid} ${stat()[19]}\n`)
    await succeeds(`alice@${DOMAIN}`, 'secret')
    parent.kill()
  })

  test('killed at chosen steps it leaves whole files, and the next run gets past what is left', (context) =>
    killAtEveryStep(context, project, original, 7))

  test('a disk that is really full, a read-only folder: nothing changes, and the message names the next command', async () => {
    const folder = project.config('.')
    const saved = project.path('saved')
    execFileSync('cp', ['-a', folder, saved])
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=96k', 'tmpfs', folder])
      execFileSync('sh', ['-c', `cp -a ${saved}/. ${folder}/ && (cat /dev/zero >${folder}/filler || true)`], {
        stdio: 'ignore',
      })
      const full = await add('a@full.example', 'secret', '--quota', '1M')
      assert.equal(full.code, 1)
      assert.match(full.stderr, /cannot be written: ENOSPC: .*Nothing was changed\. .*df -h/)
      assert.match(full.stderr, /^[^\n]+\n$/)
      assert.deepEqual(texts(), [...original.values()])
      rmSync(project.config('filler'))
      assert.deepEqual(leftovers(), [])
      execFileSync('mount', ['-o', 'remount,ro', folder])
      const readOnly = await add('a@full.example', 'secret', '--quota', '1M')
      assert.equal(readOnly.code, 1)
      assert.match(readOnly.stderr, /cannot be written: EROFS: .*Nothing was changed\. .*findmnt/)
      assert.match(readOnly.stderr, /^[^\n]+\n$/)
      assert.deepEqual(texts(), [...original.values()])
    } finally {
      execFileSync('umount', [folder])
      rmSync(saved, { recursive: true })
    }
  })

  test('a single file that is a mount of its own is written in place', async () => {
    const file = project.config('postfix-accounts.cf')
    const elsewhere = project.path('elsewhere.cf')
    writeFileSync(elsewhere, original.get('postfix-accounts.cf') ?? '')
    execFileSync('mount', ['--bind', elsewhere, file])
    try {
      await succeeds(`alice@${DOMAIN}`, 'secret')
      assert.match(readFileSync(elsewhere, 'utf8'), /\nalice@\S+\n$/)
      await succeeds('--delete', `alice@${DOMAIN}`, '--yes')
      assert.equal(readFileSync(elsewhere, 'utf8'), original.get('postfix-accounts.cf'))
      assert.deepEqual(leftovers(), [])
    } finally {
      execFileSync('umount', [file])
      rmSync(elsewhere)
    }
  })

  test('one file that is a folder or UTF-16 is named, and nothing changes; Latin-1 in a comment stays as it is', async () => {
    const quotas = project.config('dovecot-quotas.cf')
    for (const [make, fact] of [
      [() => execFileSync('mkdir', [quotas]), /dovecot-quotas\.cf: it is a folder/],
      [() => writeFileSync(quotas, Buffer.from('# x', 'utf16le')), /dovecot-quotas\.cf: it is UTF-16/],
    ] as const) {
      rmSync(quotas, { recursive: true })
      make()
      const { code, stderr } = await add(`alice@${DOMAIN}`, 'secret')
      assert.equal(code, 1)
      assert.match(stderr, fact)
      assert.equal((await add('--list')).code, 0)
    }
    rmSync(quotas, { recursive: true })
    const text = Buffer.concat([
      Buffer.from('# Fr\xf6sche\n', 'latin1'),
      Buffer.from(original.get('dovecot-quotas.cf') ?? ''),
    ])
    writeFileSync(quotas, text)
    await succeeds(`alice@${DOMAIN}`, 'secret', '--quota', '1M')
    assert.deepEqual(readFileSync(quotas).subarray(0, text.length), text)
  })

  test('a file size limit in the middle of a write is an error, and all files stay as they were', async () => {
    // The kernel's own refusal, after the first kilobyte.
    const command = `trap '' XFSZ; ulimit -f 1; exec ${project.command('add_account', `a@${DOMAIN}`, 'secret').join(' ')}`
    const limited = spawn('bash', ['-c', command], { cwd: project.dir, env: project.env })
    let stderr = ''
    limited.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    const code = await new Promise((resolve) => limited.once('close', resolve))
    assert.equal(code, 1, stderr)
    assert.match(stderr, /postfix-accounts\.cf cannot be written: EFBIG/)
    assert.deepEqual(texts(), [...original.values()])
    assert.deepEqual(leftovers(), [])
  })

  test('a read-only file is an error before a password is asked for, and no file changes, for root too', async () => {
    for (const name of ['postfix-accounts.cf', 'postfix-transport_maps']) {
      chmodSync(project.config(name), 0o444)
      const { code, stderr } = await runIn(project, { input: 'x' }, 'add_account', 'a@read-only.example')
      assert.equal(code, 1)
      assert.match(stderr, new RegExp(`${name} cannot be written: it is read-only.*chmod u\\+w`))
      chmodSync(project.config(name), 0o644)
    }
    assert.deepEqual(texts(), [...original.values()])
    assert.deepEqual(leftovers(), [])
  })

  test('a folder that cannot be written is an error', async () => {
    execFileSync('chown', ['-R', '0', project.path('docker-data')])
    const command = [...AS_NOBODY, ...project.command('add_account', `a@${DOMAIN}`, 'secret')]
    const child = spawn('setpriv', command, { cwd: project.dir, env: project.env })
    let stderr = ''
    child.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    assert.equal(await new Promise((resolve) => child.once('close', resolve)), 1, stderr)
    assert.match(stderr, /postfix-accounts\.cf cannot be written: EACCES/)
    assert.deepEqual(texts(), [...original.values()])
  })

  test('the mail of a stopped server goes with its account', async () => {
    const folder = `${project.stateDir}/mail/${DOMAIN}/baz`
    execFileSync('mkdir', ['-p', `${folder}/cur`])
    assert.equal((await add('--delete', `baz@${DOMAIN}`)).code, 2)
    await succeeds('--delete', `baz@${DOMAIN}`, '--yes')
    assert.ok(!existsSync(folder))
    rmSync(project.stateDir, { recursive: true })
  })

  test('the mail in the Docker volume of a stopped server goes with its account; without Docker it stays or nothing goes', async () => {
    const bin = project.path('bin')
    const log = project.path('docker.log')
    execFileSync('mkdir', ['-p', bin])
    writeFileSync(
      `${bin}/docker`,
      `#!/bin/sh\necho "$*" >>${log}\n[ "$1" = container ] && exit 1\n[ -e ${log}.broken ] && case "$*" in *" run "*) echo no volume >&2; exit 1;; esac\nexit 0\n`,
      { mode: 0o755 },
    )
    const baz = `baz@${DOMAIN}`
    const env = { MAIL_SERVER_ENGINE: 'docker', PATH: `${bin}:${process.env.PATH}` }
    const deleted = await project.runWith({ env }, 'add_account', '--delete', baz, '--yes')
    assert.equal(deleted.code, 0, deleted.stderr)
    assert.match(deleted.stdout, /^Deleted baz@\S+ and its mail\. The mail server is not running/)
    const run = `run --rm --no-deps --entrypoint rm development-mail-server -rf -- /var/mail/${DOMAIN}/baz\n`
    assert.ok(readFileSync(log, 'utf8').endsWith(run), readFileSync(log, 'utf8'))

    writeFileSync(project.config('postfix-accounts.cf'), original.get('postfix-accounts.cf') ?? '')
    writeFileSync(`${log}.broken`, '')
    const left = await project.runWith({ env }, 'add_account', '--delete', baz, '--yes')
    assert.equal(left.code, 1)
    assert.match(left.stderr, /baz@\S+ is deleted, and its mail is left\. .*no volume/)

    writeFileSync(project.config('postfix-accounts.cf'), original.get('postfix-accounts.cf') ?? '')
    const without = { env: { MAIL_SERVER_ENGINE: 'docker', PATH: '/nonexistent' } }
    const refused = await project.runWith(without, 'add_account', '--delete', `foo@${DOMAIN}`, '--yes')
    const kept = await project.runWith(without, 'add_account', '--delete', baz, '--yes', '--keep-mail')
    assert.equal(refused.code, 1)
    assert.match(refused.stderr, /Docker volume.*npm start.*--keep-mail/)
    assert.match(read('postfix-accounts.cf'), /^foo@/m)
    assert.equal(kept.code, 0, kept.stderr)
  })
})
