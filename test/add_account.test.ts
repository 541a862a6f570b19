/** add-account with a running server: what it says is live is live for SMTP, POP3 and IMAP. */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { after, test } from 'node:test'
import { BAR, CATCHALL, VIRTUAL_DOMAIN as DOMAIN, FOO } from '../scripts/lib/accounts/accounts.ts'
import { FILES } from '../scripts/lib/accounts/configuration.ts'
import { messagesOf, send, subjectsOf } from './deliveries.ts'
import { AS_NOBODY, startedProject, until } from './harness.ts'
import { runIn } from './here.ts'
import { logIn } from './logins.ts'
import { ok } from './mailboxes.ts'

const project = await startedProject()
after(() => project.remove())

const files = () => FILES.map((name) => readFileSync(project.config(name), 'utf8'))
const untouched = files()
const add = (...args: string[]) => runIn(project, {}, 'add_account', ...args)
/** What a run that goes well prints. */
const succeeds = async (...args: string[]) => ok(await add(...args))
const logsIn = (user: string, password: string) =>
  logIn(project, 'pop3', 'none', { user, password }).then(
    () => true,
    ({ exit }) => exit,
  )
const receives = (address: string, subject: string) =>
  until(`${subject} in ${address}`, async () => subjectsOf(await messagesOf(project, address)).includes(subject))
const sends = async (address: string, ...rest: [subject: string, body?: string]) =>
  assert.equal(await send(project.ports, address, ...rest), null)
const isRefused = async (address: string) => assert.match(String(await send(project.ports, address, 'x')), /550/)

/** Types answers into the script on a pseudo-terminal, each when its question stands there; gives what the screen got. */
async function onTerminal(args: string[], ...answers: [question: string, answer: string][]) {
  const command = project.command('add_account', ...args).join(' ')
  const child = spawn('script', ['-qec', command, '/dev/null'], { cwd: project.dir, env: project.env })
  let screen = ''
  child.stdout.on('data', (chunk) => (screen += chunk))
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
  const timer = setTimeout(() => child.kill('SIGKILL'), 120_000)
  try {
    for (const [question, answer] of answers) {
      await until(`the question "${question}" in: ${screen}`, () => screen.includes(question), 60_000)
      child.stdin.write(answer)
    }
    return { code: await ended, screen }
  } finally {
    clearTimeout(timer)
    child.kill('SIGKILL')
  }
}

test('wrong input is one line, exit code 2, and changes nothing', async () => {
  const alice = `alice@${DOMAIN}`
  for (const [args, said, code = 2] of [
    [['alice', 'secret'], /"alice".*no domain/],
    [[BAR.toUpperCase(), 'secret'], /already.*--update/, 1],
    [[BAR], /already/, 1],
    [[], /Give the address/],
    [[alice], /--password-stdin/],
    [[alice, 'se\ncret'], /line break/],
    [[alice, 'secret', '--alias', alice], /is an account/],
    [[alice, 'secret', '--alias', BAR], /is an account/],
    [[alice, 'secret', '--alias', 'info'], /"info".*no domain/],
    [[alice, 'secret', '--quota', '10X'], /"10X"/],
    [[alice, 'two', 'three'], /Quote a password/],
    [[alice, 'secret', '--password-stdin'], /once/],
    [[alice, 'secret', '--yes'], /--yes does not go with/],
    [['--list', '--update'], /--update does not go with --list/],
    [['--frobnicate'], /frobnicate/],
    [['--delete', BAR], /--yes/],
    [['--delete', `nobody@${DOMAIN}`, '--yes'], /nobody@\S+ is no account.*--list/, 1],
    [['--delete', CATCHALL, '--yes'], /--force/, 1],
    [[CATCHALL, '--quota', '10M'], /npm run reset/, 1],
  ] as [string[], RegExp, number?][]) {
    const result = await add(...args)
    assert.deepEqual([result.code, result.stdout], [code, ''], `${args}: ${result.stderr}`)
    assert.match(result.stderr, said)
    assert.match(result.stderr, /^[^\n]+\n$/)
    assert.ok(!/cret/.test(result.stderr))
  }
  for (const input of ['', '\n', Buffer.from([0xff, 0xfe, 0x41])]) {
    assert.equal((await runIn(project, { input }, 'add_account', alice, '--password-stdin')).code, 2)
  }
  assert.deepEqual(files(), untouched)
})

test('an account of a new domain with quota and alias: live at once, changed, listed, gone again', async () => {
  const [bob, info, more, carol] = ['bob@new.example', 'info@alias.example', `b.ob@${DOMAIN}`, 'carol@new.example']
  await sends(bob, 'caught before')
  await receives(CATCHALL, 'caught before')
  const added = await succeeds('Bob@New.example', 'geheim é', '--quota', '20k', '--alias', info)
  assert.match(added, /^Added bob@new\.example: it can log in and receives mail, \d+\.\d s after the change\.\n/)
  assert.match(added, /From now on new\.example .* refused, no longer caught/)
  assert.equal(await logsIn(bob, 'geheim é'), true)
  for (const to of ['Bob@New.Example', info]) await sends(to, `own ${to}`)
  for (const to of ['Bob@New.Example', info]) await receives(bob, `own ${to}`)
  for (const domain of ['new.example', 'alias.example']) await isRefused(`unknown@${domain}`)
  await sends('bob@sub.new.example', 'subdomain')
  await receives(CATCHALL, 'subdomain')

  const large = `${'x'.repeat(70)}\r\n`.repeat(400)
  await sends(bob, 'too large', large)
  await until('a bounce', async () =>
    (await messagesOf(project, FOO)).some((source) => /552 5\.2\.2 .*Quota/.test(source)),
  )
  assert.match(await succeeds(bob, '--quota', '1m', '--alias', more.toUpperCase()), /^Changed bob@/)
  await sends(more, 'fits now', large)
  await receives(bob, 'fits now')

  const input = `${'長い'.repeat(166)}long`
  assert.equal(Buffer.byteLength(input), 1000)
  const updated = await runIn(project, { input: `${input}\r\n` }, 'add_account', '--update', bob, '--password-stdin')
  assert.match(updated.stdout, /^Updated bob@/, updated.stderr)
  assert.deepEqual([await logsIn(bob, input), await logsIn(bob, 'geheim é')], [true, 'login'])

  const [row] = JSON.parse(await succeeds('--list', '--json')).slice(-1)
  assert.ok(row.bytes > 28_000)
  const expected = { address: bob, domain: 'new.example', quota: '1M', aliases: [info, more], messages: 3 }
  assert.deepEqual({ ...row, bytes: 0 }, { ...expected, bytes: 0 })
  assert.match(await succeeds('--list'), /bob@\S+ +new\.example +1M +3 +\d\d\.?\d? kB +info@\S+, b\.ob@/)

  await succeeds(carol, 'secret')
  assert.doesNotMatch(await succeeds('--delete', carol, '--yes'), /caught again/)
  assert.equal(await logsIn(carol, 'secret'), 'login')
  await isRefused(carol)
  const deleted = await succeeds('--delete', bob, '--yes')
  assert.match(
    deleted,
    /^Deleted bob@\S+ and its 3 messages\. .*alias info@\S+ does not go.*new\.example.* caught again/s,
  )
  assert.ok(!existsSync(`${project.stateDir}/mail/new.example`), 'the mailbox is still on the disk')
  assert.deepEqual(files(), untouched)
  for (const to of [bob, info]) await sends(to, `caught after ${to}`)
  for (const to of [bob, info]) await receives(CATCHALL, `caught after ${to}`)
  // A reload of Dovecot breaks deliveries, which are then repeated.
  assert.doesNotMatch((await project.run('logs', '--lines', '10000')).stdout, /SIGHUP received|geheim/)
})

test('an account in the domain of a catch-all alias receives its own mail, which --keep-mail keeps', async () => {
  const domain = CATCHALL.split('@')[1]
  const own = `own@${domain}`
  await succeeds(own, 'secret')
  await sends(own, 'mine')
  await sends(`other@${domain}`, 'not mine')
  await receives(own, 'mine')
  await receives(CATCHALL, 'not mine')
  assert.match(await succeeds('--delete', own, '--yes', '--keep-mail'), /its mail stays/)
  const folder = `${project.stateDir}/mail/${domain}/own`
  assert.equal([...readdirSync(`${folder}/new`), ...readdirSync(`${folder}/cur`)].length, 1)
  assert.deepEqual(files(), untouched)
})

test('several at once are all live in the end, updates of the same second too', async () => {
  const addresses = [1, 2].map((number) => `many${number}@${DOMAIN}`)
  await Promise.all(addresses.map((address) => succeeds(address, 'first')))
  await Promise.all(addresses.map((address) => succeeds('--update', address, `new ${address}`)))
  for (const address of addresses) assert.equal(await logsIn(address, `new ${address}`), true)
})

test('on a terminal it asks: for the address, twice for the unseen password, before it deletes', async () => {
  const [tina, other] = [`tina@${DOMAIN}`, `many1@${DOMAIN}`]
  const again = 'The same password again: '
  const password = (address: string) => `Password for ${address}: `
  const [asked, differing, kept] = await Promise.all([
    onTerminal([], ['Address: ', `${tina}\r`], [password(tina), 'geheim\r'], [again, 'geheim\r']),
    onTerminal(['--update', other], [password(other), 'one\r'], [again, 'two\r']),
    onTerminal(['--delete', other], ['[y/N]', 'n\r']),
  ])
  assert.deepEqual(
    [asked, differing, kept].map(({ code }) => code),
    [0, 1, 1],
    asked.screen,
  )
  assert.ok(!asked.screen.includes('geheim'))
  assert.match(differing.screen, /differ/)
  assert.match(kept.screen, /Nothing was deleted/)
  assert.deepEqual([await logsIn(tina, 'geheim'), await logsIn(other, `new ${other}`)], [true, true])
  assert.equal((await onTerminal(['--delete', tina], ['[y/N]', 'y\r'])).code, 0)
  assert.equal(await logsIn(tina, 'geheim'), 'login')
})

test('npm start tells which passwords are the initial ones', async () => {
  await succeeds('--update', BAR, 'mine')
  const { stdout } = await runIn(project, {}, 'start')
  assert.match(stdout, /A test mail from foo to bar.*foo@\S+ +foo\n.*bar@\S+ +\(set by you\)\n/s)
})

test('with Docker it runs no command, and waits until the server has noticed by itself', async () => {
  /** No docker on the PATH either; the native engine's reload stands for docker-mailserver's change detector. */
  const isNoticed = async (args: string[], isWritten: () => boolean) => {
    const env = { MAIL_SERVER_ENGINE: 'docker', PATH: '/nonexistent' }
    const running = project.runWith({ env }, 'add_account', ...args)
    await until('the change in the file', isWritten)
    assert.equal(await Promise.race([running, 'waits']), 'waits')
    const start = await runIn(project, {}, 'start')
    assert.equal(start.code, 0, start.stderr)
    const { code, stdout, stderr } = await running
    assert.equal(code, 0, stderr)
    return { stdout, start }
  }
  const isThere = (address: string) => files().join('\n').includes(address)
  const docker = `docker@${DOMAIN}`
  const added = await isNoticed([docker, 'secret'], () => isThere(docker))
  assert.match(added.stdout, /it can log in and receives mail, \d+\.\d s after/)
  await sends(BAR, 'to be deleted')
  await receives(BAR, 'to be deleted')
  const deleted = await isNoticed(['--delete', BAR, '--yes'], () => !isThere(BAR))
  assert.match(deleted.stdout, /and its 1 message\./)
  assert.match(deleted.start.stderr, /No test mail .* bar@/)
  // Its folder is out of the script's reach there, so the server has emptied it.
  const folder = `${project.stateDir}/mail/${DOMAIN}/bar`
  assert.deepEqual([...readdirSync(`${folder}/new`), ...readdirSync(`${folder}/cur`)], [])
})

test('another user than root has npm start reload by sudo, which sees no password', async () => {
  const bin = project.path('bin')
  const log = project.path('sudo.log')
  mkdirSync(bin)
  // Stands for sudo: notes its arguments, and is done when the test has reloaded as root.
  const sudo = `echo "$*" >>${log}\n[ "$2" = true ] && exit\nuntil [ -e ${log}.done ]; do sleep 0.05; done\n`
  writeFileSync(`${bin}/sudo`, `#!/bin/sh\n${sudo}`, { mode: 0o755 })
  writeFileSync(log, '')
  execFileSync('chown', ['-R', 'nobody:nogroup', project.path('docker-data'), bin, log])
  project.runner = ['setpriv', ...AS_NOBODY]
  const env = { PATH: `${bin}:${process.env.PATH}`, HOME: project.dir }
  const ended = project.runWith({ env }, 'add_account', `nora@${DOMAIN}`, 'geheim')
  project.runner = []
  await until('start by sudo', () => readFileSync(log, 'utf8').includes('launch.mjs start'))
  assert.equal((await runIn(project, {}, 'start')).code, 0)
  writeFileSync(`${log}.done`, '')
  const { code, stdout, stderr } = await ended
  assert.deepEqual([code, /^Added nora@/m.test(stdout)], [0, true], stderr)
  assert.doesNotMatch(readFileSync(log, 'utf8'), /geheim|add_account/)
})
