/** The choice between the two engines. */
import { existsSync } from 'node:fs'
import { Failure } from '../cli.ts'
import type { Settings } from '../settings.ts'
import { DockerEngine } from './docker.ts'
import type { Engine } from './engine.ts'
import { NativeEngine } from './native.ts'

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
  const native = settings.engine === 'native' || hasApt() ? new NativeEngine(settings) : undefined
  if (settings.engine === 'native') return { engine: native, reason: asked }
  if (settings.engine === 'auto' && native && ((await native.isRunning()) || (await native.half()))) {
    return { engine: native, reason: `${asked}, and it runs already` }
  }
  const problem = await DockerEngine.problem(patience)
  if (!problem) return { engine: new DockerEngine(settings, patience), reason: `${asked}, and a Docker engine answers` }
  if (settings.engine === 'docker') return { reason: `${asked}: ${problem}` }
  if (native) return { engine: native, reason: `${asked}: ${problem}` }
  return { reason: `No engine for the mail server: ${problem} (Without Docker it runs on Debian and Ubuntu only.)` }
}

/** The native engine where it is the one that runs. Asks no Docker engine, so that none has to be there. */
export async function runningNativeEngine(settings: Settings): Promise<NativeEngine | undefined> {
  const native = settings.engine === 'docker' || !hasApt() ? undefined : new NativeEngine(settings)
  return (await native?.isRunning()) ? native : undefined
}

function hasApt(): boolean {
  return process.platform === 'linux' && existsSync('/usr/bin/apt-get')
}

/** What is to be said of a server that is not up, or only half of it, with the next command; undefined where it is up. */
export async function whyNotRunning(engine: Engine): Promise<{ half: string | undefined; fact: string } | undefined> {
  const half = await engine.half()
  if (half) return { half, fact: `${half} Mend it: npm start` }
  if (await engine.isRunning()) return undefined
  return { half, fact: 'The mail server is not running. Start it: npm start' }
}
