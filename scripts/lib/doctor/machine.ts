/** What this machine has to have: valid settings, an engine, Docker's image or Debian's packages, root, room for mail. */
import { existsSync, statfsSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure } from '../cli.ts'
import { installPackages, missingPackages } from '../server/packages.ts'
import { isRoot } from '../server/root.ts'
import { $ } from '../server/shell.ts'
import { readSettings, setting } from '../settings.ts'
import { addLine, type Finding, failure, MEND, verdict, warning } from './check.ts'
import { DOCKER, type Facts } from './facts.ts'

export function settings(facts: Facts): Finding[] {
  try {
    const { bindAddress, ports } = readSettings()
    const is = `${bindAddress}, SMTP on ${ports.smtp}, POP3 on ${ports.pop3}, IMAP on ${ports.imap}`
    if (/^(127\.|::1$)/.test(bindAddress)) return verdict([], is)
    const trusted = facts.environment().PERMIT_DOCKER || 'none'
    const fix = process.env.BIND_ADDRESS ? 'unset BIND_ADDRESS' : addLine('.env', 'BIND_ADDRESS=127.0.0.1')
    const who = `the ports are on ${bindAddress}: whoever reaches this machine`
    if (trusted === 'none') return [warning(`${who} may log in, with passwords that everybody knows`, fix)]
    return [failure(`${who} sends without logging in (PERMIT_DOCKER=${trusted})`, fix)]
  } catch (error) {
    if (error instanceof Failure) return [failure(error.message)]
    throw error
  }
}

export async function engine(facts: Facts): Promise<Finding[]> {
  const { engine: chosen, reason } = await facts.choice()
  // A Docker that hangs is worth a word where another engine takes its place, too.
  if (/silent for/.test(reason))
    return [(chosen ? warning : failure)(`${reason.replace('Start it,', 'Is it wedged? Restart it,')}`)]
  if (chosen) {
    // Throws where the container is another project's.
    await chosen.isRunning()
    return verdict([], `${chosen.name} (${reason.split('. ')[0]})`)
  }
  const isForbidden = /permission denied/i.test(reason)
  const plugin =
    process.platform === 'linux' && /no Compose v2/.test(reason) && 'sudo apt-get install docker-compose-plugin'
  const fix = isForbidden ? 'sudo usermod -aG docker "$USER"' : plugin || undefined
  return [failure(isForbidden ? `${reason}; log in again after the fix` : reason, fix)]
}

export async function image(facts: Facts): Promise<Finding[]> {
  await facts.engine('docker')
  const name = `mailserver/docker-mailserver:${facts.settings().dmsVersion}`
  const present = await $({ timeout: DOCKER })`docker image inspect --format ${'{{.Id}}'} ${name}`
  if (present.exitCode === 0) return verdict([], `${name} ${present.stdout.trim().slice(0, 19)}`)
  const remote = await $({ timeout: DOCKER })`docker manifest inspect ${name}`
  if (remote.exitCode === 0) return [warning(`${name} is not here yet; npm start pulls it`, `docker pull ${name}`)]
  const reason = remote.exitCode === null ? 'the registry does not answer' : (remote.stderr.trim().split('\n')[0] ?? '')
  const isWrong =
    /no such manifest|not found|unknown/.test(reason) && setting('DMS_VERSION') && !process.env.DMS_VERSION
  const fix = isWrong ? addLine('.env', 'DMS_VERSION=15.1.0') : undefined
  return [failure(`${name} is not here and cannot be pulled: ${reason}`, fix)]
}

export async function packages(facts: Facts): Promise<Finding[]> {
  await facts.engine('native')
  if (await facts.isRunning().catch(() => false)) return verdict([], 'the server runs')
  const missing = (await missingPackages()).join(', ')
  if (!missing) return verdict([], 'Postfix and Dovecot')
  const mend = () => installPackages().then(() => `installed ${missing}`)
  const question = `Install ${missing} by apt?`
  return [warning(`not installed: ${missing}; npm start installs them`, MEND, { mend, question })]
}

export async function root(facts: Facts): Promise<Finding[]> {
  await facts.engine('native')
  if (isRoot) return verdict([], 'root')
  const { exitCode } = await $({ timeout: DOCKER })`sudo -n true`
  if (exitCode === 0) return verdict([], 'sudo asks for no password')
  if (exitCode === 127) return [failure('the native engine needs root, and there is no sudo: run this as root')]
  const fix = 'sudo env PATH="$PATH" npx tsx scripts/doctor.ts'
  return [failure('the native engine needs root, and sudo wants a password', fix)]
}

/** Bytes of free space below which there is a warning. */
const LITTLE_SPACE = 500_000_000

export async function disk(facts: Facts): Promise<Finding[]> {
  let [folder, free, inodes] = ['/var/mail', 0, 1]
  if ((await facts.engine()).name === 'docker') {
    const { stdout } = await facts.ask('df', '-Pk', folder)
    free = Number(stdout.trim().split('\n').at(-1)?.split(/\s+/)[3]) * 1_024
  } else {
    for (folder = facts.settings().stateDir; !existsSync(folder); ) folder = dirname(folder)
    const { bavail, bsize, files, ffree } = statfsSync(folder)
    free = bavail * bsize
    inodes = files === 0 ? 1 : ffree
  }
  const megabytes = `${Math.floor(free / 1_000_000)} MB free in ${folder}`
  // Postfix's own rule (queue_minfree).
  if (free < 1.5 * Number(facts.environment().POSTFIX_MESSAGE_SIZE_LIMIT || 10_240_000))
    return [failure(`${megabytes}: Postfix refuses mail with 452; npm run reset deletes all mail`)]
  if (inodes === 0) return [failure(`no inode is free in ${folder}: no file can be made`)]
  return verdict(free < LITTLE_SPACE ? [warning(megabytes)] : [], megabytes)
}
