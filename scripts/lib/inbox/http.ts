/** The server: who may ask, the page's files, the routes of the API, and the events. */
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type WebSocket, WebSocketServer } from 'ws'
import { Failure, messageOf, say } from '../cli.ts'
import { ROOT, type Settings } from '../settings.ts'
import { type Answer, Bytes, type Call, type Routes, routesOf, summaryOf, VERSION } from './api.ts'
import { check } from './check.ts'
import { isRead, SEEN, tagsOf } from './entry.ts'
import { guard, HttpError, hostsOf, isForeign, refuse } from './guard.ts'
import { Index } from './index.ts'
import { urlOf } from './service.ts'

/** Bytes of a request's body: twice the attachments of the largest mail that the server takes, in base64. */
const LARGEST_BODY = 30_000_000
/** Milliseconds between two counts for the pages. */
const STATS = 100
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

const HERE = dirname(fileURLToPath(import.meta.url))
/** Files beside those of page/. */
const FILES: Record<string, string> = {
  '/': join(HERE, 'page/index.html'),
  '/vendor/htm-preact.js': join(ROOT, 'node_modules/htm/preact/standalone.module.js'),
  '/api/v1/openapi.json': join(HERE, 'openapi.json'),
}
const TYPES: Record<string, string> = {
  html: 'text/html',
  js: 'text/javascript',
  css: 'text/css',
  json: 'application/json',
}

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
  const sockets = eventsOf(index)

  const server = createServer(async (request, response) => {
    const gone = new AbortController()
    response.once('close', () => gone.abort())
    const [status, answer] = await answerTo(request, gone.signal).then(
      (answer): [number, Answer] => [200, answer],
      (error) => problem(error),
    )
    const { type, bytes, headers } = asBytes(answer)
    // What is left of a body that was refused is not read.
    const end = status === 413 ? { connection: 'close' } : {}
    const length = { 'content-length': Buffer.byteLength(bytes) }
    response.writeHead(status, { 'content-type': type, ...length, ...HEADERS, ...headers, ...end }).end(bytes)
  })
  async function answerTo(request: IncomingMessage, signal: AbortSignal): Promise<Answer> {
    const method = request.method === 'HEAD' ? 'GET' : (request.method ?? '')
    // cypress-mailpit asks for //view/ID.html.
    const { pathname, searchParams: params } = new URL(`http://inbox/${(request.url ?? '').replace(/^\/+/, '')}`)
    guard(request, hosts, method === 'GET' && !pathname.startsWith('/api/'))
    const file = FILES[pathname] ?? (/^\/\w+\.(js|css)$/.test(pathname) && join(HERE, 'page', pathname))
    if (file && method === 'GET') return fileOf(file)
    const matching = routes.filter(({ pattern }) => pattern.test(pathname))
    const route = matching.find((one) => one.method === method)
    if (!route)
      return matching.length > 0 ? refuse(405, `${pathname} has no ${method}`) : refuse(404, `There is no ${pathname}`)
    const [id = '', part = ''] = (route.pattern.exec(pathname) ?? []).slice(1).map(decoded)
    const body = method === 'GET' ? {} : await bodyOf(request)
    if (method !== 'GET') await check(route.name, body)
    const login = request.headers.authorization?.replace(/^Basic /, '') ?? ''
    const [user = ''] = Buffer.from(login, 'base64').toString().split(':')
    return route.handle({ id, part, params, body, user, isForeign: isForeign(request), signal })
  }
  /** The status and JSON of what went wrong: 503 is the mail server's matter, 500 a bug of ours. */
  function problem(error: Error): [number, Answer] {
    if (error instanceof HttpError) return [error.status, { Error: error.message, ...error.facts }]
    const status = error instanceof Failure || 'code' in error || !index.isUp ? 503 : 500
    if (status === 500) say(error.stack)
    return [status, { Error: error.message }]
  }
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => {})
    if (request.headers.upgrade?.toLowerCase() !== 'websocket') {
      // Java's HttpClient offers HTTP/2 with each request, which a server may ignore (RFC 9110, 7.8): read anew without.
      const { method, url, httpVersion, rawHeaders } = request
      const headers = rawHeaders.map((text, n) =>
        n % 2 === 0 ? `\r\n${/^upgrade$/i.test(text) ? 'x-' : ''}${text}: ` : text,
      )
      socket.unshift(
        Buffer.concat([Buffer.from(`${method} ${url} HTTP/${httpVersion}${headers.join('')}\r\n\r\n`, 'latin1'), head]),
      )
      server.emit('connection', socket)
      return
    }
    try {
      guard(request, hosts, false)
      if (!/^\/+api\/events(\?|$)/.test(request.url ?? '')) refuse(404, 'There is no such socket')
      sockets.handleUpgrade(request, socket, head, (client) => sockets.emit('connection', client, request))
    } catch (error) {
      socket.end(`HTTP/1.1 ${problem(error as Error)[0]} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    }
  })
  const close = () => {
    for (const client of sockets.clients) client.terminate()
    server.close()
    server.closeAllConnections()
    index.close()
  }
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(port, settings.bindAddress, resolve)
    })
  } catch (error) {
    close()
    throw error
  }
  return { url: urlOf(settings, (server.address() as AddressInfo).port), index, close }
}

/** "GET /view/ID.html" as a method and a pattern. */
function patternsOf(routes: Routes) {
  return Object.entries(routes).map(([name, handle]) => {
    const [method = '', path = ''] = name.split(' ')
    const places = { ID: '([A-Za-z\\d]+)', TAG: '([^/]+)', PART: '([\\d.]+)', '.': '\\.' }
    const pattern = path.replace(/ID|TAG|PART|\./g, (place) => places[place as keyof typeof places])
    return { name, method, pattern: new RegExp(`^${pattern}$`), handle }
  })
}

/** A request's JSON object, or the form that some clients send. */
async function bodyOf(request: IncomingMessage): Promise<Call['body']> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of request) {
    length += chunk.length
    if (length > LARGEST_BODY) refuse(413, `The body has more than ${LARGEST_BODY} bytes`)
    chunks.push(chunk)
  }
  const text = Buffer.concat(chunks).toString('utf8').trim()
  if (text === '') return {}
  if (/^IDs=[^{&]+(&IDs=[^&]*)*$/.test(text)) return { IDs: new URLSearchParams(text).getAll('IDs') }
  try {
    return JSON.parse(text)
  } catch (error) {
    return refuse(400, `The body is no JSON: ${messageOf(error)}`)
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return refuse(400, `${text}: a broken percent-encoding`)
  }
}

function fileOf(path: string): Bytes {
  try {
    const type = TYPES[path.replace(/.*\./, '')] ?? 'application/octet-stream'
    return new Bytes(`${type}; charset=utf-8`, readFileSync(path))
  } catch {
    return refuse(404, `The inbox has no file ${basename(path)}. Type: npm ci`)
  }
}

function asBytes(answer: Answer): Bytes {
  if (answer instanceof Bytes) return answer
  if (typeof answer === 'string') return new Bytes('text/plain; charset=utf-8', answer)
  return new Bytes('application/json', JSON.stringify(answer))
}

/** The sockets that tell pages what happens: {Type, Data}. */
function eventsOf(index: Index): WebSocketServer {
  const sockets = new WebSocketServer({ noServer: true, maxPayload: 1_000 })
  const tell = (Type: string, Data: object | null, clients: Iterable<WebSocket> = sockets.clients) => {
    const text = JSON.stringify({ Type, Data })
    for (const client of clients) client.send(text)
  }
  const stats = () => ({ Total: index.list().length, Unread: index.totals.unread, Version: VERSION })
  const withEnvelope = new WeakSet<WebSocket>()
  let isCounting = false
  const count = () => {
    if (isCounting || sockets.clients.size === 0) return
    isCounting = true
    setTimeout(() => {
      isCounting = false
      tell('stats', stats())
    }, STATS)
  }
  index.on('new', async (entry, isNews) => {
    count()
    if (!isNews || sockets.clients.size === 0) return
    await index.readSnippets([entry]).catch(() => {})
    for (const client of sockets.clients) tell('new', summaryOf(entry, withEnvelope.has(client)), [client])
  })
  index.on('update', (entry, flag) => {
    const [Read, Tags] = [{ Read: isRead(entry) }, { Tags: tagsOf(entry) }]
    const plain = { ID: entry.id, ...(flag === SEEN ? Read : flag ? Tags : { ...Read, ...Tags }) }
    // Without a flag, another copy may have come: for one more recipient.
    const whole = flag ? plain : summaryOf(entry, true)
    for (const client of sockets.clients) tell('update', withEnvelope.has(client) ? whole : plain, [client])
  })
  index.on('delete', ({ id }) => tell('delete', { ID: id }))
  index.on('truncate', () => tell('truncate', null))
  index.on('server', (up) => tell('server', { up }))
  for (const event of ['update', 'delete', 'server'] as const) index.on(event, count)
  sockets.on('connection', (client: WebSocket, { url }: IncomingMessage) => {
    if (url?.includes('envelope=1')) withEnvelope.add(client)
    client.on('error', () => {})
    client.once('close', index.follow('watching'))
    tell('server', { up: index.isUp }, [client])
    tell('stats', stats(), [client])
  })
  return sockets
}
