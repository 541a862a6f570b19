/**
 * Set-ups that are broken in one thing each: what is done, what the doctor has to say, and nothing else. Where it names a fix,
 * the test types it and asks again.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'
import { BAR, CATCHALL, FOO } from '../scripts/lib/accounts/accounts.ts'
import type { Project } from './harness.ts'
import { DOVECOT_CF, pidsOf } from './instance.ts'

type Level = 'warning' | 'failure'
/** What is broken, by what, the one check that says so, its level, words of its evidence: of several findings several. */
export type Broken = [
  what: string,
  breaks: (project: Project) => void,
  check: string,
  level: Level,
  said: RegExp | RegExp[],
]

const inConfig = (name: string) => `docker-data/mail-server/config/${name}`
export const COMPOSE = 'docker-compose.yml'
const OVERRIDE = 'docker-compose.override.yml'
const ENV = 'development-mail-server.env'
const MAIN = inConfig('postfix-main.cf')
const MASTER = inConfig('postfix-master.cf')
const MAP = inConfig('postfix-transport_maps')
const CAUGHT = inConfig('postfix-regexp.cf')
export const ACCOUNTS = inConfig('postfix-accounts.cf')
const VIRTUAL = inConfig('postfix-virtual.cf')
const QUOTAS = inConfig('dovecot-quotas.cf')
const DOVECOT = inConfig('dovecot.cf')
const DOVECOT_24 = inConfig('dovecot-2.4.cf')
/** What is in effect. */
const DOVECOT_HERE = inConfig(DOVECOT_CF)
const MASTER_USERS = inConfig('dovecot-master-users')
const TEXTS = [ENV, MASTER, DOVECOT, ACCOUNTS, VIRTUAL, CAUGHT, MAP, QUOTAS, MAIN, COMPOSE]

/** "catchall" as a SHA512-CRYPT hash. */
const HASH =
  '{SHA512-CRYPT}$6$XIzwBujyZ6RyFiBg$VraktScvav3qwMuk1MQvDM.aJxz2/MGZMeBRHOLdtKQgV0iSeRJTTaCUZGLH0t9RosZKvl1V8YGfh.wbr6zDu.'
const user = (name: string) => `${name}@development-virtual.example.com`

/** What a set-up does; paths are those of the project's copy. */
type Break = (project: Project) => void
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
  return (project) => void execFileSync('sh', ['-c', `rm -r "$0"; ${command} "$0"`, project.path(file)])
}
const both = (...breaks: Break[]): Break => {
  return (project) => breaks.forEach((one) => void one(project))
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
  ['DKIM on', change(ENV, 'ENABLE_OPENDKIM=0', 'ENABLE_OPENDKIM=1'), 'environment', 'warning', /DKIM asks the DNS/],
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
  ['no catchall account', change(ACCOUNTS, /catchall@.*\n/, ''), 'accounts', 'failure', /no account catchall@/],
  ['a quota for nobody', add(QUOTAS, `${user('nobody')}:10M`), 'remains', 'warning', /nobody@.* has a quota and is no account/],
  ['a catchall with a limit', change(QUOTAS, `${CATCHALL}:0`, `${CATCHALL}:10M`), 'quotas', 'warning', /catchall has a limit/],
  ['master users without a password', write(MASTER_USERS, 'master:{SHA512-CRYPT}$6$x\n'), 'dovecot', 'failure', /no line user:/],

  // Aliases
  ['an alias to nobody', add(VIRTUAL, `${user('sales')} ${user('nobody')}`), 'remains', 'failure', /nobody@.*, which is no account/],
  ['an alias without a target', add(VIRTUAL, user('sales')), 'aliases', 'failure', /no target/],
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
  ['a misspelt restriction', add(MAIN, 'smtpd_client_restrictions = permit_mynetwork, reject'), 'main-cf', 'failure', /no restriction permit_mynetwork/],
  ['no passwords as they are', add(MAIN, 'smtpd_sasl_security_options = noanonymous, noplaintext'), 'main-cf', 'failure', /passwords as they are/],
  ['the host name of a virtual domain', add(MAIN, 'myhostname = development-virtual.example.com'), 'main-cf', 'failure', /is a virtual mailbox domain/],
  ['a name that nothing sets', add(MAIN, 'smtpd_timeout = $smtpd_timout'), 'main-cf-names', 'warning', /nothing sets \$smtpd_timout.*smtpd_timeout/],
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
  ['the key of another certificate', openssl('genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out key.pem'), 'certificate', 'failure', /that of another certificate/],
  ['a certificate that ends soon', openssl('req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x -keyout key.pem -out certificate.pem'), 'certificate', 'warning', /ends on/],
]

/** Has Postfix deliver a mail of so many bytes. */
function deliver(project: Project, to: string, size: number): void {
  const line = `${'x'.repeat(70)}\n`
  const input = `Subject: a set-up\n\n${line.repeat(Math.ceil(size / line.length))}`
  execFileSync('sendmail', ['-C', `${project.stateDir}/postfix`, '-f', FOO, to], { input, stdio: 'pipe' })
}

/** Kills the process of a pid file, and waits until it is gone. */
function kill(file: string): void {
  const pid = readFileSync(file, 'utf8').trim()
  const isGone = `for i in $(seq 3000); do grep -q "^State:.[^Z]" /proc/${pid}/status 2>/dev/null || exit 0; sleep 0.02; done`
  process.kill(Number(pid), 'SIGKILL')
  execFileSync('sh', ['-c', isGone])
}

/** Puts a mail on hold, as postsuper -h does. */
function hold(project: Project): void {
  stop(project, 'qmgr')
  deliver(project, BAR, 10)
  const isThere = `postqueue -c ${project.stateDir}/postfix -j | grep -q queue_id`
  execFileSync('sh', ['-c', `for i in $(seq 1200); do ${isThere} && break; sleep 0.05; done`])
  postfix(project, 'postsuper', '-h', 'ALL')
  stop(project, 'qmgr', 'SIGCONT')
}

/** Stops the processes of the instance with this name; all of them for an empty one. */
function stop(project: Project, name: string, signal: NodeJS.Signals = 'SIGSTOP'): void {
  for (const pid of pidsOf(project)) {
    if (name === '' || readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === name) process.kill(pid, signal)
  }
}

// biome-ignore format: one set-up a line
export const BROKEN_SERVER: Broken[] = [
  // Symptoms and their causes
  ['held mail', hold, 'queue', 'failure', /on hold/],
  ['Maildir of another owner', (project) => chownSync(`${project.stateDir}/mail/development-virtual.example.com/bar`, 0, 0), 'mailboxes', 'failure', /bar belongs to user 0/],
  ['a mail folder without rights', (project) => chmodSync(`${project.stateDir}/mail/development-mail-server.example.com`, 0), 'mailboxes', 'failure', /may not enter/],
  ['a folder above that others cannot enter', (project) => chmodSync(project.dir, 0o700), 'folders', 'failure', /only its owner can enter/],
  ['a stopped queue manager', (project) => stop(project, 'qmgr'), 'processes', 'failure', /stopped by a signal.*qmgr/],
  ['all daemons stopped', (project) => stop(project, ''), 'processes', 'failure', /master.*dovecot|dovecot.*master/],
  ['a Dovecot that was killed', (project) => kill(`${project.stateDir}/run/master.pid`), 'running', 'failure', /without Dovecot/],
  ['a Postfix that was killed', (project) => kill(`${project.stateDir}/queue/pid/master.pid`), 'running', 'failure', /without Postfix/],
  ['no key', (project) => rmSync(`${project.stateDir}/tls/key.pem`), 'certificate', 'failure', /key\.pem is not there/],
  // The running server is older than the files
  ['files changed by hand, and one that is gone', both(change(ACCOUNTS, /(bar@[^|]*\|).*/, `$1${HASH}`), add(MAIN, 'smtpd_timeout = 200s'), add(VIRTUAL, `${user('sales')} ${BAR}`), (project) => rmSync(`${project.stateDir}/config/postfix-regexp.cf`)), 'live', 'failure', /^(?=.*accounts\.cf)(?=.*main\.cf)(?=.*virtual\.cf)(?=.*regexp\.cf).*: changed since/],
  ['an environment that is not live, and a way out past the files', both(change(ENV, /MESSAGE_SIZE_LIMIT=.*/, 'MESSAGE_SIZE_LIMIT=20480000'), postconf('-e', 'default_transport=smtp'), postconf('-M', 'smtp/unix=smtp unix - - n - - smtp')), 'live', 'failure', /^(?=.*master\.cf)(?=.*message_size_limit).*default_transport = smtp/],
]

/** What is in effect, several at once: each is told at its lines. */
// biome-ignore format: one set-up a line
export const BROKEN_LIVE: Broken[][] = [
  [
    ['mail is held up', add(MAIN, 'content_filter = smtp:[127.0.0.1]:10024\nsmtpd_milters = inet:127.0.0.1:8891\ndefer_transports = lmtp'), 'main-cf', 'failure', [/no SMTP client/, /nothing answers at 127\.0\.0\.1:8891/, /waits in the queue/]],
    ['another way to the mailboxes', change(ENV, /POSTFIX_DAGENT=.*/, 'POSTFIX_DAGENT=lmtp:unix:/var/run/dovecot/lmpt'), 'environment', 'failure', /not go to Dovecot/],
    ['an alias that takes bar', add(VIRTUAL, `${BAR} ${FOO}`), 'aliases', 'failure', /is an account/],
  ],
  [
    ['clients are shut out', both(change(MAIN, /smtpd_sender_restrictions =.*/, 'smtpd_sender_restrictions = reject_unknown_sender_domain'), add(MAIN, 'mynetworks = 192.168.0.0/24\nmessage_size_limit = 200')), 'main-cf', 'failure', [/asks the DNS/, /have to log in/, /is larger/]],
    ['mail goes astray', both(change(MAIN, /reject_unlisted_recipient, /, ''), add(MAIN, 'enable_original_recipient = no')), 'main-cf', 'failure', [/get no 550/, /envelope recipient is lost/]],
    ['TLS for every login', change(DOVECOT, 'ssl = yes', 'ssl = required'), 'dovecot', 'failure', /logins without TLS/],
  ],
  // Causes that stand in no file of the project; and two broken logins, each one finding however many accounts there are
  [['a text that a table elsewhere throws away', (project) => { writeFileSync(project.path('table'), '/deleted as soon/ DISCARD\n'); add(MAIN, `body_checks = pcre:${project.path('table')}`)(project) }, 'mail-virtual', 'failure', /body_checks throw it away/]],
  [['a subject that a table elsewhere refuses', (project) => { writeFileSync(project.path('table'), '/^Subject: Test/ REJECT go away\n'); add(MAIN, `header_checks = regexp:${project.path('table')}`)(project) }, 'mail-virtual', 'failure', /header_checks or body_checks refuse it.*go away/]],
  [
    ['ports that Dovecot does not open', both(...['imap', 'pop3'].map((name) => add(DOVECOT_HERE, `service ${name}-login {\n  inet_listener ${name}s {\n    port = 0\n  }\n}`))), 'logins', 'failure', /POP3 on port \d+ for .*: connect ECONNREFUSED.*; likewise IMAP on port \d+/],
    ['POP3 for no account', add(DOVECOT_HERE, 'protocol pop3 {\n  mail_plugins = nonsense\n}'), 'logins', 'failure', /POP3 on port \d+ for .*login refused.*Dovecot has no such plugin/],
  ],
  [['TLS of no known version', add(DOVECOT_HERE, 'ssl_min_protocol = TLSv9'), 'logins', 'failure', /port \d+ for .*Dovecot cannot set up TLS.*TLSv9/]],
]
/** A mailbox is full when its mail has arrived: only its own check is asked. */
export const FULL: Broken = [
  'a full mailbox',
  (project) => {
    add(QUOTAS, `${user('baz')}:30k`)(project)
    deliver(project, user('baz'), 40_000)
  },
  'mailbox-quotas',
  'failure',
  /baz@.*full/,
]

// biome-ignore format: one set-up a line
export const FINE: [what: string, breaks: Break][] = [
  ['an alias that points abroad ends in the catchall', add(VIRTUAL, `${user('boss')} boss@gmail.com`)],
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
  ["the server's own name", both(add(MAIN, 'myhostname = development-mail-server.example.com'), add(ENV, 'OVERRIDE_HOSTNAME=development-mail-server.example.com'))],
  ['another name', add(ENV, 'OVERRIDE_HOSTNAME=mail.shop.example')],
  ["Debian's aliases", add(MAIN, 'alias_maps = hash:/etc/aliases\nsmtpd_sasl_security_options = noanonymous')],
  ['an own certificate', both((project) => mkdirSync(project.config('ssl')), ...['cert', 'key'].map((part) => write(inConfig(`ssl/${part}.pem`), 'PEM\n')), change(ENV, 'SSL_TYPE=snakeoil', 'SSL_TYPE=manual\nSSL_CERT_PATH=/tmp/docker-mailserver/ssl/cert.pem\nSSL_KEY_PATH=/tmp/docker-mailserver/ssl/key.pem'), add(MAIN, 'smtpd_tls_CAfile = /tmp/docker-mailserver/ssl/cert.pem'))],
]
