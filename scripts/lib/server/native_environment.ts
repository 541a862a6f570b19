/** What the environment file and the settings mean for the native engine: values of the base files, paths, TLS, and limits. */
import { isIPv6 } from 'node:net'
import { networkInterfaces } from 'node:os'
import { Failure } from '../cli.ts'
import {
  enabledProtocols,
  HOSTNAME,
  isSmtpOnly,
  readProjectFile,
  readServerEnvironment,
  type Settings,
} from '../settings.ts'

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
  const hostname = environment.OVERRIDE_HOSTNAME || HOSTNAME
  // docker-mailserver's rule: the host name without its first label, or all of it where that leaves one label.
  const domain = hostname.replace(/^[^.]+\.(?=[^.]+\.)/, '')
  const messageLimit = Number(environment.POSTFIX_MESSAGE_SIZE_LIMIT || 10_240_000)
  const mailboxLimit = Math.floor(Number(environment.POSTFIX_MAILBOX_SIZE_LIMIT || 0) / 1_000_000)
  const { imap, pop3 } = enabledProtocols(environment)
  const tls = tlsFiles(environment, stateDir, hostname)
  const values: Record<string, string | number> = {
    STATE: stateDir,
    HOSTNAME: hostname,
    DOMAIN: domain,
    BIND_ADDRESS: bindAddress,
    INET_PROTOCOLS: isIPv6(bindAddress) ? 'all' : environment.POSTFIX_INET_PROTOCOLS || 'all',
    SMTP: `${hostOf(bindAddress)}:${ports.smtp}`,
    SUBMISSION: `${hostOf(bindAddress)}:${ports.submission}`,
    SUBMISSIONS: `${hostOf(bindAddress)}:${ports.submissions}`,
    LOGINS: isSmtpOnly(environment) ? 'no' : 'yes',
    TLS: tls ? 'yes' : 'no',
    NETWORKS: trustedNetworks(environment),
    POSTMASTER_ADDRESS: environment.POSTMASTER_ADDRESS || `postmaster@${domain}`,
    DELIVERY: mapPaths(environment.POSTFIX_DAGENT || 'lmtp:unix:/var/run/dovecot/lmtp', stateDir),
    PROTOCOLS: [imap && 'imap', pop3 && 'pop3', 'lmtp'].filter(Boolean).join(' '),
    MAILBOX_FORMAT: environment.DOVECOT_MAILBOX_FORMAT || 'maildir',
    MESSAGE_SIZE: messageLimit,
    MAILBOX_SIZE: environment.POSTFIX_MAILBOX_SIZE_LIMIT || 0,
    // Room for the lines that are added on the way: what Postfix takes, Dovecot takes as well.
    MESSAGE_LIMIT: messageLimit > 0 ? `${messageLimit + 1_000_000}B` : 0,
    MAILBOX_LIMIT: mailboxLimit > 0 ? `${mailboxLimit}M` : 0,
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

/** Where key and certificate lie, by docker-mailserver's rules for SSL_TYPE; undefined where TLS is off. */
function tlsFiles(environment: Environment, stateDir: string, hostname: string): [string, string] | undefined {
  const ssl = `${stateDir}/config/ssl/${hostname}`
  const mapped = (path = '') => mapPaths(path, stateDir)
  const files: Record<string, [string, string] | undefined> = {
    '': undefined,
    snakeoil: [`${stateDir}/tls/key.pem`, `${stateDir}/tls/certificate.pem`],
    'self-signed': [`${ssl}-key.pem`, `${ssl}-cert.pem`],
    custom: [`${ssl}-full.pem`, `${ssl}-full.pem`],
    manual: [mapped(environment.SSL_KEY_PATH), mapped(environment.SSL_CERT_PATH)],
  }
  const type = environment.SSL_TYPE ?? ''
  if (Object.hasOwn(files, type)) return files[type]
  throw wrong('SSL_TYPE', environment, 'snakeoil, self-signed, custom, manual, or nothing for no TLS')
}

/** The certificate that clients have to trust; undefined where TLS is off. Throws a usage Failure for a wrong SSL_TYPE. */
export function certificateOf({ stateDir }: Settings): string | undefined {
  const environment = readServerEnvironment()
  return tlsFiles(environment, stateDir, environment.OVERRIDE_HOSTNAME || HOSTNAME)?.[1]
}

/** mynetworks by PERMIT_DOCKER. Loopback stands for the container itself; this machine's networks for Docker's. */
function trustedNetworks({ PERMIT_DOCKER = '' }: Environment): string {
  const interfaces = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  const outer = interfaces.filter(({ internal }) => !internal)
  const networks = outer.map(({ cidr }) => cidr?.replace(/^(.*:.*)\//, '[$1]/'))
  const isWide = /^(connected-networks|network|host)$/.test(PERMIT_DOCKER)
  return ['[::1]/128', ...(isWide ? new Set(networks) : [])].join(' ')
}

/** Variables that the native engine obeys. */
const HONOURED = `SMTP_ONLY ENABLE_POP3 ENABLE_IMAP ENABLE_QUOTAS ENABLE_POSTFIX_VIRTUAL_TRANSPORT SMTP_ANY_LOGIN
  POSTFIX_MESSAGE_SIZE_LIMIT POSTFIX_MAILBOX_SIZE_LIMIT POSTFIX_DAGENT POSTFIX_INET_PROTOCOLS DOVECOT_INET_PROTOCOLS
  DOVECOT_MAILBOX_FORMAT POSTMASTER_ADDRESS PERMIT_DOCKER OVERRIDE_HOSTNAME SSL_TYPE SSL_CERT_PATH SSL_KEY_PATH`

/** What the daemons would refuse, or only with a riddle in the log, unless it is like this. */
const VALUES: Record<string, readonly [RegExp, string]> = {
  POSTFIX_INET_PROTOCOLS: [/^(ipv4|all)$/, 'ipv4 or all'],
  DOVECOT_INET_PROTOCOLS: [/^(ipv4|all)$/, 'ipv4 or all'],
  OVERRIDE_HOSTNAME: [/^(?!-)[\w-]+(\.[\w-]+)+$/, 'a host name with its domain'],
  DOVECOT_MAILBOX_FORMAT: [/^(maildir|sdbox|mdbox)$/, 'maildir, sdbox or mdbox'],
  SMTP_ANY_LOGIN: [/^[01]$/, '0 or 1'],
  POSTFIX_MESSAGE_SIZE_LIMIT: [/^\d+$/, 'a number of bytes'],
  POSTFIX_MAILBOX_SIZE_LIMIT: [/^\d+$/, 'a number of bytes'],
}

/** Throws a usage Failure for a wrong value. */
export function checkValues(environment: Environment): void {
  for (const [name, [pattern, allowed]] of Object.entries(VALUES)) {
    if (environment[name] && !pattern.test(environment[name])) throw wrong(name, environment, allowed)
  }
}

function wrong(name: string, environment: Environment, allowed: string): Failure {
  return new Failure('usage', `development-mail-server.env: ${name}=${environment[name]} should be ${allowed}.`)
}

/** A line for the variables that the native engine cannot honour. */
export function noticesOf(environment: Environment): string[] {
  const unknown = Object.entries(environment)
    .filter(([name, value]) => !HONOURED.split(/\s+/).includes(name) && !['', '0', 'none'].includes(value))
    .map(([name, value]) => `${name}=${value}`)
  return unknown.length > 0
    ? [`development-mail-server.env: the native engine does without ${unknown.join(', ')}.`]
    : []
}
