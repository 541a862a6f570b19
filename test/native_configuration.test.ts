/** The native engine's configuration, asked of Postfix's and Dovecot's own tools: postconf and doveconf. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync, existsSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { parse } from 'dotenv'
import type { NativeConfiguration } from '../scripts/lib/server/native_configuration.ts'
import type { Settings } from '../scripts/lib/settings.ts'
import { Project } from './harness.ts'
import { load } from './here.ts'

let project: Project
let settings: Settings
let make: (settings: Settings, folder: string, environment: Record<string, string>) => Promise<NativeConfiguration>
let environment: Record<string, string>

before(async () => {
  project = await Project.create()
  const { makeConfiguration } = await load(project, 'lib/server/native_configuration')
  make = makeConfiguration
  environment = parse(readFileSync(project.path('development-mail-server.env')))
  const ports = { smtp: 2525, submission: 2587, submissions: 2465, pop3: 2110, pop3s: 2995, imap: 2143, imaps: 2993 }
  settings = {
    bindAddress: '127.0.0.1',
    host: '127.0.0.1',
    ports,
    engine: 'native',
    stateDir: '/srv/mail',
    inboxPort: 0,
    dmsVersion: '',
  }
})
after(() => project.remove())

/** Makes the configuration, with changes to environment, settings and files of the configuration folder. */
async function made(changes: {
  environment?: Record<string, string>
  settings?: Partial<Settings>
  files?: Record<string, string>
}) {
  const folder = project.path('made')
  const before = Object.keys(changes.files ?? {}).map((name) => {
    const path = project.config(name)
    return { path, text: existsSync(path) ? readFileSync(path, 'utf8') : '' }
  })
  for (const [name, text] of Object.entries(changes.files ?? {})) appendFileSync(project.config(name), text)
  try {
    const result = await make({ ...settings, ...changes.settings }, folder, { ...environment, ...changes.environment })
    const ask = (...args: string[]) =>
      execFileSync('postconf', ['-c', `${folder}/postfix`, ...args], { stdio: 'pipe' }).toString()
    const file = (name: string) => (existsSync(`${folder}/${name}`) ? readFileSync(`${folder}/${name}`, 'utf8') : '')
    return { ...result, ask, file, main: (name: string) => ask('-h', name).trim() }
  } finally {
    for (const { path, text } of before) writeFileSync(path, text)
  }
}

test('the same files make the same configuration, to the byte', async () => {
  const texts = async () => {
    const { file } = await made({ files: { 'postfix-main.cf': 'delay_warning_time = 1h\nbounce_size_limit = 9000\n' } })
    return ['main.cf', 'master.cf'].map((name) => file(`postfix/${name}`))
  }
  const first = await texts()
  for (let again = 0; again < 3; again++) assert.deepEqual(await texts(), first)
})

test('the project as it is: no notice, no way out, the ports of the settings, everything below the state folder', async () => {
  const { notices, ask, main, file } = await made({})
  assert.deepEqual(notices, [])
  const services = ask('-M')
  assert.doesNotMatch(services, /(smtp|pipe)$/m)
  for (const port of [2525, 2587, 2465])
    assert.match(services, new RegExp(`^127\\.0\\.0\\.1:${port} +inet .* 600 +smtpd`, 'm'))
  assert.equal(main('queue_directory'), '/srv/mail/queue')
  for (const name of ['postfix/main.cf', 'postfix/master.cf', 'dovecot/dovecot.conf', 'config/dovecot.cf']) {
    assert.doesNotMatch(file(name), /@[A-Z_]+@|\/tmp\/docker-mailserver|\/etc\/(postfix|dovecot)/, name)
  }
})

test('container paths are mapped, what only looks like one is not, and every line stays where it was', async () => {
  const own = '# /tmp/docker-mailserver/x /etc/postfix-other /srv/etc/postfix /var/mail/y\n'
  const { file } = await made({ files: { 'dovecot.cf': own } })
  assert.match(
    file('config/dovecot.cf'),
    /^# \/srv\/mail\/config\/x \/etc\/postfix-other \/srv\/etc\/postfix \/srv\/mail\/mail\/y$/m,
  )
  const lines = readFileSync(project.config('dovecot.cf'), 'utf8').split('\n').length
  assert.equal(file('config/dovecot.cf').split('\n').length, lines + 1)
})

test('a file that is a symbolic link is copied, and what it leads to stays as it is', async () => {
  const [link, target] = [project.config('postfix-main.cf'), project.path('elsewhere.cf')]
  renameSync(link, target)
  symlinkSync(target, link)
  const text = readFileSync(target, 'utf8')
  const { file } = await made({})
  assert.equal(readFileSync(target, 'utf8'), text)
  assert.match(file('config/postfix-main.cf'), /pcre:\/srv\/mail\/config\/postfix-transport_maps/)
  renameSync(target, link)
})

test('a line of postfix-main.cf wins over the base, stands once, and may be continued; what is private stays', async () => {
  const own = 'message_size_limit = 5\nqueue_directory = /var/elsewhere\ninet_interfaces = all\nsmtpd_banner = a\n  b\n'
  const { main, file, notices } = await made({ files: { 'postfix-main.cf': own } })
  assert.deepEqual([main('message_size_limit'), main('smtpd_banner')], ['5', 'a b'])
  assert.equal(file('postfix/main.cf').match(/^message_size_limit/gm)?.length, 1)
  assert.equal(main('queue_directory'), '/srv/mail/queue')
  assert.notEqual(main('inet_interfaces'), 'all')
  assert.match(notices.join(), /postfix-main\.cf: the native engine sets queue_directory, inet_interfaces itself/)
})

test('accounts and aliases make domains, mailboxes and users, with quotas and attributes', async () => {
  const { file } = await made({
    files: {
      'postfix-accounts.cf': 'ann@Shop.example|{PLAIN}x|userdb_a=1\n',
      'postfix-virtual.cf': 'info@alias.example ann@Shop.example\n  bar@development-virtual.example.com\n',
      'dovecot-quotas.cf': 'ann@shop.example:10M\n',
    },
  })
  const domains = [
    'alias.example',
    'development-mail-server.example.com',
    'development-virtual.example.com',
    'shop.example',
  ]
  assert.deepEqual(file('postfix/vhost').trim().split('\n'), domains)
  assert.match(file('postfix/vmailbox'), /^ann@Shop\.example Shop\.example\/ann\/$/m)
  assert.match(
    file('dovecot/userdb'),
    /^ann@Shop\.example:\{PLAIN\}x:5000:5000::\S+\/ann::userdb_a=1 userdb_quota\S+=(\S+:)?10M /m,
  )
})

for (const [variable, value, name, expected] of [
  ['POSTFIX_MESSAGE_SIZE_LIMIT', '123456', 'message_size_limit', '123456'],
  ['POSTFIX_MAILBOX_SIZE_LIMIT', '5000000', 'virtual_mailbox_limit', '5000000'],
  ['POSTFIX_INET_PROTOCOLS', 'all', 'inet_protocols', 'all'],
  ['POSTFIX_DAGENT', 'lmtp:unix:/var/run/dovecot/lmtp', 'virtual_transport', 'lmtp:unix:/srv/mail/run/lmtp'],
  ['OVERRIDE_HOSTNAME', 'mx.tests.example', 'myhostname', 'mx.tests.example'],
  ['OVERRIDE_HOSTNAME', 'mx.tests.example', 'mydomain', 'tests.example'],
  ['PERMIT_DOCKER', 'none', 'mynetworks', /^127\.0\.0\.0\/8 \[::1\]\/128$/],
  ['SSL_TYPE', '', 'smtpd_tls_security_level', 'none'],
  ['SMTP_ONLY', '1', 'smtpd_sasl_auth_enable', 'no'],
] as const) {
  test(`${variable}=${value} makes ${name} = ${expected}`, async () => {
    const { main } = await made({ environment: { [variable]: value } })
    if (typeof expected === 'string') assert.equal(main(name), expected)
    else assert.match(main(name), expected)
  })
}

test('Dovecot gets protocols, mailbox format, quota and size of messages from the environment', async () => {
  const { file } = await made({
    environment: {
      ENABLE_POP3: '0',
      DOVECOT_MAILBOX_FORMAT: 'mdbox',
      POSTFIX_MAILBOX_SIZE_LIMIT: '5000000',
      POSTFIX_MESSAGE_SIZE_LIMIT: '2000000',
    },
  })
  const text = file('dovecot/dovecot.conf')
  assert.match(text, /^protocols = imap lmtp$/m)
  assert.match(text, /mdbox/)
  assert.match(text, /storage(_size)? ?= ?5M/)
  assert.match(text, /mail_size = 3000000B/)
  assert.doesNotMatch(
    (await made({ environment: { ENABLE_QUOTAS: '0' } })).file('dovecot/dovecot.conf'),
    /^[ a-z_]*quota/m,
  )
})

test('without TLS no daemon has a certificate, and the ports of implicit TLS are closed or plain', async () => {
  const { file, ask } = await made({ environment: { SSL_TYPE: '' } })
  assert.match(file('dovecot/dovecot.conf'), /ssl = no\n$/)
  assert.doesNotMatch(file('dovecot/dovecot.conf'), /ssl_(server_)?(cert|key)/)
  assert.match(file('dovecot/dovecot.conf'), /inet_listener pop3s \{\s+port = 0/)
  assert.match(ask('-P'), /2465\/inet\/smtpd_tls_wrappermode = no/)
})

test('an IPv6 address stands in brackets where Postfix wants it so', async () => {
  const { ask, main, file } = await made({ settings: { bindAddress: '::1', host: '::1' } })
  assert.match(ask('-M'), /^\[::1\]:2525 +inet/m)
  assert.equal(main('inet_protocols'), 'all')
  assert.match(file('dovecot/dovecot.conf'), /^listen = ::1$/m)
})

test('postfix-master.cf changes the services of the ports, by the old name of port 465 as well', async () => {
  const { ask } = await made({ files: { 'postfix-master.cf': 'smtps/inet/syslog_name=postfix/old\n' } })
  assert.match(ask('-P'), /2465\/inet\/syslog_name = postfix\/old/)
  assert.match(ask('-P'), /2525\/inet\/smtpd_tls_security_level = none/)
})

test('what cannot be honoured is named once, and what is off is not', async () => {
  const { notices } = await made({ environment: { ENABLE_RSPAMD: '1', ENABLE_FETCHMAIL: '0', RELAY_HOST: 'x' } })
  assert.equal(notices.length, 1)
  assert.match(notices[0] ?? '', /ENABLE_RSPAMD=1, RELAY_HOST=x/)
})

for (const [variable, value] of [
  ['POSTFIX_INET_PROTOCOLS', 'ipv5'],
  ['DOVECOT_MAILBOX_FORMAT', 'mbox'],
  ['POSTFIX_MESSAGE_SIZE_LIMIT', '10M'],
  ['OVERRIDE_HOSTNAME', 'nodomain'],
  ['SSL_TYPE', 'letsencrypt'],
] as const) {
  test(`${variable}=${value} is a usage error that names variable and value`, async () => {
    await assert.rejects(made({ environment: { [variable]: value } }), {
      exit: 'usage',
      message: new RegExp(`^development-mail-server\\.env: ${variable}=${value} should be `),
    })
  })
}
