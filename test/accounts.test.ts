/** Addresses, passwords, tables, and changes of a configuration: texts in, texts out. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, test } from 'node:test'
import { checkPassword, hashPassword, parseAccounts } from '../scripts/lib/accounts/accounts.ts'
import { checkAddress } from '../scripts/lib/accounts/address.ts'
import { addAccount, deleteAccount, updateAccount } from '../scripts/lib/accounts/changes.ts'
import { ask } from '../scripts/lib/accounts/prompts.ts'
import {
  domainLines,
  entriesOf,
  parseAliases,
  withAlias,
  withException,
  withoutEntries,
  withoutRecipient,
  withVirtualDomain,
} from '../scripts/lib/accounts/tables.ts'
import { CONFIG_DIR } from '../scripts/lib/settings.ts'
import { configurationOf } from './configurations.ts'

const CATCHALL = 'catchall@development-mail-server.example.com'
const PATTERNS = readFileSync(join(CONFIG_DIR, 'postfix-regexp.cf'), 'utf8')
const letters = (count: number) => 'a'.repeat(count)
const usage = (reason: RegExp, isFine = (_message: string) => true) => {
  return ({ exit, message }: { exit?: string; message: string }) =>
    exit === 'usage' && reason.test(message) && isFine(message)
}

describe('addresses and passwords', () => {
  test('what cannot be an address is refused with the reason', () => {
    for (const [reason, ...addresses] of [
      [/no domain/, '', 'alice', 'alice@'],
      [/name\+anything/, 'a+b@shop.example'],
      [/before the "@" it may have letters/, '@shop.example', ' a@shop.example', 'a\u3000b@shop.example'],
      [/before the "@"/, 'a\x1b[2Jb@x.example'],
      [/before the "@"/, ...Array.from('|:*/"#\'%é \t', (letter) => `a${letter}b@shop.example`), '../a@shop.example'],
      [/before the "@"/, '-a@shop.example', '.a@shop.example', 'a.@shop.example', 'a..b@shop.example'],
      [/xn--r8jz45g\.jp/, 'a@例え.jp'],
      [/its domain is no name/, `a@${letters(64)}.example`, 'a@shop_1.example', 'a@-shop.example', 'a@shop-.example'],
      [/its domain is no name/, 'a@shop..example', 'a@shop.example.', 'alice@shop.example\n', 'a@b@shop.example'],
      [/its domain is no name/, 'a@[127.0.0.1]', 'a@127.0.0.1'],
      [/mydestination/, 'a@localhost', 'A@LocalHost', 'a@localhost.example.com'],
      [/64 octets/, `${letters(65)}@shop.example`, `${letters(64)}@${`${letters(47)}.`.repeat(4)}`.slice(0, -1)],
    ] as [RegExp, ...string[]][]) {
      for (const address of addresses) {
        const names = (message: string) => message.includes(JSON.stringify(address)) && !message.includes('\x1b')
        assert.throws(() => checkAddress(address), usage(reason, names), address)
      }
    }
  })

  test('addresses at the limits are taken, in lower case', () => {
    const longest = `${letters(64)}@${`${letters(62)}.`.repeat(3)}`.slice(0, -1)
    const others = ['a@b', '0@0.example', 'a.b_c-d@xn--r8jz45g.jp', 'A-@Shop-1.Example', '_@a.example']
    for (const address of [longest, ...others]) assert.equal(checkAddress(address), address.toLowerCase())
  })

  test('a password that POP3 or the files cannot carry is refused, and not shown', () => {
    for (const [reason, ...passwords] of [
      [/empty/, ''],
      [/space/, ' secret', 'secret '],
      [/line break/, 'se\ncret', 'se\rcret'],
      [/NUL/, 'se\0cret'],
      [/not UTF-8/, 'se\ufffdcret'],
      [/1001 bytes/, letters(1001)],
      [/1002 bytes/, 'é'.repeat(501)],
    ] as [RegExp, ...string[]][]) {
      for (const password of passwords)
        assert.throws(
          () => checkPassword(password),
          usage(reason, (message) => !/cret|aaa/.test(message)),
        )
    }
  })

  test('doveadm accepts the hash of every length and script, and refuses the password with one byte more', () => {
    const passwords = ['x', 'パスワード', 'a|b:c"d\'e\\f$g', '\ufefftext', `${letters(63)}é`]
    for (const length of [64, 511, 512, 1000]) passwords.push(letters(length))
    for (const password of passwords) {
      const hash = hashPassword(password)
      const length = Buffer.byteLength(password)
      assert.match(hash, length < 512 && length % 64 > 0 ? /^\{SHA512-CRYPT\}\$6\$/ : /^\{SSHA512\}/)
      assert.doesNotMatch(hash, /[|:\s]/)
      const verify = (text: string) => spawnSync('doveadm', ['pw', '-t', hash, '-p', text]).status === 0
      assert.deepEqual([verify(password), verify(`${password}x`)], [true, false], `${password.length} characters`)
    }
  })

  test('a password that is typed is not shown; Ctrl-C and the end of input are no answer', async () => {
    for (const [typed, answer] of [
      ['secrex\x7ft\r', 'secret'],
      ['sec\x03', 'interrupted'],
      ['sec\x04\x15\x04', 'failed'],
    ] as const) {
      const [stdin, stderr] = [Object.assign(new PassThrough(), { isTTY: true }), new PassThrough()]
      const asked = ask({ stdin, stderr }, 'Password: ', '', { echo: false })
      stdin.write(typed)
      assert.equal(await asked.catch(({ exit }) => exit), answer)
      assert.equal(String(stderr.read()), 'Password: \n')
    }
  })

  test('no line that may hold a password is ever shown', () => {
    for (const line of ['bob@shop.example|my-secret', 'my-secret', 'bob|my-secret', '\ufeffa@b|{PLAIN}my-secret']) {
      assert.throws(
        () => parseAccounts(`# x\n${line}\n`),
        ({ message }) => /line 2 is no account/.test(message) && !message.includes('secret'),
      )
    }
  })
})

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

  test('a recipient is taken out of its aliases, and of no other line', () => {
    for (const [before, after] of [
      ['info@a x@a\n  y@a\n', 'info@a y@a\n'],
      ['top@a z@a\ninfo@a x@a\n  x@a\nend@a z@a\n', 'top@a z@a\nend@a z@a\n'],
      ['Info@a\n  x@a\n# why\n  y@a\nb@a x@a,c@a\n', 'Info@a y@a\n# why\nb@a c@a\n'],
      ['info@a y@a\nb@a x@a', 'info@a y@a\n'],
      ['info@a   y@a ,X@A,  z@a', 'info@a y@a, z@a\n'],
      ['info@a x@a # kept for x@a\nb@a xx@a\n', 'b@a xx@a\n'],
      ['info@a x@a,y@a # kept for x@a\n', 'info@a y@a # kept for x@a\n'],
      ['a@a b@a\n# x@a\nx@a b@a', 'a@a b@a\n# x@a\nx@a b@a'],
    ] as const) {
      assert.equal(withoutRecipient(before, 'x@a'), after)
    }
  })

  test('a recipient goes to the end of an alias, before what was meant as a comment', () => {
    for (const [before, after] of [
      ['', 'i@a x@a\n'],
      ['i@a b@a', 'i@a b@a, x@a\n'],
      ['I@A b@a # note\n', 'I@A b@a, x@a # note\n'],
      ['i@a b@a,\n  c@a\n\nj@a k@a\n', 'i@a b@a, c@a, x@a\n\nj@a k@a\n'],
    ] as const) {
      assert.equal(withAlias(before, 'i@a', 'x@a'), after)
      assert.equal(withAlias(after, 'i@a', 'x@a'), after)
    }
  })

  const withoutDomain = (text: string, domain: string) =>
    withoutEntries(
      text,
      domainLines(text).filter(({ name }) => name === domain),
    )
  /** Adds new.example twice, takes it out again; the last line gets its end. */
  const assertComesAndGoes = (before: string, after: string, add: (text: string) => string) => {
    assert.equal(add(before), after)
    assert.equal(add(after), after)
    assert.equal(withoutDomain(after, 'new.example'), before.endsWith('\n') || before === '' ? before : `${before}\n`)
    assert.equal(withoutDomain(after, 'w.example'), after)
  }

  test('a domain gets its pair in the pattern table around the rule that catches, and it goes again', () => {
    const pair = 'if !/@new\\.example$/'
    const one = `/^/ ${CATCHALL}\n`
    const mine = `if /@mine\\./\n/^a@/ foo@a\n  # why\n\tbar@a\nendif\n`
    const many = `if !/@(a|new)\\.example$/\n${one}endif\n`
    for (const [before, after] of [
      [PATTERNS, PATTERNS.replace('/^/', `${pair}\n/^/`).replace('endif\n', 'endif\nendif\n')],
      [one.trim(), `${pair}\n${one}endif\n`],
      [`/^(.*\\+fail-.*)$/  $1\n# why\n${one}`, `/^(.*\\+fail-.*)$/  $1\n# why\n${pair}\n${one}endif\n`],
      // A rule of the user's in front, in a condition of its own, and one with a continuation line.
      [`${mine}${one}/^never/ x\n`, `${mine}${pair}\n${one}endif\n/^never/ x\n`],
      [`/^/\n  ${CATCHALL}\n`, `${pair}\n/^/\n  ${CATCHALL}\nendif\n`],
      [`if !/@(a|b)\\.example$/\n${one}endif\n`, `if !/@(a|b)\\.example$/\n${pair}\n${one}endif\nendif\n`],
      // Nothing to do: not caught, caught for somebody else, excepted in another form.
      ['', ''],
      ['/^/ foo@a\n', '/^/ foo@a\n'],
      [many, many],
    ] as const) {
      assertComesAndGoes(before, after, (text) => withException(text, 'new.example', CATCHALL))
    }
  })

  test('a domain goes in front of the line of the transport map that catches it, and out again', () => {
    const fence = '/^/ local:\n'
    const line = '/@new\\.example$/                            :\n'
    for (const [before, after] of [
      [fence, `${line}${fence}`],
      [`# why\n${fence}`, `# why\n${line}${fence}`],
      [`/@b$/ :\n\n# why\n${fence}`, `/@b$/ :\n${line}\n# why\n${fence}`],
      [`/[@.]example$/ :\n${fence}`, `/[@.]example$/ :\n${fence}`],
      ['', line],
    ] as const) {
      assertComesAndGoes(before, after, (text) => withVirtualDomain(text, 'new.example'))
    }
  })
})

describe('changes of a configuration', () => {
  test('account and alias never have the same address', () => {
    const before = configurationOf({
      'postfix-accounts.cf': 'b@a.example|{PLAIN}x\n',
      'postfix-virtual.cf': 'alias@a.example b@a.example\n',
    })
    const adding = (address: string, ...aliases: string[]) => addAccount(before, { address, aliases })
    assert.throws(() => adding('alias@a.example'), usage(/is an alias of b@a\.example \(postfix-virtual\.cf line 1\)/))
    const { 'postfix-virtual.cf': virtual } = adding('c@a.example', 'alias@a.example')
    assert.equal(virtual, 'alias@a.example b@a.example, c@a.example\n')
  })

  test('an account in capitals, twice, with attributes and CRLF is one account; lines of others stay as they are', () => {
    const lines = (hash: string) =>
      `# a@b.example|x\r\n\nFoo@A.example|${hash}|attr=1|more\r\nno account\no@a.example|$6$y\r\nfoo@a.example|${hash}`
    const before = configurationOf({
      'postfix-accounts.cf': lines('{PLAIN}x'),
      'dovecot-quotas.cf': '  FOO@a.example : 1G # mine\r\n',
    })
    const request = { address: 'foo@a.example', hash: '{PLAIN}$&', quota: '2G', aliases: [] }
    const after = updateAccount(before, request)
    assert.equal(after['postfix-accounts.cf'], lines('{PLAIN}$&'))
    assert.equal(after['dovecot-quotas.cf'], 'foo@a.example:2G\n')
    const more = addAccount(before, { ...request, address: 'new@a.example' })
    assert.equal(more['postfix-accounts.cf'], `${lines('{PLAIN}x')}\nnew@a.example|{PLAIN}$&\n`)
    const gone = deleteAccount(after, 'foo@a.example', true)
    assert.equal(gone['postfix-accounts.cf'], '# a@b.example|x\r\n\nno account\no@a.example|$6$y\r\n')
    assert.equal(gone['dovecot-quotas.cf'], '')
  })

  test('a quota stands in front of the line of an account whose name ends like it', () => {
    // docker-mailserver looks for "address:" anywhere in the file and takes the first line.
    const before = configurationOf({ 'postfix-accounts.cf': 'o@a|{PLAIN}x\n', 'dovecot-quotas.cf': '# x\nfoo@a:5M\n' })
    for (const quota of ['10M', '0']) {
      const { 'dovecot-quotas.cf': quotas } = updateAccount(before, { address: 'o@a', quota, aliases: [] })
      assert.equal(quotas, `# x\no@a:${quota}\nfoo@a:5M\n`)
    }
  })

  test('the last account goes with --force only', () => {
    const one = configurationOf({ 'postfix-accounts.cf': 'only@a.example|{PLAIN}x\n' })
    assert.throws(() => deleteAccount(one, 'only@a.example', false), /is the last account.*--force/)
    assert.equal(deleteAccount(one, 'only@a.example', true)['postfix-accounts.cf'], '')
  })
})
