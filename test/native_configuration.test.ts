/** The native engine's configuration, asked of Postfix's and Dovecot's own tools: postconf and doveconf. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync, cpSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { parse } from 'dotenv'
import type { makeConfiguration } from '../scripts/lib/server/native_configuration.ts'
import { CONFIG_DIR, type Settings } from '../scripts/lib/settings.ts'
import { Project } from './harness.ts'
import { load } from './here.ts'

const project = await Project.create()
after(() => project.remove())
const make: typeof makeConfiguration = (await load(project, 'lib/server/native_configuration')).makeConfiguration
const ENVIRONMENT = parse(readFileSync(project.path('development-mail-server.env')))
const SETTINGS: Settings = {
  bindAddress: '127.0.0.1',
  host: '127.0.0.1',
  ports: { smtp: 2525, submission: 2587, submissions: 2465, pop3: 2110, pop3s: 2995, imap: 2143, imaps: 2993 },
  engine: 'native',
  stateDir: '/srv/mail',
  inboxPort: 0,
  dmsVersion: '',
}

interface Changes {
  environment?: Record<string, string>
  settings?: Partial<Settings>
  /** What stands behind what files of the configuration folder say. */
  files?: Record<string, string>
}

/** Makes the configuration with changes. */
async function made(changes: Changes = {}) {
  const folder = project.path('made')
  for (const [name, text] of Object.entries(changes.files ?? {})) appendFileSync(project.config(name), text)
  try {
    await make({ ...SETTINGS, ...changes.settings }, folder, { ...ENVIRONMENT, ...changes.environment })
    const ask = (...args: string[]) =>
      execFileSync('postconf', ['-c', `${folder}/postfix`, ...args], { stdio: 'pipe' }).toString()
    const file = (name: string) => (existsSync(`${folder}/${name}`) ? readFileSync(`${folder}/${name}`, 'utf8') : '')
    return { ask, file, main: (name: string) => ask('-h', name).trim() }
  } finally {
    for (const name of Object.keys(changes.files ?? {})) cpSync(join(CONFIG_DIR, name), project.config(name))
  }
}

test('the project as it is: no way out, the ports of the settings, everything below the state folder', async () => {
  const { ask, main, file } = await made()
  const services = ask('-M')
  assert.doesNotMatch(services, /^(smtp|relay) |(smtp|pipe)( .*)?$/m)
  for (const port of [2525, 2587, 2465])
    assert.match(services, new RegExp(`^127\\.0\\.0\\.1:${port} +inet .* 600 +smtpd`, 'm'))
  assert.match(services, /^lmtp .* lmtp flags=O$/m)
  assert.equal(main('queue_directory'), '/srv/mail/queue')
  for (const name of ['postfix/main.cf', 'postfix/master.cf', 'dovecot/dovecot.conf', 'config/dovecot.cf']) {
    assert.doesNotMatch(file(name), /@[A-Z_]+@|\/tmp\/docker-mailserver|\/etc\/(postfix|dovecot)/, name)
  }
})

test('container paths are mapped, what only looks like one is not, and every line stays where it was', async () => {
  const own = '# /tmp/docker-mailserver/x /etc/postfix-other /srv/etc/postfix /var/mail/y\n'
  const text = (await made({ files: { 'dovecot.cf': own } })).file('config/dovecot.cf')
  assert.match(text, /^# \/srv\/mail\/config\/x \/etc\/postfix-other \/srv\/etc\/postfix \/srv\/mail\/mail\/y$/m)
  assert.equal(text.split('\n').length, readFileSync(project.config('dovecot.cf'), 'utf8').split('\n').length + 1)
})

test('a line of postfix-main.cf wins over the base, stands once, and may be continued; what is private stays', async () => {
  const own = 'message_size_limit = 5\nqueue_directory = /var/elsewhere\ninet_interfaces = all\nsmtpd_banner = a\n  b\n'
  const { main, file } = await made({ files: { 'postfix-main.cf': own } })
  assert.deepEqual([main('message_size_limit'), main('smtpd_banner')], ['5', 'a b'])
  assert.equal(file('postfix/main.cf').match(/^message_size_limit/gm)?.length, 1)
  assert.deepEqual([main('queue_directory'), main('inet_interfaces')], ['/srv/mail/queue', 'loopback-only'])
})

test('the same files make the same configuration, to the byte', async () => {
  const texts = async () => {
    const { file } = await made()
    return ['postfix/main.cf', 'postfix/master.cf', 'dovecot/userdb'].map(file)
  }
  assert.deepEqual(await texts(), await texts())
})

test('accounts and aliases make domains, mailboxes and users, with quotas and attributes', async () => {
  const { file } = await made({
    files: {
      'postfix-accounts.cf': 'ann@Shop.example|{PLAIN}x|userdb_a=1\n',
      'postfix-virtual.cf': 'info@alias.example ann@Shop.example\n  bar@development-virtual.example.com\n',
      'dovecot-quotas.cf': 'ann@shop.example:10M\n',
    },
  })
  const domains = 'alias.example development-mail-server.example.com development-virtual.example.com shop.example'
  assert.equal(file('postfix/vhost').trim().split('\n').join(' '), domains)
  assert.match(file('postfix/vmailbox'), /^ann@Shop\.example Shop\.example\/ann\/$/m)
  const user = /^ann@Shop\.example:\{PLAIN\}x:5000:5000::\S+\/ann::userdb_a=1 userdb_quota\S+=(\S+:)?10M /m
  assert.match(file('dovecot/userdb'), user)
})

for (const [what, changes, expected, never = /@[A-Z0-9_]+@/] of [
  [
    'sizes, protocols, formats and names of the environment',
    {
      environment: {
        ...{ POSTFIX_MESSAGE_SIZE_LIMIT: '2000000', POSTFIX_MAILBOX_SIZE_LIMIT: '5000000', PERMIT_DOCKER: 'none' },
        ...{ OVERRIDE_HOSTNAME: 'mx.tests.example', ENABLE_POP3: '0', DOVECOT_MAILBOX_FORMAT: 'mdbox' },
      },
    },
    [
      /^message_size_limit = 2000000$/m,
      /^inet_protocols = ipv4$/m,
      /^virtual_transport = lmtp:unix:\/srv\/mail\/run\/lmtp$/m,
      /^myhostname = mx\.tests\.example$/m,
      /^mynetworks = 127\.0\.0\.0\/8 \[::1\]\/128$/m,
      /^protocols = imap lmtp$/m,
      /^mail_(location|driver) = mdbox/m,
      /storage(_size)? ?= ?5000000B/,
      /mail_size = 3000000B/,
      /2525\/inet\/smtpd_tls_security_level = none/,
    ],
  ],
  [
    'no TLS and no quotas',
    { environment: { SSL_TYPE: '', ENABLE_QUOTAS: '0' } },
    [
      /^smtpd_tls_security_level = none$/m,
      /2465\/inet\/smtpd_tls_wrappermode = no/,
      /inet_listener pop3s \{\s+port = 0/,
      /^ssl = no$/m,
    ],
    /ssl_(server_)?(cert|key)|^[ a-z_]*quota|2587.inet.smtpd_tls_security_level/m,
  ],
  [
    'no logins',
    { environment: { SMTP_ONLY: '1' } },
    [/^smtpd_sasl_auth_enable = no$/m, /2587\/inet\/smtpd_sasl_auth_enable = no/],
    /^protocols/m,
  ],
  [
    'an IPv6 address, and port 465 by its old name',
    {
      settings: { bindAddress: '::1', host: '::1' },
      files: { 'postfix-master.cf': 'smtps/inet/syslog_name=postfix/old\n' },
    },
    [/^\[::1\]:2525\/inet/m, /^inet_protocols = all$/m, /^listen = ::1$/m, /:2465\/inet\/syslog_name = postfix\/old/],
  ],
] as [string, Changes, RegExp[], RegExp?][]) {
  test(`${what}: what the daemons are told`, async () => {
    const { ask, file } = await made(changes)
    const told = [ask('-n'), ask('-P'), file('dovecot/dovecot.conf')].join('\n')
    for (const pattern of expected) assert.match(told, pattern)
    assert.doesNotMatch(told, never)
  })
}

test('a wrong value of the environment file is a usage error that names variable and value', async () => {
  for (const [variable, value] of [
    ['DOVECOT_MAILBOX_FORMAT', 'mbox'],
    ['POSTFIX_MESSAGE_SIZE_LIMIT', '10M'],
    ['OVERRIDE_HOSTNAME', 'nodomain'],
    ['SSL_TYPE', 'letsencrypt'],
  ] as const) {
    const message = new RegExp(`^development-mail-server\\.env: ${variable}=${value} should be `)
    await assert.rejects(made({ environment: { [variable]: value } }), { exit: 'usage', message })
  }
})

test('a program that reads nothing of its input, or is not there, is an exit code and no crash', async () => {
  const { $, input } = await import('../scripts/lib/server/shell.ts')
  const text = input('x'.repeat(1_000_000))
  assert.deepEqual([(await $(text)`true`).exitCode, (await $(text)`no-such-program`).exitCode], [0, 127])
})
