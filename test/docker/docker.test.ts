/**
 * The same server as a container: docker-mailserver, run by Compose. Needs a Docker engine with Compose and the image,
 * which the test does not pull. DMS_VERSION chooses the release.
 */
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { appendFileSync, readdirSync, readFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { createTransport } from 'nodemailer'
import { encrypt } from 'unixcrypt'
import { BAR, CATCHALL, FOO } from '../../scripts/lib/accounts/accounts.ts'
import type { Result } from '../../scripts/lib/doctor/check.ts'
import { DockerEngine } from '../../scripts/lib/server/docker.ts'
import { greetingOf } from '../../scripts/lib/server/proof.ts'
import { CONFIG_DIR, CONTAINER, readSettings } from '../../scripts/lib/settings.ts'
import {
  DELIVERIES,
  type Delivered,
  deliverAll,
  messagesOf,
  nodemailerOptions,
  send,
  subjectsOf,
} from '../deliveries.ts'
import { Project, until } from '../harness.ts'
import { logIn } from '../logins.ts'
import { RawClient, REPLY } from '../raw_client.ts'

const host = '127.0.0.1'
const image = `mailserver/docker-mailserver:${readSettings().dmsVersion}`
/** Milliseconds for what stops a container on its way: docker-mailserver takes 16 seconds to stop. */
const CHANGE = 180_000

/** Runs docker in a folder; gives what it wrote to stdout, throws with what it wrote to stderr. */
async function docker(project: Project | undefined, ...args: string[]): Promise<string> {
  const options = { cwd: project?.dir, env: project?.env, timeout: CHANGE }
  return (await promisify(execFile)('docker', args, options)).stdout.trim()
}

/** Why these tests cannot run here; undefined when they can. */
async function obstacle(): Promise<string | undefined> {
  const problem = await DockerEngine.problem()
  if (problem) return problem
  const there = await docker(undefined, 'image', 'inspect', image).catch(() => undefined)
  return there ? undefined : `the image ${image} is not there. Get it: docker pull ${image}`
}

const reason = await obstacle()
if (reason) console.log(`The container is not tested: ${reason}`)

describe(image, { skip: reason ?? false }, () => {
  let project: Project
  let delivered: Map<string, Delivered>

  /** Runs a script; throws with its words when it does not end with 0. */
  async function run(script: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await project.run(script, ...args)
    assert.equal(code, 0, `${script}: ${stdout}${stderr}`)
    return stdout + stderr
  }
  const inspect = (format: string) => docker(project, 'container', 'inspect', '--format', format, CONTAINER)
  const health = () => inspect('{{.State.Health.Status}}')
  const status = async () => JSON.parse((await project.run('status', '--json')).stdout)
  const subjects = async (address: string) => subjectsOf(await messagesOf(project, address))

  before(async () => {
    const existing = await docker(undefined, 'container', 'ls', '--all', '--quiet', '--filter', `name=^/${CONTAINER}$`)
    if (existing) throw new Error(`A container ${CONTAINER} is there, which is not the test's. First: npm stop`)
    project = await Project.create()
    // Its own Compose project has its own volumes, so no mail of anybody else is touched.
    Object.assign(project.env, { MAIL_SERVER_ENGINE: 'docker', COMPOSE_PROJECT_NAME: 'development-mail-server-test' })
    await docker(project, 'compose', 'up', '--detach', '--wait')
    const recipients = DELIVERIES.map(({ to }) => to)
    delivered = await deliverAll(project, recipients)
  })
  after(async () => {
    if (!project) return
    await docker(project, 'compose', 'down', '--volumes')
    await project.remove()
  })

  test('docker compose up --wait alone gives a healthy server that greets on every port', async () => {
    assert.equal(await health(), 'healthy')
    assert.match(String(await greetingOf(host, project.ports.smtp)), /^220 development-mail-server\.example\.com /)
    assert.match(String(await greetingOf(host, project.ports.submission)), /^220 /)
    assert.match(String(await greetingOf(host, project.ports.pop3)), /^\+OK /)
    assert.match(String(await greetingOf(host, project.ports.imap)), /^\* OK .*STARTTLS/)
  })

  for (const { to, mailbox, refused } of DELIVERIES) {
    test(`mail to ${to} ${mailbox ? `ends in ${mailbox}` : 'is refused at RCPT'}`, () => {
      const { refusal, mailboxes = [] } = delivered.get(to) ?? {}
      if (refused) assert.match(String(refusal), refused)
      else assert.equal(refusal, undefined)
      assert.deepEqual(mailboxes, mailbox ? [mailbox] : [])
    })
  }

  test('the doctor finds nothing on the healthy container', async () => {
    const { code, stdout, stderr } = await project.run('doctor')
    assert.match(stdout, /^\d+ checks, all ok\n$/, stderr)
    assert.equal(code, 0)
  })

  test('docker-mailserver has changed no file of the configuration folder and added none', () => {
    // user-patches.sh puts the certificate there, for clients on this machine.
    const namesIn = (dir: string) => readdirSync(dir).filter((name) => name !== 'certificate.pem')
    const names = namesIn(CONFIG_DIR)
    assert.deepEqual(namesIn(project.config('.')), names)
    for (const name of names) {
      assert.equal(readFileSync(project.config(name), 'utf8'), readFileSync(`${CONFIG_DIR}/${name}`, 'utf8'), name)
    }
  })

  test('the inbox waits for mail in the container', async () => {
    const port = project.ports.smtp + 1
    const [program = '', ...args] = project.command('inbox')
    const env = { ...project.env, INBOX_PORT: String(port) }
    const inbox = spawn(program, args, { cwd: project.dir, env, stdio: 'ignore' })
    const url = `http://${host}:${port}/`
    try {
      await until('the inbox answers', () => fetch(url).catch(() => undefined), 30_000)
      const to = 'someone@inbox.example'
      await project.run('send_email', '--to', to, '--text', 'Your code is 482193')
      const mail = await (await fetch(`${url}api/v1/message/latest?query=to:${to}&wait=30`)).json()
      assert.deepEqual([mail.Code, mail.EnvelopeTo], ['482193', [to]])
    } finally {
      inbox.kill()
    }
  })

  test('npm start finds it running, whatever COMPOSE_FILE says, leaves it as it is, and sends the test mail', async () => {
    const id = await inspect('{{.Id}}')
    const env = { COMPOSE_FILE: '/nonexistent/compose.yml' }
    const { code, stdout } = await project.runWith({ env }, 'start')
    assert.equal(code, 0, stdout)
    assert.match(stdout, /runs already[\s\S]*read back over POP3 and deleted: \d+ ms/)
    assert.equal(await inspect('{{.Id}}'), id)
  })

  test('status, logs and reset reach the container', async () => {
    await until('an empty queue', async () => (await status()).queue === 0)
    const { engine, running, versions, accounts } = await status()
    assert.deepEqual([engine, running, accounts.length], ['docker', true, 4])
    assert.match(versions.dovecot, /^2\.[34]\./)
    assert.ok(accounts[0].inbox > 0)
    const { stdout } = await project.run('logs', '--lines', '5')
    assert.equal(stdout.trim().split('\n').length, 5)
    assert.match(await run('reset', '--yes'), /Deleted: \d+ messages in 4 mailboxes/)
    for (const { inbox, otherFolders } of (await status()).accounts) assert.deepEqual([inbox, otherFolders], [0, 0])
  })

  test('ports 25, 587 and 465 take a login, with every TLS mode that they offer', async () => {
    const { smtp, submission, submissions } = project.ports
    const ways = [
      { port: smtp, tls: 'none' },
      { port: submission, tls: 'none' },
      { port: submission, tls: 'starttls' },
      { port: submissions, tls: 'implicit' },
    ] as const
    const message = { from: FOO, to: BAR, text: 'x', headers: { 'X-Mailer': 'kept' } }
    for (const { port, tls } of ways) {
      const options = nodemailerOptions(port, tls, { user: FOO, password: 'foo' })
      await createTransport(options).sendMail({ ...message, subject: `${port} ${tls}` })
    }
    const sent = ways.map(({ port, tls }) => `${port} ${tls}`).sort()
    await until('all four', async () => (await subjects(BAR)).join() === sent.join())
    for (const source of await messagesOf(project, BAR)) assert.match(source, /^X-Mailer: kept/m)
  })

  test('what stands behind <LF>.<LF> in a message is no message of its own', async () => {
    for (const end of ['\n.\n', '\n.\r\n', '\r\n.\n']) {
      const client = await RawClient.open(project.ports.smtp, REPLY.smtp)
      for (const command of ['EHLO client.example', `MAIL FROM:<${FOO}>`, `RCPT TO:<${BAR}>`, 'DATA']) {
        assert.match(await client.say(command, REPLY.smtp), /^[23]/, command)
      }
      const behind = `MAIL FROM:<${FOO}>\r\nRCPT TO:<${BAR}>\r\nDATA\r\nSubject: smuggled\r\n\r\nx`
      client.write(`Subject: honest\r\n\r\nx${end}${behind}\r\n.\r\nQUIT\r\n`)
      assert.match(await client.ends(), /^250 /)
    }
    await until('the honest messages', async () => (await subjects(BAR)).filter((one) => one === 'honest').length === 3)
    await until('an empty queue', async () => (await status()).queue === 0)
    assert.ok(!(await subjects(BAR)).includes('smuggled'))
  })

  test('connections that nobody ends keep nobody out', async () => {
    const { smtp, pop3 } = project.ports
    const clients = await Promise.all(
      Array.from({ length: 150 }, () => [RawClient.open(smtp, REPLY.smtp), RawClient.open(pop3, REPLY.pop3)]).flat(),
    )
    try {
      assert.equal(await send(project.ports, BAR, 'beside them'), null)
      await until('the mail', async () => (await subjects(BAR)).includes('beside them'))
      assert.equal(clients.filter((client) => client.isClosed).length, 0)
    } finally {
      for (const client of clients) client.close()
    }
  })

  test('Dovecot takes every message that Postfix takes, and the catchall has no limit', async () => {
    const inside = (...command: string[]) => docker(project, 'container', 'exec', CONTAINER, ...command)
    const dovecot24 = /^2\.4/.test((await status()).versions.dovecot)
    const [name, limit] = dovecot24 ? ['quota_mail_size', '11240000 B'] : ['plugin/quota_max_mail_size', '11240000B']
    assert.equal((await inside('doveconf', '-h', name)).replaceAll(' ', ''), limit.replaceAll(' ', ''))
    assert.match(await inside('doveadm', '-f', 'tab', 'quota', 'get', '-u', CATCHALL), /\tSTORAGE\t\d+\t-\t/)
  })

  test('an application in another Compose project reaches it by its name', async () => {
    const network = 'development-mail-server-network'
    const greet = 'exec 3<>/dev/tcp/development-mail-server/25 && head -1 <&3'
    const args = ['run', '--rm', '--network', network, '--entrypoint', 'bash', image, '-c', greet]
    assert.match(await docker(project, ...args), /^220 /)
  })

  test('an account added to the file goes live by itself', async () => {
    const alice = 'alice@development-virtual.example.com'
    assert.match(String(await send(project.ports, alice, 'too early')), /550 5\.1\.1/)
    appendFileSync(project.config('postfix-accounts.cf'), `${alice}|{SHA512-CRYPT}${encrypt('secret')}\n`)
    // Releases up to 10 restart Postfix and Dovecot.
    const accepted = async () => (await send(project.ports, alice, 'hello').catch(() => 'restarting')) === null
    await until('mail accepted', accepted, 60_000)
    await until('mail read', async () => (await subjects(alice).catch((): string[] => [])).includes('hello'), 60_000)
    await logIn(project, 'pop3', 'none', { user: alice, password: 'secret' })
  })

  test('no service of Postfix leads out, and mail keeps its envelope recipient', async () => {
    const services = await docker(project, 'container', 'exec', CONTAINER, 'postconf', '-M')
    assert.doesNotMatch(services, /^(smtp|relay) +unix/m)
    const source = (await messagesOf(project, CATCHALL)).at(-1) ?? ''
    assert.match(source + (delivered.get('someone@gmail.com')?.source ?? ''), /^X-Original-To: someone@gmail\.com\r$/m)
  })

  test('the certificate that clients have to trust lies on this machine, and its path is told', async () => {
    const { certificate } = await status()
    assert.match(await run('status'), new RegExp(`Certificate to trust: ${certificate}`))
    const ca = readFileSync(certificate)
    const options = { host: 'localhost', port: project.ports.submission, requireTLS: true, tls: { ca } }
    await createTransport({ ...options, auth: { user: FOO, pass: 'foo' } }).verify()
  })

  test('a changed environment file makes the container anew, and npm start says so', async () => {
    appendFileSync(project.path('development-mail-server.env'), 'TZ=Asia/Tokyo\n')
    const live = async (env = {}) => (await project.runWith({ env }, 'doctor', '--only', 'live')).stdout
    assert.match(await live(), /made with another TZ\s+than/)
    assert.match(await run('start'), /is up again after/)
    assert.match(await live({ BIND_ADDRESS: '127.0.0.2' }), /has other\s+ports/)
  })

  test('a paused container is told, and npm start lets it go on', async () => {
    await docker(project, 'pause', CONTAINER)
    assert.match((await project.run('status')).stdout, /The container is paused\. Mend it: npm start/)
    assert.match(await run('start'), /runs already/)
  })

  test('with Dovecot stopped it is unhealthy and half a server, and npm start mends it', async () => {
    await docker(project, 'exec', CONTAINER, 'supervisorctl', 'stop', 'dovecot')
    const { code, stdout } = await project.run('status')
    assert.deepEqual([code, /and dovecot in it does not\. Mend it: npm start/.test(stdout)], [1, true], stdout)
    await until('unhealthy', async () => (await health()) === 'unhealthy', 60_000)
    assert.match(await run('start'), /is up again after/)
    assert.equal((await project.run('status')).code, 0)
  })

  const STANDSTILLS: [what: string, breaks: string, level: string, said: RegExp][] = [
    ['Dovecot is stopped', `exec ${CONTAINER} supervisorctl stop dovecot`, 'failure', /^Dovecot is stopped/],
    ['Postfix is stopped', `exec ${CONTAINER} supervisorctl stop postfix`, 'failure', /^Postfix is stopped/],
    ['the container is paused', `pause ${CONTAINER}`, 'failure', /is paused/],
  ]
  for (const [what, breaks, level, said] of STANDSTILLS) {
    test(`the doctor says once that ${what}, and what it says to type heals it`, async () => {
      const troubles = async () => {
        const { results } = JSON.parse((await project.run('doctor', '--json')).stdout)
        return (results as Result[]).filter(({ level }) => level === 'failure' || level === 'warning')
      }
      await docker(project, ...breaks.split(' '))
      const [first, ...others] = await troubles()
      const fix = (first?.fix ?? '').split(' ').slice(1)
      await docker(project, ...fix)
      assert.deepEqual([first?.check, first?.level, others], ['processes', level, []])
      assert.match(first?.evidence ?? '', said)
      await until('no trouble left', async () => (await troubles()).length === 0, 60_000)
    })
  }

  test('a changed postfix-main.cf takes effect at the next npm start', async () => {
    appendFileSync(project.config('postfix-main.cf'), 'smtpd_banner = changed ESMTP\n')
    assert.match(await run('start'), /postfix-main\.cf: changed/)
    assert.equal(await greetingOf(host, project.ports.smtp), '220 changed ESMTP')
  })

  test('it stops by itself within the grace period, and mail survives that and a new container', async () => {
    assert.equal(await send(project.ports, FOO, 'survivor'), null)
    await until('the survivor', async () => (await subjects(FOO)).includes('survivor'))
    await docker(project, 'stop', CONTAINER)
    const [code] = (await inspect('{{.State.ExitCode}} {{.State.OOMKilled}}')).split(' ')
    assert.notEqual(code, '137', 'Docker had to kill it')
    assert.match(await run('start'), /is up after/)
    assert.ok((await subjects(FOO)).includes('survivor'))
    assert.match(await run('stop'), /is stopped/)
    assert.match(await run('stop'), /was not running/)
    assert.equal((await project.run('status')).code, 1)
    assert.match(await run('start'), /is up after/)
    assert.ok((await subjects(FOO)).includes('survivor'))
  })
})
