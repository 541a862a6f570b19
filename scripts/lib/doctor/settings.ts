/** The environment file, Postfix's and Dovecot's settings, in the files and on the running server, held against the rules. */
import { entriesOf } from '../accounts/tables.ts'
import { nearestOf } from '../cli.ts'
import { isFree } from '../server/ports.ts'
import { $ } from '../server/shell.ts'
import { type Finding, failure, Skipped, verdict, warning } from './check.ts'
import {
  ANSWER,
  addLine,
  deleteLine,
  ENV_FILE,
  type Facts,
  inConfig,
  MAIN_CF,
  MASTER_CF,
  placeOf,
  type Setting,
  writeLine,
} from './facts.ts'
import { broken, DOVECOT_RULES, ENVIRONMENT_RULES, POSTFIX_RULES, type Rule, VARIABLES } from './rules.ts'

/** For a setting that no line sets. */
const NOWHERE = { text: '', lines: [0] }

/** What the rules say against the settings of a file, and about those that are not there. */
function judge(facts: Facts, file: string, rules: readonly Rule[], set: Map<string, Setting>, equals = ' = ') {
  // A misspelt name is another check's matter.
  const isThere = (name: string) => set.has(name) || nearestOf(name, [...set.keys()], 2)
  const needed = rules.flatMap(({ names, needed }) => (needed ? names.split('|') : []))
  const unset = new Set(needed.filter((name) => !isThere(name)))
  return [...set.values(), ...[...unset].map((name) => ({ name, value: undefined, at: undefined }))].flatMap(
    ({ name, value, at }): Finding[] => {
      const rule = broken(rules, name, value, facts)
      if (!rule) return []
      const { level, why, write: right } = rule
      const line = `${name}${equals}${right}`.trim()
      const fix = !at ? addLine(file, line) : right === undefined ? deleteLine(file, at) : writeLine(file, at, line)
      const evidence = at ? `${placeOf(file, at)}: ${at.text}` : `${file}: ${name} is not set`
      return [{ level, evidence: `${evidence}: ${why}`, fix: right === null ? undefined : fix }]
    },
  )
}

/** The variables of the environment file with their lines. */
function variablesOf(facts: Facts): Map<string, Setting> {
  const values = facts.environment()
  const entries = entriesOf(facts.read(ENV_FILE), false)
  return new Map(
    Object.entries(values).map(([name, value]) => {
      const at = entries.findLast(({ text }) => new RegExp(`^(export\\s+)?${name}\\s*=`).test(text))
      return [name, { name, value, ...(at && { at }) }]
    }),
  )
}

/** Whether the release that is to run knows a variable: one that does not, does not do either what it asks for. */
function isOfRelease(facts: Facts, name: string): boolean {
  const other = Number.parseInt(facts.settings().dmsVersion, 10) <= 10 ? '15' : '10'
  return !VARIABLES[other].includes(name)
}

export function environment(facts: Facts): Finding[] {
  const rules = ENVIRONMENT_RULES.filter(({ names }) => names.split('|').some((name) => isOfRelease(facts, name)))
  return verdict(judge(facts, ENV_FILE, rules, variablesOf(facts), '='), `${rules.length} rules`)
}

/** Variables whose line is nothing for a screen. */
const SECRET = /PASS|PW|SECRET/i

export function environmentNames(facts: Facts): Finding[] {
  const known = Object.values(VARIABLES).flat()
  const set = variablesOf(facts)
  const isJudged = (name: string) => ENVIRONMENT_RULES.some(({ names }) => names.split('|').includes(name))
  const problems = [...set.values()].flatMap(({ name, value, at = NOWHERE }) => {
    const meant = known.includes(name) ? undefined : nearestOf(name, known)
    // A name that stands there already is not what was meant, or means it twice.
    const right = meant && !set.has(meant) ? `${meant}=${value}` : undefined
    const isSwitch = /^ENABLE_/.test(name) && !isJudged(name)
    const [why, line] = !known.includes(name)
      ? [` is not known to docker-mailserver${meant ? `; meant is ${meant}?` : ''}`, right]
      : isSwitch && !/^[01]?$/.test(value)
        ? [`=${value} is neither 0 nor 1, and counts as 0`, `${name}=${/^(yes|true|on)$/i.test(value) ? 1 : 0}`]
        : // Turned off, a name that the release does not know does no harm.
          !/^0?$/.test(value) && !isOfRelease(facts, name)
          ? [` is not known to release ${facts.settings().dmsVersion}, and has no effect`]
          : []
    const fix = line ? writeLine(ENV_FILE, at, line) : deleteLine(ENV_FILE, at)
    return why ? [warning(`${placeOf(ENV_FILE, at)}: ${name}${why}`, SECRET.test(name) ? undefined : fix)] : []
  })
  const odd = entriesOf(facts.read(ENV_FILE), false).filter(({ text }) => !/^(export\s+)?\w+\s*=/.test(text))
  for (const at of odd) {
    const [, name, value] = /^(\w+)\s*:\s*(.*)$/.exec(at.text) ?? []
    const fix = name ? writeLine(ENV_FILE, at, `${name}=${value}`) : deleteLine(ENV_FILE, at)
    const evidence = `${placeOf(ENV_FILE, at)}: this is not NAME=value, and has no effect`
    problems.push(warning(evidence, SECRET.test(at.text) ? undefined : fix))
  }
  return verdict(problems, `${set.size} names`)
}

/** A line of postfix-master.cf: service/type/parameter=value. */
const MASTER_LINE = /^(?<service>[^/\s]+\/[^/\s]+)\/(?<name>\w+)\s*=\s*(?<value>.*)$/
/** The services that it may name; smtpd/pass is docker-mailserver's for port 25. */
const SERVICES = /^((smtp|submissions?|smtps)\/inet|smtpd\/pass|(lmtp|local|cleanup|qmgr|rewrite|error|bounce)\/unix)$/
/** Services on other ports may speak TLS from the first byte, and insist on a login. */
const SUBMISSION = /^subm\w+\/inet\/(smtpd_tls_wrappermode|smtpd_(client|relay|recipient)_restrictions)\b/

export async function mainCf(facts: Facts): Promise<Finding[]> {
  facts.needs(MAIN_CF)
  const set = [...facts.settingsOf(MAIN_CF).values()]
  const problems = judge(facts, MAIN_CF, POSTFIX_RULES, facts.settingsOf(MAIN_CF))
  const odd = facts.entries(MAIN_CF).filter(({ text }) => !/^[^=\s]+\s*=/.test(text))
  for (const at of odd)
    problems.push(failure(`${placeOf(MAIN_CF, at)}: "${at.text}" is not "parameter = value"`, deleteLine(MAIN_CF, at)))
  for (const at of facts.entries(MASTER_CF)) {
    const { service, name = '', value = '' } = MASTER_LINE.exec(at.text)?.groups ?? {}
    const rule = SUBMISSION.test(at.text) ? undefined : broken(POSTFIX_RULES, name, value, facts)
    const odd = service ? `Postfix has no service ${service}` : 'this is not service/type/parameter=value'
    const why =
      (!SERVICES.test(service ?? '') && odd) ||
      rule?.why ||
      (name === 'transport_maps' && 'one service has another map')
    const fix = rule?.write === null ? undefined : deleteLine(MASTER_CF, at)
    const evidence = `${placeOf(MASTER_CF, at)}: ${at.text}: ${why}`
    if (why) problems.push({ level: rule?.level ?? 'failure', evidence, fix })
  }
  // Programs on this machine that Postfix asks about mail, and that do not answer: the mail is refused, or waits.
  for (const { name, value, at = NOWHERE } of set) {
    if (!/filter|milters|restrictions/.test(name) || broken(POSTFIX_RULES, name, value, facts)) continue
    for (const [where, host = '', port] of value.matchAll(/\[?(127(?:\.\d+){3}|localhost|::1)\]?:(\d+)/g)) {
      if (!(await isFree(host, Number(port)))) continue
      const evidence = `${placeOf(MAIN_CF, at)}: ${at.text}: nothing answers at ${where}`
      problems.push(failure(evidence, deleteLine(MAIN_CF, at)))
    }
  }
  return verdict(problems, `${set.length} parameters, ${POSTFIX_RULES.length} rules`)
}

/** postconf(1) warns about parameters that nothing uses, which Postfix itself passes over. */
export async function mainCfNames(facts: Facts): Promise<Finding[]> {
  facts.needs(MAIN_CF)
  const set = facts.settingsOf(MAIN_CF)
  const all = [...set.values()].map((setting) => ({ file: MAIN_CF, at: NOWHERE, ...setting }))
  for (const at of facts.entries(MASTER_CF)) {
    const { name, value = '' } = MASTER_LINE.exec(at.text)?.groups ?? {}
    if (name) all.push({ file: MASTER_CF, at, name, value })
  }
  const isHere = !(await facts.isInContainer()) && !(await facts.isLive())
  const folder = isHere ? facts.postfix('names', all.map(({ name, value }) => `${name} = ${value}\n`).join('')) : ''
  const ask = (option: string) =>
    isHere ? $({ timeout: ANSWER })`postconf -c ${folder} ${option}` : facts.ask('postconf', option)
  const { stderr, exitCode } = await ask('-n')
  if (exitCode === 127) throw new Skipped('Postfix is not installed yet')
  const unused = all.filter(({ name }) => stderr.includes(`unused parameter: ${name}=`))
  const known = unused.length > 0 ? ((await ask('-d')).stdout.match(/^\w+(?= =)/gm) ?? []) : []
  const problems = unused.map(({ file, at, name }) => {
    const meant = nearestOf(name, known)
    const isNew = meant !== undefined && !set.has(meant)
    const fix = isNew ? writeLine(file, at, at.text.replace(name, meant)) : deleteLine(file, at)
    const isNeeded = file === MAIN_CF && isNew && broken(POSTFIX_RULES, meant, undefined, facts)
    const evidence = `${placeOf(file, at)}: Postfix has no parameter ${name}${meant ? `; meant is ${meant}?` : ''}`
    return (isNeeded ? failure : warning)(evidence, fix)
  })
  return verdict(problems, `${all.length} names, asked of postconf`)
}

/** Parameters that the engine sets from the environment file, in forms of its own. */
const MADE =
  /^(mydestination|inet_\w+|mynetworks|virtual_\w+|smtpd_sasl_auth_enable|transport_maps|local_recipient_maps|luser_relay)$/
/** Daemons of Postfix that mail goes through, which run the program of their own name. */
const OWN_PROGRAM = /^(local|lmtp|error|cleanup|qmgr|rewrite)$/

export async function wayOut(facts: Facts): Promise<Finding[]> {
  const engine = await facts.server()
  const folder = engine.name === 'docker' ? '/etc/postfix' : `${facts.settings().stateDir}/postfix`
  const services = ((await engine.readFile(`${folder}/master.cf`)) ?? '').match(/^\w.*/gm) ?? []
  const parameters = await facts.ask('postconf', '-n')
  const restart = 'npm stop && npm start'
  const problems = services.flatMap((line) => {
    const [name = '', type = '', , , , , , program = ''] = line.split(/\s+/)
    const is = `the running Postfix: the service ${name}/${type} runs ${program}`
    if (program === 'smtp' && !/amavis/.test(name)) return [failure(`${is}, an SMTP client: mail could leave`, restart)]
    const isOther = OWN_PROGRAM.test(name) && program !== name.replace(/^rewrite$/, 'trivial-rewrite')
    return isOther ? [failure(is, restart)] : []
  })
  const running = [...parameters.stdout.matchAll(/^(\w+) =[ \t]*(.*)$/gm)]
  // Releases up to 10 name their milters by parameters of their own.
  const own = new Map(
    running.flatMap(([, name = '', value = '']) => (/_milter$/.test(name) ? [[`$${name}`, value]] : [])),
  )
  for (const [, name = '', text = ''] of running) {
    const value = text.replace(/\$\w+/g, (word) => own.get(word) ?? word)
    // What the file says is judged there; where the two differ, "live" says so.
    if (facts.settingsOf(MAIN_CF).has(name) || (MADE.test(name) && value !== '')) continue
    const rule = broken(POSTFIX_RULES, name, value, facts)
    if (rule?.level === 'failure')
      problems.push(failure(`the running Postfix: ${name} = ${value}: ${rule.why}`, restart))
  }
  return verdict(problems, `${running.length} parameters asked of postconf`)
}

export function dovecot(facts: Facts): Finding[] {
  const problems = ['dovecot.cf', 'dovecot-2.4.cf'].map(inConfig).flatMap((file) => {
    const text = facts.read(file)
    const entries = entriesOf(text, false).map((at) => ({ at, pair: /^(\w+)\s*=\s*(.*)$/.exec(at.text) ?? [] }))
    const found = entries.flatMap(({ at, pair: [, name = '', value = ''] }) =>
      judge(facts, file, DOVECOT_RULES, new Map([[name, { name, value, at }]])),
    )
    const [open, close] = [/\{\s*$/gm, /^\s*\}/gm].map((brace) => text.match(brace)?.length ?? 0)
    if (open !== close) found.push(failure(`${file} opens ${open} braces and closes ${close}`))
    if (text !== '' && !/^\s*master\s*=\s*yes/m.test(text))
      found.push(failure(`${file} has no passdb with master = yes, and the scripts cannot log in`))
    return found
  })
  return verdict(problems, `${DOVECOT_RULES.length} rules`)
}
