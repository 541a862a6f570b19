/** README.md's chapter "In your tests": its examples are run as they stand, with ports of this run's own. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { ROOT } from '../scripts/lib/settings.ts'
import { InboxWorld } from './inbox_world.ts'

const README = readFileSync(process.env.README ?? join(ROOT, 'README.md'), 'utf8')
const [, chapter = ''] = /^## In your tests$(.*?)^## |\0/ms.exec(`${README}\n## `) ?? []
const blocks = [...chapter.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language = '', text = '']) => ({
  language,
  text,
}))
const skip = chapter === '' && 'README.md has no such chapter yet'

let world: InboxWorld
let app: Server
let folder: string
before(async () => {
  if (skip) return
  world = await InboxWorld.start()
  app = await startApp()
  folder = mkdtempSync(join(tmpdir(), 'examples-'))
  mkdirSync(join(folder, 'node_modules', '@playwright', 'test'), { recursive: true })
  writeFileSync(
    join(folder, 'node_modules', '@playwright', 'test', 'package.json'),
    '{"type":"module","exports":"./index.js"}',
  )
  writeFileSync(join(folder, 'node_modules', '@playwright', 'test', 'index.js'), PLAYWRIGHT)
  symlinkSync(join(ROOT, 'node_modules', 'playwright-core'), join(folder, 'node_modules', 'playwright-core'))
  const url = `http://127.0.0.1:${(app.address() as AddressInfo).port}/send?to=`
  writeFileSync(join(folder, 'app.mjs'), `export const signUp = (to) => fetch('${url}' + to)\n`)
  writeFileSync(join(folder, 'app.py'), `from urllib.request import urlopen\ndef sign_up(to): urlopen('${url}' + to)\n`)
})
after(async () => {
  app?.close()
  app?.closeAllConnections()
  await world?.remove()
  if (folder) rmSync(folder, { recursive: true })
})

/** The application under test: a form, a mail with a link and a code, and a form for the code. */
function startApp(): Promise<Server> {
  const mail = async (to: string) =>
    world.post(to, ['Subject: Welcome', '', 'Your code is 482193, or: https://shop.example/confirm?t=1'])
  const field = (label: string, name: string) => `<label>${label} <input name="${name}"></label>`
  const pages: Record<string, string> = {
    '/': `<form action="/code">${field('Email', 'to')}<button>Sign up</button></form>`,
    '/code': `<form action="/done">${field('Code', 'code')}<button>Confirm</button></form>`,
  }
  const server = createServer(async ({ url = '' }, response) => {
    const { pathname, searchParams } = new URL(url, 'http://app')
    const to = searchParams.get('to')
    if (to) await mail(to)
    const done = searchParams.get('code') === '482193' ? 'Welcome' : 'Wrong'
    response.setHeader('content-type', 'text/html').end(pages[pathname] ?? done)
  })
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)))
}

/** What the example uses of Playwright's test runner, by playwright-core and Debian's Chromium. */
const PLAYWRIGHT = `
import { test as nodeTest } from 'node:test'
import { chromium, request } from 'playwright-core'
export const test = (name, work) => nodeTest(name, async () => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] })
  try { await work({ page: await browser.newPage(), request: await request.newContext() }) } finally { await browser.close() }
})
export const expect = (locator) => ({ toBeVisible: () => locator.waitFor() })
`

/** An example, with the ports of this run. */
function example(language: string, mark: RegExp): string {
  const block = blocks.find((one) => one.language === language && mark.test(one.text))
  assert.ok(block, `no example of ${mark}`)
  return block.text
    .replaceAll('http://127.0.0.1:8025', world.url)
    .replaceAll('http://127.0.0.1:3000', `http://127.0.0.1:${(app.address() as AddressInfo).port}`)
}

function runIn(folder: string, program: string, ...args: string[]): Promise<{ code: number; output: string }> {
  const { NODE_TEST_CONTEXT: _, ...env } = { ...process.env, ...world.project.env }
  return new Promise((resolve) => {
    execFile(program, args, { cwd: folder, env, timeout: 120_000 }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code ?? 1) : 0, output: stdout + stderr })
    })
  })
}

test('the request', { skip }, async () => {
  await world.post('someone@gmail.com', ['Subject: Hi', '', 'https://shop.example/confirm?t=1'])
  const { output } = await runIn(world.project.dir, 'sh', '-c', example('sh', /curl/))
  // Without curl or jq there is nothing to run it by.
  if (!/not found/.test(output)) assert.match(output, /^https:\/\/shop\.example\/confirm\S+$/m)
})

test('node:test', { skip }, async () => {
  writeFileSync(join(folder, 'sign_up.test.mjs'), example('js', /node:test/))
  const { code, output } = await runIn(folder, process.execPath, '--test', 'sign_up.test.mjs')
  assert.equal(code, 0, output)
  assert.match(output, /pass 1/)
})

test('Playwright', { skip: skip || (!existsSync('/usr/bin/chromium') && 'no Chromium here') }, async () => {
  writeFileSync(join(folder, 'page.test.mjs'), example('js', /@playwright/))
  const { code, output } = await runIn(folder, process.execPath, '--test', 'page.test.mjs')
  assert.equal(code, 0, output)
  assert.match(output, /pass 1/)
})

test('pytest', { skip }, async () => {
  writeFileSync(join(folder, 'test_sign_up.py'), example('python', /def test_/))
  const run = 'import test_sign_up; [f() for n, f in vars(test_sign_up).items() if n.startswith("test_")]'
  const { code, output } = await runIn(folder, 'python3', '-c', run)
  assert.equal(code, 0, output)
})

test('PHPUnit', { skip: skip || (!existsSync('/usr/bin/php') && 'no PHP here') }, async () => {
  const url = `http://127.0.0.1:${(app.address() as AddressInfo).port}/send?to=`
  // What the example uses of PHPUnit, and the application.
  const stand = `<?php namespace PHPUnit\\Framework { class TestCase { function assertStringContainsString($part, $text) {
      if (!str_contains($text, $part)) throw new \\Exception($text); } } }
    namespace { function signUp($to) { file_get_contents('${url}' . $to); } ${example('php', /TestCase/)}
    (new SignUpTest)->testWhoSignsUpGetsALink(); echo 'done'; }`
  writeFileSync(join(folder, 'SignUpTest.php'), stand)
  const { output } = await runIn(folder, 'php', 'SignUpTest.php')
  assert.equal(output, 'done')
})

test('each has an address of its own, and they are short', { skip }, () => {
  for (const { language, text } of blocks.filter((one) => one.language !== 'sh')) {
    assert.match(text, /randomUUID|uuid4|random_bytes/, language)
    assert.ok(text.trim().split('\n').length <= 14, `${language}: ${text}`)
  }
})
