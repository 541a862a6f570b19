/** Questions at the terminal. They stand on stderr, so that stdout stays the result. */
import { createInterface, type Interface } from 'node:readline'
import { Writable } from 'node:stream'
import { Failure, type Io } from '../cli.ts'

/**
 * Asks one question after the other; what is typed ahead belongs to the next one. Each question throws a Failure:
 * `usage` without a terminal, whose text says what to type instead; `failed` at the end of input; `interrupted` at
 * Ctrl-C.
 */
export class Prompter {
  readonly #io: Pick<Io, 'stdin' | 'stderr'>
  #lines: Interface | undefined
  #answers: AsyncIterator<string> | undefined
  #echo = true
  #end = new Failure('failed', 'The input ended before the answer. Nothing was changed.')

  constructor(io: Pick<Io, 'stdin' | 'stderr'> = process) {
    this.#io = io
  }

  /** With `echo: false` nothing of what is typed is shown. */
  async ask(question: string, instead: string, { echo = true } = {}): Promise<string> {
    const { stdin: input, stderr } = this.#io
    if (!input.isTTY) throw new Failure('usage', `No terminal to ask on. ${instead}`)
    const output = new Writable({
      write: (chunk, _, written) => {
        if (this.#echo) stderr.write(chunk)
        written()
      },
    })
    // As a terminal, so that readline takes the echo over from the kernel; no history of what was typed.
    this.#lines ??= createInterface({ input, output, terminal: true, historySize: 0 }).on('SIGINT', () => {
      this.#end = new Failure('interrupted', 'Interrupted. Nothing was changed.')
      this.close()
    })
    this.#answers ??= this.#lines[Symbol.asyncIterator]()
    this.#echo = true
    this.#lines.setPrompt(question)
    this.#lines.prompt()
    this.#echo = echo
    const { value, done } = await this.#answers.next()
    if (!echo || done) stderr.write('\n')
    if (done) throw this.#end
    return value
  }

  close(): void {
    this.#lines?.close()
  }
}
