/** Scripts in this process: starting Node is most of a short script's time. */
import { existsSync } from 'node:fs'
import { PassThrough } from 'node:stream'
import { pathToFileURL } from 'node:url'
import * as own from '../scripts/lib/cli.ts'
import { NAMES, ROOT } from '../scripts/lib/settings.ts'
import type { Project, Result, RunOptions } from './harness.ts'

// What the developer's own shell says about a server is not for tests.
for (const name of NAMES) delete process.env[name]

export interface HereOptions {
  input?: string | Buffer
  /** Both outputs are terminals. */
  isTTY?: boolean
  columns?: number
}

/** The exit code and what was written. */
export async function runHere(main: own.Main, options: HereOptions, ...args: string[]): Promise<Result> {
  return runMain(own, main, options, args)
}

/** `Project.runWith` without a process. One project a test file: the environment is the whole process's. */
export async function runIn(project: Project, options: RunOptions, script: string, ...args: string[]): Promise<Result> {
  const { main } = await load(project, script)
  const saved = { ...process.env }
  Object.assign(process.env, project.env, options.env)
  process.chdir(project.dir)
  try {
    return await runMain(await load(project, 'lib/cli'), main, options, args)
  } finally {
    process.chdir(ROOT)
    for (const name of Object.keys(options.env ?? {})) {
      if (saved[name] === undefined) delete process.env[name]
      else process.env[name] = saved[name]
    }
  }
}

/** A module of the project's own copy: `load(project, 'lib/accounts/changes')`. */
export function load(project: Project, name: string) {
  const files = ['js', 'ts'].map((extension) => project.path('scripts', `${name}.${extension}`))
  return import(pathToFileURL(files.find(existsSync) ?? '').href)
}

/** A main function with the `cli.ts` that it belongs to. */
async function runMain(
  cli: Pick<typeof own, 'EXIT' | 'ioOf' | 'outcomeOf'>,
  main: own.Main,
  { input = '', isTTY = false, columns }: HereOptions,
  args: string[],
): Promise<Result> {
  const stdin = new PassThrough()
  stdin.end(input)
  // Nobody has to read it while the script writes.
  const sink = () => Object.assign(new PassThrough({ highWaterMark: 1e9 }), { isTTY, columns })
  const textOf = (stream: PassThrough) => String(stream.read() ?? '')
  const [stdout, stderr] = [sink(), sink()]
  const exit = await cli.outcomeOf(main, args, cli.ioOf({ stdin, stdout, stderr }))
  return { code: cli.EXIT[exit].code, stdout: textOf(stdout), stderr: textOf(stderr) }
}
