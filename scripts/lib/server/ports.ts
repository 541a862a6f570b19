/** Which ports are free, and who holds those that are not. */
import { createServer } from 'node:net'
import { Failure } from '../cli.ts'
import { SERVICES, type ServiceName, type Settings } from '../settings.ts'
import { openFiles, processIds, programOf, readOr } from './processes.ts'

/**
 * True when a server could listen there now. A port that only root may open counts as free. Throws a usage Failure when
 * no interface of this machine has the address.
 */
export function isFree(host: string, port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = createServer()
    probe.once('error', ({ code }: NodeJS.ErrnoException) => {
      if (code !== 'EADDRNOTAVAIL') return resolve(code === 'EACCES')
      reject(new Failure('usage', `BIND_ADDRESS=${host}: this machine has no such address. Correct it in .env.`))
    })
    probe.listen({ host, port, exclusive: true }, () => probe.close(() => resolve(true)))
  })
}

/** Throws a Failure that names the first port that somebody else has than `isOwn`, who has it, and the variable to change. */
export async function assertPortsFree(
  { bindAddress, ports }: Settings,
  services: readonly ServiceName[],
  isOwn?: (holder: Holder) => boolean,
): Promise<void> {
  for (const name of services) {
    const { protocol, variable } = SERVICES[name]
    await assertPortFree(bindAddress, ports[name], protocol, variable, isOwn)
  }
}

/** `assertPortsFree` for one port: `what` speaks there, and `variable` moves it. */
export async function assertPortFree(
  host: string,
  port: number,
  what: string,
  variable: string,
  isOwn: (holder: Holder) => boolean = () => false,
): Promise<void> {
  if (await isFree(host, port)) return
  const holder = holdersOf([port]).get(port)
  if (holder && isOwn(holder)) return
  const who = holder ? `${holder.name} (pid ${holder.pid})` : 'another process'
  const fact = `Port ${port} (${what}) on ${host} is in use by ${who}`
  throw new Failure('failed', `${fact}. Stop that, or set ${variable} to a free port in .env.`)
}

export interface Holder {
  pid: number
  name: string
}

/** The processes that listen on ports: from /proc, so Linux only, and other users' processes only for root. */
export function holdersOf(ports: readonly number[]): Map<number, Holder> {
  const portOf = new Map<string, number>()
  for (const line of [readOr('/proc/net/tcp'), readOr('/proc/net/tcp6')].join('\n').split('\n')) {
    // Number, local address and port in hex, remote, state (0A is LISTEN), ..., inode.
    const [, address = '', , state, , , , , , inode] = line.trim().split(/\s+/)
    const port = Number.parseInt(address.split(':')[1] ?? '', 16)
    if (state === '0A' && ports.includes(port)) portOf.set(`socket:[${inode}]`, port)
  }
  const holders = new Map<number, Holder>()
  for (const pid of portOf.size > 0 ? processIds() : []) {
    for (const port of openFiles(pid).map((file) => portOf.get(file))) {
      // The first is the oldest: a master, not the children that inherited its sockets.
      if (port !== undefined && !holders.has(port)) holders.set(port, { pid, name: programOf(pid) })
    }
  }
  return holders
}
