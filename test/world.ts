/**
 * A world of the tests' own: a network namespace for the server and one for the trap (trap.ts), joined by two cables.
 * "dns" leads to the trap's DNS server, which the server's resolv.conf names. "world" is the default route of the
 * server, and whatever it sends there, to whatever address, the trap answers.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { FOLDER, programOf } from './harness.ts'
import type { Counts } from './trap.ts'

/** Where `ip netns exec` looks for what to put over /etc. */
const NAMESPACE_FILES = '/etc/netns'
/** Milliseconds that the trap has for an answer, its start included. */
const PATIENCE = 60_000

/** Both ends of both cables, from networks that are documentation's own (RFC 5737, RFC 3849). */
const DNS = { server: '192.0.2.1', trap: '192.0.2.2' }
const IPV4 = { server: '198.51.100.1', trap: '198.51.100.2' }
const IPV6 = { server: '2001:db8::1', trap: '2001:db8::2' }
/**
 * The same address on both ends, and no ARP: then nobody has to ask for the other's. Without multicast and addresses of
 * the kernel's own making, nothing is on the cable but what a program sends.
 */
const MAC = '02:00:00:00:00:01'
const QUIET = 'arp off multicast off addrgenmode none up'

/** Whether the kernel of this machine has IPv6; the trap is without where it has not. */
export const HAS_IPV6 = existsSync('/proc/net/if_inet6')

let count = 0

/** What this machine does not allow of all this, in a sentence; undefined where nothing is in the way. */
export function obstacle(): string | undefined {
  const name = nextName()
  try {
    ip('netns', 'add', name)
    configure(name, 'link add probe type veth peer name probed')
    ip('netns', 'exec', name, 'true')
    return undefined
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string }
    return `no network namespaces here: ${(stderr || message).trim()}`
  } finally {
    remove(name)
  }
}

export class World {
  readonly #server = nextName()
  readonly #trap = nextName()
  #program: ChildProcess | undefined
  #lines: Interface | undefined
  #counts: Counts = { packets: 0, dnsPackets: 0, questions: [], connections: {}, messages: [] }

  /** Makes namespaces and cables and starts the trap. */
  static async create(): Promise<World> {
    const world = new World()
    try {
      world.#connect()
      await world.#startTrap()
      return world
    } catch (error) {
      await world.remove()
      throw error
    }
  }

  /** Runs a program beside the server: put in front of its command line. */
  get runner(): string[] {
    return ['ip', 'netns', 'exec', this.#server]
  }

  /** What has reached the trap since this was last asked. */
  async news(): Promise<Counts> {
    const before = this.#counts
    this.#program?.stdin?.write('\n')
    const now: Counts = JSON.parse(await this.#line())
    this.#counts = now
    const connections = Object.entries(now.connections)
    return {
      packets: now.packets - before.packets,
      dnsPackets: now.dnsPackets - before.dnsPackets,
      questions: now.questions.slice(before.questions.length),
      connections: Object.fromEntries(
        connections.map(([port, count]) => [port, count - (before.connections[Number(port)] ?? 0)]),
      ),
      messages: now.messages.slice(before.messages.length),
    }
  }

  /** Ends the trap and removes everything. */
  async remove(): Promise<void> {
    if (this.#program?.kill('SIGKILL')) await once(this.#program, 'close')
    for (const name of [this.#server, this.#trap]) remove(name)
  }

  #connect(): void {
    const [server, trap] = [this.#server, this.#trap]
    const folder = join(NAMESPACE_FILES, server)
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, 'resolv.conf'), `nameserver ${DNS.trap}\noptions timeout:2 attempts:1\n`)
    // Knows nobody: whoever wants to know the name of a client, or the address of this machine, has to ask the DNS.
    writeFileSync(join(folder, 'hosts'), '')
    for (const name of [server, trap]) ip('netns', 'add', name)
    const cable = (name: string) =>
      `link add ${name} address ${MAC} type veth peer name ${name} address ${MAC} netns ${trap}`
    const up = ['link set lo up', `link set dns ${QUIET}`, `link set world ${QUIET}`]
    configure(
      server,
      ...[cable('dns'), cable('world'), ...up],
      ...[`addr add ${DNS.server} dev dns`, `addr add ${IPV4.server} dev world`],
      ...[`route add ${DNS.trap} dev dns src ${DNS.server}`, `route add default dev world src ${IPV4.server}`],
      ...(HAS_IPV6 ? [`addr add ${IPV6.server} dev world nodad`, 'route add ::/0 dev world'] : []),
    )
    // Table local is asked first: the server's addresses lie behind the cables, all others are the trap's own.
    configure(
      trap,
      ...up,
      ...[`addr add ${DNS.trap} dev dns`, `addr add ${IPV4.trap} dev world`],
      ...[`route add ${DNS.server} dev dns table local`, `route add ${IPV4.server} dev world table local`],
      'route add local 0.0.0.0/0 dev lo table local',
      ...(HAS_IPV6 ? [`addr add ${IPV6.trap} dev world nodad`, `route add ${IPV6.server} dev world table local`] : []),
      ...(HAS_IPV6 ? ['route add local ::/0 dev lo table local'] : []),
    )
  }

  async #startTrap(): Promise<void> {
    const trap = [process.execPath, ...programOf('test/trap'), DNS.trap, HAS_IPV6 ? '::' : '0.0.0.0']
    this.#program = spawn('ip', ['netns', 'exec', this.#trap, ...trap], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#program.stdin?.on('error', () => {})
    this.#lines = createInterface({ input: this.#program.stdout as NodeJS.ReadableStream })
    const line = await this.#line()
    if (line !== 'listening') throw new Error(`the trap says ${line}`)
  }

  /** The next line of the trap. */
  async #line(): Promise<string> {
    const lines = this.#lines as Interface
    const signal = AbortSignal.timeout(PATIENCE)
    const [line] = await Promise.race(['line', 'close'].map((event) => once(lines, event, { signal })))
    lines.removeAllListeners()
    if (line === undefined) throw new Error('the trap has ended')
    return line
  }
}

/** Begins with the run's folder; several test processes may have worlds at the same time, and one process several worlds. */
function nextName(): string {
  return `${basename(FOLDER)}-${process.pid}-${++count}`
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: 'pipe', encoding: 'utf8' })
}

/** Runs commands of ip in a namespace, and stops at the first that fails. */
function configure(name: string, ...commands: string[]): void {
  const args = ['-n', name, '-batch', '-']
  execFileSync('ip', args, { input: `${commands.join('\n')}\n`, encoding: 'utf8' })
}

/** Removes a namespace with its interfaces and files, as far as they exist. */
function remove(name: string): void {
  spawnSync('ip', ['netns', 'delete', name])
  rmSync(join(NAMESPACE_FILES, name), { recursive: true, force: true })
  // Stays where somebody else's files are in it.
  spawnSync('rmdir', [NAMESPACE_FILES])
}
