/** The accounts as the running server has them: makes changes live, waits until its clients see them, counts. */
import { setTimeout as sleep } from 'node:timers/promises'
import { parseAccounts, parseQuotas } from '../accounts/accounts.ts'
import { aliasesOf, domainOf } from '../accounts/changes.ts'
import { readConfiguration } from '../accounts/configuration.ts'
import { Failure, messageOf, step } from '../cli.ts'
import { enabledProtocols, type Settings } from '../settings.ts'
import { chooseEngine } from './choose.ts'
import type { Engine } from './engine.ts'
import { usageOf } from './mailboxes.ts'
import { isAnswering, silentProtocols } from './proof.ts'

/** Milliseconds for the server to take a change. docker-mailserver needs 6 s, and longer when it is at work. */
const PATIENCE = 60_000
/** Milliseconds between two looks at the server; a refused recipient is a line in its log. */
const INTERVAL = 100
export interface Server {
  /** Undefined where none can be used here, such as Docker without its client. */
  engine: (Engine & { hasMailbox?(address: string): boolean }) | undefined
  running: boolean
}

/** The engine, and whether its server is up: by its own word or, since another user may have started it, by its ports. */
export async function serverOf(settings: Settings): Promise<Server> {
  const engine = await chooseEngine(settings).catch(() => undefined)
  return { engine, running: (await engine?.isRunning()) || (await isAnswering(settings)) }
}

/** Throws a Failure where a native server runs and does not answer; a container may be restarting itself. */
export async function assertAnswers(settings: Settings, { engine, running }: Server, state: string): Promise<void> {
  if (!running || engine?.name !== 'native') return
  const silent = await silentProtocols(settings)
  if (silent.length === 0) return
  const fact = `${state} The mail server runs and does not answer: ${silent.join(', ')}.`
  throw new Failure('connection', `${fact} Start it anew: npm stop && npm start`)
}

/**
 * Tells a running server about a change that is written, and waits until all conditions hold, one after the other. Gives
 * the seconds that took, or undefined when no server runs. Throws a Failure when it takes too long.
 */
export async function bringIntoEffect(
  settings: Settings,
  server: Server,
  address: string,
  conditions: (() => Promise<boolean>)[],
): Promise<string | undefined> {
  if (!server.running) return undefined
  await assertAnswers(settings, server, `${address} is written.`)
  const begin = performance.now()
  await step('Waiting until the server has taken the change', async () => {
    try {
      // docker-mailserver looks at its configuration files every two seconds by itself.
      await server.engine?.reload()
    } catch (error) {
      throw new Failure('failed', `${address} is written, and the server has not taken it: ${messageOf(error)}`)
    }
    for (const holds of conditions) {
      while (!(await holds())) {
        if (performance.now() - begin > PATIENCE) {
          const fact = `${address} is written, and the server has not taken it in ${PATIENCE / 1000} s`
          throw new Failure('timeout', `${fact} (port ${settings.ports.smtp}). See: npm run doctor`)
        }
        await sleep(INTERVAL)
      }
    }
  })
  return ((performance.now() - begin) / 1000).toFixed(1)
}

const BYTES: Record<string, number> = { B: 1, k: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

/** A quota as docker-mailserver writes it. Throws a usage Failure. */
export function parseQuota(text: string): string {
  const [, digits, unit = ''] = /^(\d{1,15})([bkmgt]?)$/i.exec(text) ?? []
  const letter = Object.keys(BYTES).find((name) => name.toLowerCase() === unit.toLowerCase()) ?? ''
  if (digits && letter) return `${Number(digits)}${letter}`
  if (digits && Number(digits) === 0) return '0'
  throw new Failure('usage', `--quota ${JSON.stringify(text)}: a number with B, k, M, G or T (10M), or 0 for no limit.`)
}

/** Whether the server keeps to a quota. IMAP tells it in units of 1,024 bytes (RFC 2087). */
export async function hasQuota(settings: Settings, address: string, quota: string): Promise<boolean> {
  if (!enabledProtocols().imap) return true
  const kibibytes = Math.floor((Number.parseInt(quota, 10) * (BYTES[quota.slice(-1)] ?? 0)) / 1024)
  const usage = await usageOf(settings, address).catch(() => undefined)
  return usage !== undefined && (usage.limit ?? 0) === kibibytes * 1024
}

/** All accounts, with what lies in their mailboxes where the server runs. What cannot be counted is said. */
export async function accountRows(settings: Settings, say: (line: string) => void) {
  const isRunning = await isAnswering(settings)
  const configuration = readConfiguration()
  const quotas = parseQuotas(configuration['dovecot-quotas.cf'])
  const rows = []
  for (const account of parseAccounts(configuration['postfix-accounts.cf'], 'postfix-accounts.cf', say)) {
    const address = account.address.toLowerCase()
    const usage = isRunning ? await usageOf(settings, address).catch((error) => say(messageOf(error))) : undefined
    const { messages = null, bytes = null } = usage ?? {}
    const aliases = aliasesOf(configuration, address)
    rows.push({ address, domain: domainOf(address), quota: quotas.get(address) ?? null, aliases, messages, bytes })
  }
  return { isRunning, rows }
}
