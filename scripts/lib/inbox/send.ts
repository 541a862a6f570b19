/** POST /api/v1/send: a mail from JSON goes through the mail server as any other; the answer comes when all of it is there. */
import { setTimeout as sleep } from 'node:timers/promises'
import { toEnvelope } from '../mail/addresses.ts'
import { fold } from '../mail/filters.ts'
import { compose } from '../mail/message.ts'
import { SmtpSession } from '../mail/smtp.ts'
import type { Settings } from '../settings.ts'
import { flagOf } from './entry.ts'
import { refuse } from './guard.ts'
import type { Index } from './index.ts'

/** Milliseconds for each answer of the server, and for all copies of the mail to be there. */
export const PATIENCE = { answer: 20_000, deliver: 12_000 }

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
  { From, To = [], Cc = [], Bcc = [], ReplyTo = [], Headers = {}, Attachments = [], Tags = [], ...rest }: SendRequest,
): Promise<object> {
  const people = (list: Person[]) => list.map(({ Name: name = '', Email: address }) => ({ name, address }))
  const { bytes } = await compose({
    ...{ from: people([From]), to: people(To), cc: people(Cc), replyTo: people(ReplyTo) },
    ...{ subject: rest.Subject ?? '', text: rest.Text ?? '', html: rest.HTML || undefined },
    headers: Object.entries(Headers).map(([name, value]) => ({ name, value })),
    attachments: Attachments.map(({ Filename, Content, ContentType, ContentID }) => ({
      filename: Filename,
      content: Buffer.from(Content.replace(/^data:[^,]*,/, ''), 'base64'),
      ...(ContentType && { contentType: ContentType }),
      ...(ContentID && { cid: ContentID }),
    })),
  })
  const to = [...To, ...Cc].map(({ Email }) => Email).concat(Bcc)
  const envelope = { from: toEnvelope(From.Email), to: [...new Set(to.map(toEnvelope))] }
  const server = { host, port: ports.smtp, tls: 'none', timeout: PATIENCE.answer } as const
  const unfollow = index.follow('waiting')
  const session = await SmtpSession.open(server, { login: undefined, loginWasChosen: false })
  try {
    const { queueId, accepted, refused, problem } = await session.deliver({ envelope, bytes })
    if (!queueId) return refuse(400, problem ?? 'The mail server gave the mail no queue id')
    const there = () => (index.find(queueId)?.copies ?? []).map(({ recipient }) => fold(recipient))
    const end = Date.now() + PATIENCE.deliver
    while (!accepted.every((one) => there().includes(fold(one))) && Date.now() < end) await sleep(5)
    const entry = index.find(queueId)
    for (const tag of Tags) await index.flag(entry ? [entry] : [], flagOf(index.spelt(tag)), true)
    const Rejected = refused.map(({ recipient }) => recipient)
    return { ID: queueId, ...(Rejected.length > 0 && { Rejected }) }
  } finally {
    unfollow()
    await session.close()
  }
}
