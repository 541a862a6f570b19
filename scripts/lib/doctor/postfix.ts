/** Postfix's parameters and services, in the files and on the running server, held against the rows of rules_postfix.ts. */
import { connect } from 'node:net'
import { nearestOf } from '../cli.ts'
import { type Check, EXPLAINS, type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { type Facts, inConfig, type Line } from './facts.ts'
import { addLine, deleteLine, writeLine } from './fixes.ts'
import { ANSWER, program } from './program.ts'
import { findingOf, glued, judge, MAIN_CF, MASTER_CF, NOWHERE, nameOf, OWN_FILES, ROWS } from './rules_postfix.ts'

const main: Check = {
  name: 'main-cf',
  title: 'postfix-main.cf and postfix-master.cf keep mail here, and let every client in',
  async run(facts) {
    const set = facts.parameters(MAIN_CF)
    if (facts.read(MAIN_CF) === undefined) throw new Skipped('postfix-main.cf cannot be read, see "files"')
    const problems: Finding[] = []
    for (const [name, { value, at = NOWHERE }] of set) {
      const bare = value.replace(/\s+#.*$/, '')
      if (bare !== value) {
        const fix = writeLine(MAIN_CF, at, `${name} = ${bare}`)
        problems.push(
          failure(`${MAIN_CF} line ${at.line}: ${name}: what stands behind # is part of the value`, fix, {
            explains: EXPLAINS.start,
          }),
        )
        continue
      }
      const row = judge(name, value, facts)
      const right = row?.write === undefined ? undefined : `${name} = ${row.write}`.trim()
      if (row)
        problems.push(
          findingOf(
            row,
            `${MAIN_CF} line ${at.line}: ${name} = ${value}`,
            right ? writeLine(MAIN_CF, at, right) : deleteLine(MAIN_CF, at),
          ),
        )
      else
        problems.push(
          ...missingTables(`${MAIN_CF} line ${at.line}: ${name}`, value, facts),
          ...(await silent(name, value, at)),
        )
    }
    for (const row of ROWS.filter(({ needed }) => needed)) {
      const names = row.name.source.includes('(default|relay)')
        ? ['default_transport', 'relay_transport']
        : [nameOf(row)]
      // A misspelt one is what "main-cf-names" says.
      for (const name of names.filter((name) => !set.has(name) && !nearestOf(name, [...set.keys()], 2))) {
        problems.push(
          findingOf(row, `${MAIN_CF}: ${name} is not set`, addLine(MAIN_CF, `${name} = ${row.write}`.trim())),
        )
      }
    }
    for (const at of facts.lines(MAIN_CF)) {
      if (!/^[^=\s]+\s*=/.test(at.text))
        problems.push(
          failure(
            `${MAIN_CF} line ${at.line}: "${at.text.slice(0, 60)}" is not "parameter = value"`,
            deleteLine(MAIN_CF, at),
            { explains: EXPLAINS.start },
          ),
        )
    }
    problems.push(...glued(facts, MAIN_CF, /^\s+[a-z]\w+ *= /, /^$/))
    for (const at of facts.lines(MASTER_CF)) {
      const { line, text } = at
      const [, name = '', value = ''] = /^[^/\s]+\/[^/\s]+\/(\w+)\s*=\s*(.*)$/.exec(text) ?? []
      const row = name === '' ? undefined : judge(name, value, facts)
      const is = `${MASTER_CF} line ${line}: ${text}`
      // Services on other ports may speak TLS from the first byte, and insist on a login.
      if (
        row &&
        !/^subm\S+\/(smtpd_tls_wrappermode|smtpd_client_restrictions|smtpd_relay_restrictions|smtpd_recipient_restrictions)/.test(
          text.replace('/inet', ''),
        )
      )
        problems.push(findingOf(row, is, deleteLine(MASTER_CF, at), ['start']))
      else if (name === 'transport_maps')
        problems.push(
          failure(`${is}: one service has another transport map`, deleteLine(MASTER_CF, at), {
            explains: EXPLAINS.start,
          }),
        )
      else problems.push(...missingTables(is, value, facts))
      if (name === '')
        problems.push(
          failure(`${is}: this is not service/type/parameter=value`, deleteLine(MASTER_CF, at), {
            explains: EXPLAINS.start,
          }),
        )
    }
    return verdict(problems, `${set.size} parameters, ${ROWS.length} rules`)
  },
}

/** Tables in a value whose file is not there: Postfix then defers or refuses all mail that it would ask about. */
function missingTables(where: string, value: string, facts: Facts): Finding[] {
  return [...value.matchAll(/\b[a-z]+:(\/tmp\/docker-mailserver\/([^\s,}]+))/g)].flatMap(([table, , name = '']) => {
    const problem = facts.problem(inConfig(name))
    if (!problem || OWN_FILES.includes(name)) return []
    return [
      {
        level: 'failure',
        evidence: `${where}: ${table}: ${inConfig(name)} ${problem[0]}, and Postfix defers mail`,
        explains: EXPLAINS.mail,
      } as Finding,
    ]
  })
}

/** Programs on this machine that Postfix asks about mail, and that do not answer: the mail is refused, or waits. */
async function silent(name: string, value: string, at: Line): Promise<Finding[]> {
  if (!/filter|milters|restrictions/.test(name)) return []
  const asked = [...value.matchAll(/\[?(127(?:\.\d+){3}|localhost|::1)\]?:(\d+)/g)]
  const closed = await Promise.all(
    asked.map(async ([where, host = '', port]) => ((await answersAt(host, Number(port))) ? [] : [where])),
  )
  const [where] = closed.flat()
  return where
    ? [
        failure(
          `${MAIN_CF} line ${at.line}: ${name} = ${value}: nothing answers at ${where}`,
          deleteLine(MAIN_CF, at),
          { explains: EXPLAINS.answers },
        ),
      ]
    : []
}

function answersAt(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: ANSWER })
    const end = (isThere: boolean) => {
      socket.destroy()
      resolve(isThere)
    }
    socket
      .once('connect', () => end(true))
      .once('error', () => end(false))
      .once('timeout', () => end(false))
  })
}

const names: Check = {
  name: 'main-cf-names',
  title: 'Postfix knows every parameter of postfix-main.cf and postfix-master.cf',
  async run(facts) {
    const set = facts.parameters(MAIN_CF)
    if (set.size === 0) throw new Skipped('postfix-main.cf has no parameter, see "files"')
    const { engine } = await facts.choice()
    const isContainer = engine?.name === 'docker'
    if (isContainer && !(await facts.isRunning()))
      throw new Skipped('Postfix is not there to ask before the first start')
    // A running Postfix has looked through its parameters already.
    if (
      engine?.name === 'native' &&
      (await facts.isLive()) &&
      !/unused parameter/.test((await facts.ask('postconf', '-n')).stderr)
    )
      return verdict([], `${set.size} names, asked of the running Postfix`)
    const ask = async (...args: string[]) =>
      isContainer ? facts.ask('postconf', ...args) : program(['postconf', '-c', await facts.emptyPostfix(), ...args])
    const known = await ask('-d')
    if (known.exitCode !== 0) throw new Skipped('Postfix is not installed yet')
    // postconf -d leaves out those that belong to a transport, and restriction classes are names of one's own.
    const all = [...known.stdout.matchAll(/^(\w+) =/gm)].map(([, name = '']) => name)
    const classes = (set.get('smtpd_restriction_classes')?.value ?? '').split(/[\s,]+/)
    const used = [...set.values()].map(({ value }) => value).join(' ')
    const isKnown = (name: string) =>
      all.includes(name) ||
      classes.includes(name) ||
      PER_TRANSPORT.test(name) ||
      new RegExp(`\\$[({]?${name.replace(/\W/g, '.')}\\b`).test(used)
    const unknown = [...set].filter(([name]) => !isKnown(name))
    const problems = unknown.map(([name, { value, at = NOWHERE }]): Finding => {
      const meant = nearestOf(name, all)
      const fix = meant && !set.has(meant) ? writeLine(MAIN_CF, at, `${meant} = ${value}`) : deleteLine(MAIN_CF, at)
      const evidence = `${MAIN_CF} line ${at.line}: Postfix has no parameter ${name}${meant ? `; meant is ${meant}?` : ''}`
      const needed = ROWS.find((row) => row.needed && meant && !set.has(meant) && row.name.test(meant))
      return needed ? failure(evidence, fix, { explains: needed.explains ?? [] }) : warning(evidence, fix)
    })
    for (const at of facts.lines(MASTER_CF)) {
      const [, service = '', name = '', value = ''] = /^([^/\s]+\/[^/\s]+)\/(\w+)\s*=\s*(.*)$/.exec(at.text) ?? []
      const [isParameter, isService] = [name === '' || isKnown(name), service === '' || SERVICES.includes(service)]
      if (isParameter && isService) continue
      const [meant, meantService] = [nearestOf(name, all), nearestOf(service, SERVICES)]
      const is = `${MASTER_CF} line ${at.line}: Postfix has no`
      if (!isParameter)
        problems.push(
          warning(
            `${is} parameter ${name}`,
            meant ? writeLine(MASTER_CF, at, `${service}/${meant}=${value}`) : deleteLine(MASTER_CF, at),
          ),
        )
      if (!isService)
        problems.push(
          failure(
            `${is} service ${service}`,
            meantService ? writeLine(MASTER_CF, at, `${meantService}/${name}=${value}`) : deleteLine(MASTER_CF, at),
            { explains: EXPLAINS.start },
          ),
        )
    }
    return verdict(problems, `${set.size} names, asked of postconf`)
  },
}

/** `lmtp_destination_concurrency_limit` and the like: parameters of each transport in master.cf (transport(5)). */
const PER_TRANSPORT =
  /^\w+_(destination_(concurrency_limit|recipient_limit|rate_delay|concurrency_\w+_feedback|concurrency_failed_cohort_limit)|initial_destination_concurrency|transport_rate_delay|(minimum_)?delivery_slot_\w+|extra_recipient_limit|recipient_limit|recipient_refill_\w+|time_limit)$/
const SERVICES = [
  'smtp/inet',
  'smtpd/pass',
  'submission/inet',
  'submissions/inet',
  'smtps/inet',
  'lmtp/unix',
  'local/unix',
  'cleanup/unix',
  'qmgr/unix',
  'rewrite/unix',
  'error/unix',
  'bounce/unix',
]

const live: Check = {
  name: 'way-out',
  title: 'The running Postfix has no SMTP client, and nothing that leads out',
  async run(facts) {
    const [services, running] = await Promise.all([facts.ask('postconf', '-M'), facts.running()])
    const problems: Finding[] = []
    for (const line of services.stdout.split('\n')) {
      const [name = '', type = '', , , , , , program = ''] = line.trim().split(/\s+/)
      const is = `the running Postfix: the service ${name}/${type} runs ${program}`
      const restart = 'npm stop && npm start'
      if (program === 'smtp' && !/amavis/.test(name))
        problems.push({ level: 'failure', evidence: `${is}, an SMTP client: mail could leave`, fix: restart })
      if (
        /^(local|lmtp|error|cleanup|qmgr|rewrite)$/.test(name) &&
        program !== (name === 'rewrite' ? 'trivial-rewrite' : name)
      )
        problems.push({ level: 'failure', evidence: is, fix: restart, explains: EXPLAINS.mail })
    }
    const set = facts.parameters(MAIN_CF)
    for (const [name, { value }] of running) {
      // What the file says is judged there; where the two differ, "live" says so.
      const row = set.has(name) || isMade(name, value) ? undefined : judge(name, value, facts)
      if (row && row.level !== 'warning')
        problems.push(findingOf(row, `the running Postfix: ${name} = ${value}`, 'npm stop && npm start'))
    }
    return verdict(problems, `${running.size} parameters asked of postconf`)
  },
}

/** Parameters that the engine sets from the environment file, in forms of its own. */
function isMade(name: string, value: string): boolean {
  return (
    /^(mydestination|inet_\w+|mynetworks|virtual_\w+|smtpd_sasl_auth_enable|transport_maps|local_recipient_maps|luser_relay)$/.test(
      name,
    ) && value !== ''
  )
}

export const postfixChecks: Check[] = [main, names, live]
