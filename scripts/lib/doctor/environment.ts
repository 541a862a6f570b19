/** `development-mail-server.env`: names, protocols, relays, trust, and what would ask the network. */

import { type Check, ENV_FILE, type Files, type Finding, failure, verdict, warning } from './check.ts'
import { nearestName, nearestRelease, releasesOf } from './dms_environment.ts'
import { environmentOf } from './files.ts'

/**
 * Names that one release does without because it always does what they ask for: the virtual transport from 11 on,
 * IMAP up to 10.
 */
const ALWAYS_SO = new Set(['ENABLE_POSTFIX_VIRTUAL_TRANSPORT', 'ENABLE_IMAP'])

/** What is on unless the file turns it off. */
const ON_BY_DEFAULT: Record<string, string> = {
  ENABLE_OPENDKIM: 'DKIM asks the DNS for the keys of each signed mail',
  ENABLE_OPENDMARC: 'DMARC asks the DNS for the policy of each sender',
  ENABLE_POLICYD_SPF: 'SPF asks the DNS for each sender',
  ENABLE_UPDATE_CHECK: 'the update check asks the network each day',
  ENABLE_AMAVIS: 'Amavis asks the network about mail',
}
/** What is off unless the file turns it on. */
const OFF_BY_DEFAULT: Record<string, string> = {
  ENABLE_DNSBL: 'block lists are asked over the DNS for each client',
  ENABLE_RSPAMD: 'Rspamd asks the DNS and the network about each mail',
  ENABLE_SPAMASSASSIN: 'SpamAssassin asks the DNS about each mail',
  ENABLE_CLAMAV: 'ClamAV fetches its signatures from the network',
  ENABLE_MTA_STS: 'MTA-STS asks the DNS and the web for policies',
  ENABLE_FETCHMAIL: 'Fetchmail fetches mail from other servers',
  ENABLE_GETMAIL: 'Getmail fetches mail from other servers',
  POSTFIX_REJECT_UNKNOWN_CLIENT_HOSTNAME: 'each client is looked up in the DNS',
}

function lineOf(files: Files, name: string): string {
  const lines = (files.read(ENV_FILE) ?? '').split('\n')
  // Of several lines the last one counts.
  const fromEnd = lines.reverse().findIndex((line) => new RegExp(`^\\s*(export\\s+)?${name}\\s*=`).test(line))
  return fromEnd < 0 ? ENV_FILE : `${ENV_FILE} line ${lines.length - fromEnd}`
}

const names: Check = {
  name: 'env-names',
  title: 'Every name in the environment file is known to docker-mailserver',
  run(context) {
    const { files } = context
    if (files.read(ENV_FILE) === undefined) return [failure(`${ENV_FILE} is not there`, `git checkout -- ${ENV_FILE}`)]
    const release = context.settings().dmsVersion
    const nearest = nearestRelease(release)
    const problems: Finding[] = []
    const environment = environmentOf(files)
    for (const [name, value] of Object.entries(environment)) {
      const releases = releasesOf(name)
      const where = lineOf(files, name)
      if (releases.length === 0) {
        const known = nearestName(name)
        const fix = known ? `Write ${known}=${value}` : `Delete the line of ${name}`
        problems.push(warning(`${where}: ${name} is not known to docker-mailserver`, fix))
        continue
      }
      // Turned off, a name that the release does not know does no harm.
      const isOff = value === '' || value === '0' || ALWAYS_SO.has(name)
      if (isOff || nearest === undefined || releases.includes(nearest)) continue
      const fix = `Delete the line of ${name}, or set DMS_VERSION=${releases[0]} in .env`
      problems.push(warning(`${where}: ${name} is known to ${releases.join(', ')}, not to ${release}`, fix))
    }
    return verdict(problems, `${Object.keys(environment).length} names`)
  },
}

const protocols: Check = {
  name: 'env-protocols',
  title: 'SMTP, POP3 and IMAP are turned on, over IPv4',
  run({ files }) {
    const environment = environmentOf(files)
    const problems: Finding[] = []
    const write = (line: string) => `Write into ${ENV_FILE}: ${line}`
    const { SMTP_ONLY, ENABLE_POP3, ENABLE_IMAP } = environment
    if (SMTP_ONLY === '1') {
      const lost = ENABLE_POP3 === '1' ? 'POP3 stays off although ENABLE_POP3=1' : 'no mailbox can be read'
      problems.push(
        failure(`${lineOf(files, 'SMTP_ONLY')}: SMTP_ONLY=1 starts Postfix alone: ${lost}`, write('SMTP_ONLY=0')),
      )
    } else {
      if (ENABLE_POP3 !== '1') {
        const is = ENABLE_POP3 === undefined ? 'ENABLE_POP3 is not set' : `ENABLE_POP3=${ENABLE_POP3}`
        problems.push(warning(`${lineOf(files, 'ENABLE_POP3')}: ${is}: POP3 is off`, write('ENABLE_POP3=1')))
      }
      if (ENABLE_IMAP === '0') {
        problems.push(warning(`${lineOf(files, 'ENABLE_IMAP')}: ENABLE_IMAP=0: IMAP is off`, write('ENABLE_IMAP=1')))
      }
    }
    for (const name of ['POSTFIX_INET_PROTOCOLS', 'DOVECOT_INET_PROTOCOLS']) {
      const value = environment[name] || 'all'
      if (value === 'ipv4') continue
      const what =
        value === 'all' ? 'also wants IPv6, which a container may lack' : 'does not listen on an IPv4 address'
      const report = value === 'all' ? warning : failure
      problems.push(report(`${lineOf(files, name)}: ${name}=${value} ${what}`, write(`${name}=ipv4`)))
    }
    return verdict(problems, 'SMTP, POP3, IMAP; IPv4')
  },
}

const relay: Check = {
  name: 'env-relay',
  title: 'No relay host is set',
  run({ files }) {
    const environment = environmentOf(files)
    const set = ['RELAY_HOST', 'DEFAULT_RELAY_HOST'].filter((name) => environment[name])
    const problems = set.map((name) =>
      failure(
        `${lineOf(files, name)}: ${name}=${environment[name]}: docker-mailserver hands mail to that server`,
        `Delete the line of ${name} from ${ENV_FILE}`,
      ),
    )
    return verdict(problems, 'no RELAY_HOST, no DEFAULT_RELAY_HOST')
  },
}

const trust: Check = {
  name: 'env-trust',
  title: 'Only this machine sends without logging in',
  run(context) {
    const { bindAddress } = context.settings()
    const trusted = environmentOf(context.files).PERMIT_DOCKER || 'none'
    const isLoopback = bindAddress.startsWith('127.')
    const evidence = `PERMIT_DOCKER=${trusted}, ports on ${bindAddress}`
    const trusts = ['host', 'network', 'connected-networks'].includes(trusted)
    if (isLoopback) return verdict([], evidence)
    const fix = `Write BIND_ADDRESS=127.0.0.1 into .env${trusts ? `, or PERMIT_DOCKER=none into ${ENV_FILE}` : ''}`
    if (trusts) return [failure(`${evidence}: whoever reaches this machine sends without logging in`, fix)]
    return [warning(`${evidence}: whoever reaches this machine may log in, with passwords that everybody knows`, fix)]
  },
}

const lookups: Check = {
  name: 'env-lookups',
  title: 'Nothing asks the DNS or the network about mail',
  run(context) {
    const environment = environmentOf(context.files)
    const nearest = nearestRelease(context.settings().dmsVersion) ?? '15.1.0'
    const problems: Finding[] = []
    for (const [name, why] of [...Object.entries(ON_BY_DEFAULT), ...Object.entries(OFF_BY_DEFAULT)]) {
      const value = environment[name] || (name in ON_BY_DEFAULT ? '1' : '0')
      if (value === '0' || !releasesOf(name).includes(nearest)) continue
      const is = environment[name] ? `${name}=${value}` : `${name} is not set, which is 1`
      problems.push(warning(`${lineOf(context.files, name)}: ${is}: ${why}`, `Write into ${ENV_FILE}: ${name}=0`))
    }
    return verdict(problems, 'DKIM, DMARC, SPF, block lists and the update check are off')
  },
}

export const environmentChecks: Check[] = [names, protocols, relay, trust, lookups]
