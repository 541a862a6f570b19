/**
 * How a script of this project talks and ends: results on stdout, talk on stderr, an exit code from one table, and
 * never a stack trace for a mistake that is not ours.
 */
import { existsSync, realpathSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
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

/** What a script reads and writes. The terminal's own streams in `run`; texts in memory in tests. */
export interface Io {
  stdin: NodeJS.ReadableStream & { isTTY?: boolean }
  stdout: NodeJS.WritableStream & { isTTY?: boolean; columns?: number }
  stderr: NodeJS.WritableStream & { isTTY?: boolean; columns?: number }
  /** Writes one line of the result to stdout. */
  print(line?: string): void
  /** Writes a part of the result to stdout and waits until it is out. */
  write(result: string | Uint8Array): Promise<void>
  /** Writes one line of talk to stderr. */
  say(line?: string): void
}

/** A script: gets what stands behind its name on the command line; its outcome is the exit code, `ok` where it gives none. */
export type Main = (args: string[], io: Io) => Promise<ExitName | undefined>

/** The `Io` of three streams. */
export function ioOf({ stdin, stdout, stderr }: Pick<Io, 'stdin' | 'stdout' | 'stderr'>): Io {
  return {
    stdin,
    stdout,
    stderr,
    print: (line = '') => void stdout.write(`${line}\n`),
    write: (result) => new Promise((resolve) => stdout.write(result, (error) => !error && resolve())),
    say: (line = '') => void stderr.write(`${line}\n`),
  }
}

const TERMINAL = ioOf(process)
/** `Io.print` and `Io.say` of this process. */
export const { print, say } = TERMINAL

/** What any thrown value says in one line, without "Error:" in front. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

type StyleFormat = Parameters<typeof util.styleText>[0]

/** Colours text for a terminal; plain where stdout is a pipe, NO_COLOR is set or the terminal is dumb. */
export function style(format: StyleFormat, text: string, stream: Io['stdout'] = process.stdout): string {
  const plain = !stream.isTTY || process.env.NO_COLOR || process.env.TERM === 'dumb'
  return plain ? text : util.styleText(format, text)
}

/** Loads a module whose packages may not be installed; ends the process with one line where they are not. */
export async function load<T>(module: () => Promise<T>): Promise<T> {
  try {
    return await module()
  } catch (error) {
    const { text, exit } = explain(error)
    say(text)
    return process.exit(EXIT[exit].code)
  }
}

type Options = NonNullable<util.ParseArgsConfig['options']>

/**
 * `parseArgs` for a script's arguments, with `--help`. What it refuses is a usage Failure that names the nearest option
 * where one is spelt nearly like that, and the next step.
 */
export function parse<T extends Options>(args: string[], options: T, { positionals = false } = {}) {
  try {
    const withHelp = { ...options, help: { type: 'boolean', short: 'h' } } as const
    return util.parseArgs({ args, options: withHelp, allowPositionals: positionals, strict: true })
  } catch (error) {
    const message = messageOf(error)
    if (!String((error as NodeJS.ErrnoException).code).startsWith('ERR_PARSE_ARGS')) throw error
    // parseArgs adds advice about "--" behind the first sentence, and some of its messages have several lines.
    const [fact = ''] = message.split(/\.(?: (?=[A-Z])|$)/).map((sentence) => sentence.replaceAll('\n', ' '))
    const unknown = /^Unknown option '--?([^']+)'/.exec(message)?.[1] ?? ''
    const names = Object.keys(options)
    const isLonger = (name: string) => name.includes(unknown) || unknown.includes(name)
    const longer = unknown.length > 2 ? names.find((name) => name.length > 3 && isLonger(name)) : undefined
    const nearest = unknown && (nearestOf(unknown, names) ?? longer)
    throw new Failure('usage', nearest ? `${fact}. Did you mean --${nearest}? See --help.` : `${fact}. See --help.`)
  }
}

/** The name that is spelt most like `word`, with at most `limit` letters other, missing, added or swapped. */
export function nearestOf(
  word: string,
  names: readonly string[],
  limit = Math.min(3, Math.max(1, Math.floor(word.length / 3))),
): string | undefined {
  const near = (most: number) => names.find((name) => isNear(word.toLowerCase(), name.toLowerCase(), most))
  return near(0) ?? Array.from({ length: limit }, (_, index) => near(index + 1)).find(Boolean)
}

/** Whether at most so many letters of `a` have to be changed, added, taken out or swapped with the next to make `b`. */
function isNear(a: string, b: string, most: number): boolean {
  if (a === b || most === 0) return a === b
  if (a[0] === b[0]) return isNear(a.slice(1), b.slice(1), most)
  const isSwapped = a.length > 1 && a[0] === b[1] && a[1] === b[0]
  const steps = [[1, 1], [1, 0], [0, 1], ...(isSwapped ? [[2, 2]] : [])]
  return steps.some(([ofA, ofB]) => isNear(a.slice(ofA), b.slice(ofB), most - 1))
}

/** The oldest Node that runs the scripts; `engines` of package.json and launch.mjs say the same. */
const OLDEST_NODE = '20.19'

/**
 * Runs a script's main function and gives its outcome; a failure is said on stderr in one line, and only a bug of ours
 * shows a stack.
 */
export async function outcomeOf(main: Main, args: string[], io: Io): Promise<ExitName> {
  const { node } = process.versions
  if (node.localeCompare(OLDEST_NODE, 'en', { numeric: true }) < 0) {
    io.say(`Node ${node} is too old: ${OLDEST_NODE} or newer is needed. See https://nodejs.org/`)
    return 'failed'
  }
  try {
    return (await main(args, io)) ?? 'ok'
  } catch (error) {
    const { text, exit } = explain(error)
    io.say(error instanceof Failure ? style('red', text, io.stderr) : text)
    return exit
  }
}

function explain(error: unknown): { text: string; exit: ExitName } {
  if (error instanceof Failure) return { text: error.message, exit: error.exit }
  if (!(error instanceof Error)) return { text: String(error), exit: 'failed' }
  const { code } = error as NodeJS.ErrnoException
  const missing = code === 'ERR_MODULE_NOT_FOUND' && /package '([^']+)'/.exec(error.message)?.[1]
  if (missing) return { text: `The package ${missing} is not installed. Type: npm ci`, exit: 'failed' }
  // A file that is not there or not ours is the user's matter: one line. Everything else is a bug of ours.
  const text = 'syscall' in error ? error.message : `This is a bug of the script:\n${error.stack}`
  return { text, exit: 'failed' }
}

/**
 * Runs the script when it is the one that was called (`await run(import.meta.url, main)`), and ends the process with the
 * code of its outcome. Ends only when stdout has been written out, so that a pipe gets all of a result.
 */
export async function run(url: string, main: Main): Promise<void> {
  const called = process.argv[1] ?? ''
  if (!existsSync(called) || realpathSync(called) !== fileURLToPath(url)) return
  // "... | head" closes the pipe early: the reader has what it wants.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT.ok.code)
    say(`The result could not be written: ${error.message}`)
    process.exit(EXIT.failed.code)
  })
  // What cannot be said is lost, and changes no result.
  process.stderr.on('error', () => {})
  process.exitCode = EXIT[await outcomeOf(main, process.argv.slice(2), TERMINAL)].code
  // Sockets that a library left half open must not keep a finished script alive.
  process.stdout.write('', (error) => !error && process.stderr.write('', () => process.exit()))
}

const FRAMES = '⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏'

/**
 * Runs one long step. On a terminal a spinner with the seconds gone stands on the last line while it runs; elsewhere
 * one plain line says that it begins.
 */
export async function step<T>(
  title: string,
  work: () => Promise<T>,
  stream: Io['stderr'] = process.stderr,
): Promise<T> {
  if (!stream.isTTY) {
    stream.write(`${title} ...\n`)
    return work()
  }
  const begin = performance.now()
  const draw = () => {
    const tenths = Math.floor((performance.now() - begin) / 100)
    const seconds = tenths < 10 ? '' : ` ${Math.floor(tenths / 10)} s`
    const line = `${FRAMES[tenths % FRAMES.length]} ${title}${seconds}`
    stream.write(`\r\x1b[K${line.slice(0, (stream.columns || 80) - 1)}`)
  }
  draw()
  const timer = setInterval(draw, 100)
  try {
    return await work()
  } finally {
    clearInterval(timer)
    stream.write('\r\x1b[K')
  }
}

let graphemes: Intl.Segmenter | undefined

/** How many terminal columns a text takes: two for wide East Asian characters and emoji, none for combining marks. */
export function columnsOf(text: string): number {
  // Most text is ASCII, and then counting is all there is to do.
  if (/^[\x20-\x7e]*$/.test(text)) return text.length
  // Made when it is needed: it takes longer than all the rest of this module.
  graphemes ??= new Intl.Segmenter(undefined, { granularity: 'grapheme' })
  const columns = (segment: string) => (WIDE.test(segment) ? 2 : ZERO.test(segment) ? 0 : 1)
  return [...graphemes.segment(text)].reduce((sum, { segment }) => sum + columns(segment), 0)
}

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
  const padded = (cell: string, column: number) => cell + ' '.repeat((widths[column] ?? 0) - columnsOf(cell))
  return rows.map((row) => row.map(padded).join('  ').trimEnd()).join('\n')
}
