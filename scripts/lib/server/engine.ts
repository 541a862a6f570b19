/** What can be asked of the server and done to it, whichever of the two ways it runs. */
export interface Engine {
  readonly name: 'docker' | 'native'
  /** Whether all of Postfix and Dovecot that the environment file asks for is up, by process, not by answer. */
  isRunning(): Promise<boolean>
  /** What runs where only a part of the server does, in words; undefined where all or nothing runs. */
  half(): Promise<string | undefined>
  /**
   * Brings the server up, or its configuration up to date where it runs already. Returns when the daemons were started,
   * which is before they answer. A start that throws leaves nothing running that did not run before.
   */
  start(): Promise<Started>
  /** Stops the server; mail, queue and accounts stay. Waits for a start under way. False when nothing was running. */
  stop(): Promise<boolean>
  /** Makes changes to the configuration folder take effect, without a restart where that is possible. */
  reload(): Promise<void>
  /**
   * Runs a command where the server is, one of Postfix's and Dovecot's on this instance: `['postqueue', '-j']`, with `input`
   * on its stdin. Its exit code is the caller's to judge; null where it took longer than `timeout` milliseconds (60,000).
   */
  exec(command: string[], options?: ExecOptions): Promise<ExecResult>
  /** Removes an account's mail from the disk, whether the server runs or not. */
  removeMailbox(address: string): Promise<void>
  /** Where the certificate lies that clients have to trust; undefined where TLS is off. */
  certificate(): string | undefined
  /** Shows the mail log's last lines on stdout and, with `follow`, what comes until Ctrl-C. */
  logs(options: { lines: number; follow: boolean }): Promise<void>
  /** All that the daemons logged since the last start, oldest first; of a long log its end. */
  logged(): Promise<string[]>
  /** Whether a process that holds one of the ports is the server's. */
  owns(holder: { pid: number; name: string }): boolean
}

/** What a start did: `running` left a server as it was, its configuration brought up to date. */
export type Started = 'running' | 'started' | 'restarted'

/** What daemons complain about in lines of their log: the last ten. */
export function complaintsIn(lines: string[]): string[] {
  return [...new Set(lines.filter((line) => /\b(fatal|panic|error)\b|\bwarning:/i.test(line)))].slice(-10)
}

export interface ExecOptions {
  input?: string
  timeout?: number
}

export interface ExecResult {
  exitCode: number | null
  stdout: string
  stderr: string
}
