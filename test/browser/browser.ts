/** For the browser tests: a real server, its inbox, and a Chromium with an empty profile of its own for each page. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type BrowserContext, chromium, type LaunchOptions, type Page } from 'playwright-core'
import { Project } from '../harness.ts'
import { sendRaw } from '../smtp_raw.ts'

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium'
/** For node:test: why the tests cannot run here, or false. */
export const skip = existsSync(CHROMIUM)
  ? false
  : `${CHROMIUM} is not here. Type: apt-get install chromium, or set CHROMIUM`

/** Nothing that Chromium asks the world for by itself. */
const QUIET =
  '--no-sandbox --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'
/** Milliseconds for anything in the browser: this machine may be busy. */
const PATIENCE = 30_000

type Options = Parameters<typeof chromium.launchPersistentContext>[1] & { flags?: string[] }

export class Inbox {
  readonly project: Project
  port = 0
  #process: ChildProcess | undefined
  readonly #contexts = new Set<BrowserContext>()
  readonly #profiles: string[] = []

  private constructor(project: Project) {
    this.project = project
  }

  /** A running mail server with its inbox. */
  static async start(): Promise<Inbox> {
    const inbox = new Inbox(await Project.create())
    try {
      // The tests start and stop the inbox by themselves.
      inbox.project.env.INBOX_PORT = '0'
      await inbox.project.start()
      inbox.port = await freePort()
      await inbox.run()
      return inbox
    } catch (error) {
      await inbox.remove()
      throw error
    }
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/`
  }

  /** Runs the inbox in the foreground until `end`. */
  async run(): Promise<void> {
    const { project } = this
    const isCompiled = existsSync(project.path('scripts', 'inbox.js'))
    const command = isCompiled ? ['scripts/inbox.js'] : ['--import', 'tsx', 'scripts/inbox.ts']
    const env = { ...project.env, INBOX_PORT: String(this.port) }
    const child = spawn(process.execPath, command, { cwd: project.dir, env, stdio: ['ignore', 'pipe', 'inherit'] })
    this.#process = child
    await new Promise((resolve, reject) => {
      createInterface({ input: child.stdout }).once('line', resolve)
      child.once('exit', (code) => reject(new Error(`the inbox ended with ${code}`)))
    })
  }

  async end(): Promise<void> {
    const child = this.#process
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    await gone
  }

  /** The page in a browser of its own; `hash` is what its address says: `#q=is:unread`. */
  async open(hash = '', options: Options = {}): Promise<Page> {
    const context = await this.launch(options)
    const page = context.pages()[0] ?? (await context.newPage())
    await page.goto(`${this.url}${hash}`)
    await page.locator('.list[aria-busy=false]').waitFor()
    return page
  }

  async launch({ flags = [], ...options }: Options = {}): Promise<BrowserContext> {
    const profile = mkdtempSync(join(tmpdir(), 'chromium-'))
    this.#profiles.push(profile)
    const launch: LaunchOptions = { executablePath: CHROMIUM, args: [...QUIET.split(' '), ...flags] }
    const context = await chromium.launchPersistentContext(profile, {
      ...launch,
      viewport: { width: 1280, height: 800 },
      locale: 'en-GB',
      ...options,
    })
    context.setDefaultTimeout(PATIENCE)
    this.#contexts.add(context)
    context.once('close', () => this.#contexts.delete(context))
    return context
  }

  /** Delivers mails as they are. */
  async deliver(to: string | string[], ...mails: Buffer[]): Promise<void> {
    for (const mail of mails) await sendRaw(this.project.ports.smtp, to, mail, 'sender@client.example')
  }

  /** What the API answers. */
  async api(path: string, options?: RequestInit): Promise<Response> {
    return fetch(`${this.url}api/v1/${path}`, options)
  }

  async closePages(): Promise<void> {
    for (const context of this.#contexts) await context.close()
    for (const profile of this.#profiles.splice(0)) rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
  }

  async remove(): Promise<void> {
    await this.closePages()
    await this.end()
    await this.project.remove()
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}
