/** Files named by strangers: a name out of a mail becomes one that stays in its folder and overwrites nothing. */
import { mkdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { join, parse } from 'node:path'
import { Failure } from '../cli.ts'

/** Bytes. File systems end at 255; the rest is for the number of a second file of the same name. */
const LONGEST = { name: 200, extension: 20 }
/** Names that are devices on Windows, with whatever extension. */
const DEVICE = /^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])[ ]*(\.|$)/i

/** A file name that is safe on Linux, macOS and Windows, from whatever a mail gives. `otherwise` where nothing is left. */
export function safeFileName(name: string, otherwise: string): string {
  const last = name.slice(-1_000).split(/[/\\]/).at(-1) as string
  const clean = last
    .normalize('NFC')
    // Control characters, what Windows has other uses for, bidi controls (which turn exe.txt into txt.exe), half characters.
    .replace(/[\0-\x1f\x7f-\x9f<>:"|?*\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|\p{Surrogate}/gu, '_')
    .trim()
    // Hidden files, options of commands, home folders; Windows drops dots and spaces at the end.
    .replace(/^[.~-]+/, '_')
    .replace(/[. ]+$/, '')
  const named = /^_*$/.test(clean) ? otherwise : clean
  const { name: base, ext } = parse(DEVICE.test(named) ? `_${named}` : named)
  if (Buffer.byteLength(ext) > LONGEST.extension) return beginning(base + ext, LONGEST.name)
  return beginning(base, LONGEST.name - Buffer.byteLength(ext)) + ext
}

/** What fits into so many bytes of UTF-8, not ending within a character. */
function beginning(text: string, bytes: number): string {
  const cut = Buffer.from(text).subarray(0, bytes).toString()
  return cut.length < text.length ? cut.replace(/[. \ufffd]+$/, '') : text
}

/** Writes new files into one folder, which it makes when it is needed. */
export class Folder {
  readonly #path: string
  /** The number that the next file of a name gets. */
  readonly #next = new Map<string, number>()

  /** Throws a usage Failure when `path` is there and no folder. `option` is what the user typed it behind. */
  constructor(option: string, path: string) {
    if (path === '') throw new Failure('usage', `${option}: name a folder.`)
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === false) {
      throw new Failure('usage', `${option} ${path}: is there already and no folder. Name another.`)
    }
    this.#path = path
  }

  /** Saves content under this name, or with a number behind it where it is taken. Gives the path. */
  save(name: string, content: Buffer): string {
    mkdirSync(this.#path, { recursive: true })
    const { name: base, ext } = parse(name)
    for (let number = this.#next.get(name) ?? 1; ; number++) {
      const path = join(this.#path, number === 1 ? name : `${base}-${number}${ext}`)
      this.#next.set(name, number + 1)
      try {
        // Exclusive: fails where anything has this name, a symbolic link included, and never follows one.
        writeFileSync(path, content, { flag: 'wx', flush: true })
        return path
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        if (code === 'EEXIST') continue
        // What was opened and could not be filled is half a file.
        if (code === 'ENOSPC' || code === 'EIO' || code === 'EDQUOT') unlinkSync(path)
        throw error
      }
    }
  }
}
