/** The sockets that tell pages and Mailpit's clients what happens: {Type, Data}. */
import type { WebSocket, WebSocketServer } from 'ws'
import { summaryOf, VERSION } from './api.ts'
import type { Index } from './index.ts'

/** Milliseconds between two counts for the pages. */
const STATS = 100

/** Tells all clients of what happens, and a new one how it stands. */
export function tellEvents(sockets: WebSocketServer, index: Index): void {
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
