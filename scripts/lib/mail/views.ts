/** What pop_email shows of one mail, by the option that asks for it. Nothing here reaches a terminal unescaped but --raw. */
import { detectExtension } from 'nodemailer/lib/mime-funcs'
import { columnsOf, style, table } from '../cli.ts'
import { codeOf } from './codes.ts'
import { linksOf } from './links.ts'
import type { Headers, Mail } from './mail.ts'
import { firstOf } from './parts.ts'
import type { Pop3Message } from './pop3.ts'
import { type Folder, safeFileName } from './save.ts'
import { jsonLine, visible, visibleLine } from './visible.ts'

/** A mail with where it comes from. The views in HEADER_VIEWS get along with the header alone. */
interface Source {
  account: string
  /** Several mailboxes are shown, so each mail says which it is in. */
  isOneOfMany: boolean
  message: Pop3Message
  raw: Buffer
  mail: Mail
  /** Which links --links wants. */
  wantsLink: (link: string) => boolean
}

/** A line of --list needs no more. */
export type Listed = Pick<Source, 'account' | 'isOneOfMany' | 'message'> & { mail: Headers }

export const HEADER_VIEWS: readonly string[] = ['list', 'headers']

/** What stdout gets, with its line end; undefined where the mail has nothing of the kind. */
export type View = (source: Source) => string | Uint8Array | undefined

export const VIEWS: Record<'text' | 'headers' | 'html' | 'links' | 'code' | 'raw' | 'json', View> = {
  text: ({ account, isOneOfMany, mail }) => {
    const attachments = mail.attachments.map(
      ({ name, type, bytes }) =>
        `Attachment: ${visibleLine(name || '(no name)')} (${visibleLine(type)}, ${bytes.length} bytes)\n`,
    )
    const text = visible(mail.readableText).trimEnd()
    return [
      isOneOfMany ? field('Mailbox', account) : '',
      ...['From', 'To', 'Date', 'Subject'].map((name) => field(name, firstOf(mail.headers, name.toLowerCase()))),
      text && `\n${text}\n`,
      attachments.length > 0 ? `\n${attachments.join('')}` : '',
      '\n',
    ].join('')
  },
  headers: ({ mail }) => `${mail.headers.map(({ name, value }) => field(name, value)).join('')}\n`,
  html: ({ mail }) => lines(mail.html === null ? [] : [visible(mail.html).trimEnd()]),
  links: ({ mail, wantsLink }) => lines(linksOf(mail).filter(wantsLink).map(visibleLine)),
  code: ({ mail }) => lines([codeOf(mail) ?? []].flat().map(visibleLine)),
  raw: ({ raw }) => raw,
  json: (source) => `${jsonLine(toJson(source))}\n`,
}

/** The view of --save and --save-attachments: saves, and gives the paths, one a line. Undefined for no file. */
export function saver(mailFolder: Folder | undefined, attachmentFolder: Folder | undefined): View {
  return ({ account, message, raw, mail }) => {
    const paths: string[] = []
    if (mailFolder) {
      const localPart = account.split(/[@*]/)[0]
      paths.push(mailFolder.save(safeFileName(`${localPart}-${message.uidl}.eml`, 'mail.eml'), raw))
    }
    if (attachmentFolder) {
      for (const [index, { name, type, bytes }] of mail.attachments.entries()) {
        const otherwise = `attachment-${index + 1}.${detectExtension(type).replace('*', 'bin')}`
        paths.push(attachmentFolder.save(safeFileName(name, otherwise), bytes))
      }
    }
    return lines(paths.map(visibleLine))
  }
}

/** Characters of a field in a line of --list, and columns of a terminal from which on the list has the UIDL. */
const [LONGEST_CELL, WIDE] = [200, 100]
/** Swedes write "2026-11-22 15:26". */
const TIME = new Intl.DateTimeFormat('sv', { dateStyle: 'short', timeStyle: 'short' })

/** The lines of --list, a header first. They fit into so many columns of a terminal, where it has that many. */
export function listOf(sources: Listed[], columns = Number.POSITIVE_INFINITY): string {
  const isOneOfMany = sources.some((source) => source.isOneOfMany)
  const rows = sources.map(({ account, message, mail }) => {
    const date = mail.date ?? mail.arrived
    return {
      ...(isOneOfMany ? { Mailbox: account } : {}),
      No: String(message.number),
      ...(columns >= WIDE ? { UIDL: message.uidl } : {}),
      Bytes: String(message.size),
      Date: date ? TIME.format(date) : '-',
      Recipient: mail.envelopeRecipient,
      From: firstOf(mail.headers, 'from'),
      Subject: mail.subject,
    }
  })
  const cells = rows.map((row) => Object.values(row).map((cell) => visibleLine(cut(cell, LONGEST_CELL))))
  return table(fitted([Object.keys(rows[0] ?? {}), ...cells], columns))
}

/** Cells are cut in the widest columns, until a line of `table` has so many columns at most. */
function fitted(rows: string[][], columns: number): string[][] {
  const widths = (rows[0] ?? []).map((_, index) => Math.max(...rows.map((row) => columnsOf(row[index] ?? ''))))
  const total = () => widths.reduce((sum, width) => sum + width + 2, -2)
  while (total() > columns && Math.max(...widths) > 1) {
    const widest = widths.indexOf(Math.max(...widths))
    widths[widest] = Math.max(...widths) - 1
  }
  return rows.map((row) => row.map((cell, index) => cut(cell, widths[index] ?? 0)))
}

/** A text in so many columns of a terminal, "…" for what is cut off. */
function cut(text: string, columns: number): string {
  let beginning = text.slice(0, 2 * columns)
  if (beginning === text && columnsOf(text) <= columns) return text
  while (columnsOf(beginning) >= columns) beginning = [...beginning].slice(0, -1).join('')
  return `${beginning}…`
}

/** The documented shape of --json. Everything is there in every mail; what a mail has not is null or empty. */
function toJson({ account, message, mail }: Source) {
  return {
    account,
    uidl: message.uidl,
    size: message.size,
    envelopeRecipient: mail.envelopeRecipient || null,
    messageId: mail.messageId || null,
    from: mail.from,
    to: mail.to,
    cc: mail.cc,
    date: mail.date?.toISOString() ?? null,
    subject: mail.subject,
    text: mail.text,
    html: mail.html,
    headers: mail.headers,
    attachments: mail.attachments.map(({ name, type, contentId, bytes }) => ({
      name: name || null,
      type,
      size: bytes.length,
      cid: contentId || null,
    })),
    links: linksOf(mail),
  }
}

function field(name: string, value: string): string {
  return `${style('bold', `${visibleLine(name)}:`)} ${visibleLine(value)}\n`
}

function lines(list: string[]): string | undefined {
  return list.length > 0 ? `${list.join('\n')}\n` : undefined
}
