/** What this machine has to have: settings, an engine, root, and daemons that can work. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, messageOf } from '../cli.ts'
import { checkStateDir } from '../server/native_files.ts'
import { isFree } from '../server/ports.ts'
import { processIds, programOf, stateOf } from '../server/processes.ts'
import { isRoot } from '../server/root.ts'
import { $ } from '../server/shell.ts'
import { CONTAINER, readSettings } from '../settings.ts'
import { addLine, type Finding, failure, ok, Skipped, verdict, warning } from './check.ts'
import { ANSWER, DOCKER, type Facts, STANDSTILL, STATUS } from './facts.ts'

export async function settings(facts: Facts): Promise<Finding[]> {
  const { bindAddress, ports } = readSettings()
  // Throws where this machine has no such address.
  await isFree(bindAddress, 0)
  const is = `${bindAddress}, SMTP on ${ports.smtp}, POP3 on ${ports.pop3}, IMAP on ${ports.imap}`
  if (/^(127\.|::1$)/.test(bindAddress)) return [ok(is)]
  const trusted = facts.environment().PERMIT_DOCKER || 'none'
  const fix = process.env.BIND_ADDRESS ? 'unset BIND_ADDRESS' : addLine('.env', 'BIND_ADDRESS=127.0.0.1')
  const who = `the ports are on ${bindAddress}: whoever reaches this machine`
  if (trusted === 'none') return [warning(`${who} may log in, with passwords that everybody knows`, fix)]
  return [failure(`${who} sends without logging in (PERMIT_DOCKER=${trusted})`, fix)]
}

export async function engine(facts: Facts): Promise<Finding[]> {
  const { engine: chosen, reason } = await facts.choice()
  // A Docker that hangs is worth a word where another engine takes its place, too.
  if (/silent for/.test(reason))
    return [(chosen ? warning : failure)(`${reason.replace('Start it,', 'Is it wedged? Restart it,')}`)]
  // Throws where the container is another project's.
  await chosen?.isRunning()
  if (chosen) return [ok(`${chosen.name} (${reason.split('. ')[0]})`)]
  if (/permission denied/i.test(reason))
    return [failure(`${reason}; log in again after the fix`, 'sudo usermod -aG docker "$USER"')]
  const lacksCompose = process.platform === 'linux' && /no Compose v2/.test(reason)
  return [failure(reason, lacksCompose && 'sudo apt-get install docker-compose-plugin')]
}

export async function root(facts: Facts): Promise<Finding[]> {
  await facts.engine('native')
  if (isRoot) return [ok('root')]
  const { exitCode } = await $({ timeout: DOCKER })`sudo -n true`
  if (exitCode === 0) return [ok('sudo asks for no password')]
  if (exitCode === 127) return [failure('the native engine needs root, and there is no sudo: run this as root')]
  const fix = 'sudo env PATH="$PATH" npx tsx scripts/doctor.ts'
  return [failure('the native engine needs root, and sudo wants a password', fix)]
}

/** Milliseconds for a daemon that is restarted, as releases up to 10 do after a change. */
const RESTART = 5_000

async function processesDocker(facts: Facts): Promise<Finding[]> {
  if (!(await facts.isRunning())) throw new Skipped('the server is not running, see "running"')
  const [is = ''] = STANDSTILL.exec(await facts.inspect(STATUS)) ?? []
  if (is === 'paused') return [failure('the container is paused', `docker unpause ${CONTAINER}`)]
  if (is) return [failure(`the container ends and restarts again and again; its log: docker logs ${CONTAINER}`)]
  const engine = await facts.server()
  const wanted = facts.environment().SMTP_ONLY === '1' ? ['Postfix'] : ['Postfix', 'Dovecot']
  for (const begin = Date.now(); ; await sleep(500)) {
    const { stdout } = await engine.exec(['supervisorctl', 'status'], { timeout: ANSWER })
    const stateOf = (name: string) => new RegExp(`^${name} +(\\w+)`, 'im').exec(stdout)?.[1] ?? 'RUNNING'
    const down = wanted.filter((name) => !/RUNNING|STARTING/.test(stateOf(name)))
    if (down.length > 0 && Date.now() - begin < RESTART) continue
    const problems = down.map((name) => {
      // One that gave up (FATAL, EXITED) does so again.
      const fix = stateOf(name) === 'STOPPED' && `docker exec ${CONTAINER} supervisorctl start ${name.toLowerCase()}`
      return failure(`${name} is stopped in the container (${stateOf(name)})`, fix)
    })
    return verdict(problems, 'all of them run')
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

/** Postfix's own part of the state folder: of another owner, as a copy may be, nothing is taken or delivered. */
const QUEUES = ['active', 'bounce', 'defer', 'deferred', 'hold', 'incoming', 'maildrop', 'private', 'public']

export async function folders(facts: Facts): Promise<Finding[]> {
  if ((await facts.engine()).name === 'docker') throw new Skipped('in the container all can')
  const { stateDir } = facts.settings()
  try {
    checkStateDir(stateDir)
    const paths = [join(stateDir, 'data'), ...QUEUES.map((name) => join(stateDir, 'queue', name))]
    const { stdout } = await $({ timeout: ANSWER })`find ${paths} -maxdepth 0 ! -user postfix`
    const other = stdout.trim().replaceAll('\n', ' ')
    return verdict(other ? [failure(`not Postfix's own: ${other}`, `chown -R postfix ${other}`)] : [], stateDir)
  } catch (error) {
    const [, folder] = /(\/\S+): only its owner can enter it/.exec(messageOf(error)) ?? []
    if (error instanceof Failure) return [failure(error.message, folder && `chmod o+x ${folder}`)]
    throw error
  }
}
