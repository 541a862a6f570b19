/** The mail log of the native engine, and where the present start begins in it. */
import { appendFileSync, existsSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { Failure } from '../cli.ts'
import { CONFIG_DIR, ROOT } from '../settings.ts'
import { readOr } from './processes.ts'
import { $, foreground } from './shell.ts'

/** The log is set aside at a start when it is larger, in bytes. */
const LOG_LIMIT = 10_000_000
/** Bytes of the disk that are kept free for the log: a Dovecot that cannot write to it ends, and stays ended. */
const LOG_RESERVE = 10_000_000

export class MailLog {
  readonly file: string
  readonly #stateDir: string

  constructor(stateDir: string) {
    this.#stateDir = stateDir
    this.file = join(stateDir, 'log', 'mail.log')
  }

  /** Before a start: a long log goes aside, and the disk keeps room for the new one. */
  async begin(): Promise<void> {
    if (existsSync(this.file) && statSync(this.file).size > LOG_LIMIT) renameSync(this.file, `${this.file}.1`)
    appendFileSync(this.file, '')
    // In a copied state folder postsuper renames the queue files, and logs that, as this user, before postlogd is there.
    await $`chown postfix ${this.file}`
    // Blocks behind its end. Where the file system knows no such thing, it goes without.
    await $`fallocate --keep-size --offset ${statSync(this.file).size} --length ${LOG_RESERVE} ${this.file}`
    this.mark()
  }

  /** From here on the log is about the present start: older troubles are no longer of interest. */
  mark(): void {
    writeFileSync(join(this.#stateDir, 'log', 'start'), String(readOr(this.file).length))
  }

  /** Writes the log's last lines to stdout and, with `follow`, what comes until interrupted. */
  async show({ lines, follow }: { lines: number; follow: boolean }): Promise<void> {
    if (!existsSync(this.file))
      throw new Failure('failed', `${this.file}: no mail log yet. Start the server: npm start`)
    const words = ['-n', String(lines), ...(follow ? ['-F'] : []), this.file]
    await foreground('tail', words, { stdio: ['ignore', 'inherit', 'ignore'] })
  }

  /** What the daemons said since the last start, at most 100,000 characters of it. */
  logged(): string[] {
    const begin = Number(readOr(join(this.#stateDir, 'log', 'start')))
    return this.named(readOr(this.file).slice(begin).slice(-100_000)).split('\n').filter(Boolean)
  }

  /** A text with the project's files in place of the copies that the daemons read. */
  named(text: string): string {
    const copies = new RegExp(`${this.#stateDir}/(?:next/)?(?:[a-z]+/\\.\\./)?config(?=/)`, 'g')
    return text.replace(copies, relative(ROOT, CONFIG_DIR))
  }
}
