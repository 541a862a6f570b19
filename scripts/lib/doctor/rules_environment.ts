/** What development-mail-server.env has to say. To add a rule, add a row. */
import { CATCHALL } from '../accounts/accounts.ts'
import { nearestOf } from '../cli.ts'
import { type Check, EXPLAINS, type Finding, failure, verdict, warning } from './check.ts'
import { ENV_FILE, type Facts, inConfig } from './facts.ts'
import { addLine, deleteLine, writeLine } from './fixes.ts'

interface Row {
  name: string
  /** Whether a value is right; one that is not set is an empty text. */
  right: RegExp
  level: 'failure' | 'warning'
  why: string
  /** The right value; without one the line goes. */
  write?: string
  explains?: readonly string[]
}

const DELIVERY = 'lmtp:unix:/var/run/dovecot/lmtp'
const OFF = /^0?$/
const warn = (name: string, right: RegExp, why: string, write?: string): Row => ({
  name,
  right,
  level: 'warning',
  why,
  ...(write === undefined ? {} : { write }),
})
const fail = (name: string, right: RegExp, why: string, write?: string): Row => ({
  ...warn(name, right, why, write),
  level: 'failure',
  explains: EXPLAINS.start,
})

// biome-ignore format: one rule a line
const ROWS: Row[] = [
  // What runs
  fail('SMTP_ONLY', OFF, 'Postfix runs alone and no mailbox can be read', '0'),
  warn('ENABLE_POP3', /^1$/, 'POP3 is off', '1'),
  warn('ENABLE_IMAP', /^1?$/, 'IMAP is off', '1'),
  fail('ACCOUNT_PROVISIONER', /^(FILE)?$/, 'postfix-accounts.cf is not read', 'FILE'),
  warn('POSTFIX_INET_PROTOCOLS', /^(?!(all)?$)/, 'Postfix also wants IPv6, which a container may lack', 'ipv4'),
  fail('POSTFIX_INET_PROTOCOLS', /^(ipv4|all)?$/, 'Postfix does not listen on an IPv4 address', 'ipv4'),
  warn('DOVECOT_INET_PROTOCOLS', /^(?!(all)?$)/, 'Dovecot also wants IPv6, which a container may lack', 'ipv4'),
  fail('DOVECOT_INET_PROTOCOLS', /^(ipv4|all)?$/, 'Dovecot does not listen on an IPv4 address', 'ipv4'),
  warn('PERMIT_DOCKER', /^(none|host|network|connected-networks|container)?$/, 'docker-mailserver knows no such value', 'connected-networks'),
  // Delivery
  fail('POSTFIX_DAGENT', new RegExp(`^(${DELIVERY})?$`), 'mail for the mailboxes does not go to Dovecot', DELIVERY),
  fail('POSTFIX_MESSAGE_SIZE_LIMIT', /^\d*$/, 'that is no number of bytes', '10240000'),
  warn('POSTFIX_MESSAGE_SIZE_LIMIT', /^$|^0$|^\d{6,}$|\D/, 'nearly every mail is larger, and refused', '10240000'),
  fail('POSTFIX_MAILBOX_SIZE_LIMIT', /^\d*$/, 'that is no number of bytes', '0'),
  warn('POSTFIX_MAILBOX_SIZE_LIMIT', /^$|^0$|^\d{7,}$|\D/, 'mailboxes are full after a mail or two', '0'),
  fail('DOVECOT_MAILBOX_FORMAT', /^(maildir|sdbox|mdbox)?$/, 'Dovecot has no such format', 'maildir'),
  fail('OVERRIDE_HOSTNAME', /^$|^(?!-)[\w-]+(\.[\w-]+)+$/, 'that is no host name with its domain'),
  fail('SSL_TYPE', /^(snakeoil|self-signed|custom|manual|letsencrypt)?$/, 'there is no such type', 'snakeoil'),
  // Nothing leaves
  fail('RELAY_HOST', /^$/, 'docker-mailserver hands mail to that server'),
  fail('DEFAULT_RELAY_HOST', /^$/, 'docker-mailserver hands mail to that server'),
  // Nothing asks the DNS or the network
  warn('ENABLE_OPENDKIM', /^0$/, 'DKIM asks the DNS for the keys of each signed mail', '0'),
  warn('ENABLE_OPENDMARC', /^0$/, 'DMARC asks the DNS for the policy of each sender', '0'),
  warn('ENABLE_POLICYD_SPF', /^0$/, 'SPF asks the DNS for each sender', '0'),
  warn('ENABLE_UPDATE_CHECK', /^0$/, 'the update check asks the network each day', '0'),
  warn('ENABLE_AMAVIS', /^0$/, 'Amavis asks the network about mail', '0'),
  warn('ENABLE_DNSBL', OFF, 'block lists are asked over the DNS for each client', '0'),
  warn('ENABLE_RSPAMD', OFF, 'Rspamd asks the DNS and the network about each mail', '0'),
  warn('ENABLE_SPAMASSASSIN', OFF, 'SpamAssassin asks the DNS about each mail', '0'),
  warn('ENABLE_CLAMAV', OFF, 'ClamAV fetches its signatures from the network', '0'),
  warn('ENABLE_MTA_STS', OFF, 'MTA-STS asks the DNS and the web for policies', '0'),
  warn('ENABLE_FETCHMAIL', OFF, 'Fetchmail fetches mail from other servers', '0'),
  warn('ENABLE_GETMAIL', OFF, 'Getmail fetches mail from other servers', '0'),
  warn('POSTFIX_REJECT_UNKNOWN_CLIENT_HOSTNAME', OFF, 'each client is looked up in the DNS', '0'),
  // Every mail arrives, at once and as it was sent
  warn('ENABLE_POSTGREY', OFF, 'each mail is refused for its first five minutes', '0'),
  warn('ENABLE_SRS', OFF, 'the senders of forwarded mail are rewritten', '0'),
  warn('ENABLE_FAIL2BAN', OFF, 'a client with a few wrong passwords is shut out', '0'),
  warn('SPOOF_PROTECTION', OFF, 'mail with another sender than its login is refused', '0'),
]

/** Names of docker-mailserver 10.5.0 and 15.1.0. */
const BOTH =
  words(`AMAVIS_LOGLEVEL DEFAULT_RELAY_HOST DOVECOT_AUTH_BIND DOVECOT_BASE DOVECOT_DEFAULT_PASS_SCHEME DOVECOT_DN
  DOVECOT_DNPASS DOVECOT_INET_PROTOCOLS DOVECOT_LDAP_VERSION DOVECOT_MAILBOX_FORMAT DOVECOT_PASS_ATTRS
  DOVECOT_PASS_FILTER DOVECOT_TLS DOVECOT_URIS DOVECOT_USER_ATTRS DOVECOT_USER_FILTER ENABLE_AMAVIS ENABLE_CLAMAV
  ENABLE_DNSBL ENABLE_FAIL2BAN ENABLE_FETCHMAIL ENABLE_MANAGESIEVE ENABLE_POP3 ENABLE_POSTGREY ENABLE_QUOTAS
  ENABLE_SASLAUTHD ENABLE_SPAMASSASSIN ENABLE_SPAMASSASSIN_KAM ENABLE_SRS ENABLE_UPDATE_CHECK FAIL2BAN_BLOCKTYPE
  FETCHMAIL_PARALLEL FETCHMAIL_POLL LDAP_BIND_DN LDAP_BIND_PW LDAP_QUERY_FILTER_ALIAS LDAP_QUERY_FILTER_DOMAIN
  LDAP_QUERY_FILTER_GROUP LDAP_QUERY_FILTER_SENDERS LDAP_QUERY_FILTER_USER LDAP_SEARCH_BASE LDAP_SERVER_HOST
  LDAP_START_TLS LOGROTATE_INTERVAL LOGWATCH_INTERVAL LOGWATCH_RECIPIENT LOGWATCH_SENDER MOVE_SPAM_TO_JUNK
  NETWORK_INTERFACE OVERRIDE_HOSTNAME PERMIT_DOCKER PFLOGSUMM_RECIPIENT PFLOGSUMM_SENDER PFLOGSUMM_TRIGGER
  POSTFIX_DAGENT POSTFIX_INET_PROTOCOLS POSTFIX_MAILBOX_SIZE_LIMIT POSTFIX_MESSAGE_SIZE_LIMIT
  POSTGREY_AUTO_WHITELIST_CLIENTS POSTGREY_DELAY POSTGREY_MAX_AGE POSTGREY_TEXT POSTMASTER_ADDRESS POSTSCREEN_ACTION
  RELAY_HOST RELAY_PASSWORD RELAY_PORT RELAY_USER REPORT_RECIPIENT REPORT_SENDER SASLAUTHD_LDAP_AUTH_METHOD
  SASLAUTHD_LDAP_BIND_DN SASLAUTHD_LDAP_FILTER SASLAUTHD_LDAP_MECH SASLAUTHD_LDAP_PASSWORD
  SASLAUTHD_LDAP_PASSWORD_ATTR SASLAUTHD_LDAP_SEARCH_BASE SASLAUTHD_LDAP_SERVER SASLAUTHD_LDAP_START_TLS
  SASLAUTHD_LDAP_TLS_CACERT_DIR SASLAUTHD_LDAP_TLS_CACERT_FILE SASLAUTHD_LDAP_TLS_CHECK_PEER SASLAUTHD_MECHANISMS
  SASLAUTHD_MECH_OPTIONS SA_KILL SA_SHORTCIRCUIT_BAYES_HAM SA_SHORTCIRCUIT_BAYES_SPAM SA_TAG SA_TAG2 SMTP_ONLY
  SPAMASSASSIN_SPAM_TO_INBOX SPOOF_PROTECTION SRS_DOMAINNAME SRS_EXCLUDE_DOMAINS SRS_SECRET SRS_SENDER_CLASSES
  SSL_ALT_CERT_PATH SSL_ALT_KEY_PATH SSL_CERT_PATH SSL_KEY_PATH SSL_TYPE SUPERVISOR_LOGLEVEL TLS_LEVEL
  UPDATE_CHECK_INTERVAL VIRUSMAILS_DELETE_DELAY`)
/** This project's own, and two that one release does without because it always does what they ask for. */
const ANY = ['SMTP_ANY_LOGIN', 'ENABLE_POSTFIX_VIRTUAL_TRANSPORT', 'ENABLE_IMAP']
const RELEASES: Record<string, string[]> = {
  '10.5.0': words('DMS_DEBUG ENABLE_LDAP ONE_DIR POSTFIX REPORT_INTERVAL SASL_PASSWD SA_SPAM_SUBJECT'),
  '15.1.0': words(`ACCOUNT_PROVISIONER CLAMAV_MESSAGE_SIZE_LIMIT DMS_CONFIG_POLL DMS_DOMAINNAME DMS_FQDN DMS_HOSTNAME
    DMS_VMAIL_GID DMS_VMAIL_UID ENABLE_GETMAIL ENABLE_MTA_STS ENABLE_OAUTH2 ENABLE_OPENDKIM ENABLE_OPENDMARC
    ENABLE_POLICYD_SPF ENABLE_RSPAMD ENABLE_RSPAMD_REDIS GETMAIL_POLL LOGROTATE_COUNT LOG_LEVEL MARK_SPAM_AS_READ
    OAUTH2_INTROSPECTION_URL POSTFIX_REJECT_UNKNOWN_CLIENT_HOSTNAME RSPAMD_CHECK_AUTHENTICATED RSPAMD_GREYLISTING
    RSPAMD_HFILTER RSPAMD_HFILTER_HOSTNAME_UNKNOWN_SCORE RSPAMD_LEARN RSPAMD_NEURAL SPAM_SUBJECT TZ`),
}
const KNOWN = [...BOTH, ...ANY, ...Object.values(RELEASES).flat()]

function words(text: string): string[] {
  return text.trim().split(/\s+/)
}

/** The line that sets a variable: of several the last one counts. */
function lineOf(facts: Facts, name: string): number | undefined {
  const lines = (facts.read(ENV_FILE) ?? '').split('\n')
  const at = lines.findLastIndex((line) => new RegExp(`^\\s*(export\\s+)?${name}\\s*=`).test(line))
  return at < 0 ? undefined : at + 1
}

const values: Check = {
  name: 'environment',
  title: 'The environment file turns on what this server needs, and nothing else',
  run(facts) {
    const environment = facts.environment()
    const problems = ROWS.filter(
      ({ name, right }) => !right.test(environment[name] ?? '') && isKnownHere(facts, name),
    ).map((row) => {
      const { name, level, why, write, explains } = row
      const line = lineOf(facts, name)
      const is = line ? `line ${line}: ${name}=${environment[name]}` : `${name} is not set`
      const right = write === undefined ? undefined : `${name}=${write}`
      const fix = !line
        ? addLine(ENV_FILE, right ?? '')
        : right
          ? writeLine(ENV_FILE, line, right)
          : deleteLine(ENV_FILE, line)
      return { level, evidence: `${ENV_FILE} ${is}: ${why}`, fix, ...(explains ? { explains } : {}) } as Finding
    })
    return verdict([...problems, ...certificatePaths(facts, environment)], `${ROWS.length} rules`)
  },
}

/** SSL_TYPE=manual names two files; docker-mailserver sees the configuration folder and nothing else of this machine. */
function certificatePaths(facts: Facts, environment: Record<string, string>): Finding[] {
  if (environment.SSL_TYPE !== 'manual') return []
  const wrong = ['SSL_CERT_PATH', 'SSL_KEY_PATH'].flatMap((name) => {
    const path = environment[name] ?? ''
    const file = /^\/tmp\/docker-mailserver\/(.+)$/.exec(path)?.[1]
    const fact = !path
      ? 'is not set'
      : !file
        ? 'is not below /tmp/docker-mailserver/'
        : facts.problem(inConfig(file))?.[0]
    return fact ? [`${name}=${path} ${fact}`] : []
  })
  return wrong.length > 0
    ? [failure(`${ENV_FILE}: SSL_TYPE=manual, and ${wrong.join(', ')}`, undefined, { explains: EXPLAINS.start })]
    : []
}

/** A release that does not know a variable does not do either what it asks for. */
function isKnownHere(facts: Facts, name: string): boolean {
  const major = Number.parseInt(facts.settings().dmsVersion, 10)
  const only = Object.entries(RELEASES).find(([, names]) => names.includes(name))?.[0]
  return only === undefined || (major <= 10 ? only === '10.5.0' : only === '15.1.0')
}

const names: Check = {
  name: 'environment-names',
  title: 'Every name in the environment file is known to docker-mailserver',
  run(facts) {
    const environment = facts.environment()
    const { dmsVersion } = facts.settings()
    const problems = Object.entries(environment).flatMap(([name, value]) => {
      const line = lineOf(facts, name) ?? 0
      const where = `${ENV_FILE} line ${line}: ${name}`
      if (!KNOWN.includes(name)) {
        const meant = nearestOf(name, KNOWN)
        // A name that stands there already is not what was meant, or means it twice.
        const fix =
          meant && !(meant in environment) ? writeLine(ENV_FILE, line, `${meant}=${value}`) : deleteLine(ENV_FILE, line)
        return [warning(`${where} is not known to docker-mailserver${meant ? `; meant is ${meant}?` : ''}`, fix)]
      }
      if (/^ENABLE_/.test(name) && !/^[01]?$/.test(value) && !ROWS.some((row) => row.name === name)) {
        return [
          warning(
            `${where}=${value} is neither 0 nor 1, and counts as 0`,
            writeLine(ENV_FILE, line, `${name}=${/^(yes|true|on)$/i.test(value) ? 1 : 0}`),
          ),
        ]
      }
      // Turned off, a name that the release does not know does no harm.
      if (/^0?$/.test(value) || isKnownHere(facts, name)) return []
      return [warning(`${where} is not known to release ${dmsVersion}, and has no effect`, deleteLine(ENV_FILE, line))]
    })
    const odd = (facts.read(ENV_FILE) ?? '').split('\n').flatMap((text, index) => {
      if (/^\s*(#|$)/.test(text) || /^\s*(export\s+)?\w+\s*=/.test(text)) return []
      const meant = /^\s*(\w+)\s*:\s*(.*)$/.exec(text)
      const fix = meant ? writeLine(ENV_FILE, index + 1, `${meant[1]}=${meant[2]}`) : deleteLine(ENV_FILE, index + 1)
      return [warning(`${ENV_FILE} line ${index + 1}: this is not NAME=value, and has no effect`, fix)]
    })
    return verdict([...problems, ...odd], `${Object.keys(environment).length} names`)
  },
}

const trust: Check = {
  name: 'environment-trust',
  title: 'Only this machine sends without logging in',
  run(facts) {
    const { bindAddress } = facts.settings()
    const trusted = facts.environment().PERMIT_DOCKER || 'none'
    const evidence = `PERMIT_DOCKER=${trusted}, ports on ${bindAddress}`
    if (/^(127\.|::1$)/.test(bindAddress)) return verdict([], evidence)
    const fix = process.env.BIND_ADDRESS ? 'unset BIND_ADDRESS' : 'Write into .env: BIND_ADDRESS=127.0.0.1'
    if (trusted !== 'none') return [failure(`${evidence}: whoever reaches this machine sends without logging in`, fix)]
    return [warning(`${evidence}: whoever reaches this machine may log in, with passwords that everybody knows`, fix)]
  },
}

const postmaster: Check = {
  name: 'postmaster',
  title: 'Double bounces have a mailbox',
  run(facts) {
    const address = facts.environment().POSTMASTER_ADDRESS ?? ''
    const accounts = facts.read(inConfig('postfix-accounts.cf')) ?? ''
    if (address !== '' && accounts.toLowerCase().includes(`${address.toLowerCase()}|`)) return verdict([], address)
    const domain = address.slice(address.lastIndexOf('@'))
    if (address.includes('@') && !accounts.includes(`${domain}|`)) return verdict([], `${address}, by the catchall`)
    const line = lineOf(facts, 'POSTMASTER_ADDRESS')
    const right = `POSTMASTER_ADDRESS=${CATCHALL}`
    const evidence = `${ENV_FILE}: POSTMASTER_ADDRESS=${address} is no account; a bounce that cannot be returned is lost`
    return [warning(evidence, line ? writeLine(ENV_FILE, line, right) : addLine(ENV_FILE, right))]
  },
}

export const environmentChecks: Check[] = [values, names, trust, postmaster]
