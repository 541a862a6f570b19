/** The two ways to run the server, and the choice between them. */
import { existsSync } from 'node:fs'
import { Failure, say } from '../cli.ts'
import type { Settings } from '../settings.ts'
import { DockerEngine } from './docker.ts'
import { NativeEngine } from './native.ts'

export interface Engine {
  readonly name: 'docker' | 'native'
  /** Whether Postfix and Dovecot are up, by process, not by answer. */
  isRunning(): Promise<boolean>
  /**
   * Brings the server up, or its configuration up to date where it runs already. Returns when the daemons were started,
   * which is before they answer.
   */
  start(): Promise<void>
  /** Stops the server; mail, queue and accounts stay. False when it was not running. */
  stop(): Promise<boolean>
  /** Makes changes to the configuration folder take effect, without a restart where that is possible. */
  reload(): Promise<void>
  /**
   * Runs a Postfix or Dovecot command on the server: `['postqueue', '-j']`, with `input` on its stdin. Its exit code is
   * the caller's to judge; null where it took longer than `timeout` milliseconds (60,000) and was killed.
   */
  exec(command: string[], options?: ExecOptions): Promise<{ exitCode: number | null; stdout: string; stderr: string }>
  /** The text of a file by the path that the server's settings have it; undefined where there is none. */
  readFile(path: string): Promise<string | undefined>
  /** Removes an account's mail from the disk, whether the server runs or not. */
  removeMailbox(address: string): Promise<void>
  /** Shows the mail log's last lines on stdout and, with `follow`, what comes until Ctrl-C. */
  logs(options: { lines: number; follow: boolean }): Promise<void>
  /** What the daemons complained about since the last start, one line each, with the user's file and line. */
  complaints(): Promise<string[]>
  /** All that the daemons logged since the last start, oldest first; of a long log its end. */
  logged(): Promise<string[]>
  /** Whether a process that holds one of the ports is the server's. */
  owns(holder: { pid: number; name: string }): boolean
}

export interface ExecOptions {
  input?: string
  timeout?: number
}

/** The engine that is to be used, or none, and why. */
export interface EngineChoice {
  engine?: Engine
  reason: string
}

/**
 * The engine that MAIL_SERVER_ENGINE asks for. `auto` takes the one that runs already, else Docker when an engine
 * answers, else native where apt is. Throws a Failure that says what to install.
 */
export async function chooseEngine(settings: Settings): Promise<Engine> {
  const { engine, reason } = await explainEngine(settings)
  if (engine) return engine
  throw new Failure('failed', reason)
}

/** `chooseEngine` with its reason. `patience`: milliseconds for each question to Docker. */
export async function explainEngine(settings: Settings, patience?: number): Promise<EngineChoice> {
  const asked = `MAIL_SERVER_ENGINE=${settings.engine}`
  if (settings.engine === 'native') return { engine: new NativeEngine(settings), reason: asked }
  if (settings.engine === 'docker') {
    const problem = await DockerEngine.problem(patience)
    return problem
      ? { reason: `${asked}: ${problem}` }
      : { engine: new DockerEngine(settings, patience), reason: asked }
  }
  const native = hasApt() ? new NativeEngine(settings) : undefined
  if (await native?.isRunning()) return { engine: native as Engine, reason: `${asked}, and it runs already` }
  const problem = await DockerEngine.problem(patience)
  if (!problem) return { engine: new DockerEngine(settings, patience), reason: `${asked}, and a Docker engine answers` }
  if (native) return { engine: native, reason: `${asked}: ${problem}` }
  return { reason: `No engine for the mail server: ${problem} (Without Docker it runs on Debian and Ubuntu only.)` }
}

/** The native engine where it is the one that runs. Asks no Docker engine, so that none has to be there. */
export async function runningNativeEngine(settings: Settings): Promise<NativeEngine | undefined> {
  if (settings.engine === 'docker' || !hasApt()) return undefined
  const native = new NativeEngine(settings)
  return (await native.isRunning()) ? native : undefined
}

function hasApt(): boolean {
  return process.platform === 'linux' && existsSync('/usr/bin/apt-get')
}

/** The engine with its server up. Throws a Failure that names the next command otherwise. */
export async function runningEngine(settings: Settings): Promise<Engine> {
  const engine = await chooseEngine(settings)
  if (await engine.isRunning()) return engine
  throw new Failure('failed', 'The mail server is not running. Start it: npm start')
}

/** Says which engine is at work, for scripts whose result depends on it. */
export function sayEngine(engine: Engine): void {
  say(`Engine: ${engine.name}`)
}
