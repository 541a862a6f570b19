/** Set-ups that are broken in one thing each, for the tests of the doctor's file checks. */
import assert from 'node:assert/strict'

/** From a file's text to another one; undefined removes the file. */
export type Change = (text: string) => string | undefined
export interface Setup {
  files?: Record<string, Change>
  env?: Record<string, string>
  platform?: NodeJS.Platform
}
/** What is broken, how, the one check that says so, its level, words of its evidence, words of its fix. */
export type Broken = [
  what: string,
  setup: Setup,
  check: string,
  level: 'warning' | 'failure',
  said: RegExp,
  fix: RegExp,
]

const inConfig = (name: string) => `docker-data/mail-server/config/${name}`
const COMPOSE = 'docker-compose.yml'
const ENV = 'development-mail-server.env'
const MAIN = inConfig('postfix-main.cf')
const MASTER = inConfig('postfix-master.cf')
const MAP = inConfig('postfix-transport_maps')
export const ACCOUNTS = inConfig('postfix-accounts.cf')
const VIRTUAL = inConfig('postfix-virtual.cf')
const ALIASES = inConfig('postfix-aliases.cf')
const QUOTAS = inConfig('dovecot-quotas.cf')
const DOVECOT = inConfig('dovecot.cf')

/** "catchall" as a SHA512-CRYPT hash. */
const HASH =
  '{SHA512-CRYPT}$6$XIzwBujyZ6RyFiBg$VraktScvav3qwMuk1MQvDM.aJxz2/MGZMeBRHOLdtKQgV0iSeRJTTaCUZGLH0t9RosZKvl1V8YGfh.wbr6zDu.'
const user = (name: string) => `${name}@development-virtual.example.com`

export const add = (file: string, line: string): Setup => ({ files: { [file]: (text) => `${text}${line}\n` } })
const addFirst = (file: string, line: string): Setup => ({ files: { [file]: (text) => `${line}\n${text}` } })
const write = (file: string, text: string | undefined): Setup => ({ files: { [file]: () => text } })
const change = (file: string, from: string | RegExp, to: string): Setup => ({
  files: {
    [file]: (text) => {
      assert.notEqual(text.replace(from, to), text, `${from} is not in ${file}`)
      return text.replace(from, to)
    },
  },
})
const both = (...setups: Setup[]): Setup => ({ files: Object.assign({}, ...setups.map(({ files }) => files)) })

const BIND_MOUNT = change(COMPOSE, '- mail-state:/var/mail-state/', '- ./docker-data/mail-state/:/var/mail-state/')
const NAMED_BIND = change(
  COMPOSE,
  / {2}mail-state:\n/,
  '  mail-state:\n    driver_opts: { type: none, o: bind, device: /srv/x }\n',
)

// biome-ignore format: one set-up a line
export const BROKEN: Broken[] = [
  // docker-compose.yml
  ['no Compose file', write(COMPOSE, undefined), 'compose-file', 'failure', /is not there/, /git checkout -- docker-compose/],
  ['a Compose file that is no YAML', add(COMPOSE, '  - ['), 'compose-file', 'failure', /docker-compose\.yml: /, /git checkout/],
  ['another service alone', write(COMPOSE, 'services:\n  web:\n    image: nginx\n'), 'compose-file', 'failure', /no service/, /git checkout/],
  ['a port without an address', change(COMPOSE, /"\$\{BIND_ADDRESS.*:25"/, '"25:25"'), 'compose-ports', 'failure', /25:25 publishes port 25 on every address/, /- "\$\{BIND_ADDRESS:-127\.0\.0\.1\}:25:25"/],
  ['a port on 0.0.0.0', change(COMPOSE, /"\$\{BIND_ADDRESS.*:110"/, '"0.0.0.0:1110:110"'), 'compose-ports', 'failure', /on 0\.0\.0\.0/, /:1110:110"/],
  ['a port in the long form', change(COMPOSE, /"\$\{BIND_ADDRESS.*:143"/, '{ target: 143, published: "143" }'), 'compose-ports', 'failure', /port 143 on every/, /:143:143"/],
  ['a port on IPv6', change(COMPOSE, /"\$\{BIND_ADDRESS.*:143"/, '"[::]:143:143"'), 'compose-ports', 'failure', /on \[::\]/, /:143:143"/],
  ['the network of the host', change(COMPOSE, '    container_name', '    network_mode: host\n    container_name'), 'compose-ports', 'failure', /network_mode: host/, /Delete network_mode/],
  ['a bind mount of the state on Linux', BIND_MOUNT, 'compose-state', 'warning', /bind mount of \.\/docker-data\/mail-state/, /- mail-state:\/var\/mail-state\//],
  ['a bind mount of the state on Windows', { ...BIND_MOUNT, platform: 'win32' }, 'compose-state', 'failure', /Unix sockets cannot be made/, /mail-state:/],
  ['a bind mount of the state on macOS', { ...BIND_MOUNT, platform: 'darwin' }, 'compose-state', 'failure', /Unix sockets/, /mail-state:/],
  ['a named volume that is a bind mount', { ...NAMED_BIND, platform: 'darwin' }, 'compose-state', 'failure', /bind mount of mail-state/, /mail-state:/],
  ['no grace period', change(COMPOSE, / {4}stop_grace_period: 60s\n/, ''), 'compose-stop', 'warning', /10s/, /stop_grace_period: 60s/],
  ['a short grace period', change(COMPOSE, 'stop_grace_period: 60s', 'stop_grace_period: 5s'), 'compose-stop', 'warning', /5s.*kills/, /stop_grace_period: 60s/],
  ['no configuration folder', change(COMPOSE, / {6}- \.\/docker-data.*\n/, ''), 'compose-config', 'failure', /nothing is mounted/, /- \.\/docker-data\/mail-server\/config\/:\/tmp\/docker-mailserver\//],
  ['another configuration folder', change(COMPOSE, '- ./docker-data/mail-server/config/', '- ./config/'), 'compose-config', 'failure', /\.\/config\/ is mounted/, /docker-data\/mail-server/],
  ['the image latest', { env: { DMS_VERSION: 'latest' } }, 'image-version', 'failure', /latest/, /DMS_VERSION=15\.1\.0/],
  ['an image without a tag', change(COMPOSE, /(image: [^:]*):.*/, '$1'), 'image-version', 'failure', /latest/, /DMS_VERSION=15\.1\.0/],
  ['release 16 with a dovecot.cf for 2.3', { env: { DMS_VERSION: '16.0.1' } }, 'image-version', 'failure', /Dovecot 2\.4/, /DMS_VERSION=15\.1\.0/],

  // development-mail-server.env
  ['no environment file', write(ENV, undefined), 'env-names', 'failure', /is not there/, /git checkout/],
  ['a misspelt name', add(ENV, 'ENABLE_SPAMASASSIN=1'), 'env-names', 'warning', /line \d+: ENABLE_SPAMASASSIN/, /Write ENABLE_SPAMASSASSIN=1/],
  ['two letters swapped', add(ENV, 'PERMIT_DOKCER=none'), 'env-names', 'warning', /PERMIT_DOKCER/, /PERMIT_DOCKER=none/],
  ['a name like no other', add(ENV, 'COLOUR_OF_THE_SKY=blue'), 'env-names', 'warning', /COLOUR_OF_THE_SKY/, /Delete the line/],
  ['a name of another release', add(ENV, 'ENABLE_LDAP=1'), 'env-names', 'warning', /10\.5\.0, not to 15\.1\.0/, /DMS_VERSION=10\.5\.0/],
  ['SMTP_ONLY=1 with POP3 wanted', change(ENV, 'SMTP_ONLY=0', 'SMTP_ONLY=1'), 'env-protocols', 'failure', /SMTP_ONLY=1 .*ENABLE_POP3=1/, /SMTP_ONLY=0/],
  ['POP3 off', change(ENV, 'ENABLE_POP3=1', 'ENABLE_POP3=0'), 'env-protocols', 'warning', /POP3 is off/, /ENABLE_POP3=1/],
  ['POP3 not mentioned', change(ENV, 'ENABLE_POP3=1\n', ''), 'env-protocols', 'warning', /not set: POP3 is off/, /ENABLE_POP3=1/],
  ['POP3 turned on by a word', change(ENV, 'ENABLE_POP3=1', 'ENABLE_POP3=yes'), 'env-protocols', 'warning', /ENABLE_POP3=yes/, /ENABLE_POP3=1/],
  ['all IP versions', change(ENV, 'POSTFIX_INET_PROTOCOLS=ipv4', 'POSTFIX_INET_PROTOCOLS=all'), 'env-protocols', 'warning', /POSTFIX_INET_PROTOCOLS=all/, /POSTFIX_INET_PROTOCOLS=ipv4/],
  ['IPv6 alone', change(ENV, 'POSTFIX_INET_PROTOCOLS=ipv4', 'POSTFIX_INET_PROTOCOLS=ipv6'), 'env-protocols', 'failure', /does not listen/, /POSTFIX_INET_PROTOCOLS=ipv4/],
  ['a relay host', add(ENV, 'RELAY_HOST=smtp.example.net'), 'env-relay', 'failure', /RELAY_HOST=smtp\.example\.net/, /Delete the line of RELAY_HOST/],
  ['a default relay host', add(ENV, 'DEFAULT_RELAY_HOST=[smtp.example.net]:587'), 'env-relay', 'failure', /DEFAULT_RELAY_HOST/, /Delete the line of DEFAULT_RELAY_HOST/],
  ['ports for everybody, who may send', { env: { BIND_ADDRESS: '0.0.0.0' } }, 'env-trust', 'failure', /without logging in/, /BIND_ADDRESS=127\.0\.0\.1.*PERMIT_DOCKER=none/],
  ['ports for everybody, with logins', { ...change(ENV, 'connected-networks', 'none'), env: { BIND_ADDRESS: '192.168.1.5' } }, 'env-trust', 'warning', /may log in/, /BIND_ADDRESS=127\.0\.0\.1/],
  ['DKIM on', change(ENV, 'ENABLE_OPENDKIM=0', 'ENABLE_OPENDKIM=1'), 'env-lookups', 'warning', /ENABLE_OPENDKIM=1/, /ENABLE_OPENDKIM=0/],
  ['DMARC not mentioned, which is on', change(ENV, 'ENABLE_OPENDMARC=0\n', ''), 'env-lookups', 'warning', /ENABLE_OPENDMARC is not set, which is 1/, /ENABLE_OPENDMARC=0/],
  ['SPF on', change(ENV, 'POLICYD_SPF=0', 'POLICYD_SPF=1'), 'env-lookups', 'warning', /SPF/, /ENABLE_POLICYD_SPF=0/],
  ['block lists on', change(ENV, 'ENABLE_DNSBL=0', 'ENABLE_DNSBL=1'), 'env-lookups', 'warning', /block lists/, /ENABLE_DNSBL=0/],
  ['the update check on', change(ENV, 'UPDATE_CHECK=0', 'UPDATE_CHECK=1'), 'env-lookups', 'warning', /update check/, /ENABLE_UPDATE_CHECK=0/],

  // Configuration files
  ['CRLF', change(MAIN, /\n/g, '\r\n'), 'line-ends', 'failure', /postfix-main\.cf line 1 ends with CRLF/, /--fix/],
  ['one CRLF among many LF', change(ACCOUNTS, /(bar@.*)\n/, '$1\r\n'), 'line-ends', 'failure', /postfix-accounts\.cf line 8/, /--fix/],
  ['no last line end', change(VIRTUAL, /\n$/, ''), 'line-ends', 'warning', /postfix-virtual\.cf has no line end/, /--fix/],
  ['no accounts file', write(ACCOUNTS, undefined), 'accounts', 'failure', /is not there/, /git checkout/],
  ['a line that is no account', add(ACCOUNTS, 'alice'), 'accounts', 'failure', /line 10: "alice"/, /line 10 as address\|\{SCHEME\}hash/],
  ['an account twice', add(ACCOUNTS, `${user('foo')}|${HASH}`), 'accounts', 'failure', /stands twice, in lines 7 and 10/, /Delete line 10/],
  ['a capital letter', add(ACCOUNTS, `${user('Alice')}|${HASH}`), 'account-case', 'failure', /Alice@.*line 10/, /--fix/],
  ['an account in both cases', add(ACCOUNTS, `${user('FOO')}|${HASH}`), 'account-case', 'failure', /is there as well/, /Delete one line/],
  ['an unknown scheme', add(ACCOUNTS, `${user('alice')}|{ROT13}frperg`), 'account-hashes', 'failure', /\{ROT13\}/, /add-account -- --update alice@/],
  ['a hash cut off', add(ACCOUNTS, `${user('alice')}|${HASH.slice(0, -3)}`), 'account-hashes', 'failure', /no whole \{SHA512-CRYPT\} hash/, /--update alice@/],
  ['no catchall account', change(ACCOUNTS, /catchall@.*\n/, ''), 'catchall', 'failure', /no account catchall@/, /add-account -- catchall@/],
  ['unknown users not given to the catchall', change(MAIN, 'luser_relay = catchall', 'luser_relay = nobody'), 'catchall', 'failure', /luser_relay = nobody/, /luser_relay = catchall/],
  ['local recipients looked up', change(MAIN, /local_recipient_maps =\n/, ''), 'catchall', 'failure', /local_recipient_maps is not set/, /local_recipient_maps =/],
  ['an account whose domain the map does not know', add(ACCOUNTS, `alice@shop.example|${HASH}`), 'transport-map', 'failure', /alice@shop\.example goes to local/, /\/@shop\\\.example\$\/ :/],
  ['a domain sent to local', addFirst(MAP, '/@development-virtual\\.example\\.com$/ local:'), 'transport-map', 'failure', /mail to foo@.* goes to local/, /transport_maps: \/@development-virtual/],
  ['a line that is no rule', addFirst(MAP, 'development-virtual.example.com :'), 'transport-map', 'warning', /line 1: Postfix skips/, /line 1 of .* as \/pattern\/ transport:/],
  ['a table that nobody here can read', change(MAIN, 'transport_maps = pcre', 'transport_maps = hash:/etc/postfix/transport, pcre'), 'transport-map', 'warning', /hash:\/etc\/postfix\/transport cannot be judged/, /transport_maps = pcre:/],
  ['a table that is not there', change(MAIN, 'transport_maps = pcre', 'transport_maps = texthash:/tmp/docker-mailserver/more pcre'), 'transport-map', 'failure', /config\/more is not there; Postfix defers/, /Take texthash:.* out of transport_maps/],
  ['a quota for nobody', add(QUOTAS, `${user('nobody')}:10M`), 'quotas', 'warning', /no account nobody@/, /Delete line 4/],
  ['a quota that is no size', add(QUOTAS, `${user('bar')}:much`), 'quotas', 'failure', /"much" is no size/, /bar@development-virtual\.example\.com:10M/],
  ['an alias to nobody', add(VIRTUAL, `${user('sales')} ${user('nobody')}`), 'aliases', 'warning', /sales@.* leads to nobody@/, /add-account -- nobody@/],
  ['an alias to a program', add(ALIASES, 'robot: "|/usr/bin/true"'), 'aliases', 'warning', /\|\/usr\/bin\/true/, /Delete line 2/],

  // Nothing can leave
  ['a domain by SMTP', addFirst(MAP, '/@gmail\\.com$/ smtp:'), 'fence-files', 'failure', /gmail\.com goes to smtp:gmail\.com by line 1/i, /Write local: in place of smtp: in line 1 of .*transport_maps/],
  ['a domain to a smart host', addFirst(MAP, '/@(corp|shop)\\.example\\.net$/ relay:[mx.example.net]:587'), 'fence-files', 'failure', /@corp\.example\.net goes to relay:\[mx/, /local: in place of relay: in line 1/],
  ['a top level by SMTP', addFirst(MAP, '/\\.museum$/ smtp:'), 'fence-files', 'failure', /\.museum goes to smtp:/i, /local: in place of smtp:/],
  ['everything by SMTP', change(MAP, /\/\^\/ +local:/, '/^/ smtp:'), 'fence-files', 'failure', /goes to smtp:.* by line 10/, /local: in place of smtp: in line 10/],
  ['mail given away', addFirst(MAP, '/^abuse@/ discard:'), 'fence-files', 'failure', /goes to discard:/, /local: in place of discard:/],
  ['a pattern too intricate to undo', addFirst(MAP, '/@(?=x{3,5}y)(?<!z)x{4}y(?:a|b){2}\\.example$/ smtp:'), 'fence-files', 'failure', /line 1 of the transport map sends what it matches to smtp:/, /Delete line 1/],
  ['a transport from the address', addFirst(MAP, '/@(.*)\\.de$/ smtp:[$1.example]'), 'fence-files', 'failure', /goes to smtp:\[[^$]*\.example\]/, /local: in place of smtp:/],
  ['everything back to Postfix', addFirst(MAP, '/./ :'), 'fence-files', 'failure', /only default_transport keeps it here/, /Delete line 1/],
  ['no catch-all line', change(MAP, /\n\/\^\/ +local:\n/, '\n'), 'fence-files', 'failure', /no line of the transport map holds it/, /last line .*: \/\^\/ local:/],
  ['a fence for some only', change(MAP, '/^/ ', '/\\.com$/ '), 'fence-files', 'failure', /no line of the transport map/, /local:/],
  ['a dot that is any letter', change(MAP, 'virtual\\.example\\.com$/', 'virtual.example.com$/'), 'fence-files', 'warning', /no line of the transport map/, /match one domain alone/],
  ['a pattern without an end', change(MAP, 'virtual\\.example\\.com$/', 'virtual\\.example\\.com/'), 'fence-files', 'warning', /no line of the transport map/, /match one domain alone/],
  ['the virtual domain without its @', change(MAP, '/@development-virtual', '/development-virtual'), 'fence-files', 'warning', /no line of the transport map/, /match one domain alone/],
  ['a domain in the map that no account has', addFirst(MAP, '/@shop\\.example$/ :'), 'fence-files', 'warning', /@shop\.example: .*only default_transport/, /Delete line 1/],
  ['no transport map', write(MAP, undefined), 'fence-files', 'failure', /no line of the transport map/, /git checkout -- .*transport_maps/],
  ['no transport_maps', change(MAIN, /transport_maps = pcre.*\n/, ''), 'fence-files', 'failure', /no line of the transport map/, /transport_maps = pcre:/],
  ['default_transport = smtp', change(MAIN, 'default_transport = local', 'default_transport = smtp'), 'fence-files', 'failure', /line \d+: default_transport = smtp/, /default_transport = local/],
  ['no default_transport', change(MAIN, 'default_transport = local\n', ''), 'fence-files', 'failure', /postfix-main\.cf: default_transport = smtp/, /default_transport = local/],
  ['default_transport set again further down', add(MAIN, 'default_transport = smtp'), 'fence-files', 'failure', /default_transport = smtp/, /default_transport = local/],
  ['relay_transport = relay', change(MAIN, 'relay_transport = local', 'relay_transport = relay'), 'fence-files', 'failure', /relay_transport = relay/, /relay_transport = local/],
  ['a relay host in main.cf', add(MAIN, 'relayhost = [smtp.example.net]:587'), 'fence-files', 'failure', /relayhost = \[smtp\.example\.net\]:587/, /relayhost =$/],
  ['a relay host on a second line', add(MAIN, 'relayhost =\n  [smtp.example.net]'), 'fence-files', 'failure', /relayhost = \[smtp\.example\.net\]/, /relayhost =$/],
  ['relays by sender', add(MAIN, 'sender_dependent_relayhost_maps = inline:{foo@example.com=[x.example]}'), 'fence-files', 'failure', /sender_dependent_relayhost_maps/, /sender_dependent_relayhost_maps =$/],
  ['transports by sender', add(MAIN, 'sender_dependent_default_transport_maps = static:smtp'), 'fence-files', 'failure', /sender_dependent_default_transport_maps/, /_maps =$/],
  ['a fallback relay', add(MAIN, 'smtp_fallback_relay = [x.example]'), 'fence-files', 'failure', /smtp_fallback_relay/, /smtp_fallback_relay =$/],
  ['a fallback relay by its old name', add(MAIN, 'fallback_relay = [x.example]'), 'fence-files', 'failure', /fallback_relay/, /fallback_relay =$/],
  ['a content filter', add(MAIN, 'content_filter = smtp:[filter.example]:10024'), 'fence-files', 'failure', /content_filter/, /content_filter =$/],
  ['a filter before the queue', add(MAIN, 'smtpd_proxy_filter = filter.example:10024'), 'fence-files', 'failure', /smtpd_proxy_filter/, /smtpd_proxy_filter =$/],
  ['a copy of everything abroad', add(MAIN, 'always_bcc = archive@corp.example'), 'fence-files', 'failure', /copies every mail/, /always_bcc =$/],
  ['copies by sender', add(MAIN, 'sender_bcc_maps = static:archive@corp.example'), 'fence-files', 'failure', /archive@corp\.example/, /sender_bcc_maps =$/],
  ['copies by recipient', both(add(MAIN, 'recipient_bcc_maps = texthash:/tmp/docker-mailserver/bcc'), write(inConfig('bcc'), `${user('bar')} x@corp.example\n`)), 'fence-files', 'failure', /x@corp\.example/, /recipient_bcc_maps =$/],
  ['copies by a table that is not there', add(MAIN, 'recipient_bcc_maps = hash:/etc/postfix/bcc'), 'fence-files', 'failure', /nobody knows/, /recipient_bcc_maps =$/],
  ['a header that redirects', both(add(MAIN, 'header_checks = pcre:/tmp/docker-mailserver/headers'), write(inConfig('headers'), '/^Subject: x/ REDIRECT boss@corp.example\n')), 'fence-files', 'failure', /REDIRECT boss@corp\.example/, /header_checks =$/],
  ['a header that copies', both(add(MAIN, 'header_checks = regexp:/tmp/docker-mailserver/headers'), write(inConfig('headers'), '/^Subject: x/ BCC boss@corp.example\n')), 'fence-files', 'failure', /BCC boss@corp\.example/, /header_checks =$/],
  ['a body that is filtered', both(add(MAIN, 'body_checks = regexp:/tmp/docker-mailserver/body'), write(inConfig('body'), '/secret/ FILTER smtp:[filter.example]\n')), 'fence-files', 'failure', /FILTER smtp:\[filter\.example\]/, /body_checks =$/],
  ['an access table that redirects', add(MAIN, 'smtpd_sender_restrictions = check_sender_access inline:{{foo@x.example=REDIRECT boss@corp.example}}'), 'fence-files', 'failure', /REDIRECT/, /smtpd_sender_restrictions =$/],
  ['a setting of one service', add(MASTER, 'smtp/inet/content_filter=smtp:[filter.example]'), 'fence-files', 'failure', /smtp\/inet in master\.cf: content_filter/, /Delete smtp\/inet\/content_filter/],
  ['another map for trivial-rewrite', add(MASTER, 'rewrite/unix/transport_maps=static:smtp'), 'fence-files', 'failure', /another transport map/, /Delete rewrite\/unix\/transport_maps/],
  ['local(8) that hands on', add(MAIN, 'mailbox_transport = smtp:[x.example]'), 'fence-files', 'failure', /mailbox_transport/, /mailbox_transport =$/],
  ['virtual mail abroad', change(ENV, /POSTFIX_DAGENT=.*/, 'POSTFIX_DAGENT=smtp:[x.example]'), 'fence-files', 'failure', /virtual_transport = smtp/, /POSTFIX_DAGENT=lmtp:unix:\/var\/run\/dovecot\/lmtp/],
  ['virtual mail to LMTP elsewhere', change(ENV, /POSTFIX_DAGENT=.*/, 'POSTFIX_DAGENT=lmtp:inet:mail.example.net:24'), 'fence-files', 'failure', /virtual_transport = lmtp:inet/, /POSTFIX_DAGENT=lmtp:unix/],
  ['a Dovecot that sends by itself', add(DOVECOT, 'submission_host = smtp.example.net:587'), 'fence-files', 'failure', /submission_host/, /Delete the line with submission_host/],
]

// biome-ignore format: one set-up a line
export const FINE: [what: string, setup: Setup][] = [
  ['an alias that points abroad ends in local', add(VIRTUAL, `${user('boss')} boss@gmail.com`)],
  ['a local alias that points abroad', add(ALIASES, 'boss: boss@gmail.com')],
  ['a line behind the catch-all is never reached', add(MAP, '/@gmail\\.com$/ smtp:')],
  ['a line inside an if that never holds', addFirst(MAP, 'if /^nobody@/\n/^somebody@/ smtp:\nendif')],
  ['a fence in other words', change(MAP, '/^/ ', '!/^$/ ')],
  ['a copy of everything into the catchall', add(MAIN, 'always_bcc = catchall@development-mail-server.example.com')],
  ['a header that redirects to bar', both(add(MAIN, 'header_checks = pcre:/tmp/docker-mailserver/h'), write(inConfig('h'), `/^X-Test:/ REDIRECT ${user('bar')}\n`))],
  ['names turned off that an older release does not know', { env: { DMS_VERSION: '10.5.0' } }],
  ['another port and another loopback address', { env: { SMTP_PORT: '2525', BIND_ADDRESS: '127.0.0.2' } }],
  ['an account with its domain in the map', both(add(ACCOUNTS, `a@shop.example|${HASH}`), addFirst(MAP, '/@shop\\.example$/ :'))],
  ['attributes and another scheme', add(ACCOUNTS, `${user('a')}|{PLAIN}secret|userdb_mail=x`)],
  ['release 16 with a dovecot.cf for 2.4', { ...addFirst(DOVECOT, 'dovecot_config_version = 2.4.0'), env: { DMS_VERSION: '16.0.1' } }],
  ['an alias to an address with an extension', add(VIRTUAL, `${user('sales')} ${user('bar+sales')}`)],
  ['a quota for an account', add(QUOTAS, `${user('bar')}:10M`)],
]

export const NO_ACCOUNTS = write(ACCOUNTS, '# nobody\n')
