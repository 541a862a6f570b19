/** What the configurations of both daemons share: the state folder's parts, the input, names and TLS files. */
import { Failure } from '../cli.ts'
import { HOSTNAME, type ServiceName } from '../settings.ts'

/** The state folder's parts. Each daemon writes only into its own. */
export const LAYOUT = {
  /** Copy of the configuration folder with paths mapped (/tmp/docker-mailserver). */
  config: 'config',
  /** Postfix's config_directory (/etc/postfix). */
  postfix: 'postfix',
  /** Dovecot's configuration and its userdb (/etc/dovecot). */
  dovecot: 'dovecot',
  /** Mailboxes, <domain>/<user> (/var/mail). */
  mail: 'mail',
  /** Postfix's queue_directory. */
  queue: 'queue',
  /** Postfix's data_directory: caches, the tlsmgr's entropy. */
  data: 'data',
  /** Dovecot's base_dir with its sockets (/var/run/dovecot). */
  run: 'run',
  /** Dovecot's state_dir. */
  state: 'state',
  log: 'log/mail.log',
  key: 'tls/key.pem',
  certificate: 'tls/certificate.pem',
} as const

/** The uid and gid that own all mail, as in docker-mailserver. They need no name on this machine. */
export const VMAIL_ID = 5000

export interface NativeInput {
  /** The state folder, absolute. */
  stateDir: string
  bindAddress: string
  ports: Record<ServiceName, number>
  /** `development-mail-server.env`. */
  environment: Record<string, string>
  /** The text of a file of the configuration folder; undefined where there is none. */
  file: (name: string) => string | undefined
  /** The networks of this machine's interfaces as CIDR blocks, loopback left out. */
  networks: string[]
}

/**
 * Maps the container's paths in a text onto the state folder, line by line as it was.
 */
export function mapPaths(text: string, stateDir: string): string {
  const paths: Record<string, string> = {
    '/tmp/docker-mailserver': LAYOUT.config,
    '/etc/aliases': `${LAYOUT.postfix}/aliases`,
    '/etc/postfix': LAYOUT.postfix,
    '/etc/dovecot': LAYOUT.dovecot,
    '/var/run/dovecot': LAYOUT.run,
    '/run/dovecot': LAYOUT.run,
    '/var/spool/postfix': LAYOUT.queue,
    '/var/mail': LAYOUT.mail,
    '/var/log/mail': 'log',
  }
  const containerPath = new RegExp(`(?<![\\w./-])(?:${Object.keys(paths).join('|')})(?![\\w.-])`, 'g')
  return text.replace(containerPath, (path) => `${stateDir}/${paths[path]}`)
}

/** Where an account's mail lies below the mail folder: `domain/user`. */
export function mailboxOf(address: string): string {
  const at = address.lastIndexOf('@')
  return `${address.slice(at + 1)}/${address.slice(0, at)}`
}

export function hostnameOf({ environment }: NativeInput): string {
  return environment.OVERRIDE_HOSTNAME || HOSTNAME
}

/** docker-mailserver's domain name: the host name without its first label, or all of it where that leaves one label. */
export function domainOf(input: NativeInput): string {
  const labels = hostnameOf(input).split('.')
  return labels.length > 2 ? labels.slice(1).join('.') : labels.join('.')
}

export interface TlsFiles {
  key: string
  certificate: string
  /** For smtpd_tls_chain_files: the key, then the certificate. */
  chain: string
}

/** Where key and certificate lie, by docker-mailserver's rules for SSL_TYPE; undefined where TLS is off. */
export function tlsFiles(input: NativeInput): TlsFiles | undefined {
  const { environment, stateDir } = input
  const pair = (key: string, certificate: string) => ({ key, certificate, chain: `${key} ${certificate}` })
  const ssl = `${stateDir}/${LAYOUT.config}/ssl/${hostnameOf(input)}`
  switch (environment.SSL_TYPE || '') {
    case '':
      return undefined
    case 'snakeoil':
      return pair(`${stateDir}/${LAYOUT.key}`, `${stateDir}/${LAYOUT.certificate}`)
    case 'self-signed':
      return pair(`${ssl}-key.pem`, `${ssl}-cert.pem`)
    case 'custom':
      return { key: `${ssl}-full.pem`, certificate: `${ssl}-full.pem`, chain: `${ssl}-full.pem` }
    case 'manual':
      return pair(
        mapPaths(environment.SSL_KEY_PATH ?? '', stateDir),
        mapPaths(environment.SSL_CERT_PATH ?? '', stateDir),
      )
    default:
      throw new Failure(
        'failed',
        `development-mail-server.env: SSL_TYPE=${environment.SSL_TYPE} is not for the native engine. Use snakeoil, self-signed, custom, manual, or nothing for no TLS.`,
      )
  }
}
