/** A project whose doctor runs in this process, so that many set-ups can be asked about; and hands that type what it says. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { appendFileSync, chmodSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { Result } from '../scripts/lib/doctor/check.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import type { Broken } from './broken_setups.ts'
import { Project, processesOf } from './harness.ts'
import { load, runIn } from './here.ts'
import { pidsOf } from './instance.ts'

/** What is not right. */
export const bad = (results: Result[]) => results.filter(({ level }) => level === 'failure' || level === 'warning')

/** What a set-up may change. */
const OVERRIDE = 'docker-compose.override.yml'
const FILES = ['bin', 'docker-data', 'docker-compose.yml', OVERRIDE, 'development-mail-server.env', '.env']

export class DoctorWorld {
  readonly project: Project

  private constructor(project: Project) {
    this.project = project
    project.env.PATH = `${project.path('bin')}:${project.env.PATH}`
    Object.assign(process.env, project.env)
  }

  static async create(): Promise<DoctorWorld> {
    return new DoctorWorld(await Project.create())
  }

  /** Runs the doctor in this process, with other variables where some are given. */
  run(args: string[], env: Record<string, string> = {}) {
    return runIn(this.project, { env }, 'doctor', ...args)
  }

  /** Runs another script in this process. */
  script(name: string, ...args: string[]) {
    return runIn(this.project, { input: 'secret\n' }, name, ...args)
  }

  /** What its `--json` says. */
  async ask(args: string[], env: Record<string, string> = {}): Promise<{ results: Result[]; mended: string[] }> {
    return JSON.parse((await this.run(['--json', ...args], env)).stdout)
  }

  /** What is not right, of all checks or of those that are named. */
  async troubles(...only: string[]): Promise<Result[]> {
    return bad((await this.ask(only.flatMap((name) => ['--only', name]))).results)
  }

  /** Puts a `docker` that does what the script says in front of the real one, until `restore`. */
  docker(script: string): void {
    mkdirSync(this.project.path('bin'), { recursive: true })
    writeFileSync(this.project.path('bin/docker'), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  }

  /** Puts the files back that a set-up has changed, and gives whether there were any. The others keep their times. */
  restore(): boolean {
    const { project } = this
    const isThere = (name: string) => name !== '.env' && existsSync(`${ROOT}/${name}`)
    const changed = FILES.filter((name) => {
      const path = project.path(name)
      return isThere(name) ? spawnSync('diff', ['-rq', `${ROOT}/${name}`, path]).status !== 0 : existsSync(path)
    })
    for (const name of changed) {
      rmSync(project.path(name), { recursive: true, force: true })
      if (isThere(name)) cpSync(`${ROOT}/${name}`, project.path(name), { recursive: true })
    }
    return changed.length > 0
  }

  /** What `npm start` does to a server that runs: changes of the files take effect. */
  async takeEffect(): Promise<void> {
    const { NativeEngine } = await load(this.project, 'lib/server/native')
    const { readSettings } = await load(this.project, 'lib/settings')
    await new NativeEngine(readSettings()).start()
  }

  /** Back to a healthy server, whatever a set-up did to it; `isHealed`: what it said to type has healed it. */
  async heal(isHealed: boolean): Promise<void> {
    const { project } = this
    if (!this.restore() && isHealed) return
    chmodSync(project.dir, 0o755)
    for (const pid of pidsOf(project)) process.kill(pid, 'SIGCONT')
    const mail = `${project.stateDir}/mail`
    execFileSync('sh', ['-c', `chown -R 5000:5000 ${mail}; chmod -R u+rwX ${mail}`])
    await this.takeEffect()
    execFileSync('postsuper', ['-c', `${project.stateDir}/postfix`, '-d', 'ALL'], { stdio: 'pipe' })
  }

  /** `assertTold` with a healthy server behind it. */
  async assertToldAndHealed(rows: readonly Broken[], live: boolean): Promise<void> {
    let isHealed = false
    try {
      isHealed = await this.assertTold(rows, { live })
    } finally {
      await this.heal(isHealed)
    }
  }

  /**
   * Breaks the project in all of these ways, asks, and compares: each is told by its check at its level, and nothing else is
   * said. Then does what the fixes say, and nothing is left to say; gives whether there were fixes for all. `only`: the
   * checks to ask; `live`: changes take effect.
   */
  async assertTold(rows: readonly Broken[], { only = [], live = false }: { only?: string[]; live?: boolean } = {}) {
    const takeEffect = async () => live && (await this.takeEffect())
    for (const [, breaks] of rows) await breaks(this.project)
    await takeEffect()
    const found = await this.troubles(...only)
    const told = JSON.stringify(found, undefined, 1)
    const said = rows.flatMap(([, , , , said]) => said)
    assert.equal(found.length, said.length, told)
    for (const [what, , check, level, said] of rows) {
      for (const words of [said].flat()) {
        const one = found.find(({ evidence }) => words.test(evidence))
        assert.equal(`${one?.check} ${one?.level}`, `${check} ${level}`, `${what}: ${told}`)
      }
    }
    assert.doesNotMatch(found.map(({ evidence, fix }) => evidence + fix).join(), /\n|\$6\$|my-secret/)
    const lineOf = ({ fix }: Result) => Number(/lines? (\d+)/.exec(fix ?? '')?.[1] ?? 0)
    // The last line first: the others keep their numbers.
    const fixes = new Set(found.sort((a, b) => lineOf(b) - lineOf(a)).map(({ fix }) => fix))
    if (found.some(({ fix }) => !fix)) return false
    const checks = [...new Set(rows.map(([, , check]) => check)), ...(only.length > 0 ? [] : ['live', 'mail-virtual'])]
    for (const fix of fixes) await this.type(fix ?? '', only.length > 0 ? checks : [])
    await takeEffect()
    // What waited is on its way for a moment.
    for (let tries = 0; ; tries++) {
      const left = await this.troubles(...checks)
      if (left.length === 0) return true
      if (only.length > 0 || tries === 5) assert.deepEqual(left, [], `typed: ${[...fixes].join('; ')}`)
    }
  }

  /** Does what a fix says, as a reader would; the doctor mends what these checks find. */
  async type(fix: string, only: string[]): Promise<void> {
    const { project } = this
    const [, line, end = line, file = '', text] =
      /^(?:Delete|Write) lines? (\d+)(?:-(\d+))? of (\S+)(?: as: (.*))?$/s.exec(fix) ?? []
    const [, where, added] = /^Write (?:into|as the last line of) (\S+): (.*)$/s.exec(fix) ?? []
    if (line) {
      const lines = readFileSync(project.path(file), 'utf8').split('\n')
      lines.splice(Number(line) - 1, Number(end) - Number(line) + 1, ...(text === undefined ? [] : [text]))
      writeFileSync(project.path(file), lines.join('\n'))
    } else if (where) appendFileSync(project.path(where), `${added}\n`)
    else for (const command of fix.split(' && ')) await this.#type(command, only)
  }

  async #type(command: string, only: string[]): Promise<void> {
    const { project } = this
    const [, file] = /^git checkout -- (\S+)$/.exec(command) ?? []
    if (file) {
      rmSync(project.path(file), { recursive: true, force: true })
      return cpSync(`${ROOT}/${file}`, project.path(file), { recursive: true })
    }
    const [, script, args = ''] = /^npm (?:run )?([\w-]+)(?: -- (.*))?$/.exec(command) ?? []
    if (script === undefined)
      return void execFileSync('sh', ['-c', command], { cwd: project.dir, env: project.env, stdio: 'pipe' })
    const words = args.split(' ').filter((word) => word !== '')
    if (script === 'doctor') return void (await this.run([...words, ...only.flatMap((name) => ['--only', name])]))
    if (script === 'start' && processesOf(project) !== '') return this.takeEffect()
    const password = words.includes('--update') ? ['--password-stdin'] : []
    const name = script.replaceAll('-', '_')
    const { code, stderr } = await this.script(name, ...words, ...password)
    if (code !== 0) throw new Error(`${command}: ${stderr}`)
  }
}
