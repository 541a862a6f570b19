/** Real clients, as their users write them. Those that are not installed are skipped; apt-get has all of them. */
import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { CATCHALL, FOO } from '../scripts/lib/accounts/accounts.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import { CLIENTS, type Client } from './clients.ts'
import { messagesOf, originalRecipient, subjectsOf, type Where } from './deliveries.ts'
import { type Project, startedProject, until } from './harness.ts'

/** Milliseconds for a client to send a mail. */
const PATIENCE = 30_000
/** What a provider hands out, with characters that have to be escaped somewhere. */
const PROVIDERS = ['apikey', "SG.a+b/c=d'e"]

let project: Project
let where: Where

before(async () => {
  project = await startedProject()
  where = { host: '127.0.0.1', ports: project.ports }
})
after(() => project?.remove())

/** Why a client cannot run here; false when it can. */
function obstacle({ name, command, probe }: Client): string | false {
  try {
    const [program = '', ...args] = command
    execFileSync(program, [...args, probe], { cwd: ROOT, stdio: 'pipe', timeout: PATIENCE })
    return false
  } catch {
    return `${name} is not installed`
  }
}

/**
 * Sends a mail and gives the protocol that Postfix has noted; throws with the client's words. `trust` is whether the
 * server's certificate is to be trusted.
 */
async function send(client: Client, program: string, port: number, trust: boolean, login: string[]): Promise<string> {
  const subject = `${client.name} ${randomUUID()}`
  const to = 'someone@gmail.com'
  const [command = '', ...args] = client.command
  const certificate = join(project.stateDir, 'tls/certificate.pem')
  const { NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, SSL_CERT_DIR, ...env } = process.env
  const trusted = trust ? { NODE_EXTRA_CA_CERTS: certificate, SSL_CERT_FILE: certificate } : {}
  const options = { cwd: ROOT, env: { ...env, ...trusted }, timeout: PATIENCE }
  // PHP takes what stands behind "--" as the program's.
  const own = command === 'php' ? ['--'] : []
  await promisify(execFile)(command, [...args, program, ...own, 'localhost', `${port}`, to, subject, ...login], options)
  const source = await until(`"${subject}"`, async () =>
    (await messagesOf(where, CATCHALL)).find((each) => subjectsOf([each])[0] === subject),
  )
  assert.equal(originalRecipient(source), to)
  return /^\s*by .* \(Postfix\) with (\w+)/m.exec(source)?.[1] ?? ''
}

for (const client of CLIENTS) {
  const skip = obstacle(client)
  if (skip) console.log(`A client is not tested: ${skip}`)
  describe(client.name, { skip }, () => {
    const { program, implicitTls } = client
    for (const [what, protocol, text, service, trust, login] of [
      ['sends on port 25', 'ESMTP', program, 'smtp', false, []],
      ['logs in on port 25', 'ESMTPA', program, 'smtp', false, [FOO, 'foo']],
      ["logs in with a provider's key on port 25", 'ESMTPA', program, 'smtp', false, PROVIDERS],
      ['turns to STARTTLS on port 587 with the certificate trusted', 'ESMTPSA', program, 'submission', true, PROVIDERS],
      ['logs in on port 465 with the certificate trusted', 'ESMTPSA', implicitTls, 'submissions', true, PROVIDERS],
    ] as const) {
      test(what, async () => {
        assert.equal(await send(client, text, project.ports[service], trust, [...login]), protocol)
      })
    }
    // Else the two tests above would say nothing about the certificate.
    test('refuses the certificate on port 465 where it is not trusted', () =>
      assert.rejects(send(client, implicitTls, project.ports.submissions, false, PROVIDERS), /certificate|SSL|TLS/i))
  })
}
