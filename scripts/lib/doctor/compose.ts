/** What docker-compose.yml has to say, as Compose itself understands it, its override file included. To add a rule, add a row. */
import { readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { compose as askCompose } from '../server/docker.ts'
import { CONFIG_DIR, CONTAINER, ROOT } from '../settings.ts'
import { addLine, type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { COMPOSE_FILE, CONFIG, DOCKER, type Facts } from './facts.ts'

/** The parts of `docker compose config --format json` that are looked at. */
type Texts = Partial<Record<'image' | 'container_name' | 'network_mode' | 'stop_grace_period' | 'user', string>>
interface Service extends Texts {
  ports?: { host_ip?: string; target: number; published?: string }[]
  volumes?: { type: string; source?: string; target: string; read_only?: boolean }[]
  environment?: Record<string, string | null>
  networks?: Record<string, unknown>
  tmpfs?: string | string[]
  cap_drop?: string[]
  cap_add?: string[]
  read_only?: boolean
  deploy?: { replicas?: number }
  entrypoint?: unknown
  command?: unknown
}
interface Project {
  services?: Record<string, Service>
  volumes?: Record<string, { driver_opts?: { o?: string } } | null>
  networks?: Record<string, { internal?: boolean } | null>
}

const PORTS = [25, 587, 465, 110, 995, 143, 993]
/** Seconds of a clean stop; what goes beyond the grace period is killed. */
const CLEAN_STOP = 16

/** What is wrong, in words, and what is a warning; nothing where all is right. */
function wrongsOf(service: Service, { volumes = {}, networks = {} }: Project, facts: Facts) {
  const { image = '', container_name: name, network_mode, ports = [], stop_grace_period: period = '10s' } = service
  const mountOf = (path: string) => service.volumes?.find(({ target }) => target.replace(/\/$/, '') === path)
  const [config, mail, state] = ['/tmp/docker-mailserver', '/var/mail', '/var/mail-state'].map(mountOf)
  const inMemory = [service.tmpfs ?? []].flat().some((path) => /^\/var\/mail\/?(:|$)/.test(path))
  const isBind = state?.type === 'bind' || /\bbind\b/.test(volumes[state?.source ?? '']?.driver_opts?.o ?? '')
  const isDesktop = /^(win32|darwin)$/.test(process.platform)
  const own = Object.keys(service.networks ?? {})
  // What BIND_ADDRESS opens is judged by "settings".
  const isOpen = ({ host_ip: address = '' }) =>
    !/^(127(\.\d+){3}|::1)$/.test(address) && (address === '' || address !== process.env.BIND_ADDRESS)
  const open = ports.find(isOpen)
  const missing = PORTS.find((port) => !ports.some(({ target }) => target === port))
  const tag = /:([^/@]+)(?:@.*)?$/.exec(image)?.[1] ?? 'latest'
  const isOurs = /docker-mailserver/.test(image)
  const environment = facts.environment()
  const other = Object.entries(service.environment ?? {}).find(
    ([key, value]) => key in environment && value !== environment[key],
  )
  // biome-ignore format: one rule a line
  return {
    failures: [
      network_mode === 'host' && 'network_mode: host listens on every address of this machine',
      network_mode === 'none' && 'network_mode: none publishes no port',
      own.length > 0 && own.every((network) => networks[network]?.internal) && `the network ${own.join(', ')} is internal, and no port of it is published`,
      open && `port ${open.target} is published on ${open.host_ip || 'every address'}${open.published ? ` (${open.published})` : ''}`,
      network_mode !== 'host' && missing && `port ${missing} is not published`,
      isBind && isDesktop && `/var/mail-state is a bind mount of ${state?.source}; Unix sockets cannot be made on those of Docker Desktop, and Dovecot does not start`,
      (inMemory || mail?.type === 'tmpfs') && '/var/mail is in memory (tmpfs), and all mail goes with a stop',
      !config && 'nothing is mounted at /tmp/docker-mailserver/',
      config && resolve(ROOT, config.source ?? '') !== CONFIG_DIR && `${config.source} is mounted at /tmp/docker-mailserver/, not ${CONFIG}`,
      config?.read_only && 'the configuration is mounted read-only, and docker-mailserver writes there',
      !isOurs && `${image} is not docker-mailserver`,
      isOurs && !/^v?\d+\.\d+\.\d+$/.test(tag) && `the image's tag ${tag} is another release each time`,
      /^v?16\.0\.0$/.test(tag) && environment.ENABLE_QUOTAS !== '0' && '16.0.0 with ENABLE_QUOTAS=1 refuses aliases and the catchall (554 5.7.1)',
      name !== undefined && name !== CONTAINER && `the container is called ${name}, and the scripts look for ${CONTAINER}`,
      service.user !== undefined && !/^(0|root)(:|$)/.test(service.user) && `the container runs as user ${service.user}, and docker-mailserver needs root`,
      !service.cap_add?.length && service.cap_drop?.some((name) => /^all$/i.test(name)) && 'cap_drop takes ALL rights of root away, and Postfix and Dovecot do not start without them',
      service.read_only && 'the container is read-only, and docker-mailserver writes its settings there',
      service.deploy?.replicas === 0 && 'deploy.replicas is 0, and no container is made',
      Boolean(service.entrypoint || service.command) && 'another program than docker-mailserver runs in the container (entrypoint or command)',
    ],
    warnings: [
      isBind && !isDesktop && `/var/mail-state is a bind mount of ${state?.source}; it fails with Docker Desktop`,
      !mail && !inMemory && '/var/mail is on no volume, and all mail goes with the container',
      !/[hm]/.test(period) && Number.parseFloat(period) <= CLEAN_STOP && `stop_grace_period is ${period}${service.stop_grace_period ? '' : ', by default'}; a clean stop takes ${CLEAN_STOP} s, and then Docker kills`,
      other && `${other[0]}=${other[1]} stands in the Compose files, and development-mail-server.env has ${environment[other[0]]}`,
    ],
  }
}

/** What Compose says to the project's files. */
const configOf = (facts: Facts) => facts.once('compose', () => askCompose(['config', '--format', 'json'], DOCKER))

/** The image and the published ports of the container that Compose would make now; undefined where it cannot be asked. */
export async function wantedOf(facts: Facts): Promise<string[] | undefined> {
  const { stdout } = await configOf(facts)
  const project: Project = stdout.startsWith('{') ? JSON.parse(stdout) : {}
  const { image = '', ports = [] } = project.services?.[CONTAINER] ?? {}
  const places = ports.map(({ host_ip = '', published = '', target }) => `${host_ip}:${published}->${target}`)
  return image ? [image, ...places].sort() : undefined
}

export async function compose(facts: Facts): Promise<Finding[]> {
  facts.needs(COMPOSE_FILE)
  const { engine, reason } = await facts.choice()
  if (engine?.name === 'native' && (await facts.isRunning().catch(() => false)))
    throw new Skipped('not needed, the server runs natively')
  if (/silent for/.test(reason)) throw new Skipped('Docker does not answer, see "engine"')
  const asked = await configOf(facts)
  if (asked.exitCode === null) throw new Skipped('docker compose does not answer, see "engine"')
  if (/unknown (docker )?(command|shorthand flag|flag)|is not a docker command|not found/.test(asked.stderr))
    throw new Skipped('not asked: Docker Compose is not here')
  // What is wrong by an override file, the checked-in one does not heal.
  const override = readdirSync(ROOT).find((name) => /compose\.override\.ya?ml$/.test(name))
  const fix = override ? undefined : `git checkout -- ${COMPOSE_FILE}`
  const who = override ? `${COMPOSE_FILE} with ${override}` : COMPOSE_FILE
  if (asked.exitCode !== 0) return [failure(`${who}: ${asked.stderr.trim().split('\n').at(-1)}`, fix)]
  if (!asked.stdout.startsWith('{')) throw new Skipped('not asked: this Docker Compose says something else')
  const project: Project = JSON.parse(asked.stdout)
  const all = Object.values(project.services ?? {})
  const service = project.services?.[CONTAINER] ?? all.find(({ image = '' }) => image.includes('docker-mailserver'))
  if (!service) return [failure(`${who} has no service ${CONTAINER}`, fix)]
  const { failures, warnings } = wrongsOf(service, project, facts)
  const { dmsVersion } = facts.settings()
  // The release comes from .env; what an override file says is not in the checked-in one.
  const isByEnv = service.image?.endsWith(`:${dmsVersion}`) && !process.env.DMS_VERSION
  const tell = (find: typeof failure) => (wrong: unknown) => {
    const isRelease = isByEnv && `${wrong}`.includes(dmsVersion)
    return wrong
      ? [
          find(
            `Compose${override ? `, with ${override}` : ''}: ${wrong}`,
            isRelease && addLine('.env', 'DMS_VERSION=15.1.0'),
          ),
        ]
      : []
  }
  const problems = [...failures.flatMap(tell(failure)), ...warnings.flatMap(tell(warning))]
  return verdict(problems, `image ${service.image}, ${service.ports?.length} ports`)
}
