import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statfsSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { CATCHALL } from '../scripts/lib/accounts/accounts.ts'
import { installPackages } from '../scripts/lib/server/packages.ts'
import { CONFIG_DIR, HOSTNAME, ROOT } from '../scripts/lib/settings.ts'
import { FOLDER, Project, QUICK, until } from './harness.ts'
import { CONFIGURATION, type Expected, lettersToTheWorld } from './letters.ts'
import type { Errand, Posted } from './poster.ts'
import type { Counts } from './trap.ts'
import { HAS_IPV6, obstacle, World } from './world.ts'

/** Other letters by another seed: LEAK_SEED=2 npm run test:leak. */
const SEED = Number(process.env.LEAK_SEED || 1)
/** In `npm test` a tenth of them. */
const LETTERS = QUICK ? 200 : 2_000
/** Milliseconds to post all letters, and to deliver them. */
const PATIENCE = 120_000
/** Bytes that a server with all letters needs, several times over. */
const ROOM = 100_000_000
const MAIN = 'postfix-main.cf'
const TABLE = 'postfix-transport_maps'
const PATTERNS = 'postfix-regexp.cf'

/** Looks names up and opens a connection to every mail port, over IPv4 and IPv6, at addresses that are nobody's. */
const EXPLORER = `
import { execFileSync } from 'node:child_process'
import { resolve } from 'node:dns/promises'
import { connect } from 'node:net'
const names = []
for (const type of ['A', 'AAAA', 'MX', 'SRV']) names.push(await resolve('any.name.example', type))
const env = { ...process.env, RES_OPTIONS: 'use-vc' }
const [overTcp] = execFileSync('getent', ['ahostsv4', 'over.tcp.example'], { env, encoding: 'utf8' }).split(/\\s/)
const greetings = []
for (const host of process.argv.slice(1)) {
  for (const port of [25, 465, 587, 24, 2525]) {
    greetings.push(await new Promise((resolve) => {
      const socket = connect({ host, port })
      socket.once('error', ({ message }) => resolve(message))
      socket.once('data', (data) => {
        resolve(data.toString().trim())
        socket.destroy()
      })
    }))
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

interface Outcome {
  letters: Expected[]
  posted: Map<string, Posted>
  /** By the id of the letter. */
  found: Map<string, Found>
  /** What reached the trap from before the start of the server until the queue was empty. */
  trapped: Counts
  /** What `postqueue -j` still lists, all of it tried. */
  queue: string
}

interface Own {
  world: World
  project: Project
}

const skip = obstacle()

// Each in a world of its own, since the counts are all that tells who sent something.
describe('nothing leaves', { skip, concurrency: 2 }, () => {
  // From inside a namespace no package can be fetched.
  before(() => installPackages())
  describe('with the configuration as it is', { concurrency: 1 }, asItIs)
  describe('with less of a fence', { concurrency: 1 }, withLess)
})

function asItIs(): void {
  const own = worldOfItsOwn()

  test(`nothing of ${LETTERS} letters to the world, nor of what the server writes by itself`, async (context) => {
    if (QUICK) context.diagnostic('200 letters to the world; 2,000 by npm run test:leak')
    const outcome = await run(own, 'all', LETTERS)
    assertNothingLeft(outcome)
    const ofKind = (name: string) => outcome.letters.filter(({ kind }) => kind === name)
    assert.equal(ofKind('foreign').length, LETTERS)
    const isFull = ofKind('full mailbox').map(({ id }) => (outcome.found.get(id)?.bounces.length ?? 0) > 0)
    assert.ok(isFull.includes(true) && isFull.includes(false), 'a mailbox that some fit into, and not all')
  })
}

function withLess(): void {
  const own = worldOfItsOwn()

  test('the trap is the whole world: it answers for every name and every address', async () => {
    const before = await own.world.counts()
    const hosts = ['1.2.3.4', ...(HAS_IPV6 ? ['2606:4700::1111'] : [])]
    const explorer = [process.execPath, '--input-type=module', '--eval', EXPLORER, ...hosts]
    const [program = '', ...command] = [...own.world.runner, ...explorer]
    const found = JSON.parse((await promisify(execFile)(program, command, { timeout: PATIENCE })).stdout)
    const { connections, packets, questions } = difference(before, await own.world.counts())
    assert.deepEqual(found.names, [
      ['203.0.113.25'],
      ['2001:db8::25'],
      [{ exchange: 'trap.example', priority: 10 }],
      [{ name: 'trap.example', priority: 0, weight: 0, port: 587 }],
    ])
    assert.equal(found.overTcp, '203.0.113.25')
    assert.deepEqual(found.greetings, Array(5 * hosts.length).fill('220 scripted ESMTP'))
    const each = hosts.length
    assert.deepEqual(connections, { 25: each, 465: each, 587: each, 24: each, 2525: each })
    assert.ok(packets >= 2 * 5 * each, 'of every connection')
    assert.ok(questions.includes('MX any.name.example'))
  })

  test('without the aliases that catch everything, by the table', async () => {
    change(own.project, PATTERNS, /^[^#][\s\S]*$/m)
    assertNothingCame(await run(own, 'table', 60))
  })

  test('without the table as well, by the defaults', async () => {
    change(own.project, MAIN, /^transport_maps = .*\n/m)
    assertNothingCame(await run(own, 'defaults', 60))
  })

  test('with a table that cannot be read', async () => {
    change(own.project, MAIN)
    change(own.project, TABLE, /^[\s\S]*$/, '/^(/ local:\nsmtp\n')
    assertNothingCame(await run(own, 'broken', 60))
  })

  test('by the base settings alone', async () => {
    for (const name of [MAIN, TABLE, PATTERNS, 'postfix-master.cf', 'postfix-virtual.cf'])
      change(own.project, name, /^[\s\S]*$/)
    const outcome = await run(own, 'base', 60, false)
    assertNothingCame(outcome)
    assert.equal(outcome.queue, '')
    // The server's own name is a virtual mailbox domain, in which nobody else is known now.
    const isForeign = (to: string) => to.includes('@') && !to.endsWith(`@${HOSTNAME}`)
    const plain = outcome.letters.filter(
      ({ kind, id, to }) => kind === 'foreign' && to.every(isForeign) && !outcome.posted.get(id)?.refused.length,
    )
    assert.ok(plain.length > 40)
    assert.deepEqual(
      plain.filter(({ id }) => !outcome.found.get(id)?.copies[CATCHALL]),
      [],
    )
  })

  test('with everything turned the wrong way, since there is no SMTP client; and it leaves as soon as there is one', async () => {
    change(own.project, PATTERNS, /^[^#][\s\S]*$/m)
    change(own.project, TABLE, /^[\s\S]*$/, '/^/ smtp:\n')
    change(own.project, MAIN, /^(default|relay)_transport = local$/gm, '$1_transport = smtp\nrelayhost = [1.2.3.4]')
    const before = await own.world.counts()
    const { letters, trapped, queue } = await run(own, 'wrong', 60, false)
    assertNothingCame({ trapped })
    const waiting = new Set(queue.trim().split('\n'))
    assert.ok(waiting.size > 60 && queue.includes('mail transport unavailable'), queue)

    const configuration = join(own.project.stateDir, 'postfix')
    const postfix = async (program: string, ...args: string[]) => {
      const [command = '', ...rest] = [...own.project.runner, program, '-c', configuration, ...args]
      await promisify(execFile)(command, rest, { timeout: PATIENCE })
    }
    await postfix('postconf', '-M', 'smtp/unix=smtp unix - - n - - smtp', 'relay/unix=relay unix - - n - - smtp')
    await postfix('postfix', 'reload')
    await postfix('postqueue', '-f')
    await emptied(own.project)
    const now = difference(before, await own.world.counts())
    assert.ok(now.packets > 0)
    assert.ok((now.connections[25] ?? 0) > 0)
    assert.ok(now.questions.some((question) => question.startsWith('MX ')))
    const ids = new Set(now.messages.map(idOf))
    assert.ok(letters.filter(({ id, kind }) => kind === 'foreign' && ids.has(id)).length > 50)
  })
}

/** Makes the world and the project of a suite, and removes them. */
function worldOfItsOwn(): Own {
  const own = {} as Own
  before(async () => {
    own.world = await World.create()
    own.project = await createProject(own.world)
  })
  after(async () => {
    try {
      await own.project?.remove()
    } finally {
      await own.world?.remove()
    }
  })
  return own
}

/** A project whose server is in the world and has all that leads abroad. */
async function createProject(world: World): Promise<Project> {
  const project = await Project.create(QUICK ? FOLDER : quickFolder())
  project.runner = world.runner
  for (const [name, lines] of Object.entries(CONFIGURATION)) {
    const file = project.config(name)
    writeFileSync(file, [existsSync(file) ? readFileSync(file, 'utf8') : '', ...lines, ''].join('\n'))
  }
  return project
}

/** In memory, where there is room: on a disk the queue's fsync(2) takes a third of the time. */
function quickFolder(): string {
  const folder = '/dev/shm'
  if (!existsSync(folder)) return tmpdir()
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize > ROOM ? folder : tmpdir()
}

/** Puts a file of the configuration back, and takes something out of it, which has to be there. */
function change(project: Project, name: string, what?: RegExp, by = ''): void {
  const original = readFileSync(join(CONFIG_DIR, name), 'utf8')
  if (what) assert.match(original, what)
  writeFileSync(project.config(name), what ? original.replace(what, by) : original)
}

/**
 * Starts the server, or brings its configuration into effect, posts the letters, and waits until the queue is empty. Where
 * `isFit` is false, the running server is not fit for use any more, and npm start says so.
 */
async function run({ world, project }: Own, name: string, count: number, isFit = true): Promise<Outcome> {
  const before = await world.counts()
  const letters = lettersToTheWorld(name, count, SEED)
  if (isFit) await project.start()
  else assert.equal((await project.run('start')).code, 1)
  const posted = await post(project, letters)
  const queue = await emptied(project)
  const found = mailboxes(project)
  return { letters, posted, queue, found, trapped: difference(before, await world.counts()) }
}

/** Everything is accounted for here, and nothing came to the trap. */
function assertNothingLeft(outcome: Outcome): void {
  const problems = unaccounted(outcome.letters, outcome.posted, outcome.found)
  assert.deepEqual(problems.slice(0, 20), [], `${problems.length} letters`)
  assertNothingCame(outcome)
  assert.equal(outcome.queue, '')
}

/** Not even a question. */
function assertNothingCame({ trapped }: Pick<Outcome, 'trapped'>): void {
  assert.deepEqual(trapped, {
    packets: 0,
    dnsPackets: 0,
    questions: [],
    connections: { 25: 0, 465: 0, 587: 0, 24: 0, 2525: 0 },
    messages: [],
  })
}

/** A line for each letter of which something else became than was expected. */
function unaccounted(letters: Expected[], posted: Map<string, Posted>, found: Map<string, Found>): string[] {
  return letters.flatMap((letter) => {
    const { id, from, to, via } = letter
    const result = posted.get(id)
    const here = found.get(id) ?? { copies: {}, bounces: [], notices: 0 }
    if (result && isAccounted(letter, result, here)) return []
    return [
      `${id} from <${from}> to ${to.map((each) => `<${each}>`)} by ${via}: ${JSON.stringify({ ...result, ...here })}`,
    ]
  })
}

function isAccounted(letter: Expected, { refused }: Posted, { copies, bounces, notices }: Found): boolean {
  const isRefused = refused.length === letter.to.length && refused.every(({ reply }) => letter.refused?.test(reply))
  const isHere = Object.keys(copies).length > 0
  if (isRefused) return !isHere && bounces.length === 0
  if (refused.length > 0 || notices !== letter.notices) return false
  if (isHere) return bounces.length === 0 && isSame(copies, letter.copies)
  return bounces.length === 1 && bounces[0] === letter.bounce
}

function isSame(copies: Record<string, number>, expected: Record<string, number> = {}): boolean {
  const names = Object.keys({ ...copies, ...expected })
  return names.every((name) => copies[name] === expected[name])
}

async function post(project: Project, letters: Expected[]): Promise<Map<string, Posted>> {
  const errand: Errand = { ports: project.ports, configuration: join(project.stateDir, 'postfix'), letters }
  const [program = '', ...command] = [...project.runner, process.execPath, '--import', 'tsx', join('test', 'poster.ts')]
  const child = spawn(program, command, { cwd: ROOT, timeout: PATIENCE, killSignal: 'SIGKILL' })
  const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
  child.stdin.on('error', () => {})
  child.stdin.end(JSON.stringify(errand))
  const [output, words] = await Promise.all([text(child.stdout), text(child.stderr)])
  assert.equal(await ended, 0, words)
  return new Map((JSON.parse(output) as Posted[]).map((posted) => [posted.id, posted]))
}

/**
 * Waits until all mail is delivered, or was tried and is put off. Gives what `postqueue -j` lists then, or when patience
 * ends.
 */
async function emptied(project: Project): Promise<string> {
  const configuration = join(project.stateDir, 'postfix')
  let queue = ''
  await until(
    'an empty queue',
    async () => {
      const child = spawn('postqueue', ['-c', configuration, '-j'], { stdio: ['ignore', 'pipe', 'inherit'] })
      queue = await text(child.stdout)
      return !/"queue_name": "(?!deferred)/.test(queue)
    },
    PATIENCE,
  ).catch(() => {})
  return queue
}

/** All mail on the disk, by the id of the letter that it is or that it is about. */
function mailboxes(project: Project): Map<string, Found> {
  const found = new Map<string, Found>()
  const root = join(project.stateDir, 'mail')
  const folders = (dir: string) => (existsSync(dir) ? readdirSync(dir) : [])
  for (const domain of folders(root)) {
    for (const user of folders(join(root, domain))) {
      for (const part of ['new', 'cur']) {
        const dir = join(root, domain, user, part)
        for (const name of folders(dir)) record(found, `${user}@${domain}`, readFileSync(join(dir, name), 'latin1'))
      }
    }
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

function difference(before: Counts, now: Counts): Counts {
  return {
    packets: now.packets - before.packets,
    dnsPackets: now.dnsPackets - before.dnsPackets,
    questions: now.questions.slice(before.questions.length),
    connections: Object.fromEntries(
      Object.entries(now.connections).map(([port, count]) => [port, count - (before.connections[Number(port)] ?? 0)]),
    ),
    messages: now.messages.slice(before.messages.length),
  }
}
