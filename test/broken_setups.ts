/**
 * Set-ups that are broken in one thing each: what is done, what the doctor has to say, and nothing else. Where it names a fix,
 * the test types it and asks again.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'
import { BAR, CATCHALL, FOO } from '../scripts/lib/accounts/accounts.ts'
import { programOf, stateOf } from '../scripts/lib/server/processes.ts'
import { type Project, until } from './harness.ts'
import { DOVECOT_CF, pidsOf, queueOf } from './instance.ts'

type Level = 'warning' | 'failure'
/** What a set-up does; paths are those of the project's copy. */
type Break = (project: Project) => unknown
/** What is broken, by what, the one check that says so, its level, words of its evidence: of several findings several. */
export type Broken = [what: string, breaks: Break, check: string, level: Level, said: RegExp | RegExp[]]

const inConfig = (name: string) => `docker-data/mail-server/config/${name}`
const COMPOSE = 'docker-compose.yml'
const OVERRIDE = 'docker-compose.override.yml'
const ENV = 'development-mail-server.env'
const MAIN = inConfig('postfix-main.cf')
const MASTER = inConfig('postfix-master.cf')
const MAP = inConfig('postfix-transport_maps')
const CAUGHT = inConfig('postfix-regexp.cf')
const ACCOUNTS = inConfig('postfix-accounts.cf')
const VIRTUAL = inConfig('postfix-virtual.cf')
const QUOTAS = inConfig('dovecot-quotas.cf')
const DOVECOT = inConfig('dovecot.cf')
const DOVECOT_24 = inConfig('dovecot-2.4.cf')
/** The one that this machine's Dovecot reads. */
const READ = inConfig(DOVECOT_CF)
const FAILURES = inConfig('postfix-failures.pcre')
const MASTER_USERS = inConfig('dovecot-master-users')
const TEXTS = [ENV, MASTER, DOVECOT, ACCOUNTS, VIRTUAL, CAUGHT, MAP, QUOTAS, MAIN, COMPOSE]

/** "catchall" as a SHA512-CRYPT hash. */
const HASH =
  '{SHA512-CRYPT}$6$XIzwBujyZ6RyFiBg$VraktScvav3qwMuk1MQvDM.aJxz2/MGZMeBRHOLdtKQgV0iSeRJTTaCUZGLH0t9RosZKvl1V8YGfh.wbr6zDu.'
const user = (name: string) => `${name}@development-virtual.example.com`

const edit = (file: string, work: (text: string) => string | Buffer): Break => {
  return (project) => {
    const path = project.path(file)
    writeFileSync(path, work(existsSync(path) ? readFileSync(path, 'utf8') : ''))
  }
}
const write = (file: string, text: string | Buffer) => edit(file, () => text)
const add = (file: string, line: string) => edit(file, (text) => `${text}${line}\n`)
const addFirst = (file: string, line: string) => edit(file, (text) => `${line}\n${text}`)
const change = (file: string, from: string | RegExp, to: string) => {
  return edit(file, (text) => {
    assert.notEqual(text.replace(from, to), text, `${from} is not in ${file}`)
    return text.replace(from, to)
  })
}
/** Puts something else in a file's place: a folder, a pipe, a link, or nothing. */
const instead = (file: string, command = ':'): Break => {
  return (project) => execFileSync('sh', ['-c', `rm -r "$0"; ${command} "$0"`, project.path(file)])
}
const both = (...breaks: Break[]): Break => {
  return async (project) => {
    for (const one of breaks) await one(project)
  }
}

// biome-ignore format: one set-up a line
export const BROKEN_FILES: Broken[] = [
  // Files that are not there, are folders, or cannot be read
  ['no environment file', instead(ENV), 'files', 'failure', /env: there is no such file/],
  ['no postfix-main.cf', instead(MAIN), 'files', 'failure', /postfix-main\.cf: there is no such file/],
  ['a postfix-main.cf that is a folder', instead(MAIN, 'mkdir'), 'files', 'failure', /postfix-main\.cf: it is a folder/],
  ['no dovecot-master-users', instead(MASTER_USERS), 'files', 'failure', /dovecot-master-users: there is no such file/],
  ['no configuration folder', instead('docker-data/mail-server/config'), 'files', 'failure', /config: there is no such folder/],
  ['no accounts', instead(ACCOUNTS), 'files', 'failure', /postfix-accounts\.cf: there is no such file/],
  ['a postfix-main.cf that is a pipe', instead(MAIN, 'mkfifo'), 'files', 'failure', /postfix-main\.cf: it is a pipe/],
  ['a configuration folder that is a file', instead('docker-data/mail-server/config', 'touch'), 'files', 'failure', /config: it is a file/],
  ['accounts in UTF-16', write(ACCOUNTS, Buffer.from(`${user('foo')}|${HASH}\n`, 'utf16le')), 'files', 'failure', /UTF-16/],
  ['no Compose file', instead(COMPOSE), 'files', 'warning', /docker-compose\.yml: there is no such file/],
  ["no main.cf of the native engine's", instead('docker-data/native/main.cf'), 'files', 'failure', /native\/main\.cf: there is no such file/],
  ["no Dovecot settings of the native engine's", instead('docker-data/native/dovecot-2.3.conf'), 'files', 'failure', /dovecot-2\.3\.conf: there is no such file/],

  // Line ends and marks
  ['CRLF', change(MAIN, /\n/g, '\r\n'), 'line-ends', 'failure', /postfix-main\.cf line 1 ends with CRLF/],
  ['one CRLF among many LF', change(ACCOUNTS, /(bar@.*)\n/, '$1\r\n'), 'line-ends', 'failure', /postfix-accounts\.cf line 8/],
  ['no last line end', change(VIRTUAL, /\n$/, ''), 'line-ends', 'warning', /postfix-virtual\.cf has no line end/],
  ...TEXTS.map((file): Broken => [`a BOM in ${basename(file)}`, change(file, /^/, '\ufeff'), 'line-ends', 'failure', new RegExp(`${basename(file)} begins with a BOM`)]),
  ...TEXTS.map((file): Broken => [`CR alone in ${basename(file)}`, change(file, /\n/g, '\r'), 'line-ends', 'failure', new RegExp(`${basename(file)} line 1 ends with CRLF or CR`)]),

  // development-mail-server.env
  ['a misspelt name', add(ENV, 'ENABLE_SPAMASASSIN=1'), 'environment-names', 'warning', /line \d+: ENABLE_SPAMASASSIN/],
  ['a name of another release', add(ENV, 'ENABLE_LDAP=1'), 'environment-names', 'warning', /ENABLE_LDAP is not known to release/],
  ['a colon in place of =', add(ENV, 'POSTGREY_DELAY: 3'), 'environment-names', 'warning', /not NAME=value/],
  ['SMTP_ONLY=1', change(ENV, 'SMTP_ONLY=0', 'SMTP_ONLY=1'), 'environment', 'warning', /POP3, IMAP and logins are off/],
  ['POP3 off', change(ENV, 'ENABLE_POP3=1', 'ENABLE_POP3=0'), 'environment', 'warning', /POP3 is off/],
  ['another way to the mailboxes', change(ENV, /POSTFIX_DAGENT=.*/, 'POSTFIX_DAGENT=lmtp:unix:/var/run/dovecot/lmpt'), 'environment', 'failure', /not go to Dovecot/],
  ['a limit that is no number', change(ENV, /MESSAGE_SIZE_LIMIT=.*/, 'MESSAGE_SIZE_LIMIT=10M'), 'environment', 'failure', /no number of bytes/],
  ['a limit beyond the disk', change(ENV, /MESSAGE_SIZE_LIMIT=.*/, 'MESSAGE_SIZE_LIMIT=99999999999'), 'environment', 'failure', /more than a disk/],
  ['DKIM on', change(ENV, 'ENABLE_OPENDKIM=0', 'ENABLE_OPENDKIM=1'), 'environment', 'warning', /OPENDKIM=1: it asks the DNS/],
  ['greylisting', change(ENV, 'ENABLE_POSTGREY=0', 'ENABLE_POSTGREY=1'), 'environment', 'warning', /five minutes/],
  ['a switch that is a word', add(ENV, 'ENABLE_MANAGESIEVE=yes'), 'environment', 'warning', /neither 0 nor 1/],
  ['the name of a virtual domain', add(ENV, 'OVERRIDE_HOSTNAME=development-virtual.example.com'), 'environment', 'failure', /is a virtual mailbox domain/],
  ['SSL_TYPE=manual without its files', change(ENV, 'SSL_TYPE=snakeoil', 'SSL_TYPE=manual\nSSL_CERT_PATH=/tmp/docker-mailserver/x.pem\nSSL_KEY_PATH=/tmp/docker-mailserver/x.key'), 'environment', 'failure', /x\.pem.* (no such file|not there)/],
  ['SSL_TYPE=manual without its paths', change(ENV, 'SSL_TYPE=snakeoil', 'SSL_TYPE=manual'), 'environment', 'failure', /SSL_CERT_PATH or SSL_KEY_PATH is not set/],
  ['double bounces for nobody', change(ENV, /POSTMASTER_ADDRESS=.*/, `POSTMASTER_ADDRESS=${user('admin')}`), 'environment', 'warning', /is no account/],

  // Accounts and quotas
  ['a line that is no account', add(ACCOUNTS, 'my-secret'), 'accounts', 'failure', /line \d+: this is no address/],
  ['a colon in place of the |', add(ACCOUNTS, `${user('alice')}:{PLAIN}my-secret`), 'accounts', 'failure', /alice@.* is no address with a/],
  ['an account without a password', add(ACCOUNTS, `${user('alice')}|{SHA512-CRYPT}`), 'accounts', 'failure', /no hash/],
  ['a rule that takes one account', addFirst(CAUGHT, `/^bar@/ ${CATCHALL}`), 'tables', 'failure', /mail to bar@.* goes to catchall/],
  ['a way out for one account', addFirst(MAP, '/^bar@/ smtp:[x.example]'), 'tables', 'failure', /line 1: .* sends mail to smtp:/],
  ['a line with a password and no hash', add(ACCOUNTS, `${user('alice')}|my-secret`), 'accounts', 'failure', /the password of alice@.* is no hash/],
  ['an account twice', add(ACCOUNTS, `${user('foo')}|${HASH}`), 'accounts', 'failure', /stands twice/],
  ['an interrupted deletion', addFirst(MAP, '/@shop\\.example$/ :'), 'remains', 'warning', /shop\.example has no account/],
  ['a capital letter', add(ACCOUNTS, `${user('Alice')}|${HASH}`), 'accounts', 'failure', /Alice@.*capital letter/],
  ['an address with a +', add(ACCOUNTS, `${user('a+b')}|${HASH}`), 'accounts', 'failure', /a\+b@.* never gets there/],
  ['a hash cut off', add(ACCOUNTS, `${user('alice')}|${HASH.slice(0, -3)}`), 'accounts', 'failure', /no whole \{SHA512-CRYPT\} hash/],
  ['an MD5 hash cut off', add(ACCOUNTS, `${user('alice')}|{MD5-CRYPT}$1$abc`), 'accounts', 'failure', /no whole \{MD5-CRYPT\} hash/],
  ['a comment behind an account', add(ACCOUNTS, `${user('alice')}|${HASH} # my-secret`), 'accounts', 'failure', /password of alice@.* is no hash/],
  ['a name that Dovecot lets nobody log in with', add(ACCOUNTS, `${user('sales/jp')}|${HASH}`), 'accounts', 'failure', /sales\/jp@.* nobody can log in/],
  ['no catchall account', change(ACCOUNTS, /catchall@.*\n/, ''), 'accounts', 'failure', /no account catchall@/],
  ['a quota for nobody', add(QUOTAS, `${user('nobody')}:10M`), 'remains', 'warning', /nobody@.* has a quota and is no account/],
  ['a catchall with a limit', change(QUOTAS, `${CATCHALL}:0`, `${CATCHALL}:10M`), 'quotas', 'warning', /catchall has a limit/],
  ['master users without a password', write(MASTER_USERS, 'master:{SHA512-CRYPT}$6$x\n'), 'dovecot', 'failure', /no line user:/],

  // Aliases
  ['an alias to nobody', add(VIRTUAL, `${user('sales')} ${user('nobody')}`), 'remains', 'failure', /nobody@.*, which is no account/],
  ['an alias without a target', add(VIRTUAL, user('sales')), 'aliases', 'failure', /no target/],
  ['a comment behind an alias', add(VIRTUAL, `${user('info')} ${BAR} # the boss`), 'aliases', 'failure', /"#" is no address/],
  ['an alias to a name without a domain', add(VIRTUAL, `${user('info')} bar`), 'aliases', 'failure', /"bar" is no address/],
  ['semicolons between targets', add(VIRTUAL, `${user('team')} ${FOO}; ${BAR}`), 'aliases', 'failure', /foo@.*;" is no address/],
  ['a pattern among the aliases', add(VIRTUAL, `/^sales-/ ${BAR}`), 'aliases', 'failure', /is a pattern/],
  ['an alias of two steps in a circle', add(VIRTUAL, `${user('a')} ${user('b')}\n${user('b')} ${user('a')}`), 'aliases', 'failure', /leads back to itself/],
  ['an alias that takes an account', add(VIRTUAL, `${BAR} ${FOO}`), 'aliases', 'failure', /bar@.* is an account/],
  ['an alias that takes a domain', add(VIRTUAL, `@development-virtual.example.com ${CATCHALL}`), 'aliases', 'failure', /takes the mail of the account foo@/],
  ['an alias behind a space', add(VIRTUAL, `${user('info')} ${BAR}\n ${user('sales')} ${FOO}`), 'glued-lines', 'failure', /begins with a space/],

  // The pattern tables
  ['a domain that neither table knows', add(ACCOUNTS, `alice@shop.example|${HASH}`), 'tables', 'failure', /alice@shop\.example goes to catchall@/],
  ['a domain that the map does not know', both(add(ACCOUNTS, `alice@shop.example|${HASH}`), addFirst(CAUGHT, 'if !/@shop\\.example$/'), add(CAUGHT, 'endif')), 'tables', 'failure', /alice@shop\.example goes to local/],
  ['a domain by SMTP', addFirst(MAP, '/@gmail\\.com$/ smtp:'), 'tables', 'failure', /line 1: .* sends mail to smtp:/],
  ['foreign mail past Dovecot', change(MAP, /\/\^\/ +local:/, '/^/ virtual:'), 'tables', 'failure', /sends mail to virtual:/],
  ['all mail past Dovecot', addFirst(MAP, '/./ virtual:'), 'tables', 'failure', /sends mail to virtual:/],
  ['the catchall past Dovecot', change(MAP, /(development-mail-server.*) :$/m, '$1 virtual:'), 'tables', 'failure', /sends mail to virtual:/],
  ['no catch-all line', change(MAP, /\n\/\^\/ +local:\n/, '\n'), 'tables', 'failure', /no line keeps mail/],
  ['a dot that is any letter', change(CAUGHT, '\\.example\\.com', '.example.com'), 'tables', 'warning', /is not caught/],
  ['caught mail for somebody else', change(CAUGHT, /\/\^\/ +catchall.*/, `/^/ ${BAR}`), 'tables', 'failure', /goes to bar@/],
  ['a bad pattern in another table', both(add(MAIN, 'header_checks = regexp:/tmp/docker-mailserver/headers'), write(inConfig('headers'), '/^Subject: (x/ WARN\n')), 'tables', 'warning', /headers line 1: Postfix skips it/],
  ['a bad pattern among the failures on demand', addFirst(FAILURES, '/\\+fail-(550@/ 550 no'), 'tables', 'warning', /failures\.pcre line 1: Postfix skips it/],
  ['failures for everybody', addFirst(FAILURES, '/./ REJECT closed'), 'tables', 'failure', /failures\.pcre: catchall@.* gets "REJECT closed"/],
  ['accounts behind the catch-all line', both(change(MAP, /\n\/\^\/ +local:\n/, '\n'), addFirst(MAP, '/^/ local:')), 'tables', 'failure', /catchall@.* goes to local:.*\(likewise foo@/],
  ['a rule behind a space', change(MAP, /^(\/@development-mail)/m, ' $1'), 'glued-lines', 'failure', /begins with a space/],

  // postfix-main.cf and postfix-master.cf
  ['no transport_maps', change(MAIN, /transport_maps = pcre.*\n/, ''), 'main-cf', 'failure', /transport_maps is not set/],
  ['default_transport = smtp', change(MAIN, 'default_transport = local', 'default_transport = smtp'), 'main-cf', 'failure', /line \d+: default_transport = smtp/],
  ['a relay host on a second line', add(MAIN, 'relayhost =\n  [smtp.example.net]'), 'main-cf', 'failure', /relayhost = \[smtp\.example\.net\]/],
  ['a content filter elsewhere', add(MAIN, 'content_filter = smtp:[filter.example]:10024'), 'main-cf', 'failure', /content_filter/],
  ['a copy of everything abroad', add(MAIN, 'always_bcc = archive@corp.example'), 'main-cf', 'failure', /copies mail/],
  ['a header that redirects', both(add(MAIN, 'header_checks = pcre:/tmp/docker-mailserver/headers'), write(inConfig('headers'), '/^Subject: x/ REDIRECT boss@corp.example\n')), 'main-cf', 'failure', /redirects, copies or filters/],
  ['a table that is not there', add(MAIN, 'recipient_canonical_maps = texthash:/tmp/docker-mailserver/gone'), 'main-cf', 'warning', /rewritten/],
  ['checks by a table that is not there', add(MAIN, 'header_checks = pcre:/tmp/docker-mailserver/gone'), 'main-cf', 'failure', /gone.* (no such file|not there)/],
  ['clients of another network alone', add(MAIN, 'mynetworks = 192.168.0.0/24'), 'main-cf', 'failure', /have to log in/],
  ['senders looked up in the DNS', change(MAIN, /smtpd_sender_restrictions =.*/, 'smtpd_sender_restrictions = reject_unknown_sender_domain'), 'main-cf', 'failure', /asks the DNS/],
  ['everybody refused', add(MAIN, 'smtpd_client_restrictions = reject'), 'main-cf', 'failure', /refuses everybody/],
  ['everybody refused by a table', change(MAIN, /smtpd_sender_restrictions =.*/, 'smtpd_sender_restrictions = check_sender_access static:REJECT'), 'main-cf', 'failure', /refuses everybody/],
  ['this machine taken out', add(MAIN, 'mynetworks = !127.0.0.1, 127.0.0.0/8'), 'main-cf', 'failure', /have to log in/],
  ['no passwords as they are', add(MAIN, 'smtpd_sasl_security_options = noanonymous, noplaintext'), 'main-cf', 'failure', /passwords as they are/],
  ['the host name of a virtual domain', add(MAIN, 'myhostname = development-virtual.example.com'), 'main-cf', 'failure', /is a virtual mailbox domain/],
  ['a name that nothing sets', add(MAIN, 'smtpd_timeout = $smtpd_timout'), 'main-cf-names', 'warning', /nothing sets \$smtpd_timout.*smtpd_timeout/],
  ['HELO names that are looked at', change(MAIN, 'smtpd_helo_restrictions = ', 'smtpd_helo_restrictions = reject_non_fqdn_helo_hostname, '), 'main-cf', 'failure', /reject_non_fqdn_helo_hostname refuses/],
  ['senders other than the login', change(MAIN, /smtpd_sender_restrictions =.*/, 'smtpd_sender_restrictions = reject_sender_login_mismatch'), 'main-cf', 'failure', /login_mismatch refuses/],
  ['one error is too many', add(MAIN, 'smtpd_hard_error_limit = 1'), 'main-cf', 'warning', /too small/],
  ['a proxy in front', add(MAIN, 'smtpd_upstream_proxy_protocol = haproxy'), 'main-cf', 'failure', /only a proxy/],
  ['headers cut off', add(MAIN, 'header_size_limit = 100'), 'main-cf', 'warning', /cut off/],
  ['mail without its Message-ID', add(MAIN, 'message_drop_headers = bcc, Message-ID'), 'main-cf', 'failure', /are dropped/],
  ["Postfix's programs elsewhere", add(MAIN, 'daemon_directory = /usr/libexec/postfix'), 'main-cf', 'failure', /programs are not there/],
  ['a template that is not there', add(MAIN, 'bounce_template_file = /tmp/docker-mailserver/bounce'), 'main-cf', 'failure', /bounce: there is no such file/],
  ['messages beyond the disk', add(MAIN, 'message_size_limit = 99999999999'), 'main-cf', 'failure', /more free space/],
  ['port 465 without TLS', add(MASTER, 'submissions/inet/smtpd_tls_wrappermode=no'), 'main-cf', 'failure', /TLS at once/],
  ['port 587 for nobody', add(MASTER, 'submission/inet/smtpd_relay_restrictions=reject'), 'main-cf', 'failure', /refuses everybody/],
  ['nobody may log in', change(MAIN, 'smtpd_sasl_auth_enable = yes', 'smtpd_sasl_auth_enable = no'), 'main-cf', 'failure', /nobody can log in/],
  ['TLS for everybody', add(MAIN, 'smtpd_tls_security_level = encrypt'), 'main-cf', 'failure', /clients without TLS/],
  ['mail that waits for ever', add(MAIN, 'defer_transports = lmtp'), 'main-cf', 'failure', /waits in the queue/],
  ['a table that discards every mail', add(MAIN, 'body_checks = static:DISCARD'), 'main-cf', 'failure', /discards mail/],
  ['a table that holds mail', both(add(MAIN, 'header_checks = regexp:/tmp/docker-mailserver/headers'), write(inConfig('headers'), '/^Subject:/ HOLD\n')), 'main-cf', 'failure', /holds or discards/],
  ['a table that refuses every mail', add(MAIN, 'header_checks = static:REJECT'), 'main-cf', 'failure', /refuses every mail/],
  ['mailboxes smaller than messages', change(MAIN, 'mailbox_size_limit = 0', 'mailbox_size_limit = 1000'), 'main-cf', 'failure', /smaller than message_size_limit/],
  ['a domain in two places', change(MAIN, /mydestination = .*/, 'mydestination = development-virtual.example.com, localhost'), 'main-cf', 'failure', /mydestination/],
  ['a milter elsewhere', add(MAIN, 'smtpd_milters = inet:milter.example:8891'), 'main-cf', 'failure', /another machine/],
  ['a parameter behind a space', change(MAIN, /^(luser_relay)/m, ' $1'), 'glued-lines', 'failure', /begins with a space/],
  ['a line that is no parameter', add(MAIN, 'this is no parameter'), 'main-cf', 'failure', /not "parameter = value"/],
  ["another program's transport", add(MAIN, 'virtual_transport = dovecot'), 'main-cf', 'failure', /not go to Dovecot/],
  ['a misspelt parameter', add(MAIN, 'smtpd_clinet_restrictions = permit'), 'main-cf-names', 'warning', /smtpd_client_restrictions/],
  ['a misspelt parameter that is needed', change(MAIN, 'smtpd_recipient_restrictions', 'smtpd_recepient_restrictions'), 'main-cf-names', 'failure', /smtpd_recepient_restrictions/],
  ['a setting of one service', add(MASTER, 'smtp/inet/content_filter=smtp:[filter.example]'), 'main-cf', 'failure', /content_filter/],
  ['another map for one service', add(MASTER, 'rewrite/unix/transport_maps=static:smtp'), 'main-cf', 'failure', /transport_maps/],
  ['a misspelt service', add(MASTER, 'submision/inet/smtpd_tls_security_level=may'), 'main-cf', 'failure', /no service submision\/inet/],

  // dovecot.cf
  ['TLS for every login', change(DOVECOT, 'ssl = yes', 'ssl = required'), 'dovecot', 'failure', /logins without TLS/],
  ['plain passwords not mentioned', change(DOVECOT, 'disable_plaintext_auth = no\n', ''), 'dovecot', 'failure', /disable_plaintext_auth is not set/],
  ['no plain passwords on 2.4', change(DOVECOT_24, 'auth_allow_cleartext = yes', 'auth_allow_cleartext = no'), 'dovecot', 'failure', /logins without TLS/],
  ['an unknown setting', both(add(DOVECOT, 'nonsense = yes'), add(DOVECOT_24, 'nonsense = yes')), 'start', 'failure', /nonsense/],
  ['accounts by a part of their address', add(DOVECOT, 'auth_username_format = %n'), 'dovecot', 'failure', /no account is found/],
  ['clients with certificates alone', add(DOVECOT, 'auth_ssl_require_client_cert = yes'), 'dovecot', 'failure', /without a certificate/],
  ['too little memory', add(DOVECOT, 'default_vsz_limit = 10M'), 'dovecot', 'failure', /too little memory/],
  ['another delimiter', add(DOVECOT, 'recipient_delimiter = .'), 'dovecot', 'warning', /cut at another letter/],
  ['another log', add(DOVECOT, 'log_path = /dev/null'), 'dovecot', 'warning', /look elsewhere/],
  ['a missing brace', add(READ, 'service auth {'), 'start', 'failure', /Missing '\}'|end of file|EOF/],
  ['a user that is not there', add(READ, 'default_internal_user = dovecott'), 'start', 'failure', /dovecot.*\.cf line \d+: .*dovecott/],
  ['a group that is not there', add(MAIN, 'setgid_group = mailgroup'), 'start', 'failure', /main\.cf line 110: .*mailgroup/],
  ['no unit of time', change(READ, 'auth_failure_delay = 0', 'auth_failure_delay = 30'), 'start', 'failure', /missing units/],
  ['a Dovecot that sends by itself', add(DOVECOT, 'submission_host = smtp.example.net:587'), 'dovecot', 'failure', /submission_host/],
]

// biome-ignore format: one set-up a line
export const BROKEN_COMPOSE: Broken[] = [
  ['a Compose file that is no YAML', add(COMPOSE, '  - ['), 'compose', 'failure', /docker-compose\.yml: /],
  ['a port without an address', change(COMPOSE, /- \{ host_ip.*target: 25 \}/, '- "25:25"'), 'compose', 'failure', /port 25 is published on every address/],
  ['a port in an override file', write(OVERRIDE, 'services:\n  development-mail-server:\n    ports:\n      - "25:25"\n'), 'compose', 'failure', /port 25 is published on every address/],
  ['no rights', write(OVERRIDE, 'services:\n  development-mail-server:\n    cap_drop: [ALL]\n'), 'compose', 'failure', /cap_drop/],
  ['an internal network', write(OVERRIDE, 'networks:\n  default:\n    internal: true\n'), 'compose', 'failure', /internal/],
  ['a bind mount of the state', change(COMPOSE, '- mail-state:/var/mail-state/', '- ./docker-data/mail-state/:/var/mail-state/'), 'compose', 'warning', /bind mount/],
  ['another configuration folder', change(COMPOSE, '- ./docker-data/mail-server/config/', '- ./config/'), 'compose', 'failure', /is mounted at/],
  ['the image latest', change(COMPOSE, /\$\{DMS_VERSION.*\}/, 'latest'), 'compose', 'failure', /another release each time/],
]

const postfix = (project: Project, program: string, ...args: string[]) =>
  execFileSync(program, ['-c', `${project.stateDir}/postfix`, ...args], { encoding: 'utf8', stdio: 'pipe' })
const postconf = (...args: string[]): Break => {
  return (project) => {
    postfix(project, 'postconf', ...args)
    execFileSync('sh', ['-c', `touch -d '10 seconds ago' ${project.stateDir}/postfix/*.cf`])
  }
}
const openssl = (command: string): Break => {
  return (project) => execFileSync('openssl', command.split(' '), { cwd: `${project.stateDir}/tls`, stdio: 'pipe' })
}

/** Each alone in the state folder's tls/: what is wrong with a key and its certificate. */
// biome-ignore format: one set-up a line
export const BROKEN_TLS: Broken[] = [
  ['the key of another certificate', openssl('genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out key.pem'), 'certificate', 'failure', /key values mismatch/],
  ['a certificate that ends soon', openssl('req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x -keyout key.pem -out certificate.pem'), 'certificate', 'warning', /ends on/],
]

/** Has Postfix deliver a mail of so many bytes. */
function deliver(project: Project, to: string, size: number): void {
  const line = `${'x'.repeat(70)}\n`
  const input = `Subject: a set-up\n\n${line.repeat(Math.ceil(size / line.length))}`
  execFileSync('sendmail', ['-C', `${project.stateDir}/postfix`, '-f', FOO, to], { input, stdio: 'pipe' })
}

/** Kills the process of a pid file, and waits until it is gone. */
async function kill(file: string): Promise<void> {
  const pid = Number(readFileSync(file, 'utf8'))
  process.kill(pid, 'SIGKILL')
  await until(`the end of ${pid}`, () => /^Z?$/.test(stateOf(pid)))
}

/** Puts a mail on hold, as postsuper -h does. */
async function hold(project: Project): Promise<void> {
  stop(project, 'qmgr')
  deliver(project, BAR, 10)
  await until('the mail in the queue', async () => (await queueOf(project)).length > 0)
  postfix(project, 'postsuper', '-h', 'ALL')
  stop(project, 'qmgr', 'SIGCONT')
}

/** Stops the processes of the instance with this name; all of them for an empty one. */
function stop(project: Project, name: string, signal: NodeJS.Signals = 'SIGSTOP'): void {
  for (const pid of pidsOf(project)) {
    if (name === '' || programOf(pid) === name) process.kill(pid, signal)
  }
}

// biome-ignore format: one set-up a line
export const BROKEN_SERVER: Broken[] = [
  // Symptoms and their causes
  ['held mail', hold, 'queue', 'failure', /on hold/],
  ['Maildir of another owner', (project) => chownSync(`${project.stateDir}/mail/development-virtual.example.com/bar`, 0, 0), 'mailboxes', 'failure', /bar: it belongs to user 0/],
  ['a mail folder without rights', (project) => chmodSync(`${project.stateDir}/mail/development-mail-server.example.com`, 0), 'mailboxes', 'failure', /has mode 0,/],
  ['a folder above that others cannot enter', (project) => chmodSync(project.dir, 0o700), 'folders', 'failure', /only its owner can enter/],
  ['a folder of the queue of another owner', (project) => chownSync(`${project.stateDir}/queue/incoming`, 0, 0), 'folders', 'failure', /not Postfix's own.*incoming/],
  ['no mail folder', (project) => rmSync(`${project.stateDir}/mail`, { recursive: true }), 'mailboxes', 'failure', /mail is not there/],
  ['a stopped queue manager', (project) => stop(project, 'qmgr'), 'processes', 'failure', /stopped by a signal.*qmgr/],
  ['all daemons stopped', (project) => stop(project, ''), 'processes', 'failure', /master.*dovecot|dovecot.*master/],
  ['a Dovecot that was killed', (project) => kill(`${project.stateDir}/run/master.pid`), 'running', 'failure', /without Dovecot/],
  ['a Postfix that was killed', (project) => kill(`${project.stateDir}/queue/pid/master.pid`), 'running', 'failure', /without Postfix/],
  ['no key', (project) => rmSync(`${project.stateDir}/tls/key.pem`), 'certificate', 'failure', /key\.pem.* no key with its certificate/],
  ['a certificate that is not there', add(READ, `${READ === DOVECOT ? 'ssl_cert = <' : 'ssl_server_cert_file = '}/etc/letsencrypt/live/mail/fullchain.pem`), 'start', 'failure', /dovecot.*\.cf line \d+: ssl_/],
  // The running server is older than the files
  ['files changed by hand, and one that is gone', both(change(ACCOUNTS, /(bar@[^|]*\|).*/, `$1${HASH}`), add(MAIN, 'smtpd_timeout = 200s'), add(VIRTUAL, `${user('sales')} ${BAR}`), (project) => rmSync(`${project.stateDir}/config/postfix-regexp.cf`)), 'live', 'failure', /^(?=.*accounts\.cf)(?=.*main\.cf)(?=.*virtual\.cf)(?=.*regexp\.cf).*: changed since/],
  ['an environment that is not live, and a way out past the files', both(change(ENV, /MESSAGE_SIZE_LIMIT=.*/, 'MESSAGE_SIZE_LIMIT=20480000'), postconf('-e', 'default_transport=smtp'), postconf('-M', 'smtp/unix=smtp unix - - n - - smtp')), 'live', 'failure', /^(?=.*master\.cf)(?=.*message_size_limit).*default_transport = smtp/],
]

/** What is in effect, several at once: each is told at its lines. */
// biome-ignore format: one set-up a line
export const BROKEN_LIVE: Broken[][] = [
  [
    ['mail is held up', add(MAIN, 'content_filter = smtp:[127.0.0.1]:10024\ndefer_transports = lmtp'), 'main-cf', 'failure', [/no SMTP client/, /waits in the queue/]],
    ['another way to the mailboxes', change(ENV, /POSTFIX_DAGENT=.*/, 'POSTFIX_DAGENT=lmtp:unix:/var/run/dovecot/lmpt'), 'environment', 'failure', /not go to Dovecot/],
    ['an alias that takes bar', add(VIRTUAL, `${BAR} ${FOO}`), 'aliases', 'failure', /is an account/],
  ],
  [
    ['clients are shut out', both(change(MAIN, /smtpd_sender_restrictions =.*/, 'smtpd_sender_restrictions = reject_unknown_sender_domain'), add(MAIN, 'mynetworks = 192.168.0.0/24\nmessage_size_limit = 200')), 'main-cf', 'failure', [/asks the DNS/, /have to log in/, /is larger/]],
    ['mail goes astray', both(change(MAIN, /reject_unlisted_recipient, /, ''), add(MAIN, 'enable_original_recipient = no')), 'main-cf', 'failure', [/get no 550/, /envelope recipient is lost/]],
    ['TLS for every login', change(DOVECOT, 'ssl = yes', 'ssl = required'), 'dovecot', 'failure', /logins without TLS/],
  ],
  // Causes that a daemon names in its log, each told at its line
  [['a milter that does not answer', add(MAIN, 'smtpd_milters = inet:127.0.0.1:8891'), 'logins', 'failure', /main\.cf line 110: .*Milter service inet:127\.0\.0\.1:8891/]],
  [['a policy service that is not there', change(MAIN, 'smtpd_recipient_restrictions = ', 'smtpd_recipient_restrictions = check_policy_service unix:private/policy, '), 'mail-virtual', 'failure', /main\.cf line 42: .*private\/policy/]],
  [['a table that postmap did not make', add(MAIN, 'virtual_alias_maps = hash:/tmp/docker-mailserver/postfix-virtual.cf pcre:/tmp/docker-mailserver/postfix-regexp.cf'), 'mail-virtual', 'failure', /main\.cf line 110: .*hash:docker-data/]],
  [['a value that a daemon does not know', add(MAIN, 'lmtp_host_lookup = nis'), 'mail-virtual', 'failure', /main\.cf line 110: .*unknown lmtp_host_lookup/]],
  [['users that may not read their mail', add(READ, 'first_valid_uid = 10000'), 'logins', 'failure', /dovecot.*\.cf line \d+: .*first_valid_uid/]],
  [['a misspelt restriction', add(MAIN, 'smtpd_client_restrictions = permit_mynetwork, reject'), 'mail-virtual', 'failure', /main\.cf line 110: .*unknown smtpd restriction: "permit_mynetwork"/]],
  [['a plugin that is not there', add(READ, 'protocol pop3 {\n  mail_plugins = nonsense\n}'), 'logins', 'failure', /dovecot.*\.cf line \d+: .*'nonsense'/]],
  // What stands in a file keeps nobody waiting
  [['all mail past Dovecot', addFirst(MAP, '/./ virtual:'), 'tables', 'failure', /sends mail to virtual:/]],
  // Causes that stand in no file of the project, and ports as one finding, however many there are
  [['a text that a table elsewhere throws away', (project) => { writeFileSync(project.path('table'), '/deleted as soon/ DISCARD\n'); add(MAIN, `body_checks = pcre:${project.path('table')}`)(project) }, 'mail-virtual', 'failure', /body_checks throw it away/]],
  [['a subject that a table elsewhere refuses', (project) => { writeFileSync(project.path('table'), '/^Subject: Test/ REJECT go away\n'); add(MAIN, `header_checks = regexp:${project.path('table')}`)(project) }, 'mail-virtual', 'failure', /header_checks or body_checks refuse it.*go away/]],
  [['TLS of no known version', add(READ, 'ssl_min_protocol = TLSv9'), 'logins', 'failure', /TLSv9/]],
  [['ports that Dovecot does not open', add(READ, ['imap', 'pop3'].map((name) => `service ${name}-login {\n  inet_listener ${name}s {\n    port = 0\n  }\n}`).join('\n')), 'logins', 'failure', /POP3 on port \d+ for .* connect ECONNREFUSED.*; likewise IMAP on port \d+$/]],
]
/** Only its own check is asked. */
export const FULL: Broken = [
  'a full mailbox',
  async (project) => {
    add(QUOTAS, `${user('baz')}:30k`)(project)
    deliver(project, user('baz'), 40_000)
    // Before the quota takes effect.
    await until('the mail delivered', async () => (await queueOf(project)).length === 0)
  },
  'mailbox-quotas',
  'failure',
  /baz@.*full/,
]

// biome-ignore format: one set-up a line
export const FINE: [what: string, breaks: Break][] = [
  ['an alias that points abroad ends in the catchall', add(VIRTUAL, `${user('boss')} boss@gmail.com`)],
  ['an alias of a foreign address', add(VIRTUAL, `boss@client.example ${FOO}`)],
  ['an alias to both at once', add(VIRTUAL, `${user('out')} someone@gmail.com, ${user('bar+tag')}`)],
  ['an alias of an alias', add(VIRTUAL, `${user('a')} ${user('b')}\n${user('b')} ${FOO}`)],
  ['an alias to a name that a rule knows', both(addFirst(CAUGHT, `/^sales.*@development-virtual/ ${FOO}`), add(VIRTUAL, `${user('x')} ${user('sales1')}`))],
  ['one exception for several domains', write(CAUGHT, `if !/@(development-virtual|x)\\.example\\.com$/\n/^/ ${CATCHALL}\nendif\n`)],
  ['an alias on two lines', add(VIRTUAL, `${user('team')} ${FOO},\n  ${BAR}`)],
  ['an alias that keeps a copy', add(VIRTUAL, `${BAR} ${BAR}, ${FOO}`)],
  ['a line behind the catch-all is never reached', add(MAP, '/@gmail\\.com$/ smtp:')],
  ['a line inside an if that never holds', addFirst(MAP, 'if /^nobody@/\n/^somebody@/ smtp:\nendif')],
  ['a fence in other words', change(MAP, '/^/ ', '!/^$/ ')],
  ['a copy of everything into the catchall', add(MAIN, `always_bcc = ${CATCHALL}`)],
  ['a header that redirects to bar', both(add(MAIN, 'header_checks = pcre:/tmp/docker-mailserver/h'), write(inConfig('h'), `/^X-Test:/ REDIRECT ${BAR}\n`))],
  ['another virtual domain', both(add(ACCOUNTS, `a@shop.example|${HASH}`), addFirst(MAP, '/@shop\\.example$/ :'), addFirst(CAUGHT, 'if !/@shop\\.example$/'), add(CAUGHT, 'endif'))],
  ['attributes and another scheme', add(ACCOUNTS, `${user('a')}|{PLAIN}secret|userdb_mail=x`)],
  ['a quota for an account', add(QUOTAS, `${BAR}:10M`)],
  ['no TLS', change(ENV, 'SSL_TYPE=snakeoil', 'SSL_TYPE=')],
  ['a restriction of the own network', add(MAIN, 'smtpd_client_restrictions = permit_mynetworks, permit_sasl_authenticated, reject')],
  ['a parameter on two lines', add(MAIN, 'smtpd_helo_restrictions =\n  permit_mynetworks,\n  permit')],
  ['a class of restrictions', add(MAIN, 'smtpd_restriction_classes = greylisted, flaky, by_chance, mine\nmine = permit_mynetworks\nsmtpd_client_restrictions = mine, check_client_access static:OK, sleep 1, permit')],
  ['a table of refusals behind those who may', add(MAIN, 'smtpd_client_restrictions = permit_mynetworks, permit_sasl_authenticated, check_client_access static:REJECT')],
  ['one address that is not trusted', add(MAIN, 'mynetworks = !127.0.0.5, 127.0.0.0/8, [::1]/128')],
  ['a restriction behind those who may', change(MAIN, /smtpd_sender_restrictions =.*/, 'smtpd_sender_restrictions = permit_mynetworks, reject_non_fqdn_sender, reject_unknown_sender_domain')],
  ["another socket of Dovecot's", both(add(DOVECOT, 'service lmtp {\n  unix_listener /var/spool/postfix/private/dovecot-lmtp {\n    mode = 0600\n  }\n}'), add(MAIN, 'virtual_transport = lmtp:unix:private/dovecot-lmtp'))],
  ["another domain's addresses", both(add(VIRTUAL, '@shop.example @development-virtual.example.com'), addFirst(MAP, '/@shop\\.example$/ :'), addFirst(CAUGHT, 'if !/@shop\\.example$/'), add(CAUGHT, 'endif'))],
  ['a foreign address for bar', addFirst(CAUGHT, `/^boss@corp\\.example$/ ${BAR}`)],
  ["the accounts' transport in so many words", change(MAP, /(development-virtual.*) :$/m, '$1 lmtp:unix:/var/run/dovecot/lmtp')],
  ['whole hashes of other schemes', add(ACCOUNTS, `${user('a')}|{BLF-CRYPT}$2y$05$1WVWmWi9d.cl2ne2cCCFq.dEWVcVOG8CIKS6eyOBTp/VCx1zBGhRu\n${user('b')}|{MD5-CRYPT}$1$saltsalt$qjXMvbEw8oaL.CzflDugZ/`)],
  ['one client of many refused', add(MAIN, 'smtpd_client_restrictions = check_client_access inline:{ {gone.example = REJECT gone} }, permit')],
  ['very large messages, and an alias to the catchall by its name alone', both(add(MAIN, 'message_size_limit = 1073741824'), add(VIRTUAL, `${user('info')} catchall`))],
  ['a table of texts that look like addresses', both(add(MAIN, 'body_checks = pcre:/tmp/docker-mailserver/texts'), write(inConfig('texts'), '/@foreign\\.example/ REJECT\n'))],
  ['headers that go', both(add(MAIN, 'header_checks = regexp:/tmp/docker-mailserver/h'), write(inConfig('h'), '/^X-Mailer:/ IGNORE\n'))],
  ["the server's own name", both(add(MAIN, 'myhostname = development-mail-server.example.com'), add(ENV, 'OVERRIDE_HOSTNAME=development-mail-server.example.com'))],
  ['another name', add(ENV, 'OVERRIDE_HOSTNAME=mail.shop.example')],
  ["Debian's aliases", add(MAIN, 'alias_maps = hash:/etc/aliases\nsmtpd_sasl_security_options = noanonymous')],
  ['an own certificate', both((project) => mkdirSync(project.config('ssl')), ...['cert', 'key'].map((part) => write(inConfig(`ssl/${part}.pem`), 'PEM\n')), change(ENV, 'SSL_TYPE=snakeoil', 'SSL_TYPE=manual\nSSL_CERT_PATH=/tmp/docker-mailserver/ssl/cert.pem\nSSL_KEY_PATH=/tmp/docker-mailserver/ssl/key.pem'), add(MAIN, 'smtpd_tls_CAfile = /tmp/docker-mailserver/ssl/cert.pem'))],
]
