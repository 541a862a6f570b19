/** What mail lies in: mailboxes, their owners and quotas, the disk; and what dead processes left. */
import { existsSync, lstatSync, readdirSync, readFileSync, rmSync, type Stats } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { BAR, CATCHALL } from '../accounts/accounts.ts'
import { isLeftBehind } from '../accounts/lock.ts'
import { CONFIG_DIR, CONTAINER } from '../settings.ts'
import { type Check, EXPLAINS, type Finding, failure, ok, Skipped, verdict, warning } from './check.ts'
import { CONFIG } from './facts.ts'

/** Bytes of free space below which there is a warning. */
const LITTLE_SPACE = 500_000_000
/** Per cent of a quota from which on there is a warning. */
const NEARLY_FULL = 90
/** The owner of all mail, in docker-mailserver and natively. */
const OWNER = 5000
/** Mailboxes and their parts that are looked at. */
const LOOKED_AT = 3_000

export const folders: Check = {
  name: 'folders',
  title: 'The daemons may walk to their folders',
  async run(facts) {
    const engine = await facts.server()
    if (engine.name === 'docker') throw new Skipped('in the container all can')
    for (let parent = facts.settings().stateDir; parent !== dirname(parent); parent = dirname(parent)) {
      const mode = statOr(parent)?.mode ?? 0o1
      if (!(mode & 0o1))
        return [
          failure(`${parent}: only its owner can enter it, and Dovecot has to`, `chmod o+x ${parent}`, {
            explains: [...EXPLAINS.answers, 'mailboxes'],
          }),
        ]
    }
    return [ok(facts.settings().stateDir)]
  },
}

const mailboxes: Check = {
  name: 'mailboxes',
  title: 'Dovecot may enter and write every mailbox',
  async run(facts) {
    const engine = await facts.server()
    const more = { explains: ['logins', 'queue', ...EXPLAINS.mail] }
    if (engine.name === 'docker') {
      const { stdout } = await facts.ask(
        'find',
        '/var/mail',
        '-maxdepth',
        '4',
        '!',
        '-uid',
        String(OWNER),
        '-print',
        '-quit',
      )
      const [path] = stdout.split('\n')
      return path
        ? [
            failure(
              `${path} belongs to another user than Dovecot's`,
              `docker exec ${CONTAINER} chown -R ${OWNER}:${OWNER} ${path}`,
              more,
            ),
          ]
        : [ok('/var/mail')]
    }
    const folder = join(facts.settings().stateDir, 'mail')
    // A domain, a mailbox in it, and what lies there.
    const paths = [folder]
    for (let depth = 0, level = paths.slice(); depth < 3 && paths.length < LOOKED_AT; depth++) {
      level = level
        .filter((path) => statOr(path)?.isDirectory())
        .flatMap((path) => readdirSync(path).map((name) => join(path, name)))
      paths.push(...level)
    }
    for (const path of paths.slice(0, LOOKED_AT)) {
      const found = statOr(path)
      if (!found) continue
      if (found.uid !== OWNER)
        return [
          failure(
            `${path} belongs to user ${found.uid}, and Dovecot writes as ${OWNER}`,
            `chown -R ${OWNER}:${OWNER} ${path}`,
            more,
          ),
        ]
      // Dovecot makes files that nobody may write.
      const [needed, mode] = found.isDirectory() ? [0o700, 'u+rwx'] : [0o400, 'u+r']
      if ((found.mode & needed) !== needed)
        return [
          failure(
            `${path}: its owner may not ${found.isDirectory() ? 'enter' : 'read'} it`,
            `chmod ${mode} ${path}`,
            more,
          ),
        ]
    }
    return [ok(`${Math.min(paths.length, LOOKED_AT)} files and folders belong to Dovecot`)]
  },
}

function statOr(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false })
}

const full: Check = {
  name: 'mailbox-quotas',
  title: 'No mailbox is full',
  async run(facts) {
    await facts.server()
    if (facts.environment().SMTP_ONLY === '1' || facts.environment().ENABLE_QUOTAS === '0')
      throw new Skipped('quotas are off')
    const limits = facts.lines(`${CONFIG}/dovecot-quotas.cf`).some(({ text }) => !/:\s*0\w?$/.test(text))
    if (!limits && Number(facts.environment().POSTFIX_MAILBOX_SIZE_LIMIT || 0) === 0)
      return [ok('no mailbox has a limit')]
    const answer = await facts.ask('doveadm', '-f', 'tab', 'quota', 'get', '-A')
    if (answer.exitCode !== 0)
      throw new Skipped(`doveadm quota get: ${answer.stderr.trim().split('\n')[0] || 'no answer'}`)
    return quotaFindings(answer.stdout)
  },
}

/** Judges what `doveadm -f tab quota get -A` prints: user, name, type, value, limit (kB), per cent. */
export function quotaFindings(text: string): Finding[] {
  const rows = text
    .split('\n')
    .map((line) => line.split('\t'))
    .filter(([, , type]) => type === 'STORAGE')
  const problems = rows.flatMap(([user = '', , , value = '', limit = '', percent = '']) => {
    if (limit === '-' || Number(percent) < NEARLY_FULL) return []
    const fix = `npm run add-account -- ${user} --quota ${user === CATCHALL ? '0' : `${Math.ceil((Number(limit) * 2) / 1_024)}M`}`
    const evidence = `${user}: ${value} of ${limit} kB (${percent} %)`
    if (Number(percent) < 100) return [warning(`${evidence}: nearly full`, fix)]
    const hit = user === CATCHALL ? ['mail-foreign', 'queue'] : user === BAR ? ['mail-virtual', 'queue'] : ['queue']
    return [failure(`${evidence}: full; its mail bounces`, fix, { explains: hit })]
  })
  return verdict(problems, `${rows.length} mailboxes`)
}

const disk: Check = {
  name: 'disk',
  title: 'There is room for mail',
  async run(facts) {
    const engine = await facts.engine()
    const limit = Number(facts.environment().POSTFIX_MESSAGE_SIZE_LIMIT || 10_240_000)
    if (engine.name === 'native') {
      let folder = facts.settings().stateDir
      while (!existsSync(folder)) folder = dirname(folder)
      const { bavail, bsize, files, ffree } = await statfs(folder)
      return diskFindings(folder, bavail * bsize, files === 0 ? undefined : ffree, limit)
    }
    await facts.server()
    const { stdout } = await facts.ask('df', '-Pk', '/var/mail')
    return diskFindings(
      '/var/mail',
      Number(stdout.trim().split('\n').at(-1)?.split(/\s+/)[3]) * 1_024,
      undefined,
      limit,
    )
  },
}

/** Judges free space in bytes and free inodes. Postfix wants 1.5 times message_size_limit (queue_minfree). */
export function diskFindings(folder: string, free: number, inodes: number | undefined, limit: number): Finding[] {
  const megabytes = `${Math.floor(free / 1_000_000)} MB free in ${folder}`
  const more = { explains: EXPLAINS.mail }
  if (free < 1.5 * limit)
    return [failure(`${megabytes}: Postfix refuses mail with 452; npm run reset deletes all mail`, undefined, more)]
  if (inodes === 0) return [failure(`no inode is free in ${folder}: no file can be made`, undefined, more)]
  return [free < LITTLE_SPACE ? warning(megabytes) : ok(megabytes)]
}

const leftovers: Check = {
  name: 'leftovers',
  title: 'No dead process left a lock or a half-written file',
  run() {
    const problems: Finding[] = []
    const report = (path: string, shown: string, evidence: string, isStill: () => boolean) => {
      const mend = () => {
        // Somebody may have taken it over since.
        if (!isStill()) return `${shown} is not left behind any more`
        rmSync(path, { force: true })
        return `removed ${shown}`
      }
      problems.push(warning(evidence, 'npm run doctor -- --fix', { mend }))
    }
    for (const name of existsSync(CONFIG_DIR) ? readdirSync(CONFIG_DIR) : []) {
      const path = join(CONFIG_DIR, name)
      const isDead = () => isLeftBehind(path, textOf(path))
      // A writer at work has one for some milliseconds.
      const isOld = () => Date.now() - (statOr(path)?.mtimeMs ?? Date.now()) > 60_000
      if (name.endsWith('.tmp') && isOld())
        report(path, `${CONFIG}/${name}`, `${CONFIG}/${name} was left half-written`, isOld)
      if (name.endsWith('.lock') && isDead())
        report(
          path,
          `${CONFIG}/${name}`,
          `${CONFIG}/${name} was left by "${textOf(path).trim()}", which is gone`,
          isDead,
        )
    }
    return verdict(problems, 'none')
  },
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

export const stateChecks: Check[] = [folders, mailboxes, full, disk, leftovers]
