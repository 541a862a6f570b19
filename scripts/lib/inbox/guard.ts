/** Who may ask: no page of another site, whatever name it has for this machine. And how an answer of "no" is given. */
import type { IncomingMessage } from 'node:http'
import { hostname, networkInterfaces } from 'node:os'
import type { Settings } from '../settings.ts'

/** An answer other than 200: `facts` stand beside `Error` in its JSON. */
export class HttpError extends Error {
  readonly status: number
  readonly facts: Record<string, unknown>

  constructor(status: number, message: string, facts: Record<string, unknown> = {}) {
    super(message)
    this.status = status
    this.facts = facts
  }
}

export function refuse(status: number, message: string, facts?: Record<string, unknown>): never {
  throw new HttpError(status, message, facts)
}

/** The names that the inbox is asked for by: any other may be a foreign site's name for this machine (DNS rebinding). */
export function hostsOf({ bindAddress, host }: Settings): Set<string> {
  const own = new Set(['localhost', '127.0.0.1', '::1', bindAddress, host])
  if (bindAddress === '0.0.0.0' || bindAddress === '::') {
    for (const { address } of Object.values(networkInterfaces()).flatMap((list) => list ?? [])) own.add(address)
  }
  own.add(hostname().toLowerCase())
  return own
}

/**
 * Throws 403 for a host that is none of ours, and for what the page of another site asks. A link from elsewhere may open
 * a page here: `isNavigable`.
 */
export function guard({ headers }: IncomingMessage, hosts: Set<string>, isNavigable = false): void {
  const { host = '', origin } = headers
  const name = host
    .toLowerCase()
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1')
  if (!hosts.has(name)) refuse(403, `${host.slice(0, 100)} is no name of the inbox. Use localhost or 127.0.0.1.`)
  const site = headers['sec-fetch-site'] ?? 'none'
  const isForeign = site !== 'same-origin' && site !== 'none'
  if (isForeign && !(isNavigable && headers['sec-fetch-mode'] === 'navigate')) {
    refuse(403, 'A page of another site may not ask this.')
  }
  if (origin !== undefined && origin.toLowerCase() !== `http://${host.toLowerCase()}`) {
    refuse(403, `A page of ${origin.slice(0, 100)} may not ask this.`)
  }
}

/** Whether a request was caused by another site: what it shows may be shown, and nothing be changed by it. */
export function isForeign({ headers }: IncomingMessage): boolean {
  return !['same-origin', 'none'].includes((headers['sec-fetch-site'] as string | undefined) ?? 'none')
}
