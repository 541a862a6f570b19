/** How quick the inbox is beside so many mails, and MailDev where it can be asked the same. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import { type Project, until } from '../harness.ts'
import { type Figures, fill, HOST, post, quantile, timed, withMailDev } from './measure.ts'

export async function measureInbox(project: Project, figures: Figures, sizes: number[]): Promise<void> {
  for (const mails of sizes) {
    await fill(project, mails)
    const port = project.inboxPort
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
      figures.add(`${mails} mails: start to the 50 newest`, 'ms', performance.now() - begin)
      await until('all mails', async () => (await get(`${api}/messages`)).total === mails, 120_000)
      figures.add(`${mails} mails: start to all`, 'ms', performance.now() - begin)
      const { ID } = (await get(`${api}/messages`)).messages[0]
      const questions = {
        '50 newest': 'messages',
        'by recipient': `search?query=to:number-${mails - 1}@bench.example`,
        'a word of any body': 'search?query=nowhere',
        'one message': `message/${ID}`,
      }
      for (const [name, path] of Object.entries(questions))
        await ask(`${mails} mails: ${name}`, `${api}/${path}`, figures)
      await measureArrival(project, api, `${mails} mails`, figures)
      figures.add(`${mails} mails: memory`, 'MB', memoryOf(inbox))
    } finally {
      const ended = once(inbox, 'close')
      inbox.kill()
      await ended
    }
  }
}

/** From the 250 of a mail until a wait is answered, and until a page hears of it. */
async function measureArrival(project: Project, api: string, where: string, figures: Figures): Promise<void> {
  const page = new WebSocket(`${api.replace('http', 'ws').replace('/v1', '')}/events`)
  await once(page, 'open')
  const ways: Record<string, (to: string) => Promise<unknown>> = {
    wait: (to) => get(`${api}/message/latest?query=to:${to}&wait=60`),
    event: (to) =>
      new Promise<void>((resolve) => {
        page.removeAllListeners('message')
        page.on('message', (text) => String(text).includes(to) && resolve())
      }),
  }
  for (const [name, told] of Object.entries(ways)) {
    const times: number[] = []
    for (let n = 0; n < 30; n++) {
      const to = `${name}-${process.hrtime.bigint()}@bench.example`
      const heard = told(to).then(() => performance.now())
      await sleep(20 + Math.random() * 80)
      const accepted = await post(project.ports.smtp, to)
      times.push((await heard) - accepted)
    }
    figures.add(`${where}: accepted to told by ${name}`, 'ms', ...times)
    figures.add(`${where}: accepted to told by ${name}, 95 of 100`, 'ms', quantile(times, 0.95))
  }
  page.terminate()
}

/** What MailDev answers to the same questions: it has no pages, no search by words and no wait. */
export function measureMailDevsInbox(project: Project, figures: Figures, sizes: number[]): Promise<void> {
  return withMailDev(project, async ({ smtp, web }) => {
    const api = `http://${HOST}:${web}/api/email`
    let sent = 0
    for (const mails of sizes) {
      for (; sent < mails; sent++) await post(smtp, `number-${sent}@bench.example`)
      const all = await until('all mails', async () => {
        const list = await get(api)
        return list.length >= mails && list
      })
      await ask(`MailDev, ${mails} mails: all of them`, api, figures)
      await ask(`MailDev, ${mails} mails: by recipient`, `${api}?headers.to=number-${mails - 1}@bench.example`, figures)
      await ask(`MailDev, ${mails} mails: one message`, `${api}/${all[0].id}`, figures)
    }
  })
}

async function ask(name: string, url: string, figures: Figures): Promise<void> {
  const seconds: number[] = []
  for (let n = 0; n < 15; n++) seconds.push((await timed(() => get(url)))[0])
  figures.addSeconds({ [name]: seconds })
}

// biome-ignore lint/suspicious/noExplicitAny: JSON of two programs
async function get(url: string): Promise<any> {
  return (await fetch(url)).json()
}

function memoryOf({ pid }: ChildProcess): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}
