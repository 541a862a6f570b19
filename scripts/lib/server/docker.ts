/** The server as a container: docker-mailserver, run by Docker Compose from `docker-compose.yml`. */
import { spawn } from 'node:child_process'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { Failure, messageOf, say, step } from '../cli.ts'
import { CONFIG_DIR, CONTAINER, ROOT, SERVICE_NAMES, type Settings, setting } from '../settings.ts'
import type { Engine, ExecOptions } from './engine.ts'
import { assertPortsFree } from './ports.ts'
import { input, $ as shell } from './shell.ts'

const $ = shell({ cwd: ROOT })
/** Milliseconds for a question to the Docker engine; one that is wedged answers never. */
const ANSWER = 10_000
/** Milliseconds for a Postfix or Dovecot command in the container. */
const COMMAND = 60_000
/** Milliseconds for Compose to stop a container and make the next: its stop_grace_period is 60 seconds. */
const CHANGE = 180_000
/** Milliseconds for an image of some hundred megabytes over a slow line. */
const PULL = 3_600_000

/** docker-mailserver copies these when a container is made; the other files it polls. */
const READ_ONCE = ['dovecot.cf', 'postfix-main.cf', 'postfix-master.cf', 'postfix-transport_maps', 'user-patches.sh']

export class DockerEngine implements Engine {
  readonly name = 'docker'
  readonly #settings: Settings
  readonly #patience: number

  /** `patience`: milliseconds for a question to the Docker engine. */
  constructor(settings: Settings, patience = ANSWER) {
    this.#settings = settings
    this.#patience = patience
  }

  /** Why Docker cannot be used here and what to do about it; undefined when it can. */
  static async problem(patience = ANSWER): Promise<string | undefined> {
    const [engine, compose] = await Promise.all([
      $({ timeout: patience })`docker version --format ${'{{.Server.Version}}'}`,
      $({ timeout: patience })`docker compose version --short`,
    ])
    if (/not (found|recognized)/.test(engine.stderr)) {
      return 'the command docker is not there. Install Docker with Compose: https://docs.docker.com/get-started/get-docker/'
    }
    if (engine.exitCode !== 0) {
      const reason = lastWords(engine.stderr) || `silent for ${patience / 1000} s`
      return `no Docker engine answers (${reason}) Start it, then look at: docker version`
    }
    if (compose.exitCode !== 0) {
      return 'Docker has no Compose v2. Install the package docker-compose-plugin, then look at: docker compose version'
    }
    return undefined
  }

  async isRunning(): Promise<boolean> {
    return (await this.#container())?.running ?? false
  }

  async start(): Promise<void> {
    const { dmsVersion } = this.#settings
    assertSupported(dmsVersion)
    const container = await this.#container()
    const own = await this.#publishedPorts()
    const services = SERVICE_NAMES.filter((name) => !own.has(this.#settings.ports[name]))
    await assertPortsFree(this.#settings, services)
    await pull(`mailserver/docker-mailserver:${dmsVersion}`)

    // Compose makes the container anew by itself when its own file, .env or the environment file have changed.
    const changed = READ_ONCE.filter((name) => container && modified(join(CONFIG_DIR, name)) > container.created)
    if (container?.running && changed.length > 0) say(`${changed.join(', ')}: changed, so the container is made anew.`)
    const title = container?.running ? 'Bringing the container up to date' : 'Starting the container'
    const anew = !container?.running || changed.length > 0 ? ['--force-recreate'] : []
    const up = await step(title, () => docker(['compose', 'up', '--detach', ...anew], CHANGE))
    if (up.exitCode !== 0) {
      throw new Failure('failed', `docker compose up failed: ${lastWords(up.stderr)} Mend that, then: npm start`)
    }
  }

  async stop(): Promise<boolean> {
    if (!(await this.#container())) return false
    // docker-mailserver sets itself up once for each container, so the container goes and its volumes stay.
    const down = await step('Stopping the container', () => docker(['compose', 'down'], CHANGE))
    // Compose also fails when an application is still on the network; then the network stays and that is all.
    if (down.exitCode !== 0 && (await this.#container())) {
      throw new Failure('failed', `docker compose down failed: ${lastWords(down.stderr)} See: docker compose ps`)
    }
    return true
  }

  /** docker-mailserver polls its configuration folder and reloads by itself, a few seconds after a change. */
  async reload(): Promise<void> {}

  async exec(command: string[], { input: text, timeout = COMMAND }: ExecOptions = {}) {
    if (text === undefined) return docker(['exec', CONTAINER, ...command], timeout)
    return docker(['exec', '--interactive', CONTAINER, ...command], timeout, text)
  }

  async readFile(path: string): Promise<string | undefined> {
    const { exitCode, stdout } = await this.exec(['cat', '--', path])
    return exitCode === 0 ? stdout : undefined
  }

  async removeMailbox(address: string): Promise<void> {
    const at = address.lastIndexOf('@')
    const [user, domain] = [address.slice(0, at), address.slice(at + 1)]
    if ([user, domain].some((part) => /^\.{0,2}$|\//.test(part))) return
    const remove = ['-rf', '--', `/var/mail/${domain}/${user}`]
    // A stopped server has its mail in the volume, which any container of the image opens.
    const { exitCode, stderr } = (await this.isRunning())
      ? await this.exec(['rm', ...remove])
      : await docker(['compose', 'run', '--rm', '--no-deps', '--entrypoint', 'rm', CONTAINER, ...remove], COMMAND)
    if (exitCode !== 0) throw new Failure('failed', `The mail of ${address} could not be removed: ${lastWords(stderr)}`)
  }

  async logs({ lines, follow }: { lines: number; follow: boolean }): Promise<void> {
    if (!(await this.#container())) {
      throw new Failure('failed', `There is no container ${CONTAINER} to show the log of. Start it: npm start`)
    }
    const tail = ['--tail', String(lines), ...(follow ? ['--follow'] : [])]
    await foreground(['logs', ...tail, CONTAINER], process.stdout)
  }

  async complaints(): Promise<string[]> {
    const lines = await this.logged()
    return [...new Set(lines.filter((line) => /\b(fatal|panic|error)\b/i.test(line)))].slice(-10)
  }

  async logged(): Promise<string[]> {
    const { exitCode, stdout, stderr } = await docker(['logs', '--tail', '500', CONTAINER], this.#patience)
    // Without a container there is no log yet.
    return exitCode === 0 ? `${stdout}\n${stderr}`.split('\n').map((line) => line.trim()) : []
  }

  /** Docker's own processes hold a container's published ports: which of them depends on its kind. */
  owns({ name }: { name: string }): boolean {
    return /docker|rootlessport|rootlesskit|vpnkit|slirp4netns/.test(name)
  }

  /** The container; undefined when there is none. Throws a Failure when one of this name is somebody else's. */
  async #container(): Promise<{ running: boolean; created: Date } | undefined> {
    const format = '{{json .State.Running}} {{json .Created}} {{json .Config.Labels}}'
    const { exitCode, stdout } = await docker(['container', 'inspect', '--format', format, CONTAINER], this.#patience)
    if (exitCode !== 0) return undefined
    const [, running, created = '', labels = ''] = /^(\S+) "(\S+)" (.*)$/m.exec(stdout) ?? []
    const label: Record<string, string> = JSON.parse(labels) ?? {}
    const project = label['com.docker.compose.project'] ?? 'none'
    const own = setting('COMPOSE_PROJECT_NAME') ?? CONTAINER
    if (project !== own && label['com.docker.compose.project.working_dir'] !== ROOT) {
      throw new Failure(
        'failed',
        `A container ${CONTAINER} is there that this project did not make (Compose project: ${project}). ` +
          `Remove it, its volumes stay: docker rm --force ${CONTAINER}`,
      )
    }
    return { running: running === 'true', created: new Date(created) }
  }

  /** The ports of this machine that the container holds. */
  async #publishedPorts(): Promise<Set<number>> {
    // A line a port: "25/tcp -> 127.0.0.1:2525".
    const { stdout } = await docker(['container', 'port', CONTAINER])
    return new Set([...stdout.matchAll(/:(\d+)\s*$/gm)].map(([, port]) => Number(port)))
  }
}

/**
 * Throws a usage Failure for a release that comes with Dovecot 2.4: it starts, says that it is up, and Dovecot is not.
 * Floating tags are such releases by now.
 */
function assertSupported(dmsVersion: string): void {
  const major = Number(/^v?(\d+)(?:\.|$)/.exec(dmsVersion)?.[1] ?? 0)
  if (major < 16 && dmsVersion !== 'latest' && dmsVersion !== 'edge') return
  throw new Failure(
    'usage',
    `DMS_VERSION=${dmsVersion}: docker-mailserver 16 and later have Dovecot 2.4, which cannot read dovecot.cf. ` +
      'Use 15.1.0, or another release before 16.',
  )
}

/** Pulls an image that is not there yet, with Docker's own progress: bars on a terminal, else a line a layer. */
async function pull(image: string): Promise<void> {
  const present = await docker(['image', 'inspect', '--format', '{{.Id}}', image])
  if (present.exitCode === 0) return
  say(`Pulling ${image}`)
  if ((await foreground(['pull', image], process.stderr, PULL)) !== 0) {
    throw new Failure('failed', `${image} could not be pulled. Check DMS_VERSION and the network, then: npm start`)
  }
}

/**
 * Runs docker to its end; its exit code is the caller's to judge. Throws a Failure when that takes more than `timeout`
 * milliseconds.
 */
async function docker(args: string[], timeout = ANSWER, text?: string) {
  const output = await $({ timeout, ...(text === undefined ? {} : input(text)) })`docker ${args}`
  // A program that was killed has no exit code.
  if (output.exitCode !== null) return output
  throw new Failure(
    'failed',
    `docker ${args.join(' ')} was not done after ${timeout / 1000} s. Does the engine answer? docker info`,
  )
}

/** Runs docker with this terminal as its own, for progress bars and endless output. Gives its exit code. */
function foreground(args: string[], stdout: NodeJS.WriteStream, timeout?: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn('docker', args, { cwd: ROOT, stdio: ['ignore', stdout, process.stderr], timeout })
    child.once('error', (error) => reject(new Failure('failed', `docker ${args[0]}: ${messageOf(error)}`)))
    child.once('close', (code) => resolve(code ?? 1))
  })
}

/** The last line that a program wrote, as a sentence. Above it stands what went well. */
function lastWords(stderr: string): string {
  const line = stderr.trim().split('\n').at(-1)?.trim() ?? ''
  return line && !/[.?!]$/.test(line) ? `${line}.` : line
}

/** When a file was changed; long ago where there is none. */
function modified(path: string): Date {
  return statSync(path, { throwIfNoEntry: false })?.mtime ?? new Date(0)
}
