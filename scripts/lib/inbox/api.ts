/** The HTTP side: Mailpit's API over the real mailboxes, the page, and the events. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type WebSocket, WebSocketServer } from 'ws'
import { messageOf } from '../cli.ts'
import { codeOf } from '../mail/codes.ts'
import { linksOf } from '../mail/links.ts'
import { type Address, type Mail, readMail } from '../mail/mail.ts'
import { ROOT, type Settings } from '../settings.ts'
import { guard, HttpError, hostsOf, isForeign, refuse } from './guard.ts'
import { bccOf, type Entry, envelopeOf, flagOf, Index, isRead, LONGEST_TAG, mailboxesOf, tagsOf } from './index.ts'
import { parseQuery, search } from './search.ts'
import { sendMail } from './send.ts'
import { htmlOf, MAIL_POLICY, safeType } from './view.ts'
import { parseWait, waitFor } from './wait.ts'

/** The Mailpit whose API this is. */
const VERSION = 'v1.30.5-compatible'
/** Bytes of a request's body: attachments of the largest mail that the server takes, in base64, twice. */
const LARGEST_BODY = 30_000_000
const PAGE_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
  "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
const HERE = dirname(fileURLToPath(import.meta.url))
const page = (name: string) => join(HERE, 'page', name)
const FILES: Record<string, [string, string]> = {
  '/': [page('index.html'), 'text/html; charset=utf-8'],
  '/page.js': [page('page.js'), 'text/javascript; charset=utf-8'],
  '/inbox.js': [page('inbox.js'), 'text/javascript; charset=utf-8'],
  '/words.js': [page('words.js'), 'text/javascript; charset=utf-8'],
  '/style.css': [page('style.css'), 'text/css; charset=utf-8'],
  '/vendor/htm-preact.js': [
    join(ROOT, 'node_modules/htm/preact/standalone.module.js'),
    'text/javascript; charset=utf-8',
  ],
  '/api/v1/openapi.json': [join(HERE, 'openapi.json'), 'application/json'],
}

interface Call {
  request: IncomingMessage
  /** What the route's pattern took out of the path. */
  id: string
  rest: string
  params: URLSearchParams
  body: Record<string, unknown>
  /** Aborted when the client goes away. */
  signal: AbortSignal
}
interface Reply {
  type: string
  body: string | Uint8Array
  headers?: Record<string, string>
}
type Handler = (call: Call) => Promise<Reply> | Reply

const json = (value: unknown): Reply => ({ type: 'application/json', body: JSON.stringify(value) })
const plain = (body: string | Uint8Array, headers = {}): Reply => ({ type: 'text/plain; charset=utf-8', body, headers })
const OK = plain('ok')

export interface RunningInbox {
  url: string
  index: Index
  close(): void
}

/** Listens on `port` (0: any free one) of the settings' address. Rejects as `server.listen` does where that is taken. */
export async function serveInbox(settings: Settings, port: number): Promise<RunningInbox> {
  const hosts = hostsOf(settings)
  const index = new Index(settings)
  index.setMaxListeners(0)
  const sockets = broadcast(index)
  const routes = routesOf(settings, index)

  const server = createServer((request, response) => {
    const gone = new AbortController()
    response.once('close', () => gone.abort())
    answer(request, gone.signal).then(
      (reply) => send(response, 200, reply),
      (error) => {
        const status = error instanceof HttpError ? error.status : index.isUp ? 500 : 503
        const facts = error instanceof HttpError ? error.facts : {}
        send(response, status, json({ Error: messageOf(error), ...facts }))
      },
    )
  })
  async function answer(request: IncomingMessage, signal: AbortSignal): Promise<Reply> {
    // cypress-mailpit asks for //view/ID.html.
    const url = new URL(`http://inbox/${(request.url ?? '').replace(/^\/+/, '')}`)
    const method = request.method === 'HEAD' ? 'GET' : (request.method ?? '')
    const isPage = url.pathname.startsWith('/view/') || !url.pathname.startsWith('/api/')
    guard(request, hosts, isPage && method === 'GET')
    const file = FILES[url.pathname]
    if (file && method === 'GET') return fileOf(...file)
    const matching = routes.filter(([, pattern]) => pattern.test(url.pathname))
    const route = matching.find(([name]) => name === method)
    if (!route)
      return matching.length > 0
        ? refuse(405, `${method} is not for ${url.pathname}`)
        : refuse(404, `There is no ${url.pathname}`)
    const [, pattern, handle] = route
    const [, id = '', rest = ''] = (pattern.exec(url.pathname) ?? []).map((part) => decoded(part ?? ''))
    const body = method === 'GET' ? {} : await bodyOf(request)
    return handle({ request, id, rest, params: url.searchParams, body, signal })
  }
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => {})
    try {
      guard(request, hosts)
      if (request.url?.split('?')[0] !== '/api/events') refuse(404, 'There is no such socket')
      sockets.handleUpgrade(request, socket, head, (client) => sockets.emit('connection', client, request))
    } catch (error) {
      const status = error instanceof HttpError ? error.status : 400
      socket.end(`HTTP/1.1 ${status} ${messageOf(error)}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    }
  })
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(port, settings.bindAddress, resolve)
    })
  } catch (error) {
    index.close()
    throw error
  }
  return {
    url: urlOf(settings, (server.address() as AddressInfo).port),
    index,
    close() {
      for (const client of sockets.clients) client.terminate()
      sockets.close()
      server.close()
      server.closeAllConnections()
      index.close()
    },
  }
}

/** The page's address, for a browser on this machine. */
export function urlOf({ host }: Settings, port: number): string {
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}/`
}

function routesOf(settings: Settings, index: Index): [string, RegExp, Handler][] {
  const allTags = () => [...new Set(index.list().flatMap(tagsOf))].sort()
  /** The messages as all see them, with what came a moment ago. */
  const current = async (): Promise<Entry[]> => {
    await index.refresh()
    return index.isUp ? index.list() : refuse(503, 'The mail server is away. Start it: npm start')
  }
  /** Tests whether a message is in the mailbox that `mailbox=` names. */
  const mailboxOf = (params: URLSearchParams) => {
    const wanted = params.get('mailbox')
    if (!wanted) return () => true
    const name = index.mailboxes.map((box) => box.name).find((one) => one.toLowerCase() === wanted.toLowerCase())
    if (!name) refuse(400, `mailbox=${wanted}: no such mailbox. /api/v1/mailboxes has them.`)
    return (entry: Entry) => mailboxesOf(entry).includes(name)
  }
  const queryOf = (params: URLSearchParams) => parseQuery(params.get('query') ?? '', params.get('tz') ?? undefined)
  /** The messages that a request's query finds, or waits for. */
  const searched = async ({ params, signal }: Call): Promise<Entry[]> => {
    const [query, isWanted] = [queryOf(params), mailboxOf(params)]
    await current()
    await index.filled
    const wait = parseWait(params, index)
    if (wait.seconds === 0)
      return search(
        index,
        query,
        index.list().filter((entry) => wait.isNewer(entry) && isWanted(entry)),
      )
    return waitFor(index, query, wait, isWanted, summaryOf, signal)
  }
  /** The message that the path names: an ID, or "latest", of those that the query finds where there is one. */
  const found = async (call: Call): Promise<Entry> => {
    const none = () => refuse(404, `Message not found: ${call.id}`)
    if (call.id !== 'latest') {
      const entry = index.find(call.id)
      if (entry && index.isUp) return entry
      await current()
      return index.find(call.id) ?? none()
    }
    if (!call.params.get('query')?.trim()) {
      if (call.params.has('wait') || call.params.has('since')) call.params.set('query', 'larger:0')
      else return (await current()).find(mailboxOf(call.params)) ?? none()
    }
    return (await searched(call))[0] ?? none()
  }
  const read = async (call: Call): Promise<{ entry: Entry; raw: Buffer; mail: Mail }> => {
    const entry = await found(call)
    const raw = (await index.source(entry)) ?? refuse(404, `Message not found: ${entry.id}`)
    return { entry, raw, mail: await readMail(raw) }
  }
  const markRead = async (call: Call, entry: Entry) => {
    if (!isForeign(call.request)) await index.flag([entry], '\\Seen', true)
  }
  const listed = async (entries: Entry[], params: URLSearchParams): Promise<Reply> => {
    const [start, limit] = [countOf(params, 'start', 0), countOf(params, 'limit', 50)]
    const shown = entries.slice(start, limit > 0 ? start + limit : undefined)
    await index.readSnippets(shown)
    const all = index.list()
    return json({
      total: all.length,
      unread: unread(all),
      count: shown.length,
      messages_count: entries.length,
      messages_unread: unread(entries),
      start,
      tags: allTags(),
      messages: shown.map(summaryOf),
    })
  }
  /** The messages that a body names: by IDs, by Search, or all (of one mailbox) where it names none. */
  const named = async ({ body, params }: Call): Promise<Entry[]> => {
    const ids = texts(body, 'IDs')
    const { Search = '' } = body
    if (typeof Search !== 'string') refuse(400, 'Search: a text is wanted')
    const isWanted = mailboxOf(params)
    await current()
    if (ids.length > 0) return ids.flatMap((id) => index.find(id) ?? [])
    await index.filled
    const all = index.list().filter(isWanted)
    return Search ? search(index, parseQuery(Search as string, params.get('tz') ?? undefined), all) : all
  }
  const tagged = async (tag: string) => (await current()).filter((entry) => tagsOf(entry).includes(tag))

  return [
    [
      'GET',
      /^\/api\/v1\/messages$/,
      async ({ params }) => {
        const isWanted = mailboxOf(params)
        const entries = await current()
        return listed(params.has('mailbox') ? entries.filter(isWanted) : entries, params)
      },
    ],
    [
      'PUT',
      /^\/api\/v1\/messages$/,
      async (call) => {
        const { Read = false } = call.body
        if (typeof Read !== 'boolean') refuse(400, 'Read: true or false is wanted')
        await index.flag(await named(call), '\\Seen', Read as boolean)
        return OK
      },
    ],
    [
      'DELETE',
      /^\/api\/v1\/messages$/,
      async (call) => {
        await index.delete(await named(call))
        return OK
      },
    ],
    ['GET', /^\/api\/v1\/search$/, async (call) => listed(await searched(call), call.params)],
    [
      'DELETE',
      /^\/api\/v1\/search$/,
      async (call) => {
        await index.delete(await searched(call))
        return OK
      },
    ],
    [
      'GET',
      /^\/api\/v1\/message\/([A-Za-z\d]+)$/,
      async (call) => {
        const { entry, mail } = await read(call)
        await markRead(call, entry)
        return json(messageJson(entry, mail))
      },
    ],
    [
      'GET',
      /^\/api\/v1\/message\/([A-Za-z\d]+)\/headers$/,
      async (call) => {
        const headers: Record<string, string[]> = {}
        for (const { name, value } of (await read(call)).mail.headers) {
          const key = name.toLowerCase().replace(/(^|-)[a-z]/g, (letter) => letter.toUpperCase())
          headers[key] = [...(headers[key] ?? []), value]
        }
        return json(headers)
      },
    ],
    [
      'GET',
      /^\/api\/v1\/message\/([A-Za-z\d]+)\/raw$/,
      async (call) => {
        const { entry, raw } = await read(call)
        return plain(raw, call.params.get('dl') === '1' ? disposition('attachment', `${entry.id}.eml`) : {})
      },
    ],
    [
      'GET',
      /^\/api\/v1\/message\/([A-Za-z\d]+)\/part\/([\d.]+)$/,
      async (call) => {
        const { mail } = await read(call)
        const file =
          mail.attachments.find(({ part }) => part === call.rest) ?? refuse(404, `There is no part ${call.rest}`)
        // Whatever a sender calls it, a browser shows nothing but pictures here.
        const isPicture = /^image\/(png|jpeg|gif|webp)$/.test(file.type)
        return {
          type: safeType(file.type),
          body: file.bytes,
          headers: {
            ...disposition(isPicture ? 'inline' : 'attachment', fileName(file.name)),
            'content-security-policy': "sandbox; default-src 'none'",
          },
        }
      },
    ],
    [
      'POST',
      /^\/api\/v1\/send$/,
      async ({ body }) => {
        await current()
        return json(await sendMail(settings, index, body, texts(body, 'Tags').map(checkTag)))
      },
    ],
    ['GET', /^\/api\/v1\/tags$/, async () => json((await current()) && allTags())],
    [
      'PUT',
      /^\/api\/v1\/tags$/,
      async ({ body }) => {
        const wanted = texts(body, 'Tags').map(checkTag)
        await current()
        const entries = texts(body, 'IDs').map((id) => index.find(id) ?? refuse(404, `Message not found: ${id}`))
        for (const tag of new Set(entries.flatMap(tagsOf))) {
          if (!wanted.includes(tag)) await index.flag(entries, flagOf(tag), false)
        }
        for (const tag of wanted) await index.flag(entries, flagOf(tag), true)
        return OK
      },
    ],
    [
      'PUT',
      /^\/api\/v1\/tags\/([^/]+)$/,
      async ({ id, body }) => {
        const name = typeof body.Name === 'string' ? checkTag(body.Name) : refuse(400, 'Name: a text is wanted')
        const entries = await tagged(id)
        await index.flag(entries, flagOf(name), true)
        if (name !== id) await index.flag(entries, flagOf(id), false)
        return OK
      },
    ],
    [
      'DELETE',
      /^\/api\/v1\/tags\/([^/]+)$/,
      async ({ id }) => {
        await index.flag(await tagged(id), flagOf(id), false)
        return OK
      },
    ],
    [
      'GET',
      /^\/api\/v1\/mailboxes$/,
      async () => {
        await current()
        return json(
          index.mailboxes.map(({ name, entries }) => ({ Name: name, Total: entries.length, Unread: unread(entries) })),
        )
      },
    ],
    [
      'GET',
      /^\/api\/v1\/info$/,
      () =>
        json({
          Version: VERSION,
          LatestVersion: VERSION,
          Database: 'imap',
          DatabaseSize: index.list().reduce((sum, { size }) => sum + size, 0),
          Messages: index.list().length,
          Unread: unread(index.list()),
          Tags: Object.fromEntries(
            allTags().map((tag) => [tag, index.list().filter((entry) => tagsOf(entry).includes(tag)).length]),
          ),
          RuntimeStats: {
            Uptime: Math.round(process.uptime()),
            Memory: process.memoryUsage.rss(),
            MessagesDeleted: 0,
            SMTPAccepted: index.arrivals,
            SMTPAcceptedSize: 0,
            SMTPRejected: 0,
            SMTPIgnored: 0,
          },
        }),
    ],
    [
      'GET',
      /^\/api\/v1\/webui$/,
      () =>
        json({
          Label: '',
          SpamAssassin: false,
          ChaosEnabled: false,
          DuplicatesIgnored: false,
          HideDeleteAllButton: false,
          MessageRelay: {
            Enabled: false,
            SMTPServer: '',
            ReturnPath: '',
            AllowedRecipients: '',
            BlockedRecipients: '',
            OverrideFrom: '',
            PreserveMessageIDs: false,
            RecipientAllowlist: '',
          },
        }),
    ],
    [
      'GET',
      /^\/api\/v1\/chaos$/,
      () => refuse(400, 'Chaos is off. Addresses with +fail-550 and the like are refused: see the README.'),
    ],
    [
      'PUT',
      /^\/api\/v1\/chaos$/,
      () => refuse(400, 'Chaos is off. Addresses with +fail-550 and the like are refused: see the README.'),
    ],
    [
      'GET',
      /^\/view\/([A-Za-z\d]+)\.html$/,
      async (call) => {
        const { entry, mail } = await read(call)
        if (mail.html === null) refuse(404, 'This message has no HTML')
        await markRead(call, entry)
        return {
          type: 'text/html; charset=utf-8',
          body: htmlOf(mail.html as string, mail),
          headers: { 'content-security-policy': MAIL_POLICY, 'x-dns-prefetch-control': 'off' },
        }
      },
    ],
    [
      'GET',
      /^\/view\/([A-Za-z\d]+)\.txt$/,
      async (call) => {
        const { entry, mail } = await read(call)
        await markRead(call, entry)
        return plain(mail.text ?? mail.readableText)
      },
    ],
    ['GET', /^\/(?:livez|readyz)$/, async () => (await current()) && OK],
  ]
}

const unread = (entries: Entry[]) => entries.filter((entry) => !isRead(entry)).length
const personOf = ({ name, address }: Address) => ({ Name: name, Address: address })

/** Mailpit's Summary, and the envelope's recipients and mailboxes beside it. */
function summaryOf(entry: Entry) {
  return {
    ...headOf(entry),
    Read: isRead(entry),
    Created: new Date(entry.created).toISOString(),
    Attachments: entry.attachments,
    Snippet: entry.snippet ?? '',
  }
}

/** What Summary and Message have in common. */
function headOf(entry: Entry) {
  return {
    ID: entry.id,
    MessageID: entry.messageId,
    From: personOf(entry.from[0] ?? { name: '', address: '' }),
    To: entry.to.map(personOf),
    Cc: entry.cc.map(personOf),
    Bcc: bccOf(entry).map(personOf),
    ReplyTo: entry.replyTo.map(personOf),
    Subject: entry.subject,
    Username: '',
    Tags: tagsOf(entry),
    Size: entry.size,
    EnvelopeTo: envelopeOf(entry),
    Mailboxes: mailboxesOf(entry),
  }
}

/** Mailpit's Message, with what a test looks for: the links, the one-time code, and whom the envelope named. */
function messageJson(entry: Entry, mail: Mail) {
  const headerOf = (name: string) => mail.headers.find((header) => header.name.toLowerCase() === name)?.value ?? ''
  const unsubscribe = headerOf('list-unsubscribe')
  const files = mail.attachments.map((file) => ({ inline: file.inline, info: attachmentJson(file) }))
  return {
    ...headOf(entry),
    Date: (mail.date ?? new Date(entry.created)).toISOString(),
    ReturnPath: headerOf('return-path').replace(/^<|>$/g, ''),
    ListUnsubscribe: {
      Header: unsubscribe,
      Links: [...unsubscribe.matchAll(/<([^>]+)>/g)].map(([, link]) => link),
      Errors: '',
      HeaderPost: headerOf('list-unsubscribe-post'),
    },
    Text: mail.text ?? mail.readableText,
    HTML: mail.html ?? '',
    Inline: files.filter(({ inline }) => inline).map(({ info }) => info),
    Attachments: files.filter(({ inline }) => !inline).map(({ info }) => info),
    Links: linksOf(mail),
    Code: codeOf(mail) ?? null,
  }
}

function attachmentJson({ part, name, type, contentId, bytes }: Mail['attachments'][number]) {
  const sumOf = (kind: string) => createHash(kind).update(bytes).digest('hex')
  return {
    PartID: part,
    FileName: fileName(name),
    ContentType: type,
    ContentID: contentId,
    Size: bytes.length,
    Checksums: { MD5: sumOf('md5'), SHA1: sumOf('sha1'), SHA256: sumOf('sha256') },
  }
}

/** The last part of a name that may be a path. */
function fileName(name: string): string {
  return (
    name
      .split(/[/\\]/)
      .at(-1)
      ?.replace(/[\x00-\x1f\x7f]/g, '') ?? ''
  )
}

function disposition(kind: string, name: string): Record<string, string> {
  const quoted = encodeURIComponent(name).replace(/['()*]/g, (character) => `%${character.charCodeAt(0).toString(16)}`)
  return { 'content-disposition': name ? `${kind}; filename*=UTF-8''${quoted}` : kind }
}

function checkTag(tag: string): string {
  if (!/^[\w .@-]+$/.test(tag) || tag.length > LONGEST_TAG) {
    refuse(
      400,
      `Tag ${JSON.stringify(tag.slice(0, 100))}: 1 to ${LONGEST_TAG} letters, digits, spaces and -_.@ are wanted`,
    )
  }
  return tag
}

function texts(body: Record<string, unknown>, field: string): string[] {
  const value = body[field] ?? []
  if (!Array.isArray(value) || value.some((one) => typeof one !== 'string'))
    refuse(400, `${field}: a list of texts is wanted`)
  return value as string[]
}

function countOf(params: URLSearchParams, name: string, standard: number): number {
  const text = params.get(name) ?? String(standard)
  return /^\d{1,9}$/.test(text) ? Number(text) : refuse(400, `${name}=${text}: a number is wanted`)
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return refuse(400, `${text}: a broken percent-encoding`)
  }
}

/** A request's JSON, or the form that some clients send. Refuses with 400 what cannot be read, and with 413 what is too large. */
async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of request) {
    length += chunk.length
    if (length > LARGEST_BODY) refuse(413, `The body has more than ${LARGEST_BODY} bytes`)
    chunks.push(chunk)
  }
  const text = Buffer.concat(chunks).toString('utf8')
  if (text.trim() === '') return {}
  const isForm =
    request.headers['content-type']?.startsWith('application/x-www-form-urlencoded') && !/^\s*[{[]/.test(text)
  if (isForm) {
    const ids = new URLSearchParams(text).getAll('IDs')
    return ids.length > 0 ? { IDs: ids } : refuse(400, 'The form names no IDs')
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    refuse(400, `The body is not JSON: ${messageOf(error)}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) refuse(400, 'The body is JSON and no object')
  return value as Record<string, unknown>
}

function fileOf(path: string, type: string): Reply {
  try {
    return { type, body: readFileSync(path), headers: { 'cache-control': 'no-cache' } }
  } catch {
    return refuse(404, `There is no file ${path}. Type: npm ci`)
  }
}

function send(response: ServerResponse, status: number, { type, body, headers }: Reply): void {
  if (response.destroyed) return
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(body),
    'content-security-policy': PAGE_POLICY,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'cross-origin-resource-policy': 'same-origin',
    'cache-control': 'no-store',
    // What is left of a body that was too large is not read.
    ...(status === 413 ? { connection: 'close' } : {}),
    ...headers,
  })
  response.end(body)
}

/** Tells the pages what happens: {Type, Data}. */
function broadcast(index: Index): WebSocketServer {
  const sockets = new WebSocketServer({ noServer: true, maxPayload: 1_000 })
  const tell = (type: string, data: unknown, clients: Iterable<WebSocket> = sockets.clients) => {
    const text = JSON.stringify({ Type: type, Data: data })
    for (const client of clients) client.send(text)
  }
  const stats = () => ({ Total: index.list().length, Unread: unread(index.list()), Version: VERSION })
  let _timer: NodeJS.Timeout | undefined
  const tellStats = () => {
    _timer ??= setTimeout(() => {
      _timer = undefined
      tell('stats', stats())
    }, 100)
  }
  index.on('new', async (entry) => {
    tellStats()
    if (sockets.clients.size === 0) return
    await index.readSnippets([entry]).catch(() => {})
    tell('new', summaryOf(entry))
  })
  index.on('update', (entry) => {
    tell('update', { ID: entry.id, Read: isRead(entry), Tags: tagsOf(entry) })
    tellStats()
  })
  index.on('delete', ({ id }) => {
    tell('delete', { ID: id })
    tellStats()
  })
  index.on('server', (up) => {
    tell('server', { up })
    tellStats()
  })
  sockets.on('connection', (client) => {
    index.watching++
    index.hurry()
    client.on('error', () => {})
    client.once('close', () => index.watching--)
    tell('server', { up: index.isUp }, [client])
    tell('stats', stats(), [client])
  })
  return sockets
}
