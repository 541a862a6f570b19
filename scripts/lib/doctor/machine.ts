/** What this machine has to have: Node, an engine, Docker or Debian's packages. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Failure } from '../cli.ts'
import { ROOT, readSettings, setting } from '../settings.ts'
import { type Check, type Finding, failure, ok, Skipped, warning } from './check.ts'
import { DOCKER, type Facts } from './facts.ts'
import { program } from './program.ts'

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
  return [failure(`Node ${version}, and package.json wants ${wanted}: https://nodejs.org/`)]
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
      return [failure(error.message, undefined, { explains: ['compose', 'engine'] })]
    }
  },
}

const engine: Check = {
  name: 'engine',
  title: 'There is an engine to run the server',
  async run(facts) {
    const { engine: chosen, reason } = await facts.choice()
    if (chosen) return [ok(`${chosen.name} (${reason.split('. ')[0]})`)]
    // What Docker lacks is the next check's.
    if (facts.settings().engine === 'docker') return [ok('docker (MAIL_SERVER_ENGINE=docker)')]
    return [failure(reason)]
  },
}

const docker: Check = {
  name: 'docker',
  title: 'The Docker engine answers, and Compose v2 is there',
  async run(facts) {
    if (facts.settings().engine === 'native') throw new Skipped('not needed: MAIL_SERVER_ENGINE=native')
    const ask = (...args: string[]) => program(['docker', ...args], { timeout: DOCKER })
    const [{ engine: chosen }, version, compose] = await Promise.all([
      facts.choice(),
      ask('version', '--format', '{{.Server.Version}}'),
      ask('compose', 'version', '--short'),
    ])
    // Where auto has something else to take, Docker is allowed to be missing, though not to hang.
    const isSpare = chosen?.name === 'native'
    const missing = (reason: string, fix?: string) => {
      if (isSpare) throw new Skipped(`not needed, the engine is native: ${reason}`)
      return [failure(reason, fix, { explains: ['image'] })]
    }
    const hung = [version, compose].find(({ exitCode }) => exitCode === null)
    if (hung)
      return [
        (isSpare ? warning : failure)(
          `"docker ${hung === version ? 'version' : 'compose version'}" gave no answer within ${DOCKER / 1000} s; is the engine wedged? Restart it`,
        ),
      ]
    if (version.exitCode === 127) return missing('there is no docker command: https://docs.docker.com/engine/install/')
    const words = version.stderr.trim().split('\n').at(-1) ?? ''
    if (/permission denied/i.test(words))
      return missing(`${words}; log in again after the fix`, 'sudo usermod -aG docker "$USER"')
    if (version.exitCode !== 0) return missing(words || 'docker version failed')
    if (compose.exitCode !== 0 || /^v?1\./.test(compose.stdout)) {
      return missing(
        `Docker ${version.stdout.trim()} has no Compose v2`,
        facts.platform === 'linux' ? 'sudo apt-get install docker-compose-plugin' : undefined,
      )
    }
    return [ok(`Docker ${version.stdout.trim()}, Compose ${compose.stdout.trim()}`)]
  },
}

const image: Check = {
  name: 'image',
  title: 'The image is here',
  async run(facts) {
    await withEngine(facts, 'docker')
    const name = `mailserver/docker-mailserver:${facts.settings().dmsVersion}`
    const present = await program(['docker', 'image', 'inspect', '--format', '{{.Id}}', name])
    if (present.exitCode === 0) return [ok(`${name} ${present.stdout.trim().slice(0, 19)}`)]
    const remote = await program(['docker', 'manifest', 'inspect', name], { timeout: DOCKER })
    if (remote.exitCode === 0) return [warning(`${name} is not here yet; npm start pulls it`, `docker pull ${name}`)]
    const reason = remote.exitCode === null ? 'the registry does not answer' : remote.stderr.trim().split('\n')[0]
    const wrong = setting('DMS_VERSION') && !process.env.DMS_VERSION ? 'Write into .env: DMS_VERSION=15.1.0' : undefined
    return [
      failure(
        `${name} is not here and cannot be pulled: ${reason}`,
        /no such manifest|not found|unknown/.test(reason ?? '') ? wrong : undefined,
      ),
    ]
  },
}

const packages: Check = {
  name: 'packages',
  title: "Debian's Postfix and Dovecot are installed",
  async run(facts) {
    await withEngine(facts, 'native')
    if (await facts.isRunning().catch(() => false)) return [ok('the server runs')]
    const { installPackages, missingPackages } = await import('../server/packages.ts')
    const missing = await missingPackages()
    if (missing.length > 0) {
      const mend = async () => {
        await installPackages()
        return `installed ${missing.join(', ')}`
      }
      const fix = 'npm run doctor -- --fix'
      return [
        warning(`not installed: ${missing.join(', ')}; npm start installs them`, fix, {
          mend,
          question: `Install ${missing.join(', ')} by apt?`,
        }),
      ]
    }
    return [ok('Postfix and Dovecot')]
  },
}

const root: Check = {
  name: 'root',
  title: 'The native engine may become root',
  async run(facts) {
    await withEngine(facts, 'native')
    if (process.getuid?.() === 0) return [ok('root')]
    const { exitCode } = await program(['sudo', '-n', 'true'])
    if (exitCode === 0) return [ok('sudo asks for no password')]
    if (exitCode === 127) return [failure('the native engine needs root, and there is no sudo: run this as root')]
    return [
      failure(
        'the native engine needs root, and sudo wants a password',
        'sudo env PATH="$PATH" npx tsx scripts/doctor.ts',
      ),
    ]
  },
}

async function withEngine(facts: Facts, name: 'docker' | 'native'): Promise<void> {
  const chosen = await facts.engine()
  if (chosen.name !== name) throw new Skipped(`not needed, the engine is ${chosen.name}`)
}

export const machineChecks: Check[] = [node, settings, engine, docker, image, packages, root]
