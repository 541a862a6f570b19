/** Both READMEs: the same chapters and examples, links that lead somewhere, tables that match the scripts, commands that work. */
import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { EXIT } from '../scripts/lib/cli.ts'
import { NAMES, ROOT } from '../scripts/lib/settings.ts'
import { send } from './deliveries.ts'
import { Project, processesOf } from './harness.ts'
import { runHere } from './here.ts'

const NAMES_OF_FILES = ['README.md', 'README.ja.md', 'CONTRIBUTING.md', 'CHANGELOG.md']
const TEXTS = NAMES_OF_FILES.map((name) => readFileSync(join(ROOT, name), 'utf8'))
const BLOCK = /^```.*?^```$/gms
const BLOCKS = TEXTS.map((text) => text.match(BLOCK) ?? [])
const PROSE = TEXTS.map((text) => text.replace(BLOCK, ''))

/** What a pattern's first group matches, each once, in the order of the alphabet. */
const all = (pattern: RegExp, text: string) =>
  [...new Set([...text.matchAll(pattern)].map(([, group = '']) => group))].sort()

test('both have the same blocks, headings, rows and paragraphs, in at most 300 lines', () => {
  assert.deepEqual(BLOCKS[1], BLOCKS[0])
  const [english, japanese] = PROSE.map((text) => text.replace(/^(- |\| |#+ |.).*/gm, '$1').replace(/^[^-|#\n]/gm, 'x'))
  assert.equal(japanese, english)
  assert.ok((TEXTS[0]?.match(/\n/g)?.length ?? 0) <= 300)
})

for (const [index, name] of NAMES_OF_FILES.entries()) {
  const prose = PROSE[index] ?? ''
  test(`the links of ${name} lead somewhere`, () => {
    for (const file of all(/\]\((?!https:|#)([^)]+)\)/g, prose)) assert.ok(existsSync(join(ROOT, file)), file)
    if (!name.startsWith('README')) return
    const headings = all(/^## (.*)$/gm, prose.toLowerCase())
    // GitHub leaves out what is no letter and no digit.
    const anchors = headings.map((text) => text.replace(/[^\p{L}\p{M}\p{N} _-]/gu, '').replaceAll(' ', '-'))
    assert.deepEqual(all(/\]\(#([^)]+)\)/g, prose), anchors.sort())
  })
  if (!name.startsWith('README')) continue

  test(`${name} has the options of the mail scripts, the exit codes and the settings`, async () => {
    for (const script of ['send_email', 'pop_email']) {
      const { main } = await import(`../scripts/${script}.ts`)
      const { stdout } = await runHere(main, {}, '--help')
      const [, table = ''] = RegExp(`^\\*\\*${script}\\*\\*.*?(^\\| .*?)\n\n`, 'ms').exec(prose) ?? []
      const OPTION = /(?<!\w)(--[a-z][a-z-]+)/g
      assert.deepEqual(all(OPTION, table), all(OPTION, stdout))
    }
    const [sentence = ''] = /.*130 Ctrl-C/.exec(prose) ?? []
    const codes = Object.values(EXIT).map(({ code }) => `${code}`)
    assert.deepEqual(all(/[.:。、,] ?(\d+) /g, sentence), codes.sort())
    const settings = all(/`([A-Z0-9]+_[A-Z0-9_ ]+)`/g, prose).flatMap((list) => list.split(' '))
    assert.deepEqual([...new Set(settings)].sort(), [...NAMES].sort())
  })
}

const project = await Project.create()
project.env.INBOX_PORT = `${project.inboxPort}`
/** The application under test: a form, a mail with a link and a code, and a form for the code. */
const app = createServer(async ({ url = '' }, response) => {
  const { pathname, searchParams } = new URL(url, 'http://app')
  const to = searchParams.get('to')
  if (to) await send(project.ports, to, 'Welcome', 'Your code is 482193, or: https://shop.example/confirm?t=1')
  const field = (label: string, name: string) => `<label>${label} <input name="${name}"></label>`
  const pages: Record<string, string> = {
    '/': `<form action="/code">${field('Email', 'to')}<button>Sign up</button></form>`,
    '/code': `<form action="/done">${field('Code', 'code')}<button>Confirm</button></form>`,
  }
  const done = searchParams.get('code') === '482193' ? 'Welcome' : 'Wrong'
  response.setHeader('content-type', 'text/html').end(pages[pathname] ?? done)
})
app.listen(0, '127.0.0.1')
const appUrl = () => `http://127.0.0.1:${(app.address() as AddressInfo).port}`

/** npm, npx and tsx take half a second for each command; those marked as typed below are run by the real ones. */
const QUICK_ONES = {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's own
  npx: '[ "$1" = tsx ] && shift; file=${1%.ts}; shift; [ -e $file.js ] && exec node $file.js "$@"; exec node --import tsx $file.ts "$@"',
  npm: '[ "$1" = run ] && shift; [ "$1" = -s ] && shift; name=$(echo $1 | tr - _); shift; [ "$1" = -- ] && shift; exec npx tsx scripts/$name.ts "$@"',
}

/** What the Playwright example uses of Playwright's test runner, by playwright-core and Debian's Chromium. */
const PLAYWRIGHT = `
import { test as nodeTest } from 'node:test'
import { chromium, request } from 'playwright-core'
export const test = (name, work) => nodeTest(name, async () => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] })
  try { await work({ page: await browser.newPage(), request: await request.newContext() }) } finally { await browser.close() }
})
export const expect = (locator) => ({ toBeVisible: () => locator.waitFor() })
`

for (const [name, commands] of Object.entries(QUICK_ONES)) write(`bin/${name}`, `#!/bin/sh\n${commands}\n`, 0o755)
write('examples/node_modules/@playwright/test/package.json', '{"type":"module","exports":"./index.js"}')
write('examples/node_modules/@playwright/test/index.js', PLAYWRIGHT)
const CORE = join('node_modules', 'playwright-core')
symlinkSync(join(ROOT, CORE), project.path('examples', CORE))
after(async () => {
  app.close()
  app.closeAllConnections()
  await project.remove()
})

function write(name: string, text: string, mode?: number): void {
  mkdirSync(dirname(project.path(name)), { recursive: true })
  writeFileSync(project.path(name), text, { mode })
}

// The commands as they stand there, in one order. END looks whether the certificate was found.
const END = 'test ! -v SSL_CERT_FILE || test -s $SSL_CERT_FILE'
const shell = BLOCKS[0]?.filter((block) => block.startsWith('```sh')).map((block) => block.replace(/^```.*\n?/gm, ''))
const FIRST_EVENING: [commands: string, said: RegExp, asTyped?: true][] = [
  ['npm start', /A test mail from foo to bar/, true],
  ['npm run status', /bar@development-virtual\.example\.com/],
  ['npx tsx scripts/send_email.ts', /^Reply: +250 2\.0\.0 Ok: queued as/m, true],
  ['npx tsx scripts/pop_email.ts --wait 10', /^バーさん、こんにちは。/m],
  ['npm run add-account -- alice@development-virtual.example.com secret', /it can log in and receives mail/],
  ['npm run logs -- --lines 50', /postfix|dovecot|lmtp/],
  ['npm run doctor', RegExp(`^${/\d+ checks, all ok/.exec(PROSE[0] ?? '')}$`, 'm')],
  ...(shell ?? []).map((block): [string, RegExp] => [
    block + END,
    block.includes('curl -') ? /^https:\/\/shop\.example\/confirm\?token=1$/m : /^/,
  ]),
]
const LAST: typeof FIRST_EVENING = [
  ['npm run reset -- --yes', /Deleted: \d+ messages in 5 mailboxes/],
  ['npm stop', /The mail server is stopped/],
]

function typed([commands, said, asTyped]: (typeof FIRST_EVENING)[number]): void {
  const missing = ['jq', 'curl'].find((name) => commands.includes(`${name} `) && spawnSync(name, ['--help']).error)
  test(commands.split('\n')[0], { skip: missing && `no ${missing} here` }, () => {
    const PATH = asTyped ? project.env.PATH : `${project.path('bin')}:${project.env.PATH}`
    const options = { cwd: project.dir, env: { ...project.env, PATH, BASH_ENV: '' }, input: '' }
    const text = commands.replaceAll(':8025', `:${project.inboxPort}`)
    const { status, stdout, stderr } = spawnSync('bash', ['-exo', 'pipefail', '-c', text], options)
    assert.equal(status, 0, `${stdout}${stderr}`)
    assert.match(`${stdout}`, said)
    // What stands as a comment behind: echo "exit code $?"
    for (const code of all(/exit code .*# (\d+)$/gm, commands)) assert.ok(`${stdout}`.includes(`\nexit code ${code}\n`))
  })
}

FIRST_EVENING.forEach(typed)

// The examples of "In your tests", each run by what its readers have.
const PYTEST = 'import test_sign_up; [f() for n, f in vars(test_sign_up).items() if n.startswith("test_")]'
const PHPUNIT = (example: string) => `<?php namespace PHPUnit\\Framework { class TestCase {
    function assertStringContainsString($part, $text) { if (!str_contains($text, $part)) throw new \\Exception($text); } } }
  namespace { function signUp($to) { file_get_contents('${appUrl()}/send?to=' . $to); } ${example}
  (new SignUpTest)->testWhoSignsUpGetsALink(); echo 'pass 1'; }`
for (const [name, program, mark, file, command] of [
  ['node:test', process.execPath, "'node:test'", 'sign_up.test.mjs', ['--test', 'sign_up.test.mjs']],
  ['Playwright', '/usr/bin/chromium', '@playwright', 'page.test.mjs', ['--test', 'page.test.mjs']],
  ['pytest', '/usr/bin/python3', 'def test_', 'test_sign_up.py', ['-c', `${PYTEST}; print("pass 1")`]],
  ['PHPUnit', '/usr/bin/php', 'TestCase', 'SignUpTest.php', ['SignUpTest.php']],
] as const) {
  const block = BLOCKS[0]?.find((text) => text.includes(mark))?.replace(/^```.*\n?/gm, '') ?? ''

  test(`the example for ${name}`, { skip: !existsSync(program) && `no ${program} here` }, async () => {
    // Each test has an address of its own.
    assert.match(block, /randomUUID|uuid4|random_bytes/)
    assert.ok(block.split('\n').length <= 15, block)
    const own = block.replaceAll(':8025', `:${project.inboxPort}`).replaceAll('http://127.0.0.1:3000', appUrl())
    write(`examples/${file}`, name === 'PHPUnit' ? PHPUNIT(own) : own)
    write('examples/app.mjs', `export const signUp = (to) => fetch('${appUrl()}/send?to=' + to)\n`)
    write(
      'examples/app.py',
      `from urllib.request import urlopen\nsign_up = lambda to: urlopen('${appUrl()}/send?to=' + to)\n`,
    )
    const { NODE_TEST_CONTEXT: _, ...env } = process.env
    const runs = file.endsWith('.mjs') ? process.execPath : program
    const said = await new Promise<string>((resolve) => {
      const options = { cwd: project.path('examples'), env, timeout: 120_000 }
      execFile(runs, command, options, (_, stdout, stderr) => resolve(stdout + stderr))
    })
    assert.match(said, /pass 1/)
  })
}

LAST.forEach(typed)

test('nothing is left running', () => assert.equal(processesOf(project), ''))
