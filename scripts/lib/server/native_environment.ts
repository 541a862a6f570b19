/** What the environment file and the settings mean for the native engine: values of the base files, paths, TLS, and limits. */
import { isIPv6 } from 'node:net'
import { CATCHALL } from '../accounts/accounts.ts'
import { Failure } from '../cli.ts'
import { enabledProtocols, HOSTNAME, isSmtpOnly, readProjectFile, type Settings } from '../settings.ts'

/** The variables of development-mail-server.env. */
export type Environment = Record<string, string>

/** Where the container's paths lie in the state folder. */
const PATHS: Record<string, string> = {
  '/tmp/docker-mailserver': 'config',
  '/etc/aliases': 'postfix/aliases',
  '/etc/postfix': 'postfix',
  '/etc/dovecot': 'dovecot',
  '/var/run/dovecot': 'run',
  '/run/dovecot': 'run',
  '/var/spool/postfix': 'queue',
  '/var/mail': 'mail',
  '/var/log/mail': 'log',
}
const CONTAINER_PATH = new RegExp(`(?<![\\w./-])(?:${Object.keys(PATHS).join('|')})(?![\\w.-])`, 'g')

/** Maps the container's paths in a text onto the state folder, each line where it was. */
export function mapPaths(text: string, stateDir: string): string {
  return text.replace(CONTAINER_PATH, (path) => `${stateDir}/${PATHS[path]}`)
}

/** An address as it stands in front of a port. */
export const hostOf = (address: string) => (isIPv6(address) ? `[${address}]` : address)

/** Fills the placeholders of a file of docker-data/native. */
export function base(name: string, settings: Settings, environment: Environment): string {
  const { stateDir, bindAddress, ports } = settings
  const [messageLimit, mailboxLimit] = [
    Number(environment.POSTFIX_MESSAGE_SIZE_LIMIT || 10_240_000),
    Number(environment.POSTFIX_MAILBOX_SIZE_LIMIT || 0),
  ]
  const { imap, pop3 } = enabledProtocols(environment)
  const tls = tlsFiles(environment, stateDir)
  const values: Record<string, string | number> = {
    STATE: stateDir,
    HOSTNAME: hostnameOf(environment),
    BIND_ADDRESS: bindAddress,
    INET_PROTOCOLS: isIPv6(bindAddress) ? 'all' : 'ipv4',
    SMTP: `${hostOf(bindAddress)}:${ports.smtp}`,
    SUBMISSION: `${hostOf(bindAddress)}:${ports.submission}`,
    SUBMISSIONS: `${hostOf(bindAddress)}:${ports.submissions}`,
    LOGINS: isSmtpOnly(environment) ? 'no' : 'yes',
    TLS: tls ? 'yes' : 'no',
    // Through Docker's network every client comes from a trusted one.
    NETWORKS: /^(connected-networks|network|host)$/.test(environment.PERMIT_DOCKER ?? '') ? '0.0.0.0/0 [::]/0' : '',
    POSTMASTER_ADDRESS: environment.POSTMASTER_ADDRESS || CATCHALL,
    PROTOCOLS: [imap && 'imap', pop3 && 'pop3', 'lmtp'].filter(Boolean).join(' '),
    MAILBOX_FORMAT: environment.DOVECOT_MAILBOX_FORMAT || 'maildir',
    MESSAGE_SIZE: messageLimit,
    // Room for the lines that are added on the way: what Postfix takes, Dovecot takes as well.
    MESSAGE_LIMIT: messageLimit > 0 ? `${messageLimit + 1_000_000}B` : 0,
    MAILBOX_LIMIT: mailboxLimit > 0 ? `${mailboxLimit}B` : 0,
    POP3_PORT: ports.pop3,
    POP3S_PORT: tls ? ports.pop3s : 0,
    IMAP_PORT: ports.imap,
    IMAPS_PORT: tls ? ports.imaps : 0,
    TLS_LEVEL: tls ? 'may' : 'none',
    TLS_KEY: tls?.[0] ?? '',
    TLS_CERTIFICATE: tls?.[1] ?? '',
    TLS_CHAIN: [...new Set(tls)].join(' '),
  }
  const text = readProjectFile('docker-data', 'native', name)
  return text.replace(/@([A-Z0-9_]+)@/g, (placeholder, key) => String(values[key] ?? placeholder))
}

/** The server's host name. */
export const hostnameOf = (environment: Environment) => environment.OVERRIDE_HOSTNAME || HOSTNAME

/** Where key and certificate lie, by docker-mailserver's rules for SSL_TYPE; undefined where TLS is off. */
export function tlsFiles(environment: Environment, stateDir: string): [string, string] | undefined {
  const ssl = `${stateDir}/config/ssl/${hostnameOf(environment)}`
  const mapped = (path = '') => mapPaths(path, stateDir)
  const files: Record<string, [string, string]> = {
    snakeoil: [`${stateDir}/tls/key.pem`, `${stateDir}/tls/certificate.pem`],
    'self-signed': [`${ssl}-key.pem`, `${ssl}-cert.pem`],
    custom: [`${ssl}-full.pem`, `${ssl}-full.pem`],
    manual: [mapped(environment.SSL_KEY_PATH), mapped(environment.SSL_CERT_PATH)],
  }
  return files[environment.SSL_TYPE ?? '']
}

/** What the daemons would refuse, or only with a riddle in the log, unless it is like this. */
const VALUES: [name: string, right: RegExp, words: string][] = [
  [
    'SSL_TYPE',
    /^(snakeoil|self-signed|custom|manual)$/,
    'snakeoil, self-signed, custom, manual, or nothing for no TLS',
  ],
  ['OVERRIDE_HOSTNAME', /^(?!-)[\w-]+(\.[\w-]+)+$/, 'a host name with its domain'],
  ['DOVECOT_MAILBOX_FORMAT', /^(maildir|sdbox|mdbox)$/, 'maildir, sdbox or mdbox'],
  ['SMTP_ANY_LOGIN', /^[01]$/, '0 or 1'],
  ['POSTFIX_MESSAGE_SIZE_LIMIT', /^\d+$/, 'a number of bytes'],
  ['POSTFIX_MAILBOX_SIZE_LIMIT', /^\d+$/, 'a number of bytes'],
]

/** Throws a usage Failure for a wrong value. */
export function checkValues(environment: Environment): void {
  for (const [name, right, words] of VALUES) {
    const value = environment[name]
    if (value && !right.test(value))
      throw new Failure('usage', `development-mail-server.env: ${name}=${value} should be ${words}.`)
  }
}
