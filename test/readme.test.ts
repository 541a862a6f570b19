/** Both READMEs: the same chapters and examples, links that lead somewhere, tables that match the scripts, commands that work. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { EXIT } from '../scripts/lib/cli.ts'
import { NAMES, ROOT } from '../scripts/lib/settings.ts'
import { Project, processesOf } from './harness.ts'

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

  for (const script of ['send_email', 'pop_email']) {
    test(`${name} has the options of ${script}`, async () => {
      const { main } = await import(`../scripts/${script}.ts`)
      let help = ''
      await main(['--help'], { print: (text: string) => (help += text) })
      const [, table = ''] = RegExp(`^\\*\\*${script}\\*\\*.*?(^\\| .*?)\n\n`, 'ms').exec(prose) ?? []
      const OPTION = /(?<!\w)(--[a-z][a-z-]+)/g
      assert.deepEqual(all(OPTION, table), all(OPTION, help))
    })
  }

  test(`${name} has the exit codes and the settings`, () => {
    const [sentence = ''] = /.*130 Ctrl-C/.exec(prose) ?? []
    const codes = Object.values(EXIT).map(({ code }) => `${code}`)
    assert.deepEqual(all(/[.:。、,] ?(\d+) /g, sentence), codes.sort())
    const settings = all(/`([A-Z0-9]+_[A-Z0-9_ ]+)`/g, prose).flatMap((list) => list.split(' '))
    assert.deepEqual([...new Set(settings)].sort(), [...NAMES].sort())
  })
}

const project = await Project.create()
after(() => project.remove())

// The commands, typed as there. The curl asks the inbox: readme_examples.test.ts. END looks whether the certificate was found.
const shell = BLOCKS[0]?.filter((block) => block.startsWith('```sh')) ?? []
const END = 'test ! -v SSL_CERT_FILE || test -s $SSL_CERT_FILE'
const FIRST_EVENING: [commands: string, said: RegExp][] = [
  ['npm start', /A test mail from foo to bar/],
  ['npm run status', /bar@development-virtual\.example\.com/],
  ['npx tsx scripts/send_email.ts', /^Reply: +250 2\.0\.0 Ok: queued as/m],
  ['npx tsx scripts/pop_email.ts --wait 10', /^バーさん、こんにちは。/m],
  ['npm run add-account -- alice@development-virtual.example.com secret', /it can log in and receives mail/],
  ['npm run logs -- --lines 50', /postfix|dovecot|lmtp/],
  ['npm run doctor', RegExp(`^${/\d+ checks, all ok/.exec(PROSE[0] ?? '')}$`, 'm')],
  ...shell.map((block): [string, RegExp] => [block.replace(/^(```|curl).*\n?/gm, '') + END, /^/]),
  ['npm run reset -- --yes', /Deleted: \d+ messages in 5 mailboxes/],
  ['npm stop', /The mail server is stopped/],
]
for (const [commands, said] of FIRST_EVENING) {
  const skip = /\bjq\b/.test(commands) && spawnSync('jq', ['--version']).error !== undefined && 'no jq here'
  test(commands.split('\n')[0], { skip }, () => {
    const options = { cwd: project.dir, env: { ...project.env, BASH_ENV: '' }, input: '' }
    const { status, stdout, stderr } = spawnSync('bash', ['-exo', 'pipefail', '-c', commands], options)
    assert.equal(status, 0, `${stdout}${stderr}`)
    assert.match(`${stdout}`, said)
    // What stands as a comment behind: echo "exit code $?"
    for (const code of all(/exit code .*# (\d+)$/gm, commands)) assert.ok(`${stdout}`.includes(`\nexit code ${code}\n`))
  })
}

test('nothing is left running', () => assert.equal(processesOf(project), ''))
