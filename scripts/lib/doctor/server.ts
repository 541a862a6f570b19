/** The running server: that it may start, runs, holds its ports, is what the files describe, and has room for mail. */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { existsSync, lstatSync, readdirSync, readFileSync, type Stats } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { CATCHALL, parseAccounts } from '../accounts/accounts.ts'
import { entriesOf } from '../accounts/tables.ts'
import { messageOf } from '../cli.ts'
import type { Engine } from '../server/engine.ts'
import { holdersOf, isFree } from '../server/ports.ts'
import { processIds } from '../server/processes.ts'
import { isRoot } from '../server/root.ts'
import { $ } from '../server/shell.ts'
import { CONTAINER, enabledServices, SERVICES } from '../settings.ts'
import { type Finding, failure, Skipped, verdict, warning } from './check.ts'
import { ACCOUNTS, addLine, CONFIG, DOCKER, deleteLine, type Facts, filesIn, inConfig, MAIN_CF } from './facts.ts'

export async function ports(facts: Facts): Promise<Finding[]> {
  const { bindAddress, ports: taken } = facts.settings()
  const { engine } = await facts.choice()
  const isUp = engine ? await facts.isRunning() : false
  if (!isUp && (await engine?.half())) throw new Skipped('half of the server runs, see "running"')
  const services = enabledServices(facts.environment())
  const holders = holdersOf(services.map((name) => taken[name]))
  const problems: Finding[] = []
  const closed: string[] = []
  for (const name of services) {
    const [port, { variable, protocol }] = [taken[name], SERVICES[name]]
    const holder = holders.get(port)
    if (await isFree(bindAddress, port)) {
      if (isUp) closed.push(`${port} (${protocol})`)
      continue
    }
    if (isUp && (!holder || engine?.owns(holder) || !isRoot)) continue
    let free = 10_000 + (port % 10_000)
    while (Object.values(taken).includes(free) || !(await isFree(bindAddress, free))) free++
    // What the environment says wins over .env.
    const fix = process.env[variable] ? `export ${variable}=${free}` : addLine('.env', `${variable}=${free}`)
    const who = holder ? `${holder.name} (pid ${holder.pid})` : 'another process'
    problems.push(failure(`port ${port} (${protocol}) on ${bindAddress} is in use by ${who}`, fix))
  }
  const why = 'the server was started with other ports, or services, than now'
  if (closed.length > 0) problems.push(failure(`nothing listens on ${closed.join(', ')}: ${why}`, 'npm start'))
  return verdict(problems, isUp ? 'held by the server' : 'free')
}

export async function start(facts: Facts): Promise<Finding[]> {
  facts.environment()
  const refusal = await facts.refusal()
  const [, file = '', line] = /(\S+) line (\d+): Unknown setting/.exec(refusal ?? '') ?? []
  const fix = line && deleteLine(file, { lines: [Number(line)] })
  return verdict(refusal ? [failure(refusal, fix)] : [], 'tried: Postfix and Dovecot read them')
}

export async function running(facts: Facts): Promise<Finding[]> {
  const engine = await facts.engine()
  if (await facts.isRunning()) return verdict([], `engine: ${engine.name}`)
  const evidence = (await engine.half()) ?? 'the server is not running'
  const refused = isRoot && (await facts.refusal())
  return [refused ? failure(`${evidence}; npm start refuses the files`) : failure(evidence, 'npm start')]
}

export async function processes(facts: Facts): Promise<Finding[]> {
  const engine = await facts.server()
  if (engine.name === 'docker') {
    const { stdout } = await $({
      timeout: DOCKER,
    })`docker container inspect --format ${'{{.State.Paused}}'} ${CONTAINER}`
    const paused = failure('the container is paused', `docker unpause ${CONTAINER}`)
    return verdict(stdout.trim() === 'true' ? [paused] : [], 'all of them run')
  }
  /** A process's name and state. */
  const statOf = (pid: number) => /\((.*)\) (\S)/s.exec(textOf(`/proc/${pid}/stat`)) ?? []
  const stopped = processIds().filter((pid) => statOf(pid)[2] === 'T' && engine.owns({ pid, name: '' }))
  const names = [...new Set(stopped.map((pid) => statOf(pid)[1]))].join(', ')
  const what = `stopped by a signal (SIGSTOP): ${names}`
  return verdict(stopped.length > 0 ? [failure(what, `kill -CONT ${stopped.join(' ')}`)] : [], 'all of them run')
}

export async function folders(facts: Facts): Promise<Finding[]> {
  if ((await facts.server()).name === 'docker') throw new Skipped('in the container all can')
  const { stateDir } = facts.settings()
  for (let folder = stateDir; folder !== dirname(folder); folder = dirname(folder)) {
    if (!((statOr(folder)?.mode ?? 1) & 1))
      return [failure(`${folder}: only its owner can enter it, and Dovecot has to`, `chmod o+x ${folder}`)]
  }
  return verdict([], stateDir)
}

/** The server, up and able to answer: what keeps it from that keeps everybody waiting. */
export async function answering(facts: Facts): Promise<Engine> {
  const engine = await facts.server()
  for (const [name, check] of Object.entries({ processes, ports, folders })) {
    const findings = await facts.once(`check ${name}`, () => check(facts)).catch((): Finding[] => [])
    if (findings.some(({ level }) => level === 'failure')) throw new Skipped(`it could only wait, see "${name}"`)
  }
  return engine
}

/** The running server has the settings of the files. */
export async function live(facts: Facts): Promise<Finding[]> {
  const engine = await facts.server()
  return engine.name === 'native' ? liveNative(facts) : liveDocker(facts, engine)
}

/** npm start would change the files in the state folder that differ from what it makes now. */
async function liveNative(facts: Facts): Promise<Finding[]> {
  if (await facts.isLive()) return verdict([], 'no file was written since it was started')
  const { folder, refusal } = await facts.made()
  if (refusal) throw new Skipped('npm start refuses the files, see "start"')
  const { stateDir } = facts.settings()
  const below = (dir: string, parts: string[]) =>
    parts.flatMap((part) => filesIn(join(dir, part)).map((name) => join(part, name)))
  const names = [...new Set([...below(folder, ['config', 'postfix', 'dovecot']), ...below(stateDir, ['config'])])]
  const generated = /^postfix\/(aliases|.*\.db|.*lock|prng_exch)|~$|\.tmp$|\.lock$/
  // postconf(1) writes the lines of main.cf in no order, and this machine's networks come and go.
  const linesOf = (path: string) =>
    textOf(path)
      .split('\n')
      .filter((line) => !line.startsWith('mynetworks ='))
      .sort()
  const changed = names.filter(
    (name) => !generated.test(name) && linesOf(join(folder, name)).join() !== linesOf(join(stateDir, name)).join(),
  )
  if (changed.length === 0) return verdict([], `${names.length} files are as npm start would make them`)
  const own = changed.filter((name) => name.startsWith('config/')).map((name) => name.replace('config', CONFIG))
  if (own.length > 0) return [failure(`${own.join(', ')}: changed since the server read it`, 'npm start')]
  // The first setting that differs, where it can be told without showing a secret.
  const told = changed.map((name) => {
    const right = linesOf(join(folder, name))
    const wrong = name.endsWith('main.cf')
      ? linesOf(join(stateDir, name)).find((line) => !right.includes(line))
      : undefined
    return `${stateDir}/${name}${wrong ? `: ${wrong}` : ''}`
  })
  return [failure(`not as the files say: ${told.join(', ')}`, 'npm start')]
}

async function liveDocker(facts: Facts, engine: Engine): Promise<Finding[]> {
  const set = facts.settingsOf(MAIN_CF)
  const plain = (value = '') => value.replace(/\s+/g, ' ').trim()
  const asked = await facts.ask('postconf', ...[...set.keys()].filter((name) => name !== 'smtpd_sasl_auth_enable'))
  const problems = [...asked.stdout.matchAll(/^(\w+) =(.*)$/gm)].flatMap(([, name = '', value]) => {
    const right = set.get(name)?.value
    if (right === undefined || plain(right) === plain(value)) return []
    return [failure(`the running Postfix has ${name} = ${plain(value)}, and ${MAIN_CF} says ${right}`, 'npm start')]
  })
  const userdb = (await engine.readFile('/etc/dovecot/userdb')) ?? ''
  const accounts = userdb === '' ? [] : parseAccounts(facts.read(ACCOUNTS), undefined, () => {})
  for (const { address } of accounts.filter(({ address, hash }) => !userdb.includes(`${address}:${hash}:`))) {
    const fact = `the running server has another password for ${address}, or no such account, than ${ACCOUNTS}`
    problems.push(failure(fact, 'npm stop && npm start'))
  }
  const { stdout } = await $({
    timeout: DOCKER,
  })`docker container inspect --format ${'{{json .Config.Env}}'} ${CONTAINER}`
  const made: string[] = stdout.startsWith('[') ? JSON.parse(stdout) : []
  const other = Object.entries(facts.environment()).find(
    ([name, value]) => made.some((line) => line.startsWith(`${name}=`)) && !made.includes(`${name}=${value}`),
  )
  if (other)
    problems.push(
      failure(`the container was made with another ${other[0]} than ${other[0]}=${other[1]} now`, 'npm start'),
    )
  return verdict(problems, 'its parameters, accounts and environment are those of the files')
}

/** Days before its end that a certificate is warned about. */
const EXPIRES_SOON = 14

export async function certificate(facts: Facts): Promise<Finding[]> {
  const engine = await facts.server()
  if (!facts.environment().SSL_TYPE) return verdict([], 'TLS is off (SSL_TYPE is empty)')
  const { stdout } = await facts.ask('postconf', '-n')
  const values = stdout.match(/^smtpd_tls_(chain_files|key_file|cert_file) = .*$/gm) ?? []
  const paths = [...new Set(values.flatMap((line) => line.split(/[\s,]+/)).filter((path) => path.startsWith('/')))]
  const { stateDir } = facts.settings()
  const isMade = paths.some((path) => path.startsWith(`${stateDir}/tls/`))
  const fix = isMade ? `rm ${stateDir}/tls/*.pem && npm stop && npm start` : undefined
  const texts = await Promise.all(paths.map((path) => engine.readFile(path)))
  const missing = paths.find((_, index) => texts[index] === undefined)
  if (missing) return [failure(`${missing} is not there, and TLS needs it`, fix)]
  const text = texts.join('\n')
  try {
    const key = createPrivateKey(
      /-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]+-----END [A-Z ]*PRIVATE KEY-----/.exec(text)?.[0] ?? '',
    )
    const found = new X509Certificate(text.slice(text.indexOf('-----BEGIN CERTIFICATE')))
    const left = (Date.parse(found.validTo) - Date.now()) / 86_400_000
    if (!found.checkPrivateKey(key))
      return [failure(`the key of ${paths.join(' and ')} is that of another certificate`, fix)]
    if (Date.parse(found.validFrom) > Date.now())
      return [failure(`the certificate begins on ${found.validFrom}; is the clock right?`, fix)]
    if (left < 0) return [failure(`the certificate ended on ${found.validTo}`, fix)]
    return verdict(
      left < EXPIRES_SOON ? [warning(`the certificate ends on ${found.validTo}`, fix)] : [],
      `until ${found.validTo}`,
    )
  } catch (error) {
    return [failure(`${paths.join(', ')}: this is no key with its certificate: ${messageOf(error)}`, fix)]
  }
}

/** The owner of all mail, in docker-mailserver and natively. */
const OWNER = 5000
/** Mailboxes and their parts that are looked at. */
const LOOKED_AT = 3_000

export async function mailboxes(facts: Facts): Promise<Finding[]> {
  if ((await facts.server()).name === 'docker') {
    const { stdout } = await facts.ask(
      'find',
      '/var/mail',
      '-maxdepth',
      '4',
      '!',
      '-uid',
      `${OWNER}`,
      '-print',
      '-quit',
    )
    const [path] = stdout.split('\n')
    const fix = `docker exec ${CONTAINER} chown -R ${OWNER}:${OWNER} ${path}`
    return verdict(path ? [failure(`${path} belongs to another user than Dovecot's`, fix)] : [], '/var/mail')
  }
  // A domain, a mailbox in it, and what lies there.
  const paths = [join(facts.settings().stateDir, 'mail')]
  for (let depth = 0, level = paths.slice(); depth < 3 && paths.length < LOOKED_AT; depth++) {
    level = level
      .filter((path) => statOr(path)?.isDirectory())
      .flatMap((path) => readdirSync(path).map((name) => join(path, name)))
    paths.push(...level)
  }
  const problems = paths.slice(0, LOOKED_AT).flatMap((path) => {
    const { uid = OWNER, mode = 0o700, isFolder = true } = { ...statOr(path), isFolder: statOr(path)?.isDirectory() }
    if (uid !== OWNER)
      return [
        failure(`${path} belongs to user ${uid}, and Dovecot writes as ${OWNER}`, `chown -R ${OWNER}:${OWNER} ${path}`),
      ]
    // Dovecot makes files that nobody may write.
    const [needed, right, verb] = isFolder ? [0o700, 'u+rwx', 'enter'] : [0o400, 'u+r', 'read']
    return (mode & needed) === needed
      ? []
      : [failure(`${path}: its owner may not ${verb} it`, `chmod ${right} ${path}`)]
  })
  return verdict(problems.slice(0, 1), `${Math.min(paths.length, LOOKED_AT)} files and folders belong to Dovecot`)
}

/** Per cent of a quota from which on there is a warning. */
const NEARLY_FULL = 90

export async function mailboxQuotas(facts: Facts): Promise<Finding[]> {
  await facts.server()
  const { SMTP_ONLY, ENABLE_QUOTAS, POSTFIX_MAILBOX_SIZE_LIMIT } = facts.environment()
  if (SMTP_ONLY === '1' || ENABLE_QUOTAS === '0') throw new Skipped('quotas are off')
  const hasLimits = entriesOf(facts.read(inConfig('dovecot-quotas.cf')), false).some(
    ({ text }) => !/:\s*0\w?$/.test(text),
  )
  if (!hasLimits && Number(POSTFIX_MAILBOX_SIZE_LIMIT || 0) === 0) return verdict([], 'no mailbox has a limit')
  const { stdout, stderr, exitCode } = await facts.ask('doveadm', '-f', 'tab', 'quota', 'get', '-A')
  if (exitCode !== 0) throw new Skipped(`doveadm quota get: ${stderr.trim().split('\n')[0] || 'no answer'}`)
  // User, name, type, value and limit in kB, per cent.
  const rows = stdout
    .split('\n')
    .map((line) => line.split('\t'))
    .filter(([, , type]) => type === 'STORAGE')
  const problems = rows.flatMap(([user = '', , , value, limit, percent]) => {
    if (limit === '-' || Number(percent) < NEARLY_FULL) return []
    const fix = `npm run add-account -- ${user} --quota ${user === CATCHALL ? '0' : `${Math.ceil((Number(limit) * 2) / 1_024)}M`}`
    const evidence = `${user}: ${value} of ${limit} kB (${percent} %)`
    return [
      Number(percent) < 100
        ? warning(`${evidence}: nearly full`, fix)
        : failure(`${evidence}: full; its mail bounces`, fix),
    ]
  })
  return verdict(problems, `${rows.length} mailboxes`)
}

/** Bytes of free space below which there is a warning. */
const LITTLE_SPACE = 500_000_000

export async function disk(facts: Facts): Promise<Finding[]> {
  let [folder, free, inodes] = ['/var/mail', 0, 1]
  if ((await facts.engine()).name === 'native') {
    folder = facts.settings().stateDir
    while (!existsSync(folder)) folder = dirname(folder)
    const { bavail, bsize, files, ffree } = await statfs(folder)
    ;[free, inodes] = [bavail * bsize, files === 0 ? 1 : ffree]
  } else {
    const { stdout } = await facts.ask('df', '-Pk', folder)
    free = Number(stdout.trim().split('\n').at(-1)?.split(/\s+/)[3]) * 1_024
  }
  const megabytes = `${Math.floor(free / 1_000_000)} MB free in ${folder}`
  // Postfix's own rule (queue_minfree).
  if (free < 1.5 * Number(facts.environment().POSTFIX_MESSAGE_SIZE_LIMIT || 10_240_000))
    return [failure(`${megabytes}: Postfix refuses mail with 452; npm run reset deletes all mail`)]
  if (inodes === 0) return [failure(`no inode is free in ${folder}: no file can be made`)]
  return verdict(free < LITTLE_SPACE ? [warning(megabytes)] : [], megabytes)
}

function statOr(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false })
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
