/**
 * How quick the inbox is, at 1, 1,000 and 10,000 mails: `node --import tsx test/bench/inbox.ts [--sizes 1,1000] [--peers]`,
 * or as a part of npm run bench. With --peers, MailDev from the npm registry is asked what it can be asked as well.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { chownSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import { type ExitName, parse, print, run } from '../../scripts/lib/cli.ts'
import { VMAIL_ID } from '../../scripts/lib/server/native_configuration.ts'
import { smtpClient } from '../deliveries.ts'
import { Project, until } from '../harness.ts'
import { type Add, HOST, quantile, readable, timed } from './measure.ts'

const CATCHALL = 'catchall@development-mail-server.example.com'

async function main(args: string[]): Promise<ExitName | undefined> {
  const { values } = parse(args, { sizes: { type: 'string' }, peers: { type: 'boolean' } })
  const sizes = (values.sizes ?? '1,100,1000,10000').split(',').map(Number)
  const add: Add = (what, value, unit) => print(`${what}: ${Number(value.toPrecision(3))} ${unit}`)
  const project = await Project.create()
  try {
    await project.start()
    await measureInbox(project, add, sizes)
    if (values.peers)
      await measureMailDevsInbox(
        project,
        add,
        sizes.filter((size) => size <= 1_000),
      )
  } finally {
    await project.remove()
  }
  return 'ok'
}

export async function measureInbox(project: Project, add: Add, sizes: number[]): Promise<void> {
  for (const mails of sizes) {
    await fill(project, mails)
    const port = await freePort()
    const begin = performance.now()
    const inbox = spawn(process.execPath, ['scripts/lib/launch.mjs', 'inbox'], {
      cwd: project.dir,
      env: { ...project.env, INBOX_PORT: String(port) },
      stdio: 'ignore',
    })
    try {
      const api = `http://${HOST}:${port}/api/v1`
      const isThere = async () =>
        (await get(`${api}/messages`).catch(() => ({ count: 0 }))).count === Math.min(50, mails)
      await until('the newest mails', isThere, 120_000)
      add(`${mails} mails: start to the 50 newest`, performance.now() - begin, 'ms')
      await until('all mails', async () => (await get(`${api}/messages`)).total === mails, 120_000)
      add(`${mails} mails: start to all`, performance.now() - begin, 'ms')
      const { ID } = (await get(`${api}/messages`)).messages[0]
      const questions = {
        '50 newest': 'messages',
        'by recipient': `search?query=to:number-${mails - 1}@bench.example`,
        'a word of any body': 'search?query=nowhere',
        'one message': `message/${ID}`,
      }
      for (const [name, path] of Object.entries(questions))
        await median(`${mails} mails: ${name}`, `${api}/${path}`, add)
      await measureArrival(project, api, `${mails} mails`, add)
      add(`${mails} mails: memory`, memoryOf(inbox), 'MB')
    } finally {
      await end(inbox)
    }
  }
}

/** From the 250 of a mail until a wait is answered, and until a page hears of it. */
async function measureArrival(project: Project, api: string, where: string, add: Add): Promise<void> {
  const waits: number[] = []
  const events: number[] = []
  for (let n = 0; n < 30; n++) {
    const to = `wait-${process.hrtime.bigint()}@bench.example`
    const answered = get(`${api}/message/latest?query=to:${to}&wait=60`).then(() => performance.now())
    await sleep(20 + Math.random() * 50)
    const accepted = await post(project.ports.smtp, to)
    waits.push((await answered) - accepted)
  }
  const page = new WebSocket(`${api.replace('http', 'ws').replace('/v1', '')}/events`)
  await new Promise((resolve) => page.once('open', resolve))
  for (let n = 0; n < 30; n++) {
    const to = `event-${process.hrtime.bigint()}@bench.example`
    const heard = new Promise<number>((resolve) => {
      page.on('message', (text) => String(text).includes(to) && resolve(performance.now()))
    })
    await sleep(Math.random() * 100)
    const accepted = await post(project.ports.smtp, to)
    events.push((await heard) - accepted)
    page.removeAllListeners('message')
  }
  page.terminate()
  for (const [name, times] of Object.entries({ wait: waits, event: events })) {
    add(`${where}: accepted to told by ${name}, median`, quantile(times), 'ms')
    add(`${where}: accepted to told by ${name}, 95 of 100`, quantile(times, 0.95), 'ms')
  }
}

/** What MailDev answers to the same questions: it has no pages, no search by words and no wait. */
export async function measureMailDevsInbox(project: Project, add: Add, sizes: number[]): Promise<void> {
  const [smtp, web] = [await freePort(), await freePort()]
  const options = `--ip ${HOST} --smtp ${smtp} --web ${web} --mail-directory ${project.path('maildev')}`.split(' ')
  const maildev = spawn('npx', ['--yes', 'maildev', ...options], { cwd: project.dir, stdio: 'ignore', detached: true })
  try {
    const api = `http://${HOST}:${web}/api/email`
    await until('MailDev answers', () => fetch(`http://${HOST}:${web}/healthz`).catch(() => {}), 120_000)
    let sent = 0
    for (const mails of sizes) {
      for (; sent < mails; sent++) await post(smtp, `number-${sent}@bench.example`)
      const all = await until('all mails', async () => {
        const list = await get(api)
        return list.length >= mails && list
      })
      await median(`MailDev, ${mails} mails: all of them`, api, add)
      await median(`MailDev, ${mails} mails: by recipient`, `${api}?headers.to=number-${mails - 1}@bench.example`, add)
      await median(`MailDev, ${mails} mails: one message`, `${api}/${all[0].id}`, add)
    }
  } finally {
    if (maildev.pid) process.kill(-maildev.pid, 'SIGTERM')
  }
}

/** Brings the catchall to so many mails. These are put where Dovecot finds new ones; over SMTP it would take minutes. */
async function fill(project: Project, mails: number): Promise<void> {
  const folder = `${project.stateDir}/mail/${CATCHALL.split('@').reverse().join('/')}/new`
  await project.run('reset', '--yes')
  mkdirSync(folder, { recursive: true })
  for (let n = 0; n < mails; n++) {
    const to = `number-${n}@bench.example`
    const mail = [
      `Return-Path: <shop@bench.example>\nDelivered-To: ${CATCHALL}\nX-Original-To: ${to}`,
      `Received: from client (unknown [127.0.0.1])\n\tby development-mail-server.example.com (Postfix) with ESMTP id ${queueId(n)}`,
      `\tfor <${to}>; Thu, 26 Nov 2026 14:46:25 +0000 (UTC)`,
      `Message-ID: <${n}@bench.example>\nSubject: Order ${n} is on its way\nFrom: "The Shop" <shop@bench.example>\nTo: <${to}>`,
      `MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\nYour code is ${100_000 + n}.\n${`${'x'.repeat(70)}\n`.repeat(20)}`,
    ].join('\n')
    const file = `${folder}/${1_700_000_000 + n}.M0P${n}.bench,S=${mail.length},W=${mail.length + mail.split('\n').length - 1}`
    writeFileSync(file, mail)
    chownSync(file, VMAIL_ID, VMAIL_ID)
  }
  await readable(project, CATCHALL, mails, 100)
}

/** One of Postfix's long queue ids of some time ago, with the number of the mail in it. */
function queueId(n: number): string {
  const digits = '0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxy'
  const number = [51 ** 2, 51, 1].map((power) => digits[Math.floor(n / power) % 51]).join('')
  return `4jZ0${number}0000z${number}`
}

/** Sends a mail; gives when it was accepted. */
async function post(port: number, to: string): Promise<number> {
  const connection = await smtpClient({ host: HOST, ports: { smtp: port } as Project['ports'] })
  const message = `From: shop@bench.example\r\nTo: <${to}>\r\nSubject: Hello\r\n\r\n${'x'.repeat(1_000)}\r\n`
  await new Promise<void>((resolve, reject) => {
    connection.send({ from: 'shop@bench.example', to: [to] }, message, (error) => (error ? reject(error) : resolve()))
  })
  const accepted = performance.now()
  connection.quit()
  return accepted
}

async function median(name: string, url: string, add: Add): Promise<void> {
  const times = []
  for (let n = 0; n < 15; n++) times.push((await timed(() => get(url)))[0] * 1_000)
  add(name, quantile(times), 'ms')
}

// biome-ignore lint/suspicious/noExplicitAny: JSON of two programs
async function get(url: string): Promise<any> {
  return (await fetch(url)).json()
}

function memoryOf({ pid }: ChildProcess): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}

async function end(child: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => child.once('close', resolve))
  child.kill('SIGTERM')
  await ended
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, HOST, () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}

await run(import.meta.url, main)
