/** The sockets that tell pages and Mailpit's clients what happens: {Type, Data}. */
import type { IncomingMessage } from 'node:http'
import type { WebSocket, WebSocketServer } from 'ws'
import { summaryOf, VERSION } from './api.ts'
import { isRead, SEEN, tagsOf } from './entry.ts'
import type { Index } from './index.ts'

/** Milliseconds between two counts for the pages. */
const STATS = 100

/** Tells all clients of what happens, and a new one how it stands. Who asks for `envelope=1` gets summaries with the envelope. */
export function tellEvents(sockets: WebSocketServer, index: Index): void {
  const withEnvelope = new WeakSet<WebSocket>()
  const tell = (Type: string, dataFor: (withEnvelope: boolean) => object | null, clients = [...sockets.clients]) => {
    for (const client of clients) client.send(JSON.stringify({ Type, Data: dataFor(withEnvelope.has(client)) }))
  }
  const stats = () => ({ Total: index.all.list.length, Unread: index.all.unread, Version: VERSION })
  let isCounting = false
  const count = () => {
    if (isCounting || sockets.clients.size === 0) return
    isCounting = true
    setTimeout(() => {
      isCounting = false
      tell('stats', stats)
    }, STATS)
  }
  for (const event of ['new', 'update', 'delete', 'server'] as const) index.on(event, count)
  index.on('new', async (entry, isNews) => {
    if (!isNews || sockets.clients.size === 0) return
    await index.readSnippets([entry]).catch(() => {})
    tell('new', (withEnvelope) => summaryOf(entry, withEnvelope))
  })
  index.on('update', (entry, flag) => {
    const Read = isRead(entry)
    const Tags = tagsOf(entry)
    const plain = { ID: entry.id, ...(flag === SEEN ? { Read } : flag ? { Tags } : { Read, Tags }) }
    // Without a flag, another copy may have come: for one more recipient.
    tell('update', (withEnvelope) => (withEnvelope && !flag ? summaryOf(entry, true) : plain))
  })
  index.on('delete', ({ id }) => tell('delete', () => ({ ID: id })))
  index.on('truncate', () => tell('truncate', () => null))
  index.on('server', (up) => tell('server', () => ({ up })))
  sockets.on('connection', (client: WebSocket, { url }: IncomingMessage) => {
    if (url?.includes('envelope=1')) withEnvelope.add(client)
    client.on('error', () => {})
    client.once('close', index.follow('watching'))
    tell('server', () => ({ up: index.isUp }), [client])
    tell('stats', stats, [client])
  })
}
