/** What this machine has to have: Node, an engine, Docker or Debian's packages. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Failure } from '../cli.ts'
import { $ } from '../server/shell.ts'
import { ROOT, readSettings } from '../settings.ts'
import { ANSWER, type Check, type Context, type Finding, failure, ok, Skipped, verdict, warning } from './check.ts'
import { composeOf } from './compose.ts'

/** Milliseconds for a registry to say whether it has the image. */
const REGISTRY = 4_000

const node: Check = {
  name: 'node',
  title: 'Node is new enough',
  run() {
    const { engines } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
    return nodeFindings(process.versions.node, engines.node)
  },
}

/** Judges a version of Node by package.json's `engines`, `>=20.12`. */
export function nodeFindings(version: string, wanted: string): Finding[] {
  const numbers = (text: string) => (text.match(/\d+/g) ?? []).map(Number)
  const [is, least] = [numbers(version), numbers(wanted)]
  const difference = least.map((part, index) => (is[index] ?? 0) - part).find((part) => part !== 0) ?? 0
  if (difference >= 0) return [ok(`Node ${version}`)]
  return [
    failure(`Node ${version}, and package.json wants ${wanted}`, 'Install Node 20 LTS or later: https://nodejs.org/'),
  ]
}

const settings: Check = {
  name: 'settings',
  title: 'The settings of .env and the environment are valid',
  run() {
    try {
      const { bindAddress, ports } = readSettings()
      return [ok(`${bindAddress}, SMTP on ${ports.smtp}, POP3 on ${ports.pop3}, IMAP on ${ports.imap}`)]
    } catch (error) {
      if (!(error instanceof Failure)) throw error
      // The message is the fact, then what to do about it.
      const [, fact = error.message, advice = 'Correct it in .env'] =
        /^(.*?[^.]\.) ([A-Z].*)$/s.exec(error.message) ?? []
      return [failure(fact, advice)]
    }
  },
}

const engine: Check = {
  name: 'engine',
  title: 'There is an engine to run the server',
  async run(context) {
    const asked = context.settings().engine
    const { engine: chosen, reason } = await context.choice()
    // The reason's first sentence; what to install is nobody's wish here.
    if (chosen) return [ok(`${chosen.name} (${reason.split('. ')[0]})`)]
    // What Docker lacks is the next check's.
    if (asked === 'docker') return [ok('docker (MAIL_SERVER_ENGINE=docker)')]
    return [failure(reason, 'Install Docker: https://docs.docker.com/engine/install/')]
  },
}

const docker: Check = {
  name: 'docker',
  title: 'The Docker engine answers, and Compose v2 is there',
  async run(context) {
    const asked = context.settings().engine
    if (asked === 'native') throw new Skipped('not needed: MAIL_SERVER_ENGINE=native')
    const [{ engine: chosen }, version, compose] = await Promise.all([
      context.choice(),
      $({ timeout: ANSWER })`docker version --format ${'{{.Server.Version}}'}`,
      $({ timeout: ANSWER })`docker compose version --short`,
    ])
    // Where auto has something else to take, Docker is allowed to be missing, though not to hang.
    const isSpare = chosen?.name === 'native'
    const missing = (reason: string, fix: string) => {
      if (isSpare) throw new Skipped(`not needed, the engine is native: ${reason}`)
      return [failure(reason, fix)]
    }
    const restart = context.platform === 'linux' ? 'sudo systemctl restart docker' : 'Restart Docker Desktop'
    // Killed at the end of its time; the code may be null, or a shell's in between.
    const isHung = ({ duration }: { duration: number }) => duration >= ANSWER
    if (isHung(version) || isHung(compose)) {
      const command = isHung(version) ? 'docker version' : 'docker compose version'
      const report = isSpare ? warning : failure
      return [report(`"${command}" gave no answer within ${ANSWER / 1000} s`, restart)]
    }
    if (version.exitCode === 127) {
      return missing('there is no docker command', 'Install Docker: https://docs.docker.com/engine/install/')
    }
    const words = version.stderr.trim().split('\n').at(-1) ?? ''
    if (/permission denied/i.test(words)) {
      return missing(words, 'sudo usermod -aG docker "$USER", then log in again')
    }
    if (version.exitCode !== 0) return missing(words || 'docker version failed', restart)
    if (compose.exitCode !== 0) {
      return missing(`Docker ${version.stdout.trim()} has no Compose v2`, 'sudo apt-get install docker-compose-plugin')
    }
    if (/^v?1\./.test(compose.stdout)) {
      return missing(`Compose ${compose.stdout.trim()} is too old`, 'sudo apt-get install docker-compose-plugin')
    }
    return [ok(`Docker ${version.stdout.trim()}, Compose ${compose.stdout.trim()}`)]
  },
}

const image: Check = {
  name: 'image',
  title: 'The image is here',
  async run(context) {
    await withEngine(context, 'docker')
    const name = String(composeOf(context).service.image)
    const present = await $({ timeout: ANSWER })`docker image inspect --format ${'{{.Id}}'} ${name}`
    if (present.exitCode === 0) return [ok(`${name} ${present.stdout.trim().slice(0, 19)}`)]
    const remote = await $({ timeout: REGISTRY })`docker manifest inspect ${name}`
    if (remote.exitCode === 0) return [warning(`${name} is not here yet`, 'npm start, which pulls it')]
    const reason = remote.duration >= REGISTRY ? 'the registry does not answer' : remote.stderr.trim().split('\n')[0]
    return [failure(`${name} is not here and cannot be pulled: ${reason}`, `docker pull ${name}`)]
  },
}

const packages: Check = {
  name: 'packages',
  title: "Debian's Postfix 3 and Dovecot 2.3 are installed",
  async run(context) {
    await withEngine(context, 'native')
    const { installPackages, missingPackages } = await import('../server/packages.ts')
    const missing = await missingPackages()
    if (missing.length > 0) {
      const install = warning(`not installed: ${missing.join(', ')}`, 'npm start, which installs them')
      const mend = async () => {
        await installPackages()
        return `installed ${missing.join(', ')}`
      }
      return [{ ...install, mend, question: `Install ${missing.join(', ')} by apt?` }]
    }
    const { stdout } = await $({ timeout: ANSWER })`dpkg-query --show postfix dovecot-core`
    return packageFindings(stdout)
  },
}

/** Judges the versions that `dpkg-query --show` prints: name, tab, version with its epoch. */
export function packageFindings(text: string): Finding[] {
  const versionOf = (name: string) =>
    new RegExp(`^${name}\\t(?:\\d+:)?([\\d.]+)`, 'm').exec(text)?.[1] ?? 'of unknown version'
  const [postfix, dovecot] = [versionOf('postfix'), versionOf('dovecot-core')]
  const fix = 'Write MAIL_SERVER_ENGINE=docker into .env'
  const problems: Finding[] = []
  if (!/^3\./.test(postfix)) problems.push(failure(`Postfix ${postfix}: the configuration is for Postfix 3`, fix))
  if (!/^2\.3\./.test(dovecot)) problems.push(failure(`Dovecot ${dovecot}: the configuration is for Dovecot 2.3`, fix))
  return verdict(problems, `Postfix ${postfix}, Dovecot ${dovecot}`)
}

const root: Check = {
  name: 'root',
  title: 'The native engine may become root',
  async run(context) {
    await withEngine(context, 'native')
    if (process.getuid?.() === 0) return [ok('root')]
    const { exitCode } = await $({ timeout: ANSWER })`sudo -n true`
    if (exitCode === 0) return [ok('sudo asks for no password')]
    const fix = 'sudo env PATH="$PATH" npx tsx scripts/doctor.ts'
    return [failure('the native engine needs root, and sudo wants a password', fix)]
  },
}

async function withEngine(context: Context, name: 'docker' | 'native'): Promise<void> {
  const chosen = await context.engine()
  if (chosen.name !== name) throw new Skipped(`not needed, the engine is ${chosen.name}`)
}

export const machineChecks: Check[] = [node, settings, engine, docker, image, packages, root]
