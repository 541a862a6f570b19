/** For the tests of pop_email: mails, a real server to deliver them to, and sessions of the tests' own. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chownSync, existsSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Pop3Message, Pop3Session } from '../scripts/lib/mail/pop3.ts'
import { main } from '../scripts/pop_email.ts'
import { Project, type Result, until } from './harness.ts'
import { type HereOptions, runHere } from './here.ts'
import { sendRaw } from './smtp_raw.ts'

export const DOMAIN = 'development-virtual.example.com'
export const BAR = `bar@${DOMAIN}`
export const FOO = `foo@${DOMAIN}`
export const CATCHALL = 'catchall@development-mail-server.example.com'

/** The bytes of a mail, from its lines. */
export function mail(...lines: string[]): Buffer {
  return Buffer.from(`${lines.join('\r\n')}\r\n`)
}

export function simple(subject: string, text = 'text', from = 'a@client.example'): Buffer {
  return mail(
    `From: ${from}`,
    'To: list@client.example',
    `Subject: ${subject}`,
    `Message-ID: <${subject}@client.example>`,
    '',
    text,
  )
}

/** The standard output of a run that went well. */
export function ok({ code, stdout, stderr }: Result): string {
  assert.equal(code, 0, stderr)
  return stdout
}

/** The subjects of the mails that were printed. */
export function subjects(output: string): string[] {
  return [...output.matchAll(/^Subject: (.*)$/gm)].map(([, subject = '']) => subject)
}

/** Options for a scripted server. */
export function loginAt(port: number): string[] {
  return `--host 127.0.0.1 --port ${port} --user a --password b`.split(' ')
}

export class Mailboxes {
  readonly project: Project

  private constructor(project: Project) {
    this.project = project
  }

  /** A running server that takes mail of 40 MB. */
  static async start(): Promise<Mailboxes> {
    const project = await Project.create()
    try {
      await project.start()
      execFileSync('postconf', ['-c', `${project.stateDir}/postfix`, '-e', 'message_size_limit=40000000'])
      Object.assign(process.env, project.env)
      return new Mailboxes(project)
    } catch (error) {
      await project.remove()
      throw error
    }
  }

  /** pop_email in this process. */
  pop(...args: string[]): Promise<Result> {
    return runHere(main, {}, ...args)
  }

  popOn(options: HereOptions, ...args: string[]): Promise<Result> {
    return runHere(main, options, ...args)
  }

  async visit<T>(user: string, work: (session: Pop3Session) => Promise<T>): Promise<T> {
    const server = { host: '127.0.0.1', port: this.project.ports.pop3, tls: 'none', timeout: 10_000 } as const
    const session = await Pop3Session.open(server, { user, password: user === CATCHALL ? 'catchall' : 'foo' })
    try {
      const result = await work(session)
      await session.quit()
      return result
    } finally {
      session.close()
    }
  }

  /** As the disk has it: a login takes four processes. */
  count(user: string): number {
    const [name = '', domain = ''] = user.split('@')
    const folders = ['new', 'cur'].map((part) => join(this.project.stateDir, 'mail', domain, name, part))
    return folders.flatMap((folder) => (existsSync(folder) ? readdirSync(folder) : [])).length
  }

  /** The bytes of the newest mail. */
  async newest(user: string): Promise<Buffer> {
    return this.visit(user, async (session) => session.retrieve((await session.list()).at(-1) as Pop3Message))
  }

  /** Delivers mails one after the other and waits until each is there. */
  async deliver(to: string, ...mails: Buffer[]): Promise<void> {
    const user = to.endsWith(DOMAIN) ? to : CATCHALL
    for (const content of mails) {
      const before = this.count(user)
      await sendRaw(this.project.ports.smtp, to, content)
      await until('the mail is there', () => this.count(user) > before)
    }
  }

  /** Puts small mails into a mailbox that has none, in one go: "filled 0" is the oldest. */
  fill(user: string, count: number): void {
    const [name = '', domain = ''] = user.split('@')
    const folder = join(this.project.stateDir, 'mail', domain, name, 'new')
    const { uid, gid } = statSync(folder)
    for (let index = 0; index < count; index++) {
      const file = join(folder, `${1_000_000_000 + index}.M0P1.client`)
      writeFileSync(file, simple(`filled ${index}`))
      chownSync(file, uid, gid)
    }
  }

  async empty(): Promise<void> {
    for (const user of [BAR, FOO, CATCHALL].filter((user) => this.count(user) > 0)) {
      await this.visit(user, async (session) => {
        for (const message of await session.list()) await session.delete(message)
      })
    }
  }
}
