/**
 * A project of the tests' own: a copy of this one with its own ports and state folder, so that a test may break and
 * change what it likes, and a real server that runs from it.
 */
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isFree } from '../scripts/lib/server/ports.ts'
import { ROOT, SERVICE_NAMES, SERVICES, type ServiceName } from '../scripts/lib/settings.ts'

/** For setpriv: another user, who may read everything, since the packages may lie below somebody's closed home. */
export const AS_NOBODY = [
  ...['--reuid', 'nobody', '--clear-groups'],
  ...['--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search'],
]

/**
 * Where `npm test` puts the scripts as JavaScript, by their contents: starting tsx takes three times as long as the rest
 * of a short script, and the tests start hundreds. `readme.test.ts` runs them as users do.
 */
export const COMPILED = join(ROOT, 'node_modules', '.cache', 'development-mail-server', hashOf(join(ROOT, 'scripts')))

function hashOf(dir: string): string {
  const hash = createHash('sha256')
  for (const name of (readdirSync(dir, { recursive: true }) as string[])
    .filter((name) => name.endsWith('.ts'))
    .sort()) {
    hash.update(name).update(readFileSync(join(dir, name)))
  }
  return hash.digest('hex').slice(0, 16)
}

/** In `npm test`, what takes long has a smaller form; a command of its own does the whole. */
export const QUICK = process.env.TESTS_QUICK === '1'

/** Where projects are made: `npm test` removes it in the end. */
export const FOLDER = process.env.TESTS_FOLDER ?? tmpdir()

export interface Result {
  code: number | null
  stdout: string
  stderr: string
}

export interface RunOptions {
  input?: string | Buffer
  /** Added to the project's environment; undefined takes a variable out. */
  env?: Record<string, string | undefined>
  /** Milliseconds until the script is killed, which gives code null. */
  timeout?: number
}

/** The ports of all projects of this process: a project may wait a while before its server takes them. */
const chosen = new Set<number>()

export class Project {
  /** The copy's folder. */
  readonly dir: string
  readonly stateDir: string
  readonly ports = {} as Record<ServiceName, number>
  env: Record<string, string> = {}
  /** What a script is run by: nothing, or `ip netns exec NAME`. */
  runner: string[] = []

  private constructor(parent: string) {
    this.dir = mkdtempSync(join(parent, 'mail-'))
    this.stateDir = join(this.dir, 'state')
  }

  /** Copies the project into a folder below `parent` and finds free ports; starts nothing. */
  static async create(parent = FOLDER): Promise<Project> {
    const project = new Project(parent)
    // Dovecot's mail processes have to walk to the state folder.
    chmodSync(project.dir, 0o755)
    for (const name of [
      'package.json',
      'scripts',
      'docker-data',
      'docker-compose.yml',
      'development-mail-server.env',
    ]) {
      cpSync(join(ROOT, name), join(project.dir, name), { recursive: true })
    }
    if (existsSync(COMPILED)) cpSync(COMPILED, join(project.dir, 'scripts'), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules'), join(project.dir, 'node_modules'))
    await project.takePorts()
    return project
  }

  /** Finds free ports and puts them into the environment of the scripts. */
  async takePorts(): Promise<void> {
    const settings = new Set([...Object.values(SERVICES).map(({ variable }) => variable as string), 'BIND_ADDRESS'])
    const inherited = Object.entries(process.env).filter(
      ([name]) => !settings.has(name) && !/^(MAIL_SERVER|NODE_TEST|TESTS_)/.test(name),
    )
    this.env = {
      ...(Object.fromEntries(inherited) as Record<string, string>),
      MAIL_SERVER_ENGINE: 'native',
      MAIL_SERVER_STATE_DIR: this.stateDir,
      INBOX_PORT: '0',
    }
    for (const name of SERVICE_NAMES) {
      // Below the ports that the kernel gives to outgoing connections; other test files mostly choose elsewhere.
      let port: number
      do port = 10_000 + (process.pid % 20) * 1_000 + Math.floor(Math.random() * 1_000)
      while (chosen.has(port) || !(await isFree('127.0.0.1', port)))
      chosen.add(port)
      this.ports[name] = port
      this.env[SERVICES[name].variable] = String(port)
    }
  }

  /** A path in the copy. */
  path(...parts: string[]): string {
    return join(this.dir, ...parts)
  }

  /** A file of the copy's configuration folder. */
  config(name: string): string {
    return this.path('docker-data', 'mail-server', 'config', name)
  }

  /** Runs one of the scripts: `run('send_email', '--help')`. */
  run(script: string, ...args: string[]): Promise<Result> {
    return this.runWith({}, script, ...args)
  }

  /** The command line of a script. */
  command(script: string, ...args: string[]): string[] {
    const file = join('scripts', script)
    const node = existsSync(this.path(`${file}.js`)) ? [`${file}.js`] : ['--import', 'tsx', `${file}.ts`]
    return [...this.runner, process.execPath, ...node, ...args]
  }

  runWith({ input, env, timeout = 60_000 }: RunOptions, script: string, ...args: string[]): Promise<Result> {
    return new Promise((resolve, reject) => {
      const [program = '', ...command] = this.command(script, ...args)
      const child = spawn(program, command, {
        cwd: this.dir,
        env: { ...this.env, ...env },
        timeout,
        killSignal: 'SIGKILL',
      })
      const streams = { stdout: [] as Buffer[], stderr: [] as Buffer[] }
      child.stdout.on('data', (chunk) => streams.stdout.push(chunk))
      child.stderr.on('data', (chunk) => streams.stderr.push(chunk))
      child.once('error', reject)
      child.once('close', (code) => {
        const text = (chunks: Buffer[]) => Buffer.concat(chunks).toString('utf8')
        resolve({ code, stdout: text(streams.stdout), stderr: text(streams.stderr) })
      })
      // A script that does not read its input closes the pipe; that is its right.
      child.stdin.on('error', () => {})
      child.stdin.end(input)
    })
  }

  /** Starts the server; throws with the script's words when it does not come up. */
  async start(): Promise<void> {
    const { code, stdout, stderr } = await this.run('start')
    if (code !== 0) throw new Error(`start ended with ${code}:\n${stdout}\n${stderr}`)
  }

  /** Stops the server and removes everything. */
  async remove(): Promise<void> {
    if (existsSync(this.stateDir)) await this.run('stop')
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/** A project with its server up. */
export async function startedProject(): Promise<Project> {
  const project = await Project.create()
  try {
    await project.start()
    return project
  } catch (error) {
    await project.remove()
    throw error
  }
}

/** Polls until `condition` gives something true and gives that; throws after `patience` milliseconds. */
export async function until<T>(
  what: string,
  condition: () => Promise<T> | T,
  patience = 15_000,
): Promise<NonNullable<T>> {
  const deadline = Date.now() + patience
  for (;;) {
    const value = await condition()
    if (value) return value
    if (Date.now() > deadline) throw new Error(`${what}: not within ${patience} ms`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** The processes that work in the project's state folder, which a stop must not leave; an empty text where there are none. */
export function processesOf(project: Project): string {
  return execFileSync('sh', [
    '-c',
    `ls -l /proc/[0-9]*/cwd 2>/dev/null | grep '${project.stateDir}' || true`,
  ]).toString()
}
