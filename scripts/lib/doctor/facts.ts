/** What the checks look at: the project's files, and what the daemons say. Each is read or asked once for all checks. */
import {
  cpSync,
  existsSync,
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
import { type Entry, entriesOf } from '../accounts/tables.ts'
import { Failure, messageOf } from '../cli.ts'
import { type EngineChoice, explainEngine } from '../server/choose.ts'
import type { Engine, ExecResult } from '../server/engine.ts'
import { makeConfiguration, tryConfiguration } from '../server/native_configuration.ts'
import { isRoot } from '../server/root.ts'
import { $, input } from '../server/shell.ts'
import { ROOT, readSettings, type Settings } from '../settings.ts'
import { Skipped } from './check.ts'

/** The configuration folder from the project's root, and as docker-mailserver sees it. */
export const CONFIG = 'docker-data/mail-server/config'
export const IN_CONTAINER = '/tmp/docker-mailserver'
export const inConfig = (name: string) => `${CONFIG}/${name}`
export const ENV_FILE = 'development-mail-server.env'
export const COMPOSE_FILE = 'docker-compose.yml'
export const ACCOUNTS = inConfig('postfix-accounts.cf')
export const MAIN_CF = inConfig('postfix-main.cf')
export const MASTER_CF = inConfig('postfix-master.cf')
export const VIRTUAL = inConfig('postfix-virtual.cf')
export const CAUGHT = inConfig('postfix-regexp.cf')
export const MAP = inConfig('postfix-transport_maps')

/** Debian's own master.cf. */
const MASTER_DIST = '/usr/share/postfix/master.cf.dist'

/** Milliseconds for one question to a program. */
export const ANSWER = 10_000
/** Milliseconds for Docker to answer; one that is wedged never does. */
export const DOCKER = 4_000

/** A setting with its value and, where a file sets it, the entry there. */
export interface Setting {
  name: string
  value: string
  at?: Entry
}

export class Facts {
  readonly platform = process.platform
  readonly #once = new Map<string, unknown>()
  #scratch: string | undefined

  /** A file's text by its path from the project's root, less what "line-ends" reports; empty where it cannot be read. */
  read(name: string): string {
    return this.raw(name)
      .replace(/^\ufeff|\r(?=\n)/g, '')
      .replaceAll('\r', '\n')
  }

  raw(name: string): string {
    return this.once(`read ${name}`, () => (this.problem(name) ? '' : readFileSync(join(ROOT, name), 'utf8')))
  }

  /** Throws `Skipped` where one of these files cannot be read. */
  needs(...names: string[]): void {
    const missing = names.find((name) => this.problem(name))
    if (missing) throw new Skipped(`${missing} cannot be read, see "files"`)
  }

  /** Why a file cannot be used, and what to type; undefined where it can. */
  problem(name: string): [fact: string, fix: string] | undefined {
    const path = join(ROOT, name)
    const back = `git checkout -- ${name}`
    try {
      const found = statSync(path)
      if (found.isDirectory()) return ['is a folder and not a file', `rm -r ${name} && ${back}`]
      if (!found.isFile()) return ['is no regular file', `rm ${name} && ${back}`]
      return readFileSync(path).includes(0) ? ['is UTF-16 or binary; it has to be UTF-8', back] : undefined
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOTDIR') return ['is below a file', back]
      if (code === 'EACCES') return ['cannot be read by this user', `sudo chmod a+r ${name}`]
      const isDangling = lstatSync(path, { throwIfNoEntry: false }) !== undefined
      return isDangling ? ['is a link to nothing', `rm ${name} && ${back}`] : ['is not there', back]
    }
  }

  /** The logical lines of a file of Postfix's (postconf(5)). */
  entries(name: string): Entry[] {
    return this.once(`entries ${name}`, () => entriesOf(this.read(name)))
  }

  /** The `name = value` lines of a file by their names; of several the last one counts. */
  settingsOf(name: string): Map<string, Setting> {
    return this.once(`settings ${name}`, () => {
      const found = this.entries(name).map((at) => ({ at, pair: /^([^=\s]+)\s*=\s*(.*)$/s.exec(at.text) ?? [] }))
      return new Map(found.flatMap(({ at, pair: [, name, value = ''] }) => (name ? [[name, { name, value, at }]] : [])))
    })
  }

  /** The variables of the environment file. Throws `Skipped` where there is none. */
  environment(): Record<string, string> {
    this.needs(ENV_FILE)
    return parse(this.read(ENV_FILE))
  }

  settings(): Settings {
    try {
      return readSettings()
    } catch (error) {
      throw error instanceof Failure ? new Skipped('the settings are wrong, see "settings"') : error
    }
  }

  choice(): Promise<EngineChoice> {
    return this.once('choice', async () => explainEngine(this.settings(), DOCKER))
  }

  /** The engine that is to be used, running or not. Throws `Skipped` where there is none, or another than `wanted`. */
  async engine(wanted?: Engine['name']): Promise<Engine> {
    const { engine } = await this.choice()
    if (!engine) throw new Skipped('there is no engine, see "engine"')
    if (wanted && engine.name !== wanted) throw new Skipped(`not needed, the engine is ${engine.name}`)
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
    if (engine.name === 'native' && !isRoot) throw new Skipped('only root can ask, see "root"')
    return engine
  }

  /** What a program of the running server prints. */
  ask(...command: string[]): Promise<ExecResult> {
    return this.once(`ask ${command.join(' ')}`, async () => (await this.server()).exec(command, { timeout: ANSWER }))
  }

  /** Whether Postfix is asked in the container. Throws `Skipped` where that would be before its first start. */
  async isInContainer(): Promise<boolean> {
    const engine = await this.engine().catch(() => undefined)
    if (engine?.name !== 'docker') return false
    if (!(await this.isRunning())) throw new Skipped('Postfix is not there to ask before the first start')
    return true
  }

  /** What Postfix answers for keys in one of the project's PCRE tables, and what it says against the table. */
  async lookUp(name: string, keys: string[]): Promise<{ answers: Map<string, string>; said: string }> {
    const asked = { ...input(`${keys.join('\n')}\n`), timeout: ANSWER }
    const [here, there] = [join(ROOT, name), name.replace(CONFIG, IN_CONTAINER)]
    const { stdout, stderr, exitCode } = (await this.isInContainer())
      ? await (await this.engine()).exec(['postmap', '-q', '-', `pcre:${there}`], asked)
      : await $(asked)`postmap -c ${this.postfix('empty', '')} -q - ${`pcre:${here}`}`
    if (exitCode === 127) throw new Skipped('Postfix is not installed yet')
    return { answers: new Map(stdout.split('\n').map((line) => line.split('\t') as [string, string])), said: stderr }
  }

  /** A configuration folder of Postfix with this main.cf and Debian's own master.cf, for its programs that want one. */
  postfix(name: string, main: string): string {
    return this.once(`postfix ${name}`, () => {
      const folder = join(this.#scratchFolder(), name)
      mkdirSync(folder)
      writeFileSync(join(folder, 'main.cf'), main)
      if (existsSync(MASTER_DIST)) cpSync(MASTER_DIST, join(folder, 'master.cf'))
      // Programs wait until main.cf is two seconds old, lest they read half a file.
      const past = new Date(Date.now() - 10_000)
      utimesSync(join(folder, 'main.cf'), past, past)
      return folder
    })
  }

  /** What `npm start` would make of the files, below `folder`, or say against them; the native engine alone. */
  made(): Promise<{ folder: string; refusal?: string }> {
    return this.once('made', async () => {
      const folder = join(this.#scratchFolder(), 'made')
      try {
        await tryConfiguration(folder, await makeConfiguration(this.settings(), folder))
        return { folder }
      } catch (error) {
        // Named as the user has them, and not as the copies that were tried.
        return { folder, refusal: messageOf(error).replace(/\/\S*\/made\/(\w+\/\.\.\/)?config(?=\/)/g, CONFIG) }
      }
    })
  }

  /** Why npm start would not take the files; undefined where it does. */
  async refusal(): Promise<string | undefined> {
    const engine = await this.engine()
    return engine.name === 'docker' || (await this.isLive()) ? undefined : (await this.made()).refusal
  }

  /**
   * Whether the native server runs, and nothing was written since it was started: neither its own files nor those that they
   * were made from. Nobody can set a ctime back.
   */
  isLive(): Promise<boolean> {
    return this.once('live', async () => {
      if (!(await this.isRunning().catch(() => false))) return false
      const { stateDir } = this.settings()
      const ctimeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.ctimeMs ?? 0
      const folders = [join(ROOT, CONFIG), join(ROOT, 'docker-data/native')]
      const made = ['config', 'postfix', 'dovecot'].map((part) => join(stateDir, part))
      const below = [...folders, ...made].flatMap((dir) => [dir, ...filesIn(dir).map((name) => join(dir, name))])
      const started = ctimeOf(join(stateDir, 'started.json'))
      return [join(ROOT, ENV_FILE), join(ROOT, '.env'), ...below].every((path) => ctimeOf(path) < started)
    })
  }

  /** A folder for files of this run alone. */
  #scratchFolder(): string {
    this.#scratch ??= mkdtempSync(join(tmpdir(), 'doctor-'))
    return this.#scratch
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

/** The names of all files below a folder; none where it is not there. */
export function filesIn(folder: string): string[] {
  return statSync(folder, { throwIfNoEntry: false })?.isDirectory()
    ? (readdirSync(folder, { recursive: true }) as string[])
    : []
}

type At = Pick<Entry, 'lines'>
const linesOf = ({ lines }: At) => (lines.length > 1 ? `lines ${lines[0]}-${lines.at(-1)}` : `line ${lines[0]}`)

/** Where an entry stands, as a finding begins. */
export const placeOf = (file: string, { lines }: At) => `${file} line ${lines[0]}`

/** Fixes as they are printed: each can be typed as it stands. */
export const deleteLine = (file: string, at: At) => `Delete ${linesOf(at)} of ${file}`
export const writeLine = (file: string, at: At, text: string) => `Write ${linesOf(at)} of ${file} as: ${text}`
export const addLine = (file: string, text: string) => `Write into ${file}: ${text}`
