/** The server as a container: docker-mailserver, run by Docker Compose from `docker-compose.yml`. */
import { spawn } from 'node:child_process'
import { Failure, say, step } from './cli.ts'
import type { Engine } from './engine.ts'
import { assertPortsFree } from './ports.ts'
import { CONTAINER, ROOT, type Settings } from './settings.ts'
import { $ as shell } from './shell.ts'

const $ = shell({ cwd: ROOT })
/** Milliseconds for a question to the Docker engine; one that is wedged answers never. */
const ANSWER = 10_000

export class DockerEngine implements Engine {
  readonly name = 'docker'
  readonly #settings: Settings

  constructor(settings: Settings) {
    this.#settings = settings
  }

  /** Why Docker cannot be used here and what to do about it; undefined when it can. */
  static async problem(): Promise<string | undefined> {
    const engine = await $({ timeout: ANSWER })`docker version --format ${'{{.Server.Version}}'}`
    if (engine.exitCode !== 0) {
      return 'no Docker engine answers. Install Docker, or start it, and look at: docker version'
    }
    const compose = await $({ timeout: ANSWER })`docker compose version --short`
    if (compose.exitCode !== 0) {
      return 'Docker has no Compose v2. Install the package docker-compose-plugin and look at: docker compose version'
    }
    return undefined
  }

  async isRunning(): Promise<boolean> {
    const { stdout } = await $({
      timeout: ANSWER,
    })`docker container inspect --format ${'{{.State.Running}}'} ${CONTAINER}`
    return stdout.trim() === 'true'
  }

  async start(): Promise<void> {
    if (!(await this.isRunning())) await assertPortsFree(this.#settings)
    const image = `mailserver/docker-mailserver:${this.#settings.dmsVersion}`
    const present = await $({ timeout: ANSWER })`docker image inspect ${image}`
    // Pulling shows Docker's own progress, a line a layer; on a terminal with bars.
    if (present.exitCode !== 0) {
      say(`Pulling ${image}`)
      if ((await this.#foreground(['compose', 'pull'])) !== 0) {
        throw new Failure('failed', `${image} could not be pulled. Check the network and DMS_VERSION, then: npm start`)
      }
    }
    const up = await step('Starting the container', () => $`docker compose up --detach`)
    if (up.exitCode !== 0) throw new Failure('failed', `docker compose up failed:\n${up.stderr.trim()}`)
  }

  async stop(): Promise<boolean> {
    const existing = await $({ timeout: ANSWER })`docker container inspect ${CONTAINER}`
    if (existing.exitCode !== 0) return false
    // docker-mailserver sets itself up once for each container, so the container goes and its volumes stay.
    const down = await step('Stopping the container', () => $`docker compose down`)
    if (down.exitCode !== 0) throw new Failure('failed', `docker compose down failed:\n${down.stderr.trim()}`)
    return true
  }

  /** docker-mailserver polls its configuration folder and reloads by itself, a few seconds after a change. */
  async reload(): Promise<void> {}

  async exec(command: string[]) {
    return $({ timeout: 60_000 })`docker exec ${CONTAINER} ${command}`
  }

  async logs({ lines, follow }: { lines: number; follow: boolean }): Promise<void> {
    await this.#foreground([
      'compose',
      'logs',
      '--no-log-prefix',
      '--tail',
      String(lines),
      ...(follow ? ['--follow'] : []),
    ])
  }

  async complaints(): Promise<string[]> {
    const { stdout, stderr } = await $({ timeout: ANSWER })`docker compose logs --no-log-prefix --tail 500`
    const lines = `${stdout}\n${stderr}`.split('\n').map((line) => line.trim())
    return [...new Set(lines.filter((line) => /\b(fatal|panic|error)\b/i.test(line)))].slice(-10)
  }

  /** Runs docker with this terminal as its own, for progress bars and endless output. */
  #foreground(args: string[]): Promise<number> {
    return new Promise((resolve, reject) => {
      const child = spawn('docker', args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'] })
      child.once('error', reject)
      child.once('close', (code) => resolve(code ?? 1))
    })
  }
}
