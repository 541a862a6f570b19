/** What the checks look at: the project's files, and what the daemons say. Each is read or asked once for all checks. */
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'dotenv'
import { Failure, messageOf } from '../cli.ts'
import type { EngineChoice } from '../server/choose.ts'
import type { Engine, ExecResult } from '../server/engine.ts'
import { ROOT, readSettings, type Settings } from '../settings.ts'
import { Skipped } from './check.ts'
import { ANSWER, program } from './program.ts'

/** The configuration folder from the project's root, and as docker-mailserver sees it. */
export const CONFIG = 'docker-data/mail-server/config'
export const IN_CONTAINER = '/tmp/docker-mailserver'
export const ENV_FILE = 'development-mail-server.env'
export const COMPOSE_FILE = 'docker-compose.yml'
export const inConfig = (name: string) => `${CONFIG}/${name}`

/** Milliseconds for Docker to answer; one that is wedged never does. */
export const DOCKER = 4_000

/** A logical line of a file of Postfix's: continuations joined, comments and empty lines left out. */
export interface Line {
  /** Its first line in the file, from 1. */
  line: number
  /** Its last one. */
  end: number
  text: string
}

/** Parameters with their values and, where a file sets them, the line. */
export type Parameters = Map<string, { value: string; at?: Line }>

export class Facts {
  readonly platform: NodeJS.Platform = process.platform
  /** The checks wait here for what others found out: whether the doctor's own mail arrived. */
  readonly mailFlows = new Map<string, Promise<boolean>>()
  readonly #once = new Map<string, unknown>()
  #scratch: string | undefined

  /** A file's text by its path from the project's root; undefined where it cannot be read. */
  read(name: string): string | undefined {
    return this.once(`read ${name}`, () => (this.problem(name) ? undefined : readFileSync(join(ROOT, name), 'utf8')))
  }

  /** Why a file cannot be used, and what to type; undefined where it can. */
  problem(name: string): [fact: string, fix: string] | undefined {
    const path = join(ROOT, name)
    const back = `git checkout -- ${name}`
    try {
      const found = statSync(path)
      if (found.isDirectory()) return ['is a folder and not a file', `rm -r ${name} && ${back}`]
      if (!found.isFile()) return ['is no regular file', `rm ${name} && ${back}`]
      if (readFileSync(path).includes(0)) return ['is UTF-16 or binary; it has to be UTF-8', back]
      return undefined
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EACCES') return ['cannot be read by this user', `sudo chmod a+r ${name}`]
      const isDangling = lstatSync(path, { throwIfNoEntry: false }) !== undefined
      return isDangling ? ['is a link to nothing', `rm ${name} && ${back}`] : ['is not there', back]
    }
  }

  /** The names of the project's configuration files, environment file and Compose file included. */
  list(): string[] {
    return [
      COMPOSE_FILE,
      ENV_FILE,
      ...readdirOr(join(ROOT, CONFIG))
        .filter((name) => !/\.(tmp|lock)$/.test(name))
        .sort()
        .map(inConfig),
    ].filter((name) => statSync(join(ROOT, name), { throwIfNoEntry: false })?.isFile())
  }

  lines(name: string): Line[] {
    return this.once(`lines ${name}`, () => logicalLines(this.read(name) ?? ''))
  }

  /** `name = value` lines, of which the last one of a name counts. */
  parameters(name: string): Parameters {
    return this.once(`parameters ${name}`, () => {
      const pairs = this.lines(name).map((at) => [/^([^=\s]+)\s*=\s*(.*)$/s.exec(at.text), at] as const)
      return new Map(pairs.flatMap(([found, at]) => (found ? [[found[1] ?? '', { value: found[2] ?? '', at }]] : [])))
    })
  }

  /** The variables of the environment file. Throws `Skipped` where there is none. */
  environment(): Record<string, string> {
    const text = this.read(ENV_FILE)
    if (text === undefined) throw new Skipped(`${ENV_FILE} cannot be read, see "files"`)
    return parse(text)
  }

  settings(): Settings {
    try {
      return readSettings()
    } catch (error) {
      throw error instanceof Failure ? new Skipped('the settings are wrong, see "settings"') : error
    }
  }

  choice(): Promise<EngineChoice> {
    return this.once('choice', async () => {
      const { explainEngine } = await import('../server/choose.ts')
      return explainEngine(this.settings(), DOCKER)
    })
  }

  /** The engine that is to be used, running or not. */
  async engine(): Promise<Engine> {
    const { engine } = await this.choice()
    if (!engine) throw new Skipped('there is no engine, see "engine"')
    return engine
  }

  isRunning(): Promise<boolean> {
    return this.once('running', async () => {
      this.environment()
      return (await this.engine()).isRunning()
    })
  }

  /** The engine with its server up, where this user may ask it. */
  async server(): Promise<Engine> {
    const engine = await this.engine()
    if (!(await this.isRunning())) throw new Skipped('the server is not running, see "running"')
    if (engine.name === 'native' && process.getuid?.() !== 0) throw new Skipped('only root can ask, see "root"')
    return engine
  }

  /** What a program of the running server prints. */
  ask(...command: string[]): Promise<ExecResult> {
    return this.once(`ask ${command.join(' ')}`, async () => (await this.server()).exec(command, { timeout: ANSWER }))
  }

  /** Parameters of the running Postfix, `postconf -n` with its defaults where `names` are given. */
  async running(...names: string[]): Promise<Parameters> {
    const { stdout } = await this.ask('postconf', ...(names.length > 0 ? names : ['-n']))
    const pairs = stdout.split('\n').flatMap((line) => {
      const [, name, value] = /^(\w+) =\s*(.*)$/.exec(line) ?? []
      return name ? [[name, { value: value ?? '' }] as const] : []
    })
    return new Map(pairs)
  }

  /**
   * What Postfix answers for keys in one of the project's tables: asked of the running container, or of this machine's
   * own postmap(1). Throws `Skipped` where neither is there.
   */
  async lookUp(type: string, name: string, keys: string[]): Promise<{ answers: Map<string, string>; said: string }> {
    const asked = `${keys.join('\n')}\n`
    const engine = (await this.choice().catch(() => undefined))?.engine
    const isContainer = engine?.name === 'docker'
    if (isContainer && !(await this.isRunning()))
      throw new Skipped('Postfix is not there to ask before the first start')
    const { stdout, stderr, exitCode } = isContainer
      ? await engine.exec(['postmap', '-q', '-', `${type}:${IN_CONTAINER}/${name}`], { input: asked, timeout: ANSWER })
      : await program(['postmap', '-c', await this.emptyPostfix(), '-q', '-', `${type}:${join(ROOT, CONFIG, name)}`], {
          input: asked,
        })
    if (exitCode === 127) throw new Skipped('Postfix is not installed yet')
    const pairs = stdout.split('\n').flatMap((line) => (line === '' ? [] : [line.split('\t') as [string, string]]))
    return { answers: new Map(pairs), said: stderr }
  }

  /** A configuration folder of Postfix without any setting, for its programs that want one. */
  async emptyPostfix(): Promise<string> {
    return this.once('empty', async () => {
      const folder = join(this.scratch(), 'empty')
      await makePostfix(folder, '')
      return folder
    })
  }

  /** A folder for files of this run alone. */
  scratch(): string {
    this.#scratch ??= mkdtempSync(join(tmpdir(), 'doctor-'))
    return this.#scratch
  }

  /**
   * What `npm start` would make of the files, below `folder`; the native engine alone. `refusal` is what npm start would
   * say instead.
   */
  made(): Promise<{ folder: string; refusal?: Failure }> {
    return this.once('made', async () => {
      const { makeConfiguration, tryConfiguration } = await import('../server/native_configuration.ts')
      const folder = join(this.scratch(), 'made')
      try {
        await tryConfiguration(folder, await makeConfiguration(this.settings(), folder))
        return { folder }
      } catch (error) {
        return { folder, refusal: error instanceof Failure ? error : new Failure('failed', messageOf(error)) }
      }
    })
  }

  /** Why npm start would not take the files; undefined where it does. */
  async refusal(): Promise<Failure | undefined> {
    return (await this.isLive()) ? undefined : (await this.made()).refusal
  }

  /** Whether the native server runs, and from these very files. */
  isLive(): Promise<boolean> {
    return this.once('live', async () => (await this.isRunning().catch(() => false)) && this.#isUntouched())
  }

  /**
   * Whether nothing was written since the native server was started: neither its own files nor those that they were made
   * from. Nobody can set a ctime back.
   */
  #isUntouched(): boolean {
    const { stateDir } = this.settings()
    const made = statSync(join(stateDir, 'started.json'), { throwIfNoEntry: false })?.ctimeMs ?? 0
    const below = (dir: string) => [dir, ...readdirOr(dir, true).map((name) => join(dir, name))]
    const sources = [
      join(ROOT, CONFIG),
      join(ROOT, 'docker-data/native'),
      ...['config', 'postfix', 'dovecot'].map((part) => join(stateDir, part)),
    ]
    const paths = [join(ROOT, ENV_FILE), join(ROOT, '.env'), ...sources.flatMap(below)]
    return paths.every((path) => (statSync(path, { throwIfNoEntry: false })?.ctimeMs ?? 0) < made)
  }

  forget(): void {
    if (this.#scratch) rmSync(this.#scratch, { recursive: true, force: true })
  }

  /** Does the work for whoever asks first, and gives its result to all. */
  once<T>(key: string, work: () => T): T {
    if (!this.#once.has(key)) this.#once.set(key, work())
    return this.#once.get(key) as T
  }
}

/** The logical lines of a file of Postfix's (postconf(5)). */
export function logicalLines(text: string): Line[] {
  const lines: Line[] = []
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (/^\s*(#|$)/.test(line)) continue
    const last = lines.at(-1)
    if (/^\s/.test(line) && last) Object.assign(last, { text: `${last.text} ${line.trim()}`, end: index + 1 })
    else lines.push({ line: index + 1, end: index + 1, text: line.trim() })
  }
  return lines
}

/** Makes a configuration folder of Postfix with these settings. */
export async function makePostfix(folder: string, main: string): Promise<void> {
  mkdirSync(folder, { recursive: true })
  // Programs wait until main.cf is two seconds old, lest they read half a file.
  const past = new Date(Date.now() - 10_000)
  for (const [name, text] of [
    ['main.cf', main],
    ['master.cf', ''],
  ] as const) {
    writeFileSync(join(folder, name), text)
    utimesSync(join(folder, name), past, past)
  }
}

function readdirOr(path: string, recursive = false): string[] {
  try {
    return readdirSync(path, { recursive }) as string[]
  } catch {
    return []
  }
}
