/** The server: who may ask, the page's files, the routes of the API, and the events. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { extname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { type WebSocket, WebSocketServer } from 'ws'
import { Failure, say } from '../cli.ts'
import { ROOT, type Settings } from '../settings.ts'
import { type Call, type Routes, routesOf, summaryOf, textOf, VERSION } from './api.ts'
import { guard, HttpError, hostsOf, isForeign, refuse } from './guard.ts'
import { Index } from './index.ts'
import { urlOf } from './service.ts'

/** Bytes of a request's body: twice the attachments of the largest mail that the server takes, in base64. */
const LARGEST_BODY = 30_000_000
/** Connections that wait to be taken: a thousand tests may begin to wait in one moment. */
const BACKLOG = 4_096
const PAGE_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
  "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
const HEADERS = {
  'content-security-policy': PAGE_POLICY,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-store',
}

/** The API's description, which is served as well, and which bodies are checked against. */
const DESCRIPTION = fileURLToPath(new URL('openapi.json', import.meta.url))
/** Milliseconds between two counts for the pages. */
const STATS = 100
const PAGE = fileURLToPath(new URL('page/', import.meta.url))
const FILES: Record<string, string> = {
  '/': join(PAGE, 'index.html'),
  ...Object.fromEntries(['page.js', 'inbox.js', 'words.js', 'style.css'].map((name) => [`/${name}`, join(PAGE, name)])),
  '/vendor/htm-preact.js': join(ROOT, 'node_modules/htm/preact/standalone.module.js'),
  '/api/v1/openapi.json': DESCRIPTION,
}
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.json': 'application/json' }

export interface Inbox {
  /** Where it listens, with the port that it got. */
  url: string
  index: Index
  close(): void
}

/** Listens on `port`, or any free one for 0. Rejects as `listen` does where it is taken. */
export async function serveInbox(settings: Settings, port: number): Promise<Inbox> {
  const index = new Index(settings)
  const hosts = hostsOf(settings)
  const routes = patternsOf(routesOf(settings, index))
  const sockets = new WebSocketServer({ noServer: true, maxPayload: 1_000 })
  tellEvents(sockets, index)

  const server = createServer(async (request, response) => {
    const gone = new AbortController()
    response.once('close', () => gone.abort())
    const answer = await answerTo(request, gone.signal).catch(problem)
    const content = Buffer.from(await answer.arrayBuffer())
    const headers = { ...HEADERS, 'content-length': content.length, ...Object.fromEntries(answer.headers) }
    response.writeHead(answer.status, headers).end(content)
  })
  // A busy server that ends idle connections resets what clients ask meanwhile on one of them.
  server.keepAliveTimeout = 0

  async function answerTo(request: IncomingMessage, signal: AbortSignal): Promise<Response> {
    const method = request.method === 'HEAD' ? 'GET' : (request.method ?? '')
    // cypress-mailpit asks for //view/ID.html.
    const { pathname, searchParams: params } = new URL(`http://inbox/${(request.url ?? '').replace(/^\/+/, '')}`)
    guard(request, hosts, method === 'GET' && !pathname.startsWith('/api/'))
    const file = method === 'GET' && FILES[pathname]
    if (file) return textOf(readFileSync(file, 'utf8'), TYPES[extname(file) as keyof typeof TYPES])
    const matching = routes.filter(({ pattern }) => pattern.test(pathname))
    if (matching.length === 0) refuse(404, `There is no ${pathname}`)
    const route = matching.find((one) => one.method === method) ?? refuse(405, `${pathname} has no ${method}`)
    const [id = '', part = ''] = (route.pattern.exec(pathname) ?? []).slice(1).map(decodeURIComponent)
    const body = method === 'GET' ? {} : await bodyOf(request)
    await check(route.name, body)
    const answer = (await route.handle({ id, part, params, body, isForeign: isForeign(request), signal })) ?? 'ok'
    if (answer instanceof Response) return answer
    return typeof answer === 'string' ? new Response(answer) : Response.json(answer)
  }
  /** The answer where something went wrong: 400 is the client's matter, 503 the mail server's, 500 a bug of ours. */
  function problem(error: Error): Response {
    const { facts } = error instanceof HttpError ? error : {}
    const status = statusOf(error)
    if (status === 500) say(error.stack)
    return Response.json({ Error: error.message, ...facts }, { status })
  }
  function statusOf(error: Error): number {
    if (error instanceof HttpError) return error.status
    // A body that is no JSON, a path with a broken percent-encoding.
    if (error instanceof SyntaxError || error instanceof URIError) return 400
    return error instanceof Failure || 'code' in error || !index.isUp ? 503 : 500
  }
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => {})
    if (request.headers.upgrade?.toLowerCase() !== 'websocket') {
      socket.unshift(withoutUpgrade(request, head))
      server.emit('connection', socket)
      return
    }
    try {
      guard(request, hosts, false)
      if (!/^\/+api\/events(\?|$)/.test(request.url ?? '')) refuse(404, 'There is no such socket')
      sockets.handleUpgrade(request, socket, head, (client) => sockets.emit('connection', client, request))
    } catch (error) {
      socket.end(`HTTP/1.1 ${statusOf(error as Error)} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    }
  })
  const close = () => {
    for (const client of sockets.clients) client.terminate()
    server.close()
    server.closeAllConnections()
    index.close()
  }
  server.listen({ port, host: settings.bindAddress, backlog: BACKLOG })
  await once(server, 'listening').catch((error) => {
    close()
    throw error
  })
  return { url: urlOf(settings, (server.address() as AddressInfo).port), index, close }
}

/**
 * The bytes of a request again, without its offer of HTTP/2, which Java's HttpClient makes with each request and a server
 * may ignore (RFC 9110, 7.8); Node reads no more from a socket that has one.
 */
function withoutUpgrade({ method, url, httpVersion, rawHeaders }: IncomingMessage, head: Buffer): Buffer {
  const words = rawHeaders.map((word, n) => (n % 2 === 1 ? `: ${word}` : `\r\n${word.replace(/^upgrade$/i, 'x-$&')}`))
  const lines = `${method} ${url} HTTP/${httpVersion}${words.join('')}\r\n\r\n`
  return Buffer.concat([Buffer.from(lines, 'latin1'), head])
}

/** "GET /view/{ID}.html" as a method and a pattern. */
function patternsOf(routes: Routes) {
  const places: Record<string, string> = {
    '{ID}': '([A-Za-z\\d]+)',
    '{TAG}': '([^/]+)',
    '{PART}': '([\\d.]+)',
    '.': '\\.',
  }
  return Object.entries(routes).map(([name, handle]) => {
    const [method = '', path = ''] = name.split(' ')
    const pattern = path.replace(/\{\w+\}|\./g, (place) => places[place] ?? '')
    return { name, method, pattern: new RegExp(`^${pattern}$`), handle }
  })
}

/** A request's JSON, or the form that some clients send. */
async function bodyOf(request: IncomingMessage): Promise<Call['body']> {
  const length = Number(request.headers['content-length'] ?? 0)
  if (length > LARGEST_BODY) refuse(413, `The body has more than ${LARGEST_BODY} bytes`)
  const body = (await text(request)).trim()
  if (/^IDs=[^{&]+(&IDs=[^&]*)*$/.test(body)) return { IDs: new URLSearchParams(body).getAll('IDs') }
  return body === '' ? {} : JSON.parse(body)
}

let ajv: import('ajv').Ajv | undefined

/** Refuses with 400 a body that is not what openapi.json has for the route, which is named as "PUT /api/v1/messages". */
async function check(route: string, body: unknown): Promise<void> {
  const [method = '', path = ''] = route.split(' ')
  if (method === 'GET') return
  // Loaded when the first body comes.
  const { Ajv } = await import('ajv')
  ajv ??= new Ajv({ strict: false, verbose: true }).addSchema(JSON.parse(readFileSync(DESCRIPTION, 'utf8')), 'api')
  const place = `paths/${path.replaceAll('/', '~1')}/${method.toLowerCase()}/requestBody/content/application~1json/schema`
  const validate = ajv.getSchema(`api#/${place}`)
  if (!validate || validate(body)) return
  const [{ instancePath = '', message = '', parentSchema } = {}] = validate.errors ?? []
  refuse(400, `The body${instancePath}: ${parentSchema?.description ?? message}`)
}

/** Tells pages and Mailpit's clients what happens, as {Type, Data}, and a new one how it stands. */
function tellEvents(sockets: WebSocketServer, index: Index): void {
  const tell = (Type: string, Data: object | null, clients: Iterable<WebSocket> = sockets.clients) => {
    for (const client of clients) client.send(JSON.stringify({ Type, Data }))
  }
  const server = () => ({ up: index.isUp })
  const stats = () => ({ Total: index.all.list.length, Unread: index.all.unread, Version: VERSION })
  let isCounting = false
  const count = () => {
    isCounting = false
    tell('stats', stats())
  }
  index.on('change', async ({ type, entry, isNews }) => {
    if (sockets.clients.size === 0) return
    if (!isCounting) setTimeout(count, STATS)
    isCounting = true
    if (type === 'new' && !isNews) return
    if (type === 'new' && entry) await index.readSnippets([entry]).catch(() => {})
    if (entry) tell(type, type === 'delete' ? { ID: entry.id } : summaryOf(entry))
    else tell(type, type === 'server' ? server() : null)
  })
  sockets.on('connection', (client: WebSocket) => {
    client.on('error', () => {})
    client.once('close', index.follow('watching'))
    tell('server', server(), [client])
    tell('stats', stats(), [client])
  })
}
