/** Questions at the terminal. They stand on stderr, so that stdout stays the result. */
import { createInterface } from 'node:readline'
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
  // As a terminal, so that readline takes the echo over from the kernel; no history of what was typed.
  const options = { input, terminal: true, historySize: 0, prompt: question }
  const lines = createInterface(echo ? { ...options, output: stderr } : options)
  if (echo) lines.prompt()
  else stderr.write(question)
  try {
    return await new Promise((resolve, reject) => {
      const fail = (exit: 'failed' | 'interrupted', fact: string) => () =>
        reject(new Failure(exit, `${fact} Nothing was changed.`))
      lines.once('line', resolve)
      lines.once('SIGINT', fail('interrupted', 'Interrupted.'))
      lines.once('close', fail('failed', 'The input ended before the answer.'))
    })
  } finally {
    lines.close()
    if (!echo) stderr.write('\n')
  }
}
