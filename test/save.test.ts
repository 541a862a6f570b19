/** The names of files that pop_email saves. */
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { Folder, safeFileName } from '../scripts/lib/mail/save.ts'

describe('names of attachments', () => {
  test('stay in the folder and are no devices', () => {
    const cases: [string, string][] = [
      ['report.pdf', 'report.pdf'],
      ['日本語 の 名前.txt', '日本語 の 名前.txt'],
      ['../../etc/passwd', 'passwd'],
      ['/etc/passwd', 'passwd'],
      ['..\\..\\boot.ini', 'boot.ini'],
      ['C:\\Windows\\x.dll', 'x.dll'],
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
      ['..', 'otherwise'],
      ['.', 'otherwise'],
      ['', 'otherwise'],
      ['///', 'otherwise'],
    ]
    for (const [name, safe] of cases) assert.equal(safeFileName(name, 'otherwise'), safe, JSON.stringify(name))
  })

  test('fit any file system, with their extension', () => {
    const long = safeFileName(`${'あ'.repeat(300)}.txt`, 'otherwise')
    assert.ok(Buffer.byteLength(long) <= 255 && long.endsWith('あ.txt'), long)
    assert.ok(safeFileName('x'.repeat(300), 'otherwise').length <= 255)
    assert.ok(safeFileName(`${'.'.repeat(1_000_000)}x`, 'otherwise').length <= 255)
  })

  test('never overwrite a file or follow a link, and are told apart in any letter case', () => {
    const dir = mkdtempSync(join(tmpdir(), 'names-'))
    try {
      writeFileSync(join(dir, 'there.txt'), 'old')
      symlinkSync(join(dir, 'target'), join(dir, 'link.txt'))
      const folder = new Folder('--save', dir)
      const names = ['there.txt', 'link.txt', 'a.txt', 'a.txt', 'A.txt', 'a-2.txt'].map((name) =>
        folder.save(name, Buffer.from('new')),
      )
      const lower = names.map((name) => name.toLowerCase())
      assert.equal(new Set(lower).size, names.length, names.join(' '))
      assert.equal(readFileSync(join(dir, 'there.txt'), 'utf8'), 'old')
      assert.ok(!readdirSync(dir).includes('target'))
      assert.throws(() => new Folder('--save', join(dir, 'there.txt')), /--save .*no folder/)
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  test('whatever the name, the file is directly in the folder', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 400 }), (name) => {
        const safe = safeFileName(name, 'otherwise')
        assert.doesNotMatch(safe, /[/\\:\0]|^\.|[. ]$|^$/)
        assert.ok(Buffer.byteLength(safe) <= 255)
      }),
      { numRuns: 1_000, seed: 1 },
    )
  })
})
