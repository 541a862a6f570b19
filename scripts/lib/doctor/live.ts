import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseAccounts } from '../accounts/accounts.ts'
import type { Engine } from '../server/engine.ts'
import { CONTAINER } from '../settings.ts'
import { type Check, EXPLAINS, type Finding, failure, ok, Skipped, verdict } from './check.ts'
import { CONFIG, type Facts, inConfig } from './facts.ts'
import { program } from './program.ts'
import { MAIN_CF } from './rules_postfix.ts'

const live: Check = {
  name: 'live',
  title: 'The running server is the one that the files describe',
  async run(facts) {
    const engine = await facts.server()
    return engine.name === 'native' ? liveNative(facts) : liveDocker(facts, engine)
  },
}

/** npm start would change the files in the state folder that differ from what it makes now. */
async function liveNative(facts: Facts): Promise<Finding[]> {
  if (await facts.isLive()) return [ok('no file was written since it was started')]
  const { folder, refusal } = await facts.made()
  if (refusal) throw new Skipped('npm start refuses the files, see "start"')
  const { stateDir } = facts.settings()
  const parts = ['config', 'postfix', 'dovecot']
  const namesIn = (dir: string) =>
    parts.flatMap((part) =>
      existsSync(join(dir, part))
        ? (readdirSync(join(dir, part), { recursive: true }) as string[]).map((name) => join(part, name))
        : [],
    )
  const generated = /^postfix\/(aliases|.*\.db|.*lock|prng_exch)|~$|\.tmp$|\.lock$/
  const names = [...new Set([...namesIn(folder), ...namesIn(stateDir).filter((name) => name.startsWith('config/'))])]
  const changed = names.filter(
    (name) => !generated.test(name) && textOf(join(folder, name)) !== textOf(join(stateDir, name)),
  )
  if (changed.length === 0) return [ok(`${names.length} files are as npm start would make them`)]
  const own = changed
    .filter((name) => name.startsWith('config/'))
    .map((name) => `${CONFIG}/${name.slice('config/'.length)}`)
  const evidence =
    own.length > 0
      ? `${own.join(', ')}: changed since the server read it`
      : `not as the files say: ${changed.map((name) => differenceOf(join(stateDir, name), join(folder, name)) ?? `${stateDir}/${name}`).join(', ')}`
  const explains = [...EXPLAINS.answers.filter((name) => name !== 'live'), 'way-out']
  return [failure(evidence, 'npm start', { explains })]
}

/** A file's text; postconf(1) writes the lines of main.cf in no order. */
function textOf(path: string): string | undefined {
  try {
    const text = readFileSync(path, 'utf8')
    // And this machine's networks come and go.
    return path.endsWith('/main.cf')
      ? text
          .split('\n')
          .filter((line) => !line.startsWith('mynetworks ='))
          .sort()
          .join('\n')
      : text
  } catch {
    return undefined
  }
}

/** The first setting that differs, where it can be told without showing a secret. */
function differenceOf(is: string, should: string): string | undefined {
  if (!is.endsWith('main.cf')) return undefined
  const right = (textOf(should) ?? '').split('\n')
  const wrong = (textOf(is) ?? '').split('\n').find((line) => !right.includes(line))
  return wrong === undefined ? undefined : `${is}: ${wrong}`
}

async function liveDocker(facts: Facts, engine: Engine): Promise<Finding[]> {
  const problems: Finding[] = []
  const set = facts.parameters(MAIN_CF)
  const is = await facts.running(...[...set.keys()].filter((name) => name !== 'smtpd_sasl_auth_enable'))
  const plain = (value: string) => value.replace(/\s+/g, ' ').trim()
  for (const [name, { value }] of is) {
    const right = set.get(name)?.value
    if (right !== undefined && plain(right) !== plain(value))
      problems.push(
        failure(`the running Postfix has ${name} = ${value}, and ${MAIN_CF} says ${right}`, 'npm start', {
          explains: EXPLAINS.mail,
        }),
      )
  }
  const userdb = (await engine.readFile('/etc/dovecot/userdb')) ?? ''
  for (const { address, hash } of parseAccounts(
    facts.read(inConfig('postfix-accounts.cf')) ?? '',
    undefined,
    () => {},
  )) {
    if (userdb === '' || userdb.includes(`${address}:${hash}:`)) continue
    problems.push(
      failure(
        `the running server has another password for ${address}, or no such account, than ${inConfig('postfix-accounts.cf')}`,
        'npm stop && npm start',
        { explains: ['logins', ...EXPLAINS.mail] },
      ),
    )
  }
  const { stdout } = await program(['docker', 'container', 'inspect', '--format', '{{json .Config.Env}}', CONTAINER])
  const env: string[] = stdout.startsWith('[') ? JSON.parse(stdout) : []
  const other = Object.entries(facts.environment()).find(
    ([name, value]) =>
      env.length > 0 && env.some((line) => line.startsWith(`${name}=`)) && !env.includes(`${name}=${value}`),
  )
  if (other)
    problems.push(
      failure(`the container was made with another ${other[0]} than ${other[0]}=${other[1]} now`, 'npm start'),
    )
  return verdict(problems, `${is.size} parameters, the accounts and the environment are those of the files`)
}

export const liveChecks: Check[] = [live]
