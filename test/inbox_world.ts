/** For the tests of the inbox: a real server, the inbox in this process, and mails to it. */
import { serveInbox } from '../scripts/lib/inbox/http.ts'
import type { Index } from '../scripts/lib/inbox/index.ts'
import { PATIENCE as MAILBOX_PATIENCE } from '../scripts/lib/inbox/mailbox.ts'
import { PATIENCE as SEND_PATIENCE } from '../scripts/lib/inbox/send.ts'
import { readSettings, type Settings } from '../scripts/lib/settings.ts'
import { type Project, startedProject, until } from './harness.ts'
import { sendRaw } from './smtp_raw.ts'

// A busy machine takes longer than a user would wait.
MAILBOX_PATIENCE.answer = 120_000
SEND_PATIENCE.deliver = 120_000

/** The JSON of an answer. */
// biome-ignore lint/suspicious/noExplicitAny: what it holds is what the tests look at
export type Json = any
export interface Answered {
  status: number
  body: Json
  text: string
  headers: Headers
}

let count = 0
/** An address that no other test has. */
export const someone = () => `someone-${process.pid}-${++count}@customer.example`

export class InboxWorld {
  readonly project: Project
  readonly settings: Settings
  url = ''
  index!: Index
  close: () => void = () => {}

  private constructor(project: Project) {
    this.project = project
    this.settings = { ...readSettings(), ports: project.ports, host: '127.0.0.1', bindAddress: '127.0.0.1' }
  }

  static async start(): Promise<InboxWorld> {
    const project = await startedProject()
    const world = new InboxWorld(project)
    try {
      await world.open()
      return world
    } catch (error) {
      await world.remove()
      throw error
    }
  }

  /** Opens an inbox of its own in this process. */
  async open(port = 0): Promise<void> {
    const inbox = await serveInbox(this.settings, port)
    this.url = inbox.url.slice(0, -1)
    this.close = inbox.close
    this.index = inbox.index
    while (!inbox.index.isUp) await new Promise((resolve) => setTimeout(resolve, 10))
    await inbox.index.fill()
  }

  async remove(): Promise<void> {
    this.close()
    await this.project.remove()
  }

  /** Asks the API: `ask('GET /api/v1/messages')`, with a body that becomes JSON where it is no text. */
  async ask(what: string, body?: unknown, init: RequestInit = {}): Promise<Answered> {
    const [method = 'GET', path = ''] = what.split(' ')
    const sent = body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
    const response = await fetch(this.url + path, { method, ...(sent === undefined ? {} : { body: sent }), ...init })
    const text = await response.text()
    const isJson = response.headers.get('content-type')?.startsWith('application/json')
    return { status: response.status, body: isJson ? JSON.parse(text) : text, text, headers: response.headers }
  }

  /** The messages that a query finds. */
  async search(query: string): Promise<Json[]> {
    const { body } = await this.ask(`GET /api/v1/search?query=${encodeURIComponent(query)}`)
    return body.messages
  }

  /** Waits for the newest message that a query finds. */
  async wait(query: string, seconds = 120): Promise<Json> {
    const { status, body } = await this.ask(
      `GET /api/v1/message/latest?wait=${seconds}&query=${encodeURIComponent(query)}`,
    )
    if (status !== 200) throw new Error(JSON.stringify(body))
    return body
  }

  /** Hands a mail to the server; gives its queue id. */
  async post(to: string | string[], mail: string | string[], from = 'shop@sender.example'): Promise<string> {
    const reply = await sendRaw(this.project.ports.smtp, to, Buffer.from([mail].flat().join('\r\n')), from)
    return /queued as (\w+)/.exec(reply)?.[1] ?? ''
  }

  /** Hands a short mail to the server and waits until the inbox has it. */
  async deliver(to: string | string[], subject = 'Hello', ...lines: string[]): Promise<string> {
    const id = await this.post(to, [
      `Subject: ${subject}`,
      'From: Shop <shop@sender.example>',
      `To: ${[to].flat()[0]}`,
      ...lines,
    ])
    await until(`${id} has arrived`, async () => (await this.ask(`GET /api/v1/message/${id}/headers`)).status === 200)
    return id
  }
}
