/**
 * How fast send_email sends, beside Postfix's own smtp-source: both send 1,000 mails of 2 kB over 10 connections to the
 * same server, in turns, each to an idle one.
 */
import { spawnSync } from 'node:child_process'
import { cpus } from 'node:os'
import { print, run, step, table } from '../scripts/lib/cli.ts'
import { startedProject, until } from './harness.ts'

const MAILS = 1_000
const BYTES = 2_048
const CONNECTIONS = 10
const ROUNDS = 3

await run(async () => {
  const project = await startedProject()
  const rates: { sendEmail: number; smtpSource: number }[] = []
  try {
    const text = `${'x'.repeat(70)}\n`.repeat(BYTES / 71)
    for (let round = 1; round <= ROUNDS; round++) {
      await step(`Round ${round} of ${ROUNDS}`, async () => {
        await untilIdle()
        const options = ['--count', String(MAILS), '--concurrency', String(CONNECTIONS), '--text', text]
        const { stdout, stderr } = await project.run('send_email', ...options, '--to', 'b@example.com')
        const rate = /([\d.]+) messages per second/.exec(stdout)?.[1]
        if (!rate) throw new Error(`send_email: ${stdout}${stderr}`)
        await untilIdle()
        const begin = performance.now()
        const command = [
          '-s',
          CONNECTIONS,
          '-d',
          '-m',
          MAILS,
          '-l',
          BYTES,
          '-f',
          'a@example.com',
          '-t',
          'b@example.com',
        ]
        const { status } = spawnSync('smtp-source', [...command.map(String), `127.0.0.1:${project.ports.smtp}`])
        if (status !== 0) throw new Error(`smtp-source ended with ${status}`)
        rates.push({ sendEmail: Number(rate), smtpSource: MAILS / ((performance.now() - begin) / 1000) })
      })
    }
  } finally {
    await project.remove()
  }

  async function untilIdle() {
    await until(
      'an empty queue',
      () => spawnSync('postqueue', ['-c', queueConfig(), '-j']).stdout.length === 0,
      120_000,
    )
  }
  function queueConfig() {
    return project.path('state', 'postfix')
  }

  const { model = 'unknown', speed } = cpus()[0] ?? {}
  print(`${MAILS} mails of ${BYTES} bytes over ${CONNECTIONS} connections; ${cpus().length} x ${model} ${speed} MHz`)
  const line = ({ sendEmail, smtpSource }: (typeof rates)[number]) => {
    return [sendEmail.toFixed(0), smtpSource.toFixed(0), (sendEmail / smtpSource).toFixed(2)]
  }
  print(table([['send_email/s', 'smtp-source/s', 'ratio'], ...rates.map(line)]))
})
