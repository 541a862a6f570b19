import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { BAR, CATCHALL, FOO, hashPassword } from '../scripts/lib/accounts/accounts.ts'
import { checkAddress } from '../scripts/lib/accounts/address.ts'
import { localDomains, withoutDomain, withVirtualDomain } from '../scripts/lib/accounts/tables.ts'
import { Pop3Session } from '../scripts/lib/mail/pop3.ts'
import { messagesOf, send, subjectsOf } from './deliveries.ts'
import { AS_NOBODY, type Project, type Result, startedProject, until } from './harness.ts'
import { runIn } from './here.ts'

const DOMAIN = 'development-virtual.example.com'
const FILES = ['postfix-accounts.cf', 'postfix-virtual.cf', 'dovecot-quotas.cf', 'postfix-transport_maps']

const letters = (count: number) => 'a'.repeat(count)

/** Every address that cannot be an account, and a word of the reason. */
const BAD_ADDRESSES: [address: string, reason: RegExp][] = [
  ['', /empty/],
  ['alice', /no domain/],
  ['alice@', /no domain/],
  ['@shop.example', /no local part/],
  ['a b@shop.example', /white space/],
  ['a\u3000b@shop.example', /white space/],
  [' alice@shop.example', /white space/],
  ['a\tb@shop.example', /control character/],
  ['alice@shop.example\n', /control character/],
  ['a\x1b[2Jb@shop.example', /control character/],
  ['a|b@shop.example', /postfix-accounts\.cf/],
  ['a:b@shop.example', /passwd-file/],
  ['a*b@shop.example', /auth_master_user_separator/],
  ['a+b@shop.example', /recipient_delimiter/],
  ['a/b@shop.example', /folder/],
  ['../a@shop.example', /folder/],
  ['"a"@shop.example', /quoted/],
  ['a@b@shop.example', /more than one "@"/],
  ['#a@shop.example', /auth_username_chars/],
  ["o'a@shop.example", /auth_username_chars/],
  ['a%b@shop.example', /auth_username_chars/],
  ['é@shop.example', /SMTPUTF8/],
  ['-a@shop.example', /allow_min_user/],
  ['.a@shop.example', /a dot/],
  ['a.@shop.example', /a dot/],
  ['a..b@shop.example', /a dot/],
  [`${letters(65)}@shop.example`, /65 octets/],
  [`a@${letters(64)}.example`, /64 octets/],
  [`a@${`${letters(60)}.`.repeat(4)}${letters(12)}`, /255/],
  [`${letters(64)}@${`${letters(47)}.`.repeat(4)}`.slice(0, -1), /254/],
  ['a@shop_1.example', /no label/],
  ['a@-shop.example', /no label/],
  ['a@shop-.example', /no label/],
  ['a@shop..example', /empty label/],
  ['a@shop.example.', /empty label/],
  ['a@例え.jp', /xn--r8jz45g\.jp/],
  ['a@[127.0.0.1]', /literal/],
  ['a@127.0.0.1', /number/],
]

/** Addresses that only the configuration files speak against. */
const TAKEN_ADDRESSES: [address: string, reason: RegExp][] = [
  ['a@localhost', /mydestination/],
  ['A@LocalHost', /mydestination/],
  ['a@localhost.example.com', /mydestination/],
  [BAR, /already.*--update/],
  [BAR.toUpperCase(), /already.*--update/],
]

/** Every password that cannot be used; NUL cannot stand on a command line. */
const BAD_PASSWORDS: [password: string | Buffer, reason: RegExp][] = [
  ['', /empty/],
  ['\n', /empty/],
  [' secret', /space/],
  ['secret ', /space/],
  ['se\ncret', /line break/],
  ['se\rcret', /line break/],
  ['se\0cret', /NUL/],
  [letters(1001), /1001 bytes/],
  ['é'.repeat(501), /1002 bytes/],
  [Buffer.from([0xff, 0xfe, 0x41]), /not UTF-8/],
]

function files(project: Project): string[] {
  return FILES.map((name) => readFileSync(project.config(name), 'utf8'))
}

/** Types answers into the script on a pseudo-terminal, each when its question stands there; gives what the screen got. */
async function onTerminal(project: Project, args: string[], answers: [question: string, answer: string][]) {
  const command = project.command('add_account', ...args).join(' ')
  const child = spawn('script', ['-qec', command, '/dev/null'], { cwd: project.dir, env: project.env })
  let screen = ''
  child.stdout.on('data', (chunk) => {
    screen += chunk
  })
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
  try {
    for (const [question, answer] of answers) {
      await until(`the question "${question}" in: ${screen}`, () => screen.includes(question))
      child.stdin.write(answer)
    }
    const timer = setTimeout(() => child.kill('SIGKILL'), 20_000)
    const code = await ended
    clearTimeout(timer)
    return { code, screen }
  } finally {
    child.kill('SIGKILL')
  }
}

describe('add_account with a running server', () => {
  let project: Project
  let untouched: string[]
  before(async () => {
    project = await startedProject()
    untouched = files(project)
  })
  after(() => project?.remove())

  const add = (...args: string[]) => runIn(project, {}, 'add_account', ...args)
  const logsIn = async (user: string, password: string) => {
    const server = { host: '127.0.0.1', port: project.ports.pop3, tls: 'none', timeout: 10_000 } as const
    const session = await Pop3Session.open(server, { user, password }).catch((error) => error.exit)
    if (session instanceof Pop3Session) session.close()
    return session instanceof Pop3Session ? true : session
  }
  const mailOf = (address: string) => messagesOf({ host: '127.0.0.1', ports: project.ports }, address)
  const receives = (address: string, subject: string) =>
    until(`${subject} in ${address}`, async () => subjectsOf(await mailOf(address)).includes(subject))
  const succeeds = async (...args: string[]): Promise<Result> => {
    const result = await add(...args)
    assert.equal(result.code, 0, result.stderr)
    return result
  }

  test('wrong addresses, passwords and usage are one line with value and reason, and change nothing', async () => {
    const some = BAD_ADDRESSES.filter((_, index) => index % 8 === 0)
    for (const [address, reason] of [...some, ...TAKEN_ADDRESSES]) {
      const { code, stdout, stderr } = await add('--', address, 'secret')
      // An account that is there already is no mistake in the address.
      assert.deepEqual([code, stdout], [address.toLowerCase() === BAR ? 1 : 2, ''], `${address}: ${stderr}`)
      assert.match(stderr, reason)
      assert.match(stderr, /^[^\n]+\n$/)
      const named = stderr.toLowerCase().includes(address.toLowerCase())
      assert.ok(named || stderr.includes(JSON.stringify(address)), stderr)
      assert.ok(!stderr.includes('\x1b'), 'a control character reaches the terminal')
    }
    for (const [input, reason] of BAD_PASSWORDS) {
      const args = ['add_account', `alice@${DOMAIN}`, '--password-stdin']
      const { code, stdout, stderr } = await runIn(project, { input }, ...(args as [string]))
      assert.deepEqual([code, stdout], [2, ''], stderr)
      assert.match(stderr, reason)
      assert.match(stderr, /^[^\n]+\n$/)
      assert.ok(!/cret/.test(stderr))
    }
    for (const args of [
      ['--frobnicate'],
      [],
      [`alice@${DOMAIN}`],
      [`alice@${DOMAIN}`, 'two', 'three'],
      [`alice@${DOMAIN}`, 'se\ncret'],
      [`alice@${DOMAIN}`, 'secret', '--password-stdin'],
      [`alice@${DOMAIN}`, 'secret', '--yes'],
      [`alice@${DOMAIN}`, 'secret', '--quota', '10X'],
      ['--delete', BAR],
    ]) {
      const { code, stderr } = await add(...args)
      assert.equal(code, 2, `${args}: ${stderr}`)
      assert.match(stderr, /^[^\n]+\n$/)
    }
    // And as a process of its own.
    assert.equal((await project.run('add_account', 'alice', 'secret')).code, 2)
    assert.deepEqual(files(project), untouched)
  })

  test('the catchall gets no quota: what it cannot hold would be lost', async () => {
    const { code, stderr } = await add(CATCHALL, '--quota', '10M')
    assert.equal(code, 1)
    assert.match(stderr, /^catchall@\S+ has no quota: .*npm run reset\n$/)
    assert.deepEqual(files(project), untouched)
  })

  test('add, log in, receive, update, delete: the round trip', async () => {
    const alice = `alice@${DOMAIN}`
    const added = await succeeds(`Alice@${DOMAIN}`, 'geheim é')
    assert.match(added.stdout, /^Added alice@\S+: it can log in and receives mail, \d+\.\d s after the change\.\n$/)
    assert.match(added.stderr, /Alice@\S+ is written in lower case: alice@/)
    assert.equal(await logsIn(alice, 'geheim é'), true)
    assert.equal(await send(project.ports, alice, 'first'), null)
    await receives(alice, 'first')

    const input = `${'長い'.repeat(166)}long`
    assert.equal(Buffer.byteLength(input), 1000)
    const options = { input: `${input}\r\n` }
    const updated = await runIn(project, options, 'add_account', '--update', alice, '--password-stdin')
    assert.match(updated.stdout, /^Updated alice@/, updated.stderr)
    assert.equal(await logsIn(alice, input), true)
    assert.equal(await logsIn(alice, 'geheim é'), 'login')
    assert.deepEqual(subjectsOf(await mailOf(alice)), ['first'])

    const deleted = await succeeds('--delete', alice, '--yes')
    assert.match(deleted.stdout, /^Deleted alice@\S+ and its 1 message\. /)
    assert.equal(await logsIn(alice, input), 'login')
    assert.match(String(await send(project.ports, alice, 'late')), /550/)
    assert.ok(!existsSync(`${project.stateDir}/mail/${DOMAIN}/alice`), 'the mailbox is still on the disk')
    assert.deepEqual(files(project), untouched)
    assert.ok(!(await project.run('logs', '--lines', '1000')).stdout.includes('geheim'))
  })

  test('--keep-mail keeps the mail for an account that comes back', async () => {
    const kept = `kept@${DOMAIN}`
    await succeeds(kept, 'secret')
    await send(project.ports, kept, 'keep me')
    await receives(kept, 'keep me')
    assert.match((await succeeds('--delete', kept, '--yes', '--keep-mail')).stdout, /its mail stays/)
    await succeeds(kept, 'secret')
    assert.deepEqual(subjectsOf(await mailOf(kept)), ['keep me'])
    await succeeds('--delete', kept, '--yes')
    assert.deepEqual(files(project), untouched)
  })

  test('a new domain receives its own mail at once, refuses the unknown, and is caught again in the end', async () => {
    await send(project.ports, 'early@new.example', 'caught before')
    await receives(CATCHALL, 'caught before')
    const { stdout } = await succeeds('bob@new.example', 'secret')
    assert.match(stdout, /From now on new\.example .* refused, no longer caught/)
    assert.match(files(project)[3] ?? '', /^\/@new\\\.example\$\/ +:\n# A net/m)
    for (const subject of ['one', 'two', 'three']) await send(project.ports, 'Bob@New.Example', subject)
    await receives('bob@new.example', 'three')
    assert.equal((await mailOf('bob@new.example')).length, 3)
    assert.match(String(await send(project.ports, 'unknown@new.example', 'x')), /550/)
    assert.equal(await send(project.ports, 'bob@sub.new.example', 'subdomain'), null)
    await receives(CATCHALL, 'subdomain')

    await succeeds('carol@new.example', 'secret')
    assert.doesNotMatch((await succeeds('--delete', 'carol@new.example', '--yes')).stdout, /caught again/)
    assert.match((await succeeds('--delete', 'bob@new.example', '--yes')).stdout, /new\.example.* caught again/)
    assert.deepEqual(files(project), untouched)
    await send(project.ports, 'bob@new.example', 'caught after')
    await receives(CATCHALL, 'caught after')
  })

  test('an account in the domain of a catch-all alias receives its own mail', async () => {
    const address = `own@${CATCHALL.split('@')[1]}`
    await succeeds(address, 'secret')
    await send(project.ports, address, 'mine')
    await send(project.ports, `other@${CATCHALL.split('@')[1]}`, 'not mine')
    await receives(address, 'mine')
    await receives(CATCHALL, 'not mine')
    assert.deepEqual(subjectsOf(await mailOf(address)), ['mine'])
    await succeeds('--delete', address, '--yes')
    assert.deepEqual(files(project), untouched)
  })

  test('--alias and --quota go with a new account and with one that is there', async () => {
    const dora = `dora@${DOMAIN}`
    await succeeds(dora, 'secret', '--alias', `D.Ora@${DOMAIN}`, '--quota', '20k')
    assert.match((await succeeds(dora, '--alias', 'dora@alias.example')).stdout, /^Changed dora@.*\n.* alias\.example/)
    await send(project.ports, `d.ora@${DOMAIN}`, 'by alias')
    await send(project.ports, 'dora@alias.example', 'by foreign alias')
    await receives(dora, 'by alias')
    await receives(dora, 'by foreign alias')
    assert.match(String(await send(project.ports, 'nobody@alias.example', 'x')), /550/)

    await send(project.ports, dora, 'too large', letters(70).concat('\r\n').repeat(400))
    await until('a bounce', async () => (await mailOf(FOO)).some((source) => /552 5\.2\.2 .*Quota/.test(source)))
    assert.ok(!subjectsOf(await mailOf(dora)).includes('too large'), 'the quota of 20k let 28 kB pass')
    await succeeds(dora, '--quota', '1m')
    await send(project.ports, dora, 'fits now', letters(70).concat('\r\n').repeat(400))
    await receives(dora, 'fits now')
    assert.match(files(project)[2] ?? '', /\ndora@\S+:1M\n$/)

    const { stdout } = await succeeds('--list', '--json')
    const row = JSON.parse(stdout).find(({ address }: { address: string }) => address === dora)
    const aliases = [`d.ora@${DOMAIN}`, 'dora@alias.example']
    assert.deepEqual(
      { ...row, bytes: 0 },
      { address: dora, domain: DOMAIN, quota: '1M', aliases, messages: 3, bytes: 0 },
    )
    assert.ok(row.bytes > 28_000)
    assert.match((await succeeds('--list')).stdout, /dora@\S+ +development-virtual\S+ +1M +3 +\d\d\.\d kB +d\.ora@/)

    const deleted = await succeeds('--delete', dora, '--yes')
    assert.match(deleted.stdout, /alias dora@alias\.example does not go/)
    assert.deepEqual(files(project), untouched)
  })

  test('several at once are all live in the end, updates of the same second too', async () => {
    const addresses = [1, 2, 3].map((number) => `many${number}@${DOMAIN}`)
    await Promise.all(addresses.map((address) => succeeds(address, 'first')))
    await Promise.all(addresses.map((address) => succeeds('--update', address, `new ${address}`)))
    for (const address of addresses) assert.equal(await logsIn(address, `new ${address}`), true)
    await Promise.all(addresses.map((address) => succeeds('--delete', address, '--yes')))
    assert.deepEqual(files(project), untouched)
  })

  test('on a terminal the password is asked for twice, unseen, after the address was checked', async () => {
    const tina = `tina@${DOMAIN}`
    const asked = await onTerminal(
      project,
      [],
      [
        ['Address: ', `${tina}\r`],
        [`Password for ${tina}: `, 'geheim\r'],
        ['The same password again: ', 'geheim\r'],
      ],
    )
    assert.equal(asked.code, 0, asked.screen)
    assert.ok(!asked.screen.includes('geheim'))
    assert.equal(await logsIn(tina, 'geheim'), true)

    const refused = await onTerminal(project, [], [['Address: ', `${BAR}\r`]])
    assert.equal(refused.code, 1)
    assert.doesNotMatch(refused.screen, /Password/)
    const differing = await onTerminal(
      project,
      [`--update`, tina],
      [
        ['Password for', 'one\r'],
        ['again: ', 'two\r'],
      ],
    )
    assert.match(differing.screen, /differ/)
    assert.equal(differing.code, 1)
    const ended = await onTerminal(project, ['--update', tina], [['Password for', '\x04']])
    assert.match(ended.screen, /The input ended/)
    assert.equal(ended.code, 1)
    assert.equal((await onTerminal(project, ['--update', tina], [['Password for', 'x\x03']])).code, 130)
    assert.equal(await logsIn(tina, 'geheim'), true)

    const kept = await onTerminal(project, ['--delete', tina], [['[y/N]', 'n\r']])
    assert.match(kept.screen, /Nothing was deleted/)
    assert.equal(kept.code, 1)
    assert.equal((await onTerminal(project, ['--delete', tina], [['[y/N]', 'y\r']])).code, 0)
    assert.deepEqual(files(project), untouched)
  })

  test('catchall and the last account are deleted with --force only', async () => {
    const { code, stderr } = await add('--delete', CATCHALL, '--yes')
    assert.equal(code, 1)
    assert.match(stderr, /--force/)
    const unknown = await add('--delete', `nobody@${DOMAIN}`, '--yes')
    assert.equal(unknown.code, 1)
    assert.match(unknown.stderr, /nobody@\S+ is no account.*--list/)
    const accounts = project.config('postfix-accounts.cf')
    const text = readFileSync(accounts, 'utf8')
    const one = text.replace(/^.*@development-virtual.*\n/gm, '').replaceAll(CATCHALL, `only@${DOMAIN}`)
    writeFileSync(accounts, one)
    const last = await add('--delete', `only@${DOMAIN}`, '--yes')
    assert.equal(last.code, 1)
    assert.match(last.stderr, /only@\S+ is the last account/)
    assert.equal(readFileSync(accounts, 'utf8'), one)
    writeFileSync(accounts, text)
  })

  test('npm start tells which passwords are the initial ones, and does without a test mail when bar is gone', async () => {
    await succeeds('--update', BAR, 'mine')
    const changed = await project.run('start')
    assert.equal(changed.code, 0, changed.stderr)
    assert.match(changed.stdout, /bar@\S+ +\(set by you\)\n/)
    assert.match(changed.stdout, /foo@\S+ +foo\n/)
    assert.match(changed.stdout, /A test mail from foo to bar/)
    await succeeds('--delete', BAR, '--yes')
    const without = await project.run('start')
    assert.equal(without.code, 0, without.stderr)
    assert.match(without.stderr, /No test mail .* bar@/)
  })

  test('with Docker it runs no command, and waits until the server has noticed by itself', async () => {
    const address = `docker@${DOMAIN}`
    // No docker on the PATH either; the native engine's reload stands for docker-mailserver's change detector.
    const env = { MAIL_SERVER_ENGINE: 'docker', PATH: '/nonexistent' }
    let ended = false
    const waiting = project.runWith({ env }, 'add_account', address, 'secret').finally(() => {
      ended = true
    })
    await until('the account in the file', () => files(project)[0]?.includes(address))
    assert.equal(ended, false)
    assert.equal((await project.run('start')).code, 0)
    const { code, stdout, stderr } = await waiting
    assert.equal(code, 0, stderr)
    assert.match(stdout, /it can log in and receives mail, \d+\.\d s after/)
    await send(project.ports, address, 'to be deleted')
    await receives(address, 'to be deleted')
    const deleting = project.runWith({ env }, 'add_account', '--delete', address, '--yes')
    await until('the account out of the file', () => !files(project)[0]?.includes(address))
    assert.equal((await project.run('start')).code, 0)
    const deleted = await deleting
    assert.equal(deleted.code, 0, deleted.stderr)
    assert.match(deleted.stdout, /and its 1 message\./)
    // Its folder is out of the script's reach there, so the server has emptied it.
    const folder = `${project.stateDir}/mail/${DOMAIN}/docker`
    assert.deepEqual([...readdirSync(`${folder}/new`), ...readdirSync(`${folder}/cur`)], [])
  })

  test('another user than root has npm start reload by sudo, which sees no password', async () => {
    const bin = project.path('bin')
    const log = project.path('sudo.log')
    execFileSync('mkdir', [bin])
    // Stands for sudo: notes its arguments, and is done when the test has reloaded as root.
    writeFileSync(
      `${bin}/sudo`,
      `#!/bin/sh\necho "$*" >>${log}\n[ "$2" = true ] && exit\nuntil [ -e ${log}.done ]; do sleep 0.05; done\n`,
    )
    execFileSync('chmod', ['755', `${bin}/sudo`])
    execFileSync('chown', ['-R', 'nobody', project.dir.concat('/docker-data'), bin])
    writeFileSync(log, '')
    execFileSync('chown', ['nobody', log])
    const child = spawn('setpriv', [...AS_NOBODY, ...project.command('add_account', `nora@${DOMAIN}`, 'geheim')], {
      cwd: project.dir,
      env: { ...project.env, PATH: `${bin}:${process.env.PATH}`, HOME: project.dir },
    })
    let output = ''
    child.stdout.on('data', (chunk) => {
      output += chunk
    })
    child.stderr.on('data', (chunk) => {
      output += chunk
    })
    const ended = new Promise((resolve) => child.once('close', resolve))
    await until(`start.ts by sudo: ${output}`, () => readFileSync(log, 'utf8').includes('launch.mjs start'))
    assert.equal((await project.run('start')).code, 0)
    writeFileSync(`${log}.done`, '')
    assert.equal(await ended, 0, output)
    assert.match(output, /Added nora@/)
    assert.doesNotMatch(readFileSync(log, 'utf8'), /geheim|add_account/)
  })
})

describe('addresses, passwords and tables', () => {
  test('every address that cannot work is refused with its value and the reason', () => {
    for (const [address, reason] of BAD_ADDRESSES) {
      assert.throws(
        () => checkAddress(address),
        ({ message, exit }) => exit === 'usage' && message.includes(JSON.stringify(address)) && reason.test(message),
        address,
      )
    }
  })

  test('addresses at the limits are taken, in lower case', () => {
    const longest = `${letters(64)}@${`${letters(62)}.`.repeat(3)}`.slice(0, -1)
    assert.equal(longest.length, 253)
    for (const address of [
      longest,
      'a@b',
      '0@0.example',
      'a.b_c-d@xn--r8jz45g.jp',
      'A-@Shop-1.Example',
      '_@a.example',
    ]) {
      assert.equal(checkAddress(address), address.toLowerCase())
    }
  })

  test('doveadm accepts the hash of every length and script, and refuses the password with one byte more', () => {
    const passwords = ['x', 'foo', 'パスワード', '🙂 in the middle', 'a|b:c"d\'e\\f$g', '\ufefftext', `${letters(63)}é`]
    for (const length of [63, 64, 192, 511, 512, 1000]) passwords.push(letters(length))
    for (const password of passwords) {
      const hash = hashPassword(password)
      assert.match(
        hash,
        Buffer.byteLength(password) < 512 && Buffer.byteLength(password) % 64 > 0
          ? /^\{SHA512-CRYPT\}\$6\$/
          : /^\{SSHA512\}/,
      )
      assert.doesNotMatch(hash, /[|:\s]/)
      const verify = (text: string) => spawnSync('doveadm', ['pw', '-t', hash, '-p', text]).status === 0
      assert.ok(verify(password), `${password.length} characters`)
      assert.ok(!verify(`${password}x`))
    }
  })

  test('a domain goes in front of the rule that catches it, and out again', () => {
    const fence = '/^/ local:\n'
    const cases = [
      [fence, `/@a\\.example$/                              :\n${fence}`],
      [`# why\n${fence}`, `# why\n/@a\\.example$/                              :\n${fence}`],
      [`/@b$/ :\n\n# why\n${fence}`, `/@b$/ :\n/@a\\.example$/                              :\n\n# why\n${fence}`],
      [`/[@.]example$/ :\n${fence}`, `/[@.]example$/ :\n${fence}`],
      ['', '/@a\\.example$/                              :\n'],
      ['/^/ local:\r\n', '/@a\\.example$/                              :\r\n/^/ local:\r\n'],
    ]
    for (const [before = '', expected] of cases) {
      const text = withVirtualDomain(before, 'a.example')
      assert.equal(text, expected)
      assert.equal(withVirtualDomain(text, 'a.example'), text)
      assert.equal(withoutDomain(text, 'a.example', 'line'), before)
      assert.equal(withoutDomain(text, 'xample', 'line'), text)
    }
  })

  test('mydestination is read as Postfix reads it', () => {
    const hostname = 'mail.example.com'
    assert.deepEqual(localDomains('', hostname), ['localhost', hostname, 'localhost.example.com', 'localhost'])
    // biome-ignore lint/suspicious/noTemplateCurlyInString: Postfix writes parameters so.
    const text = 'mydestination = a.example\nmydestination = $myhostname,\n  ${mydomain} b.example\nother = c.example\n'
    assert.deepEqual(localDomains(text, hostname), ['localhost', hostname, 'example.com', 'b.example'])
  })
})

test('the project has no leftovers of locks', () => {
  const names = readdirSync(new URL('../docker-data/mail-server/config/', import.meta.url))
  assert.deepEqual(
    names.filter((name) => /\.(lock|tmp)$/.test(name)),
    [],
  )
})
