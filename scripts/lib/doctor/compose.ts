/** `docker-compose.yml`: what it publishes, where it keeps its state, how long it may take to stop. */
import { resolve } from 'node:path'
import { parse } from 'yaml'
import { CONFIG_DIR, CONTAINER, ROOT } from '../settings.ts'
import {
  type Check,
  COMPOSE_FILE,
  CONFIG,
  type Context,
  type Finding,
  failure,
  Skipped,
  verdict,
  warning,
} from './check.ts'
import { environmentOf } from './files.ts'

/** A clean stop of docker-mailserver, in seconds; what goes beyond the grace period is killed. */
const CLEAN_STOP = 16
/** Docker's grace period where the file says nothing, in seconds. */
const DEFAULT_GRACE = 10

/** The parts of a Compose file that are looked at. Whatever a user wrote there may be of any type. */
interface Service {
  image?: unknown
  container_name?: unknown
  ports?: unknown
  volumes?: unknown
  stop_grace_period?: unknown
  network_mode?: unknown
}

interface Compose {
  service: Service
  /** The named volumes that are bind mounts in disguise. */
  binds: Set<string>
}

/** The server's service with its variables filled in. Throws `Skipped` where the file cannot be used. */
export function composeOf(context: Context): Compose {
  const { service, problem } = readCompose(context)
  if (!service) throw new Skipped(`${problem}, see "compose-file"`)
  return service
}

function readCompose({ files, setting }: Context): { service?: Compose; problem?: string } {
  const text = files.read(COMPOSE_FILE)
  if (text === undefined) return { problem: `${COMPOSE_FILE} is not there` }
  let document: unknown
  try {
    document = fill(parse(text), setting)
  } catch (error) {
    return { problem: `${COMPOSE_FILE}: ${(error as Error).message.split('\n')[0]}` }
  }
  const { services, volumes } = asObject(document)
  const all = Object.entries(asObject(services))
  const isServer = ([name, service]: [string, unknown]) =>
    name === CONTAINER || /docker-mailserver/.test(String(asObject(service).image))
  const found = all.find(isServer)?.[1]
  if (!found) return { problem: `${COMPOSE_FILE} has no service ${CONTAINER}` }
  const binds = Object.entries(asObject(volumes)).filter(([, volume]) =>
    /\bbind\b/.test(String(asObject(asObject(volume).driver_opts).o)),
  )
  return { service: { service: asObject(found), binds: new Set(binds.map(([name]) => name)) } }
}

/** Fills variables into all texts, by Compose's rules: `$X`, `${X}`, `${X:-default}`, `${X-default}`, `$$`. */
function fill(value: unknown, setting: (name: string) => string | undefined): unknown {
  if (typeof value === 'string') {
    return value.replace(/\$(?:\$|(\w+)|\{(\w+)(?::?-([^}]*)|:?[?+][^}]*)?\})/g, (all, plain, braced, otherwise) =>
      all === '$$' ? '$' : (setting(plain ?? braced) ?? otherwise ?? ''),
    )
  }
  if (Array.isArray(value)) return value.map((item) => fill(item, setting))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, fill(item, setting)]))
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}

function asList(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

/** A published port: the address it listens on (empty: all) and the container's port. */
function portOf(entry: unknown): { address: string; target: string; text: string } {
  if (typeof entry === 'object') {
    const { host_ip = '', target } = asObject(entry)
    return { address: String(host_ip), target: String(target), text: JSON.stringify(entry) }
  }
  const text = String(entry)
  const parts = /^(?:(\[[^\]]*\]|[^:]*):)?(?:([\w-]*):)?([\d-]+)(?:\/\w+)?$/.exec(text)
  // Of two parts the first is the port on this machine, not an address.
  const address = parts?.[2] === undefined ? '' : (parts[1] ?? '')
  return { address, target: parts?.[3] ?? text, text }
}

/** A mount: what is mounted (a path for a bind mount), where. */
function mountOf(entry: unknown, binds: Set<string>): { source: string; target: string; isBind: boolean } {
  if (typeof entry === 'object') {
    const { type, source = '', target = '' } = asObject(entry)
    return { source: String(source), target: String(target), isBind: type === 'bind' || binds.has(String(source)) }
  }
  const [, source = '', target = ''] = /^((?:[A-Za-z]:[\\/])?[^:]*):([^:]*)/.exec(String(entry)) ?? []
  return { source, target, isBind: /^([./~]|[A-Za-z]:)/.test(source) || binds.has(source) }
}

const file: Check = {
  name: 'compose-file',
  title: 'docker-compose.yml can be read and has the server',
  run(context) {
    const { problem, service } = readCompose(context)
    if (problem) return [failure(problem, `git diff ${COMPOSE_FILE}, then: git checkout -- ${COMPOSE_FILE}`)]
    return verdict([], `image ${service?.service.image}`)
  },
}

const ports: Check = {
  name: 'compose-ports',
  title: 'Ports are published on loopback alone',
  run(context) {
    const { service } = composeOf(context)
    if (service.network_mode === 'host') {
      const fix = `Delete network_mode from ${COMPOSE_FILE}`
      return [failure(`${COMPOSE_FILE}: network_mode: host listens on every address of this machine`, fix)]
    }
    const problems: Finding[] = []
    const published = asList(service.ports).map(portOf)
    for (const { address, target, text } of published) {
      if (/^(127(\.\d+){3}|localhost|\[?::1\]?)$/.test(address)) continue
      // What BIND_ADDRESS opens is judged by "env-trust".
      if (address !== '' && address === context.setting('BIND_ADDRESS')) continue
      const host = text.replace(/^.*?(\d+):(\d+)(\/\w+)?$/, '$1')
      const line = `"\${BIND_ADDRESS:-127.0.0.1}:${/^\d+$/.test(host) ? host : target}:${target}"`
      const evidence = `${COMPOSE_FILE}: ${text} publishes port ${target} on ${address || 'every address'}`
      problems.push(failure(evidence, `Write into ${COMPOSE_FILE}: - ${line}`))
    }
    return verdict(problems, `${published.length} ports`)
  },
}

const state: Check = {
  name: 'compose-state',
  title: 'The state of the server lies on a named volume',
  run(context) {
    const { service, binds } = composeOf(context)
    const mounts = asList(service.volumes).map((entry) => mountOf(entry, binds))
    const mount = mounts.find(({ target, isBind }) => isBind && /^\/var\/mail-state\/?$/.test(target))
    if (!mount) return verdict([], 'no bind mount of /var/mail-state')
    const fix = `Write into ${COMPOSE_FILE}: - mail-state:/var/mail-state/`
    const isDesktop = context.platform === 'win32' || context.platform === 'darwin'
    const evidence = `${COMPOSE_FILE}: /var/mail-state is a bind mount of ${mount.source}`
    if (!isDesktop) return [warning(`${evidence}; it fails with Docker Desktop`, fix)]
    return [
      failure(`${evidence}; Unix sockets cannot be made on those of Docker Desktop, so Dovecot does not start`, fix),
    ]
  },
}

const stop: Check = {
  name: 'compose-stop',
  title: 'The server may take its time to stop',
  run(context) {
    const { stop_grace_period: period } = composeOf(context).service
    const seconds = period === undefined ? DEFAULT_GRACE : durationOf(String(period))
    if (seconds > CLEAN_STOP) return verdict([], `stop_grace_period: ${period}`)
    const is =
      period === undefined ? `no stop_grace_period, which is ${DEFAULT_GRACE}s` : `stop_grace_period: ${period}`
    const evidence = `${COMPOSE_FILE}: ${is}; a clean stop takes ${CLEAN_STOP} s, and then Docker kills`
    return [warning(evidence, `Write into ${COMPOSE_FILE}: stop_grace_period: 60s`)]
  },
}

const configuration: Check = {
  name: 'compose-config',
  title: 'The configuration folder is mounted',
  run(context) {
    const { service, binds } = composeOf(context)
    const mount = asList(service.volumes)
      .map((entry) => mountOf(entry, binds))
      .find(({ target }) => /^\/tmp\/docker-mailserver\/?$/.test(target))
    const fix = `Write into ${COMPOSE_FILE}: - ./${CONFIG}/:/tmp/docker-mailserver/`
    if (!mount) return [failure(`${COMPOSE_FILE}: nothing is mounted at /tmp/docker-mailserver/`, fix)]
    if (resolve(ROOT, mount.source) !== CONFIG_DIR) {
      return [failure(`${COMPOSE_FILE}: ${mount.source} is mounted at /tmp/docker-mailserver/, not ${CONFIG}`, fix)]
    }
    return verdict([], CONFIG)
  },
}

const image: Check = {
  name: 'image-version',
  title: 'The image is pinned to a release that reads this configuration',
  run(context) {
    const name = String(composeOf(context).service.image)
    const tag = /:([^/@]+)(?:@.*)?$/.exec(name)?.[1] ?? 'latest'
    const fix = 'Write DMS_VERSION=15.1.0 into .env'
    const version = /^v?(\d+)\.?(\d+)?\.?(\d+)?$/.exec(tag)
    if (!version) return [failure(`${name}: "${tag}" is another release each time; 16 cannot read dovecot.cf`, fix)]
    const major = Number(version[1])
    const problems: Finding[] = []
    const dovecot = context.files.read(`${CONFIG}/dovecot.cf`) ?? ''
    const isOldSyntax =
      !/^\s*dovecot_config_version\s*=/m.test(dovecot) && /^\s*[\w-]+\s*[={]|^\s*\w+ +\w+ *\{/m.test(dovecot)
    if (major >= 16 && isOldSyntax) {
      problems.push(failure(`${name} has Dovecot 2.4, which cannot read dovecot.cf (2.3): Dovecot does not start`, fix))
    }
    if (tag.replace(/^v/, '') === '16.0.0' && environmentOf(context.files).ENABLE_QUOTAS !== '0') {
      const quotas = `${name} with ENABLE_QUOTAS=1 refuses aliases and the catchall (554 5.7.1)`
      problems.push(failure(quotas, `${fix}, or ENABLE_QUOTAS=0 into development-mail-server.env`))
    }
    return verdict(problems, name)
  },
}

/** A duration of Compose in seconds: `60s`, `1m30s`; NaN where it is none. */
function durationOf(text: string): number {
  const units: Record<string, number> = { us: 1e-6, ms: 1e-3, s: 1, m: 60, h: 3_600 }
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(us|ms|[smh])/g)]
  if (parts.map(([part]) => part).join('') !== text || text === '') return Number.NaN
  return parts.reduce((sum, [, count = '', unit = '']) => sum + Number(count) * (units[unit] ?? 0), 0)
}

export const composeChecks: Check[] = [file, ports, state, stop, configuration, image]
