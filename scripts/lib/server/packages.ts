/** Debian's packages of Postfix and Dovecot, which the native engine runs: what is missing, and its installation by apt. */
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { Failure, step } from '../cli.ts'
import { becomeRoot } from './root.ts'
import { $, input } from './shell.ts'

const PACKAGES = ['postfix', 'postfix-pcre', 'dovecot-core', 'dovecot-imapd', 'dovecot-pop3d', 'dovecot-lmtpd']
/** dpkg-query's own variables: state, then name. */
const DPKG_LINE = '$' + '{db:Status-Abbrev}$' + '{Package}\\n'
/** Asked by maintainer scripts before they start a service (invoke-rc.d(8), deb-systemd-invoke); 101 forbids it. */
const POLICY = '/usr/sbin/policy-rc.d'
/** Milliseconds for one run of apt-get over a slow line. */
const APT = 600_000

/** The Debian packages that the native engine needs and that are not installed. */
async function missingPackages(): Promise<string[]> {
  // "ii " in front: wanted and installed.
  const { stdout } = await $`dpkg-query --show --showformat=${DPKG_LINE} ${PACKAGES}`
  return PACKAGES.filter((name) => !stdout.includes(`ii ${name}\n`))
}

/** Installs what is missing of Postfix and Dovecot by apt, starts no service of the distribution and removes no package. */
export async function installPackages(): Promise<void> {
  const missing = await missingPackages()
  if (missing.length === 0) return
  await becomeRoot()
  const isOurs = !existsSync(POLICY)
  const remove = () => isOurs && rmSync(POLICY, { force: true })
  process.once('exit', remove)
  if (isOurs) writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    await step(`Installing ${missing.join(', ')}`, () => install(missing))
  } finally {
    remove()
    process.off('exit', remove)
  }
}

async function install(missing: string[]): Promise<void> {
  const apt = $({ env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' }, timeout: APT })
  const options = ['-q', '-y', '--no-install-recommends', '--no-remove', '-o', 'DPkg::Lock::Timeout=120']
  // Without a configuration of its own, Debian's Postfix stays quiet at the next boot too.
  const selection = 'postfix postfix/main_mailer_type select No configuration'
  if (missing.includes('postfix')) await apt(input(selection))`debconf-set-selections`
  let result = await apt`apt-get ${options} install ${missing}`
  const isForbidden = () => /remove is disabled/.test(result.stderr)
  if (result.exitCode !== 0 && !isForbidden()) {
    // No lists yet, or lists that name versions which the archive has no more.
    await apt`apt-get -q update`
    result = await apt`apt-get ${options} install ${missing}`
  }
  const command = `apt-get install ${missing.join(' ')}`
  if (isForbidden()) {
    const [, others = 'another mail server'] = /REMOVED:\s+(.*)/.exec(result.stdout) ?? []
    const fact = `Debian allows one mail server, and Postfix would remove ${others.trim()}`
    const docker = 'MAIL_SERVER_ENGINE=docker npm start'
    throw new Failure('failed', `${fact}. If that is fine, type: sudo ${command}. If not, use Docker: ${docker}`)
  }
  if (result.exitCode !== 0) {
    const reason = result.stderr.trim().slice(-2000)
    throw new Failure('failed', `${command} failed:\n${reason}\nMend that, then: npm start`)
  }
  const services = ['postfix', 'dovecot'].filter((name) => missing.some((missed) => missed.startsWith(name)))
  if (existsSync('/run/systemd/system')) await $`systemctl disable --quiet ${services}`
}
