/** For the tests of pop_email: mails, a real server to deliver them to, and sessions of the tests' own. */
import assert from 'node:assert/strict'
import { chownSync, existsSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { BAR, CATCHALL, FOO, VIRTUAL_DOMAIN } from '../scripts/lib/accounts/accounts.ts'
import { main } from '../scripts/pop_email.ts'
import { visit } from './deliveries.ts'
import { type Project, type Result, startedProject, until } from './harness.ts'
import { type HereOptions, runHere } from './here.ts'
import { sendRaw } from './smtp_raw.ts'

/** The bytes of a mail, from its lines. */
export function mail(...lines: string[]): Buffer {
  return Buffer.from(`${lines.join('\r\n')}\r\n`)
}

export function simple(subject: string, text = 'text'): Buffer {
  const people = ['From: a@client.example', 'To: list@client.example']
  return mail(...people, `Subject: ${subject}`, `Message-ID: <${subject}@client.example>`, '', text)
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

/** pop_email in this process, with the server of the `Mailboxes` that was started last. */
export const pop = (...args: string[]): Promise<Result> => runHere(main, {}, ...args)
/** The same before a terminal. */
export const popOn = (options: HereOptions, ...args: string[]): Promise<Result> => runHere(main, options, ...args)

export class Mailboxes {
  readonly project: Project

  private constructor(project: Project) {
    this.project = project
  }

  /** A running server, which the environment of this process names. */
  static async start(): Promise<Mailboxes> {
    const project = await startedProject()
    Object.assign(process.env, project.env)
    return new Mailboxes(project)
  }

  /** As the disk has it: a login takes four processes. */
  count(user: string): number {
    const [name = '', domain = ''] = user.split('@')
    const folders = ['new', 'cur'].map((part) => join(this.project.stateDir, 'mail', domain, name, part))
    return folders.flatMap((folder) => (existsSync(folder) ? readdirSync(folder) : [])).length
  }

  /** Delivers mails one after the other and waits until each is there. */
  async deliver(to: string, ...mails: Buffer[]): Promise<void> {
    const user = to.endsWith(VIRTUAL_DOMAIN) ? to : CATCHALL
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
      await visit(this.project, user, async (session, list) => {
        for (const message of list) await session.delete(message)
      })
    }
  }
}
