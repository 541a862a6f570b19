import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Failure } from '../scripts/lib/cli.ts'
import { nativeConfiguration } from '../scripts/lib/server/native_configuration.ts'
import { mapPaths, type NativeInput } from '../scripts/lib/server/native_layout.ts'
import { CONFIG_DIR, readServerEnvironment } from '../scripts/lib/settings.ts'

const STATE = '/srv/mail'

/** The project's own configuration with some changes. */
function configure(environment: Record<string, string> = {}, files: Record<string, string> = {}) {
  const input: NativeInput = {
    stateDir: STATE,
    bindAddress: '127.0.0.1',
    ports: { smtp: 2525, submission: 2587, submissions: 2465, pop3: 2110, pop3s: 2995, imap: 2143, imaps: 2993 },
    environment: { ...readServerEnvironment(), ...environment },
    file: (name) => {
      const path = join(CONFIG_DIR, name)
      return files[name] ?? (existsSync(path) ? readFileSync(path, 'utf8') : undefined)
    },
    networks: ['192.0.2.0/24'],
  }
  const { files: made, ...rest } = nativeConfiguration(input)
  const parameter = (name: string) =>
    [...(made['postfix/main.cf'] ?? '').matchAll(new RegExp(`^${name} = ?(.*)$`, 'gm'))].at(-1)?.[1]
  return { made, parameter, notices: rest.notices, dovecot: made['dovecot/dovecot.conf'] ?? '' }
}

test('container paths are mapped, and what only looks like one is not', () => {
  for (const [path, mapped] of [
    ['pcre:/tmp/docker-mailserver/postfix-transport_maps', 'pcre:/srv/mail/config/postfix-transport_maps'],
    ['hash:/etc/aliases, static:x', 'hash:/srv/mail/postfix/aliases, static:x'],
    ['lmtp:unix:/var/run/dovecot/lmtp', 'lmtp:unix:/srv/mail/run/lmtp'],
    ['texthash:/etc/postfix/virtual', 'texthash:/srv/mail/postfix/virtual'],
    ['args=/etc/dovecot/userdb;', 'args=/srv/mail/dovecot/userdb;'],
    [
      '/etc/aliases.local /etc/postfix-old/x /home/etc/postfix/x',
      '/etc/aliases.local /etc/postfix-old/x /home/etc/postfix/x',
    ],
    ['/var/mailman/x', '/var/mailman/x'],
  ] as const) {
    assert.equal(mapPaths(path, STATE), mapped)
  }
})

test('mapping keeps every line where it was', () => {
  const text = readFileSync(join(CONFIG_DIR, 'postfix-main.cf'), 'utf8')
  assert.equal(mapPaths(text, STATE).split('\n').length, text.split('\n').length)
})

test('a parameter of postfix-main.cf stands once: Postfix warns of every second one', () => {
  const names = [...(configure().made['postfix/main.cf'] ?? '').matchAll(/^(\w+) =/gm)].map(([, name]) => name)
  assert.deepEqual(names, [...new Set(names)])
})

test('virtual mailbox domains are those of all accounts and aliases', () => {
  const { made } = configure(
    {},
    { 'postfix-virtual.cf': '@alias.example foo@x.example\nbare foo@x.example\n# @no.example x\n' },
  )
  const domains = (made['postfix/vhost'] ?? '').split('\n').map((line) => line.split(' ')[0])
  assert.deepEqual(domains, [
    'alias.example',
    'development-mail-server.example.com',
    'development-virtual.example.com',
    '',
  ])
})

test('accounts become mailboxes with their quota and attributes', () => {
  const { made } = configure(
    {},
    {
      'postfix-accounts.cf': 'Ann@x.example|{PLAIN}p|userdb_mail=maildir:~/m\nbob@x.example|{PLAIN}q\n',
      'dovecot-quotas.cf': 'ann@x.example:10M\n',
    },
  )
  assert.equal(
    made['dovecot/userdb']?.replace(/ userdb_marker=[0-9a-f]{16}$/gm, ''),
    'Ann@x.example:{PLAIN}p:5000:5000::/srv/mail/mail/x.example/Ann/home::userdb_mail=maildir:~/m userdb_quota_rule=*:bytes=10M\n' +
      'bob@x.example:{PLAIN}q:5000:5000::/srv/mail/mail/x.example/bob/home::\n',
  )
  assert.equal(made['postfix/vmailbox'], 'Ann@x.example x.example/Ann/\nbob@x.example x.example/bob/\n')
})

for (const [variable, value, name, expected] of [
  ['POSTFIX_MESSAGE_SIZE_LIMIT', '5000', 'message_size_limit', '5000'],
  ['POSTFIX_MAILBOX_SIZE_LIMIT', '20000000', 'virtual_mailbox_limit', '20000000'],
  ['POSTFIX_DAGENT', 'lmtp:inet:127.0.0.1:24', 'virtual_transport', 'lmtp:inet:127.0.0.1:24'],
  ['POSTFIX_DAGENT', '', 'virtual_transport', 'lmtp:unix:/srv/mail/run/lmtp'],
  ['POSTFIX_INET_PROTOCOLS', 'all', 'inet_protocols', 'all'],
  ['OVERRIDE_HOSTNAME', 'mx.tests.example', 'myhostname', 'mx.tests.example'],
  ['OVERRIDE_HOSTNAME', 'mx.tests.example', 'mydomain', 'tests.example'],
  ['PERMIT_DOCKER', 'none', 'mynetworks', ''],
  ['PERMIT_DOCKER', 'container', 'mynetworks', '127.0.0.0/8'],
  ['PERMIT_DOCKER', 'connected-networks', 'mynetworks', '127.0.0.0/8 192.0.2.0/24'],
  ['SSL_TYPE', '', 'smtpd_tls_security_level', 'none'],
  ['SMTP_ONLY', '1', 'smtpd_sasl_auth_enable', 'no'],
] as const) {
  test(`${variable}=${value} makes ${name} = ${expected}`, () => {
    assert.equal(configure({ [variable]: value }).parameter(name), expected)
  })
}

test('Dovecot gets protocols, mailbox format, quota and size of messages from the environment', () => {
  assert.match(configure({ ENABLE_POP3: '0' }).dovecot, /^protocols = imap lmtp$/m)
  assert.match(configure({ ENABLE_IMAP: '0' }).dovecot, /^protocols = pop3 lmtp$/m)
  assert.match(
    configure({ DOVECOT_MAILBOX_FORMAT: 'mdbox' }).dovecot,
    /^mail_location = mdbox:\/srv\/mail\/mail\/%d\/%n$/m,
  )
  assert.match(configure({ POSTFIX_MAILBOX_SIZE_LIMIT: '20000000' }).dovecot, /quota_rule = \*:storage=20M$/m)
  assert.doesNotMatch(configure({ ENABLE_QUOTAS: '0' }).dovecot, /quota_rule/)
  assert.equal(configure({ SMTP_ONLY: '1' }).made['dovecot/dovecot.conf'], undefined)
})

test('postmaster and root go to POSTMASTER_ADDRESS, or to postmaster at the domain', () => {
  assert.match(configure({ POSTMASTER_ADDRESS: 'a@b.example' }).made['postfix/aliases'] ?? '', /^root: a@b\.example$/m)
  assert.match(configure({ POSTMASTER_ADDRESS: '' }).made['postfix/aliases'] ?? '', /^root: postmaster@example\.com$/m)
})

test('postfix-master.cf changes services, by the old name of port 465 as well', () => {
  const { made } = configure(
    {},
    { 'postfix-master.cf': '# x\nsmtps/inet/syslog_name=mine\nsmtp/inet/smtpd_banner=a b\n' },
  )
  const master = made['postfix/master.cf'] ?? ''
  assert.match(master, /^2465 inet n - n - 600 smtpd\n {2}-o syslog_name=mine$/m)
  assert.match(master, /^2525 inet n - n - 600 smtpd\n {2}-o \{ smtpd_banner = a b \}$/m)
})

test('a regexp alias file stands behind the virtual aliases', () => {
  const { parameter } = configure({}, { 'postfix-regexp.cf': '/^test-.*/ foo@x.example\n' })
  assert.equal(parameter('virtual_alias_maps'), 'texthash:/srv/mail/postfix/virtual pcre:/srv/mail/postfix/regexp')
})

test('what cannot be honoured is named once, and what is off is not', () => {
  const { notices } = configure({ ENABLE_RSPAMD: '1', ENABLE_CLAMAV: '0', TZ: '' })
  assert.equal(notices.length, 1)
  assert.match(notices[0] ?? '', /ENABLE_RSPAMD=1/)
  assert.doesNotMatch(notices[0] ?? '', /CLAMAV|TZ/)
})

test('the project as it is gives no notice', () => {
  assert.deepEqual(configure().notices, [])
})

for (const [variable, value] of [
  ['SSL_TYPE', 'letsencrypt'],
  ['DOVECOT_INET_PROTOCOLS', 'ipv6'],
  ['POSTFIX_INET_PROTOCOLS', 'ipv6'],
  ['DOVECOT_MAILBOX_FORMAT', 'mbox'],
  ['POSTFIX_MESSAGE_SIZE_LIMIT', '10M'],
] as const) {
  test(`${variable}=${value} is an error that names variable and value`, () => {
    const refused = (error: unknown) => error instanceof Failure && error.message.includes(`${variable}=${value}`)
    assert.throws(() => configure({ [variable]: value }), refused)
  })
}
