/** Runs the scripts of a project in this process: starting Node is most of a short script's time. */
import { existsSync } from 'node:fs'
import { PassThrough } from 'node:stream'
import { pathToFileURL } from 'node:url'
import type { EXIT } from '../scripts/lib/cli.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import type { Project, Result, RunOptions } from './harness.ts'

/** A module of the project's own copy: `load(project, 'lib/accounts/changes')`. */
export function load(project: Project, name: string) {
  const files = ['js', 'ts'].map((extension) => project.path('scripts', `${name}.${extension}`))
  return import(pathToFileURL(files.find(existsSync) ?? '').href)
}

/** `Project.runWith` without a process. One project a test file: the environment is the whole process's. */
export async function runHere(
  project: Project,
  options: RunOptions,
  script: string,
  ...args: string[]
): Promise<Result> {
  const { EXIT: table, ioOf, outcomeOf } = await load(project, 'lib/cli')
  const { main } = await load(project, script)
  const saved = { ...process.env }
  Object.assign(process.env, project.env, options.env)
  process.chdir(project.dir)
  const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()]
  stdin.end(options.input)
  try {
    const exit: keyof typeof EXIT = await outcomeOf(main, args, ioOf({ stdin, stdout, stderr }))
    return { code: table[exit].code, stdout: String(stdout.read() ?? ''), stderr: String(stderr.read() ?? '') }
  } finally {
    process.chdir(ROOT)
    for (const name of Object.keys(options.env ?? {})) {
      if (saved[name] === undefined) delete process.env[name]
      else process.env[name] = saved[name]
    }
  }
}
