/** The running server: that it may start, runs, holds its ports, is what the files describe, and has room for mail. */
import { X509Certificate } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createSecureContext } from 'node:tls'
import { CATCHALL, parseAccounts } from '../accounts/accounts.ts'
import { messageOf } from '../cli.ts'
import { changedSince } from '../server/docker.ts'
import type { Engine } from '../server/engine.ts'
import { namesBelow, VMAIL_ID } from '../server/native_configuration.ts'
import { holdersOf, isFree } from '../server/ports.ts'
import { readOr } from '../server/processes.ts'
import { isRoot } from '../server/root.ts'
import { CONTAINER, enabledServices, SERVICES } from '../settings.ts'
import { addLine, type Finding, failure, ok, Skipped, verdict, warning } from './check.ts'
import { wantedOf } from './compose.ts'
import { ACCOUNTS, ANSWER, CONFIG, ENV_FILE, type Facts, MAIN_CF, QUOTAS } from './facts.ts'
import { blamed, blamedIn, causeIn, explained } from './log.ts'
import { folders, processes } from './machine.ts'

export async function ports(facts: Facts): Promise<Finding[]> {
  const { bindAddress, ports: taken, stateDir } = facts.settings()
  const { engine } = await facts.choice()
  const isUp = engine ? await facts.isRunning() : false
  if (!isUp && (await engine?.half())) throw new Skipped('half of the server runs, see "running"')
  const services = enabledServices(facts.environment())
  // What it was started with it holds as long as it runs; to look at all processes of the machine takes long.
  const started = isUp && facts.isNative ? readOr(`${stateDir}/started.json`) : ''
  if (started.includes(JSON.stringify(JSON.stringify({ bindAddress, ports: taken, services }))))
    return [ok('held by the server since its start')]
  const holders = holdersOf(services.map((name) => taken[name]))
  const problems: Finding[] = []
  const closed: string[] = []
  for (const name of services) {
    const [port, { variable, protocol }] = [taken[name], SERVICES[name]]
    const [holder, isClosed] = [holders.get(port), await isFree(bindAddress, port)]
    if (isClosed && isUp) closed.push(`${port} (${protocol})`)
    if (isClosed || (isUp && (!holder || engine?.owns(holder) || !isRoot))) continue
    let free = 10_000 + (port % 10_000)
    while (Object.values(taken).includes(free) || !(await isFree(bindAddress, free))) free++
    // What the environment says wins over .env.
    const fix = process.env[variable] ? `export ${variable}=${free}` : addLine('.env', `${variable}=${free}`)
    const who = holder ? `${holder.name} (pid ${holder.pid})` : 'another process'
    problems.push(failure(`port ${port} (${protocol}) on ${bindAddress} is in use by ${who}`, fix))
  }
  const other = `nothing listens on ${closed.join(', ')}: the server was started with other ports`
  if (closed.length > 0) problems.push(failure(other, 'npm start'))
  return verdict(problems, isUp ? 'held by the server' : 'free')
}

export async function start(facts: Facts): Promise<Finding[]> {
  facts.environment()
  const refusal = await facts.refusal()
  if (!refusal && (await facts.engine()).name === 'docker') await facts.server()
  if (!refusal) return [ok('tried: Postfix and Dovecot read them')]
  const line = blamed(facts, refusal)
  return [line && !/docker-data\S+ line \d+:/.test(refusal) ? line : failure(refusal, line?.fix)]
}

export async function running(facts: Facts): Promise<Finding[]> {
  const engine = await facts.engine()
  if (await facts.isRunning()) return [ok(`engine: ${engine.name}`)]
  const half = await engine.half()
  const evidence = half ?? 'the server is not running'
  if (isRoot && (await facts.refusal())) return [failure(`${evidence}; npm start refuses the files`)]
  // A mail that was refused says nothing about a server that does not run, nor does a warning.
  const logged = (await engine.logged()).filter((line) => /\b(fatal|panic):|unknown smtpd restriction/i.test(line))
  const line = blamedIn(facts, logged)
  const cause = line?.evidence ?? causeIn(logged)
  const said = cause ? `${evidence}; the log of its last start: ${cause}` : evidence
  return [failure(said, line?.fix ?? 'npm start')]
}

/** The server, up and able to answer: what keeps it from that keeps everybody waiting. */
export async function answering(facts: Facts): Promise<Engine> {
  const engine = await facts.server()
  for (const [name, check] of Object.entries({ processes, ports, folders })) {
    const isSkipped = (error: unknown): Finding[] => (error instanceof Skipped ? [] : [failure(messageOf(error))])
    const findings = await facts.once(`check ${name}`, () => check(facts)).catch(isSkipped)
    if (findings.some(({ level }) => level === 'failure')) throw new Skipped(`it could only wait, see "${name}"`)
  }
  await facts.logged()
  return engine
}

export async function live(facts: Facts): Promise<Finding[]> {
  return (await facts.server()).name === 'native' ? liveNative(facts) : liveDocker(facts)
}

/** npm start would change the files in the state folder that differ from what it makes now. */
async function liveNative(facts: Facts): Promise<Finding[]> {
  if (await facts.isLive()) return [ok('no file was written since it was started')]
  const { folder, refusal } = await facts.made()
  if (refusal) throw new Skipped('npm start refuses the files, see "start"')
  const { stateDir } = facts.settings()
  const namesIn = (dir: string, part: string) => namesBelow(join(dir, part)).map((name) => `${part}/${name}`)
  const names = [...namesIn(folder, 'config'), ...namesIn(stateDir, 'config')]
  const made = ['postfix', 'dovecot'].flatMap((part) => namesIn(folder, part))
  // This machine's networks come and go.
  const linesOf = (path: string) =>
    readOr(path)
      .replace(/^mynetworks =.*$/m, '')
      .split('\n')
  const changed = [...new Set([...names, ...made])].flatMap((name) => {
    const [right, is] = [linesOf(join(folder, name)), linesOf(join(stateDir, name))]
    if (/\.(tmp|lock)$/.test(name) || right.join() === is.join()) return []
    // Settings are told; what else differs may be a secret.
    const lines = name === 'postfix/main.cf' ? is.filter((one) => !right.includes(one)) : []
    return [name.replace(/^config/, CONFIG) + (lines.length > 0 ? `: ${lines.join('; ')}` : '')]
  })
  const own = changed.filter((name) => name.startsWith(CONFIG)).join(', ')
  const evidence = own ? `${own}: changed since the server read it` : `not as the files say: ${changed.join(', ')}`
  const problems = changed.length > 0 ? [failure(evidence, 'npm start')] : []
  return verdict(problems, 'all files are as npm start would make them')
}

/** The image and the published ports of a container, in the form of `wantedOf`. */
const PUBLISHED =
  '{{.Config.Image}}{{range $port, $all := .HostConfig.PortBindings}}{{range $all}} {{.HostIp}}:{{.HostPort}}->{{$port}}{{end}}{{end}}'

async function liveDocker(facts: Facts): Promise<Finding[]> {
  const plain = (value = '') => value.replace(/\s+/g, ' ').trim()
  const { stdout: parameters } = await facts.ask('postconf', '-n')
  const problems = [...parameters.matchAll(/^(\w+) =(.*)$/gm)].flatMap(([, name = '', value]) => {
    const right = facts.mainCf().get(name)?.value ?? value
    // docker-mailserver sets this one for port 25 by itself.
    if (name === 'smtpd_sasl_auth_enable' || plain(right) === plain(value)) return []
    return [failure(`the running Postfix has ${name} = ${plain(value)}, and ${MAIN_CF} says ${right}`, 'npm start')]
  })
  const { stdout: userdb } = await facts.ask('cat', '/etc/dovecot/userdb')
  const accounts = userdb === '' ? [] : parseAccounts(facts.read(ACCOUNTS), undefined, () => {})
  const other = accounts.find(({ address, hash }) => !userdb.includes(`${address}:${hash}:`))
  const fact = `the running server has another password for ${other?.address}, or no such account, than ${ACCOUNTS}`
  if (other) problems.push(failure(fact, 'npm stop && npm start'))
  const made = await facts.inspect('{{json .Config.Env}}')
  const set = Object.entries(facts.environment()).find((set) => !made.includes(JSON.stringify(set.join('='))))
  if (set && made.length > 2)
    problems.push(failure(`the container was made with another ${set[0]} than ${ENV_FILE} has now`, 'npm start'))
  const wanted = await wantedOf(facts)
  const is = (await facts.inspect(PUBLISHED)).replaceAll('/tcp', '').split(' ').sort()
  if (wanted && is.length > 1 && wanted.join() !== is.join())
    problems.push(failure('the container has other ports, or another release, than Compose and .env say', 'npm start'))
  const changed = changedSince(new Date(await facts.inspect('{{.Created}}'))).join(', ')
  if (problems.length === 0 && changed)
    problems.push(warning(`${changed}: changed since the container was made`, 'npm start'))
  return verdict(problems, 'its parameters, accounts and environment are those of the files')
}

export async function certificate(facts: Facts): Promise<Finding[]> {
  const engine = await facts.server()
  if (!facts.environment().SSL_TYPE) return [ok('TLS is off (SSL_TYPE is empty)')]
  const { stdout } = await facts.ask('postconf', '-n')
  const values = stdout.match(/^smtpd_tls_(chain_files|key_file|cert_file) = .*$/gm) ?? []
  const paths = [...new Set(values.flatMap((line) => line.split(/[\s,]+/)).filter((path) => path.startsWith('/')))]
  const made = `${facts.settings().stateDir}/tls/`
  const fix =
    paths.length > 0 && paths.every((path) => path.startsWith(made)) && `rm ${made}*.pem && npm stop && npm start`
  const files = await Promise.all(paths.map((path) => engine.exec(['cat', '--', path])))
  const text = files.map(({ stdout }) => stdout).join('\n')
  try {
    // Throws where the key is that of another certificate.
    createSecureContext({ key: text, cert: text })
    const found = new X509Certificate(text.slice(text.indexOf('-----BEGIN CERTIFICATE')))
    const days = (Date.parse(found.validTo) - Date.now()) / 86_400_000
    const find = days < 0 ? failure : days < 14 ? warning : ok
    return [find(`the certificate ends on ${found.validTo}`, days < 14 && fix)]
  } catch (error) {
    return [failure(`${paths.join(', ')}: this is no key with its certificate: ${messageOf(error)}`, fix)]
  }
}

/** What of a domain, a mailbox in it, and what lies there, Dovecot cannot use. It makes files that nobody may write. */
const UNUSABLE = `! -uid ${VMAIL_ID} -o -type d ! -perm -700 -o -type f ! -perm -400`

export async function mailboxes(facts: Facts): Promise<Finding[]> {
  const isNative = (await facts.server()).name === 'native'
  const folder = isNative ? join(facts.settings().stateDir, 'mail') : '/var/mail'
  const about = '%p: it belongs to user %U and has mode %m'
  if (isNative && !existsSync(folder)) return [failure(`${folder} is not there`, 'npm start')]
  const which = ['-maxdepth', '3', '(', ...UNUSABLE.split(' '), ')', '-printf', about, '-quit']
  const { stdout } = await facts.ask('find', folder, ...which)
  const path = stdout.replace(/: it belongs.*/s, '')
  const commands = `chown -R ${VMAIL_ID}:${VMAIL_ID} ${path} && chmod -R u+rwX ${path}`
  const fix = isNative ? commands : `docker exec ${CONTAINER} sh -c '${commands}'`
  return verdict(path ? [failure(`${stdout}, and Dovecot works as ${VMAIL_ID}`, fix)] : [], folder)
}

export async function mailboxQuotas(facts: Facts): Promise<Finding[]> {
  await facts.server()
  const { SMTP_ONLY, ENABLE_QUOTAS, POSTFIX_MAILBOX_SIZE_LIMIT } = facts.environment()
  if (SMTP_ONLY === '1' || ENABLE_QUOTAS === '0') throw new Skipped('quotas are off')
  const hasLimits = /^[^#\n]*:\s*[1-9]/m.test(facts.read(QUOTAS))
  if (!hasLimits && Number(POSTFIX_MAILBOX_SIZE_LIMIT || 0) === 0) return [ok('no mailbox has a limit')]
  const { stdout, stderr, exitCode } = await facts.ask('doveadm', '-f', 'tab', 'quota', 'get', '-A')
  if (exitCode !== 0) throw new Skipped(`doveadm quota get: ${stderr.trim().split('\n')[0] || 'no answer'}`)
  // User, name, type, value and limit in kB, per cent.
  const rows = [...stdout.matchAll(/^.*\tSTORAGE\t.*$/gm)].map(([line]) => line.split('\t'))
  const full = rows.filter(([, , , , limit, percent]) => limit !== '-' && Number(percent) >= 100)
  const problems = full.map(([user = '', , , value, limit]) => {
    const quota = user === CATCHALL ? '0' : `${Math.ceil((Number(limit) * 2) / 1_024)}M`
    const evidence = `${user}: ${value} of ${limit} kB: full; its mail bounces`
    return failure(evidence, `npm run add-account -- ${user} --quota ${quota}`)
  })
  return verdict(problems, `${rows.length} mailboxes`)
}

interface Queued {
  queue_name: string
  queue_id: string
  recipients: { address: string; delay_reason?: string }[]
}

/** The mails in the queue, as postqueue(1) tells them. */
export async function queueOf(facts: Facts): Promise<Queued[]> {
  const { stdout, stderr, exitCode } = await (await facts.server()).exec(['postqueue', '-j'], { timeout: ANSWER })
  if (exitCode !== 0) throw new Error(`postqueue -j: ${stderr.trim() || 'no answer'}`)
  return stdout.split('\n').flatMap((line) => (line.startsWith('{') ? [JSON.parse(line)] : []))
}

export async function queue(facts: Facts): Promise<Finding[]> {
  const engine = await answering(facts)
  if (facts.environment().SMTP_ONLY === '1') throw new Skipped('SMTP_ONLY=1: accepted mail waits')
  const typed = (program: string, option: string) =>
    engine.name === 'native'
      ? `${program} -c ${facts.settings().stateDir}/postfix ${option}`
      : `docker exec ${CONTAINER} ${program} ${option}`
  const all = await queueOf(facts)
  const stuck = all.filter(({ queue_name }) => queue_name === 'deferred' || queue_name === 'hold')
  const reasonOf = ({ queue_name, recipients }: Queued) =>
    queue_name === 'hold' ? 'on hold' : (recipients.find((one) => one.delay_reason)?.delay_reason ?? 'no reason given')
  const problems = [...new Set(stuck.map(reasonOf))].map((reason) => {
    const [first, ...others] = stuck.filter((mail) => reasonOf(mail) === reason)
    const which = others.length === 0 ? `${first?.queue_id} to` : `${others.length + 1} mails, the first to`
    const is = `${which} ${first?.recipients[0]?.address}`
    const release = `${typed('postsuper', '-H ALL')} && ${typed('postqueue', '-f')}`
    if (reason === 'on hold') return failure(`${is}: on hold, which nothing but this ends`, release)
    // Where mail does not flow, and another try does not help, this is a symptom.
    return failure(`waits: ${is}: ${explained(reason)}`, typed('postqueue', '-f'))
  })
  return verdict(problems, all.length === 0 ? 'empty' : `${all.length} on their way`)
}
