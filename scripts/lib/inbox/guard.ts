/** Who may ask: no page of another site, whatever name it has for this machine. And how an answer of "no" is given. */
import type { IncomingMessage } from 'node:http'
import { hostname, networkInterfaces } from 'node:os'
import type { Settings } from '../settings.ts'

/** An answer other than 200; `facts` stand beside `Error` in its JSON. */
export class HttpError extends Error {
  readonly status: number
  readonly facts: object

  constructor(status: number, message: string, facts: object = {}) {
    super(message)
    this.status = status
    this.facts = facts
  }
}

export function refuse(status: number, message: string): never {
  throw new HttpError(status, message)
}

/** The names that the inbox is asked by. Any other may be a foreign site's name for this machine (DNS rebinding). */
export function hostsOf({ bindAddress, host }: Settings): string[] {
  const interfaces = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  const all = ['0.0.0.0', '::'].includes(bindAddress) ? interfaces.map(({ address }) => address) : []
  return ['localhost', '127.0.0.1', '::1', bindAddress, host, hostname().toLowerCase(), ...all]
}

/** Whether the page of another site caused the request: what it asks for may be shown, and nothing be changed by it. */
export function isForeign({ headers }: IncomingMessage): boolean {
  return !['same-origin', 'none', undefined].includes(headers['sec-fetch-site'] as string | undefined)
}

/**
 * Refuses with 403 another name of this machine than `hosts`, and what the page of another site asks. Where `isPage`, it
 * may have a link to it.
 */
export function guard(request: IncomingMessage, hosts: string[], isPage: boolean): void {
  const { host = '', origin, 'sec-fetch-mode': mode } = request.headers
  const name = host.toLowerCase().replace(/:\d+$/, '')
  if (!hosts.includes(name.replace(/^\[|\]$/g, ''))) {
    refuse(403, `${host.slice(0, 100)} is no name of the inbox. Use localhost or 127.0.0.1.`)
  }
  const isOwn = origin === undefined || origin.toLowerCase() === `http://${host.toLowerCase()}`
  if (isOwn && (!isForeign(request) || (isPage && mode === 'navigate'))) return
  refuse(403, `A page of ${origin?.slice(0, 100) ?? 'another site'} may not ask this.`)
}
