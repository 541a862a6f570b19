/** A project whose doctor runs in this process, so that many set-ups can be asked about; and hands that type what it says. */
import { execFileSync } from 'node:child_process'
import { appendFileSync, chmodSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { PassThrough } from 'node:stream'
import { pathToFileURL } from 'node:url'
import { ioOf, type Main } from '../scripts/lib/cli.ts'
import type { Result } from '../scripts/lib/doctor/check.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import { Project, processesOf } from './harness.ts'

/** What a set-up may change. */
const FILES = [
  'docker-data',
  'docker-compose.yml',
  'docker-compose.override.yml',
  'development-mail-server.env',
  '.env',
]

export class DoctorWorld {
  readonly project: Project
  readonly #doctor: Main
  #madeTls = ''

  private constructor(project: Project, doctor: Main) {
    this.project = project
    this.#doctor = doctor
  }

  static async create(): Promise<DoctorWorld> {
    const project = await Project.create()
    Object.assign(process.env, project.env)
    const file = ['scripts/doctor.js', 'scripts/doctor.ts'].map((name) => project.path(name)).find(existsSync) ?? ''
    const { main } = await import(pathToFileURL(file).href)
    return new DoctorWorld(project, main)
  }

  /** Runs the doctor in this process and gives what its `--json` says. */
  async ask(...args: string[]): Promise<{ code: string; results: Result[]; mended: string[]; said: string }> {
    const [stdout, stderr] = [new PassThrough(), new PassThrough()]
    const io = ioOf({ stdin: new PassThrough(), stdout, stderr })
    const code = (await this.#doctor(['--json', ...args], io)) ?? 'ok'
    return { code, ...JSON.parse(String(stdout.read())), said: String(stderr.read() ?? '') }
  }

  /** Lets Docker be here, or hides it: Compose takes longer than all checks of files together. */
  hideDocker(isHidden: boolean): void {
    const bin = this.project.path('no-docker')
    mkdirSync(bin, { recursive: true })
    writeFileSync(`${bin}/docker`, '#!/bin/sh\necho "docker: not found" >&2\nexit 127\n', { mode: 0o755 })
    process.env.PATH = isHidden ? `${bin}:${this.project.env.PATH}` : (this.project.env.PATH ?? '')
  }

  /** What is not right, but for what `but` names. */
  async troubles(but: string[] = [], ...args: string[]): Promise<Result[]> {
    const { results } = await this.ask(...args)
    return results.filter(({ check, level }) => (level === 'warning' || level === 'failure') && !but.includes(check))
  }

  /** Puts all files back that a set-up may have changed. */
  restore(): void {
    for (const name of FILES) {
      rmSync(this.project.path(name), { recursive: true, force: true })
      if (existsSync(`${ROOT}/${name}`) && name !== '.env')
        cpSync(`${ROOT}/${name}`, this.project.path(name), { recursive: true })
    }
  }

  /** What `npm start` does to a server that runs: changes of the files take effect. */
  async takeEffect(): Promise<void> {
    const { NativeEngine } = await import(pathToFileURL(this.#script('lib/server/native')).href)
    const { readSettings } = await import(pathToFileURL(this.#script('lib/settings')).href)
    await new NativeEngine(readSettings()).start()
  }

  /** Back to a healthy server, whatever a set-up did to it. */
  async heal(): Promise<void> {
    const { project } = this
    this.restore()
    chmodSync(project.dir, 0o755)
    for (const pid of processesOf(project).matchAll(/\/proc\/(\d+)\//g)) process.kill(Number(pid[1]), 'SIGCONT')
    execFileSync('bash', ['-c', `chown -R 5000:5000 ${project.stateDir}/mail; chmod -R u+rwX ${project.stateDir}/mail`])
    if (this.#tls() !== this.#madeTls) {
      execFileSync('bash', ['-c', `rm ${project.stateDir}/tls/*`])
      await project.run('stop')
    }
    await this.takeEffect()
    this.#madeTls = this.#tls()
    for (const [program, ...args] of [
      ['postsuper', '-H', 'ALL'],
      ['postsuper', '-d', 'ALL'],
    ] as const) {
      execFileSync(program, ['-c', `${project.stateDir}/postfix`, ...args], { stdio: 'pipe' })
    }
  }

  #tls(): string {
    return ['key', 'certificate']
      .map((name) => `${this.project.stateDir}/tls/${name}.pem`)
      .map((path) => (existsSync(path) ? readFileSync(path, 'utf8') : ''))
      .join()
  }

  #script(name: string): string {
    return ['js', 'ts'].map((extension) => this.project.path(`scripts/${name}.${extension}`)).find(existsSync) ?? ''
  }

  /** Does what a fix says, as a reader would. */
  async type(fix: string): Promise<void> {
    const { project } = this
    const edit = (file: string, change: (lines: string[]) => void) => {
      const lines = readFileSync(project.path(file), 'utf8').split('\n')
      change(lines)
      writeFileSync(project.path(file), lines.join('\n'))
    }
    const patterns: [RegExp, (...words: (string | undefined)[]) => unknown][] = [
      [
        /^Delete lines? (\d+)(?:-(\d+))? of (\S+)$/,
        (line, end = line, file = '') =>
          edit(file, (lines) => lines.splice(Number(line) - 1, Number(end) - Number(line) + 1)),
      ],
      [
        /^Write lines? (\d+)(?:-(\d+))? of (\S+) as: (.*)$/s,
        (line, end = line, file = '', text = '') =>
          edit(file, (lines) => lines.splice(Number(line) - 1, Number(end) - Number(line) + 1, text)),
      ],
      [/^Write into (\S+): (.*)$/s, (file = '', text) => appendFileSync(project.path(file), `${text}\n`)],
      [
        /^Write as the first line of (\S+): (.*)$/,
        (file = '', text = '') => edit(file, (lines) => lines.unshift(text)),
      ],
      [/^Write as the last line of (\S+): (.*)$/, (file = '', text) => appendFileSync(project.path(file), `${text}\n`)],
    ]
    for (const [pattern, act] of patterns) {
      const found = pattern.exec(fix)
      if (found) return void act(...found.slice(1))
    }
    for (const command of fix.split(' && ')) await this.#run(command)
  }

  async #run(command: string): Promise<void> {
    const { project } = this
    const [, file] = /^git checkout -- (\S+)$/.exec(command) ?? []
    if (file) return cpSync(`${ROOT}/${file}`, project.path(file), { recursive: true })
    const [, script, args = ''] = /^npm (?:run )?([\w-]+)(?: -- (.*))?$/.exec(command) ?? []
    if (script) {
      const { code, stderr } = await project.runWith(
        { input: 'secret\n' },
        script.replaceAll('-', '_'),
        ...args.split(' ').filter((word) => word !== ''),
        ...(args.includes('--update') ? ['--password-stdin'] : []),
      )
      if (code !== 0 && script !== 'doctor') throw new Error(`${command}: ${stderr}`)
      return
    }
    execFileSync('bash', ['-c', command], { cwd: project.dir, env: project.env, stdio: 'pipe' })
  }
}
