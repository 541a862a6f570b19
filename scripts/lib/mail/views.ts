/** What pop_email shows of one mail, by the option that asks for it. Nothing here reaches a terminal unescaped but --raw. */
import { style } from '../cli.ts'
import type { Mail } from './mail.ts'
import type { Pop3Message } from './pop3.ts'
import { jsonLine, visible, visibleLine } from './visible.ts'

/** A mail with where it comes from. `raw` is the whole mail, or its header alone for a view that needs no more. */
export interface Source {
  account: string
  /** Several mailboxes are shown, so each mail says which it is in. */
  isOneOfMany: boolean
  message: Pop3Message
  raw: Buffer
  mail: Mail
}

/** The views that a header is enough for. */
export const HEADER_VIEWS: readonly string[] = ['list', 'headers']

/** Gives what stdout gets, with its line end; undefined where the mail has nothing of the kind. */
export const VIEWS = {
  text: ({ account, isOneOfMany, mail }: Source) => {
    const attachments = mail.attachments.map(
      ({ name, type, content }) =>
        `Attachment: ${visibleLine(name ?? '(no name)')} (${visibleLine(type)}, ${content().length} bytes)\n`,
    )
    const text = visible(mail.readableText).trimEnd()
    return [
      isOneOfMany ? field('Mailbox', account) : '',
      ...['From', 'To', 'Date', 'Subject'].map((name) => field(name, mail.header(name.toLowerCase()) ?? '')),
      text && `\n${text}\n`,
      attachments.length > 0 ? `\n${attachments.join('')}` : '',
      '\n',
    ].join('')
  },
  headers: ({ mail }: Source) => `${mail.headers.map(({ name, value }) => field(name, value)).join('')}\n`,
  html: ({ mail }: Source) => lines(mail.html === undefined ? [] : [visible(mail.html).trimEnd()]),
  links: ({ mail }: Source) => lines(mail.links.map(visibleLine)),
  code: ({ mail }: Source) => lines(mail.code ? [mail.code] : []),
  raw: ({ raw }: Source) => raw,
  json: (source: Source) => `${jsonLine(toJson(source))}\n`,
} as const

/** The columns of --list. */
export function listRow({ account, isOneOfMany, message, mail }: Source): string[] {
  return [
    ...(isOneOfMany ? [account] : []),
    String(message.number),
    message.uidl,
    String(message.size),
    localTime(mail.date ?? mail.arrived),
    mail.header('from') ?? '',
    mail.subject,
  ].map((cell) => visibleLine(cell.length > LONGEST_CELL ? `${cell.slice(0, LONGEST_CELL)}…` : cell))
}

/** Characters of a field in a line of --list. */
const LONGEST_CELL = 200

/** The documented shape of --json. Everything is there in every mail; what a mail has not is null or empty. */
function toJson({ account, message, mail }: Source) {
  return {
    account,
    uidl: message.uidl,
    size: message.size,
    envelopeRecipient: mail.envelopeRecipient ?? null,
    messageId: mail.messageId ?? null,
    from: mail.from,
    to: mail.to,
    cc: mail.cc,
    date: mail.date?.toISOString() ?? null,
    subject: mail.subject,
    text: mail.text ?? null,
    html: mail.html ?? null,
    headers: mail.headers,
    attachments: mail.attachments.map(({ name, type, cid, content }) => ({ name, type, size: content().length, cid })),
    links: mail.links,
  }
}

function field(name: string, value: string): string {
  return `${style('bold', `${visibleLine(name)}:`)} ${visibleLine(value)}\n`
}

function lines(list: string[]): string | undefined {
  return list.length > 0 ? `${list.join('\n')}\n` : undefined
}

/** A date as "2026-11-22 15:26" in the local time zone. */
function localTime(date: Date | undefined): string {
  if (!date) return '-'
  const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000)
  return Number.isNaN(local.getTime()) ? '-' : local.toISOString().slice(0, 16).replace('T', ' ')
}
