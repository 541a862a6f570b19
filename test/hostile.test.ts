/**
 * Clients that mean harm, or cannot do better: the server stays up, stays honest and keeps to its folder. In npm test with
 * a part of the connections; `npm run test:hostile` has all.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { BAR, FOO, readAccounts, VIRTUAL_DOMAIN } from '../scripts/lib/accounts/accounts.ts'
import { mailboxOf } from '../scripts/lib/server/native_configuration.ts'
import { messagesOf, subjectsOf } from './deliveries.ts'
import { type Project, QUICK, startedProject, until } from './harness.ts'
import { runIn } from './here.ts'
import { filesBelow, listensOn, mastersOf, ofProcesses } from './instance.ts'
import { ENTRANCES, logIn } from './logins.ts'
import { RawClient, REPLY } from './raw_client.ts'

const MB = 1_048_576
/**
 * Connections that stop talking, on SMTP and on POP3: more than the 100 processes of a kind that Postfix and Dovecot allow
 * by default. Connections that guess, three times each.
 */
const HALF_OPEN = QUICK ? 120 : 500
const GUESSING = QUICK ? 9 : 34

let project: Project
let masters: number[]
/** Stands in the name of every file that somebody tries to make. */
const token = randomUUID().slice(0, 8)
/** Stands in every password. */
const secret = randomUUID().slice(0, 8)
const base64 = (text: string) => Buffer.from(text).toString('base64')

before(async () => {
  project = await startedProject()
  masters = mastersOf(project)
})
after(() => project?.remove())

/** An SMTP session behind EHLO. */
async function smtp(port = project.ports.smtp): Promise<RawClient> {
  const client = await RawClient.open(port, REPLY.smtp)
  await client.say('EHLO client.example', REPLY.smtp)
  return client
}

/** An SMTP session that waits for the message's bytes. */
async function inData(to: string, lineEnd = '\r\n'): Promise<RawClient> {
  const client = await smtp()
  for (const command of ['MAIL FROM:<customer@shop.example>', `RCPT TO:<${to}>`, 'DATA']) {
    client.write(`${command}${lineEnd}`)
    assert.match(await client.reads(REPLY.smtp), /^[23]/, command)
  }
  return client
}

async function pop3(user: string, password: string): Promise<RawClient> {
  const client = await RawClient.open(project.ports.pop3, REPLY.pop3)
  for (const command of [`USER ${user}`, `PASS ${password}`]) {
    assert.match(await client.say(command, REPLY.pop3), /^\+OK/, command)
  }
  return client
}

/** The subjects of an account's messages that begin with `prefix`. */
async function subjects(account: string, prefix: string): Promise<string[]> {
  return subjectsOf(await messagesOf(project, account)).filter((subject) => subject.startsWith(prefix))
}

/** The lines of the mail log that match, from a number of lines on. */
function logged(pattern: RegExp, begin = 0): string[] {
  const lines = readFileSync(join(project.stateDir, 'log/mail.log'), 'utf8').split('\n')
  return lines.slice(begin).filter((line) => pattern.test(line))
}

/** A user sends a mail and looks into a mailbox: where nobody has a process left for one, that does not end. */
async function userIsServed(): Promise<void> {
  const sender = await inData(BAR)
  assert.match(await sender.say('Subject: user\r\n\r\nx\r\n.', REPLY.smtp), /^250/)
  sender.close()
  const reader = await pop3(BAR, 'foo')
  assert.match(await reader.say('STAT', REPLY.pop3), /^\+OK/)
  reader.close()
}

describe('SMTP smuggling', () => {
  const ENDS = [
    ...['\n.\n', '\n.\r\n', '\r\n.\n', '\r.\r', '\r\n.\r', '\r.\r\n', '\n.\r', '\r.\n', '\n\r.\r\n', '\r\n.\r\r\n'],
    ...['\r\r\n.\r\r\n', '\r\n\0.\r\n', '\r\n.\0\r\n', '\r\n. \r\n', '\r\n\t.\r\n', '\n.\0\n', '\x85.\x85'],
  ]

  test('only <CR><LF>.<CR><LF> ends a message', async () => {
    const smuggled = `MAIL FROM:<smuggled@evil.example>\r\nRCPT TO:<${FOO}>\r\nDATA\r\nSubject: smuggled\r\n\r\nx`
    await Promise.all(
      ENDS.map(async (end, index) => {
        const client = await inData(BAR)
        client.write(`Subject: honest ${index}\r\n\r\nbefore${end}${smuggled}\r\n.\r\nQUIT\r\n`)
        assert.match(await client.ends(), /^250 2\.0\.0 Ok: queued as \w+\r\n221 .*\r\n$/, JSON.stringify(end))
      }),
    )
    await until('all honest messages', async () => (await subjects(BAR, 'honest')).length >= ENDS.length)
    assert.deepEqual(await subjects(BAR, 'honest'), ENDS.map((_, index) => `honest ${index}`).sort())
    assert.deepEqual(await subjects(FOO, 'smuggled'), [])
    assert.deepEqual(logged(/from=<smuggled@/), [])
  })

  test('commands and lines of a message may end in <LF> alone, and arrive with <CR><LF>', async () => {
    const client = await inData(BAR, '\n')
    client.write('Subject: sloppy\n\none\n..two\n\r\n.\r\nQUIT\n')
    assert.match(await client.ends(), /^250 [^\n]*\n221 /)
    const message = await until('the message', async () =>
      (await messagesOf(project, BAR)).find((source) => source.includes('Subject: sloppy')),
    )
    assert.match(message, /\r\n\r\none\r\n\.two\r\n\r\n$/)
  })
})

describe('lines of 100 MB', () => {
  const CHUNK = Buffer.alloc(65_536, 'x')
  const flood = (client: RawClient) => client.flood(CHUNK, (100 * MB) / CHUNK.length)

  test('as a message: 552; as an SMTP command: 500, and the next command is obeyed, or no more of the line', async () => {
    for (const [client, line, reply] of [
      [await inData(BAR), '\r\n.', /^552 5\.3\.4 /],
      [await smtp(), '', /^500 5\.5\.2 /],
    ] as const) {
      await flood(client)
      const said = await client.say(line, REPLY.smtp)
      assert.match(said, reply)
      // Postfix 3.10 takes the rest of a command for further ones, and hangs up after twenty.
      const isTold = client.isClosed && (said.match(/^500 /gm) ?? []).length >= 10
      if (!isTold) assert.match(await client.say('NOOP', REPLY.smtp), /^250 /)
      client.close()
    }
  })

  test('as a command of POP3 and of IMAP, before and behind the login: the server hangs up', async () => {
    for (const client of [
      await RawClient.open(project.ports.pop3, REPLY.pop3),
      await RawClient.open(project.ports.imap, REPLY.imap),
      await pop3(FOO, 'foo'),
    ]) {
      await flood(client)
      client.write('\r\n')
      await client.ends()
    }
    const client = await RawClient.open(project.ports.imap, REPLY.imap)
    assert.match(await client.say(`a LOGIN ${FOO} foo`, REPLY.imap), /^a OK/m)
    assert.match(await client.say(`b APPEND INBOX {${100 * MB}}`, REPLY.imap), /^b NO/)
    await flood(client)
    assert.match(await client.say('', /^(\* BYE|\S+ BAD) .*\r\n/m), /too long|too big/i)
    client.close()
  })

  test('none of the daemons has kept one in memory', () => {
    // One that has just ended has no line of memory any more.
    const lines = ofProcesses(project, 'status').flatMap((text) => /^VmHWM:\s+(\d+) kB$/m.exec(text)?.[1] ?? [])
    const peaks = lines.map((kilobytes) => Number(kilobytes) / 1024)
    assert.ok(peaks.length > 5)
    assert.ok(Math.max(...peaks) < 60, `${Math.max(...peaks)} MB`)
  })
})

describe('addresses that name files and commands', () => {
  /** Would be made by a command that runs, or by a file that is opened to deliver. */
  const marker = `/tmp/${token}-made`
  const LOCALS = [
    ...['../../', '../../../../../../../../tmp/', '/tmp/', './', '~root/', '..\\..\\'].map((path) => path + token),
    ...'../../etc/passwd . .. / ~ ~root \\root \\daemon * %s%n $(touch) -f \\'.split(' '),
    ...['', ' ', ...[`|touch`, `|"touch`, ';touch', '`touch'].map((command) => `${command} ${marker}`)],
    ...[`|{touch,${marker}}`, `:include:${marker}`, ':include:/etc/passwd', `x+../../${token}`, `bar+../../${token}`],
    ...[`bar+|touch ${marker}`, 'a%b@c', 'a!b', '@a,@b:c', 'x'.repeat(900), '../'.repeat(300)],
  ]
  const OTHERS = ['@development-mail-server.example.com', '@localhost', '']
  const DOMAINS = [`@${VIRTUAL_DOMAIN}`, '@gmail.com', ...(QUICK ? [] : OTHERS)]
  const FOREIGN = ['../../x', `/tmp/${token}`, '..', '[../..]', `|touch ${marker}`, '[127.0.0.1]']
  const quoted = (local: string) => `"${local.replace(/["\\]/g, '\\$&')}"`
  const ADDRESSES = [
    ...DOMAINS.flatMap((domain) => LOCALS.flatMap((local) => [local + domain, quoted(local) + domain])),
    ...FOREIGN.map((domain) => `foo@${domain}`),
  ]
  const accepted: string[] = []
  let files: string[]
  /** All but what mail is written to. */
  const filesElsewhere = () => [
    // Dovecot 2.4's processes make sockets for doveadm while they live: run/srv.pop3/PID.
    ...filesBelow(project.dir, ['node_modules', 'state/mail', 'state/queue']).filter((name) => !/\/srv\.\w/.test(name)),
    // Programs that other tests run put their hidden files into the home folder meanwhile.
    ...['/', '/root', '/home'].flatMap((dir) => readdirSync(dir)).filter((name) => !name.startsWith('.')),
    // Where local(8) writes the mail of Unix users: also a file that was there must not grow.
    ...readdirSync('/var/mail').map((name) => `/var/mail/${name}: ${statSync(`/var/mail/${name}`).size} bytes`),
  ]

  /** Sends a mail from an address to itself, or from nobody where it is refused as the sender. */
  async function mailTo(client: RawClient, address: string): Promise<void> {
    const from = await client.say(`MAIL FROM:<${address}>`, REPLY.smtp)
    assert.match(from, /^(250|5\d\d) /, address)
    if (!from.startsWith('250')) await client.say('MAIL FROM:<>', REPLY.smtp)
    const to = await client.say(`RCPT TO:<${address}>`, REPLY.smtp)
    assert.match(to, /^(250|5\d\d) /, address)
    if (!to.startsWith('250')) return void (await client.say('RSET', REPLY.smtp))
    await client.say('DATA', REPLY.smtp)
    const subject = `path ${accepted.push(address)}`
    assert.match(await client.say(`Subject: ${subject}\r\n\r\nx\r\n.`, REPLY.smtp), /^250 /, address)
  }

  before(async () => {
    files = filesElsewhere()
    // A session becomes slow after ten errors.
    for (let begin = 0; begin < ADDRESSES.length; begin += 5) {
      const client = await smtp()
      for (const address of ADDRESSES.slice(begin, begin + 5)) await mailTo(client, address)
      client.close()
    }
  })

  test('are refused for good, or accepted and delivered into a mailbox', async () => {
    assert.ok(accepted.length > 50 && accepted.length < ADDRESSES.length, `${accepted.length} of ${ADDRESSES.length}`)
    const arrived = async () =>
      (await Promise.all(readAccounts().map(({ address }) => subjects(address, 'path ')))).flat()
    await until('all mail', async () => (await arrived()).length >= accepted.length)
    assert.deepEqual((await arrived()).sort(), accepted.map((_, index) => `path ${index + 1}`).sort())
  })

  test('make no file, run no command and open no mailbox of their own', () => {
    const made = filesElsewhere().filter((name) => !files.includes(name))
    assert.deepEqual([...made, ...readdirSync('/tmp').filter((name) => name.includes(token))], [])
    const below = filesBelow(join(project.stateDir, 'mail'), [])
    const mailboxes = readAccounts().map(({ address }) => mailboxOf(address))
    const wrong = below.filter((name) => {
      const [domain, user, ...rest] = name.split('/')
      const isOurs = !user || mailboxes.includes(`${domain}/${user}`)
      return !isOurs || (rest.length > 0 && (name.includes(token) || /touch|include|passwd/.test(name)))
    })
    assert.ok(below.length > 0)
    assert.deepEqual(wrong, [])
  })
})

// They wait most of their time: the server delays whoever makes errors.
describe('guessing and asking for too much', { concurrency: true }, () => {
  const ATTEMPTS = 3

  for (const service of ['smtp', 'submission', 'pop3', 'imap'] as const) {
    test(`${GUESSING * ATTEMPTS} wrong passwords at ${service} are refused, each by itself`, async () => {
      const kind = service === 'submission' ? 'smtp' : service
      await Promise.all(
        Array.from({ length: GUESSING }, async (_, connection) => {
          const client = await RawClient.open(project.ports[service], REPLY[kind])
          if (kind === 'smtp') await client.say('EHLO guess.example', REPLY.smtp)
          for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
            const guess = `${secret}-guess-${connection}-${attempt}`
            if (kind === 'pop3') await client.say(`USER ${FOO}`, REPLY.pop3)
            const [command, refusal] = {
              smtp: [`AUTH PLAIN ${base64(`\0${FOO}\0${guess}`)}`, /^535 5\.7\.8 /] as const,
              pop3: [`PASS ${guess}`, /^-ERR \[AUTH\]/] as const,
              imap: [`a LOGIN ${FOO} ${guess}`, /^a NO \[AUTHENTICATIONFAILED\]/] as const,
            }[kind]
            assert.match(await client.say(command, REPLY[kind]), refusal)
          }
          client.close()
        }),
      )
    })
  }

  test('a message has 1,000 recipients, and 452 is the answer to the next one', async () => {
    const client = await smtp()
    const recipients = Array.from({ length: 1_001 }, (_, index) => `RCPT TO:<u${index}@many.example>\r\n`)
    client.write(`MAIL FROM:<>\r\n${recipients.join('')}RSET\r\n`)
    const replies = (await client.reads(/^250 2\.0\.0 Ok\r\n/m)).split('\r\n')
    assert.deepEqual(replies.slice(1, 1_001), Array(1_000).fill('250 2.1.5 Ok'))
    assert.match(replies[1_001] ?? '', /^452 4\.5\.3 /)
    client.close()
  })

  after(userIsServed)
})

test(`${HALF_OPEN} half-open connections on SMTP and on POP3: a user is served beside them`, async () => {
  const clients: RawClient[] = []
  /** Connections that stop talking, each as one of `halves` says: what it sends, and the answer that it still reads. */
  const halfOpen = async (port: number, halves: [string, RegExp][]) => {
    // A few at a time: Postfix starts its smtpd one behind the other, and how long 500 take is the machine's matter.
    for (let opened = 0; opened < HALF_OPEN; opened += 20) {
      await Promise.all(
        Array.from({ length: 20 }, async (_, index) => {
          const client = new RawClient(port)
          clients.push(client)
          await client.reads(/\r\n/)
          const [words, answer] = halves[index % halves.length] as [string, RegExp]
          client.write(words)
          await client.reads(answer)
        }),
      )
    }
  }
  try {
    await halfOpen(project.ports.smtp, [
      ['', /^/],
      ['EHLO half', /^/],
      [`EHLO x.example\r\nMAIL FROM:<>\r\nRCPT TO:<${BAR}>\r\nDATA\r\nSubject: half\r\n\r\nx`, /^354 /m],
      ['EHLO x.example\r\nAUTH LOGIN\r\n', /^334 /m],
    ])
    await halfOpen(project.ports.pop3, [
      ['', /^/],
      ['USE', /^/],
      [`USER ${FOO}\r\nPASS fo`, /^\+OK/],
      ['AUTH PLAIN\r\n', /^\+ /m],
    ])
    await userIsServed()
    const memory = ofProcesses(project, 'smaps_rollup').map((text) => Number(/^Pss:\s+(\d+) kB$/m.exec(text)?.[1]))
    const megabytes = Math.round(memory.reduce((sum, kilobytes) => sum + kilobytes, 0) / 1024)
    assert.equal(clients.filter((client) => client.isClosed).length, 0)
    assert.ok(megabytes < 100 + 4 * HALF_OPEN, `${megabytes} MB`)
  } finally {
    for (const client of clients) client.close()
  }
})

test('no password is in a file of the state folder, in what the scripts say, or in the processes of the daemons', async () => {
  const user = `secretive@${VIRTUAL_DOMAIN}`
  const [right, wrong] = [`${secret}-right`, `${secret}-wrong`]
  /** What a text may show of a password: itself, and its base64 behind any number of bytes, without the ends. */
  const traces = [
    secret,
    ...[0, 1, 2].map((offset) => {
      const [begin, end] = [Math.ceil((offset * 8) / 6), Math.floor(((offset + secret.length) * 8) / 6)]
      return base64('\0'.repeat(offset) + secret).slice(begin, end)
    }),
  ]
  const assertClean = (what: string, text: string) => {
    for (const trace of traces) assert.ok(!text.includes(trace), `${what} shows ${trace}`)
  }
  for (const prefix of ['', '\0', '\0a', `\0${user}\0`, `${user}\0${user}\0`]) {
    assert.throws(() => assertClean('AUTH', `AUTH PLAIN ${base64(prefix + right)}`), /AUTH shows/)
  }

  let spoken = ''
  for (const [expected, password, script, ...args] of [
    [0, right, 'add_account', user],
    [0, right, 'send_email', '--user', user, '--to', BAR, '--verbose'],
    [5, wrong, 'send_email', '--user', user, '--to', BAR, '--verbose'],
    [5, wrong, 'pop_email', '--user', user, '--list'],
  ] as const) {
    const { code, stdout, stderr } = await runIn(project, { input: password }, script, ...args, '--password-stdin')
    spoken += `${stdout}${stderr}`
    assert.equal(code, expected, stderr)
  }
  await Promise.all(
    ENTRANCES.flatMap(([service, tls]) => [
      logIn(project, service, tls, { user, password: right }),
      assert.rejects(logIn(project, service, tls, { user, password: wrong }), `${service} ${tls}`),
    ]),
  )
  assert.match(spoken, /AUTH/)
  assertClean('a script', spoken)
  const files = filesBelow(project.stateDir, ['mail']).map((name) => join(project.stateDir, name))
  assert.ok(files.some((path) => path.endsWith('log/mail.log')))
  assert.ok(logged(/: (Login|Logged in): user=<secretive@/).length > 0)
  for (const path of files) if (statSync(path).isFile()) assertClean(path, readFileSync(path, 'latin1'))
  const texts = [...ofProcesses(project, 'cmdline'), ...ofProcesses(project, 'environ')]
  assert.ok(texts.length > 10)
  assertClean('a daemon', texts.join())
})

test('all ports listen on loopback alone', () => {
  const addresses = listensOn(project)
  const ports = addresses.map((address) => Number.parseInt(address.split(':')[1] ?? '', 16))
  assert.deepEqual(new Set(ports), new Set(Object.values(project.ports)))
  for (const address of addresses) assert.match(address, /^0100007F:/)
})

test('the files that hold password hashes and keys are for their owners', () => {
  const secrets = /\{(SHA512-CRYPT|PLAIN)\}|\$6\$|PRIVATE KEY/
  const found = filesBelow(project.stateDir, ['mail', 'queue'])
    .map((name) => join(project.stateDir, name))
    .filter((path) => statSync(path).isFile() && secrets.test(readFileSync(path, 'latin1')))
  assert.ok(found.length >= 4, found.join())
  for (const path of found) {
    const { mode, uid } = statSync(path)
    assert.equal(uid, 0, path)
    assert.equal(mode & 0o037, 0, path)
  }
})

test('after all of it the daemons are the same, mail arrives, half a message does not, and the log is clean', async () => {
  assert.deepEqual(mastersOf(project), masters)
  // Dovecot 2.4 calls a login "killed" that sent a line too long.
  const ended = logged(/\b(panic|fatal|segmentation|segfault|killed|core dumped)\b|signal \d/i)
  const unexplained = ended.filter((line) => !line.includes('Input buffer full'))
  assert.deepEqual(unexplained, [])
  // No byte that a terminal would obey.
  assert.deepEqual(logged(/[\0-\x08\x0b-\x1f\x7f]/), [])
  const { code, stdout } = await runIn(project, {}, 'doctor')
  assert.equal(code, 0, stdout)
  assert.deepEqual(await subjects(BAR, 'half'), [])
})
