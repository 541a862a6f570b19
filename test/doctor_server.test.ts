/** npm run doctor against a running server: healthy, and broken in one thing at a time. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { Ajv } from 'ajv'
import { BAR, CATCHALL } from '../scripts/lib/accounts/accounts.ts'
import { CHECKS } from '../scripts/lib/doctor/all.ts'
import { projectContext, type Result, runChecks } from '../scripts/lib/doctor/check.ts'
import { Probe } from '../scripts/lib/doctor/probe.ts'
import { messagesOf, send } from './deliveries.ts'
import { type Project, startedProject, until } from './harness.ts'

const host = '127.0.0.1'

let project: Project
before(async () => {
  project = await startedProject()
  // The checks that run in this process look at the same server; its files are copies of this project's.
  Object.assign(process.env, project.env)
})
after(() => project?.remove())

/** The JSON that --json prints, as its help describes it. */
const SCHEMA = {
  type: 'object',
  additionalProperties: false,
  required: ['ok', 'warnings', 'failures', 'skipped', 'milliseconds', 'mended', 'results'],
  properties: {
    ok: { type: 'integer', minimum: 0 },
    warnings: { type: 'integer', minimum: 0 },
    failures: { type: 'integer', minimum: 0 },
    skipped: { type: 'integer', minimum: 0 },
    milliseconds: { type: 'integer', minimum: 0 },
    mended: { type: 'array', items: { type: 'string' } },
    results: {
      type: 'array',
      minItems: 1,
      items: {
        type: 'object',
        additionalProperties: false,
        required: ['check', 'title', 'level', 'evidence', 'fix', 'milliseconds'],
        properties: {
          check: { type: 'string', pattern: '^[a-z]+(-[a-z]+)*$' },
          title: { type: 'string', minLength: 1 },
          level: { enum: ['ok', 'warning', 'failure', 'skipped'] },
          evidence: { type: 'string', minLength: 1, pattern: '^[^\\n]*$' },
          fix: { type: ['string', 'null'], minLength: 1 },
          milliseconds: { type: 'integer', minimum: 0 },
        },
        // Whatever is not right has a fix.
        if: { properties: { level: { enum: ['warning', 'failure'] } } },
        // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
        then: { properties: { fix: { type: 'string' } } },
      },
    },
  },
}

const isBad = ({ level }: Result) => level === 'warning' || level === 'failure'

/** Runs all checks in this process and gives those that are not right. */
async function problems(env: Record<string, string> = {}): Promise<Result[]> {
  const before = { ...process.env }
  Object.assign(process.env, env)
  const results = await Promise.all(runChecks(CHECKS, projectContext()))
  Object.assign(process.env, before)
  return results.flat().filter(isBad)
}

/** Runs the doctor of the project's copy, whose files a test has changed. */
async function problemsOfCopy(): Promise<Result[]> {
  const { code, stdout, stderr } = await project.run('doctor', '--json')
  const bad = (JSON.parse(stdout).results as Result[]).filter(isBad)
  assert.equal(code, bad.some(({ level }) => level === 'failure') ? 1 : 0, stderr)
  return bad
}

/** Asserts that one check alone reports something, once, with words of its evidence and of its fix. */
function assertOnly(bad: Result[], check: string, level: string, said: RegExp, fix: RegExp): void {
  assert.deepEqual(
    bad.map((result) => `${result.check} ${result.level}`),
    [`${check} ${level}`],
    JSON.stringify(bad, null, 1),
  )
  assert.match(bad[0]?.evidence ?? '', said)
  assert.match(bad[0]?.fix ?? '', fix)
}

const postfix = (program: string, ...args: string[]) =>
  execFileSync(program, ['-c', `${project.stateDir}/postfix`, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })

const doveadm = (...args: string[]) =>
  execFileSync('doveadm', ['-c', `${project.stateDir}/dovecot/dovecot.conf`, ...args], { encoding: 'utf8' })

/** Sets parameters of the running Postfix, past the files, for as long as `work` takes. */
async function withParameters(parameters: string[], work: () => Promise<void>): Promise<void> {
  const file = `${project.stateDir}/postfix/main.cf`
  const text = readFileSync(file, 'utf8')
  postfix('postconf', '-e', ...parameters)
  await reload()
  try {
    await work()
  } finally {
    writeFileSync(file, text)
    await reload()
  }
}

/** Programs of Postfix wait until main.cf is two seconds old; it is whole. */
async function reload(): Promise<void> {
  execFileSync('touch', ['-d', '10 seconds ago', `${project.stateDir}/postfix/main.cf`])
  postfix('postfix', 'reload')
}

test('a healthy server has 0 warnings and 0 failures, and its test mails are gone', async () => {
  await send(project.ports, BAR, 'stays')
  await until('the mail', async () => (await messagesOf({ host, ports: project.ports }, BAR)).length === 1)
  const { code, stdout } = await project.run('doctor')
  assert.equal(code, 0, stdout)
  assert.match(stdout.trimEnd().split('\n').at(-1) ?? '', /^\d+ ok, 0 warnings, 0 failures$/)
  assert.match(stdout, /mail-virtual +read over POP3 after \d+ ms, over IMAP after \d+ ms; deleted/)
  assert.match(stdout, /mail-catchall +someone-\w+@\w+\.example ends in catchall after \d+ ms/)
  assert.match(stdout, /mail-unknown +550 5\.1\.1/)
  const addresses = /fence-server +postmap answers for (\d+) addresses/.exec(stdout)?.[1]
  assert.ok(Number(addresses) >= 500, addresses)
  const left = await messagesOf({ host, ports: project.ports }, BAR)
  assert.equal(left.length, 1)
  assert.match(left[0] ?? '', /Subject: stays/)
  assert.deepEqual(await messagesOf({ host, ports: project.ports }, CATCHALL), [])
  assert.equal(postfix('postqueue', '-j'), '')
})

test('--json is one object of the documented shape, and nothing else', async () => {
  const { code, stdout } = await project.run('doctor', '--json')
  assert.equal(code, 0)
  const report = JSON.parse(stdout) as Record<string, unknown> & { results: Result[]; milliseconds: number }
  const validate = new Ajv({ allowUnionTypes: true }).compile(SCHEMA)
  assert.ok(validate(report), JSON.stringify(validate.errors))
  const count = (level: string) => report.results.filter((result: Result) => result.level === level).length
  assert.deepEqual([report.ok, report.warnings, report.failures, report.skipped], [count('ok'), 0, 0, count('skipped')])
  assert.ok(report.milliseconds < 10_000)
})

describe('the running server leads out', () => {
  for (const [parameter, said, fix] of [
    ['relayhost=[smtp.example.net]', /running server: relayhost = \[smtp/, /relayhost =, then: npm start/],
    ['default_transport=smtp', /default_transport = smtp/, /default_transport = local, then: npm start/],
    ['always_bcc=archive@corp.example', /copies every mail/, /always_bcc =/],
  ] as const) {
    test(parameter, async () => {
      const file = `${project.stateDir}/postfix/main.cf`
      const text = readFileSync(file, 'utf8')
      // Without a reload: no daemon has it yet, and already it is found.
      postfix('postconf', '-e', parameter)
      execFileSync('touch', ['-d', '10 seconds ago', file])
      const bad = await problems().finally(() => writeFileSync(file, text))
      await reload()
      assertOnly(bad, 'fence-server', 'failure', said, fix)
    })
  }

  test('a transport map that lets one domain out', async () => {
    const file = `${project.stateDir}/config/postfix-transport_maps`
    const text = readFileSync(file, 'utf8')
    writeFileSync(file, `/@corp\\.example$/ smtp:\n${text}`)
    const bad = await problems().finally(() => writeFileSync(file, text))
    const said = /@corp\.example goes to smtp:corp\.example by line 1/i
    assertOnly(bad, 'fence-server', 'failure', said, /local: in place of smtp: in line 1 .*then: npm start/)
  })

  test('a transport map that is gone', async () => {
    const file = `${project.stateDir}/config/postfix-transport_maps`
    const text = readFileSync(file, 'utf8')
    rmSync(file)
    const bad = (await problems().finally(() => writeFileSync(file, text))).filter(
      ({ check }) => check === 'fence-server',
    )
    assertOnly(bad, 'fence-server', 'failure', /cannot read pcre:.*postfix-transport_maps.*No such file/, /npm start/)
    await reload()
    postfix('postqueue', '-f')
    await until('an empty queue', () => postfix('postqueue', '-j') === '')
    // What Postfix said about it meanwhile is no matter of the next tests.
    execFileSync('truncate', ['-s', '0', `${project.stateDir}/log/mail.log`])
  })

  test('a local transport that is another program', async () => {
    const file = `${project.stateDir}/postfix/master.cf`
    const text = readFileSync(file, 'utf8')
    writeFileSync(file, text.replace(/^(local +unix.*) local$/m, '$1 smtp'))
    // What Postfix still says about the map that was gone is no matter here.
    const bad = (await problems().finally(() => writeFileSync(file, text))).filter(({ check }) => check !== 'logs')
    assertOnly(bad, 'fence-server', 'failure', /local runs smtp/, /Restore the service local/)
  })
})

describe('mail does not flow', () => {
  test('mail that Postfix could not deliver is named with the reason', async () => {
    await withParameters([`virtual_transport=lmtp:unix:${project.stateDir}/run/gone`], async () => {
      await send(project.ports, BAR, 'stuck')
      await until('a deferred mail', () => /"queue_name": "deferred"/.test(postfix('postqueue', '-j')))
    })
    const bad = await problems()
    postfix('postsuper', '-d', 'ALL')
    assertOnly(bad, 'queue', 'failure', new RegExp(`to ${BAR}: .*gone.*No such file`), /postqueue -c .* -f/)
  })

  test('a server that takes unknown users', async () => {
    const open = ['smtpd_recipient_restrictions=permit_mynetworks', 'smtpd_reject_unlisted_recipient=no']
    await withParameters(open, async () => {
      assertOnly(await problems(), 'mail-unknown', 'failure', /got "250.*not 550/, /reject_unlisted_recipient/)
    })
  })

  test('a catchall that forgets the envelope recipient', async () => {
    await withParameters(['prepend_delivered_header='], async () => {
      const said = /is in catchall, and its header does not name/
      assertOnly(
        await problems(),
        'mail-catchall',
        'failure',
        said,
        /prepend_delivered_header = command, file, forward/,
      )
    })
  })

  test('a server without AUTH on port 25', async () => {
    await withParameters(['smtpd_sasl_auth_enable=no'], async () => {
      const said = new RegExp(`port ${project.ports.smtp} does not offer AUTH`)
      assertOnly(await problems(), 'auth', 'failure', said, /smtpd_sasl_auth_enable = yes/)
    })
  })

  test('an account that the server has not seen yet', async () => {
    const file = project.config('postfix-accounts.cf')
    const text = readFileSync(file, 'utf8')
    writeFileSync(file, `${text}alice@development-virtual.example.com|{PLAIN}secret\n`)
    const bad = await problemsOfCopy().finally(() => writeFileSync(file, text))
    assertOnly(bad, 'logins', 'failure', /login refused for alice@/, /npm start.*add-account -- --update alice@/)
  })

  test('a mailbox over its quota', async () => {
    await send(project.ports, BAR, 'large', 'x\r\n'.repeat(10_000))
    await until('the large mail', async () => {
      const mails = await messagesOf({ host, ports: project.ports }, BAR)
      return mails.some((mail) => mail.includes('Subject: large'))
    })
    const file = `${project.stateDir}/dovecot/userdb`
    const text = readFileSync(file, 'utf8')
    const quota = () => doveadm('-f', 'tab', 'quota', 'get', '-u', BAR)
    writeFileSync(file, text.replace(/(bar@.*)/, '$1 userdb_quota_rule=*:bytes=20K'))
    await until('the new quota', () => quota().includes('\t20\t'))
    const bad = await problems().finally(() => writeFileSync(file, text))
    await until('the old quota', () => !quota().includes('\t20\t'))
    const full = bad.filter(({ check }) => check === 'mailbox-quotas')
    assertOnly(full, 'mailbox-quotas', 'failure', /bar@.* of 20 kB .*full/, /add-account -- bar@.* --quota 1M/)
    // The doctor's own mail does not fit either, and bounces.
    assert.deepEqual(new Set(bad.map(({ check }) => check)), new Set(['mailbox-quotas', 'mail-virtual']))
  })

  test('a known message of the log', async () => {
    const line = 'Nov 22 10:00:00 host postfix/cleanup[1]: warning: A1: queue file write error\n'
    appendFileSync(`${project.stateDir}/log/mail.log`, line)
    const bad = await problems()
    // The next start is a new beginning.
    assert.equal((await project.run('start')).code, 0)
    assertOnly(bad, 'logs', 'failure', /disk is full: .*queue file write error/, /make room/)
    assert.deepEqual(await problems(), [])
  })

  test('a certificate that ends soon', async () => {
    const file = (name: string) => `${project.stateDir}/tls/${name}.pem`
    const old = ['key', 'certificate'].map((name) => readFileSync(file(name)))
    const openssl = [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '2',
    ]
    execFileSync('openssl', [...openssl, '-subj', '/CN=x', '-keyout', file('key'), '-out', file('certificate')], {
      stdio: 'ignore',
    })
    await reload()
    const bad = await problems()
    for (const [index, name] of ['key', 'certificate'].entries()) writeFileSync(file(name), old[index] as Buffer)
    await reload()
    const said = new RegExp(`SMTP on port ${project.ports.smtp}: the certificate ends on`)
    assertOnly(bad, 'certificate', 'warning', said, /rm .*tls\/certificate\.pem && npm stop && npm start/)
  })
})

describe('ports that are not what they should be', () => {
  const servers: Server[] = []
  const sockets = new Set<Socket>()
  after(() => {
    for (const server of servers) server.close()
    for (const socket of sockets) socket.destroy()
  })

  /** A server that does `greet` with each connection. */
  async function scripted(greet: (socket: Socket) => void): Promise<string> {
    const server = createServer((socket) => {
      sockets.add(socket)
      socket.on('error', () => {})
      greet(socket)
    })
    servers.push(server)
    server.listen(0, host)
    await until('the port', () => server.listening)
    return String((server.address() as { port: number }).port)
  }

  test('a greeting that takes its time is named as a wait for reverse DNS', async () => {
    const port = await scripted((socket) => setTimeout(() => socket.end('220 slow\r\n'), 1_300))
    const bad = (await problems({ SMTP_PORT: port })).filter(({ check }) => check === 'greetings')
    const said = /after 1[3-9]\d\d ms, most often a wait for reverse DNS/
    assertOnly(bad, 'greetings', 'warning', said, /smtpd_peername_lookup = no/)
  })

  test('time in which the doctor itself was busy is no silence of the server', async () => {
    const probe = await Probe.open({ host, port: project.ports.smtp, implicit: false, timeout: 500 })
    const greeting = probe.line()
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_000)
    assert.match(await greeting, /^220 /)
    // Nobody speaks now, and the rest of the deadline is still there to be waited for.
    await assert.rejects(probe.line(), /no answer within 0\.5 s/)
  })

  test('a port that hangs is cut off, and all checks end within ten seconds', async () => {
    const port = await scripted(() => {})
    const begin = performance.now()
    const bad = await problems({ SMTP_PORT: port })
    assert.ok(performance.now() - begin < 10_000, `${performance.now() - begin} ms`)
    const greetings = bad.filter(({ check }) => check === 'greetings')
    assertOnly(greetings, 'greetings', 'failure', new RegExp(`port ${port}: no answer within 4 s`), /peername_lookup/)
    const speakSmtp = ['ports', 'greetings', 'tls', 'auth', 'mail-virtual', 'mail-catchall', 'mail-unknown']
    for (const { check } of bad) assert.ok(speakSmtp.includes(check), check)
  })

  test('TLS that is none', async () => {
    const port = await scripted((socket) => socket.end('220 plain\r\n'))
    const bad = (await problems({ SUBMISSIONS_PORT: port })).filter(({ check }) => check === 'tls')
    assertOnly(bad, 'tls', 'failure', new RegExp(`port ${port}: implicit TLS failed`), /npm start, then: npm run logs/)
  })
})

test('with Docker the same questions go through docker exec', async () => {
  // A docker whose container is this server: exec runs the program with the instance's configuration.
  const bin = project.path('bin')
  const docker = `#!/bin/sh
state=${project.stateDir}
case "$1 $2" in
  "version "*) echo 28.0.1 ;;
  "compose version") echo 2.35.0 ;;
  "logs --tail") tail -n 5 $state/log/mail.log ;;
  "container inspect") echo 'true "2026-01-01T00:00:00Z" {"com.docker.compose.project":"development-mail-server"}' ;;
  "image inspect") echo sha256:0123456789abcdef ;;
  "exec --interactive") shift 3; program=$1; shift; exec $program -c $state/postfix "$@" ;;
  "exec development-mail-server") shift 2; program=$1; shift
    case $program in
      cat|df) exec $program "$@" </dev/null ;;
      doveadm|doveconf) exec $program -c $state/dovecot/dovecot.conf "$@" </dev/null ;;
      *) exec $program -c $state/postfix "$@" </dev/null ;;
    esac ;;
  *) echo "unknown: $*" >&2; exit 1 ;;
esac
`
  mkdirSync(bin)
  writeFileSync(`${bin}/docker`, docker, { mode: 0o755 })
  const env = { MAIL_SERVER_ENGINE: 'docker', PATH: `${bin}:${process.env.PATH}` }
  const { stdout } = await project.runWith({ env }, 'doctor', '--json')
  const results = JSON.parse(stdout).results as Result[]
  // The ports are not held by Docker, and that is found out.
  assert.deepEqual(
    results.filter(isBad).map(({ check, level }) => `${check} ${level}`),
    Array(5).fill('ports failure'),
  )
  const said = (name: string) => results.find(({ check }) => check === name)?.evidence ?? ''
  assert.match(said('docker'), /Docker 28\.0\.1, Compose 2\.35\.0/)
  assert.match(said('image'), /docker-mailserver:15\.1\.0 sha256:/)
  assert.match(said('fence-server'), /postmap answers for \d{3} addresses/)
  assert.match(said('disk'), /MB free in \/var\/mail/)
  assert.match(said('mailbox-quotas'), /4 mailboxes/)
  assert.match(said('logs'), /none of the known troubles/)
})

test('a Dovecot that died is a server that does not run', async () => {
  process.kill(Number(readFileSync(`${project.stateDir}/run/master.pid`, 'utf8')), 'SIGKILL')
  await until('Dovecot gone', async () => (await project.run('status')).code === 1)
  const bad = (await problems()).filter(({ check }) => check !== 'leftovers' && check !== 'ports')
  assertOnly(bad, 'running', 'failure', /not running/, /npm start/)
})

describe('npm start explains a failure by the same checks', () => {
  for (const [what, file, line, said] of [
    [
      'a hash that Dovecot cannot read',
      'postfix-accounts.cf',
      'a@development-virtual.example.com|{NONE}x\nnobody',
      /account-hashes: .*\{NONE\}/,
    ],
    [
      'CRLF in the settings',
      'postfix-main.cf',
      'smtpd_timeout = 5x\r',
      /line-ends: .*CRLF.*\n {2}fix: npm run doctor -- --fix/,
    ],
  ] as const) {
    test(what, async () => {
      await project.run('stop')
      const path = project.config(file)
      const text = readFileSync(path, 'utf8')
      writeFileSync(path, `${text}${line}\n`)
      const { code, stderr } = await project.run('start')
      writeFileSync(path, text)
      assert.equal(code, 1)
      assert.match(stderr, /npm run doctor says:/)
      assert.match(stderr, said)
      // What the error says already is not said again.
      assert.equal(stderr.split('"nobody" is no account').length, file === 'postfix-accounts.cf' ? 2 : 1)
    })
  }
})
