/** The mail log of the native engine: where the present start begins in it, and whose fault a daemon's complaint is. */
import { spawn } from 'node:child_process'
import { appendFileSync, chownSync, existsSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { Failure } from '../cli.ts'
import { CONFIG_DIR, ROOT } from '../settings.ts'
import { idOf, readOr } from './native_files.ts'
import { LAYOUT } from './native_layout.ts'
import { $ } from './shell.ts'

/** Where the mail log of the last start begins, in bytes: older troubles are no longer of interest. */
const LOG_START = 'log/start'
/** The mail log is set aside at a start when it is larger, in bytes. */
const LOG_LIMIT = 10_000_000
/** Bytes of the disk that are kept free for the mail log: a Dovecot that cannot write to it ends, and stays ended. */
const LOG_RESERVE = 10_000_000

export class MailLog {
  readonly #dir: string

  constructor(stateDir: string) {
    this.#dir = stateDir
  }

  /** Before a start: a long log goes aside, and the disk keeps room for the new one. */
  async setAside(): Promise<void> {
    const log = this.#path(LAYOUT.log)
    if (existsSync(log) && statSync(log).size > LOG_LIMIT) renameSync(log, `${log}.1`)
    // In a copied state folder postsuper renames the queue files, and logs that, as this user, before postlogd is there.
    appendFileSync(log, '')
    chownSync(log, idOf('passwd', 'postfix'), 0)
    // Blocks behind its end. Where the file system knows no such thing, it goes without.
    await $`fallocate --keep-size --offset ${statSync(log).size} --length ${LOG_RESERVE} ${log}`
    this.mark()
  }

  /** From here on the log is about the present start. */
  mark(): void {
    const log = this.#path(LAYOUT.log)
    writeFileSync(this.#path(LOG_START), String(existsSync(log) ? statSync(log).size : 0))
  }

  /** Writes the log to stdout: its last lines, and with `follow` what comes, until interrupted. */
  async show({ lines, follow }: { lines: number; follow: boolean }): Promise<void> {
    const file = this.#path(LAYOUT.log)
    if (!existsSync(file)) throw new Failure('failed', `${file}: no mail log yet. Start the server: npm start`)
    const tail = spawn('tail', ['-n', String(lines), ...(follow ? ['-F'] : []), file], {
      stdio: ['ignore', 'inherit', 'ignore'],
    })
    await new Promise((resolve, reject) => tail.once('error', reject).once('close', resolve))
  }

  /** What the daemons complain about since the last start, at most ten lines. */
  async complaints(): Promise<string[]> {
    const lines = await this.logged()
    return [...new Set(lines.filter((line) => /\b(fatal|panic|error|warning)\b/i.test(line)))].slice(-10)
  }

  /** What the daemons said since the last start, at most 100,000 characters of it. */
  async logged(): Promise<string[]> {
    const started = ['postfix.out', 'dovecot.out'].map((name) => readOr(this.#path(`log/${name}`)))
    const logged = Buffer.from(readOr(this.#path(LAYOUT.log)))
      .subarray(Number(readOr(this.#path(LOG_START))))
      .toString()
      .slice(-100_000)
    return this.traced([...started, logged].join('\n'))
  }

  /** The daemons' lines with the instance's paths put back to the project's files, and their lines named. */
  traced(text: string, main = this.#path(`${LAYOUT.postfix}/main.cf`)): string[] {
    const config = relative(ROOT, CONFIG_DIR)
    const own = `${config}/postfix-main.cf`
    const ownLines = readOr(join(CONFIG_DIR, 'postfix-main.cf')).split('\n')
    const offset =
      readOr(main).split('\n').indexOf('# From here on docker-data/mail-server/config/postfix-main.cf.') + 1
    return text
      .split('\n')
      .map((line) => line.trim())
      .filter((line) => line !== '')
      .map((line) => {
        const traced = line
          .replaceAll(this.#path(LAYOUT.config), config)
          .replace(new RegExp(`${main.replaceAll('.', '\\.')}, line (\\d+)`), (all, number) =>
            Number(number) > offset ? `${own}, line ${Number(number) - offset}` : all,
          )
        if (traced.includes(config)) return traced
        // Postfix names a wrong value by its parameter alone, or quotes it.
        const quoted = /"([^"]+)"/.exec(traced)?.[1]
        const at = ownLines.findIndex((text) => {
          const [, name, value] = /^([\w-]+)\s*=\s*(.*)/.exec(text) ?? []
          if (!name) return false
          return (
            new RegExp(`\\b${name}\\b`).test(traced) ||
            (quoted !== undefined && value?.split(/[\s,]+/).includes(quoted))
          )
        })
        return at < 0 ? traced : `${traced} (${own}, line ${at + 1})`
      })
  }

  #path(part: string): string {
    return join(this.#dir, part)
  }
}
