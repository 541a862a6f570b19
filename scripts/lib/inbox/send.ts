/** POST /api/v1/send: a mail from JSON goes through the mail server as any other; the answer comes when all of it is there. */
import { createTransport } from 'nodemailer'
import { messageOf } from '../cli.ts'
import type { Settings } from '../settings.ts'
import { flagOf } from './entry.ts'
import { refuse } from './guard.ts'
import type { Index } from './index.ts'

/** Milliseconds for the server to accept the mail, and to deliver all of it. */
const PATIENCE = { accept: 20_000, deliver: 10_000 }

interface Person {
  Name?: string
  Email: string
}

/** What openapi.json has as Send, which the body was checked against. */
export interface SendRequest {
  From: Person
  To?: Person[]
  Cc?: Person[]
  Bcc?: string[]
  ReplyTo?: Person[]
  Subject?: string
  Text?: string
  HTML?: string
  Headers?: Record<string, string>
  Attachments?: { Filename: string; Content: string; ContentType?: string; ContentID?: string }[]
  Tags?: string[]
}

/** Gives the mail's ID, and the recipients that were refused where others were not. Refuses with 400 what nobody gets. */
export async function sendMail(
  { host, ports }: Settings,
  index: Index,
  request: SendRequest,
  user: string,
): Promise<object> {
  const people = (list: Person[] = []) => list.map(({ Name: name = '', Email: address }) => ({ name, address }))
  const { accept: time } = PATIENCE
  const timeouts = { connectionTimeout: time, greetingTimeout: time, socketTimeout: time }
  const transport = createTransport({ host, port: ports.smtp, ignoreTLS: true, ...timeouts })
  const unfollow = index.follow('waiting')
  try {
    const sent = await transport.sendMail({
      from: people([request.From])[0],
      ...{ to: people(request.To), cc: people(request.Cc), bcc: request.Bcc ?? [], replyTo: people(request.ReplyTo) },
      ...{ subject: request.Subject ?? '', text: request.Text ?? '', ...(request.HTML && { html: request.HTML }) },
      headers: request.Headers ?? {},
      attachments: (request.Attachments ?? []).map(({ Filename, Content, ContentType, ContentID }) => ({
        filename: Filename,
        content: Buffer.from(Content.replace(/^data:[^,]*,/, ''), 'base64'),
        ...(ContentType && { contentType: ContentType }),
        ...(ContentID && { cid: ContentID, contentDisposition: 'inline' as const }),
      })),
      // A mail is made of what the request brings, and of nothing that it names.
      ...{ disableFileAccess: true, disableUrlAccess: true },
    })
    const id = /queued as (\w+)/.exec(sent.response)?.[1] ?? refuse(502, `The mail server says: ${sent.response}`)
    const entry = await index.expect(id, sent.accepted, user, PATIENCE.deliver)
    for (const tag of request.Tags ?? []) await index.flag(entry ? [entry] : [], flagOf(tag), true)
    return { ID: entry?.id ?? id, ...(sent.rejected.length > 0 && { Rejected: sent.rejected }) }
  } catch (error) {
    return refuse(400, messageOf(error))
  } finally {
    unfollow()
    transport.close()
  }
}
