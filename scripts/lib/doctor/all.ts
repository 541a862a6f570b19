/** All checks of the doctor, in the order that they are shown, running them, and what they say about a start that failed. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, messageOf } from '../cli.ts'
import { visibleLine } from '../mail/visible.ts'
import { runningNativeEngine } from '../server/choose.ts'
import { becomeRoot, isRoot } from '../server/root.ts'
import { readSettings } from '../settings.ts'
import { accounts, aliases, quotas, tables } from './accounts.ts'
import { type Finding, failure, type Result, Skipped, warning } from './check.ts'
import { compose } from './compose.ts'
import { Facts } from './facts.ts'
import * as files from './files.ts'
import { blamedIn } from './log.ts'
import * as machine from './machine.ts'
import * as mail from './mail.ts'
import * as server from './server.ts'
import * as settings from './settings.ts'

export interface Check {
  /** What `--only` takes. */
  name: string
  /** What is true when the check is ok. */
  title: string
  run(facts: Facts): Finding[] | Promise<Finding[]>
  /** The checks that fail while this one does, and then say nothing of their own. */
  explains: string[]
}

/** Mail is refused or does not arrive; nobody answers, or not as he should; npm start refuses the files, and nothing of them is live. */
const MAIL = ['mail-virtual', 'mail-foreign', 'mail-unknown', 'queue']
const ANSWERS = ['logins', 'live', ...MAIL]
const START = ['start', 'certificate', ...ANSWERS]

// biome-ignore format: one check a line
export const CHECKS: readonly Check[] = ([
  ['settings', 'The settings of .env and the environment are valid, and open no port to others', machine.settings, ['compose', 'engine', 'ports']],
  ['engine', 'There is an engine to run the server, and it answers', machine.engine, ['ports']],
  ['root', 'The native engine may become root', machine.root, ['main-cf-names', 'start']],
  ['compose', 'Compose publishes the ports on loopback alone, and keeps mail and state on volumes', compose, ['start']],
  ['environment', 'The environment file turns on what this server needs, and nothing else', settings.environment, START],
  ['environment-names', 'Every name in the environment file is known to docker-mailserver', settings.environmentNames, []],
  ['files', 'Every file that belongs to the project is there and can be read', files.files, ['compose', 'tables', 'dovecot', 'remains', 'way-out', ...START]],
  ['line-ends', 'Configuration files are UTF-8 without a mark, have LF line ends and end with one', files.lineEnds, ['compose', 'tables', 'main-cf-names', 'remains', 'way-out', ...START]],
  ['glued-lines', 'No entry begins with a space, which makes it part of the one above', files.gluedLines, ['main-cf', 'main-cf-names', 'aliases', 'tables', 'remains', ...START]],
  ['remains', 'Accounts, aliases, quotas and the lines of their domains fit together', files.remains, ['tables', ...START]],
  ['accounts', 'Every line of postfix-accounts.cf is an account, and the catchall is among them', accounts, ['tables', 'aliases', 'quotas', 'remains', ...START]],
  ['quotas', 'Every quota is a size', quotas, START],
  ['aliases', 'Every alias ends in a mailbox, and none takes the mail of an account away', aliases, START],
  ['tables', 'The pattern tables catch foreign mail, and leave every account its own', tables, START],
  ['dovecot', 'Dovecot lets every client in, and the master user opens every mailbox', settings.dovecot, START],
  ['main-cf', 'postfix-main.cf and postfix-master.cf keep mail here, and let every client in', settings.mainCf, START],
  ['main-cf-names', 'Postfix knows every parameter of postfix-main.cf and postfix-master.cf', settings.mainCfNames, START],
  ['ports', 'The ports are free, or the server holds them', server.ports, ['running', ...ANSWERS]],
  ['start', 'npm start takes the files as they are', server.start, ANSWERS],
  ['running', 'The server is running', server.running, ['live']],
  ['processes', 'No daemon of the server is stopped', machine.processes, ANSWERS],
  ['folders', 'The daemons may walk to their folders', machine.folders, ['mailboxes', 'running', ...ANSWERS]],
  ['live', 'The running server is the one that the files describe', server.live, ['way-out', 'certificate', ...ANSWERS]],
  ['way-out', 'The running Postfix has no SMTP client, and nothing that leads out', settings.wayOut, MAIL],
  ['certificate', 'Key and certificate belong together', server.certificate, ['logins', ...MAIL]],
  ['mailboxes', 'Dovecot may enter and write every mailbox', server.mailboxes, ['logins', ...MAIL]],
  ['mailbox-quotas', 'No mailbox is full', server.mailboxQuotas, MAIL],
  ['leftovers', 'No dead process left a lock or a half-written file', files.leftovers, []],
  ['logins', 'Every port lets an account log in, with TLS where it should, and POP3 all of them', mail.logins, MAIL],
  // What stops a mail from foo to bar stops the others as well.
  ['mail-virtual', 'A mail from foo to bar arrives and is read over POP3 and IMAP', mail.mailVirtual, ['mail-foreign', 'mail-unknown', 'queue']],
  ['mail-foreign', 'A mail to a foreign address, without a login, ends in catchall with its envelope recipient', mail.mailForeign, ['queue']],
  ['mail-unknown', 'An unknown user of a virtual mailbox domain gets 550', mail.mailUnknown, []],
  ['queue', 'No mail is stuck in the queue', server.queue, []],
] as [string, string, Check['run'], string[]][]).map(([name, title, run, explains]) => ({ name, title, run, explains }))

/** Milliseconds until a check is given up. A loaded machine takes its time, so this is long, and no failure. */
const LIMIT = 30_000

/** Runs checks at the same time. One that throws does not touch the others. */
export async function runChecks(checks: readonly Check[], limit = LIMIT): Promise<Result[]> {
  const facts = new Facts()
  const said = `slow: no result within ${limit / 1000} s; this machine or what the check asks is busy`
  const runOne = async (check: Check): Promise<Result[]> => {
    const begin = performance.now()
    const late = sleep(limit, [warning(said)], { ref: false })
    const findings = await Promise.race([attempt(check, facts), late])
    if (findings.some(({ level }) => level === 'failure')) for (const name of check.explains) facts.explained.add(name)
    const about = { check: check.name, title: check.title, milliseconds: Math.round(performance.now() - begin) }
    return shorten(findings).map((finding) => ({ ...about, ...finding }))
  }
  // Many a rule asks which engine it is.
  await facts.choice().catch(() => {})
  try {
    return settle((await Promise.all(checks.map(runOne))).flat())
  } finally {
    facts.forget()
  }
}

async function attempt(check: Check, facts: Facts): Promise<Finding[]> {
  try {
    return await facts.once(`check ${check.name}`, async () => check.run(facts))
  } catch (error) {
    if (error instanceof Skipped) return [{ level: 'skipped', evidence: error.message }]
    if (error instanceof Failure) return [failure(error.message)]
    // A check that breaks is our fault, and says nothing about the server.
    return [warning(`this check broke: ${messageOf(error)}`)]
  }
}

const explains = (name: string) => CHECKS.find((check) => check.name === name)?.explains ?? []

/** What a finding is about: the line of a file, else all that it says. */
const aboutOf = ({ evidence }: Result) => /^\S+ line \d+(?=:)/.exec(evidence)?.[0] ?? evidence

/** Symptoms step back behind the failure that explains them, and what several checks say about the same is said once. */
function settle(results: Result[]): Result[] {
  const causes = [...new Set(results.filter(({ level }) => level === 'failure').map(({ check }) => check))]
  return results.map((result) => {
    const { check, level, evidence, fix: _, mend: __, ...about } = result
    const twin = results.find((other) => other.level === 'failure' && aboutOf(other) === aboutOf(result))?.check
    const cause = causes.find((other) => explains(other).includes(check) || (other === twin && other !== check))
    // Two causes that explain each other both stay: neither is the other's symptom.
    const isOwn = explains(check).includes(cause ?? '') && (level === 'failure' || cause !== twin)
    const isSymptom = cause && !isOwn && (level === 'failure' || level === 'warning')
    if (!isSymptom) return result
    return { check, ...about, level: 'skipped', evidence: `follows from "${cause}": ${evidence}` }
  })
}

/** Findings of one check that are shown; a thousand bad lines are one problem. */
const SHOWN = 5

function shorten(findings: Finding[]): Finding[] {
  const more = findings.length > SHOWN ? ` (and ${findings.length - SHOWN} more of the kind)` : ''
  const lines = findings.map((finding) => ({ ...finding, evidence: oneLine(finding.evidence) })).slice(0, SHOWN)
  return lines.map((line, index) => (index === SHOWN - 1 ? { ...line, evidence: line.evidence + more } : line))
}

/** One printable line: log lines and server replies may hold anything, terminal escape sequences included. */
function oneLine(text: string): string {
  const visible = visibleLine(text.trim().replace(/\s*[\r\n]+\s*/g, ' | '))
  return visible.length > 400 ? `${visible.slice(0, 399)}…` : visible
}

/** Only root may ask the native engine: where sudo lets it, the script runs again as root, from here. */
export async function becomeRootForNative(): Promise<void> {
  try {
    if (!isRoot && (await runningNativeEngine(readSettings()))) await becomeRoot()
  } catch {
    // The checks "settings" and "root" say what is in the way; what needs no root is checked all the same.
  }
}

/** Milliseconds that explaining may take. */
const EXPLANATION = 10_000

/** An error of a start, with what the checks of all that a start needs say about it. Words that the error has already are not repeated. */
export async function explain(error: unknown): Promise<unknown> {
  if (!(error instanceof Failure) || error.exit !== 'failed') return error
  const end = CHECKS.findIndex(({ name }) => name === 'start')
  const lines = (await runChecks(CHECKS.slice(0, end + 1), EXPLANATION))
    .filter(({ level, evidence }) => level === 'failure' && !error.message.includes(evidence))
    .map(({ check, evidence, fix }) => `${check}: ${evidence}${fix ? `\n  fix: ${fix}` : ''}`)
  // Of what no check knows beforehand a daemon may have said enough.
  const { evidence, fix } = blamedIn(new Facts(), error.message.split('\n')) ?? {}
  if (evidence && lines.length === 0 && !error.message.includes(`fix: ${fix}`)) lines.push(`${evidence}\n  fix: ${fix}`)
  if (lines.length === 0) return error
  return new Failure('failed', [error.message, 'npm run doctor says:', ...lines].join('\n'))
}
