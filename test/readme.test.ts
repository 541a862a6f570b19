/** Both READMEs: the same chapters and examples, links that lead somewhere, tables that match the scripts, commands that work. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { EXIT } from '../scripts/lib/cli.ts'
import { NAMES, ROOT } from '../scripts/lib/settings.ts'
import { Project, processesOf } from './harness.ts'

const read = (name: string) => readFileSync(join(ROOT, name), 'utf8')
const BLOCK = /^```(\w*)\n(.*?)^```$/gms
const [english, japanese] = ['README.md', 'README.ja.md'].map((name) => {
  const text = read(name)
  const prose = text.replace(BLOCK, '')
  return {
    name,
    text,
    prose,
    blocks: [...text.matchAll(BLOCK)].map(([whole]) => whole),
    chapters: prose.split(/^## /m),
  }
}) as [Readme, Readme]
type Readme = { name: string; text: string; prose: string; blocks: string[]; chapters: string[] }

const sorted = (words: Iterable<string>) => [...new Set(words)].sort()
/** The anchor that GitHub gives a heading. */
const anchorOf = (heading: string) =>
  `#${heading
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N} _-]/gu, '')
    .replaceAll(' ', '-')}`
const headings = (text: string) =>
  [...text.replace(BLOCK, '').matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => heading)

test('both have the same blocks, chapters, rows and paragraphs', () => {
  assert.deepEqual(japanese.blocks, english.blocks)
  const shape = ({ chapters }: Readme) =>
    chapters.map((chapter) => chapter.split('\n').map((line) => /^(- |\| |#+ )?/.exec(line)?.[0]))
  assert.deepEqual(shape(japanese), shape(english))
})

for (const { name, text, prose, chapters } of [english, japanese]) {
  test(`${name} has at most 300 lines, and a link to each chapter`, () => {
    assert.ok(text.split('\n').length <= 301)
    const links = [...prose.matchAll(/\]\((#[^)]+)\)/g)].map(([, anchor]) => anchor)
    assert.deepEqual(
      sorted(links as string[]),
      sorted(chapters.slice(1).map((chapter) => anchorOf(headings(`## ${chapter}`)[0] ?? ''))),
    )
  })

  for (const script of ['send_email', 'pop_email']) {
    test(`${name} has the options of ${script}`, async () => {
      const { main } = await import(`../scripts/${script}.ts`)
      let help = ''
      await main(['--help'], { print: (line: string) => (help += line), write: async (part: string) => (help += part) })
      const [, part = ''] = new RegExp(`^\\*\\*${script}\\*\\*(.*?)^(\\*\\*|## )`, 'ms').exec(prose) ?? []
      const options = (words: string) => sorted(words.match(/(?<![\w-])--[a-z][a-z-]+/g) ?? [])
      const rows = part
        .split('\n')
        .filter((line) => line.startsWith('| '))
        .join('\n')
      assert.deepEqual(options(rows), options(help))
    })
  }

  test(`${name} has the exit codes and the settings`, () => {
    const codes = prose.split('\n').find((line) => line.includes('130 Ctrl-C')) ?? ''
    const named = [...codes.matchAll(/[:。、,] ?(\d+) /g)].map(([, code]) => Number(code))
    assert.deepEqual(
      named,
      Object.values(EXIT).map(({ code }) => code),
    )
    const lists = [...prose.matchAll(/`([A-Z0-9]+_[A-Z0-9_ ]+)`/g)].flatMap(([, list = '']) => list.split(' '))
    assert.deepEqual(sorted(lists), sorted(NAMES))
  })
}

for (const name of ['README.md', 'README.ja.md', 'CONTRIBUTING.md', 'CHANGELOG.md']) {
  test(`the links of ${name} lead somewhere`, () => {
    for (const [, target = ''] of read(name)
      .replace(BLOCK, '')
      .matchAll(/\]\(([^)]+)\)/g)) {
      if (/^https:/.test(target)) continue
      const [file, anchor] = target.split('#')
      assert.ok(existsSync(join(ROOT, file || name)), target)
      if (anchor)
        assert.ok(
          headings(read(file || name))
            .map(anchorOf)
            .includes(`#${anchor}`),
          target,
        )
    }
  })
}

describe('the commands, typed as there: by npm and npx, and run by tsx', () => {
  let project: Project
  before(async () => {
    project = await Project.create()
  })
  after(() => project.remove())

  /** Types commands at a shell that ends at the first one that fails; gives what they print and the exit code. */
  function type(commands: string): Promise<{ code: number | null; output: string }> {
    return new Promise((resolve, reject) => {
      const child = spawn('bash', ['-exo', 'pipefail', '-c', commands], { cwd: project.dir, env: project.env })
      let output = ''
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
      child.once('error', reject)
      child.once('close', (code) => resolve({ code, output }))
      child.stdin.end()
    })
  }

  // A curl asks the inbox, which readme_examples.test.ts does.
  const shell = english.blocks
    .filter((block) => block.startsWith('```sh'))
    .map((block) => block.replace(/^(```|curl).*\n?/gm, ''))
  const [start, stop] = [
    ['npm start', /A test mail from foo to bar/],
    ['npm stop', /The mail server is stopped/],
  ] as const
  for (const [commands, said] of [
    start,
    ['npm run status', /bar@development-virtual\.example\.com/],
    ['npx tsx scripts/send_email.ts', /^Reply: +250 2\.0\.0 Ok: queued as/m],
    ['npx tsx scripts/pop_email.ts --wait 10', /^バーさん、こんにちは。/m],
    ['npm run add-account -- alice@development-virtual.example.com secret', /it can log in and receives mail/],
    ['npm run add-account -- --list', /alice@/],
    ['npm run logs -- --lines 50', /postfix|dovecot|lmtp/],
    ['npm run doctor', /\d+ checks, all ok/],
    ...shell.map((block) => [`${block}test ! -v SSL_CERT_FILE || test -s $SSL_CERT_FILE`, /./] as const),
    ['npm run reset -- --yes', /Deleted: \d+ messages in 5 mailboxes/],
    stop,
  ] as const) {
    const missing = ['jq'].filter((tool) => commands.includes(tool) && spawnSync(tool, ['--version']).error)
    test(commands.split('\n')[0], { skip: missing.length > 0 && `${missing} is missing` }, async () => {
      const { code, output } = await type(commands)
      assert.equal(code, 0, output)
      assert.match(output, said)
      // What a command's comment expects.
      for (const [, expected] of commands.matchAll(/exit code \$\?".*# (\d+)$/gm))
        assert.match(output, RegExp(`^exit code ${expected}$`, 'm'))
    })
  }

  test('nothing is left running', () => assert.equal(processesOf(project), ''))
})
