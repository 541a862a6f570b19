/** The environment file, Postfix's and Dovecot's settings, in the files and on the running server, held against the rules. */
import { type Entry, entriesOf } from '../accounts/tables.ts'
import { nearestOf } from '../cli.ts'
import { isFree } from '../server/ports.ts'
import { $ } from '../server/shell.ts'
import { addLine, deleteLine, type Finding, failure, placeOf, Skipped, verdict, warning, writeLine } from './check.ts'
import { ANSWER, ENV_FILE, type Facts, inConfig, MAIN_CF, MASTER_CF, type Setting } from './facts.ts'
import {
  broken,
  DOVECOT_FILES,
  DOVECOT_RULES,
  ENVIRONMENT_RULES,
  POSTFIX_RULES,
  type Rule,
  VARIABLES,
} from './rules.ts'

/** What the rules say against the settings of a file, and about those that are not there. */
function judge(facts: Facts, file: string, rules: readonly Rule[], set: Setting[], equals = ' = '): Finding[] {
  const names = set.map(({ name }) => name)
  const needed = rules.flatMap(({ names, needed }) => (needed ? names.split('|') : []))
  // A misspelt name is another check's matter.
  const unset = new Set(needed.filter((name) => !names.includes(name) && !nearestOf(name, names, 2)))
  return [...set, ...[...unset].map((name) => ({ name, value: undefined, at: undefined }))].flatMap(
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

/** The lines of the environment file that set a variable, with the values that docker-mailserver gets, and the other ones. */
function linesOf(facts: Facts): { set: Setting[]; odd: Entry[] } {
  const entries = entriesOf(facts.read(ENV_FILE), false)
  const nameOf = ({ text }: Entry) => /^(?:export\s+)?(\w+)\s*=/.exec(text)?.[1] ?? ''
  const set = Object.entries(facts.environment()).map(([name, value]) => {
    const at = entries.findLast((entry) => nameOf(entry) === name) ?? { text: '', lines: [0] }
    return { name, value, at }
  })
  return { set, odd: entries.filter((entry) => nameOf(entry) === '') }
}

/** Whether the release that is to run knows a variable: one that does not, does not do either what it asks for. */
function isOfRelease(facts: Facts, name: string): boolean {
  const other = Number.parseInt(facts.settings().dmsVersion, 10) <= 10 ? '15' : '10'
  return !VARIABLES[other].includes(name)
}

export async function environment(facts: Facts): Promise<Finding[]> {
  await facts.choice().catch(() => {})
  const rules = ENVIRONMENT_RULES.filter(({ names }) => names.split('|').some((name) => isOfRelease(facts, name)))
  return verdict(judge(facts, ENV_FILE, rules, linesOf(facts).set, '='), `${rules.length} rules`)
}

export function environmentNames(facts: Facts): Finding[] {
  const known = Object.values(VARIABLES).flat()
  const { set, odd } = linesOf(facts)
  const problems = set.flatMap(({ name, value, at }) => {
    const is = `${placeOf(ENV_FILE, at)}: ${name} is not known to`
    // The line may be a secret, and nothing for a screen.
    const fixOf = (fix: string) => (/PASS|PW|SECRET/i.test(name) ? undefined : fix)
    const old = `${is} release ${facts.settings().dmsVersion}, and has no effect`
    if (known.includes(name)) {
      // Turned off it does no harm.
      return isOfRelease(facts, name) || /^0?$/.test(value) ? [] : [warning(old, fixOf(deleteLine(ENV_FILE, at)))]
    }
    const meant = nearestOf(name, known)
    // A name that stands there already is not what was meant, or means it twice.
    const isNew = meant && !set.some((other) => other.name === meant)
    const fix = isNew ? writeLine(ENV_FILE, at, `${meant}=${value}`) : deleteLine(ENV_FILE, at)
    return [warning(`${is} docker-mailserver${meant ? `; meant is ${meant}?` : ''}`, fixOf(fix))]
  })
  const lost = odd.map((at) => warning(`${placeOf(ENV_FILE, at)}: this is not NAME=value, and has no effect`))
  return verdict([...problems, ...lost], `${set.length} names`)
}

/** A line of postfix-master.cf: service/type/parameter=value. */
const MASTER_LINE = /^(?<service>[^/\s]+\/[^/\s]+)\/(?<name>\w+)\s*=\s*(?<value>.*)$/
/** The services that it may name; smtpd/pass is docker-mailserver's for port 25. */
const SERVICES = /^((smtp|submissions?|smtps)\/inet|smtpd\/pass|(lmtp|local|cleanup|qmgr|rewrite|error|bounce)\/unix)$/
/** Services on other ports may speak TLS from the first byte, and insist on a login. */
const SUBMISSION = /^subm\w+\/inet\/(smtpd_tls_wrappermode|smtpd_(client|relay|recipient)_restrictions)\b/

export async function mainCf(facts: Facts): Promise<Finding[]> {
  facts.needs(MAIN_CF)
  await facts.choice().catch(() => {})
  const set = [...facts.settingsOf(MAIN_CF).values()]
  const problems = judge(facts, MAIN_CF, POSTFIX_RULES, set)
  const odd = facts.entries(MAIN_CF).filter(({ text }) => !/^[^=\s]+\s*=/.test(text))
  for (const at of odd)
    problems.push(failure(`${placeOf(MAIN_CF, at)}: "${at.text}" is not "parameter = value"`, deleteLine(MAIN_CF, at)))
  for (const at of facts.entries(MASTER_CF)) {
    const { service = '', name = '', value = '' } = MASTER_LINE.exec(at.text)?.groups ?? {}
    const rule = SUBMISSION.test(at.text) ? undefined : broken(POSTFIX_RULES, name, value, facts)
    const odd = service ? `Postfix has no service ${service}` : 'this is not service/type/parameter=value'
    const map = name === 'transport_maps' ? 'one service has another map' : undefined
    const why = SERVICES.test(service) ? (rule?.why ?? map) : odd
    const fix = rule?.write === null ? undefined : deleteLine(MASTER_CF, at)
    const evidence = `${placeOf(MASTER_CF, at)}: ${at.text}: ${why}`
    if (why) problems.push({ level: rule?.level ?? 'failure', evidence, fix })
  }
  // Programs on this machine that Postfix asks about mail, and that do not answer: the mail is refused, or waits.
  for (const { name, value, at } of set) {
    if (!/filter|milters|restrictions/.test(name) || broken(POSTFIX_RULES, name, value, facts)) continue
    for (const [where, host = '', port] of value.matchAll(/\[?(127(?:\.\d+){3}|localhost|::1)\]?:(\d+)/g)) {
      if (!(await isFree(host, Number(port)))) continue
      const evidence = `${placeOf(MAIN_CF, at)}: ${at.text}: nothing answers at ${where}`
      problems.push(failure(evidence, deleteLine(MAIN_CF, at)))
    }
  }
  return verdict(problems, `${set.length} parameters, ${POSTFIX_RULES.length} rules`)
}

/** postconf(1) warns about parameters that nothing uses, and of $names that nothing sets, which Postfix itself passes over. */
export async function mainCfNames(facts: Facts): Promise<Finding[]> {
  facts.needs(MAIN_CF)
  const set = facts.settingsOf(MAIN_CF)
  const inMaster = facts.entries(MASTER_CF).flatMap((at) => {
    const { name, value = '' } = MASTER_LINE.exec(at.text)?.groups ?? {}
    return name ? [{ name, value, at }] : []
  })
  const all = [
    ...[...set.values()].map((one) => ({ file: MAIN_CF, ...one })),
    ...inMaster.map((one) => ({ file: MASTER_CF, ...one })),
  ]
  const isHere = !(await facts.isInContainer()) && !(await facts.isLive())
  const folder = isHere ? facts.postfix('names', all.map(({ name, value }) => `${name} = ${value}\n`).join('')) : ''
  const ask = (option: string) =>
    isHere ? $({ timeout: ANSWER })`postconf -c ${folder} ${option}` : facts.ask('postconf', option)
  const { stderr, exitCode } = await ask('-n')
  if (exitCode === 127) throw new Skipped('Postfix is not installed yet')
  const odd = [...stderr.matchAll(/(unused|undefined) parameter: (\w+)/g)].flatMap(([, how, odd = '']) => {
    const isUsed = (value: string) => new RegExp(`\\$[{(]?${odd}\\b`).test(value)
    const at = all.find(({ name, value }) => (how === 'unused' ? name === odd : isUsed(value)))
    return at ? [{ ...at, odd, how }] : []
  })
  const known = odd.length > 0 ? ((await ask('-d')).stdout.match(/^\w+(?= =)/gm) ?? []) : []
  const problems = odd.map(({ file, at, odd, how }) => {
    const meant = nearestOf(odd, known)
    const isNew = meant !== undefined && (how === 'undefined' || !set.has(meant))
    const fix = isNew ? writeLine(file, at, at.text.replace(odd, meant)) : deleteLine(file, at)
    const isNeeded = file === MAIN_CF && how === 'unused' && isNew && broken(POSTFIX_RULES, meant, undefined, facts)
    const fact = how === 'unused' ? `Postfix has no parameter ${odd}` : `nothing sets $${odd}, which is empty then`
    return (isNeeded ? failure : warning)(`${placeOf(file, at)}: ${fact}${meant ? `; meant is ${meant}?` : ''}`, fix)
  })
  return verdict(problems, `${all.length} names, asked of postconf`)
}

/** Parameters that the engine sets from the environment file, in forms of its own. */
const MADE =
  /^(mydestination|inet_\w+|mynetworks|myhostname|virtual_\w+|smtpd_sasl_auth_enable|transport_maps|local_recipient_maps|luser_relay|smtpd_tls_\w+files?)$/
/** Daemons of Postfix that mail goes through, which run the program of their own name. */
const OWN_PROGRAM = /^(local|lmtp|error|cleanup|qmgr|rewrite)$/

export async function wayOut(facts: Facts): Promise<Finding[]> {
  const engine = await facts.server()
  const folder = engine.name === 'docker' ? '/etc/postfix' : `${facts.settings().stateDir}/postfix`
  const services = (await facts.ask('cat', '--', `${folder}/master.cf`)).stdout.match(/^\w.*/gm) ?? []
  const wrong = services.flatMap((line) => {
    const [name = '', type, , , , , , program] = line.split(/\s+/)
    const isOther = OWN_PROGRAM.test(name) && program !== name.replace(/^rewrite$/, 'trivial-rewrite')
    const isClient = program === 'smtp' && !/amavis/.test(name)
    const why = isClient ? ', an SMTP client: mail could leave' : ''
    return isClient || isOther ? [`the service ${name}/${type} runs ${program}${why}`] : []
  })
  const { stdout } = await facts.ask('postconf', '-n')
  const running = [...stdout.matchAll(/^(\w+) =[ \t]*(.*)$/gm)].map(
    ([, name = '', value = '']) => [name, value] as const,
  )
  const values = new Map(running)
  for (const [name, text] of running) {
    // Releases up to 10 name their milters by parameters of their own.
    const value = text.replace(/\$(\w+_milter)\b/g, (word, other) => values.get(other) ?? word)
    // What the file says is judged there; where the two differ, "live" says so.
    if (facts.settingsOf(MAIN_CF).has(name) || (MADE.test(name) && value !== '')) continue
    const rule = broken(POSTFIX_RULES, name, value, facts)
    if (rule?.level === 'failure') wrong.push(`${name} = ${value}: ${rule.why}`)
  }
  const problems = wrong.map((fact) => failure(`the running Postfix: ${fact}`, 'npm stop && npm start'))
  return verdict(problems, `${running.length} parameters asked of postconf`)
}

export function dovecot(facts: Facts): Finding[] {
  const problems = Object.entries(DOVECOT_FILES).flatMap(([name, own]) => {
    const file = inConfig(name)
    const text = facts.read(file)
    if (text === '') return []
    const set = entriesOf(text, false).map((at) => {
      const [, name = '', value = ''] = /^(\w+)\s*=\s*(.*)$/.exec(at.text) ?? []
      return { name, value, at }
    })
    const found = judge(facts, file, [own, ...DOVECOT_RULES], set)
    if (!/^\s*master\s*=\s*yes/m.test(text))
      found.push(failure(`${file} has no passdb with master = yes, and the scripts cannot log in`))
    return found
  })
  return verdict(problems, `${DOVECOT_RULES.length} rules`)
}
