/** What the settings have to be: of the environment file, of Postfix, of Dovecot. To add a rule, add a row. */
import { CATCHALL } from '../accounts/accounts.ts'
import { domainOf } from '../accounts/changes.ts'
import type { Finding } from './check.ts'
import { type Facts, IN_CONTAINER, inConfig } from './facts.ts'
import * as values from './values.ts'
import { actionsOf, addressesOf, domainsOf, isNoVirtual, isOwn, missing } from './values.ts'

/** What a value has to be, or what says so of it. */
type Right = RegExp | ((value: string, facts: Facts) => boolean)
/** Words, or what makes them of the value. */
type Words = string | ((value: string, facts: Facts) => string)

export interface Rule {
  level: Finding['level']
  /** The names that it is about: a pattern for the whole of a name, or plain names with "|" between. */
  names: string
  pattern: RegExp
  right: Right
  why: Words
  /** The right value. Without one the line goes; null where only the reader knows it. */
  write?: Words | null | undefined
  /** Whether it is wrong too where nothing is set. */
  needed?: boolean
}

type Row = (names: string, right: Right, why: Words, write?: Words | null) => Rule
const row =
  (level: Rule['level']): Row =>
  (names, right, why, write) => ({ level, names, pattern: new RegExp(`^(${names})$`), right, why, write })
const [fail, warn] = [row('failure'), row('warning')]
const need = (one: Rule): Rule => ({ ...one, needed: true })

/** The first rule that a value breaks, with its words for this value; an undefined value is one that is not set. */
export function broken(rules: readonly Rule[], name: string, value: string | undefined, facts: Facts) {
  const found = rules.find(({ pattern, right, needed }) => {
    if (!pattern.test(name)) return false
    if (value === undefined) return needed
    return right instanceof RegExp ? !right.test(value) : !right(value, facts)
  })
  const say = (words?: Words | null) => (typeof words === 'function' ? words(value ?? '', facts) : words)
  return found && { level: found.level, why: say(found.why), write: say(found.write) }
}

const EMPTY = /^$/
const OFF = /^(0|0s|no)?$/
const DELIVERY = 'lmtp:unix:/var/run/dovecot/lmtp'
const ANOTHER_NAME =
  'it is a virtual mailbox domain, so that names without a domain are unknown users of it and get 550'

// biome-ignore format: one rule a line
const ENVIRONMENT: Rule[] = [
  // What runs
  warn('SMTP_ONLY', OFF, 'Postfix runs alone: POP3, IMAP and logins are off, and accepted mail waits in the queue', '0'),
  warn('ENABLE_POP3', /^1$/, 'POP3 is off', '1'),
  warn('ENABLE_IMAP', /^1?$/, 'IMAP is off', '1'),
  fail('ACCOUNT_PROVISIONER', /^(FILE)?$/, 'postfix-accounts.cf is not read', 'FILE'),
  warn('POSTFIX_INET_PROTOCOLS|DOVECOT_INET_PROTOCOLS', /^(?!(all)?$)/, 'it also wants IPv6, which a container may lack', 'ipv4'),
  fail('POSTFIX_INET_PROTOCOLS|DOVECOT_INET_PROTOCOLS', /^(ipv4|all)?$/, 'it does not listen on an IPv4 address', 'ipv4'),
  warn('PERMIT_DOCKER', /^(none|host|network|connected-networks|container)?$/, 'docker-mailserver knows no such value', 'connected-networks'),
  // Delivery
  fail('POSTFIX_DAGENT', new RegExp(`^(${DELIVERY})?$`), 'mail for the mailboxes does not go to Dovecot', DELIVERY),
  fail('POSTFIX_MESSAGE_SIZE_LIMIT', /^\d{0,10}$/, 'that is no number of bytes, or more than a disk may have free', '10240000'),
  warn('POSTFIX_MESSAGE_SIZE_LIMIT', /^0?$|^\d{6,}$/, 'nearly every mail is larger, and refused', '10240000'),
  fail('POSTFIX_MAILBOX_SIZE_LIMIT', /^\d*$/, 'that is no number of bytes', '0'),
  warn('POSTFIX_MAILBOX_SIZE_LIMIT', /^0?$|^\d{7,}$/, 'mailboxes are full after a mail or two', '0'),
  fail('DOVECOT_MAILBOX_FORMAT', /^(maildir|sdbox|mdbox)?$/, 'Dovecot has no such format', 'maildir'),
  fail('OVERRIDE_HOSTNAME', /^$|^(?!-)[\w-]+(\.[\w-]+)+$/, 'that is no host name with its domain'),
  fail('OVERRIDE_HOSTNAME', isNoVirtual, ANOTHER_NAME),
  fail('SSL_TYPE', /^(snakeoil|self-signed|custom|manual|letsencrypt)?$/, 'there is no such type', 'snakeoil'),
  fail('SSL_TYPE', (value, facts) => !values.missingCertificate(value, facts), (value, facts) => `${values.missingCertificate(value, facts)}, and TLS needs it`, null),
  need(warn('POSTMASTER_ADDRESS', (value, facts) => [CATCHALL, ...addressesOf(facts)].includes(value.toLowerCase()) || (value.includes('@') && !isOwn(value, facts)), 'that is no account, and a bounce that cannot be returned is lost', CATCHALL)),
  // Nothing leaves
  fail('ENABLE_SASLAUTHD', OFF, 'passwords are asked of saslauthd, which knows none of the accounts', '0'),
  warn('ENABLE_OAUTH2', OFF, 'it asks another server about each login', '0'),
  fail('RELAY_HOST|DEFAULT_RELAY_HOST', EMPTY, 'docker-mailserver hands mail to that server'),
  // Nothing asks the DNS or the network: what is on by default in releases since 11, in all of them, and in none
  warn('ENABLE_OPENDKIM|ENABLE_OPENDMARC|ENABLE_POLICYD_SPF', /^0$/, 'it asks the DNS about each mail', '0'),
  warn('ENABLE_UPDATE_CHECK|ENABLE_AMAVIS', /^0$/, 'it asks the network', '0'),
  warn('ENABLE_DNSBL|ENABLE_RSPAMD|ENABLE_SPAMASSASSIN|ENABLE_CLAMAV|ENABLE_MTA_STS|ENABLE_FETCHMAIL|ENABLE_GETMAIL|POSTFIX_REJECT_UNKNOWN_CLIENT_HOSTNAME', OFF, 'it asks the DNS, the network or other servers', '0'),
  // Every mail arrives, at once and as it was sent
  warn('ENABLE_POSTGREY', OFF, 'each mail is refused for its first five minutes', '0'),
  warn('ENABLE_SRS', OFF, 'the senders of forwarded mail are rewritten', '0'),
  warn('ENABLE_FAIL2BAN', OFF, 'a client with a few wrong passwords is shut out', '0'),
  warn('SPOOF_PROTECTION', OFF, 'mail with another sender than its login is refused', '0'),
  warn('ENABLE_\\w+', /^[01]?$/, 'that is neither 0 nor 1, and counts as 0', (value) => (/^(yes|true|on)$/i.test(value) ? '1' : '0')),
]
export const ENVIRONMENT_RULES = ENVIRONMENT.map((one) =>
  one.right instanceof RegExp && !one.right.test('') ? need(one) : one,
)

const LOOPBACK_HOST = '\\[?(127\\.\\d+\\.\\d+\\.\\d+|localhost|::1)\\]?'
/** `inet:127.0.0.1:8891`, `smtp:[127.0.0.1]:10024`, `unix:/path`, several of them. */
const LOOPBACK = new RegExp(`^((inet:|smtp:|lmtp:|scan:)?${LOOPBACK_HOST}(:\\d+)?|(lmtp:)?unix:\\S+|[\\s,]+)*$`)
/** Restrictions that ask the DNS, or somebody outside. */
const ASKING = /\b(reject_(unknown|unverified_s|rh?s?bl)\w+|permit_(dnswl|rhswl|mx)_\w+|check_\w+_(mx|ns|a)_access)\b/
/** Restrictions that refuse clients as many applications are. */
const REFUSING = /\breject_((invalid|non_fqdn)_\w+|\w*login_mismatch|unlisted_sender|plaintext_session)/
const REFUSES_ALL =
  /^((?!permit).)*\b((reject|defer)([,\s]|$)|check_\w+_access\s+static:\s*\{?\s*(REJECT|DEFER|[45]\d\d)\b)/i
/** The first such word of a value; all clients here are permitted by mynetworks, and come no further. */
const wordIn = (value: string, words: RegExp) => value.split('permit_mynetworks')[0]?.match(words)?.[0]
const TABLE = `pcre:${IN_CONTAINER}/postfix-transport_maps`
const RECIPIENTS = `check_recipient_access pcre:${IN_CONTAINER}/postfix-failures.pcre, reject_unlisted_recipient, permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination`

// biome-ignore format: one rule a line
export const POSTFIX_RULES: Rule[] = [
  fail('\\w+', /^(?!.*\s#)/, 'what stands behind # is part of the value', (value) => value.replace(/\s+#.*$/, '')),
  // Nothing leaves
  need(fail('transport_maps', (value) => value.includes(TABLE), 'no table keeps foreign mail here', TABLE)),
  need(fail('default_transport|relay_transport', /^(local|error|retry|discard)(:\S*)?$/, 'mail that no table keeps here would leave', 'local')),
  fail('local_transport', /^local(:\S*)?$/, 'mail for this server leaves it'),
  fail('virtual_transport', (value, facts) => /^lmtp:unix:\S*\/lmtp$/.test(value) || (value.startsWith('lmtp:unix:') && ['dovecot.cf', 'dovecot-2.4.cf'].some((name) => facts.read(inConfig(name)).includes(value.replace(/.*\//, '/')))), 'mail for the mailboxes does not go to Dovecot'),
  fail('relayhost|sender_dependent_\\w+|\\w*fallback_relay|mailbox_command\\w*|mailbox_transport\\w*|fallback_transport\\w*', EMPTY, 'it leads mail out of this machine'),
  fail('content_filter|smtpd_proxy_filter|(non_)?smtpd_milters|milter_\\w+_milters', LOOPBACK, 'it hands mail to another machine'),
  fail('always_bcc|\\w+_bcc_maps', (value, facts) => values.resultsOf(value, facts).every((target) => isOwn(target, facts)), 'it copies mail to an address outside'),
  fail('\\w+_checks|smtpd_\\w+_restrictions', (value, facts) => actionsOf(value, facts).every(([, action, to = '']) => !/FILTER|REDIRECT|BCC/i.test(action ?? '') || isOwn(to, facts)), 'its table redirects, copies or filters mail to somewhere else'),
  fail('content_filter', /^(?!smtp:|relay:)/, 'Postfix has no SMTP client here, and the mail waits'),
  // Everything is caught
  need(fail('virtual_alias_domains', EMPTY, 'every domain becomes an alias domain, and unknown users are accepted', '')),
  need(warn('local_recipient_maps', EMPTY, 'foreign recipients are refused', '')),
  need(warn('luser_relay', isOwn, 'what the tables miss is lost', CATCHALL)),
  need(fail('mydestination', (value, facts) => !value.split(/[\s,]+/).some((name) => domainsOf(facts).includes(name.replace('$myhostname', domainOf(CATCHALL)))), 'a virtual mailbox domain is in mydestination as well, and its mail misses the mailboxes', 'localhost.$mydomain, localhost')),
  fail('relay_domains', isNoVirtual, 'a virtual mailbox domain is a relay domain as well, and its mail misses the mailboxes'),
  fail('myhostname', isNoVirtual, ANOTHER_NAME),
  fail('virtual_(alias_maps|mailbox_maps|mailbox_domains)', /\$|postfix-regexp|vmailbox|vhost/, "docker-mailserver's own tables are not asked any more"),
  warn('recipient_delimiter', /^\+/, 'bar+tag@ is no address of bar', '+'),
  fail('enable_original_recipient|receive_override_options', /^(?!no$|.*no_address_mappings)/, 'mail is not caught, or its envelope recipient is lost'),
  need(warn('lmtp_destination_recipient_limit', /^1$/, 'the second envelope recipient of a message is lost', '1')),
  // Every client gets in
  need(fail('smtpd_sasl_auth_enable', /^yes$/, 'nobody can log in on port 25', 'yes')),
  fail('smtpd_tls_security_level', /^(may|none)?$/, 'clients without TLS are refused', 'may'),
  fail('smtpd_tls_auth_only|smtpd_enforce_tls|smtpd_tls_req_ccert', OFF, 'clients without TLS or certificate are refused', 'no'),
  fail('smtpd_tls_wrappermode', /^(no)?$/, 'port 25 speaks TLS at once, which no client expects'),
  fail('mynetworks', (value, facts) => values.trusts(value, facts.settings().host), 'clients on this machine have to log in, or get 554'),
  fail('smtpd_\\w+_restrictions', (value) => !wordIn(value, ASKING), 'it asks the DNS, and refuses what is not found there'),
  fail('smtpd_\\w+_restrictions', (value) => !wordIn(value, REFUSING), (value) => `${wordIn(value, REFUSING)} refuses what applications send: any HELO, any sender, no TLS`, (value) => value.split(/[\s,]+/).filter((word) => !REFUSING.test(word)).join(' ')),
  fail('smtpd_\\w+_restrictions', (value) => !REFUSES_ALL.test(value.replace(/\binline:\s*\{.*\}/g, '')), 'it refuses everybody'),
  fail('smtpd_\\w+_restrictions', /^(?!.*check_policy_service\s+\{?\s*inet:(?!127\.|localhost))/, 'it asks another machine about each mail'),
  fail('smtpd_(relay|recipient)_restrictions', /^$|permit_mynetworks|permit_sasl_authenticated|\bpermit\b|static:|^(?!.*(\breject\b|reject_unauth_destination|\bdefer\b))/, 'no client may send to foreign addresses'),
  need(fail('smtpd_recipient_restrictions', /\breject_unlisted_recipient\b/, 'unknown users of the virtual mailbox domains get no 550, and the mail bounces later', RECIPIENTS)),
  fail('smtpd_reject_unlisted_sender', OFF, 'senders without a mailbox here are refused'),
  need(warn('smtpd_peername_lookup', /^no$/, 'each connection waits for reverse DNS', 'no')),
  fail('inet_protocols', /ipv4|all/, 'Postfix does not listen on an IPv4 address', 'ipv4'),
  fail('inet_interfaces', /^all$|^\d|^\[/, 'Postfix does not listen where the ports lead', 'all'),
  warn('smtpd_client_(\\w+_rate|connection_count)_limit', (value) => Number(value) === 0 || Number(value) >= 50, 'a client that sends much is shut out', '0'),
  warn('smtpd_recipient_limit|default_process_limit|smtpd_recipient_overshoot_limit|smtpd_(hard_error|junk_command)_limit', /^(\d{3,}|[2-9]\d)$/, 'it is too small for a few clients, recipients or errors'),
  fail('\\w+_upstream_proxy_protocol', EMPTY, 'only a proxy can connect'),
  fail('(submissions|smtps)/inet/smtpd_tls_wrappermode', /^yes$/, 'clients of port 465 speak TLS at once'),
  warn('postscreen_access_list', /static:permit|^permit$|static:all/, 'clients wait six seconds on port 25 in docker-mailserver', 'static:permit'),
  fail('smtpd_sasl_type', /^dovecot$/, 'Postfix asks somebody else about passwords', 'dovecot'),
  fail('smtpd_sasl_(tls_)?security_options', /^(?!.*noplaintext)/, 'passwords as they are, which all clients send, are refused'),
  // What is accepted arrives, at once
  fail('defer_transports|hold_\\w+', EMPTY, 'mail waits in the queue until somebody sends it on'),
  fail('soft_bounce', OFF, 'what should be refused or bounced is tried again for days'),
  fail('message_size_limit', /^(0|\d{6,})\b/, 'nearly every mail is larger, and refused', '10240000'),
  fail('(mailbox|virtual_mailbox)_size_limit|virtual_mailbox_limit', (value, facts) => value === '0' || Number(value) >= values.messageLimit(facts), 'it is smaller than message_size_limit, and Postfix refuses to deliver', '0'),
  fail('queue_minfree|message_size_limit', /^\d{0,10}$/, 'Postfix wants more free space than a disk may have'),
  warn('\\w+_(rate|transport)_delay', OFF, 'each mail waits'),
  warn('minimal_backoff_time|queue_run_delay|in_flow_delay', /^\d{1,3}s?$|^\d{1,2}m$/, 'mail waits'),
  warn('(maximal|bounce)_queue_lifetime', /^(?!0)\d+/, 'mail that has to wait a moment bounces at once'),
  warn('(sender_|recipient_)?canonical_maps|(relocated|virtual_alias_recursion|smtp_generic)_maps|masquerade_domains', EMPTY, 'addresses are rewritten on the way'),
  warn('header_size_limit', /^\d{5,}$/, 'long headers are cut off'),
  fail('message_drop_headers', /^((bcc|content-length|resent-bcc|return-path)([\s,]+|$))*$/i, 'fields that tests look for are dropped'),
  fail('\\w+_checks|smtpd_\\w+_restrictions', (value, facts) => actionsOf(value, facts).every(([, action]) => !/HOLD|DISCARD/i.test(action ?? '')), 'its table holds or discards mail, which never arrives'),
  fail('\\w+_checks', /^(?!.*\bstatic:\s*\{?\s*(REJECT|[45]\d\d)\b)/i, 'it refuses every mail'),
  // Files
  fail('smtpd_tls_\\w*files?|bounce_template_file', (value, facts) => !missing(values.PATHS, value, facts), (value, facts) => `${missing(values.PATHS, value, facts)}, and Postfix needs it`),
  fail('(daemon|command)_directory', /^\/usr\/(lib\/postfix\/)?sbin$/, "Postfix's programs are not there"),
  fail('\\w+', (value, facts) => !missing(values.TABLES, value, facts), (value, facts) => `${missing(values.TABLES, value, facts)}, and Postfix defers mail`, null),
]

/** What the two files say in different words: 2.3 refuses passwords without TLS unless told otherwise, and so does 2.4. */
const CLEARTEXT = 'logins without TLS are refused'
export const DOVECOT_FILES: Record<string, Rule> = {
  'dovecot.cf': need(fail('disable_plaintext_auth', /^no$/, CLEARTEXT, 'no')),
  'dovecot-2.4.cf': need(fail('auth_allow_cleartext', /^yes$/, CLEARTEXT, 'yes')),
}
// biome-ignore format: one rule a line
export const DOVECOT_RULES: Rule[] = [
  fail('ssl', /^(yes|no)$/, CLEARTEXT),
  fail('auth_mechanisms', /\bplain\b/i, 'nobody can log in with a password as it is'),
  fail('auth_master_user_separator', /^\*$/, 'the scripts log in as the master user by it'),
  fail('submission_host', /^$|^(127\.|localhost|\[?::1)/, 'Dovecot hands mail to another machine'),
  fail('lmtp_proxy', /^no$/, 'Dovecot hands mail to another machine'),
  fail('auth_ssl_require_client_cert|haproxy', /^no$/, 'clients without a certificate, or without a proxy, are refused'),
  fail('auth_username_format', /^$|%[A-Z]*u|user/, 'no account is found by a part of its address'),
  warn('recipient_delimiter', /^\+$/, 'addresses are cut at another letter than Postfix cuts them'),
  warn('\\w*log_path', EMPTY, 'npm run logs and the doctor look elsewhere'),
  fail('mail_max_userip_connections', /^(0|\d{2,})$/, 'a few clients at once are too many'),
  fail('(default_)?vsz_limit', /^(0$|unlimited|\d{3,} *M|\d+ *G|\d{6,} *k|\d{9,})/i, 'its processes have too little memory'),
  fail('protocols', /\blmtp\b/, 'Dovecot takes no mail from Postfix'),
  fail('mail_location|mail_path|mail_driver', EMPTY, 'mail lies elsewhere than the engine thinks'),
  fail('listen', EMPTY, 'Dovecot does not listen where the ports lead'),
  fail('quota_rule|quota_storage_size|quota_max_mail_size|quota_mail_size', /^(?!\D*\d{1,4}[bk]?$)/i, 'mailboxes are full after a mail or two'),
]
