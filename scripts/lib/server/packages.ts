/** Debian's packages of Postfix and Dovecot, which the native engine runs: what is missing, and its installation by apt. */
import { existsSync } from 'node:fs'
import { Failure, step } from '../cli.ts'
import { becomeRoot } from './root.ts'
import { $, input } from './shell.ts'

const PACKAGES = ['postfix', 'postfix-pcre', 'dovecot-core', 'dovecot-imapd', 'dovecot-pop3d', 'dovecot-lmtpd']
/** dpkg-query's own variables: state, then name. */
const DPKG_LINE = '$' + '{db:Status-Abbrev}$' + '{Package}\\n'

/** The Debian packages that the native engine needs and that are not installed. */
export async function missingPackages(): Promise<string[]> {
  // "ii " in front: wanted and installed.
  const { stdout } = await $`dpkg-query --show --showformat=${DPKG_LINE} ${PACKAGES}`
  return PACKAGES.filter((name) => !stdout.includes(`ii ${name}\n`))
}

/** Installs what is missing of Postfix and Dovecot by apt, and starts no service of the distribution. */
export async function installPackages(): Promise<void> {
  const missing = await missingPackages()
  if (missing.length > 0) {
    await becomeRoot()
    await step(`Installing ${missing.join(', ')}`, (update) => install(missing, update))
  }
  const { stdout: version } = await $`dovecot --version`
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10))
  if (major > 2 || minor > 3) throw tooNew(version.trim())
}

function tooNew(version: string): Failure {
  return new Failure(
    'failed',
    `Dovecot ${version}: the configuration is for Dovecot 2.3 (Debian 12). Use Docker here: MAIL_SERVER_ENGINE=docker npm start`,
  )
}

async function install(missing: string[], update: (title: string) => void): Promise<void> {
  // RUNLEVEL=1: maintainer scripts start no service in single-user mode.
  const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
  const apt = $({ env: environment, timeout: 600_000 })
  const candidate = async () =>
    /Candidate: (?:\d+:)?(\d[^\s+]*)/.exec((await $`apt-cache policy dovecot-core`).stdout)?.[1]
  if (!(await candidate())) {
    update('Fetching the package lists')
    await apt`apt-get -q update`
  }
  const version = await candidate()
  if (version && !/^2\.[0-3]\./.test(version)) throw tooNew(version)
  if (missing.includes('postfix')) {
    // Without a configuration of its own, Debian's Postfix stays quiet at the next boot too.
    const selection = 'postfix postfix/main_mailer_type select No configuration'
    await apt(input(selection))`debconf-set-selections`
  }
  const run = () => apt`apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 install ${missing}`
  update(`Installing ${missing.join(', ')}`)
  let result = await run()
  if (result.exitCode !== 0) {
    // Lists older than the archive name versions that are gone.
    update('Fetching the package lists')
    await apt`apt-get -q update`
    update(`Installing ${missing.join(', ')}`)
    result = await run()
  }
  if (result.exitCode !== 0) {
    throw new Failure('failed', `apt-get install ${missing.join(' ')} failed:\n${result.stderr.trim().slice(-2000)}`)
  }
  const services = ['postfix', 'dovecot'].filter((name) => missing.some((missed) => missed.startsWith(name)))
  if (existsSync('/run/systemd/system')) await $`systemctl disable --quiet ${services}`
}
