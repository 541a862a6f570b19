/** Mailpit's API over the real mailboxes: its routes, and what a test wants beside them. */
import { createHash } from 'node:crypto'
import type { Address } from '../mail/addresses.ts'
import { codeOf } from '../mail/codes.ts'
import { fold } from '../mail/filters.ts'
import { linksOf } from '../mail/links.ts'
import { type Mail, readMail } from '../mail/mail.ts'
import type { Settings } from '../settings.ts'
import { bccOf, type Entry, envelopeOf, flagOf, isRead, mailboxesOf, SEEN, TAG, tagsOf, unreadOf } from './entry.ts'
import { refuse } from './guard.ts'
import type { Index } from './index.ts'
import { PORTION } from './mailbox.ts'
import { parseQuery, parseWait, search, waitFor } from './search.ts'
import { type SendRequest, sendMail } from './send.ts'
import { htmlOf, MAIL_POLICY, safeName, safeType } from './view.ts'

/** The Mailpit whose API this is. */
export const VERSION = 'v1.30.5-compatible'

export interface Call {
  /** What the path has in the place of ID or TAG, and of PART. */
  id: string
  part: string
  params: URLSearchParams
  /** The request's JSON, as openapi.json wants it. */
  body: { IDs?: string[]; Search?: string; Read?: boolean; Tags?: string[]; Name?: string } & Partial<SendRequest>
  /** Whether the page of another site caused the request, which may change nothing then. */
  isForeign: boolean
  /** Aborted when the client goes away. */
  signal: AbortSignal
}

const RELAY = { Enabled: false, SMTPServer: '', ReturnPath: '', OverrideFrom: '', PreserveMessageIDs: false }
/** What Mailpit's page may do and this server does not. */
const WEBUI = {
  ...{ Label: '', SpamAssassin: false, ChaosEnabled: false, DuplicatesIgnored: false, HideDeleteAllButton: false },
  MessageRelay: { ...RELAY, AllowedRecipients: '', BlockedRecipients: '', RecipientAllowlist: '' },
}

/** What a route answers: a text, a value for JSON, or more than that. Nothing, where a thing is done, is "ok". */
type Answer = string | object | Response
export type Routes = Record<string, (call: Call) => Answer | Promise<Answer> | Promise<void>>

export function routesOf(settings: Settings, index: Index): Routes {
  const chaos = () => refuse(400, 'Chaos is off. Addresses fail on demand here: anything+fail-550@example.com')
  return {
    'GET /api/v1/messages': async ({ params }) => {
      const isWanted = mailboxTest(params)
      await current(countOf(params, 'start', 0) + (countOf(params, 'limit', 50) || Number.POSITIVE_INFINITY))
      return listed(index.all.list.filter(isWanted), params)
    },
    'PUT /api/v1/messages': async (call) => index.flag(await named(call), SEEN, call.body.Read ?? false),
    'DELETE /api/v1/messages': async (call) => {
      await index.delete(await named(call))
      if (index.all.list.length === 0) index.tell('truncate')
    },
    'GET /api/v1/search': async (call) => listed(await searched(call), call.params),
    'DELETE /api/v1/search': async (call) => index.delete(await searched(call)),
    'GET /api/v1/message/{ID}': (call) => opened(call).then(({ entry, mail }) => messageOf(entry, mail)),
    'GET /api/v1/message/{ID}/headers': async (call) => {
      const headers: Record<string, string[]> = {}
      for (const { name, value } of (await read(call)).mail.headers) {
        const key = name.toLowerCase().replace(/(?<![a-z])[a-z]/g, (letter) => letter.toUpperCase())
        headers[key] = [...(headers[key] ?? []), value]
      }
      return headers
    },
    'GET /api/v1/message/{ID}/raw': async (call) => {
      const { entry, raw } = await read(call)
      const download = call.params.get('dl') === '1' ? disposition('attachment', `${entry.id}.eml`) : {}
      return textOf(new Uint8Array(raw), 'text/plain', download)
    },
    'GET /api/v1/message/{ID}/part/{PART}': async (call) => {
      const file = (await read(call)).mail.attachments.find(({ part }) => part === call.part)
      const { type, name, bytes } = file ?? refuse(404, 'There is no such part')
      // Whatever its sender calls it, a browser shows nothing but pictures here.
      const kind = /^image\/(png|jpeg|gif|webp)$/.test(type) ? 'inline' : 'attachment'
      const headers = { 'content-type': safeType(type), 'content-security-policy': "sandbox; default-src 'none'" }
      return new Response(new Uint8Array(bytes), { headers: { ...headers, ...disposition(kind, safeName(name)) } })
    },
    'POST /api/v1/send': async ({ body }) => {
      await current()
      return sendMail(settings, index, body as SendRequest)
    },
    'GET /api/v1/tags': () => current().then(() => index.all.tags),
    'PUT /api/v1/tags': async (call) => {
      const entries = await named(call)
      const wanted = (call.body.Tags ?? []).map((tag) => index.spelt(tag))
      for (const tag of index.all.tags) if (!wanted.includes(tag)) await index.flag(entries, flagOf(tag), false)
      for (const tag of wanted) await index.flag(entries, flagOf(tag), true)
    },
    'PUT /api/v1/tags/{TAG}': async ({ id, body: { Name = '' } }) => {
      const { tag, entries } = await tagged(id)
      const to = fold(Name) === fold(tag) ? Name : index.spelt(Name)
      await index.flag(entries, flagOf(to), true)
      if (to !== tag) await index.flag(entries, flagOf(tag), false)
    },
    'DELETE /api/v1/tags/{TAG}': ({ id }) =>
      tagged(id).then(({ tag, entries }) => index.flag(entries, flagOf(tag), false)),
    'GET /api/v1/mailboxes': async () => {
      await current()
      return index.mailboxes.map((Name) => {
        const entries = index.all.list.filter((entry) => mailboxesOf(entry).includes(Name))
        return { Name, Total: entries.length, Unread: unreadOf(entries) }
      })
    },
    'GET /api/v1/info': () => {
      const { list, unread: Unread, tags } = index.all
      const Tags = tags.map((tag) => [tag, list.filter((entry) => tagsOf(entry).includes(tag)).length])
      const nothing = { MessagesDeleted: 0, SMTPAcceptedSize: 0, SMTPRejected: 0, SMTPIgnored: 0 }
      const [Uptime, Memory] = [Math.round(process.uptime()), process.memoryUsage.rss()]
      return {
        ...{ Version: VERSION, LatestVersion: VERSION, Database: 'imap' },
        DatabaseSize: list.reduce((sum, { size }) => sum + size, 0),
        ...{ Messages: list.length, Unread, Tags: Object.fromEntries(Tags) },
        RuntimeStats: { Uptime, Memory, SMTPAccepted: index.arrivals, ...nothing },
      }
    },
    'GET /api/v1/webui': () => WEBUI,
    'GET /api/v1/chaos': chaos,
    'PUT /api/v1/chaos': chaos,
    'GET /livez': () => 'ok',
    'GET /readyz': () => current(0),
    'GET /view/{ID}.html': async (call) => {
      const { mail } = await opened(call)
      const html = htmlOf(mail.html ?? refuse(404, 'This message has no HTML'), mail, call.params.get('embed') === '1')
      const headers = { 'content-security-policy': MAIL_POLICY, 'x-dns-prefetch-control': 'off' }
      return textOf(html, 'text/html', headers)
    },
    'GET /view/{ID}.txt': async (call) => {
      const { mail } = await opened(call)
      return mail.text ?? mail.readableText
    },
  }

  /** Has what came a moment ago in the list; and older mail than the newest `count` where the mailboxes are just being read. */
  async function current(count = Number.POSITIVE_INFINITY): Promise<void> {
    await index.refresh()
    if (!index.isUp) refuse(503, 'The mail server is away. Start it: npm start')
    if (count > PORTION) await index.fill()
  }

  /** Tests whether a message is in the mailbox that the request names, if any. */
  function mailboxTest(params: URLSearchParams): (entry: Entry) => boolean {
    const wanted = params.get('mailbox')?.toLowerCase()
    if (!wanted) return () => true
    const name = index.mailboxes.find((one) => one.toLowerCase() === wanted)
    if (!name) return refuse(400, `mailbox=${wanted}: there is no such mailbox. See /api/v1/mailboxes`)
    return (entry) => mailboxesOf(entry).includes(name)
  }

  /** The messages that a request's query finds, or waits for. */
  async function searched({ params, signal }: Call, standard = ''): Promise<Entry[]> {
    const query = parseQuery(params.get('query') || standard, params.get('tz') ?? undefined)
    const isInMailbox = mailboxTest(params)
    await current()
    const { seconds, isNew } = parseWait(params, index)
    const isWanted = (entry: Entry) => isNew(entry) && isInMailbox(entry)
    if (seconds > 0) return waitFor(index, query, seconds, isWanted, summaryOf, signal)
    return search(index, query, index.all.list.filter(isWanted))
  }

  /** The message that the path names: by its ID, or the newest of those that match. */
  async function found(call: Call): Promise<Entry> {
    if (call.id === 'latest') return (await searched(call, 'larger:0'))[0] ?? refuse(404, 'No mail matches')
    if (!index.isUp || !index.find(call.id)) await current()
    return index.find(call.id) ?? refuse(404, `There is no message ${call.id}`)
  }

  async function read(call: Call): Promise<{ entry: Entry; raw: Buffer; mail: Mail }> {
    const entry = await found(call)
    const raw = (await index.source(entry)) ?? refuse(404, `The message ${entry.id} is gone`)
    return { entry, raw, mail: readMail(raw) }
  }

  /** `read`, which marks the message as read. */
  async function opened(call: Call): Promise<{ entry: Entry; mail: Mail }> {
    const { entry, mail } = await read(call)
    if (!call.isForeign) await index.flag([entry], SEEN, true)
    return { entry, mail }
  }

  /** The messages that a body names: by IDs, by Search, or all where it names none; of the mailbox that the request names. */
  async function named({ body: { IDs = [], Search }, params }: Call): Promise<Entry[]> {
    const query = Search ? parseQuery(Search, params.get('tz') ?? undefined) : []
    const isWanted = mailboxTest(params)
    await current()
    if (IDs.length > 0) return IDs.flatMap((id) => index.find(id) ?? [])
    return search(index, query, index.all.list.filter(isWanted))
  }

  async function tagged(name: string): Promise<{ tag: string; entries: Entry[] }> {
    if (!TAG.test(name)) refuse(404, `There is no tag ${name}`)
    await current()
    const tag = index.spelt(name)
    return { tag, entries: index.all.list.filter((entry) => tagsOf(entry).includes(tag)) }
  }

  async function listed(entries: Entry[], params: URLSearchParams): Promise<object> {
    const [start, limit] = [countOf(params, 'start', 0), countOf(params, 'limit', 50)]
    const shown = entries.slice(start, limit > 0 ? start + limit : undefined)
    await index.readSnippets(shown)
    const { list, unread, tags } = index.all
    return {
      ...{ total: list.length, unread, tags, count: shown.length, start },
      ...{ messages_count: entries.length, messages_unread: unreadOf(entries) },
      messages: shown.map(summaryOf),
    }
  }
}

/** An answer with its media type. */
export function textOf(content: string | Uint8Array<ArrayBuffer>, type: string, headers: Record<string, string> = {}) {
  return new Response(content, { headers: { 'content-type': `${type}; charset=utf-8`, ...headers } })
}

const personOf = ({ name, address }: Address) => ({ Name: name, Address: address })

/** Mailpit's Summary. */
export function summaryOf(entry: Entry) {
  const Created = new Date(entry.created).toISOString()
  return {
    ...headOf(entry),
    Read: isRead(entry),
    Created,
    Attachments: entry.attachments,
    Snippet: entry.snippet ?? '',
  }
}

/** What Summary and Message have in common: Mailpit's, and beside it whom the envelope named and which mailboxes have a copy. */
function headOf(entry: Entry) {
  return {
    ...{ ID: entry.id, MessageID: entry.messageId, Subject: entry.subject, Size: entry.size, Username: '' },
    From: personOf(entry.from[0] ?? { name: '', address: '' }),
    ...{ To: entry.to.map(personOf), Cc: entry.cc.map(personOf), Bcc: bccOf(entry).map(personOf) },
    ...{ ReplyTo: entry.replyTo.map(personOf), Tags: tagsOf(entry) },
    ...{ EnvelopeTo: envelopeOf(entry), Mailboxes: mailboxesOf(entry) },
  }
}

/** Mailpit's Message, with what a test looks for: links and the one-time code, null where there is none. */
function messageOf(entry: Entry, mail: Mail) {
  const headerOf = (wanted: string) => mail.headers.find(({ name }) => name.toLowerCase() === wanted)?.value ?? ''
  const [Header, HeaderPost] = [headerOf('list-unsubscribe'), headerOf('list-unsubscribe-post')]
  const Links = [...Header.matchAll(/<([^<>]+)>/g)].map(([, link]) => link)
  return {
    ...headOf(entry),
    Date: (mail.date ?? new Date(entry.created)).toISOString(),
    ReturnPath: headerOf('return-path').replace(/^<|>$/g, ''),
    ListUnsubscribe: { Header, Links, Errors: '', HeaderPost },
    ...{ Text: mail.text ?? mail.readableText, HTML: mail.html ?? '' },
    Inline: mail.attachments.filter(({ inline }) => inline).map(attachmentOf),
    Attachments: mail.attachments.filter(({ inline }) => !inline).map(attachmentOf),
    ...{ Links: linksOf(mail), Code: codeOf(mail) ?? null },
  }
}

function attachmentOf({ part, name, type, contentId, bytes }: Mail['attachments'][number]) {
  const sumOf = (kind: string) => createHash(kind).update(bytes).digest('hex')
  const Checksums = { MD5: sumOf('md5'), SHA1: sumOf('sha1'), SHA256: sumOf('sha256') }
  const names = { FileName: safeName(name), ContentType: type, ContentID: contentId }
  return { PartID: part, ...names, Size: bytes.length, Checksums }
}

function disposition(kind: string, name: string): Record<string, string> {
  // RFC 8187: what encodeURIComponent leaves and a parameter may not have.
  const encoded = encodeURIComponent(Buffer.from(name).toString())
  const text = encoded.replace(/['()*]/g, (one) => `%${one.charCodeAt(0).toString(16)}`)
  return { 'content-disposition': name ? `${kind}; filename*=UTF-8''${text}` : kind }
}

function countOf(params: URLSearchParams, name: string, standard: number): number {
  const text = params.get(name) || String(standard)
  return /^\d{1,9}$/.test(text) ? Number(text) : refuse(400, `${name}=${text}: a number is wanted`)
}
