/** The commands of the README, typed as there: by npm and npx, and run by tsx. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { after, before, describe, test } from 'node:test'
import { Project, processesOf } from './harness.ts'

describe('the commands of the README, in the order of a first evening', () => {
  let project: Project
  before(async () => {
    project = await Project.create()
  })
  after(() => project.remove())

  /** Types a command at a shell; gives its stdout and its exit status. */
  function type(command: string): Promise<{ code: number | null; output: string }> {
    return new Promise((resolve, reject) => {
      const child = spawn('sh', ['-c', command], { cwd: project.dir, env: project.env, timeout: 60_000 })
      let output = ''
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
      child.once('error', reject)
      child.once('close', (code) => resolve({ code, output }))
      child.stdin.end()
    })
  }

  for (const [command, expected] of [
    ['npm start', /The mail server is up after .*A test mail from foo to bar/s],
    ['npm run status', /bar@development-virtual\.example\.com/],
    ['npx tsx scripts/send_email.ts', /^Reply: +250 2\.0\.0 Ok: queued as/m],
    ['npx tsx scripts/pop_email.ts --wait 10', /^バーさん、こんにちは。/m],
    ['npm run add-account -- alice@development-virtual.example.com secret', /it can log in and receives mail/],
    ['npm run logs -- --lines 5', /postfix|dovecot|lmtp/],
    ['npm run doctor -- --only environment-names', /1 check, all ok/],
    ['npm run reset -- --yes', /deleted|reset/i],
    ['npm stop', /The mail server is stopped/],
  ] as const) {
    test(command, async () => {
      const { code, output } = await type(command)
      assert.equal(code, 0, output)
      assert.match(output, expected)
    })
  }

  test('nothing is left running', () => assert.equal(processesOf(project), ''))
})
