/** For the browser tests: a Chromium before the inbox of a real server. */
import { existsSync } from 'node:fs'
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import { InboxWorld } from '../inbox_world.ts'
import { sendRaw } from '../smtp_raw.ts'

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium'
/** For node:test: why the tests cannot run here, or false. */
export const skip = !existsSync(CHROMIUM) && `${CHROMIUM} is not here. Type: apt-get install chromium, or set CHROMIUM`

/** Nothing that Chromium asks the world for by itself. */
const QUIET =
  '--no-sandbox --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'
/** Milliseconds for anything in the browser: this machine may be busy. */
const PATIENCE = 30_000

export class Inbox {
  readonly world: InboxWorld
  #browser: Browser | undefined
  readonly #contexts = new Set<BrowserContext>()

  private constructor(world: InboxWorld) {
    this.world = world
  }

  /** A running mail server with its inbox. */
  static async start(): Promise<Inbox> {
    return new Inbox(await InboxWorld.start())
  }

  get url(): string {
    return `${this.world.url}/`
  }

  /** Starts a Chromium; without a call, `context` does. */
  async launch(...flags: string[]): Promise<Browser> {
    await this.#browser?.close()
    this.#browser = await chromium.launch({ executablePath: CHROMIUM, args: [...QUIET.split(' '), ...flags] })
    return this.#browser
  }

  /** An empty profile. */
  async context(options: BrowserContextOptions = {}): Promise<BrowserContext> {
    const browser = this.#browser ?? (await this.launch())
    const screen = { viewport: { width: 1280, height: 800 }, locale: 'en-GB' }
    const context = await browser.newContext({ ...screen, ...options })
    context.setDefaultTimeout(PATIENCE)
    this.#contexts.add(context)
    return context
  }

  /** The page in a profile of its own; `hash` is what its address says: `#q=is:unread`. */
  async open(hash = '', options: BrowserContextOptions = {}): Promise<Page> {
    const page = await (await this.context(options)).newPage()
    await page.goto(`${this.url}${hash}`)
    await page.locator('.list[aria-busy=false]').waitFor()
    return page
  }

  /** Delivers mails as they are. */
  async deliver(to: string | string[], ...mails: Buffer[]): Promise<void> {
    for (const mail of mails) await sendRaw(this.world.settings.ports.smtp, to, mail, 'sender@client.example')
  }

  async closePages(): Promise<void> {
    for (const context of this.#contexts) await context.close()
    this.#contexts.clear()
  }

  async remove(): Promise<void> {
    await this.#browser?.close()
    await this.world.remove()
  }
}
