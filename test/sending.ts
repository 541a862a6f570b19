/** send_email in this process: starting Node is most of a short script's time. */
import { PassThrough, Writable } from 'node:stream'
import { EXIT, ioOf, outcomeOf } from '../scripts/lib/cli.ts'
import { NAMES } from '../scripts/lib/settings.ts'
import { main } from '../scripts/send_email.ts'
import type { Result } from './harness.ts'

// What the developer's own shell says about a server is not for tests.
for (const name of NAMES) delete process.env[name]

/** The exit code and what was written; `isTTY` makes both streams terminals. */
export async function sendHere(
  { input = '', isTTY = false }: { input?: string | Buffer; isTTY?: boolean },
  ...args: string[]
): Promise<Result> {
  const stdin = new PassThrough()
  stdin.end(input)
  const sink = () => {
    const chunks: Buffer[] = []
    const stream = new Writable({
      write(chunk, _encoding, done) {
        chunks.push(Buffer.from(chunk))
        done()
      },
    })
    return { stream: Object.assign(stream, { isTTY }), text: () => Buffer.concat(chunks).toString('utf8') }
  }
  const [stdout, stderr] = [sink(), sink()]
  const exit = await outcomeOf(main, args, ioOf({ stdin, stdout: stdout.stream, stderr: stderr.stream }))
  return { code: EXIT[exit].code, stdout: stdout.text(), stderr: stderr.text() }
}
