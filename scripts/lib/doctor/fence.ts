/** Nothing can leave: no setting and no table sends mail anywhere but to local(8) and to Dovecot's LMTP. */
import { CATCHALL } from '../accounts/accounts.ts'
import { generateAddresses } from './addresses.ts'
import { type Check, CONFIG, type Context, ENV_FILE, type Finding, failure, ok, verdict, warning } from './check.ts'
import { configuredRouting, type Fence, IN_CONTAINER, MAIN_CF, MASTER_CF, TRANSPORT_MAP } from './files.ts'
import {
  domainOf,
  isLoopback,
  isPatternTable,
  listOf,
  logicalLines,
  lookUpRegexp,
  parseIndexed,
  parseRegexpTable,
  type Route,
  type Routing,
  type Rule,
  routerOf,
  staysHere,
  witnessOf,
} from './routing.ts'
import { runningRouting } from './running_routing.ts'

/** How many addresses are generated for each check. */
const ADDRESSES = 700
/** An address like any other outside. */
const FOREIGN = 'someone@foreign.example'

/** Parameters that lead out unless they are empty. */
const EMPTY = [
  'relayhost',
  'sender_dependent_relayhost_maps',
  'sender_dependent_default_transport_maps',
  'smtp_fallback_relay',
  'fallback_relay',
  'smtpd_proxy_filter',
  'mailbox_transport_maps',
  'fallback_transport_maps',
  'mailbox_command',
  'mailbox_command_maps',
]
/** Parameters whose value is a transport. */
const TRANSPORTS = ['default_transport', 'relay_transport', 'local_transport', 'virtual_transport']
const OPTIONAL_TRANSPORTS = ['mailbox_transport', 'fallback_transport', 'content_filter']
/** Parameters that copy mail to other addresses. */
const COPIES = ['always_bcc', 'sender_bcc_maps', 'recipient_bcc_maps']
/** Tables whose results may be FILTER, REDIRECT or BCC: header_checks(5), access(5). */
const ACTIONS = [
  ...['header_checks', 'mime_header_checks', 'nested_header_checks', 'body_checks', 'milter_header_checks'],
  ...['client', 'helo', 'sender', 'relay', 'recipient', 'data', 'end_of_data'].map(
    (part) => `smtpd_${part}_restrictions`,
  ),
]
const JUDGED = [...EMPTY, ...TRANSPORTS, ...OPTIONAL_TRANSPORTS, ...COPIES, ...ACTIONS]
/** What the project's own postfix-main.cf says, for those that Postfix would set to something else. */
const RIGHT: Record<string, string> = {
  default_transport: 'local',
  relay_transport: 'local',
  local_transport: 'local:$myhostname',
  virtual_transport: 'lmtp:unix:/var/run/dovecot/lmtp',
}

/** Everything that leads out, each with a counter-example where there is one. */
export function gapsOf(fence: Fence, addresses: readonly string[]): Finding[] {
  const gaps: Finding[] = []
  for (const name of JUDGED) {
    const problem = judge(name, fence.parameter(name), fence)
    const line = fence.lineOf(name)
    const where = `${fence.source}${line ? ` line ${line}` : ''}`
    if (problem) gaps.push(failure(`${where}: ${problem}`, `${mendingOf(name, line)}${fence.afterwards}`))
  }
  for (const { service, name, value } of fence.overrides) {
    const isOther = name === 'transport_maps' && value !== fence.parameter(name)
    const problem = isOther ? `transport_maps = ${value}: another transport map` : judge(name, value, fence)
    if (!problem) continue
    gaps.push(
      failure(`${service} in master.cf: ${problem}`, `Delete ${service}/${name} from ${MASTER_CF}${fence.afterwards}`),
    )
  }
  return [...gaps, ...counterExamples(fence, addresses)]
}

/** The addresses that the transport map alone does not keep here: it has to hold without default_transport's help. */
function counterExamples(fence: Fence, addresses: readonly string[]): Finding[] {
  const alone: Routing = {
    lookup: fence.lookup,
    parameter: (name) => (/^(default|relay)_transport$/.test(name) ? 'smtp' : fence.parameter(name)),
  }
  const routeAlone = routerOf(alone)
  const leaving = addresses.map((address) => ({ address, route: routeAlone(address) }))
  const findings: Finding[] = []
  const sent = leaving.filter(({ route }) => route.by === 'transport_maps' && !staysHere(route) && !refuses(route))
  const [first] = sent
  if (first) {
    const { address, route } = first
    const line = ruleLine(fence, address)
    const local = `Write local: in place of ${route.transport}:`
    const [where, fix] = line
      ? [`line ${line} of the transport map`, `${local} in line ${line} of ${TRANSPORT_MAP}${fence.afterwards}`]
      : ['the transport map', `${local} in ${fence.parameter('transport_maps')}${fence.afterwards}`]
    const count = `${sent.length} of ${addresses.length} addresses`
    findings.push(failure(`${address} goes to ${route.transport}:${route.nexthop} by ${where} (${count})`, fix))
  }
  const blind = blindLine(fence)
  if (!first && blind) {
    const fix = `Delete line ${blind.line} of ${TRANSPORT_MAP}${fence.afterwards}`
    findings.push(failure(`line ${blind.line} of the transport map sends what it matches to ${blind.result}`, fix))
  }
  const open = leaving.filter(({ route }) => /^(default|relay)_transport$/.test(route.by))
  if (open[0]) {
    const { address } = open[0]
    const real = routerOf(fence)(address)
    const end = staysHere(real) ? `only ${real.by} keeps it here` : `it goes to ${real.transport}:${real.nexthop}`
    const hole = `${address}: no line of the transport map holds it, ${end} (${open.length} of ${addresses.length} addresses)`
    // A line that gives one domain back to Postfix is a scratch in the fence while default_transport is local.
    const isWorld = routeAlone(FOREIGN).by !== 'transport_maps'
    const report = isWorld || !staysHere(real) ? failure : warning
    findings.push(report(hole, `${closingOf(fence, address)}${fence.afterwards}`))
  }
  return findings
}

/** Whether a transport is error(8): the sender is told so at RCPT. */
function refuses({ transport }: Pick<Route, 'transport'>): boolean {
  return transport === 'error'
}

/** A line of the transport map that leads out, and whose pattern is too intricate to find an address for it. */
function blindLine(fence: Fence): Rule | undefined {
  const table = ownMap(fence) ?? ''
  if (!isPatternTable(table)) return undefined
  const { rules } = parseRegexpTable(fence.text(table) ?? '')
  // What stands behind a line that matches everything is never reached.
  const all = [FOREIGN, 'x', '"a b"@[203.0.113.1]']
  const isLast = ({ pattern, negated }: Rule) => all.every((address) => pattern && pattern.test(address) !== negated)
  const end = rules.findIndex((rule) => rule.kind === 'match' && isLast(rule))
  return rules.slice(0, end < 0 ? undefined : end).find((rule) => {
    const [, transport = '', nexthop = ''] = /^([^:\s]*):?(.*)$/s.exec(rule.result) ?? []
    const leads = transport !== '' && !staysHere({ transport, nexthop }) && !refuses({ transport })
    return rule.kind === 'match' && leads && !witnessOf(rule)
  })
}

/** What closes the hole that an address found in the transport map. */
function closingOf(fence: Fence, address: string): string {
  const maps = fence.parameter('transport_maps')
  if (maps === '') return `Write into ${MAIN_CF}: transport_maps = pcre:${IN_CONTAINER}/postfix-transport_maps`
  if (fence.text(ownMap(fence) ?? '') === undefined) return `git checkout -- ${TRANSPORT_MAP}`
  const line = ruleLine(fence, address)
  if (!line) return `Write as the last line of ${TRANSPORT_MAP}: /^/ local:`
  // A lone ":" gives the address back to Postfix: right for the virtual mailbox domains and nothing else.
  return `Delete line ${line} of ${TRANSPORT_MAP}, or let it match one domain alone, like /@development-virtual\\.example\\.com$/`
}

/** What is wrong with a parameter's value; undefined when it leads nowhere. */
function judge(name: string, value: string, fence: Fence): string | undefined {
  const setting = `${name} = ${value}`
  if (EMPTY.includes(name)) return value === '' ? undefined : `${setting} leads out of this machine`
  if (TRANSPORTS.includes(name) || OPTIONAL_TRANSPORTS.includes(name)) {
    const [, transport = '', nexthop = ''] = /^([^:\s]*):?(.*)$/s.exec(value) ?? []
    const isFilter = name === 'content_filter' && isLoopback(nexthop)
    if ((value === '' && OPTIONAL_TRANSPORTS.includes(name)) || isFilter || staysHere({ transport, nexthop })) return
    return `${setting} is neither local(8) nor Dovecot's LMTP`
  }
  if (name === 'always_bcc') {
    return value === '' || isHome(value, fence) ? undefined : `${setting} copies every mail to a foreign address`
  }
  const tables = listOf(value).filter((item) => /^[\w-]+:/.test(item))
  for (const table of tables) {
    const results = resultsOf(table, fence)
    if (!results && COPIES.includes(name)) return `${setting}: nobody knows what this table copies, and where to`
    for (const result of results ?? []) {
      const [, action = '', target = ''] = COPIES.includes(name)
        ? ['', 'BCC', result]
        : (/^(FILTER|REDIRECT|BCC)\s+(\S+)/i.exec(result) ?? [])
      if (action === '') continue
      const [, transport = '', nexthop = ''] = /^([^:]*):?(.*)$/.exec(target) ?? []
      const isFine = /filter/i.test(action)
        ? staysHere({ transport, nexthop }) || isLoopback(nexthop)
        : isHome(target, fence)
      if (!isFine) return `${setting} has "${action} ${target}", which leads to a foreign address or server`
    }
  }
  return undefined
}

function mendingOf(name: string, line: number | undefined): string {
  if (name === 'virtual_transport') return `Write into ${ENV_FILE}: POSTFIX_DAGENT=${RIGHT[name]}`
  const where = line ? `line ${line} of ${MAIN_CF} as` : `into ${MAIN_CF}`
  return `Write ${where}: ${name} =${RIGHT[name] ? ` ${RIGHT[name]}` : ''}`
}

/** Whether mail to an address has a mailbox here, without the transport map's help. */
function isHome(address: string, fence: Fence): boolean {
  const domain = domainOf(address)
  const parameter = (name: string) => (name === 'transport_maps' ? '' : fence.parameter(name))
  const { by } = routerOf({ lookup: fence.lookup, parameter })(address)
  return domain === '' || /^(local|virtual)_transport$/.test(by)
}

/** All results that a table can give; undefined where its text is not known. */
function resultsOf(table: string, fence: Fence): string[] | undefined {
  if (/^static:/.test(table)) return [table.slice('static:'.length).replace(/^\{\s*|\s*\}$/g, '')]
  if (/^inline:/.test(table)) return [...table.matchAll(/=\s*([^,}]+)/g)].map(([, result = '']) => result.trim())
  const text = fence.text(table)
  if (text === undefined) return undefined
  if (isPatternTable(table)) return parseRegexpTable(text).rules.map(({ result }) => result)
  return [...parseIndexed(text).values()]
}

/** The line of the transport map that decides about an address, where the map is the project's own. */
function ruleLine(fence: Fence, address: string): number | undefined {
  const table = ownMap(fence) ?? ''
  return isPatternTable(table) ? lookUpRegexp(parseRegexpTable(fence.text(table) ?? ''), address)?.rule.line : undefined
}

/** The project's own file among the transport maps. */
function ownMap(fence: Fence): string | undefined {
  return listOf(fence.parameter('transport_maps')).find((table) => table.endsWith('/postfix-transport_maps'))
}

/** Addresses that the configuration itself names: what its patterns match, what its aliases point to. */
function namedAddresses(fence: Fence, files: Context['files']): string[] {
  const fromMaps = listOf(fence.parameter('transport_maps')).flatMap((table) => {
    const text = fence.text(table) ?? ''
    if (isPatternTable(table)) return parseRegexpTable(text).rules.map((rule) => witnessOf(rule) ?? '')
    return [...parseIndexed(text).keys()].map((key) =>
      key.includes('@') ? key : `someone@${key.replace(/^\./, 'sub.')}`,
    )
  })
  const aliases = ['postfix-virtual.cf', 'postfix-regexp.cf', 'postfix-aliases.cf']
  const tables = [...COPIES, ...ACTIONS].flatMap((name) => listOf(fence.parameter(name)))
  const texts = [...aliases.map((name) => files.read(`${CONFIG}/${name}`)), ...tables, ...tables.map(fence.text)]
  const fromTexts = texts
    .flatMap((text) => logicalLines(text ?? ''))
    .flatMap(({ text }) => text.match(/[\w.+-]+@[\w.-]+\w/g) ?? [])
  return [...fromMaps, ...fromTexts, CATCHALL, FOREIGN].filter((address) => address !== '')
}

function addressesFor(fence: Fence, domains: string[], files: Context['files']): string[] {
  return [...new Set([...generateAddresses(domains, ADDRESSES), ...namedAddresses(fence, files)])]
}

/** Dovecot sends by itself where one of these is set: a Sieve redirect past Postfix, a proxy in place of a mailbox. */
function dovecotGaps(value: (name: string) => string, fix: (name: string) => string): Finding[] {
  const isOut: Record<string, (value: string) => boolean> = {
    submission_host: (host) => host !== '' && !isLoopback(host),
    lmtp_proxy: (answer) => answer === 'yes',
  }
  return Object.entries(isOut)
    .filter(([name, test]) => test(value(name)))
    .map(([name]) => failure(`Dovecot: ${name} = ${value(name)} leads out of this machine`, fix(name)))
}

export const fenceFiles: Check = {
  name: 'fence-files',
  title: 'By the files, no mail can leave this machine',
  run({ files }) {
    const { domains, ...fence } = configuredRouting(files)
    const addresses = addressesFor(fence, domains, files)
    const dovecot = files.read(`${CONFIG}/dovecot.cf`) ?? ''
    const setting = (name: string) => new RegExp(`^\\s*${name}\\s*=\\s*(.*?)\\s*$`, 'm').exec(dovecot)?.[1] ?? ''
    const gaps = dovecotGaps(setting, (name) => `Delete the line with ${name} from ${CONFIG}/dovecot.cf`)
    const summary = `${addresses.length} addresses end in local(8) or Dovecot's LMTP; no relay, filter, copy or redirect`
    return verdict([...gapsOf(fence, addresses), ...gaps], summary)
  },
}

export const fenceServer: Check = {
  name: 'fence-server',
  title: 'By the running server, no mail can leave this machine',
  async run(context) {
    const engine = await context.server()
    const { domains } = configuredRouting(context.files)
    const fence = await runningRouting(engine, JUDGED)
    const addresses = addressesFor(fence, domains, context.files)
    const unreadable = await fence.ask(addresses)
    if (unreadable.length > 0) {
      return unreadable.map((table) =>
        failure(`the running server cannot read ${table}`, `git status ${CONFIG}; npm start`),
      )
    }
    const { afterwards } = fence
    const { stdout } = await engine.exec(['postconf', '-M', 'local/unix', 'lmtp/unix'], { timeout: 4_000 })
    const programs = stdout
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .filter(([service, , , , , , , program]) => service && service !== program)
      .map(([service, , , , , , , program]) =>
        failure(`master.cf: ${service} runs ${program}`, `Restore the service ${service}${afterwards}`),
      )
    const { stdout: doveconf } = await engine.exec(['doveconf', 'submission_host', 'lmtp_proxy'], { timeout: 4_000 })
    const setting = (name: string) => new RegExp(`^${name} = ?(.*)$`, 'm').exec(doveconf)?.[1]?.trim() ?? ''
    const dovecot = dovecotGaps(
      setting,
      (name) => `Delete the line with ${name} from ${CONFIG}/dovecot.cf${afterwards}`,
    )
    const gaps = [...gapsOf(fence, addresses), ...programs, ...dovecot]
    return gaps.length > 0
      ? gaps
      : [ok(`postmap answers for ${addresses.length} addresses: local(8) or Dovecot's LMTP`)]
  },
}
