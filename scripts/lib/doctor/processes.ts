/** The processes of the server: that none of them is stopped, in the container or here, and that they reach their folders. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, messageOf } from '../cli.ts'
import { checkStateDir } from '../server/native_files.ts'
import { processIds, programOf, stateOf } from '../server/processes.ts'
import { $ } from '../server/shell.ts'
import { CONTAINER } from '../settings.ts'
import { type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { ANSWER, DOCKER, type Facts } from './facts.ts'

/** What runs in the container, and what is wrong while it does not. To add a daemon, add a row. */
// biome-ignore format: one daemon a line
const DAEMONS: [name: string, find: typeof failure, wrong: string][] = [
  ['postfix', failure, 'Postfix is stopped in the container'],
  ['dovecot', failure, 'Dovecot is stopped in the container'],
  ['rsyslog', warning, 'rsyslog is stopped in the container, and nothing is logged'],
  ['changedetector', warning, 'changedetector is stopped in the container, and changed accounts do not go live'],
]
/** Milliseconds for a daemon that is restarted, as releases up to 10 do after a change, and for Docker to notice that all run. */
const [RESTART, NOTICE] = [5_000, 20_000]
const HEALTH = '{{if .State.Health}}{{.State.Health.Status}}{{end}}'

async function processesDocker(facts: Facts): Promise<Finding[]> {
  if (!(await facts.isRunning())) throw new Skipped('the server is not running, see "running"')
  const is = await facts.standstill()
  if (is === 'paused') return [failure('the container is paused', `docker unpause ${CONTAINER}`)]
  if (is) return [failure(`the container ends and restarts again and again; its log: docker logs ${CONTAINER}`)]
  const engine = await facts.server()
  const isOff = (name: string) => name !== 'postfix' && name !== 'rsyslog' && facts.environment().SMTP_ONLY === '1'
  for (const begin = Date.now(); ; await sleep(500)) {
    const { stdout } = await engine.exec(['supervisorctl', 'status'], { timeout: ANSWER })
    const stateOf = (name: string) => new RegExp(`^${name} +(\\w+)`, 'm').exec(stdout)?.[1] ?? 'RUNNING'
    const down = DAEMONS.filter(([name]) => !isOff(name) && !/RUNNING|STARTING/.test(stateOf(name)))
    const { stdout: word } = await $({ timeout: DOCKER })`docker container inspect --format ${HEALTH} ${CONTAINER}`
    const isUnhealthy = word.trim() === 'unhealthy'
    if (down.length === 0 && !isUnhealthy) return verdict([], 'all of them run')
    if (Date.now() - begin < (down.length > 0 ? RESTART : NOTICE)) continue
    const problems = down.map(([name, find, wrong]) => {
      // One that gave up does so again.
      if (stateOf(name) === 'STOPPED') return find(wrong, `docker exec ${CONTAINER} supervisorctl start ${name}`)
      return find(`${wrong} (${stateOf(name)})`)
    })
    const probe = `the container is unhealthy, though its daemons run; what its probe said: docker inspect ${CONTAINER}`
    return problems.length > 0 ? problems : [warning(probe)]
  }
}

export async function processes(facts: Facts): Promise<Finding[]> {
  const engine = await facts.engine()
  if (engine.name === 'docker') return processesDocker(facts)
  await facts.server()
  const stopped = processIds().filter((pid) => stateOf(pid) === 'T' && engine.owns({ pid, name: '' }))
  const names = [...new Set(stopped.map(programOf))].join(', ')
  const problem = failure(`stopped by a signal (SIGSTOP): ${names}`, `kill -CONT ${stopped.join(' ')}`)
  return verdict(stopped.length > 0 ? [problem] : [], 'all of them run')
}

export async function folders(facts: Facts): Promise<Finding[]> {
  if ((await facts.engine()).name === 'docker') throw new Skipped('in the container all can')
  const { stateDir } = facts.settings()
  try {
    checkStateDir(stateDir)
    return verdict([], stateDir)
  } catch (error) {
    const [, folder] = /(\/\S+): only its owner can enter it/.exec(messageOf(error)) ?? []
    if (error instanceof Failure) return [failure(error.message, folder && `chmod o+x ${folder}`)]
    throw error
  }
}
