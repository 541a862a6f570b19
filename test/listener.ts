/** A listening port of the tests' own, for the servers that play a part. */
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'

export type Listener = Awaited<ReturnType<typeof listen>>

/** Listens, on any free port where none is given; `close` drops all connections. */
export async function listen(onConnection: (socket: Socket) => void, port = 0, host = '127.0.0.1') {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    socket.on('error', () => {}).setNoDelay(true)
    onConnection(socket)
  })
  await once(server.listen(port, host), 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    /** How many connections are open. */
    connections: () => new Promise<number>((resolve) => server.getConnections((_, count) => resolve(count))),
    close: (): Promise<unknown> => {
      for (const socket of sockets) socket.destroy()
      return new Promise((resolve) => server.close(resolve))
    },
  }
}
