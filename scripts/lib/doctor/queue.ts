import { type Check, type Finding, failure, ok, verdict, warning } from './check.ts'
import type { Facts } from './facts.ts'
import { ANSWER } from './program.ts'
import { causeIn, explained } from './rules_log.ts'
import { answering } from './server.ts'
import { Unexpected } from './talk.ts'

interface Queued {
  queue_name: string
  queue_id: string
  sender: string
  recipients: { address: string; delay_reason?: string }[]
}

export async function queueOf(facts: Facts): Promise<Queued[]> {
  const engine = await facts.server()
  const { stdout, stderr, exitCode } = await engine.exec(['postqueue', '-j'], { timeout: ANSWER })
  if (exitCode !== 0) throw new Unexpected(`postqueue -j: ${stderr.trim() || 'no answer'}`)
  return stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Queued)
}

const queue: Check = {
  name: 'queue',
  title: 'No mail is stuck in the queue',
  async run(facts) {
    const engine = await answering(facts)
    const flows = (await Promise.all(facts.mailFlows.values())).every((isOk) => isOk)
    const { stateDir } = facts.settings()
    const command = (program: string, ...args: string[]) =>
      (engine.name === 'docker'
        ? ['docker', 'exec', 'development-mail-server', program, ...args]
        : [program, '-c', `${stateDir}/postfix`, ...args]
      ).join(' ')
    return queueFindings(await queueOf(facts), flows, command)
  },
}

/** Judges what waits in the queue. `flows`: whether mail arrives now, so that another try helps. */
export function queueFindings(
  mails: readonly Queued[],
  flows: boolean,
  command: (...words: [string, ...string[]]) => string,
): Finding[] {
  const problems = new Map<string, { mails: Queued[]; address: string }>()
  for (const mail of mails.filter(({ queue_name }) => queue_name === 'deferred' || queue_name === 'hold')) {
    const { address = '', delay_reason } = mail.recipients.find((one) => one.delay_reason) ?? mail.recipients[0] ?? {}
    const reason = mail.queue_name === 'hold' ? 'on hold' : (delay_reason ?? 'no reason given')
    const same = problems.get(reason)
    if (same) same.mails.push(mail)
    else problems.set(reason, { mails: [mail], address })
  }
  const findings = [...problems].map(([reason, { mails: stuck, address }]) => {
    const which =
      stuck.length === 1 ? `${stuck[0]?.queue_id} to ${address}` : `${stuck.length} mails, the first to ${address}`
    if (reason === 'on hold')
      return failure(
        `${which}: on hold, which nothing but this ends`,
        `${command('postsuper', '-H', 'ALL')} && ${command('postqueue', '-f')}`,
      )
    return failure(`waits: ${which}: ${explained(reason)}`, flows ? command('postqueue', '-f') : undefined)
  })
  return verdict(findings, mails.length === 0 ? 'empty' : `${mails.length} on their way`)
}

const log: Check = {
  name: 'log',
  title: 'The log says nothing that would explain a trouble',
  async run(facts) {
    const engine = await facts.engine()
    // What mail proves wrong is over, and what it does not, the other checks look up themselves.
    if (await facts.isRunning()) return [ok('the checks that fail look into it')]
    const lines = (await engine.logged()).filter((line) => line !== '')
    const cause = causeIn(lines)
    return cause ? [warning(`the log of the last start: ${cause}`)] : [ok(`${lines.length} lines since the last start`)]
  },
}

export const queueChecks: Check[] = [queue, log]
