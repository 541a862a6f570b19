/**
 * What Postfix's parameters have to be, in postfix-main.cf, in postfix-master.cf and on the running server. To add a rule, add
 * a row.
 */
import { BlockList, isIP } from 'node:net'
import { CATCHALL } from '../accounts/accounts.ts'
import { EXPLAINS, type Finding, failure, type Level } from './check.ts'
import { type Facts, IN_CONTAINER, inConfig, type Line } from './facts.ts'
import { writeLine } from './fixes.ts'

export const MAIN_CF = inConfig('postfix-main.cf')
export const MASTER_CF = inConfig('postfix-master.cf')

interface Row {
  /** Of which parameters. */
  name: RegExp
  right: RegExp | ((value: string, facts: Facts) => boolean)
  why: string
  level?: Level
  /** What belongs there; without it the line goes. `needed`: also where nothing is set, since Postfix's default is wrong. */
  write?: string
  needed?: true
  explains?: readonly string[]
}

const EMPTY = /^$/
const OFF = /^(0|0s|no)?$/
const ADDRESS = '(127\\.\\d+\\.\\d+\\.\\d+|localhost|\\[?::1\\]?)'
/** `inet:127.0.0.1:8891`, `smtp:[127.0.0.1]:10024`, `unix:/path`, several of them. */
const LOOPBACK = new RegExp(
  `^((inet:|smtp:|lmtp:|scan:)?\\[?${ADDRESS}\\]?(:\\d+)?|unix:\\S+|lmtp:unix:\\S+|[\\s,]+)*$`,
)
/** Words in restrictions that ask the DNS, or somebody outside. */
const ASKS =
  /\breject_unknown_\w+|\breject_unverified_sender|\breject_rh?s?bl\w*|\bcheck_\w+_(mx|ns|a)_access|\bpermit_dnswl_client|\bpermit_rhswl_client|\bpermit_mx_backup/
const MAP = `pcre:${IN_CONTAINER}/postfix-transport_maps`

// biome-ignore format: one rule a line
export const ROWS: Row[] = [
  // Nothing leaves
  { name: /^transport_maps$/, right: (value) => value.includes(MAP), write: MAP, needed: true, why: 'no table keeps foreign mail here' },
  { name: /^(default|relay)_transport$/, right: /^(local|error|retry|discard)(:\S*)?$/, write: 'local', needed: true, why: 'mail that no table keeps here would leave' },
  { name: /^local_transport$/, right: /^local(:\S*)?$/, why: 'mail for this server leaves it', explains: EXPLAINS.mail },
  { name: /^virtual_transport$/, right: /^lmtp:unix:\S*\/lmtp$/, why: 'mail for the mailboxes does not go to Dovecot', explains: EXPLAINS.mail },
  { name: /^(relayhost|sender_dependent_\w+|\w*fallback_relay|mailbox_command\w*|mailbox_transport\w*|fallback_transport\w*)$/, right: EMPTY, why: 'it leads mail out of this machine' },
  { name: /^(content_filter|smtpd_proxy_filter|smtpd_milters|non_smtpd_milters|milter_\w+_milters)$/, right: LOOPBACK, why: 'it hands mail to another machine', explains: EXPLAINS.mail },
  { name: /^(always_bcc|\w+_bcc_maps)$/, right: (value, facts) => targetsOf(value, facts, true).every((target) => isOwn(target, facts)), why: 'it copies mail to an address outside' },
  { name: /_checks$|^smtpd_\w+_restrictions$/, right: (value, facts) => !targetsOf(value, facts).some((target) => /^(FILTER|REDIRECT|BCC)\b/i.test(target) && !isOwn(target.split(/\s+/)[1] ?? '', facts)), why: 'its table redirects, copies or filters mail to somewhere else' },
  { name: /^content_filter$/, right: /^(?!smtp:|relay:)/, why: 'Postfix has no SMTP client here, and the mail waits', explains: EXPLAINS.mail },
  // Everything is caught
  { name: /^virtual_alias_domains$/, right: EMPTY, write: '', needed: true, why: 'every domain becomes an alias domain, and unknown users are accepted', explains: ['mail-unknown'] },
  { name: /^local_recipient_maps$/, right: EMPTY, write: '', needed: true, why: 'foreign recipients are refused', level: 'warning' },
  { name: /^luser_relay$/, right: (value, facts) => isOwn(value, facts), write: CATCHALL, needed: true, why: 'what the tables miss is lost', level: 'warning' },
  { name: /^mydestination$/, right: (value, facts) => !value.split(/[\s,]+/).some((name) => domainsOf(facts).includes(name.replace('$myhostname', CATCHALL.replace(/.*@/, '')))), write: 'localhost.$mydomain, localhost', needed: true, why: "a virtual mailbox domain is in mydestination as well, and its mail misses the mailboxes", explains: EXPLAINS.mail },
  { name: /^virtual_(alias_maps|mailbox_maps|mailbox_domains)$/, right: (value) => value.includes('$') || /postfix-regexp|vmailbox|vhost/.test(value), why: "docker-mailserver's own tables are not asked any more", explains: EXPLAINS.mail },
  { name: /^recipient_delimiter$/, right: /^\+/, write: '+', why: 'bar+tag@ is no address of bar', level: 'warning' },
  { name: /^(enable_original_recipient|receive_override_options)$/, right: (value) => !/^no$|no_address_mappings/.test(value), why: 'mail is not caught, or its envelope recipient is lost', explains: EXPLAINS.mail },
  { name: /^lmtp_destination_recipient_limit$/, right: /^1$/, write: '1', needed: true, why: 'the second envelope recipient of a message is lost', level: 'warning' },
  // Every client gets in
  { name: /^smtpd_sasl_auth_enable$/, right: /^yes$/, write: 'yes', needed: true, why: 'nobody can log in on port 25', explains: EXPLAINS.answers },
  { name: /^smtpd_tls_auth_only$/, right: OFF, write: 'no', why: 'logins without TLS are refused', explains: EXPLAINS.answers },
  { name: /^smtpd_tls_security_level$/, right: /^(may|none)?$/, write: 'may', why: 'clients without TLS are refused', explains: EXPLAINS.answers },
  { name: /^smtpd_(enforce_tls|tls_req_ccert)$/, right: OFF, why: 'clients without TLS or certificate are refused', explains: EXPLAINS.answers },
  { name: /^smtpd_tls_wrappermode$/, right: /^(no)?$/, why: 'port 25 speaks TLS at once, which no client expects', explains: EXPLAINS.answers },
  { name: /^mynetworks$/, right: (value, facts) => trusts(value, facts.settings().host), why: 'clients on this machine have to log in, or get 554', explains: EXPLAINS.mail },
  { name: /^mynetworks_style$/, right: /^(subnet|host|class)$/, why: 'Postfix knows subnet, host and class' },
  { name: /^smtpd_\w+_restrictions$/, right: (value) => !ASKS.test(value), why: 'it asks the DNS, and refuses what is not found there', explains: EXPLAINS.mail },
  { name: /^smtpd_\w+_restrictions$/, right: (value) => !/^(reject|defer)(,|\s|$)/.test(value), why: 'it refuses everybody', explains: EXPLAINS.mail },
  { name: /^smtpd_\w+_restrictions$/, right: (value) => !/check_policy_service\s+\{?\s*inet:(?!127\.|localhost)/.test(value), why: 'it asks another machine about each mail', explains: EXPLAINS.mail },
  { name: /^smtpd_(relay|recipient)_restrictions$/, right: (value) => value === '' || /permit_mynetworks|permit_sasl_authenticated|\bpermit\b|static:/.test(value) || !/\breject\b|reject_unauth_destination|\bdefer\b/.test(value), why: 'no client may send to foreign addresses', explains: EXPLAINS.mail },
  { name: /^smtpd_recipient_restrictions$/, right: /\breject_unlisted_recipient\b/, needed: true, write: 'check_recipient_access pcre:/tmp/docker-mailserver/postfix-failures.pcre, reject_unlisted_recipient, permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination', why: 'unknown users of the virtual mailbox domains get no 550, and the mail bounces later', explains: ['mail-unknown'] },
  { name: /^smtpd_reject_unlisted_(sender)$/, right: OFF, why: 'senders without a mailbox here are refused', explains: EXPLAINS.mail },
  { name: /^(smtpd_peername_lookup)$/, right: /^no$/, write: 'no', needed: true, why: 'each connection waits for reverse DNS', level: 'warning' },
  { name: /^inet_protocols$/, right: /ipv4|all/, write: 'ipv4', why: 'Postfix does not listen on an IPv4 address', explains: EXPLAINS.answers },
  { name: /^inet_interfaces$/, right: /^all$|^\d|^\[/, write: 'all', why: 'Postfix does not listen where the ports lead', explains: EXPLAINS.answers },
  { name: /^smtpd_client_(\w+_rate|connection_count)_limit$/, right: (value) => Number(value) === 0 || Number(value) >= 50, write: '0', why: 'a client that sends much is shut out', level: 'warning' },
  { name: /^(smtpd_recipient_limit|default_process_limit|smtpd_recipient_overshoot_limit)$/, right: /^(\d{3,}|[2-9]\d)$/, why: 'it is too small for a few clients or recipients at once', level: 'warning' },
  { name: /^smtpd_(delay_open_until_valid_rcpt|error_sleep_time)$/, right: /^(yes|no|[01]s?)$/, why: 'clients wait', level: 'warning' },
  { name: /^postscreen_access_list$/, right: /static:permit|^permit$|static:all/, write: 'static:permit', why: 'clients wait six seconds on port 25 in docker-mailserver', level: 'warning' },
  { name: /^smtpd_sasl_type$/, right: /^dovecot$/, write: 'dovecot', why: 'Postfix asks somebody else about passwords', explains: EXPLAINS.start },
  { name: /^smtpd_sasl_path$/, right: /auth$/, why: 'Postfix asks nobody about passwords', explains: EXPLAINS.start },
  // What is accepted arrives, at once
  { name: /^(defer_transports|hold_\w+)$/, right: EMPTY, why: 'mail waits in the queue until somebody sends it on', explains: EXPLAINS.mail },
  { name: /^soft_bounce$/, right: OFF, why: 'what should be refused or bounced is tried again for days', explains: ['mail-unknown'] },
  { name: /^message_size_limit$/, right: /^(0|\d{6,})$/, write: '10240000', why: 'nearly every mail is larger, and refused', explains: EXPLAINS.start },
  { name: /^(mailbox|virtual_mailbox)_size_limit$|^virtual_mailbox_limit$/, right: (value, facts) => value === '0' || Number(value) >= messageLimit(facts), write: '0', why: 'it is smaller than message_size_limit, and Postfix refuses to deliver', explains: EXPLAINS.mail },
  { name: /^mailbox_size_limit$/, right: /./, write: '0', needed: true, why: "Postfix's default may be smaller than a message, and docker-mailserver's is", level: 'warning' },
  { name: /^queue_minfree$/, right: /^\d{0,8}$/, why: 'Postfix wants more free space than a disk may have', explains: EXPLAINS.mail },
  { name: /_(rate|transport)_delay$|^\w+_rate_delay$/, right: OFF, why: 'each mail waits', level: 'warning' },
  { name: /^(minimal_backoff_time|queue_run_delay|in_flow_delay)$/, right: /^[0-9]{1,3}s?$|^\d{1,2}m$/, why: 'mail waits', level: 'warning' },
  { name: /^(maximal|bounce)_queue_lifetime$/, right: /^(?!0)\d+/, why: 'mail that has to wait a moment bounces at once', level: 'warning' },
  { name: /^(canonical|sender_canonical|recipient_canonical|relocated|virtual_alias_recursion|smtp_generic)_maps$|^masquerade_domains$/, right: EMPTY, why: 'addresses are rewritten on the way', level: 'warning' },
  { name: /^(header|body|mime_header|nested_header)_checks$|^smtpd_\w+_restrictions$/, right: (value, facts) => !targetsOf(value, facts).some((target) => /^(HOLD|DISCARD)\b/i.test(target)), why: 'its table holds or discards mail', level: 'warning' },
]

/** All that the tables in a value can answer; `whole`: words that are no table count as answers. */
function targetsOf(value: string, facts: Facts, whole = false): string[] {
  return value.split(/,(?![^{]*\})|\s+(?![^{]*\})/).flatMap((word) => {
    const [, type = '', rest = ''] = /^([a-z]+):(.*)$/s.exec(word) ?? []
    if (type === 'static') return [rest.replace(/[{}]/g, '').trim()]
    if (type === 'inline') return [...rest.matchAll(/=\s*([^,}]+)/g)].map(([, result = '']) => result.trim())
    const file = rest.startsWith(`${IN_CONTAINER}/`) ? inConfig(rest.slice(IN_CONTAINER.length + 1)) : undefined
    const rule = /pcre|regexp/.test(type) ? /^!?(.)(?:\\.|(?!\1).)+\1\w*\s+(.*)$/ : /^(\S+)\s+(.*)$/
    if (file) return facts.lines(file).flatMap(({ text }) => rule.exec(text)?.[2] ?? [])
    return type ? (whole ? ['unknown@elsewhere.invalid'] : []) : whole && word ? [word] : []
  })
}

/** Whether mail for a name or address ends in a mailbox here, by way of the catchall too unless it is copied past it. */
function isOwn(target: string, facts: Facts): boolean {
  return !target.includes('@')
    ? !/[:/]/.test(target)
    : domainsOf(facts).includes(target.replace(/.*@/, '').toLowerCase())
}

export function domainsOf(facts: Facts): string[] {
  const addresses = facts.lines(inConfig('postfix-accounts.cf')).map(({ text }) => text.split('|')[0] ?? '')
  // A line that is no account has a password in it, perhaps, and is the matter of "accounts".
  const valid = addresses.filter((address) => /^[^\s@:|]+@[^\s@:|]+$/.test(address))
  return [...new Set(valid.map((address) => address.replace(/.*@/, '').toLowerCase()))]
}

function trusts(value: string, host: string): boolean {
  const list = new BlockList()
  for (const word of value.split(/[\s,]+/)) {
    const [, address = '', bits] = /^\[?([^\]/]+)\]?(?:\/(\d+))?$/.exec(word) ?? []
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
    if (isIP(address)) list.addSubnet(address, Number(bits ?? (family === 'ipv6' ? 128 : 32)), family)
  }
  // Tables and $names are the running server's to judge.
  return /[:$](?!:|\d)/.test(value.replace(/\[[^\]]*\]/g, '')) || list.check(host, isIP(host) === 6 ? 'ipv6' : 'ipv4')
}

function messageLimit(facts: Facts): number {
  return Number(
    facts.parameters(MAIN_CF).get('message_size_limit')?.value ?? facts.environment().POSTFIX_MESSAGE_SIZE_LIMIT ?? 0,
  )
}

export function judge(name: string, value: string, facts: Facts): Row | undefined {
  return ROWS.find(
    (row) => row.name.test(name) && !(row.right instanceof RegExp ? row.right.test(value) : row.right(value, facts)),
  )
}

export const NOWHERE: Line = { line: 0, end: 0, text: '' }

export function findingOf(
  { why, level = 'failure', explains = [] }: Row,
  evidence: string,
  fix: string | undefined,
  also: string[] = [],
): Finding {
  return { level, evidence: `${evidence}: ${why}`, fix, explains: [...explains, ...also] }
}

/** The parameter that a row is about where it has to be set. */
export const nameOf = ({ name }: Row) => /^\^\(?(\w+)\)?\$$/.exec(name.source)?.[1] ?? ''

/** A line that begins with a space goes on with the one above; where it looks like an entry of its own, that is a slip. */
export function glued(facts: Facts, file: string, looks: RegExp, mayGoOn = /,\s*$/): Finding[] {
  return (facts.read(file) ?? '').split('\n').flatMap((text, index, all) => {
    const before = all.slice(0, index).findLast((line) => !/^\s*(#|$)/.test(line))
    if (!looks.test(text) || (before && mayGoOn.test(before))) return []
    const evidence = `${file} line ${index + 1} begins with a space and so belongs to the line above: ${text.trim().slice(0, 80)}`
    return [
      failure(evidence, writeLine(file, index + 1, text.trim()), {
        explains: [...EXPLAINS.start, 'main-cf', 'main-cf-names', 'aliases', 'tables'],
      }),
    ]
  })
}

/** The files that come with the project; "files" says what is wrong with them. */
export const OWN_FILES = [
  ...[
    'postfix-main.cf',
    'postfix-master.cf',
    'postfix-accounts.cf',
    'postfix-virtual.cf',
    'postfix-regexp.cf',
    'postfix-transport_maps',
  ],
  ...[
    'postfix-failures.pcre',
    'postfix-failures-data.pcre',
    'dovecot.cf',
    'dovecot-2.4.cf',
    'dovecot-master-users',
    'user-patches.sh',
  ],
]
