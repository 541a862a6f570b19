/** POST /api/v1/send: a mail from JSON, handed to the mail server as any other, and answered when all of it has arrived. */
import { createTransport } from 'nodemailer'
import { messageOf } from '../cli.ts'
import type { Settings } from '../settings.ts'
import { refuse } from './guard.ts'
import { envelopeOf, flagOf, type Index } from './index.ts'

/** Milliseconds for the server to take the mail, and to deliver it. */
const PATIENCE = { accept: 20_000, deliver: 10_000 }

interface Person {
  name: string
  address: string
}

type Body = Record<string, unknown>

/** Sends the mail that `body` describes. Gives its ID, and who was refused. Refuses with 400 what is no mail. */
export async function sendMail(settings: Settings, index: Index, body: Body, tags: string[]): Promise<object> {
  const { host, ports } = settings
  const mail = {
    from: people([body.From], 'From')[0],
    to: people(listOf(body, 'To'), 'To'),
    cc: people(listOf(body, 'Cc'), 'Cc'),
    bcc: people(
      listOf(body, 'Bcc').map((Email) => ({ Email })),
      'Bcc',
    ),
    replyTo: people(listOf(body, 'ReplyTo'), 'ReplyTo'),
    subject: textOf(body, 'Subject'),
    text: textOf(body, 'Text'),
    ...(body.HTML ? { html: textOf(body, 'HTML') } : {}),
    headers: headersOf(body.Headers ?? {}),
    attachments: listOf(body, 'Attachments').map(attachmentOf),
    // A mail is what the request brings, and nothing that it names.
    disableFileAccess: true,
    disableUrlAccess: true,
  }
  if (mail.to.length + mail.cc.length + mail.bcc.length === 0) refuse(400, 'To, Cc and Bcc are empty')
  const time = PATIENCE.accept
  const server = { host, port: ports.smtp, ignoreTLS: true, connectionTimeout: time, greetingTimeout: time }
  const transport = createTransport({ ...server, socketTimeout: time })
  index.waiting++
  index.hurry()
  try {
    const sent = await transport.sendMail(mail).catch((error) => refuse(400, messageOf(error)))
    const id = /queued as (\w+)/.exec(sent.response)?.[1] ?? refuse(502, `The mail server says: ${sent.response}`)
    const accepted = sent.accepted.map((address) => address.toLowerCase())
    const entry = await index.arrival(id, PATIENCE.deliver, (one) => {
      const there = envelopeOf(one).map((address) => address.toLowerCase())
      return accepted.every((address) => there.includes(address))
    })
    if (entry) for (const tag of tags) await index.flag([entry], flagOf(tag), true)
    const { rejected } = sent
    return { ID: id, ...(rejected.length > 0 ? { Rejected: rejected } : {}) }
  } finally {
    index.waiting--
    transport.close()
  }
}

function people(list: unknown[], field: string): Person[] {
  return list.map((one) => {
    const { Name = '', Email } = (one ?? {}) as Record<string, unknown>
    if (typeof Email !== 'string' || typeof Name !== 'string')
      return refuse(400, `${field}: {"Email": "...", "Name": "..."} is wanted`)
    // What could end a line ends an SMTP command or a header, and begins another.
    if (/[\x00-\x1f\x7f]/.test(Email + Name))
      refuse(400, `${field}: ${JSON.stringify(Email)} has a control character in it`)
    if (!/^[^\s@<>,;]+@[^\s@<>,;]+$/.test(Email) || Email.length > 320)
      refuse(400, `${field}: ${Email.slice(0, 320)} is no address`)
    return { name: Name, address: Email }
  })
}

function listOf(body: Body, field: string): unknown[] {
  const value = body[field] ?? []
  return Array.isArray(value) ? value : refuse(400, `${field}: a list is wanted`)
}

function textOf(body: Body, field: string): string {
  const value = body[field] ?? ''
  return typeof value === 'string' ? value : refuse(400, `${field}: a text is wanted`)
}

function headersOf(headers: unknown): Record<string, string> {
  for (const [name, value] of Object.entries(headers as object)) {
    if (!/^[\w-]+$/.test(name)) refuse(400, `Headers: ${JSON.stringify(name)} is no name of a header`)
    if (typeof value !== 'string' || /[\r\n\0]/.test(value)) refuse(400, `Headers: ${name} wants one line of text`)
  }
  return headers as Record<string, string>
}

function attachmentOf(one: unknown) {
  const { Content, Filename, ContentType, ContentID } = (one ?? {}) as Record<string, unknown>
  const texts = [Content, Filename, ContentType ?? '', ContentID ?? '']
  if (texts.some((text) => typeof text !== 'string'))
    refuse(400, 'Attachments: {"Filename", "Content", "ContentType", "ContentID"} are texts')
  const base64 = (Content as string).replace(/^data:[^,]*,/, '').replace(/\s/g, '')
  if (!/^[\w+/-]*={0,2}$/.test(base64)) refuse(400, `Attachments: ${Filename}: Content is not base64`)
  if (/[\x00-\x1f\x7f]/.test(`${Filename}${ContentType}${ContentID}`))
    refuse(400, 'Attachments: a control character in a name')
  return {
    filename: Filename as string,
    content: Buffer.from(base64, 'base64'),
    ...(ContentType ? { contentType: ContentType as string } : {}),
    ...(ContentID ? { cid: ContentID as string, contentDisposition: 'inline' as const } : {}),
  }
}
