/** The server as a container: docker-mailserver, run by Docker Compose from `docker-compose.yml`. */
import type { SpawnOptions } from 'node:child_process'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, say, step } from '../cli.ts'
import {
  CONFIG_DIR,
  CONTAINER,
  isSmtpOnly,
  ROOT,
  readServerEnvironment,
  SERVICE_NAMES,
  type ServiceName,
  type Settings,
  setting,
} from '../settings.ts'
import type { Engine, ExecOptions, ExecResult, Started } from './engine.ts'
import { removableMailboxOf } from './native_configuration.ts'
import { assertPortsFree } from './ports.ts'
import { foreground, input, $ as shell } from './shell.ts'

/** Milliseconds for a question to the Docker engine; one that is wedged answers never. */
const ANSWER = 10_000
/** Milliseconds for a Postfix or Dovecot command in the container. */
const COMMAND = 60_000
/** Milliseconds for Compose to stop a container and make the next: its stop_grace_period is 60 seconds. */
const CHANGE = 180_000
/** The same where the image, some hundred megabytes, has to be pulled over a slow line. */
const PULL = 3_600_000

/** docker-mailserver copies these when a container is made; the other files it polls, or reads through the mount. */
const READ_ONCE = ['dovecot.cf', 'dovecot-2.4.cf', 'postfix-main.cf', 'postfix-master.cf', 'user-patches.sh']
/** Milliseconds until a container whose daemons restart, as releases up to 10 do after a change, counts as half a server. */
const RESTART = 20_000

/** Compose with this project's files, an override file among them, whatever COMPOSE_FILE of the caller's environment says. */
const COMPOSE = ['compose', '--project-directory', ROOT]
const { COMPOSE_FILE: _, ...env } = process.env
const $ = shell({ cwd: ROOT, env })

/** Runs Compose for at most so many milliseconds; its exit code is null then, and the caller's to judge. */
export const compose = (args: string[], timeout: number) => $({ timeout })`docker ${[...COMPOSE, ...args]}`

/** The files that a container of this age has read and that were changed since. Nobody can set a ctime back. */
export function changedSince(created: Date): string[] {
  const changedAt = (name: string) => statSync(join(CONFIG_DIR, name), { throwIfNoEntry: false })?.ctime ?? 0
  return READ_ONCE.filter((name) => changedAt(name) > created)
}

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
    const deadline = Date.now() + patience
    const [engine, compose] = await Promise.all([
      $({ timeout: patience })`docker version --format ${'{{.Server.Version}}'}`,
      $({ timeout: patience })`docker compose version --short`,
    ])
    if (/not (found|recognized)/.test(engine.stderr)) {
      return 'the command docker is not there. Install Docker with Compose: https://docs.docker.com/get-started/get-docker/'
    }
    if (engine.exitCode !== 0) {
      // The words of a program that was killed are about the kill.
      const reason = (Date.now() < deadline && lastWords(engine.stderr)) || `silent for ${patience / 1000} s`
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

  async half(): Promise<string | undefined> {
    const container = await this.#container()
    if (container?.isPaused) return 'The container is paused.'
    if (!container?.running) return undefined
    const wanted = isSmtpOnly() ? ['postfix'] : ['postfix', 'dovecot']
    const deadline = Date.now() + RESTART
    for (;;) {
      const { stdout } = await this.exec(['supervisorctl', 'status', ...wanted], { timeout: this.#patience })
      const down = wanted.filter((name) => !new RegExp(`^${name}\\s+(RUNNING|STARTING)`, 'm').test(stdout))
      if (down.length === 0) return undefined
      if (/FATAL/.test(stdout) || Date.now() > deadline)
        return `The container runs, and ${down.join(' and ')} in it ${down.length > 1 ? 'do' : 'does'} not.`
      await sleep(500)
    }
  }

  async start(): Promise<Started> {
    const before = await this.#container()
    if (before?.isPaused) await docker(['unpause', CONTAINER])
    // A line a port that it holds: "25/tcp -> 127.0.0.1:2525".
    const { stdout: held } = await docker(['container', 'port', CONTAINER])
    const isNew = (name: ServiceName) => !new RegExp(`:${this.#settings.ports[name]}$`, 'm').test(held)
    await assertPortsFree(this.#settings, SERVICE_NAMES.filter(isNew))
    // Compose makes the container anew by itself when its own file, .env or the environment file have changed.
    const changed = before ? changedSince(before.created) : []
    const half = before?.running ? await this.half() : undefined
    if (before?.running && changed.length > 0) say(`${changed.join(', ')}: changed, so the container is made anew.`)
    say(before?.running ? 'Bringing the container up to date ...' : 'Starting the container ...')
    const anew = !before?.running || half || changed.length > 0 ? ['--force-recreate'] : []
    // With Compose's own progress: it pulls an image that is not there.
    const options = {
      cwd: ROOT,
      env,
      stdio: ['ignore', process.stderr, 'inherit'],
      timeout: PULL,
    } satisfies SpawnOptions
    const up = await foreground('docker', [...COMPOSE, 'up', '--detach', ...anew], options)
    if (up !== 0) {
      if (!before?.running) await docker([...COMPOSE, 'down'], CHANGE)
      throw new Failure('failed', 'docker compose up failed, as it says above. Mend that, then: npm start')
    }
    if (!before?.running) return 'started'
    if ((await this.#container())?.id !== before.id) return 'restarted'
    // What Postfix reads through the mount takes effect with its next processes; now, for whoever changed it.
    await this.exec(['postfix', 'reload'])
    return 'running'
  }

  async stop(): Promise<boolean> {
    if (!(await this.#container())) return false
    // docker-mailserver sets itself up once for each container, so the container goes and its volumes stay.
    const down = await step('Stopping the container', () => docker([...COMPOSE, 'down'], CHANGE))
    // Compose also fails when an application is still on the network; then the network stays and that is all.
    if (down.exitCode !== 0 && (await this.#container())) {
      throw new Failure('failed', `docker compose down failed: ${lastWords(down.stderr)} See: docker compose ps`)
    }
    return true
  }

  /** docker-mailserver polls its configuration folder and reloads by itself, a few seconds after a change. */
  async reload(): Promise<void> {}

  async exec(command: string[], { input: text, timeout = COMMAND }: ExecOptions = {}): Promise<ExecResult> {
    if (text === undefined) return docker(['exec', CONTAINER, ...command], timeout)
    return docker(['exec', '--interactive', CONTAINER, ...command], timeout, text)
  }

  async removeMailbox(address: string): Promise<void> {
    const mailbox = removableMailboxOf(address)
    if (!mailbox) return
    const remove = ['-rf', '--', `/var/mail/${mailbox}`]
    // A stopped server has its mail in the volume, which any container of the image opens.
    const { exitCode, stderr } = (await this.isRunning())
      ? await this.exec(['rm', ...remove])
      : await docker([...COMPOSE, 'run', '--rm', '--no-deps', '--entrypoint', 'rm', CONTAINER, ...remove], COMMAND)
    if (exitCode !== 0) throw new Failure('failed', `The mail of ${address} could not be removed: ${lastWords(stderr)}`)
  }

  /** user-patches.sh puts it there. */
  certificate(): string | undefined {
    return readServerEnvironment().SSL_TYPE ? join(CONFIG_DIR, 'certificate.pem') : undefined
  }

  async logs({ lines, follow }: { lines: number; follow: boolean }): Promise<void> {
    if (!(await this.#container())) {
      throw new Failure('failed', `There is no container ${CONTAINER} to show the log of. Start it: npm start`)
    }
    const tail = ['--tail', String(lines), ...(follow ? ['--follow'] : [])]
    await foreground('docker', ['logs', ...tail, CONTAINER], { stdio: ['ignore', 'inherit', 'inherit'] })
  }

  async logged(): Promise<string[]> {
    const since = ['container', 'inspect', '--format', '{{.State.StartedAt}}', CONTAINER]
    const { stdout: started } = await docker(since, this.#patience)
    const from = ['--since', started.trim() || '0', '--tail', '500']
    const { exitCode, stdout, stderr } = await docker(['logs', ...from, CONTAINER], this.#patience)
    // Without a container there is no log yet.
    return exitCode === 0 ? `${stdout}\n${stderr}`.split('\n').map((line) => line.trim()) : []
  }

  /** Docker's own processes hold a container's published ports: which of them depends on its kind. */
  owns({ name }: { name: string }): boolean {
    return /docker|rootlessport|rootlesskit|vpnkit|slirp4netns/.test(name)
  }

  /** The container; undefined when there is none. Throws a Failure when one of this name is somebody else's. */
  async #container(): Promise<{ running: boolean; isPaused: boolean; created: Date; id: string } | undefined> {
    const format = '{{json .State.Running}} {{json .State.Paused}} {{json .Created}} {{.Id}} {{json .Config.Labels}}'
    const { exitCode, stdout } = await docker(['container', 'inspect', '--format', format, CONTAINER], this.#patience)
    if (exitCode !== 0) return undefined
    const [, running, paused, created = '', id = '', labels = ''] =
      /^(\S+) (\S+) "(\S+)" (\S+) (.*)$/m.exec(stdout) ?? []
    const label: Record<string, string> = JSON.parse(labels) ?? {}
    const project = label['com.docker.compose.project'] ?? 'none'
    const own = setting('COMPOSE_PROJECT_NAME') ?? CONTAINER
    if (project !== own && label['com.docker.compose.project.working_dir'] !== ROOT) {
      const fact = `A container ${CONTAINER} is there that this project did not make (Compose project: ${project})`
      throw new Failure('failed', `${fact}. Remove it, its volumes stay: docker rm --force ${CONTAINER}`)
    }
    return { running: running === 'true', isPaused: paused === 'true', created: new Date(created), id }
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
  const fact = `docker ${args.join(' ')} was not done after ${timeout / 1000} s`
  throw new Failure('failed', `${fact}. Does the engine answer? docker info`)
}

/** The last line that a program wrote, as a sentence. Above it stands what went well. */
function lastWords(stderr: string): string {
  const line = stderr.trim().split('\n').at(-1)?.trim() ?? ''
  return line && !/[.?!]$/.test(line) ? `${line}.` : line
}
