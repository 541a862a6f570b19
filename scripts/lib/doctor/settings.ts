/** The environment file, Postfix's and Dovecot's settings, in the files and on the running server, held against the rules. */
import { nearestOf } from '../cli.ts'
import { $ } from '../server/shell.ts'
import { addLine, deleteLine, type Finding, failure, placeOf, Skipped, verdict, warning, writeLine } from './check.ts'
import { ANSWER, ASSIGNMENT, ENV_FILE, type Facts, inConfig, MAIN_CF, MASTER_CF, type Setting } from './facts.ts'
import * as rules from './rules.ts'
import { broken, type Rule } from './rules.ts'
import { VARIABLES } from './values.ts'

/** What the rules say against the settings of a file, and about those that are not there. */
function judge(facts: Facts, file: string, rules: readonly Rule[], set: Setting[], equals = ' = '): Finding[] {
  const names = set.map(({ name }) => name)
  const needed = new Set(rules.flatMap(({ names, needed }) => (needed ? names.split('|') : [])))
  // A misspelt name is another check's matter.
  const unset = [...needed].filter((name) => !names.includes(name) && !nearestOf(name, names, 2))
  return [...set, ...unset.map((name) => ({ name, value: undefined, at: undefined }))].flatMap(
    ({ name, value, at }): Finding[] => {
      const rule = broken(rules, name, value, facts)
      if (!rule) return []
      const { level, why, write: right } = rule
      const line = `${name}${equals}${right}`.trim()
      const fix = !at ? addLine(file, line) : right === undefined ? deleteLine(file, at) : writeLine(file, at, line)
      const evidence = at ? `${placeOf(file, at)}: ${at.text}` : `${file}: ${name} is not set`
      // What stands there already would heal nothing: the cause lies elsewhere.
      const isCertain = right !== null && value !== right
      return [{ level, evidence: `${evidence}: ${why}`, fix: isCertain ? fix : undefined }]
    },
  )
}

/** The variables of the environment file with the values that docker-mailserver gets; of several lines the last one counts. */
function variablesOf(facts: Facts): Setting[] {
  const values = facts.environment()
  const lines = facts.assignments(ENV_FILE, false).map((one) => ({ ...one, value: values[one.name] ?? one.value }))
  return [...new Map(lines.map((one) => [one.name, one])).values()]
}

/** Whether the release that is to run knows a variable: one that does not, does not do either what it asks for. */
function isOfRelease(facts: Facts, name: string): boolean {
  const other = Number.parseInt(facts.settings().dmsVersion, 10) <= 10 ? '15' : '10'
  return !VARIABLES[other].includes(name)
}

export async function environment(facts: Facts): Promise<Finding[]> {
  const own = rules.ENVIRONMENT_RULES.filter(({ names }) => names.split('|').some((name) => isOfRelease(facts, name)))
  return verdict(judge(facts, ENV_FILE, own, variablesOf(facts), '='), `${own.length} rules`)
}

export function environmentNames(facts: Facts): Finding[] {
  const known = Object.values(VARIABLES).flat()
  const set = variablesOf(facts)
  const problems = set.flatMap(({ name, value, at }) => {
    // Turned off it does no harm.
    if (known.includes(name) && (isOfRelease(facts, name) || /^0?$/.test(value))) return []
    const meant = known.includes(name) ? undefined : nearestOf(name, known)
    const who = known.includes(name) ? `release ${facts.settings().dmsVersion}` : 'docker-mailserver'
    const fact = `${name} is not known to ${who}, and has no effect${meant ? `; meant is ${meant}?` : ''}`
    // A name that stands there already is not what was meant, or means it twice.
    const isNew = meant && !set.some((other) => other.name === meant)
    const fix = isNew ? writeLine(ENV_FILE, at, `${meant}=${value}`) : deleteLine(ENV_FILE, at)
    // The line may be a secret, and nothing for a screen.
    return [warning(`${placeOf(ENV_FILE, at)}: ${fact}`, !/PASS|PW|SECRET/i.test(name) && fix)]
  })
  const odd = facts.entries(ENV_FILE, false).filter(({ text }) => !ASSIGNMENT.test(text))
  const lost = odd.map((at) => warning(`${placeOf(ENV_FILE, at)}: this is not NAME=value, and has no effect`))
  return verdict([...problems, ...lost], `${set.length} names`)
}

/** The services that a line of postfix-master.cf may name; smtpd/pass is docker-mailserver's for port 25. */
const SERVICES = /^((smtp|submissions?|smtps)\/inet|smtpd\/pass|(lmtp|local|cleanup|qmgr|rewrite|error|bounce)\/unix)$/
/** Services on other ports speak TLS from the first byte, and insist on a login. */
const SUBMISSION = /^((submissions|smtps)\/inet\/smtpd_tls_wrappermode|subm\w+\/inet\/smtpd_recipient_restrictions)\b/

/** A line of postfix-master.cf: service/type/parameter=value. */
function parseMaster({ text }: { text: string }) {
  const [, service = '', name = '', value = ''] = /^([^/\s]+\/[^/\s]+)\/(\w+)\s*=\s*(.*)$/.exec(text) ?? []
  return { service, name, value }
}

export async function mainCf(facts: Facts): Promise<Finding[]> {
  facts.needs(MAIN_CF)
  const set = [...facts.mainCf().values()]
  const problems = judge(facts, MAIN_CF, rules.POSTFIX_RULES, set)
  for (const at of facts.entries(MAIN_CF).filter(({ text }) => !ASSIGNMENT.test(text)))
    problems.push(failure(`${placeOf(MAIN_CF, at)}: "${at.text}" is not "parameter = value"`, deleteLine(MAIN_CF, at)))
  for (const at of facts.entries(MASTER_CF)) {
    const { service, name, value } = parseMaster(at)
    const whose = SUBMISSION.test(at.text) ? `${service}/${name}` : name
    const rule = broken(rules.POSTFIX_RULES, whose, value, facts)
    const odd = service ? `Postfix has no service ${service}` : 'this is not service/type/parameter=value'
    const map = name === 'transport_maps' ? 'one service has another map' : undefined
    const why = SERVICES.test(service) ? (rule?.why ?? map) : odd
    const evidence = `${placeOf(MASTER_CF, at)}: ${at.text}: ${why}`
    const fix = rule?.write === null ? undefined : deleteLine(MASTER_CF, at)
    if (why) problems.push({ level: rule?.level ?? 'failure', evidence, fix })
  }
  return verdict(problems, `${set.length} parameters, ${rules.POSTFIX_RULES.length} rules`)
}

/** postconf(1) warns about parameters that nothing uses, and of $names that nothing sets, which Postfix itself passes over. */
export async function mainCfNames(facts: Facts): Promise<Finding[]> {
  facts.needs(MAIN_CF)
  const all = [
    ...[...facts.mainCf().values()].map((one) => ({ ...one, file: MAIN_CF })),
    ...facts.entries(MASTER_CF).map((at) => ({ ...parseMaster(at), at, file: MASTER_CF })),
  ].filter(({ name }) => name)
  const isHere = !(await facts.isInContainer()) && !(await facts.isLive())
  const folder = isHere ? facts.postfix('names', all.map(({ name, value }) => `${name} = ${value}\n`).join('')) : ''
  const ask = (option: string) =>
    isHere ? $({ timeout: ANSWER })`postconf -c ${folder} ${option}` : facts.ask('postconf', option)
  const { stderr, exitCode } = await ask('-n')
  if (exitCode === 127) throw new Skipped('Postfix is not installed yet')
  const said = [...stderr.matchAll(/(unused|undefined) parameter: (\w+)/g)]
  const known = said.length > 0 ? ((await ask('-d')).stdout.match(/^\w+(?= =)/gm) ?? []) : []
  const problems = said.flatMap(([, how, odd = '']) => {
    const isUnused = how === 'unused'
    const isUsed = (value: string) => new RegExp(`\\$[{(]?${odd}\\b`).test(value)
    const found = all.find(({ name, value }) => (isUnused ? name === odd : isUsed(value)))
    if (!found) return []
    const { file, at } = found
    const meant = nearestOf(odd, known)
    const isNew = meant !== undefined && (!isUnused || !facts.mainCf().has(meant))
    const fix = isNew ? writeLine(file, at, at.text.replace(odd, meant)) : deleteLine(file, at)
    const isNeeded = isUnused && isNew && file === MAIN_CF && broken(rules.POSTFIX_RULES, meant, undefined, facts)
    const fact = isUnused ? `Postfix has no parameter ${odd}` : `nothing sets $${odd}, which is empty then`
    return [(isNeeded ? failure : warning)(`${placeOf(file, at)}: ${fact}${meant ? `; meant is ${meant}?` : ''}`, fix)]
  })
  return verdict(problems, `${all.length} names, asked of postconf`)
}

/** Parameters that the engine sets from the environment file, in forms of its own. */
const MADE =
  /^(mydestination|inet_\w+|mynetworks|myhostname|message_size_limit|virtual_\w+|smtpd_sasl_auth_enable|transport_maps|local_recipient_maps|luser_relay|smtpd_tls_\w+files?)$/

export async function wayOut(facts: Facts): Promise<Finding[]> {
  const engine = await facts.server()
  const services = (await facts.ask('postconf', '-M')).stdout.match(/^\S.*/gm) ?? []
  const wrong = services.flatMap((line) => {
    const [name = '', type, , , , , , program] = line.split(/\s+/)
    const isClient = program === 'smtp' && !/amavis/.test(name)
    return isClient ? [`the service ${name}/${type} is an SMTP client: mail could leave`] : []
  })
  const { stdout } = await facts.ask('postconf', '-n')
  const all = [...stdout.matchAll(/^(\w+) =[ \t]*(.*)$/gm)].map(([, name = '', value = '']) => [name, value] as const)
  const running = new Map(all)
  for (const [name, text] of running) {
    // Releases up to 10 name their milters by parameters of their own.
    const value = text.replace(/\$(\w+_milter)\b/g, (word, other) => running.get(other) ?? word)
    // What the file says is judged there; where the two differ, "live" says so.
    if (facts.mainCf().has(name) || (MADE.test(name) && value !== '')) continue
    const rule = broken(rules.POSTFIX_RULES, name, value, facts)
    if (rule?.level === 'failure') wrong.push(`${name} = ${value}: ${rule.why}`)
  }
  // Natively "live" has found no difference: the files that the engine makes them from say so.
  const fix = engine.name === 'native' ? 'git checkout -- docker-data/native && npm start' : 'npm stop && npm start'
  const problems = wrong.map((fact) => failure(`the running Postfix: ${fact}`, fix))
  return verdict(problems, `${running.size} parameters asked of postconf`)
}

export function dovecot(facts: Facts): Finding[] {
  const problems = Object.entries(rules.DOVECOT_FILES).flatMap(([name, own]) => {
    const file = inConfig(name)
    if (facts.read(file) === '') return []
    const found = judge(facts, file, [own, ...rules.DOVECOT_RULES], facts.assignments(file, false))
    const hasMaster = /^\s*master\s*=\s*yes/m.test(facts.read(file))
    const lacks = failure(`${file} has no passdb with master = yes, and the scripts cannot log in`)
    return hasMaster ? found : [...found, lacks]
  })
  const users = inConfig('dovecot-master-users')
  if (!facts.problem(users) && !/^[^#:\s]+:\{PLAIN\}[^:\s]+/m.test(facts.read(users)))
    problems.push(failure(`${users} has no line user:{PLAIN}password`, `git checkout -- ${users}`))
  return verdict(problems, `${rules.DOVECOT_RULES.length} rules`)
}
