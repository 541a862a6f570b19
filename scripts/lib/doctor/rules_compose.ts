/** What docker-compose.yml has to say, as Compose itself understands it, its override file included. To add a rule, add a row. */
import { resolve } from 'node:path'
import { CONFIG_DIR, CONTAINER, ROOT } from '../settings.ts'
import { type Check, type Finding, failure, type Level, Skipped, verdict } from './check.ts'
import { COMPOSE_FILE, CONFIG, DOCKER, type Facts } from './facts.ts'
import { addLine, restore } from './fixes.ts'
import { program } from './program.ts'

interface Port {
  host_ip?: string
  target: number
  published?: string
}
interface Mount {
  type: string
  source?: string
  target: string
  read_only?: boolean
}
/** The parts of `docker compose config --format json` that are looked at. */
interface Service {
  image?: string
  container_name?: string
  network_mode?: string
  ports?: Port[]
  volumes?: Mount[]
  stop_grace_period?: string
  environment?: Record<string, string | null>
  entrypoint?: unknown
  command?: unknown
}
interface Project {
  services?: Record<string, Service>
  volumes?: Record<string, { driver_opts?: { o?: string } } | null>
}

interface Row {
  /** What is wrong, in words; nothing where all is right. */
  wrong(service: Service, project: Project, facts: Facts): string | false | undefined
  level?: Level
}

const PORTS = [25, 587, 465, 110, 995, 143, 993]
/** Seconds of a clean stop; what goes beyond the grace period is killed. */
const CLEAN_STOP = 16

const mountOf = (service: Service, path: string) =>
  service.volumes?.find(({ target }) => target.replace(/\/$/, '') === path)
const isDesktop = ({ platform }: Facts) => platform === 'win32' || platform === 'darwin'
const stateBind = (service: Service, { volumes = {} }: Project) => {
  const mount = mountOf(service, '/var/mail-state')
  return mount && (mount.type === 'bind' || /\bbind\b/.test(volumes[mount.source ?? '']?.driver_opts?.o ?? ''))
    ? mount.source
    : undefined
}
const tagOf = ({ image = '' }: Service) => /:([^/@]+)(?:@.*)?$/.exec(image)?.[1] ?? 'latest'

// biome-ignore format: one rule a line
const ROWS: Row[] = [
  { wrong: ({ network_mode }) => network_mode === 'host' && 'network_mode: host listens on every address of this machine' },
  { wrong: ({ ports = [] }) => openPort(ports) && `port ${openPort(ports)?.target} is published on ${openPort(ports)?.host_ip || 'every address'}${published(openPort(ports))}` },
  { wrong: ({ ports = [], network_mode }) => network_mode !== 'host' && missing(ports) !== undefined && `port ${missing(ports)} is not published` },
  { wrong: (service, project, facts) => isDesktop(facts) && stateBind(service, project) && `/var/mail-state is a bind mount of ${stateBind(service, project)}; Unix sockets cannot be made on those of Docker Desktop, and Dovecot does not start` },
  { wrong: (service, project, facts) => !isDesktop(facts) && stateBind(service, project) && `/var/mail-state is a bind mount of ${stateBind(service, project)}; it fails with Docker Desktop`, level: 'warning' },
  { wrong: (service) => !mountOf(service, '/tmp/docker-mailserver') && 'nothing is mounted at /tmp/docker-mailserver/' },
  { wrong: (service) => { const { source = CONFIG_DIR } = mountOf(service, '/tmp/docker-mailserver') ?? {}; return resolve(ROOT, source) !== CONFIG_DIR && `${source} is mounted at /tmp/docker-mailserver/, not ${CONFIG}` } },
  { wrong: (service) => mountOf(service, '/tmp/docker-mailserver')?.read_only && 'the configuration is mounted read-only, and docker-mailserver writes there' },
  { wrong: (service) => !mountOf(service, '/var/mail') && '/var/mail is on no volume, and all mail goes with the container', level: 'warning' },
  { wrong: ({ stop_grace_period: period }) => secondsOf(period ?? '10s') <= CLEAN_STOP && `stop_grace_period is ${period ?? '10s, by default'}; a clean stop takes ${CLEAN_STOP} s, and then Docker kills`, level: 'warning' },
  { wrong: (service) => !/docker-mailserver/.test(service.image ?? '') && `${service.image} is not docker-mailserver` },
  { wrong: (service) => /docker-mailserver/.test(service.image ?? '') && !/^v?\d+\.\d+\.\d+$/.test(tagOf(service)) && `the image's tag ${tagOf(service)} is another release each time` },
  { wrong: (service, _, facts) => tagOf(service).replace(/^v/, '') === '16.0.0' && facts.environment().ENABLE_QUOTAS !== '0' && '16.0.0 with ENABLE_QUOTAS=1 refuses aliases and the catchall (554 5.7.1)' },
  { wrong: ({ container_name: name }) => name !== undefined && name !== CONTAINER && `the container is called ${name}, and the scripts look for ${CONTAINER}` },
  { wrong: ({ entrypoint, command }) => Boolean(entrypoint || command) && 'another program than docker-mailserver runs in the container (entrypoint or command)' },
  { wrong: ({ environment }, _, facts) => { const own = facts.environment(); const name = Object.keys(environment ?? {}).find((key) => key in own && environment?.[key] !== own[key]); return name && `${name}=${environment?.[name]} stands in the Compose files, and development-mail-server.env has ${own[name]}` }, level: 'warning' },
]

function openPort(ports: Port[]): Port | undefined {
  // What BIND_ADDRESS opens is judged by "environment-trust".
  return ports.find(
    ({ host_ip: address = '' }) =>
      !/^(127(\.\d+){3}|::1)$/.test(address) && (address === '' || address !== process.env.BIND_ADDRESS),
  )
}

const published = (port?: Port) => (port?.published ? ` (${port.published})` : '')

function missing(ports: Port[]): number | undefined {
  return PORTS.find((port) => !ports.some(({ target }) => target === port))
}

/** A duration of Compose in seconds: `1m0s`. */
function secondsOf(text: string): number {
  const units: Record<string, number> = { h: 3_600, m: 60, s: 1, ms: 1e-3, us: 1e-6, ns: 1e-9 }
  return [...text.matchAll(/(\d+(?:\.\d+)?)(ns|us|ms|[smh])/g)].reduce(
    (sum, [, count = '', unit = '']) => sum + Number(count) * (units[unit] ?? 0),
    0,
  )
}

const compose: Check = {
  name: 'compose',
  title: 'Compose publishes the ports on loopback alone, and keeps mail and state on volumes',
  async run(facts) {
    if (facts.problem(COMPOSE_FILE)) throw new Skipped(`${COMPOSE_FILE} cannot be read, see "files"`)
    if (
      (await facts.engine().catch(() => undefined))?.name === 'native' &&
      (await facts.isRunning().catch(() => false))
    )
      throw new Skipped('not needed, the server runs natively')
    if (/silent for/.test((await facts.choice()).reason)) throw new Skipped('Docker does not answer, see "docker"')
    // The caller may have another project's file in mind.
    const { COMPOSE_FILE: _, ...env } = process.env
    const asked = await program(['docker', 'compose', '--project-directory', ROOT, 'config', '--format', 'json'], {
      env,
      timeout: DOCKER,
    })
    if (asked.exitCode === null) throw new Skipped('docker compose does not answer, see "docker"')
    const said = asked.stderr.trim().split('\n').at(-1) ?? ''
    if (
      asked.exitCode === 127 ||
      /unknown (docker )?(command|shorthand flag|flag)|is not a docker command|not found/.test(said)
    )
      throw new Skipped('not asked: Docker Compose is not here')
    const explains = ['image', 'start']
    if (asked.exitCode !== 0) return [failure(`${COMPOSE_FILE}: ${said}`, restore(COMPOSE_FILE), { explains })]
    if (!asked.stdout.startsWith('{')) throw new Skipped('not asked: this Docker Compose says something else')
    const project = JSON.parse(asked.stdout) as Project
    const service =
      project.services?.[CONTAINER] ??
      Object.values(project.services ?? {}).find(({ image }) => /docker-mailserver/.test(image ?? ''))
    if (!service) return [failure(`${COMPOSE_FILE} has no service ${CONTAINER}`, restore(COMPOSE_FILE), { explains })]
    const problems = ROWS.flatMap((row): Finding[] => {
      const wrong = row.wrong(service, project, facts)
      // What an override file says is not in the checked-in one.
      const isByEnv =
        wrong &&
        tagOf(service) === facts.settings().dmsVersion &&
        wrong.includes(tagOf(service)) &&
        !process.env.DMS_VERSION
      return wrong
        ? [
            {
              level: row.level ?? 'failure',
              evidence: `Compose: ${wrong}`,
              fix: isByEnv ? addLine('.env', 'DMS_VERSION=15.1.0') : undefined,
            },
          ]
        : []
    })
    return verdict(problems, `image ${service.image}, ${service.ports?.length} ports`)
  },
}

export const composeChecks: Check[] = [compose]
