/** Questions at the terminal. They stand on stderr, so that stdout stays the result. */
import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'
import { Failure, type Io } from '../cli.ts'

/**
 * Asks a question; with `echo: false` nothing of what is typed is shown. Throws a Failure: `usage` without a terminal,
 * whose text says what to type instead; `failed` at the end of input; `interrupted` at Ctrl-C.
 */
export async function ask(
  { stdin: input, stderr }: Pick<Io, 'stdin' | 'stderr'>,
  question: string,
  instead: string,
  { echo = true } = {},
): Promise<string> {
  if (!input.isTTY) throw new Failure('usage', `No terminal to ask on. ${instead}`)
  let isShown = true
  const output = new Writable({
    write(chunk, _, written) {
      if (isShown) stderr.write(chunk)
      written()
    },
  })
  // As a terminal, so that readline takes the echo over from the kernel; no history of what was typed.
  const lines = createInterface({ input, output, terminal: true, historySize: 0, prompt: question })
  lines.prompt()
  isShown = echo
  try {
    return await new Promise((resolve, reject) => {
      lines.once('line', resolve)
      lines.once('SIGINT', () => reject(new Failure('interrupted', 'Interrupted. Nothing was changed.')))
      lines.once('close', () =>
        reject(new Failure('failed', 'The input ended before the answer. Nothing was changed.')),
      )
    })
  } finally {
    lines.close()
    if (!echo) stderr.write('\n')
  }
}
