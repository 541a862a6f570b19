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
  #lines: Interface | undefined
  #answers: AsyncIterator<string> | undefined
  #echo = true
  readonly #io: Pick<Io, 'stdin' | 'stderr'>
  #end = new Failure('failed', 'The input ended before the answer. Nothing was changed.')

  constructor(io: Pick<Io, 'stdin' | 'stderr'> = process) {
    this.#io = io
  }

  ask(question: string, instead: string): Promise<string> {
    return this.#ask(question, instead, true)
  }

  /** Shows nothing of what is typed. */
  askUnseen(question: string, instead: string): Promise<string> {
    return this.#ask(question, instead, false)
  }

  close(): void {
    this.#lines?.close()
  }

  async #ask(question: string, instead: string, echo: boolean): Promise<string> {
    if (!this.#io.stdin.isTTY) throw new Failure('usage', `No terminal to ask on. ${instead}`)
    const [lines, answers] = this.#open()
    this.#echo = true
    lines.setPrompt(question)
    lines.prompt()
    this.#echo = echo
    const { value, done } = await answers.next()
    if (!echo || done) this.#io.stderr.write('\n')
    if (done) throw this.#end
    return value
  }

  #open(): [Interface, AsyncIterator<string>] {
    if (this.#lines && this.#answers) return [this.#lines, this.#answers]
    const output = new Writable({
      write: (chunk, _, written) => {
        if (this.#echo) this.#io.stderr.write(chunk)
        written()
      },
    })
    // As a terminal, so that readline takes the echo over from the kernel; no history of what was typed.
    const lines = createInterface({ input: this.#io.stdin, output, terminal: true, historySize: 0 })
    lines.on('SIGINT', () => {
      this.#end = new Failure('interrupted', 'Interrupted. Nothing was changed.')
      lines.close()
    })
    const answers = lines[Symbol.asyncIterator]()
    this.#lines = lines
    this.#answers = answers
    return [lines, answers]
  }
}
