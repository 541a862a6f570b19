/**
 * The project's own parsers under input that nobody would write: each gives a result or a Failure. The seed is fixed, so
 * that a failure can be repeated; FUZZ_SEED chooses another.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseAccounts, parseQuotas } from '../scripts/lib/accounts/accounts.ts'
import { type AccountRequest, addAccount, deleteAccount, remainsOf, repaired } from '../scripts/lib/accounts/changes.ts'
import type { FileName } from '../scripts/lib/accounts/configuration.ts'
import { entriesOf, lookUp, parseAliases } from '../scripts/lib/accounts/tables.ts'
import { EXIT, Failure } from '../scripts/lib/cli.ts'
import { resolveClient } from '../scripts/lib/mail/client_options.ts'
import { parseCount, parseFilters } from '../scripts/lib/mail/filters.ts'
import { mailMaker } from '../scripts/lib/mail/mail_options.ts'
import { parsePort } from '../scripts/lib/settings.ts'
import { configurationOf } from './configurations.ts'
import { Project } from './harness.ts'
import { runIn } from './here.ts'

const seed = Number(process.env.FUZZ_SEED ?? 20_250_701)
console.log(`FUZZ_SEED=${seed}`)
fc.configureGlobal({ seed, numRuns: 100 })

/** Lets a Failure pass; anything else is a defect. */
function orFailure<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    assertFailure(error)
    return undefined
  }
}

function assertFailure(error: unknown): asserts error is Failure {
  if (!(error instanceof Failure)) throw error
  assert.ok(error.message.length > 0)
}

/** Text of pieces that mean something to a parser, with any characters between them. */
function textOf(pieces: string[]): fc.Arbitrary<string> {
  const odd = fc.constantFrom('\n', '\r\n', '\t', ' ', '\0', '\u2028', '\ufeff', '\x1b[2J', '#', '"', '\\')
  const piece = fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...pieces) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary-ascii', maxLength: 8 }) },
    { weight: 1, arbitrary: odd },
  )
  return fc.array(piece, { maxLength: 30 }).map((parts) => parts.join(''))
}

const ACCOUNT_LINES = textOf(
  'foo@a.example~|~{PLAIN}x~{SHA512-CRYPT}$6$~userdb_quota_rule=*:bytes=1~@~:~\n~\n~# x\n'.split('~'),
)
const TABLES =
  'a@b.example~@b.example~c@d.example,e@f.example~ ~\n~\n ~/@b\\.example$/~/^/~:~local:~/(/ x~!/x/ y~if /a/\n~endif\n'
const TABLE_LINES = textOf(`${TABLES}~/$1/~$2~$(3)~/a/i~smtp:[1.2.3.4]~{~}~mydestination =`.split('~'))

const WORDS = textOf(
  'a@b.example~Name~<~>~"~(~)~,~;~:~@~é~=?utf-8?q?x?=~../~|~\r\n~\\~/x/i~/(a+)+$/~5m~1e9~-1~0~99999~{n}~=~X-A: b~none~::1'.split(
    '~',
  ),
)

test('accounts and quotas: lines or a Failure', () => {
  fc.assert(
    fc.property(ACCOUNT_LINES, (text) => {
      const problems: string[] = []
      const accounts = parseAccounts(text, 'f', (problem) => problems.push(problem))
      assert.equal(orFailure(() => parseAccounts(text)) === undefined, problems.length > 0)
      const lines = text.split(/\r?\n/)
      for (const { address, hash, line } of accounts) assert.ok(lines[line - 1]?.startsWith(`${address}|${hash}`))
      for (const [address, size] of parseQuotas(text)) assert.ok(address !== '' && size !== '')
    }),
  )
})

test('an account that comes and goes leaves every other line as it was; what is no entry is passed over', () => {
  const file = (pieces: fc.Arbitrary<string>) =>
    fc.array(pieces, { maxLength: 8 }).map((texts) => texts.map((text) => `${text.replaceAll('\n', '')}\n`).join(''))
  const request = fc.record({
    address: fc.constantFrom('new@new.example', 'new@b.example', 'foo@a.example'),
    hash: fc.constant('{PLAIN}$&$1'),
    quota: fc.option(fc.constant('10M'), { nil: undefined }),
    aliases: fc.subarray(['x@b.example', 'y@new.example', '@b.example']),
  })
  const work = (accounts: string, tables: string, quotas: string, asked: AccountRequest) => {
    const before = configurationOf({
      'postfix-accounts.cf': accounts,
      'postfix-virtual.cf': tables,
      'postfix-transport_maps': tables,
      'postfix-regexp.cf': tables,
      'dovecot-quotas.cf': quotas,
    })
    for (const key of ['a@b.example', 'x', '"a b"@c', '@']) lookUp(tables, key)
    assert.ok([parseAliases(tables), entriesOf(tables), remainsOf(repaired(before))].every(Array.isArray))
    const added = orFailure(() => addAccount(before, asked))
    if (!added) return
    for (const name of ['postfix-accounts.cf', 'postfix-transport_maps', 'postfix-regexp.cf'] as FileName[]) {
      assertKept(before[name], added[name])
    }
    const gone = orFailure(() => deleteAccount(added, asked.address, true))
    if (gone) assert.equal(gone['postfix-accounts.cf'], accounts)
  }
  const lines = [file(ACCOUNT_LINES), file(TABLE_LINES), file(ACCOUNT_LINES)] as const
  fc.assert(fc.property(...lines, request as fc.Arbitrary<AccountRequest>, work), { numRuns: 300 })
})

/** Every line of the text before stands in the one after, in the same order. */
function assertKept(before = '', after = ''): void {
  const lines = after.split('\n')
  let from = 0
  for (const line of before.split('\n')) {
    const at = lines.indexOf(line, from)
    assert.ok(at >= 0, `${JSON.stringify(line)} is gone from ${JSON.stringify(after)}`)
    from = at + 1
  }
}

test('options: a value, or wrong usage', async () => {
  const one = fc.option(WORDS, { nil: undefined })
  const many = fc.option(fc.array(WORDS, { minLength: 1, maxLength: 2 }), { nil: undefined })
  const client = fc.record({ host: one, port: one, user: one, password: one, tls: one, timeout: one })
  const filters = fc.record({ from: many, body: many, 'message-id': many, since: one, last: one })
  const mail = fc.record({
    ...{ from: many, to: many, cc: many, 'reply-to': many, header: many, 'envelope-to': many, 'envelope-from': one },
    ...{ subject: one, date: one, 'message-id': one, 'in-reply-to': one },
  })
  const given = (values: object) =>
    Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))
  const io = { stdin: process.stdin, say: () => {} }
  await fc.assert(
    fc.asyncProperty(client, filters, mail, WORDS, fc.boolean(), async (server, wanted, draft, word, numbered) => {
      for (const work of [
        () => parseFilters(given(wanted), 0),
        () => parsePort('--port', word),
        () => parseCount('--last', word),
        () => resolveClient('smtp', given(server), io),
        () => resolveClient('pop3', given(server), io),
        () => mailMaker(given(draft), { numbered, user: word, io }),
      ]) {
        try {
          await work()
        } catch (error) {
          assertFailure(error)
          assert.equal(error.exit, 'usage', error.message)
        }
      }
    }),
  )
})

test('command lines of the scripts: an exit code of the table, and never a stack trace', async () => {
  const project = await Project.create()
  try {
    const names =
      '--from --to --count --eml --header --port --timeout --tls --last --since --json --list --account --only --delete'
    const option = fc.constantFrom(...`${names} --quota --password --unknown -- -v --wait -x`.split(' '))
    const script = fc.constantFrom('send_email', 'pop_email', 'add_account', 'status', 'doctor', 'logs', 'reset')
    const word = WORDS.filter((text) => !text.includes('\0'))
    // Nothing listens on the ports of this project, and the last option ends what would begin to wait.
    const lines = fc.sample(fc.tuple(script, fc.array(fc.oneof(option, word), { maxLength: 4 })), 40)
    for (const [name, args] of lines) {
      const { code, stderr } = await runIn(project, {}, name, ...args, '--timeout', 'x')
      assert.ok(Object.values(EXIT).some((row) => row.code === code))
      assert.doesNotMatch(stderr, /\n {4}at /, `${name} ${JSON.stringify(args)}: ${code}\n${stderr}`)
    }
  } finally {
    await project.remove()
  }
})
