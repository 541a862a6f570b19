/**
 * What replies of the server and lines of its log mean. They name the cause of a trouble that the doctor has seen itself: a
 * line whose trouble is over says nothing about today. To add a rule, add a row.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { deleteLine, type Finding, failure, placeOf, writeLine } from './check.ts'
import { CONFIG, type Facts, IN_CONTAINER, inConfig, MAIN_CF, MASTER_CF } from './facts.ts'
import { broken, POSTFIX_RULES } from './rules.ts'

// biome-ignore format: one rule a line
const MEANINGS: [pattern: RegExp, meaning: string][] = [
  [/net_listen_unix\(.*Input\/output error|bind\(.*Input\/output error|private\/[\w-]+: Invalid argument/, 'Unix sockets cannot be made there: a bind mount of Docker Desktop'],
  [/\breject: (header|body|mime)/, 'header_checks or body_checks refuse it'],
  [/\bdiscard: (header|body|mime)/, 'header_checks or body_checks throw it away'],
  [/\bhold: (header|body|mime)/, 'header_checks or body_checks hold it in the queue'],
  [/No space left on device|Insufficient system storage|queue file write error|Disk quota exceeded/i, 'the disk is full'],
  [/[Pp]laintext authentication disallowed|cleartext authentication not allowed/, 'logins without TLS are refused'],
  [/Relay access denied|Client host rejected: Access denied/i, 'the server trusts this client no more (mynetworks, or restrictions)'],
  [/cannot find your (reverse )?hostname|Domain not found|Host not found|Helo command rejected/i, 'a restriction asks the DNS'],
  [/milter|Service unavailable - try again later/i, 'a milter does not answer'],
  [/unknown mail transport|mail transport unavailable/i, 'Postfix has no such transport, as where mail is sent a way out, or cannot reach it'],
  [/table lookup problem|Temporary lookup failure|is unavailable\. open|map lookup (failure|error)|unavailable or bad|unsupported dictionary|cannot load/i, 'Postfix cannot read a table'],
  [/lmtp.*(Connection refused|No such file|Connection timed out)|connect to .*lmtp/i, "Dovecot's LMTP does not answer"],
  [/no SASL authentication mechanisms|SASL: Connect to .* failed/, 'Postfix cannot ask Dovecot about passwords'],
  [/Plugin '.*' not found|load required plugin/, 'Dovecot has no such plugin'],
  [/initialize SSL|SSL context initialization/, 'Dovecot cannot set up TLS'],
  [/unknown smtpd restriction|(fatal|panic|error):/i, 'a daemon gave up'],
]

/** What stands in front of a daemon's words in the log. */
const HEAD = /^(\w{3} +\d+ [\d:]+|\d{4}-\d\d-\d\dT\S+) \S+ /

/** What a reply or a line of the log means, with what it says; the text alone where nothing is known about it. */
export function explained(text: string): string {
  const meaning = MEANINGS.find(([pattern]) => pattern.test(text))?.[1]
  return meaning && !text.startsWith(meaning) ? `${meaning}: ${text}` : text
}

/** The last line that says why; undefined where none is known. */
export function causeIn(lines: readonly string[]): string | undefined {
  // The doctor's own question about an unknown user is refused as it should be.
  const foreign = lines.filter((line) => !/\bto=<nobody-[\da-f]{8}@/.test(line))
  const bad = foreign.filter((line) => /\b(fatal|panic|error|warning|status=(deferred|bounced)|reject)/i.test(line))
  // What stands further up in the table says it better than "fatal:".
  const line = MEANINGS.map(([pattern]) => bad.findLast((text) => pattern.test(text))).find((found) => found)
  return line && explained(line.replace(HEAD, ''))
}

/** Where settings stand. */
const FILES = [inConfig('dovecot-2.4.cf'), inConfig('dovecot.cf'), MASTER_CF, MAIN_CF]
/** Where words end: a socket's kind is none of its path. */
const BETWEEN = /[^\w/.:-]+|(?<=\b(?:unix|inet):)/

/** The line of the settings that a daemon's complaint names: by its place, its parameter, or a path or the like in its value. */
export function blamed(facts: Facts, complaint: string): Finding | undefined {
  const text = complaint.replace(HEAD, '')
  const words = text.split(BETWEEN).map((word) => word.replace(/[:.]+$/, ''))
  // A path or a port speaks for itself, another word where it is quoted.
  const isTelling = (part: string) => /\/|:\d/.test(part) || text.includes(`'${part}'`) || text.includes(`"${part}"`)
  const [, where, line] = /(docker-data\/[^\s,]+),? line (\d+)/.exec(text) ?? []
  const found = FILES.flatMap((file) => facts.assignments(file, !/dovecot/.test(file)).map((one) => ({ ...one, file })))
  const hits = found.map(({ name, value, at, file }) => {
    const parts = value.replaceAll(IN_CONTAINER, CONFIG).split(BETWEEN)
    const plain = name.replace(/^.*\/|^default_/g, '')
    const isNamed = plain.includes('_') && words.some((word) => word === plain || word === name)
    const isPart = parts.some((part) => part !== '' && (isNamed || isTelling(part)) && words.includes(part))
    return file === where && at.lines.includes(Number(line)) ? 9 : Number(isNamed) * 2 + Number(isPart)
  })
  const best = Math.max(...hits)
  const one = best > 0 ? found[hits.lastIndexOf(best)] : undefined
  if (!one) return undefined
  const { file, at, name } = one
  const right = file === MAIN_CF ? broken(POSTFIX_RULES, name, undefined, facts)?.write : undefined
  const fix = typeof right === 'string' ? writeLine(file, at, `${name} = ${right}`) : deleteLine(file, at)
  return failure(`${placeOf(file, at)}: ${text}`, fix)
}

/** The first of these lines of a log in which a daemon complains in words that name a line of the settings. */
export function blamedIn(facts: Facts, lines: readonly string[]): Finding | undefined {
  const complaints = lines.filter((line) => /\b(fatal|panic|error|warning):/i.test(line))
  return complaints.map((line) => blamed(facts, line)).find((finding) => finding !== undefined)
}

/** `blamedIn` what was logged since the doctor has begun, in lines like these. */
export async function complaint(facts: Facts, like = /./): Promise<Finding | undefined> {
  // What a daemon logs stands in the log a moment later.
  await sleep(500)
  const lines = await facts.logged()
  return blamedIn(
    facts,
    lines.filter((line) => like.test(line)),
  )
}

/** What a client was told: at the line that a daemon complains about, else in words. */
export async function told(facts: Facts, words: string): Promise<Finding> {
  const line = await complaint(facts)
  // The log names the table that refuses a text.
  const isWhy = (line: string) => /: reject: /.test(line) && words.includes(line.split(': ').at(-1) ?? '')
  const why = (await facts.logged()).findLast(isWhy)
  return line ?? failure(explained(why ? `${words} (${why.replace(/^.*: (?=reject: )/, '')})` : words))
}
