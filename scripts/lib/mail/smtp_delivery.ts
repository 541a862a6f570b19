/** What became of a message: the replies of an SMTP dialogue, recipient by recipient and phase by phase. */
import type { ExitName, Failure } from '../cli.ts'
import { isPositive, type Reply } from './smtp_connection.ts'

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

/** How far the dialogue about one message came. */
export interface Dialogue {
  /** To MAIL FROM, to RCPT TO for each recipient, to DATA and to the message, as far as they came. */
  replies: Reply[]
  /** The message was sent, whatever came after. */
  handedOver: boolean
  /** What ended the dialogue before its time. */
  broken: Failure | undefined
  /** Whether the connection can carry another message. */
  usable: boolean
  /** The server, for sentences. */
  where: string
}

/** Whether the replies before the message leave nothing to send it for. */
export function isDecided(to: string[], replies: Reply[]): boolean {
  return judge(to, replies) !== undefined
}

/** What became of a message to these recipients. */
export function deliveryOf(to: string[], { replies, handedOver, broken, usable, where }: Dialogue): Delivery {
  const verdict = judge(to, replies)
  const refused = refusalsOf(to, replies)
  const reply = verdict?.reply.text ?? null
  if (verdict?.exit === 'ok' || verdict?.exit === 'someRecipients') {
    const problem = `${where}: ${refused.length} of ${to.length} recipients were refused.`
    return {
      exit: verdict.exit,
      reply,
      queueId: queueIdOf(verdict.reply.text),
      accepted: to.filter((_, index) => isPositive(replies[index + 1])),
      refused,
      problem: refused.length > 0 ? problem : null,
      untaken: false,
    }
  }
  const doubt = handedOver ? ' Whether the server took the message is not known.' : ''
  const problem = verdict ? `${where}: ${verdict.command} refused: ${reply}` : `${broken?.message}${doubt}`
  // 421 is about the connection, any other reply about the message (RFC 5321 section 3.8).
  const untaken = !handedOver && !usable && (!verdict || verdict.reply.code === 421)
  const exit = verdict?.exit ?? broken?.exit ?? 'failed'
  return { exit, reply, queueId: null, accepted: [], refused, problem, untaken }
}

/**
 * What the replies to MAIL FROM, to each RCPT TO, to DATA and to the message mean, and which of them decides; undefined
 * while the message can still be sent.
 */
function judge(to: string[], replies: Reply[]): { exit: ExitName; command: string; reply: Reply } | undefined {
  const [sender, ...others] = replies
  const recipients = others.slice(0, to.length)
  const [data, end] = others.slice(to.length)
  if (sender && !isPositive(sender)) return { exit: 'sender', command: 'MAIL FROM', reply: sender }
  const last = recipients.at(-1)
  const isRefused = recipients.length === to.length && !recipients.some(isPositive)
  if (last && (isRefused || last.code === 421)) return { exit: 'allRecipients', command: 'RCPT TO', reply: last }
  if (data && data.code !== 354) return { exit: 'message', command: 'DATA', reply: data }
  if (!end) return undefined
  if (!isPositive(end)) return { exit: 'message', command: 'the message', reply: end }
  return { exit: recipients.every(isPositive) ? 'ok' : 'someRecipients', command: 'the message', reply: end }
}

/** The recipients that were refused by themselves, not because the sender was. */
function refusalsOf(to: string[], [sender, ...others]: Reply[]): Refusal[] {
  if (!isPositive(sender)) return []
  return to.flatMap((recipient, index) => {
    const reply = others[index]
    if (!reply || isPositive(reply)) return []
    const [, enhancedCode = null] = /^\d{3} ([245]\.\d{1,3}\.\d{1,3})(?= |$)/.exec(reply.text) ?? []
    return [{ recipient, code: reply.code, enhancedCode, reply: reply.text }]
  })
}

/** Postfix says "queued as 4XyZ", Exim "id=1abcde-000001-AB". */
function queueIdOf(reply: string): string | null {
  return /\bqueued as ([^\s>]+)/i.exec(reply)?.[1] ?? /\bid=(\S+)/.exec(reply)?.[1] ?? null
}
