/** A script's main function in this process: starting Node is most of a short script's time. */
import { PassThrough, Writable } from 'node:stream'
import { EXIT, ioOf, type Main, outcomeOf } from '../scripts/lib/cli.ts'
import { NAMES } from '../scripts/lib/settings.ts'
import type { Result } from './harness.ts'

// What the developer's own shell says about a server is not for tests.
for (const name of NAMES) delete process.env[name]

export interface HereOptions {
  input?: string | Buffer
  /** Both outputs are terminals. */
  isTTY?: boolean
  columns?: number
}

/** The exit code and what was written. */
export async function runHere(main: Main, options: HereOptions, ...args: string[]): Promise<Result> {
  const { input = '', isTTY = false, columns } = options
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
    return { stream: Object.assign(stream, { isTTY, columns }), text: () => Buffer.concat(chunks).toString('utf8') }
  }
  const [stdout, stderr] = [sink(), sink()]
  const exit = await outcomeOf(main, args, ioOf({ stdin, stdout: stdout.stream, stderr: stderr.stream }))
  return { code: EXIT[exit].code, stdout: stdout.text(), stderr: stderr.text() }
}
