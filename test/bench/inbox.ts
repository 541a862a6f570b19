/** How quick the inbox is beside so many mails. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Project, until } from '../harness.ts'
import { type Figures, fill, HOST, post, timed } from './measure.ts'

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
      for (const [name, path] of Object.entries(questions)) {
        const seconds: number[] = []
        for (let n = 0; n < 15; n++) seconds.push((await timed(() => get(`${api}/${path}`)))[0])
        figures.addSeconds({ [`${mails} mails: ${name}`]: seconds })
      }
      await measureArrival(project, api, `${mails} mails`, figures)
      const memory = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${inbox.pid}/status`, 'utf8'))?.[1]
      figures.add(`${mails} mails: memory`, 'MB', Number(memory) / 1024)
    } finally {
      const ended = once(inbox, 'close')
      inbox.kill()
      await ended
    }
  }
}

/** From the 250 of a mail until a wait is answered. */
async function measureArrival(project: Project, api: string, where: string, figures: Figures): Promise<void> {
  const times: number[] = []
  for (let n = 0; n < 30; n++) {
    const to = `wait-${n}@bench.example`
    const heard = get(`${api}/message/latest?query=to:${to}&wait=60`).then(() => performance.now())
    await sleep(20 + Math.random() * 80)
    const accepted = await post(project.ports.smtp, to)
    times.push((await heard) - accepted)
  }
  figures.add(`${where}: accepted to told by wait`, 'ms', ...times)
}

// biome-ignore lint/suspicious/noExplicitAny: JSON of two programs
async function get(url: string): Promise<any> {
  return (await fetch(url)).json()
}
