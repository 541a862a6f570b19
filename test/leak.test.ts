/**
 * Nothing leaves: a server in a network namespace of its own, whose only ways out lead to a trap that answers for the
 * whole world, gets letters to the world. In npm test a few with the configuration as it is; `npm run test:leak` has all.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { CATCHALL } from '../scripts/lib/accounts/accounts.ts'
import { installPackages } from '../scripts/lib/server/packages.ts'
import { CONFIG_DIR, HOSTNAME } from '../scripts/lib/settings.ts'
import { Project, programOf, QUICK, until } from './harness.ts'
import { queueOf } from './instance.ts'
import { CONFIGURATION, type Expected, lettersToTheWorld } from './letters.ts'
import type { Errand, Posted } from './poster.ts'
import type { Counts } from './trap.ts'
import { HAS_IPV6, obstacle, World } from './world.ts'

/** Other letters by another seed: LEAK_SEED=2 npm run test:leak. */
const SEED = Number(process.env.LEAK_SEED || 1)
const LETTERS = QUICK ? 100 : 2_000
/** Milliseconds to post all letters, and to deliver them. */
const PATIENCE = 120_000
const MAIN = 'postfix-main.cf'
const TABLE = 'postfix-transport_maps'
const PATTERNS = 'postfix-regexp.cf'
const NOTHING: Counts = {
  packets: 0,
  dnsPackets: 0,
  questions: [],
  connections: { 25: 0, 465: 0, 587: 0, 24: 0, 2525: 0 },
  messages: [],
}

/** Looks names up and opens a connection to every mail port, over IPv4 and IPv6, at addresses that are nobody's. */
const EXPLORER = `
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:dns/promises'
import { connect } from 'node:net'
const names = []
for (const type of ['A', 'AAAA', 'MX', 'SRV']) names.push(await resolve('any.name.example', type))
const env = { ...process.env, RES_OPTIONS: 'use-vc' }
const [overTcp] = execFileSync('getent', ['ahostsv4', 'over.tcp.example'], { env, encoding: 'utf8' }).split(/\\s/)
const greetings = []
for (const host of process.argv.slice(1)) {
  for (const port of [25, 465, 587, 24, 2525]) {
    const socket = connect({ host, port })
    greetings.push(await once(socket, 'data').then(String, (error) => error.message))
    socket.destroy()
  }
}
console.log(JSON.stringify({ names, overTcp, greetings }))`

/** What the mailboxes have of a letter. */
interface Found {
  /** By mailbox. */
  copies: Record<string, number>
  /** The mailboxes that bounces lie in. */
  bounces: string[]
  /** Notifications of success. */
  notices: number
}

type Queue = Awaited<ReturnType<typeof queueOf>>

interface Outcome {
  letters: Expected[]
  posted: Map<string, Posted>
  /** By the id of the letter. */
  found: Map<string, Found>
  /** What reached the trap from before the start of the server until the queue was empty. */
  trapped: Counts
  /** What is left there, all of it tried. */
  queue: Queue
}

let world: World
let project: Project

describe('nothing leaves', { skip: obstacle() }, () => {
  before(async () => {
    // From inside a namespace no package can be fetched.
    await installPackages()
    world = await World.create()
    project = await Project.create()
    project.runner = world.runner
    for (const [name, lines] of Object.entries(CONFIGURATION)) {
      const file = project.config(name)
      writeFileSync(file, [existsSync(file) ? readFileSync(file, 'utf8') : '', ...lines, ''].join('\n'))
    }
  })
  after(async () => {
    try {
      await project?.remove()
    } finally {
      await world?.remove()
    }
  })

  test('the trap is the whole world: it answers for every name and every address', async () => {
    await world.news()
    const hosts = ['1.2.3.4', ...(HAS_IPV6 ? ['2606:4700::1111'] : [])]
    const { stdout } = await beside(process.execPath, '--input-type=module', '--eval', EXPLORER, ...hosts)
    const { connections, packets, questions } = await world.news()
    const each = hosts.length
    assert.deepEqual(JSON.parse(stdout), {
      names: [
        ['203.0.113.25'],
        ['2001:db8::25'],
        [{ exchange: 'trap.example', priority: 10 }],
        [{ name: 'trap.example', priority: 0, weight: 0, port: 587 }],
      ],
      overTcp: '203.0.113.25',
      greetings: Array(5 * each).fill('220 scripted ESMTP\r\n'),
    })
    assert.deepEqual(connections, { 25: each, 465: each, 587: each, 24: each, 2525: each })
    assert.ok(packets >= 2 * 5 * each, 'of every connection')
    assert.ok(questions.includes('MX any.name.example'))
  })

  test(`of ${LETTERS} letters to the world, and of what the server writes by itself`, async () => {
    const { letters, posted, found, trapped, queue } = await run('all', LETTERS)
    const lost = letters.filter((letter) => !isAccounted(letter, posted.get(letter.id), found.get(letter.id)))
    const told = lost
      .slice(0, 20)
      .map((letter) => ({ letter, posted: posted.get(letter.id), found: found.get(letter.id) }))
    assert.equal(lost.length, 0, JSON.stringify(told, null, 2))
    assert.deepEqual(trapped, NOTHING)
    assert.deepEqual(queue, [])
    const ofKind = (name: string) => letters.filter(({ kind }) => kind === name)
    assert.equal(ofKind('foreign').length, LETTERS)
    const isFull = ofKind('full mailbox').map(({ id }) => (found.get(id)?.bounces.length ?? 0) > 0)
    assert.ok(isFull.includes(true) && isFull.includes(false), 'a mailbox that some fit into, and not all')
  })

  describe('with less of a fence', { skip: QUICK && 'npm run test:leak takes the fence away' }, () => {
    test('by the base settings alone', async () => {
      for (const name of [MAIN, TABLE, PATTERNS, 'postfix-master.cf', 'postfix-virtual.cf']) change(name, /^[\s\S]*$/)
      const { letters, posted, found, trapped, queue } = await run('base', 60, false)
      assert.deepEqual(trapped, NOTHING)
      assert.deepEqual(queue, [])
      // The server's own name is a virtual mailbox domain, in which nobody else is known now.
      const isForeign = (to: string) => to.includes('@') && !to.endsWith(`@${HOSTNAME}`)
      const plain = letters.filter(
        ({ kind, id, to }) => kind === 'foreign' && to.every(isForeign) && !posted.get(id)?.refused.length,
      )
      assert.ok(plain.length > 40)
      const lost = plain.filter(({ id }) => !found.get(id)?.copies[CATCHALL])
      assert.deepEqual(lost, [])
    })

    test('with everything turned the wrong way, since there is no SMTP client; and it leaves as soon as there is one', async () => {
      change(PATTERNS, /^[^#][\s\S]*$/m)
      change(TABLE, /^[\s\S]*$/, '/^/ smtp:\n')
      change(MAIN, /^(default|relay)_transport = local$/gm, '$1_transport = smtp\nrelayhost = [1.2.3.4]')
      const { letters, trapped, queue } = await run('wrong', 60, false)
      assert.deepEqual(trapped, NOTHING)
      assert.ok(queue.length > 60 && JSON.stringify(queue).includes('mail transport unavailable'))

      const postfix = ['-c', join(project.stateDir, 'postfix')]
      const clients = ['smtp', 'relay'].map((name) => `${name}/unix=${name} unix - - n - - smtp`)
      await beside('postconf', ...postfix, '-M', ...clients)
      await beside('postfix', ...postfix, 'reload')
      await beside('postqueue', ...postfix, '-f')
      await emptied()
      const now = await world.news()
      assert.ok(now.packets > 0)
      assert.ok((now.connections[25] ?? 0) > 0)
      assert.ok(now.questions.some((question) => question.startsWith('MX ')))
      const ids = new Set(now.messages.map(idOf))
      assert.ok(letters.filter(({ id, kind }) => kind === 'foreign' && ids.has(id)).length > 50)
    })
  })
})

/** Runs a program beside the server. */
function beside(...command: string[]) {
  const [program = '', ...args] = [...project.runner, ...command]
  return promisify(execFile)(program, args, { timeout: PATIENCE, killSignal: 'SIGKILL', maxBuffer: 1e9 })
}

/** Puts a file of the configuration back, and takes something out of it, which has to be there. */
function change(name: string, what?: RegExp, by = ''): void {
  const original = readFileSync(join(CONFIG_DIR, name), 'utf8')
  if (what) assert.match(original, what)
  writeFileSync(project.config(name), what ? original.replace(what, by) : original)
}

/**
 * Starts the server, or brings its configuration into effect, posts the letters, and waits until the queue is empty. Where
 * `isFit` is false, the running server is not fit for use any more, and npm start says so.
 */
async function run(name: string, count: number, isFit = true): Promise<Outcome> {
  await world.news()
  const letters = lettersToTheWorld(name, count, SEED)
  if (isFit) await project.start()
  else assert.equal((await project.run('start')).code, 1)
  const posted = await post(letters)
  const queue = await emptied()
  return { letters, posted, queue, found: mailboxes(), trapped: await world.news() }
}

/** Whether that became of a letter which had to. */
function isAccounted(letter: Expected, posted: Posted | undefined, found: Found | undefined): boolean {
  const { copies, bounces, notices } = found ?? { copies: {}, bounces: [], notices: 0 }
  const refused = posted?.refused ?? []
  const isRefused = refused.length === letter.to.length && refused.every(({ reply }) => letter.refused?.test(reply))
  const isHere = Object.keys(copies).length > 0
  if (isRefused) return !isHere && bounces.length === 0
  if (!posted || refused.length > 0 || notices !== letter.notices) return false
  if (!isHere) return bounces.length === 1 && bounces[0] === letter.bounce
  const names = Object.keys({ ...copies, ...letter.copies })
  return bounces.length === 0 && names.every((name) => copies[name] === letter.copies?.[name])
}

async function post(letters: Expected[]): Promise<Map<string, Posted>> {
  const errand: Errand = { ports: project.ports, configuration: join(project.stateDir, 'postfix'), letters }
  const posting = beside(process.execPath, ...programOf('test/poster'))
  posting.child.stdin?.end(JSON.stringify(errand))
  const { stdout } = await posting
  return new Map((JSON.parse(stdout) as Posted[]).map((posted) => [posted.id, posted]))
}

/** Waits until all mail is delivered, or was tried and is put off; gives what is in the queue then. */
async function emptied(): Promise<Queue> {
  let queue: Queue = []
  const isTried = async () => {
    queue = await queueOf(project)
    return queue.every(({ queue_name }) => queue_name === 'deferred')
  }
  await until('an empty queue', isTried, PATIENCE)
  return queue
}

/** All mail on the disk, by the id of the letter that it is or that it is about. */
function mailboxes(): Map<string, Found> {
  const found = new Map<string, Found>()
  const root = join(project.stateDir, 'mail')
  for (const path of readdirSync(root, { recursive: true }) as string[]) {
    const [, domain, user] = /^([^/]+)\/([^/]+)\/(?:new|cur)\/./.exec(path) ?? []
    if (user) record(found, `${user}@${domain}`, readFileSync(join(root, path), 'latin1'))
  }
  return found
}

function record(found: Map<string, Found>, mailbox: string, message: string): void {
  const header = message.slice(0, message.indexOf('\n\n'))
  const id = idOf(message)
  const entry = found.get(id) ?? { copies: {}, bounces: [], notices: 0 }
  found.set(id, entry)
  if (!/^Content-Type: multipart\/report/m.test(header)) entry.copies[mailbox] = (entry.copies[mailbox] ?? 0) + 1
  else if (/^Action: failed$/m.test(message)) entry.bounces.push(mailbox)
  else entry.notices++
}

/** The id of the letter that a message is, or that a bounce or a notice is about. */
function idOf(message: string): string {
  return /^Subject: (letter-.*?)\r?$/m.exec(message)?.[1] ?? 'of none'
}
