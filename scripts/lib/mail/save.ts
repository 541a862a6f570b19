/** Files named by strangers: a name out of a mail becomes one that stays in its folder and overwrites nothing. */
import { mkdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Failure } from '../cli.ts'
import type { Source } from './views.ts'
import { visibleLine } from './visible.ts'

/** File systems end at 255 bytes; the rest is for the number of a second file of the same name. */
const LONGEST_NAME = 200
const LONGEST_EXTENSION = 20
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
  const free = DEVICE.test(named) ? `_${named}` : named
  const { base, extension } = splitExtension(free)
  return `${cut(base, LONGEST_NAME - Buffer.byteLength(extension))}${extension}`
}

/** Writes new files into one folder, which it makes when it is needed. */
export class Folder {
  readonly #path: string
  /** The number that the next file of a name gets; in lower case, as some file systems know no difference. */
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
    const { base, extension } = splitExtension(name)
    const key = name.toLowerCase()
    for (let number = this.#next.get(key) ?? 1; ; number++) {
      const candidate = number === 1 ? name : `${base}-${number}${extension}`
      this.#next.set(key, number + 1)
      if (candidate !== name && this.#next.has(candidate.toLowerCase())) continue
      const path = join(this.#path, candidate)
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

/** The view of --save and --save-attachments: saves, and gives the paths, one a line. Undefined for no file. */
export function saver(mailFolder: Folder | undefined, attachmentFolder: Folder | undefined) {
  return ({ account, message, raw, mail }: Source): string | undefined => {
    const paths: string[] = []
    if (mailFolder) {
      const localPart = account.split(/[@*]/)[0]
      paths.push(mailFolder.save(safeFileName(`${localPart}-${message.uidl}.eml`, 'mail.eml'), raw))
    }
    if (attachmentFolder) {
      for (const [index, { name, type, bytes }] of mail.attachments.entries()) {
        const otherwise = `attachment-${index + 1}.${EXTENSIONS[type] ?? /[a-z0-9]{1,8}$/.exec(type)?.[0] ?? 'bin'}`
        paths.push(attachmentFolder.save(safeFileName(name, otherwise), bytes))
      }
    }
    return paths.length > 0 ? `${paths.map(visibleLine).join('\n')}\n` : undefined
  }
}

/** Extensions of attachments without a name, where the subtype is none. */
const EXTENSIONS: Record<string, string> = {
  'text/plain': 'txt',
  'text/calendar': 'ics',
  'message/rfc822': 'eml',
  'image/jpeg': 'jpg',
  'application/octet-stream': 'bin',
}

function splitExtension(name: string): { base: string; extension: string } {
  const dot = name.lastIndexOf('.')
  const isExtension = dot > 0 && Buffer.byteLength(name.slice(dot)) <= LONGEST_EXTENSION
  return isExtension ? { base: name.slice(0, dot), extension: name.slice(dot) } : { base: name, extension: '' }
}

/** The beginning of a text that fits into so many bytes of UTF-8, not ending within a character. */
function cut(text: string, bytes: number): string {
  let length = 0
  let cutText = ''
  for (const character of text) {
    length += Buffer.byteLength(character)
    if (length > bytes) return cutText.replace(/[. ]+$/, '')
    cutText += character
  }
  return cutText
}
