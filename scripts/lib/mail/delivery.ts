/** What is sent over SMTP, and what became of it. */
import type { ExitName } from '../cli.ts'
import { visibleLine } from './visible.ts'

/** Who sends and who receives, which the header need not say. An empty sender is the null sender of bounces. */
export interface Envelope {
  from: string
  to: string[]
}

/** A message with its envelope. Line ends leave as CRLF (RFC 5321 section 2.3.8), all other bytes as they are. */
export interface Outgoing {
  envelope: Envelope
  bytes: Buffer
  messageId?: string | null
}

export interface Refusal {
  recipient: string
  /** The three-digit reply code. */
  code: number
  /** The enhanced status code of RFC 3463, such as 5.1.1, where the reply has one. */
  enhancedCode: string | null
  reply: string
}

/** What became of one message. */
export interface Delivery {
  /** `ok`, or the phase that it failed in. */
  exit: ExitName
  /** The reply that decided: of acceptance or refusal; null where none came. */
  reply: string | null
  /** What the server calls the message in its queue and log. */
  queueId: string | null
  /** The recipients that the server took the message for. */
  accepted: string[]
  refused: Refusal[]
  /** What went wrong, as a sentence; null where nothing did. */
  problem: string | null
  /** The connection broke before the message was handed over: to send it again cannot double it. */
  untaken: boolean
}

/** What became of a message, in one word. */
export function statusOf(exit: ExitName): 'accepted' | 'partial' | 'refused' | 'failed' {
  if (exit === 'ok') return 'accepted'
  if (exit === 'someRecipients') return 'partial'
  return exit === 'sender' || exit === 'allRecipients' || exit === 'message' ? 'refused' : 'failed'
}

/** The refusal of one recipient by a reply to its RCPT TO. */
export function refusalOf(recipient = '', response = ''): Refusal {
  const reply = onOneLine(response)
  const [, enhancedCode = null] = /^\d{3} ([245]\.\d{1,3}\.\d{1,3})(?= |$)/.exec(reply) ?? []
  return { recipient, code: Number.parseInt(reply, 10) || 0, enhancedCode, reply }
}

/** What a server that has taken a message calls it: Postfix says "queued as 4XyZ", Exim "id=1abcde-000001-AB". */
export function queueIdOf(reply: string): string | null {
  return /\bqueued as ([^\s>]+)/i.exec(reply)?.[1] ?? /\bid=(\S+)/.exec(reply)?.[1] ?? null
}

/** A reply fit for a terminal. The codes of the lines after the first say nothing new. */
export function onOneLine(reply: string): string {
  return visibleLine(reply.replace(/^(\d{3})-/, '$1 ').replace(/\n\d{3}[ -]?(?:[245]\.\d+\.\d+ )?/g, ' '))
}
