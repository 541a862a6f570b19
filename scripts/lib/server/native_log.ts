/** The mail log of the native engine: where the present start begins in it, and which of the user's lines a complaint is about. */
import { appendFileSync, chownSync, existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { Failure } from '../cli.ts'
import { CONFIG_DIR, ROOT } from '../settings.ts'
import { readOr } from './native_configuration.ts'
import { $, foreground } from './shell.ts'

/** The log is set aside at a start when it is larger, in bytes. */
const LOG_LIMIT = 10_000_000
/** Bytes of the disk that are kept free for the log: a Dovecot that cannot write to it ends, and stays ended. */
const LOG_RESERVE = 10_000_000

export class MailLog {
  readonly #file: string
  /** Where the log of the last start begins, in bytes: older troubles are no longer of interest. */
  readonly #begin: string
  /** What the two programs said before they could write to the log. */
  readonly #out: string[]
  readonly #stateDir: string

  constructor(stateDir: string) {
    this.#stateDir = stateDir
    this.#file = join(stateDir, 'log', 'mail.log')
    this.#begin = join(stateDir, 'log', 'start')
    this.#out = ['postfix.out', 'dovecot.out'].map((name) => join(stateDir, 'log', name))
  }

  /** Before a start: a long log goes aside, and the disk keeps room for the new one. `owner` is Postfix's uid. */
  async begin(owner: number): Promise<void> {
    if (existsSync(this.#file) && statSync(this.#file).size > LOG_LIMIT) renameSync(this.#file, `${this.#file}.1`)
    // In a copied state folder postsuper renames the queue files, and logs that, as this user, before postlogd is there.
    appendFileSync(this.#file, '')
    chownSync(this.#file, owner, 0)
    // Blocks behind its end. Where the file system knows no such thing, it goes without.
    const { size } = statSync(this.#file)
    await $({ timeout: 10_000 })`fallocate --keep-size --offset ${size} --length ${LOG_RESERVE} ${this.#file}`
    for (const out of this.#out) writeFileSync(out, '')
    this.mark()
  }

  /** From here on the log is about the present start. */
  mark(): void {
    writeFileSync(this.#begin, String(existsSync(this.#file) ? statSync(this.#file).size : 0))
  }

  /** Writes the log's last lines to stdout and, with `follow`, what comes until interrupted. */
  async show({ lines, follow }: { lines: number; follow: boolean }): Promise<void> {
    if (!existsSync(this.#file))
      throw new Failure('failed', `${this.#file}: no mail log yet. Start the server: npm start`)
    await foreground('tail', ['-n', String(lines), ...(follow ? ['-F'] : []), this.#file], {
      stdio: ['ignore', 'inherit', 'ignore'],
    })
  }

  /** What the daemons complain about since the last start, at most ten lines. */
  complaints(): string[] {
    return [...new Set(this.logged().filter((line) => /\b(fatal|panic|error|warning)\b/i.test(line)))].slice(-10)
  }

  /** What the daemons said since the last start, at most 100,000 characters of it. */
  logged(): string[] {
    const bytes = existsSync(this.#file) ? readFileSync(this.#file) : Buffer.alloc(0)
    const logged = String(bytes.subarray(Number(readOr(this.#begin)))).slice(-100_000)
    return this.traced([...this.#out.map(readOr), logged].join('\n'))
  }

  /** The daemons' lines with the project's files in place of their copies, and the lines of postfix-main.cf named. */
  traced(text: string): string[] {
    const config = relative(ROOT, CONFIG_DIR)
    const copies = new RegExp(`${this.#stateDir}/(?:next/)?(?:[a-z]+/\\.\\./)?config(?=/)`, 'g')
    const own = readOr(join(CONFIG_DIR, 'postfix-main.cf')).split('\n')
    const lines = text.split('\n').map((line) => line.trim().replace(copies, config))
    return lines.filter(Boolean).map((line) => {
      // Postfix names a wrong value by its parameter alone, or quotes it.
      const quoted = /"([^"]+)"/.exec(line)?.[1] ?? line
      const at = own.findIndex((candidate) => {
        const [, name, value = ''] = /^([\w-]+)\s*=\s*(.*)/.exec(candidate) ?? []
        return name && (new RegExp(`\\b${name}\\b`).test(line) || value.split(/[\s,]+/).includes(quoted))
      })
      return at < 0 || line.includes(config) ? line : `${line} (${config}/postfix-main.cf, line ${at + 1})`
    })
  }
}
