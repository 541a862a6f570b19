/** What the checks look at: the project's files, and what the daemons say. Each is read or asked once for all checks. */
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'dotenv'
import { type Entry, entriesOf } from '../accounts/tables.ts'
import { Failure, messageOf } from '../cli.ts'
import { type EngineChoice, explainEngine } from '../server/choose.ts'
import type { Engine, ExecResult } from '../server/engine.ts'
import { makeConfiguration, namesBelow, tryConfiguration } from '../server/native_configuration.ts'
import { isRoot } from '../server/root.ts'
import { $, input } from '../server/shell.ts'
import { CONTAINER, isSmtpOnly, ROOT, readBytes, readSettings, type Settings, UNREADABLE } from '../settings.ts'
import { Skipped } from './check.ts'

/** The configuration folder from the project's root, and as docker-mailserver sees it. */
export const [CONFIG, IN_CONTAINER] = ['docker-data/mail-server/config', '/tmp/docker-mailserver']
export const [ENV_FILE, COMPOSE_FILE] = ['development-mail-server.env', 'docker-compose.yml']
export const inConfig = (name: string) => `${CONFIG}/${name}`
/** The files of the configuration folder, all of which come with the project. */
const NAMES = `postfix-accounts.cf postfix-virtual.cf postfix-regexp.cf postfix-transport_maps postfix-main.cf postfix-master.cf
  dovecot-quotas.cf postfix-aliases.cf postfix-failures.pcre postfix-failures-data.pcre dovecot.cf dovecot-2.4.cf
  dovecot-master-users user-patches.sh`
export const OWN_FILES = NAMES.split(/\s+/).map(inConfig)
export const [ACCOUNTS = '', VIRTUAL = '', CAUGHT = '', MAP = '', MAIN_CF = '', MASTER_CF = '', QUOTAS = ''] = OWN_FILES

/** Looks the keys of stdin up in one table after the other; the options stand in the place of the name. */
const LOOK_UP = 'keys=$(cat); for table; do printf "%s\\n" "$keys" | postmap $0 -q - "$table"; echo =; done'

/** Milliseconds for one question to a program, and for Docker to answer; one that is wedged never does. */
export const [ANSWER, DOCKER] = [10_000, 4_000]

/** The states in which nothing in the container can be asked, its processes being there. */
export const [STATUS, STANDSTILL] = ['{{.State.Status}}', /^(paused|restarting)$/]

/** A setting with its value and the entry of the file that sets it. */
export interface Setting {
  name: string
  value: string
  at: Entry
}

export const ASSIGNMENT = /^(?:export\s+)?([^=\s]+)\s*=\s*(.*)$/s

export class Facts {
  readonly #once = new Map<string, unknown>()
  #scratch: string | undefined
  /** Whether the native engine is the one to be used; known when `choice` was asked. */
  isNative = false
  /** The checks that a failure of another one explains, as far as is known: there is nothing to wait for. */
  readonly explained = new Set<string>()

  /** A file's text by its path from the project's root, less what "line-ends" reports; empty where it cannot be read. */
  read(name: string): string {
    return this.raw(name)
      .replace(/^\ufeff|\r(?=\n)/g, '')
      .replaceAll('\r', '\n')
  }

  raw(name: string): string {
    return this.once(`read ${name}`, () => (this.problem(name) ? '' : fs.readFileSync(join(ROOT, name), 'utf8')))
  }

  /** Throws `Skipped` where one of these files cannot be read. */
  needs(...names: string[]): void {
    const missing = names.find((name) => this.problem(name))
    if (missing) throw new Skipped(`${missing} cannot be read, see "files"`)
  }

  /** Why a file cannot be used; undefined where it can. */
  problem(name: string): string | undefined {
    return this.once(`problem ${name}`, () => {
      try {
        return readBytes(join(ROOT, name)).includes(0) ? 'it is UTF-16 or binary, and has to be UTF-8' : undefined
      } catch (error) {
        return UNREADABLE[(error as NodeJS.ErrnoException).code ?? ''] ?? messageOf(error)
      }
    })
  }

  /** The lines of a file; in Postfix's files they may go on (postconf(5)). */
  entries(name: string, continued = true): Entry[] {
    return this.once(`entries ${name} ${continued}`, () => entriesOf(this.read(name), continued))
  }

  /** The `name = value` lines of a file. */
  assignments(name: string, continued = true): Setting[] {
    return this.entries(name, continued).flatMap((at) => {
      const [, name, value = ''] = ASSIGNMENT.exec(at.text) ?? []
      return name ? [{ name, value, at }] : []
    })
  }

  /** The parameters of postfix-main.cf by their names; of several lines the last one counts. */
  mainCf(): Map<string, Setting> {
    return this.once('main.cf', () => new Map(this.assignments(MAIN_CF).map((one) => [one.name, one])))
  }

  /** The variables of the environment file. Throws `Skipped` where there is none. */
  environment(): Record<string, string> {
    this.needs(ENV_FILE)
    return this.once('environment', () => parse(this.read(ENV_FILE)))
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
      const choice = await explainEngine(this.settings(), DOCKER)
      this.isNative = choice.engine?.name === 'native'
      return choice
    })
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

  /** What `docker container inspect` says about the container; an empty text where there is none. */
  inspect(format: string): Promise<string> {
    return this.once(`inspect ${format}`, async () =>
      (await $({ timeout: DOCKER })`docker container inspect --format ${format} ${CONTAINER}`).stdout.trim(),
    )
  }

  /** The engine with its server up, where this user may ask it. */
  async server(): Promise<Engine> {
    const engine = await this.engine()
    if (!(await this.isRunning())) throw new Skipped('the server is not running, see "running"')
    if (engine.name === 'docker' && STANDSTILL.test(await this.inspect(STATUS)))
      throw new Skipped('the container stands still, see "processes"')
    if (engine.name === 'native' && !isRoot) throw new Skipped('only root can ask, see "root"')
    return engine
  }

  /** What the daemons have logged since this was asked first: older troubles may be over. */
  async logged(): Promise<string[]> {
    const lines = await (await this.server()).logged()
    const last = this.once('logged', () => lines.at(-1))
    return lines.slice(lines.lastIndexOf(last ?? '') + 1)
  }

  /** What a program of the running server prints. */
  ask(...command: string[]): Promise<ExecResult> {
    return this.once(`ask ${command.join(' ')}`, async () => (await this.server()).exec(command, { timeout: ANSWER }))
  }

  /** Whether Postfix is asked in the container. Throws `Skipped` where that would be before its first start. */
  async isInContainer(): Promise<boolean> {
    const engine = await this.engine().catch(() => undefined)
    return engine?.name === 'docker' && (await this.server()) === engine
  }

  /** What Postfix answers for keys in each of these tables, as `pcre:file`, and what it says against the tables. */
  async lookUp(tables: string[], keys: string[]): Promise<{ answers: Map<string, string>[]; said: string }> {
    const asked = { ...input(`${keys.join('\n')}\n`), timeout: ANSWER }
    const tablesIn = (folder: string) => tables.map((table) => table.replace(CONFIG, folder))
    const { stdout, stderr } = (await this.isInContainer())
      ? await (await this.engine()).exec(['sh', '-c', LOOK_UP, '', ...tablesIn(IN_CONTAINER)], asked)
      : await $(asked)`sh -c ${LOOK_UP} ${`-c ${this.postfix('empty', '')}`} ${tablesIn(join(ROOT, CONFIG))}`
    if (/postmap: (command )?not found/.test(stderr)) throw new Skipped('Postfix is not installed yet')
    const answersOf = (text: string) => new Map(text.split('\n').map((line) => line.split('\t') as [string, string]))
    return { answers: stdout.split(/^=\n/m).map(answersOf), said: stderr }
  }

  /** A configuration folder of Postfix with this main.cf, for its programs that want one. */
  postfix(name: string, main: string): string {
    return this.once(`postfix ${name}`, () => {
      const folder = join(this.#scratchFolder(), name)
      fs.mkdirSync(folder)
      fs.writeFileSync(join(folder, 'main.cf'), main)
      // Some parameters are those of a service.
      fs.writeFileSync(join(folder, 'master.cf'), this.raw('docker-data/native/master.cf'))
      // Programs wait until main.cf is two seconds old, lest they read half a file.
      fs.utimesSync(join(folder, 'main.cf'), 0, Date.now() / 1000 - 10)
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
    const isRunning = await this.isRunning()
    if ((await this.engine()).name === 'native') return (await this.isLive()) ? undefined : (await this.made()).refusal
    // The container has started: Postfix reads what it has read, and Dovecot may have refused it.
    if (!isRunning || isSmtpOnly(this.environment())) return undefined
    const { exitCode, stderr } = await this.ask('doveconf', '-n')
    const file = Number.parseInt(this.settings().dmsVersion, 10) < 16 ? 'dovecot.cf' : 'dovecot-2.4.cf'
    const said = stderr.trim().split('\n').at(-1) ?? ''
    return exitCode === 0 ? undefined : said.replace('/etc/dovecot/development.conf', inConfig(file))
  }

  /**
   * Whether the native server runs, and nothing was written since it was started: neither its own files nor those that they
   * were made from. Nobody can set a ctime back.
   */
  isLive(): Promise<boolean> {
    return this.once('live', async () => {
      if (!(await this.isRunning().catch(() => false))) return false
      const { stateDir } = this.settings()
      const ctimeOf = (path: string) => fs.statSync(path, { throwIfNoEntry: false })?.ctimeMs ?? 0
      const made = ['config', 'postfix', 'dovecot'].map((part) => join(stateDir, part))
      const folders = [join(ROOT, CONFIG), join(ROOT, 'docker-data/native'), ...made]
      const below = folders.flatMap((dir) => [dir, ...namesBelow(dir).map((name) => join(dir, name))])
      const started = ctimeOf(join(stateDir, 'started.json'))
      return [join(ROOT, ENV_FILE), join(ROOT, '.env'), ...below].every((path) => ctimeOf(path) < started)
    })
  }

  /** A folder for files of this run alone. */
  #scratchFolder(): string {
    this.#scratch ??= fs.mkdtempSync(join(tmpdir(), 'doctor-'))
    return this.#scratch
  }

  forget(): void {
    if (this.#scratch) fs.rmSync(this.#scratch, { recursive: true, force: true })
  }

  /** Does the work for whoever asks first, and gives its result to all. */
  once<T>(key: string, work: () => T): T {
    if (!this.#once.has(key)) this.#once.set(key, work())
    return this.#once.get(key) as T
  }
}
