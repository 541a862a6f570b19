import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { parseAccounts } from '../scripts/lib/accounts/accounts.ts'
import {
  addAccount,
  aliasesOf,
  deleteAccount,
  domainsOf,
  remainsOf,
  repaired,
  updateAccount,
} from '../scripts/lib/accounts/changes.ts'
import type { Configuration, FileName } from '../scripts/lib/accounts/configuration.ts'
import {
  entriesOf,
  parseAliases,
  withAlias,
  withException,
  withoutDomain,
  withoutRecipient,
} from '../scripts/lib/accounts/tables.ts'
import { HOSTNAME } from '../scripts/lib/settings.ts'
import { configurationOf, PATTERNS } from './configurations.ts'

const CATCHALL = 'catchall@development-mail-server.example.com'
const own = (name: FileName) =>
  readFileSync(new URL(`../docker-data/mail-server/config/${name}`, import.meta.url), 'utf8')
const TRANSPORTS = own('postfix-transport_maps')
/** The configuration that comes with the project. */
const PROJECT = configurationOf({
  'postfix-main.cf': own('postfix-main.cf'),
  'postfix-accounts.cf': own('postfix-accounts.cf'),
  'postfix-virtual.cf': own('postfix-virtual.cf'),
  'dovecot-quotas.cf': own('dovecot-quotas.cf'),
  'postfix-transport_maps': TRANSPORTS,
  'postfix-regexp.cf': PATTERNS,
})
const REQUEST = { address: 'bob@new.example', hash: '{PLAIN}x', quota: '1M', aliases: ['info@other.example'] }

describe('Postfix tables', () => {
  test('a line that begins with white space continues the one above, comments in between or not', () => {
    const text = '\tglued to nothing\na x\n# why\n\n  y # note\nb z\n \nc\r\n'
    assert.deepEqual(entriesOf(text), [
      { text: 'a x y # note', lines: [2, 5] },
      { text: 'b z', lines: [6] },
      { text: 'c', lines: [8] },
    ])
    assert.deepEqual(parseAliases('a@x b@x\n  c@x # or d@x\n')[0]?.recipients, ['b@x', 'c@x'])
    assert.deepEqual(entriesOf('\ufeff a x\n'), [{ text: '\ufeff a x', lines: [1] }])
  })

  const removals: [before: string, after: string][] = [
    ['info@a x@a\n  y@a\n', 'info@a y@a\n'],
    ['top@a z@a\ninfo@a x@a\n  x@a\nend@a z@a\n', 'top@a z@a\nend@a z@a\n'],
    ['info@a\n  x@a, y@a\n', 'info@a y@a\n'],
    ['Info@a\n  x@a\n# why\n  y@a\n', 'Info@a y@a\n# why\n'],
    ['info@a x@a, y@a\n', 'info@a y@a\n'],
    ['info@a y@a, x@a\r\n', 'info@a y@a\r\n'],
    ['info@a y@a\nb@a x@a', 'info@a y@a\n'],
    ['info@a   y@a ,X@A,  z@a', 'info@a y@a, z@a'],
    ['info@a x@a # kept for x@a\nb@a xx@a\n', 'b@a xx@a\n'],
    ['a@a b@a\n# x@a\nx@a b@a\n', 'a@a b@a\n# x@a\nx@a b@a\n'],
  ]
  for (const [before, after] of removals) {
    test(`x@a is taken out of ${JSON.stringify(before)}`, () => assert.equal(withoutRecipient(before, 'x@a'), after))
  }

  test('a recipient goes to the end of an alias, before what was meant as a comment', () => {
    const cases: [string, string][] = [
      ['', 'i@a x@a\n'],
      ['i@a b@a', 'i@a b@a, x@a'],
      ['I@A b@a # note\r\n', 'I@A b@a, x@a # note\r\n'],
      ['i@a b@a,\n  c@a\n\nj@a k@a\n', 'i@a b@a, c@a, x@a\n\nj@a k@a\n'],
      ['i@a b@a,\n', 'i@a b@a, x@a\n'],
    ]
    for (const [before, after] of cases) {
      assert.equal(withAlias(before, 'i@a', 'x@a'), after)
      assert.equal(withAlias(after, 'i@a', 'x@a'), after)
    }
  })

  test('a domain gets its pair in the pattern table around the rule that catches, and it goes again', () => {
    const pair = 'if !/@new\\.example$/'
    const one = '/^/ catchall@development-mail-server.example.com\n'
    const first = '/^(.*\\+fail-(?:bounce|full)@.*)$/  $1\n'
    const cases: [before: string, after: string][] = [
      [PATTERNS, PATTERNS.replace('/^/', `${pair}\n/^/`).replace('endif\n', 'endif\nendif\n')],
      [one, `${pair}\n${one}endif\n`],
      [one.trim(), `${pair}\n${one}endif\n`],
      [one.replace('\n', '\r\n'), `${pair}\r\n${one.replace('\n', '\r\n')}endif\r\n`],
      [`${first}# why\n${one}`, `${first}# why\n${pair}\n${one}endif\n`],
      // A rule of the user's in front, in a condition of its own, and one with a continuation line.
      [
        `if /@mine\\./\n/^a@/ foo@a\n  # why\n\tbar@a\nendif\n${one}/^never/ x\n`,
        `if /@mine\\./\n/^a@/ foo@a\n  # why\n\tbar@a\nendif\n${pair}\n${one}endif\n/^never/ x\n`,
      ],
      [`/^/\n  ${CATCHALL}\n`, `${pair}\n/^/\n  ${CATCHALL}\nendif\n`],
      [`if !/@(a|b)\\.example$/\n${one}endif\n`, `if !/@(a|b)\\.example$/\n${pair}\n${one}endif\nendif\n`],
      // Nothing to do: not caught, caught for somebody else, excepted in another form.
      ['', ''],
      ['/^/ foo@a\n', '/^/ foo@a\n'],
      [`if !/@(a|new)\\.example$/\n${one}endif\n`, `if !/@(a|new)\\.example$/\n${one}endif\n`],
    ]
    for (const [before, after] of cases) {
      assert.equal(withException(before, 'new.example', CATCHALL), after)
      assert.equal(withException(after, 'new.example', CATCHALL), after)
      const last = before.endsWith('\n') || before === '' ? before : `${before}\n`
      assert.equal(withoutDomain(after, 'new.example', 'if'), last)
      assert.equal(withoutDomain(after, 'w.example', 'if'), after)
    }
  })
})

describe('changes of a configuration', () => {
  test('an account of a new domain comes with all its lines and goes with them', () => {
    const added = addAccount(PROJECT, REQUEST, HOSTNAME)
    assert.deepEqual([...domainsOf(added)].slice(2), ['new.example', 'other.example'])
    for (const domain of ['new', 'other']) {
      assert.match(added['postfix-regexp.cf'], new RegExp(`^if !/@${domain}\\\\.example\\$/$`, 'm'))
      assert.match(added['postfix-transport_maps'], new RegExp(`^/@${domain}\\\\.example\\$/ +:$`, 'm'))
    }
    assert.equal(added['postfix-regexp.cf'].match(/^endif$/gm)?.length, 5)
    assert.deepEqual(remainsOf(added), [])
    const gone = deleteAccount(added, REQUEST.address, false)
    assert.deepEqual(aliasesOf(added, REQUEST.address), ['info@other.example'])
    assert.deepEqual(gone, PROJECT)
  })

  test('account and alias never have the same address', () => {
    const before = configurationOf({
      'postfix-accounts.cf': 'a@a.example|{PLAIN}x\nb@a.example|{PLAIN}x\n',
      'postfix-virtual.cf': 'alias@a.example b@a.example\n',
    })
    const adding = (address: string, ...aliases: string[]) => addAccount(before, { address, aliases }, HOSTNAME)
    const usage = (message: RegExp) => (error: { exit?: string; message: string }) =>
      error.exit === 'usage' && message.test(error.message)
    assert.throws(() => adding('c@a.example', 'a@a.example'), usage(/a@a\.example is an account/))
    assert.throws(() => adding('c@a.example', 'c@a.example'), usage(/alias of itself/))
    assert.throws(() => adding('alias@a.example'), usage(/is an alias of b@a\.example \(postfix-virtual\.cf line 1\)/))
    assert.throws(() => adding('c@a.example', 'c@localhost'), usage(/mydestination/))
    const configuration = adding('c@a.example', 'alias@a.example')
    assert.equal(configuration['postfix-virtual.cf'], 'alias@a.example b@a.example, c@a.example\n')
  })

  test('stopped after any of its files, a change is found by name, mended, and repeated to the same end', () => {
    const order: FileName[] = ['postfix-transport_maps', 'postfix-regexp.cf', 'postfix-virtual.cf', 'dovecot-quotas.cf']
    const added = addAccount(PROJECT, REQUEST, HOSTNAME)
    /** The first `count` of these files are written, the others are not. */
    const halfway = (before: Configuration, after: Configuration, names: FileName[]) =>
      ({ ...before, ...Object.fromEntries(names.map((name) => [name, after[name]])) }) as Configuration
    for (let count = 1; count <= order.length; count++) {
      const names = order.slice(0, count)
      // A deletion takes the accounts first, then these from the last to the first: it leaves the same.
      const half = halfway(PROJECT, added, names)
      const remains = remainsOf(half)
      assert.ok(remains.length > 0, names.join())
      for (const { file, line, name, fact, isLeft } of remains) {
        assert.ok(isLeft && line)
        assert.match(`${name} ${fact}`, /(new|other)\.example .*(no account|no longer)/)
        assert.match(half[file].split('\n')[line - 1] ?? '', /(new|other)\\?\.example/)
      }
      assert.deepEqual(repaired(half), PROJECT, names.join())
      assert.deepEqual(addAccount(half, REQUEST, HOSTNAME), added)
    }
  })

  test('what is left of a deleted account goes when its deletion is repeated', () => {
    const added = addAccount(PROJECT, REQUEST, HOSTNAME)
    const half = { ...added, 'postfix-accounts.cf': PROJECT['postfix-accounts.cf'] }
    const configuration = deleteAccount(half, REQUEST.address, false)
    assert.deepEqual(configuration, PROJECT)
    assert.throws(() => deleteAccount(PROJECT, REQUEST.address, false), /is no account/)
  })

  test("an account's domain that a hand has left out is completed", () => {
    const added = addAccount(PROJECT, REQUEST, HOSTNAME)
    const half: Configuration = {
      ...added,
      'postfix-transport_maps': PROJECT['postfix-transport_maps'],
      'postfix-regexp.cf': PROJECT['postfix-regexp.cf'],
    }
    assert.deepEqual(
      remainsOf(half).map(({ file, isLeft, name }) => [file, isLeft, name]),
      [
        ['postfix-transport_maps', false, 'new.example'],
        ['postfix-regexp.cf', false, 'new.example'],
      ],
    )
    assert.deepEqual(remainsOf(repaired(half)), [])
  })

  test('legitimate files have no remains', () => {
    const cases: Partial<Record<FileName, string>>[] = [
      {},
      {
        'postfix-virtual.cf': `@development-mail-server.example.com ${CATCHALL}\nboss@client.example foo@development-virtual.example.com\n`,
      },
      {
        'postfix-virtual.cf':
          'out@development-virtual.example.com someone@gmail.com, bar+tag@development-virtual.example.com\n',
      },
      {
        'postfix-virtual.cf':
          'a@development-virtual.example.com b@development-virtual.example.com\nb@development-virtual.example.com foo@development-virtual.example.com\n',
      },
      {
        'postfix-virtual.cf':
          '@development-virtual.example.com foo@development-virtual.example.com\nx@development-virtual.example.com y@development-virtual.example.com\n',
      },
      {
        'postfix-regexp.cf': `/^sales.*@development-virtual/ foo@development-virtual.example.com\n${PATTERNS}`,
        'postfix-virtual.cf': 'x@development-virtual.example.com sales1@development-virtual.example.com\n',
      },
      {
        'postfix-regexp.cf': `if !/@(development-virtual|development-mail-server)\\.example\\.com$/\n/^/ ${CATCHALL}\nendif\n`,
      },
      {
        'postfix-transport_maps':
          `/@other\\.example$/ :\n  # a comment\n/@.*\\.example\\.com$/ lmtp:unix:x\n/^/ local:\n`.replace(
            '/@other\\.example$/ :\n',
            '',
          ),
      },
      { 'postfix-regexp.cf': '', 'postfix-transport_maps': '' },
    ]
    for (const texts of cases) {
      assert.deepEqual(remainsOf({ ...PROJECT, ...texts }), [], JSON.stringify(texts))
    }
  })

  test('an account in capitals, twice, with attributes and CRLF is one account', () => {
    const text = 'Foo@A.example|{PLAIN}x|attr=1|more\r\nother@a.example|{PLAIN}y\r\nfoo@a.example|{PLAIN}z'
    const before = configurationOf({
      'postfix-accounts.cf': text,
      'dovecot-quotas.cf': '  FOO@a.example : 1G # mine\r\n',
    })
    const request = { address: 'foo@a.example', hash: '{PLAIN}$&', quota: '2G', aliases: [] }
    const configuration = updateAccount(before, request, HOSTNAME)
    assert.equal(
      configuration['postfix-accounts.cf'],
      'Foo@A.example|{PLAIN}$&|attr=1|more\r\nother@a.example|{PLAIN}y\r\nfoo@a.example|{PLAIN}$&',
    )
    assert.match(configuration['dovecot-quotas.cf'], /^foo@a\.example:2G\r?\n$/)
    const gone = deleteAccount(configuration, 'foo@a.example', false)
    assert.equal(gone['postfix-accounts.cf'], 'other@a.example|{PLAIN}y\r\n')
  })

  test('no line that may hold a password is ever shown', () => {
    for (const line of [
      'bob@shop.example|my-secret',
      'my-secret',
      'bob|my-secret',
      ':my-secret',
      '\ufeffa@b|{PLAIN}my-secret',
    ]) {
      assert.throws(
        () => parseAccounts(`# x\n${line}\n`),
        ({ message }) => /line 2 is no account/.test(message) && !message.includes('secret'),
      )
    }
  })
})
