/** What the server left behind: the queue, disk space, quotas, locks and pids of the dead, the log. */

import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { CATCHALL } from '../accounts/accounts.ts'
import { isLeftBehind } from '../accounts/lock.ts'
import type { Engine } from '../server/engine.ts'
import { CONFIG_DIR, CONTAINER } from '../settings.ts'
import { type Check, CONFIG, type Finding, failure, ok, Skipped, verdict, warning } from './check.ts'
import { environmentOf, MAIN_CF, TRANSPORT_MAP } from './files.ts'

/** Milliseconds for a question to the server. */
const ANSWER = 4_000
/** Bytes of free space below which there is a warning. */
const LITTLE_SPACE = 500_000_000
/** Per cent of a quota from which on there is a warning. */
const NEARLY_FULL = 90

const queue: Check = {
  name: 'queue',
  title: 'No mail is stuck in the queue',
  async run(context) {
    const engine = await context.server()
    const { stdout, stderr, exitCode } = await engine.exec(['postqueue', '-j'], { timeout: ANSWER })
    if (exitCode !== 0) return [failure(`postqueue -j: ${stderr || 'no answer'}`, 'npm run logs')]
    const { stateDir } = context.settings()
    const flush =
      engine.name === 'docker' ? `docker exec ${CONTAINER} postqueue -f` : `postqueue -c ${stateDir}/postfix -f`
    return queueFindings(stdout, flush)
  },
}

interface QueuedMail {
  queue_name: string
  queue_id: string
  recipients: { address: string; delay_reason?: string }[]
}

/** Judges what `postqueue -j` prints: one JSON object a line. */
export function queueFindings(text: string, flush: string): Finding[] {
  const mails = text
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as QueuedMail)
  const problems = new Map<string, { mails: QueuedMail[]; address: string }>()
  for (const mail of mails.filter(({ queue_name }) => queue_name === 'deferred' || queue_name === 'hold')) {
    const { address = '', delay_reason } = mail.recipients.find((one) => one.delay_reason) ?? mail.recipients[0] ?? {}
    const reason = mail.queue_name === 'hold' ? 'on hold' : (delay_reason ?? 'no reason given')
    const same = problems.get(reason)
    if (same) same.mails.push(mail)
    else problems.set(reason, { mails: [mail], address })
  }
  const findings = [...problems].map(([reason, { mails: stuck, address }]) => {
    const [first] = stuck
    const which =
      stuck.length === 1 ? `${first?.queue_id} to ${address}` : `${stuck.length} mails, the first to ${address}`
    return failure(`${first?.queue_name}: ${which}: ${reason}`, `Mend the reason, then: ${flush}`)
  })
  return verdict(findings, mails.length === 0 ? 'empty' : `${mails.length} on their way`)
}

const disk: Check = {
  name: 'disk',
  title: 'There is room for mail',
  async run(context) {
    const engine = await context.engine()
    const limit = Number(environmentOf(context.files).POSTFIX_MESSAGE_SIZE_LIMIT || 10_240_000)
    const { stateDir } = context.settings()
    if (engine.name === 'native') {
      let folder = stateDir
      while (!existsSync(folder)) folder = dirname(folder)
      const { bavail, bsize, files, ffree } = await statfs(folder)
      return diskFindings(folder, bavail * bsize, files === 0 ? undefined : ffree, limit)
    }
    await context.server()
    const { stdout } = await engine.exec(['df', '-Pk', '/var/mail'], { timeout: ANSWER })
    const free = Number(stdout.trim().split('\n').at(-1)?.split(/\s+/)[3]) * 1_024
    return diskFindings('/var/mail', free, undefined, limit)
  },
}

/** Judges free space in bytes and free inodes. Postfix wants 1.5 times message_size_limit (queue_minfree). */
export function diskFindings(folder: string, free: number, inodes: number | undefined, limit: number): Finding[] {
  const megabytes = `${Math.floor(free / 1_000_000)} MB`
  const fix = `df -h ${folder}, and make room; npm run reset deletes all mail`
  if (free < 1.5 * limit) return [failure(`${megabytes} free in ${folder}: Postfix refuses mail with 452`, fix)]
  if (inodes === 0)
    return [failure(`no inode is free in ${folder}: no file can be made`, `df -i ${folder}, and make room`)]
  if (free < LITTLE_SPACE) return [warning(`${megabytes} free in ${folder}`, fix)]
  return [ok(`${megabytes} free in ${folder}`)]
}

const mailboxQuotas: Check = {
  name: 'mailbox-quotas',
  title: 'No mailbox is full',
  async run(context) {
    const engine = await context.server()
    const { SMTP_ONLY, ENABLE_QUOTAS } = environmentOf(context.files)
    if (SMTP_ONLY === '1' || ENABLE_QUOTAS === '0') throw new Skipped('quotas are off')
    const answer = await engine.exec(['doveadm', '-f', 'tab', 'quota', 'get', '-A'], { timeout: ANSWER })
    if (answer.exitCode !== 0) return [warning(`doveadm quota get -A: ${answer.stderr || 'no answer'}`, 'npm run logs')]
    return quotaFindings(answer.stdout)
  },
}

/** Judges what `doveadm -f tab quota get -A` prints: user, name, type, value, limit (kB), per cent. */
export function quotaFindings(text: string): Finding[] {
  const rows = text.split('\n').map((line) => line.split('\t'))
  const storage = rows.filter(([, , type]) => type === 'STORAGE')
  const problems = storage.flatMap(([user = '', , , value = '', limit = '', percent = '']) => {
    if (limit === '-' || Number(percent) < NEARLY_FULL) return []
    const size = user === CATCHALL ? '0' : `${Math.ceil((Number(limit) * 2) / 1_024)}M`
    const fix = `npm run add-account -- ${user} --quota ${size}`
    const evidence = `${user}: ${value} of ${limit} kB (${percent} %)`
    if (Number(percent) < 100) return [warning(`${evidence}: nearly full`, fix)]
    return [failure(`${evidence}: full; mail is refused with 552 or bounces`, fix)]
  })
  return verdict(problems, `${storage.length} mailboxes`)
}

const leftovers: Check = {
  name: 'leftovers',
  title: 'No dead process left a lock or a pid file',
  async run(context) {
    const problems: Finding[] = []
    const report = (path: string, evidence: string) =>
      problems.push(
        warning(evidence, `rm ${path}`, () => {
          rmSync(path, { force: true })
          return `removed ${path}`
        }),
      )
    const locks = existsSync(CONFIG_DIR) ? readdirSync(CONFIG_DIR).filter((name) => name.endsWith('.lock')) : []
    for (const name of locks) {
      const path = join(CONFIG_DIR, name)
      const holder = readFileSync(path, 'utf8')
      if (isLeftBehind(path, holder)) report(path, `${CONFIG}/${name} was left by "${holder.trim()}", which is gone`)
    }
    const { engine } = await context.choice()
    if (engine?.name === 'native') {
      // Postfix's own pid file stays after a clean stop, and nobody believes in it.
      const path = join(context.settings().stateDir, 'run/master.pid')
      const pid = existsSync(path) ? Number(readFileSync(path, 'utf8').trim()) : 0
      if (pid > 0 && !engine.owns({ pid, name: 'dovecot' })) {
        report(path, `${path} names process ${pid}, which is ${isAlive(pid) ? "somebody else's" : 'gone'}`)
      }
    }
    return verdict(problems, 'none')
  },
}

function isAlive(pid: number): boolean {
  if (pid <= 0) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

interface KnownMessage {
  pattern: RegExp
  report: typeof failure
  /** What it means. */
  sentence: string
  fix: string
}

const KNOWN: KnownMessage[] = [
  {
    pattern: /net_listen_unix\(.*failed: Input\/output error|bind\(.*failed: Input\/output error/,
    report: failure,
    sentence: 'Unix sockets cannot be made there: a bind mount of Docker Desktop',
    fix: 'Write into docker-compose.yml: - mail-state:/var/mail-state/, then: npm stop && npm start',
  },
  {
    pattern: /Failed to start listeners/,
    report: failure,
    sentence: 'Dovecot could not open its ports or sockets and ended',
    fix: 'npm run doctor -- --only ports --only compose-state, then: npm start',
  },
  {
    pattern: /private\/[\w-]+: Invalid argument/,
    report: failure,
    sentence: 'Postfix cannot make its sockets in the queue: a bind mount of Docker Desktop',
    fix: 'Write into docker-compose.yml: - mail-state:/var/mail-state/, then: npm stop && npm start',
  },
  {
    pattern: /do not list domain .* in BOTH/,
    report: warning,
    sentence: 'a domain is both in mydestination and a virtual mailbox domain',
    fix: `Write into ${MAIN_CF}: mydestination = localhost.$mydomain, localhost, then: npm start`,
  },
  {
    pattern: /queue file write error|No space left on device|Insufficient system storage/,
    report: failure,
    sentence: 'Postfix could not write mail into its queue: the disk is full',
    fix: 'df -h, and make room; npm run reset deletes all mail',
  },
  {
    pattern: /(?<!log)\/mail\/.*Permission denied|Permission denied.*(?<!log)\/mail\//,
    report: failure,
    sentence: 'Dovecot may not write into the mail folder, which belongs to uid 5000',
    fix: 'npm stop && npm start, which gives the folders back their owners',
  },
  {
    pattern: /Plaintext authentication disallowed/,
    report: warning,
    sentence: 'a login without TLS was refused',
    fix: `Write into ${CONFIG}/dovecot.cf: disable_plaintext_auth = no, then: npm start`,
  },
  {
    pattern:
      /table lookup problem|lookup table .* (unavailable|error)|is unavailable\. open|maps? lookup (failure|error)/i,
    report: failure,
    sentence: 'Postfix cannot read a table and defers mail',
    fix: `git status ${CONFIG}; restore the table that the line names (${TRANSPORT_MAP}?), then: npm start`,
  },
  {
    pattern: /\b(fatal|panic):/i,
    report: failure,
    sentence: 'a daemon gave up',
    fix: 'Correct what the line names, then: npm start',
  },
]

/** Turns the known messages of a log into one finding each, with the last line that says it. */
export function logFindings(lines: readonly string[]): Finding[] {
  const found = new Map<KnownMessage, { count: number; line: string }>()
  for (const line of lines) {
    // The first that fits says it best: "fatal:" stands in many lines.
    const known = KNOWN.find(({ pattern }) => pattern.test(line))
    if (known) found.set(known, { count: (found.get(known)?.count ?? 0) + 1, line })
  }
  const findings = KNOWN.flatMap((known) => {
    const { count, line } = found.get(known) ?? { count: 0, line: '' }
    if (count === 0) return []
    const often = count === 1 ? '' : ` (${count} times)`
    return [known.report(`${known.sentence}${often}: ${line}`, known.fix)]
  })
  return verdict(findings, `${lines.length} lines, none of the known troubles`)
}

const logs: Check = {
  name: 'logs',
  title: 'The log has none of the known troubles since the last start',
  async run(context) {
    const engine: Engine = await context.engine()
    const lines = (await engine.logged()).filter((line) => line !== '')
    if (lines.length === 0) throw new Skipped('there is no log yet')
    return logFindings(lines)
  },
}

export const stateChecks: Check[] = [queue, disk, mailboxQuotas, leftovers, logs]
