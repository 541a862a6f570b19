/**
 * How a script of this project talks and ends: results on stdout, talk on stderr, an exit code from one table, and
 * never a stack trace for a mistake that is not ours.
 */
import * as util from 'node:util'

/** The exit codes of all scripts. The README shows the same table; `explainExitCodes` prints it for `--help`. */
export const EXIT = {
  ok: { code: 0, meaning: 'done' },
  failed: { code: 1, meaning: 'could not be done' },
  usage: { code: 2, meaning: 'wrong option, argument or setting' },
  connection: { code: 3, meaning: 'could not connect, or the connection broke' },
  tls: { code: 4, meaning: 'TLS failed' },
  login: { code: 5, meaning: 'login refused' },
  sender: { code: 6, meaning: 'sender refused' },
  allRecipients: { code: 7, meaning: 'all recipients refused' },
  someRecipients: { code: 8, meaning: 'some recipients refused, sent to the others' },
  message: { code: 9, meaning: 'message refused' },
  timeout: { code: 10, meaning: 'the server did not answer in time' },
  noMatch: { code: 11, meaning: 'the wait is over and no matching mail is there' },
  kept: { code: 12, meaning: 'the server kept mail that was to be deleted' },
  interrupted: { code: 130, meaning: 'interrupted by Ctrl-C' },
} as const

export type ExitName = keyof typeof EXIT

/** The rows of the exit code table as text, one a line, for `--help`. Only the named rows where names are given. */
export function explainExitCodes(...names: ExitName[]): string {
  const rows = names.length > 0 ? names.map((name) => EXIT[name]) : Object.values(EXIT)
  return rows.map(({ code, meaning }) => `  ${String(code).padStart(3)}  ${meaning}`).join('\n')
}

/** A failure that is the user's to mend: its message names the value, the fact and the next command to type. */
export class Failure extends Error {
  readonly exit: ExitName

  constructor(exit: ExitName, message: string) {
    super(message)
    this.name = 'Failure'
    this.exit = exit
  }
}

/** Writes one line of the result to stdout. */
export function print(line = ''): void {
  process.stdout.write(`${line}\n`)
}

/** Writes a part of the result to stdout and waits until it is out; where that fails, `run` ends the process. */
export function printAll(result: string | Uint8Array): Promise<void> {
  return new Promise((resolve) => process.stdout.write(result, (error) => !error && resolve()))
}

/** Writes one line of talk to stderr. */
export function say(line = ''): void {
  process.stderr.write(`${line}\n`)
}

/** What any thrown value says in one line, without "Error:" in front. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

type StyleFormat = Parameters<typeof util.styleText>[0]

/** Colours text for a terminal; plain where stdout is a pipe, NO_COLOR is set or the terminal is dumb. */
export function style(format: StyleFormat, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  // Node before 20.12 has no styleText: too old for this project, which the doctor has to be able to say there.
  const plain = !stream.isTTY || process.env.NO_COLOR || process.env.TERM === 'dumb' || !util.styleText
  return plain ? text : util.styleText(format, text)
}

/**
 * Runs a script's main function and ends the process with the code of its outcome. Options that `parseArgs` refuses
 * are usage errors. Ends only when stdout has been written out, so that a pipe gets all of a result.
 */
export async function run(main: () => Promise<ExitName | undefined>): Promise<void> {
  // "... | head" closes the pipe early: that is the reader's wish, not an error.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT.ok.code)
    say(`The result could not be written: ${error.message}`)
    process.exit(EXIT.failed.code)
  })
  let exit: ExitName
  try {
    exit = (await main()) ?? 'ok'
  } catch (error) {
    exit = failureOf(error)
  }
  process.exitCode = EXIT[exit].code
  // Sockets that a library left half open must not keep a finished script alive.
  process.stdout.write('', () => process.stderr.write('', () => process.exit()))
}

function failureOf(error: unknown): ExitName {
  if (error instanceof Failure) {
    say(style('red', error.message, process.stderr))
    return error.exit
  }
  if (error instanceof Error && String((error as NodeJS.ErrnoException).code).startsWith('ERR_PARSE_ARGS')) {
    // parseArgs adds advice about "--" behind the first sentence, and some of its messages have several lines.
    const fact = error.message
      .split(/\. (?=[A-Z])/)[0]
      ?.replaceAll('\n', ' ')
      .replace(/\.$/, '')
    say(style('red', `${fact}. See --help.`, process.stderr))
    return 'usage'
  }
  // A file that is not there or not ours is the user's matter: one line. Everything else is a bug of ours.
  const isSystemError = error instanceof Error && 'syscall' in error
  say(isSystemError || !(error instanceof Error) ? messageOf(error) : `This is a bug of the script:\n${error.stack}`)
  return 'failed'
}

const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']

/**
 * Runs one long step. On a terminal a spinner with the seconds gone stands on the last line while it runs; elsewhere
 * one plain line says that it begins. `update` replaces the text while it runs.
 */
export async function step<T>(title: string, work: (update: (title: string) => void) => Promise<T>): Promise<T> {
  const stream = process.stderr
  if (!stream.isTTY) {
    say(`${title} ...`)
    return work(() => {})
  }
  const begin = Date.now()
  let text = title
  let frame = 0
  const draw = () => {
    const seconds = Math.floor((Date.now() - begin) / 1000)
    const line = `${FRAMES[frame++ % FRAMES.length]} ${text}${seconds > 0 ? ` ${seconds} s` : ''}`
    stream.write(`\r\x1b[K${line.slice(0, (stream.columns || 80) - 1)}`)
  }
  draw()
  const timer = setInterval(draw, 100)
  try {
    return await work((next) => {
      text = next
    })
  } finally {
    clearInterval(timer)
    stream.write('\r\x1b[K')
  }
}

/** A bar on the last line of the terminal's stderr; elsewhere nothing. */
export interface ProgressBar {
  /** Draws the bar for so many done, some times a second. */
  update(done: number): void
  /** Takes the bar away, for other output or for good. */
  clear(): void
}

/** Shows how much of `total` is done, the rate per second, and the time left at that rate. */
export function progressBar(total: number): ProgressBar {
  const stream = process.stderr
  if (!stream.isTTY) return { update: () => {}, clear: () => {} }
  const begin = Date.now()
  let drawn = 0
  return {
    update(done) {
      if (Date.now() - drawn < 100) return
      drawn = Date.now()
      const rate = done / Math.max(0.001, (drawn - begin) / 1000)
      const left = rate > 0 ? `${Math.ceil((total - done) / rate)} s left` : ''
      const filled = Math.round((20 * done) / total)
      const line = `${'█'.repeat(filled)}${'░'.repeat(20 - filled)} ${done}/${total}  ${Math.round(rate)}/s  ${left}`
      stream.write(`\r\x1b[K${line.slice(0, (stream.columns || 80) - 1)}`)
    },
    clear() {
      stream.write('\r\x1b[K')
      drawn = 0
    },
  }
}

/** How many terminal columns a text takes: two for wide East Asian characters and emoji, none for combining marks. */
export function columnsOf(text: string): number {
  // Most text is ASCII, and then counting is all there is to do.
  if (/^[\x20-\x7e]*$/.test(text)) return text.length
  let columns = 0
  for (const { segment } of GRAPHEMES.segment(text)) {
    columns += WIDE.test(segment) ? 2 : ZERO.test(segment) ? 0 : 1
  }
  return columns
}

const GRAPHEMES = new Intl.Segmenter(undefined, { granularity: 'grapheme' })

// The wide and fullwidth ranges of Unicode's East Asian Width (UAX 11), as far as mail meets them.
const WIDE =
  /^[\u1100-\u115f\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{1b000}-\u{1b2ff}\u{1f200}-\u{1f2ff}\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]|^\p{Emoji_Presentation}/u
const ZERO = /^[\p{Mn}\p{Me}\p{Cf}]+$/u

/** Rows as aligned columns, two spaces apart, no spaces at a line's end. */
export function table(rows: string[][]): string {
  const widths: number[] = []
  for (const row of rows) {
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, columnsOf(cell))
  }
  const pad = (cell: string, width: number) => cell + ' '.repeat(Math.max(0, width - columnsOf(cell)))
  return rows
    .map((row) =>
      row
        .map((cell, column) => pad(cell, widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}
