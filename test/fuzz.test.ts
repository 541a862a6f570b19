/**
 * The project's own parsers under input that nobody would write: each gives a result or a Failure, in bounded time. The
 * seed is fixed, so that a failure can be repeated; FUZZ_SEED chooses another.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { checkPassword, parseAccounts, parseQuotas } from '../scripts/lib/accounts/accounts.ts'
import { checkAddress } from '../scripts/lib/accounts/address.ts'
import { type AccountRequest, addAccount, deleteAccount, remainsOf, repaired } from '../scripts/lib/accounts/changes.ts'
import type { FileName } from '../scripts/lib/accounts/configuration.ts'
import { entriesOf, localDomains, lookUp, parseAliases } from '../scripts/lib/accounts/tables.ts'
import { EXIT, Failure } from '../scripts/lib/cli.ts'
import { parseAddressList, problemOfAddress, toEnvelope } from '../scripts/lib/mail/addresses.ts'
import { resolveClient } from '../scripts/lib/mail/client_options.ts'
import { parseCount, parseFilters } from '../scripts/lib/mail/filters.ts'
import { mailMaker } from '../scripts/lib/mail/mail_options.ts'
import { Pop3Session } from '../scripts/lib/mail/pop3.ts'
import { HOSTNAME, parsePort } from '../scripts/lib/settings.ts'
import { configurationOf } from './configurations.ts'
import { Project } from './harness.ts'
import { serve } from './pop3_server.ts'
import { PUMPED } from './pumped.ts'

const seed = Number(process.env.FUZZ_SEED ?? 20_250_701)
console.log(`FUZZ_SEED=${seed}`)
fc.configureGlobal({ seed, numRuns: 200 })

/** Milliseconds that a parser may take for a few hundred kilobytes; a pattern that backtracks takes minutes. */
const PATIENCE = 2_000

/** Lets a Failure pass, whose text is fit for a terminal and no longer than a screen; anything else is a defect. */
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
function textOf(...pieces: string[]): fc.Arbitrary<string> {
  const piece = fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...pieces) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 8 }) },
    {
      weight: 1,
      arbitrary: fc.constantFrom('\n', '\r\n', '\t', ' ', '\0', '\u2028', '\ufeff', '\x1b[2J', '#', '"', '\\'),
    },
  )
  return fc.array(piece, { maxLength: 30 }).map((parts) => parts.join(''))
}

const ACCOUNT_LINES = textOf(
  ...[
    'foo@a.example',
    '|',
    '{PLAIN}x',
    '{SHA512-CRYPT}$6$',
    'userdb_quota_rule=*:bytes=1',
    '@',
    ':',
    '\n',
    '\n',
    '# x\n',
  ],
)
const TABLE_LINES = textOf(
  ...[
    'a@b.example',
    '@b.example',
    'c@d.example,e@f.example',
    ' ',
    '\n',
    '\n ',
    '/@b\\.example$/',
    '/^/',
    ':',
    'local:',
  ],
  ...[
    '/(/ x',
    '!/x/ y',
    'if /a/\n',
    'endif\n',
    '/$1/',
    '$2',
    '$(3)',
    '/a/i',
    'smtp:[1.2.3.4]',
    '{',
    '}',
    'mydestination =',
  ],
)

describe('the configuration files', () => {
  test('accounts and quotas: lines or a Failure', () => {
    fc.assert(
      fc.property(ACCOUNT_LINES, (text) => {
        const problems: string[] = []
        const accounts = parseAccounts(text, 'f', (problem) => problems.push(problem))
        const strict = orFailure(() => parseAccounts(text))
        assert.equal(strict === undefined, problems.length > 0)
        const lines = text.split(/\r?\n/)
        for (const { address, hash, line } of accounts) assert.ok(lines[line - 1]?.startsWith(`${address}|${hash}`))
        for (const [address, size] of parseQuotas(text)) assert.ok(address !== '' && size !== '')
      }),
    )
  })

  test('an account that checkAddress and checkPassword let pass is read as it was written', () => {
    const address = textOf('a', 'B', '.', '-', '_', 'é', '@', '@x.example', '.example', '+', '/', '../', '|')
    fc.assert(
      fc.property(address, fc.string({ unit: 'binary' }), (text, password) => {
        orFailure(() => checkPassword(password))
        const checked = orFailure(() => checkAddress(text))
        if (checked === undefined) return
        const [account, ...others] = parseAccounts(`${checked}|{PLAIN}x\n`)
        assert.deepEqual([account?.address, others], [checked, []])
        assert.doesNotMatch(checked, /[/|:\s*]|\.\./)
      }),
    )
  })

  test('an account that comes and goes leaves every other line as it was', () => {
    const line = (pieces: fc.Arbitrary<string>) =>
      fc.array(
        pieces.map((text) => text.replaceAll('\n', '')),
        { maxLength: 8 },
      )
    const file = (pieces: fc.Arbitrary<string>) =>
      line(pieces).map((lines) => lines.map((text) => `${text}\n`).join(''))
    const request = fc.record({
      address: fc.constantFrom('new@new.example', 'new@b.example', 'foo@a.example'),
      hash: fc.constant('{PLAIN}$&$1'),
      quota: fc.option(fc.constant('10M'), { nil: undefined }),
      aliases: fc.subarray(['x@b.example', 'y@new.example', '@b.example']),
    })
    fc.assert(
      fc.property(
        file(ACCOUNT_LINES),
        file(TABLE_LINES),
        file(ACCOUNT_LINES),
        request,
        (accounts, tables, quotas, asked) => {
          const before = configurationOf({
            'postfix-accounts.cf': accounts,
            'postfix-virtual.cf': tables,
            'postfix-transport_maps': tables,
            'postfix-regexp.cf': tables,
            'dovecot-quotas.cf': quotas,
          })
          remainsOf(repaired(before))
          const added = orFailure(() => addAccount(before, asked as AccountRequest, HOSTNAME))
          if (!added) return
          const text = (name: FileName) => [before[name], added[name]] as const
          assertKept(...text('postfix-accounts.cf'))
          assertKept(...text('postfix-transport_maps'))
          assertKept(...text('postfix-regexp.cf'))
          const gone = orFailure(() => deleteAccount(added, asked.address, true))
          if (!gone) return
          assert.equal(gone['postfix-accounts.cf'], accounts)
        },
      ),
      { numRuns: 500 },
    )
  })

  test('tables and main.cf: what is no entry is passed over', () => {
    const address = fc.constantFrom('a@b.example', 'x', '"a b"@c', '@', 'é@b.example')
    fc.assert(
      fc.property(TABLE_LINES, address, (text, key) => {
        parseAliases(text)
        lookUp(text, key)
        localDomains(text, HOSTNAME)
        entriesOf(text)
      }),
      { numRuns: 500 },
    )
  })
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

describe('addresses and options', () => {
  const words = textOf(
    ...'a@b.example Name < > " ( ) , ; : @ é =?utf-8?q?x?= ../ | \\ /x/i /(a+)+$/ 5m 1e9 -1 0 99999 {n} = none'.split(
      ' ',
    ),
    ...['\r\n', 'X-A: b', 'implicit', '127.0.0.1'],
  )

  test('address lists: addresses that fit an SMTP command, or an error that quotes them', () => {
    fc.assert(
      fc.property(words, (text) => {
        try {
          for (const { address } of parseAddressList(text)) {
            if (problemOfAddress(address) === undefined) assert.doesNotMatch(toEnvelope(address), /[\r\n\0<>]/)
          }
        } catch (error) {
          assert.equal((error as Error).constructor, Error)
        }
      }),
      { numRuns: 1_000 },
    )
  })

  test('options: a value or wrong usage', async () => {
    const isUsage = (error: unknown) => {
      assertFailure(error)
      assert.equal(error.exit, 'usage', error.message)
    }
    const one = fc.option(words, { nil: undefined })
    const many = fc.option(fc.array(words, { minLength: 1, maxLength: 2 }), { nil: undefined })
    const client = fc.record({ host: one, port: one, user: one, password: one, tls: one, timeout: one })
    const filters = fc.record({
      from: many,
      body: many,
      'message-id': many,
      since: one,
      last: one,
    })
    const mail = fc.record({
      ...{ from: many, to: many, cc: many, 'reply-to': many, header: many, 'envelope-to': many, 'envelope-from': many },
      ...{ subject: one, date: one, 'message-id': one, 'in-reply-to': one },
    })
    const given = <T extends object>(values: T) =>
      Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))
    await fc.assert(
      fc.asyncProperty(client, filters, mail, words, fc.boolean(), async (server, wanted, draft, word, numbered) => {
        for (const work of [
          () => parseFilters(given(wanted), 0),
          () => parsePort('--port', word),
          () => parseCount('--last', word),
        ]) {
          try {
            work()
          } catch (error) {
            isUsage(error)
          }
        }
        await resolveClient('smtp', given(server)).catch(isUsage)
        await resolveClient('pop3', given(server)).catch(isUsage)
        await mailMaker(given(draft), { numbered, user: word, io: { stdin: process.stdin, say: () => {} } }).catch(
          isUsage,
        )
      }),
      { numRuns: 300 },
    )
  })

  test('command lines of the scripts: an exit code of the table, and never a stack trace', async () => {
    const project = await Project.create()
    try {
      const options =
        '--from --to --count --eml --header --port --timeout --tls --last --since --json --list --account --only --delete'
      const option = fc.constantFrom(
        ...options.split(' '),
        '--quota',
        '--password',
        '--unknown',
        '--',
        '-v',
        '--wait',
        '-x',
      )
      const script = fc.constantFrom('send_email', 'pop_email', 'add_account', 'status', 'doctor', 'logs', 'reset')
      // Nothing listens on the ports of this project, and the last option ends what would begin to wait.
      const lines = fc.sample(
        fc.tuple(
          script,
          fc.array(
            fc.oneof(
              option,
              words.filter((w) => !w.includes('\0')),
            ),
            { maxLength: 4 },
          ),
        ),
        5,
      )
      const codes = Object.values(EXIT).map(({ code }) => code as number)
      await Promise.all(
        lines.map(async ([name, args]) => {
          const { code, stderr } = await project.runWith({ timeout: 20_000 }, name, ...args, '--timeout', 'x')
          assert.ok(code !== null && codes.includes(code), `${name} ${JSON.stringify(args)}: ${code}\n${stderr}`)
          assert.doesNotMatch(stderr, /\n {4}at /, `${name} ${JSON.stringify(args)}`)
        }),
      )
    } finally {
      await project.remove()
    }
  })
})

describe('replies of servers', () => {
  /** Cuts bytes at any places. */
  const cut = (bytes: Buffer, places: number[]) => {
    const ends = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b)
    return [...ends, bytes.length].map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end))
  }
  const places = fc.array(fc.nat(), { maxLength: 12 })

  /** Reads one message over POP3, and the line behind it, as text; or the exit of the Failure. */
  async function readPop3(chunks: Buffer[]): Promise<string> {
    const server = await serve('none', {
      replies: { RETR: 'chunks' },
      write: async (socket, bytes) => {
        if (bytes.toString() !== 'chunks') return void socket.write(bytes)
        for (const chunk of chunks) {
          if (chunk.length > 0) socket.write(chunk)
          await turn()
        }
        socket.end()
      },
    })
    const session = await Pop3Session.open(server.at(), { user: 'u', password: 'p' })
    try {
      const message = await session.retrieve({ number: 1, uidl: 'u', size: 100 })
      const next = await session.stat().catch((error) => error.message)
      return `${message.toString('latin1')}|${String(next).replace(/:\d+/, '')}`
    } catch (error) {
      assertFailure(error)
      return (error as Failure).exit
    } finally {
      session.close()
      await server.close()
    }
  }

  test('POP3: a message is the same however its bytes are cut', async () => {
    const line = fc.constantFrom('', '.', '..', '.x', 'a', 'a.', '\r', '\n.', '\xff\0', 'b'.repeat(100))
    await fc.assert(
      fc.asyncProperty(fc.array(line, { maxLength: 8 }), places, async (lines, at) => {
        const wire = lines.map((text) => `${text.replace(/^\./, '..')}\r\n`).join('')
        const bytes = Buffer.from(`+OK\r\n${wire}.\r\n-ERR next\r\n`, 'latin1')
        const message = lines.map((text) => `${text}\r\n`).join('')
        assert.ok((await readPop3(cut(bytes, at))).startsWith(`${message}|POP3`))
      }),
    )
  })

  test('POP3: any bytes give the same result or the same failure, cut or not', async () => {
    const bytes = textOf('+OK', '-ERR', '\r\n', '.', '\r\n.\r\n', '..', '+', 'OK ').map((text) =>
      Buffer.from(text, 'latin1'),
    )
    await fc.assert(
      fc.asyncProperty(bytes, places, async (all, at) => {
        assert.equal(await readPop3(cut(all, at)), await readPop3([all]))
      }),
    )
  })
})

describe('large and nested input ends in time', () => {
  function inTime(what: string, work: () => void): void {
    const begin = process.cpuUsage()
    work()
    const { user, system } = process.cpuUsage(begin)
    const took = (user + system) / 1_000
    assert.ok(took < PATIENCE, `${what}: ${took.toFixed()} ms of CPU`)
  }

  test('a piece that is repeated, in every place', () => {
    fc.assert(
      fc.property(PUMPED, (text) => {
        const what = JSON.stringify(`${text.slice(0, 20)}...${text.slice(-5)}`)
        inTime(`addresses of ${what}`, () => {
          try {
            parseAddressList(text)
          } catch (error) {
            assert.equal((error as Error).constructor, Error)
          }
        })
        inTime(`an account ${what}`, () => void orFailure(() => parseAccounts(text)))
        inTime(`quotas ${what}`, () => void parseQuotas(text))
        inTime(`a table ${what}`, () => void entriesOf(text))
      }),
      { numRuns: 10 },
    )
  })
})
