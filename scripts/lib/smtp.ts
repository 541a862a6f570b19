/** Sending over SMTP by nodemailer: its options for this project's servers, and its errors as this project's. */
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import type SMTPTransport from 'nodemailer/lib/smtp-transport'
import type { Login } from './accounts.ts'
import { type ExitName, Failure, messageOf } from './cli.ts'
import type { TlsMode } from './pop3.ts'

export interface SmtpServer {
  host: string
  port: number
  tls: TlsMode
  /** Milliseconds that the server may stay silent at any point. */
  timeout: number
}

/**
 * nodemailer's options for a server. Its certificate is not verified: a development server signs its own. `tls` means
 * what it says: no STARTTLS unless asked for, and no falling back to plain text when it is.
 */
export function smtpOptions({ host, port, tls, timeout }: SmtpServer, login: Login | undefined): SMTPTransport.Options {
  return {
    host,
    port,
    secure: tls === 'implicit',
    ignoreTLS: tls === 'none',
    requireTLS: tls === 'starttls',
    tls: { rejectUnauthorized: false },
    ...(login ? { auth: { user: login.user, pass: login.password } } : {}),
    connectionTimeout: timeout,
    greetingTimeout: timeout,
    socketTimeout: timeout,
    // Attachments and texts come from the caller as bytes, never as paths or URLs to fetch.
    disableFileAccess: true,
    disableUrlAccess: true,
  }
}

/**
 * What a server answers to RCPT TO for a recipient of mail with the null envelope sender; nothing is sent. Undefined
 * when the connection fails or the server refuses earlier.
 */
export async function rcptReply({ host, port, timeout }: SmtpServer, recipient: string): Promise<string | undefined> {
  const socket = connect({ host, port })
  const lines = createInterface({ input: socket })
  socket.setTimeout(timeout, () => socket.destroy())
  // Whatever ends the connection ends the lines; readline itself sees only a regular end.
  socket.on('error', () => {}).on('close', () => lines.close())
  const commands = ['EHLO localhost', 'MAIL FROM:<>', `RCPT TO:<${recipient}>`]
  try {
    for await (const line of lines) {
      // "250-..." announces more lines (RFC 5321 section 4.2.1).
      if (!/^\d{3}( |$)/.test(line)) continue
      const command = commands.shift()
      if (command === undefined) return line
      if (!line.startsWith('2')) return undefined
      socket.write(`${command}\r\n`)
    }
    return undefined
  } finally {
    socket.end('QUIT\r\n', () => socket.destroy())
  }
}

/** What nodemailer adds to its errors. */
interface SmtpError extends Error {
  code?: string
  command?: string
  response?: string
}

/** Turns an error of nodemailer into a Failure whose exit code tells the phase of the SMTP dialogue. */
export function smtpFailure(error: unknown, { host, port }: SmtpServer): Failure {
  const { code, command, response } = error as SmtpError
  const exit = phaseOf(code, command, messageOf(error))
  const advice = exit === 'connection' ? ' Is the server up? npm run status' : ''
  return new Failure(exit, `SMTP on ${host}:${port}: ${response ?? messageOf(error)}${advice}`)
}

function phaseOf(code: string | undefined, command: string | undefined, message: string): ExitName {
  if (code === 'ETIMEDOUT') return 'timeout'
  if (code === 'ETLS' || /\b(ssl|tls)\b/i.test(message)) return 'tls'
  if (code === 'EAUTH') return 'login'
  if (code === 'EENVELOPE') return command === 'MAIL FROM' ? 'sender' : 'allRecipients'
  if (code === 'EMESSAGE' || command === 'DATA') return 'message'
  return 'connection'
}
