/** How the running server routes mail: postconf's effective settings, and postmap's answers for many addresses. */
import { Failure } from '../cli.ts'
import type { Engine } from '../server/engine.ts'
import { type Fence, tableFile } from './files.ts'
import { domainOf, isPatternTable, listOf, transportKeys } from './routing.ts'

/** Milliseconds for one question to the server. */
const ANSWER = 4_000
/** Parameters that the route of an address depends on. */
const ROUTED = ['transport_maps', 'mydestination', 'virtual_mailbox_domains', 'relay_domains']

interface RunningRouting extends Fence {
  /**
   * Looks addresses up, all of them in one process for each table; only then `lookup` knows about them. Gives the
   * tables that the server cannot read, with the reason.
   */
  ask(addresses: string[]): Promise<string[]>
}

/** The effective settings of the running server: those named and those that a route depends on. */
export async function runningRouting(engine: Engine, names: readonly string[]): Promise<RunningRouting> {
  const [main, master] = await Promise.all([
    engine.exec(['postconf', '-x', ...new Set([...names, ...ROUTED])], { timeout: ANSWER }),
    engine.exec(['postconf', '-P', '-x'], { timeout: ANSWER }),
  ])
  if (main.exitCode !== 0) throw new Failure('failed', `postconf does not answer: ${main.stderr || 'silence'}`)
  const values = new Map<string, string>()
  for (const [, name = '', value = ''] of main.stdout.matchAll(/^(\w+) = ?(.*)$/gm)) values.set(name, value)
  const overrides = [...master.stdout.matchAll(/^(\S+\/\S+)\/(\w+) = ?(.*)$/gm)].map(
    ([, service = '', name = '', value = '']) => ({ service, name, value }),
  )
  const texts = new Map<string, string | undefined>()
  const tables = [...values.values(), ...overrides.map(({ value }) => value)].flatMap(listOf)
  await Promise.all(
    [...new Set(tables)].map(async (table) => {
      const file = tableFile(table)
      if (file) texts.set(table, await engine.readFile(file))
    }),
  )
  const answers = new Map<string, Map<string, string>>()
  const fence: Fence = {
    parameter: (name) => values.get(name) ?? '',
    // virtual_mailbox_domains and mydestination may name a plain file of domains.
    lookup: (table, key) => answers.get(table)?.get(key),
    text: (table) => texts.get(table),
    overrides,
    lineOf: () => undefined,
    source: 'the running server',
    afterwards: ', then: npm start',
  }
  const ask = async (addresses: string[]) => {
    const domains = [...new Set(addresses.map(domainOf))].filter((domain) => domain !== '')
    const questions = new Map<string, string[]>()
    for (const table of listOf(fence.parameter('transport_maps'))) {
      questions.set(table, isPatternTable(table) ? addresses : [...new Set(addresses.flatMap(transportKeys))])
    }
    for (const name of ['mydestination', 'virtual_mailbox_domains', 'relay_domains']) {
      for (const table of listOf(fence.parameter(name))) if (/[:/]/.test(table)) questions.set(table, domains)
    }
    const unreadable: string[] = []
    await Promise.all(
      [...questions].map(async ([table, keys]) => {
        if (table.startsWith('/')) {
          answers.set(table, new Map(listOf(texts.get(table) ?? '').map((domain) => [domain, ''])))
          return
        }
        const { exitCode, stdout, stderr } = await engine.exec(['postmap', '-q', '-', table], {
          input: `${keys.join('\n')}\n`,
          timeout: ANSWER,
        })
        // A broken rule is a warning; a table that cannot be opened leaves every address without an answer.
        if (exitCode === null) unreadable.push(`${table}: no answer within ${ANSWER / 1000} s`)
        else if (/fatal:|unavailable|lookup error/.test(stderr)) unreadable.push(`${table}: ${stderr.trim()}`)
        const found = stdout.split('\n').map((line) => line.split('\t'))
        answers.set(table, new Map(found.map(([key = '', ...value]) => [key, value.join('\t')])))
      }),
    )
    return unreadable
  }
  return { ...fence, ask }
}
