/** The doctor's checks of files: each test breaks one thing, and exactly its check says so, with the fix. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { FILE_CHECKS } from '../scripts/lib/doctor/all.ts'
import { type Context, projectContext, type Result, runChecks, Skipped } from '../scripts/lib/doctor/check.ts'
import { nodeFindings, packageFindings } from '../scripts/lib/doctor/machine.ts'
import { certificateFinding } from '../scripts/lib/doctor/server.ts'
import { diskFindings, logFindings, queueFindings, quotaFindings } from '../scripts/lib/doctor/state.ts'
import { readSettings } from '../scripts/lib/settings.ts'
import { ACCOUNTS, add, BROKEN, FINE, NO_ACCOUNTS, type Setup } from './broken_setups.ts'

const real = projectContext().files
/** The checks' results for this project's files with some of them changed. Nothing is written. */
async function examine({ files = {}, env = {}, platform = 'linux' }: Setup): Promise<Result[]> {
  const unavailable = async () => {
    throw new Skipped('files only')
  }
  const context: Context = {
    files: {
      read: (name) => (files[name] ? files[name](real.read(name) ?? '') : real.read(name)),
      list: () => [...new Set([...real.list(), ...Object.keys(files)])],
      edit: () => assert.fail('a check wrote a file'),
    },
    platform,
    setting: (name) => env[name],
    settings: () => ({
      ...readSettings(),
      bindAddress: env.BIND_ADDRESS ?? '127.0.0.1',
      dmsVersion: env.DMS_VERSION ?? '15.1.0',
    }),
    choice: unavailable,
    engine: unavailable,
    server: unavailable,
  }
  return (await Promise.all(runChecks(FILE_CHECKS, context))).flat()
}

test('the files as they are give no warning and no failure', async () => {
  const results = await examine({})
  assert.deepEqual(
    results.filter(({ level }) => level !== 'ok'),
    [],
  )
  assert.equal(new Set(results.map(({ check }) => check)).size, FILE_CHECKS.length)
})

describe('a broken set-up is found by its check alone', () => {
  for (const [what, setup, check, level, said, fix] of BROKEN) {
    test(what, async () => {
      const problems = (await examine(setup)).filter(
        (result) => result.level === 'warning' || result.level === 'failure',
      )
      assert.deepEqual(
        [...new Set(problems.map((problem) => problem.check))],
        [check],
        JSON.stringify(problems, null, 1),
      )
      const [problem] = problems
      assert.equal(problem?.level, level)
      assert.match(problem?.evidence ?? '', said)
      assert.match(problem?.fix ?? '', fix)
      assert.doesNotMatch(`${problem?.evidence}${problem?.fix}`, /\n|\$6\$/)
    })
  }
})

describe('what looks bad and is not', () => {
  for (const [what, setup] of FINE) {
    test(what, async () => {
      const problems = (await examine(setup)).filter(({ level }) => level !== 'ok')
      assert.deepEqual(problems, [])
    })
  }
})

test('no account at all is a failure of its own, whatever follows from it', async () => {
  const problems = (await examine(NO_ACCOUNTS)).filter(({ level }) => level === 'failure')
  assert.deepEqual(
    problems.map(({ check }) => check),
    ['accounts'],
  )
  assert.match(problems[0]?.fix ?? '', /npm run add-account/)
})

test('16.0.0 with quotas is named for the mail it refuses', async () => {
  const problems = (await examine({ env: { DMS_VERSION: '16.0.0' } })).filter(({ level }) => level === 'failure')
  assert.deepEqual(new Set(problems.map(({ check }) => check)), new Set(['image-version']))
  assert.match(problems.map(({ evidence }) => evidence).join(), /refuses aliases and the catchall/)
})

describe('what programs print is judged', () => {
  const levelsOf = (findings: { level: string }[]) => findings.map(({ level }) => level)

  test('an old Node', () => {
    assert.deepEqual(levelsOf(nodeFindings('18.20.4', '>=20.12')), ['failure'])
    assert.deepEqual(levelsOf(nodeFindings('20.11.1', '>=20.12')), ['failure'])
    assert.deepEqual(levelsOf(nodeFindings('20.12.0', '>=20.12')), ['ok'])
    assert.deepEqual(levelsOf(nodeFindings('22.1.0', '>=20.12')), ['ok'])
  })

  test('a Dovecot that is too new', () => {
    assert.deepEqual(levelsOf(packageFindings('dovecot-core\t1:2.4.1+dfsg1-5\npostfix\t3.10.3-2\n')), ['failure'])
    assert.deepEqual(levelsOf(packageFindings('dovecot-core\t1:2.3.19.1+dfsg1\npostfix\t3.7.11-0\n')), ['ok'])
  })

  test('a certificate that ended, ends soon, or has not begun', () => {
    const now = Date.parse('2026-01-15')
    const judge = (from: string, to: string) => certificateFinding('SMTP', from, to, 'a fix', now).level
    assert.equal(judge('Jan 1 00:00:00 2025 GMT', 'Jan 1 00:00:00 2026 GMT'), 'failure')
    assert.equal(judge('Jan 1 00:00:00 2025 GMT', 'Jan 20 00:00:00 2026 GMT'), 'warning')
    assert.equal(judge('Feb 1 00:00:00 2026 GMT', 'Jan 1 00:00:00 2036 GMT'), 'failure')
    assert.equal(judge('Jan 1 00:00:00 2025 GMT', 'Jan 1 00:00:00 2036 GMT'), 'ok')
  })

  test('deferred mail with the reason that Postfix gives', () => {
    const mail = (id: string, queue: string, reason?: string) =>
      JSON.stringify({
        queue_name: queue,
        queue_id: id,
        recipients: [{ address: 'a@b.example', delay_reason: reason }],
      })
    const reason = 'connect to /run/lmtp: No such file or directory'
    const findings = queueFindings(
      [mail('A1', 'deferred', reason), mail('A2', 'deferred', reason)].join('\n'),
      'postqueue -f',
    )
    assert.deepEqual(levelsOf(findings), ['failure'])
    assert.match(findings[0]?.evidence ?? '', /2 mails, the first to a@b\.example: connect to/)
    assert.match(findings[0]?.fix ?? '', /postqueue -f/)
    assert.deepEqual(levelsOf(queueFindings(mail('A3', 'active'), 'x')), ['ok'])
    assert.deepEqual(levelsOf(queueFindings('', 'x')), ['ok'])
  })

  test('a disk that is full, nearly full, or out of inodes', () => {
    const limit = 10_240_000
    assert.deepEqual(levelsOf(diskFindings('/d', 5_000_000, 9, limit)), ['failure'])
    assert.deepEqual(levelsOf(diskFindings('/d', 5_000_000_000, 0, limit)), ['failure'])
    assert.deepEqual(levelsOf(diskFindings('/d', 100_000_000, 9, limit)), ['warning'])
    assert.deepEqual(levelsOf(diskFindings('/d', 5_000_000_000, undefined, limit)), ['ok'])
  })

  test('a mailbox over its quota', () => {
    const head = 'Username\tQuota name\tType\tValue\tLimit\t%\n'
    const row = (value: number, percent: number) => `bar@x.example\tUser quota\tSTORAGE\t${value}\t10240\t${percent}\n`
    const [full] = quotaFindings(head + row(10_240, 100))
    assert.equal(full?.level, 'failure')
    assert.match(full?.fix ?? '', /add-account -- bar@x\.example --quota 20M/)
    assert.deepEqual(levelsOf(quotaFindings(head + row(9_500, 93))), ['warning'])
    assert.deepEqual(levelsOf(quotaFindings(`${head}bar@x.example\tUser quota\tSTORAGE\t5\t-\t0\n`)), ['ok'])
  })

  for (const [what, line, level, said, fix] of [
    [
      'sockets on a bind mount',
      'dovecot: master: Error: service(auth): net_listen_unix(/var/spool/postfix/private/auth) failed: Input/output error',
      'failure',
      /Docker Desktop/,
      /mail-state:\/var\/mail-state/,
    ],
    [
      'listeners that fail',
      'dovecot: master: Fatal: Failed to start listeners',
      'failure',
      /could not open its ports/,
      /--only ports/,
    ],
    [
      'a socket of Postfix',
      'postfix/master[1]: fatal: bind: private/smtpd: Invalid argument',
      'failure',
      /Postfix cannot make its sockets/,
      /mail-state:/,
    ],
    [
      'a domain in two classes',
      'postfix/trivial-rewrite[1]: warning: do not list domain x.example in BOTH mydestination and virtual_mailbox_domains',
      'warning',
      /both/,
      /mydestination = localhost/,
    ],
    [
      'a queue that cannot be written',
      'postfix/cleanup[1]: warning: A1: queue file write error',
      'failure',
      /disk is full/,
      /make room/,
    ],
    [
      'a mail folder of somebody else',
      'dovecot: lmtp(bar): Error: open(/var/mail/x.example/bar/tmp) failed: Permission denied',
      'failure',
      /uid 5000/,
      /npm stop && npm start/,
    ],
    [
      'a login without TLS',
      'dovecot: auth: Plaintext authentication disallowed on non-secure connections',
      'warning',
      /without TLS/,
      /disable_plaintext_auth = no/,
    ],
    [
      'a table that is gone',
      'postfix/trivial-rewrite[1]: warning: pcre:/x/postfix-transport_maps is unavailable. open database: No such file',
      'failure',
      /cannot read a table/,
      /restore the table/,
    ],
    [
      'a lookup that fails',
      'postfix/cleanup[1]: warning: A1: virtual_alias_maps map lookup problem for x -- table lookup problem',
      'failure',
      /cannot read a table/,
      /restore/,
    ],
    ['anything fatal', 'postfix/smtpd[1]: fatal: bad numerical configuration', 'failure', /gave up/, /npm start/],
    ['a panic', 'postfix/qmgr[1]: panic: myfree: corrupt memory block', 'failure', /gave up/, /npm start/],
  ] as const) {
    test(`the log has ${what}`, () => {
      const [finding, ...others] = logFindings(['postfix/qmgr[1]: A1: removed', `Nov 22 10:00:00 ${line}`, line])
      assert.equal(others.length, 0)
      assert.equal(finding?.level, level)
      assert.match(finding?.evidence ?? '', said)
      assert.match(finding?.evidence ?? '', /2 times/)
      assert.match(finding?.fix ?? '', fix)
    })
  }

  test('an ordinary log has none of these', () => {
    const lines = [
      'postfix/smtpd[1]: NOQUEUE: reject: RCPT from x: 550 5.1.1 <a@b>: Recipient address rejected',
      'dovecot: pop3-login: Login: user=<bar>',
    ]
    assert.deepEqual(levelsOf(logFindings(lines)), ['ok'])
  })
})

test('a check that throws, and one that hangs, is a failure of its own', async () => {
  const context = projectContext()
  const checks = [
    { name: 'throws', title: '', run: () => assert.fail('\x1b[31mboom\nsecond line') },
    { name: 'hangs', title: '', run: () => new Promise<never>(() => {}) },
    { name: 'works', title: '', run: () => [{ level: 'ok' as const, evidence: 'fine' }] },
  ]
  const results = (await Promise.all(runChecks(checks, context, 200))).flat()
  assert.deepEqual(
    results.map(({ check, level }) => `${check} ${level}`),
    ['throws failure', 'hangs failure', 'works ok'],
  )
  assert.equal(results[0]?.evidence, '\\x1b[31mboom | second line')
  assert.match(results[1]?.evidence ?? '', /cut off: no result within 0.2 s/)
})

test('a check with a thousand problems shows five', async () => {
  const lines = Array.from({ length: 1_000 }, (_, index) => `nonsense ${index}`).join('\n')
  const results = (await examine(add(ACCOUNTS, lines))).filter(({ level }) => level !== 'ok')
  assert.equal(results.length, 5)
  assert.match(results[4]?.evidence ?? '', /and 995 more of the kind/)
})
