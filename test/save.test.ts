/** The names of files that pop_email saves. */
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { Folder, safeFileName } from '../scripts/lib/mail/save.ts'

test('names of attachments stay in the folder, are no devices, and fit any file system with their extension', () => {
  const cases: [string, string][] = [
    ['日本語 の 名前.txt', '日本語 の 名前.txt'],
    ['../../etc/passwd', 'passwd'],
    ['..\\..\\boot.ini', 'boot.ini'],
    ['C:x.dll', 'C_x.dll'],
    ['a\0b.txt', 'a_b.txt'],
    ['a\u202etxt.exe', 'a_txt.exe'],
    ['CON', '_CON'],
    ['nul.txt', '_nul.txt'],
    ['Com1.tar.gz', '_Com1.tar.gz'],
    ['lpt\u00b9.txt', '_lpt\u00b9.txt'],
    ['console.txt', 'console.txt'],
    ['trailing. . ', 'trailing'],
    ['.bashrc', '_bashrc'],
    ['-rf', '_rf'],
    ...['..', '.', '', '///'].map((name): [string, string] => [name, 'otherwise']),
    [`${'あ'.repeat(300)}.txt`, `${'あ'.repeat(65)}.txt`],
    ['x'.repeat(300), 'x'.repeat(200)],
    [`a.${'x'.repeat(300)}`, `a.${'x'.repeat(198)}`],
  ]
  for (const [name, safe] of cases) assert.equal(safeFileName(name, 'otherwise'), safe, JSON.stringify(name))
  const isSafe = (name: string) => {
    const safe = safeFileName(name, 'otherwise')
    return !/[/\\:\0]|^\.|[. ]$|^$/.test(safe) && Buffer.byteLength(safe) <= 255
  }
  assert.ok(isSafe(`${'.'.repeat(1_000_000)}x`))
  fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 400 }), isSafe), { numRuns: 200, seed: 1 })
})

test('a saved file never overwrites another or follows a link', () => {
  const dir = mkdtempSync(join(tmpdir(), 'names-'))
  try {
    writeFileSync(join(dir, 'there.txt'), 'old')
    symlinkSync(join(dir, 'target'), join(dir, 'link.txt'))
    const folder = new Folder('--save', dir)
    const paths = ['there.txt', 'link.txt', 'a.txt', 'a.txt', 'a-2.txt'].map((n) => folder.save(n, Buffer.from(n)))
    assert.equal(new Set(paths).size, paths.length, paths.join(' '))
    assert.equal(readFileSync(join(dir, 'there.txt'), 'utf8'), 'old')
    assert.ok(!readdirSync(dir).includes('target'))
    assert.throws(() => new Folder('--save', join(dir, 'there.txt')), /--save .*no folder/)
  } finally {
    rmSync(dir, { recursive: true })
  }
})
