/** Which ports are free, and who holds those that are not. */
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { Failure } from '../cli.ts'
import { SERVICE_NAMES, SERVICES, type ServiceName, type Settings } from '../settings.ts'
import { openFiles, processIds } from './processes.ts'

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

/** Throws a Failure that names the first port that is taken, its holder, and the variable to change. */
export async function assertPortsFree(
  { bindAddress, ports }: Settings,
  services: readonly ServiceName[] = SERVICE_NAMES,
): Promise<void> {
  for (const name of services) {
    await assertPortFree(bindAddress, ports[name], SERVICES[name].protocol, SERVICES[name].variable)
  }
}

/** `assertPortsFree` for one port: `what` speaks there, and `variable` moves it. */
export async function assertPortFree(host: string, port: number, what: string, variable: string): Promise<void> {
  if (await isFree(host, port)) return
  const holder = holderOf(port)
  const who = holder ? `${holder.name} (pid ${holder.pid})` : 'another process'
  throw new Failure(
    'failed',
    `Port ${port} (${what}) on ${host} is in use by ${who}. Stop that, or set ${variable} to a free port in .env.`,
  )
}

export interface Holder {
  pid: number
  name: string
}

/** The process that listens on a port: from /proc, so Linux only, and other users' processes only for root. */
function holderOf(port: number): Holder | undefined {
  return holdersOf([port]).get(port)
}

/** `holderOf` for several ports, with one walk through all processes. */
export function holdersOf(ports: readonly number[]): Map<number, Holder> {
  const inodes = new Map<string, number>()
  for (const table of ['/proc/net/tcp', '/proc/net/tcp6']) {
    for (const line of readOr(table).split('\n').slice(1)) {
      // Fields: number, local address:port in hex, remote, state (0A is LISTEN), ..., inode.
      const fields = line.trim().split(/\s+/)
      const port = Number.parseInt(fields[1]?.split(':')[1] ?? '', 16)
      if (fields[3] === '0A' && ports.includes(port)) inodes.set(fields[9] ?? '', port)
    }
  }
  const holders = new Map<number, Holder>()
  for (const pid of inodes.size > 0 ? processIds() : []) {
    for (const target of openFiles(pid)) {
      const port = inodes.get(/^socket:\[(\d+)\]$/.exec(target)?.[1] ?? '')
      // The first is the oldest: a master, not the children that inherited its sockets.
      if (port !== undefined && !holders.has(port)) holders.set(port, { pid, name: readOr(`/proc/${pid}/comm`).trim() })
    }
    if (holders.size === new Set(inodes.values()).size) break
  }
  return holders
}

function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
