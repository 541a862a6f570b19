/**
 * A project of the tests' own: a copy of this one with its own ports and state folder, so that a test may break and
 * change what it likes, and a real server that runs from it.
 */
import { execFile, type StdioOptions, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { ROOT, SERVICE_NAMES, SERVICES, type ServiceName } from '../scripts/lib/settings.ts'

/** For setpriv: another user, who may read everything, since the packages may lie below somebody's closed home. */
export const AS_NOBODY = [
  ...['--reuid', 'nobody', '--regid', 'nogroup', '--clear-groups'],
  ...['--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search'],
]

/** In `npm test`, what takes long has a smaller form; a command of its own does the whole. */
export const QUICK = process.env.TESTS_QUICK === '1'

/** Where projects are made: `npm test` removes it in the end. */
export const FOLDER = process.env.TESTS_FOLDER ?? ownFolder()

export interface Result {
  code: number | null
  stdout: string
  stderr: string
}

export interface RunOptions {
  input?: string | Buffer
  /** Added to the project's environment; undefined takes a variable out. */
  env?: Record<string, string | undefined>
}

/** What a project copies, and what a server is made from. */
const COPIED = ['package.json', 'scripts', 'docker-data', 'docker-compose.yml', 'development-mail-server.env']
const LAUNCH = 'scripts/lib/launch.mjs'
const CONFIGURATION = ['docker-data', 'development-mail-server.env']

/** Milliseconds until a script is killed, which gives code null. */
const PATIENCE = 600_000
/** Ports come in blocks; behind each port of a server is one that nobody has. */
const BLOCK = 20
/** The first port of each block that is this process's: whoever holds it has the others, until the process ends. */
const guards: Server[] = []

/** A state folder as `npm start` leaves it, with what is other in each project. */
interface Template {
  dir: string
  ports: Record<ServiceName, number>
  addresses: string
}
const TEMPLATE = 'template.json'

export class Project {
  /** The copy's folder. */
  readonly dir: string
  readonly stateDir: string
  readonly host = '127.0.0.1'
  readonly ports = {} as Record<ServiceName, number>
  /** Free for an inbox; INBOX_PORT turns it off unless a test asks for it. */
  inboxPort = 0
  env: Record<string, string> = {}
  /** What a script is run by: nothing, or `ip netns exec NAME`. */
  runner: string[] = []
  #untouched = ''

  private constructor(parent: string) {
    this.dir = fs.mkdtempSync(join(parent, 'mail-'))
    this.stateDir = join(this.dir, 'state')
  }

  /** Copies the project into a folder below `parent` and finds free ports; starts nothing. */
  static async create(parent = FOLDER): Promise<Project> {
    const project = new Project(parent)
    // Dovecot's mail processes have to walk to the state folder.
    fs.chmodSync(project.dir, 0o755)
    for (const name of COPIED) fs.cpSync(join(ROOT, name), join(project.dir, name), { recursive: true })
    fs.symlinkSync(join(ROOT, 'node_modules'), join(project.dir, 'node_modules'))
    // In `npm test`, which is itself run by tsx, it runs the JavaScript: half a second of the processor less.
    const launch = fs.readFileSync(join(ROOT, LAUNCH), 'utf8')
    const quick = launch.replace('.ts`', '.js`').replace('process.features.typescript', 'true')
    if (QUICK) fs.writeFileSync(join(project.dir, LAUNCH), quick)
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
    const ports = await freePorts()
    this.inboxPort = ports.at(-2) as number
    for (const [index, name] of SERVICE_NAMES.entries()) {
      const port = ports[2 * index] as number
      this.ports[name] = port
      this.env[SERVICES[name].variable] = String(port)
    }
    this.#untouched = JSON.stringify(this.env)
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
    return [...this.runner, process.execPath, ...programOf(join('scripts', script), this.dir), ...args]
  }

  runWith({ input, env }: RunOptions, script: string, ...args: string[]): Promise<Result> {
    const [program = '', ...command] = this.command(script, ...args)
    const options = { cwd: this.dir, env: { ...this.env, ...env }, timeout: PATIENCE, maxBuffer: 1e9 }
    return new Promise((resolve) => {
      const child = execFile(program, command, { ...options, killSignal: 'SIGKILL' }, (_, stdout, stderr) =>
        resolve({ code: child.exitCode, stdout, stderr }),
      )
      // A script that does not read its input closes the pipe; that is its right.
      child.stdin?.on('error', () => {})
      child.stdin?.end(input)
    })
  }

  /** Starts the server; throws with the script's words when it does not come up. */
  async start(): Promise<void> {
    if (await this.#startCopy()) return
    const { code, stdout, stderr } = await this.run('start')
    if (code !== 0) throw new Error(`start ended with ${code}:\n${stdout}\n${stderr}`)
  }

  /**
   * `npm start` of a project in which nothing was changed yet, in a third of its time: the state folder is a copy of one
   * that `npm test` had npm start make, and only the daemons are started. False where there is none, as with one file.
   */
  async #startCopy(): Promise<boolean> {
    const file = join(FOLDER, TEMPLATE)
    if (fs.existsSync(this.stateDir) || !fs.existsSync(file) || !this.#isUntouched()) return false
    const { dir, ports, addresses }: Template = JSON.parse(fs.readFileSync(file, 'utf8'))
    const port = new RegExp(`\\b(${Object.values(ports).join('|')})\\b`, 'g')
    const own = new Map(SERVICE_NAMES.map((name) => [`${ports[name]}`, `${this.ports[name]}`]))
    const adapted = (text: string) => text.replaceAll(dir, this.dir).replace(port, (found) => own.get(found) ?? found)
    await promisify(execFile)('cp', ['-a', join(dir, 'state'), this.stateDir])
    for (const name of fs.readdirSync(this.stateDir, { recursive: true }) as string[]) {
      const path = join(this.stateDir, name)
      if (!/^(config|dovecot|postfix|state)\//.test(name) || fs.statSync(path).isDirectory()) continue
      const { atime, mtime } = fs.statSync(path)
      fs.writeFileSync(path, adapted(fs.readFileSync(path, 'latin1')), 'latin1')
      // Postfix waits for files that are younger than two seconds.
      fs.utimesSync(path, atime, mtime)
    }
    const daemons = [
      ['postfix', '-c', join(this.stateDir, 'postfix'), 'start'],
      ['dovecot', '-c', join(this.stateDir, 'dovecot', 'dovecot.conf')],
    ]
    for (const [program = '', ...args] of daemons) {
      const child = spawn(`/usr/sbin/${program}`, args, { stdio: 'ignore', detached: true })
      const [code] = await once(child, 'exit')
      if (code !== 0) throw new Error(`${program}: ${fs.readFileSync(join(this.stateDir, 'log/mail.log'), 'utf8')}`)
    }
    const { NativeProcesses } = await import('../scripts/lib/server/processes.ts')
    const processes = new NativeProcesses(this.stateDir)
    // A master writes its pid a moment after it can be seen.
    const written = ['queue/pid/master.pid', 'run/master.pid'].map((name) => join(this.stateDir, name))
    await until('both daemons', () => processes.masters().length === daemons.length && written.every(fs.existsSync))
    processes.keep(adapted(addresses))
    return true
  }

  #isUntouched(): boolean {
    if (JSON.stringify(this.env) !== this.#untouched || this.runner.length > 0) return false
    return CONFIGURATION.every((name) => spawnSync('diff', ['-rq', join(ROOT, name), this.path(name)]).status === 0)
  }

  /** Ends the server's processes and removes everything. */
  async remove(): Promise<void> {
    // The inbox is a process of its own.
    if (fs.existsSync(this.stateDir) && this.env.INBOX_PORT !== '0') await this.run('stop')
    const { NativeProcesses } = await import('../scripts/lib/server/processes.ts')
    await new NativeProcesses(this.stateDir).end(0)
    fs.rmSync(this.dir, { recursive: true, force: true })
  }
}

/** For one file by itself: it goes with its servers when this process ends, also where that is killed. */
function ownFolder(): string {
  const folder = join(tmpdir(), `mail-tests-${process.pid}`)
  fs.mkdirSync(folder, { recursive: true })
  const stdio: StdioOptions = ['pipe', 'ignore', 'ignore']
  const clear = spawn(join(ROOT, 'test', 'clear.sh'), [folder, 'when-gone'], { cwd: '/', stdio, detached: true })
  clear.unref()
  ;(clear.stdin as Socket).unref()
  return folder
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

/** Makes what the projects in `folder` begin with: the state folder of a server that was started and stopped. */
export async function makeTemplate(folder: string): Promise<void> {
  const { NativeProcesses } = await import('../scripts/lib/server/processes.ts')
  const project = await Project.create(folder)
  await project.start()
  const { dir, ports, stateDir } = project
  const processes = new NativeProcesses(stateDir)
  const { addresses = '' } = processes.record
  await processes.end()
  for (const [name, text] of Object.entries({ 'mail.log': '', start: '0' })) {
    fs.writeFileSync(join(stateDir, 'log', name), text)
  }
  const template: Template = { dir, ports, addresses }
  // Whole at once: tests that begin meanwhile see it or do not.
  fs.writeFileSync(join(dir, TEMPLATE), JSON.stringify(template))
  fs.renameSync(join(dir, TEMPLATE), join(folder, TEMPLATE))
}

/** What Node runs for a program of the project, named without its extension: JavaScript where `npm test` has made it. */
export function programOf(name: string, root = ROOT): string[] {
  const path = join(root, name)
  return fs.existsSync(`${path}.js`) ? [`${path}.js`] : ['--import', import.meta.resolve('tsx'), `${path}.ts`]
}

/**
 * Polls until `condition` gives something true and gives that; throws after `patience` milliseconds. What takes long to ask,
 * as a login does, is asked less often: most of the time is left to what is waited for.
 */
export async function until<T>(
  what: string,
  condition: () => Promise<T> | T,
  patience = 120_000,
): Promise<NonNullable<T>> {
  const deadline = Date.now() + patience
  for (;;) {
    const began = Date.now()
    const value = await condition()
    if (value) return value
    if (Date.now() > deadline) throw new Error(`${what}: not within ${patience} ms`)
    await sleep(Math.max(20, 3 * (Date.now() - began)))
  }
}

/** The processes that work in the project's state folder, which a stop must not leave; an empty text where there are none. */
export function processesOf({ stateDir }: Project): string {
  const links = fs.readdirSync('/proc').flatMap((pid) => {
    try {
      return [`/proc/${pid}/cwd -> ${fs.readlinkSync(`/proc/${pid}/cwd`)}`]
    } catch {
      return []
    }
  })
  return links.filter((link) => link.includes(stateDir)).join('\n')
}

/** Free ports of a block that is this process's from now on. */
async function freePorts(): Promise<number[]> {
  for (;;) {
    // Below the ports that the kernel gives to outgoing connections.
    const first = 10_000 + BLOCK * Math.floor(Math.random() * 1_000)
    const guard = await listenOn(first)
    if (!guard) continue
    guards.push(guard)
    const ports = Array.from({ length: BLOCK - 1 }, (_, index) => first + 1 + index)
    // A server may outlive the test that started it.
    const probes = await Promise.all(ports.map(listenOn))
    for (const probe of probes) probe?.close()
    if (probes.every(Boolean)) return ports
  }
}

/** Undefined where somebody else listens. */
async function listenOn(port: number): Promise<Server | undefined> {
  const server = createServer().unref().listen({ host: '127.0.0.1', port, exclusive: true })
  return once(server, 'listening').then(
    () => server,
    () => undefined,
  )
}
