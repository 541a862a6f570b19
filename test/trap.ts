/**
 * The world outside, as one program: a DNS server that knows every name, and SMTP servers that take every mail. Runs in
 * a network namespace that answers for every address (world.ts). A line on stdin is answered with a line of counts on
 * stdout; the end of stdin ends it.
 */
import { createSocket } from 'node:dgram'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { SmtpServer } from './smtp_server.ts'

/** What reached the trap since it began to listen. */
export interface Counts {
  /** Packets of any kind on the interface that leads to the world. */
  packets: number
  /** Packets on the interface that leads to the DNS server alone. */
  dnsPackets: number
  /** Questions to the DNS: "MX gmail.com". */
  questions: string[]
  /** TCP connections by port. */
  connections: Record<number, number>
  /** The messages that were taken. */
  messages: string[]
}

/** SMTP, SMTPS and submission, LMTP, and what is used in place of 25. A connection counts before anything is said. */
const MAIL_PORTS = [25, 465, 587, 24, 2525]
const DNS_PORT = 53
/** Where the DNS server and the SMTP servers listen. */
const [address, everywhere] = process.argv.slice(2)

const HOST = Buffer.from('\x04trap\x07example\x00')
/** What every name has, by the number of the type. Both addresses are documentation's own (RFC 5737, RFC 3849). */
const RECORDS: Record<number, { type: string; data: Buffer }> = {
  1: { type: 'A', data: Buffer.from([203, 0, 113, 25]) },
  12: { type: 'PTR', data: HOST },
  15: { type: 'MX', data: Buffer.concat([Buffer.from([0, 10]), HOST]) },
  28: { type: 'AAAA', data: Buffer.from('20010db8000000000000000000000025', 'hex') },
  // Priority, weight, port 587.
  33: { type: 'SRV', data: Buffer.concat([Buffer.from([0, 0, 0, 0, 0x02, 0x4b]), HOST]) },
}

const questions: string[] = []

/** The answer to a DNS query (RFC 1035 section 4): the record of its type, or none where there is no such type. */
function answerTo(query: Buffer): Buffer {
  const labels: string[] = []
  let at = 12
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  const number = query.readUInt16BE(at + 1)
  const { type, data } = RECORDS[number] ?? { type: `TYPE${number}` }
  questions.push(`${type} ${labels.join('.')}`)
  // The query's number; an answer, authoritative, recursion desired and available; one question, one record or none.
  const header = [query[0] ?? 0, query[1] ?? 0, 0x85, 0x80, 0, 1, 0, data ? 1 : 0, 0, 0, 0, 0]
  const question = query.subarray(12, at + 5)
  if (!data) return Buffer.concat([Buffer.from(header), question])
  // A pointer to the question's name, the type, class IN, no time to live.
  const record = [0xc0, 12, 0, number, 0, 1, 0, 0, 0, 0, 0, data.length]
  return Buffer.concat([Buffer.from(header), question, Buffer.from(record), data])
}

async function serveDns(): Promise<void> {
  const udp = createSocket('udp4')
  udp.on('message', (query, { port, address: client }) => udp.send(answerTo(query), port, client))
  await new Promise<void>((resolve) => udp.bind(DNS_PORT, address, resolve))
  // RFC 1035 section 4.2.2: over TCP the length stands in front.
  const tcp = createServer((socket) => {
    let input = Buffer.alloc(0)
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      input = Buffer.concat([input, chunk])
      while (input.length >= 2 && input.length >= 2 + input.readUInt16BE()) {
        const answer = answerTo(input.subarray(2, 2 + input.readUInt16BE()))
        input = input.subarray(2 + input.readUInt16BE())
        socket.write(Buffer.concat([Buffer.from([answer.length >> 8, answer.length & 255]), answer]))
      }
    })
  })
  await new Promise<void>((resolve) => tcp.listen(DNS_PORT, address, resolve))
}

function packetsOn(name: string): number {
  return Number(readFileSync(`/sys/class/net/${name}/statistics/rx_packets`, 'utf8'))
}

await serveDns()
const servers = new Map<number, SmtpServer>()
for (const port of MAIL_PORTS) servers.set(port, await SmtpServer.start(undefined, ['8BITMIME'], port, everywhere))
console.log('listening')

for await (const _ of createInterface({ input: process.stdin })) {
  const counts: Counts = {
    packets: packetsOn('world'),
    dnsPackets: packetsOn('dns'),
    questions,
    connections: Object.fromEntries([...servers].map(([port, { connections }]) => [port, connections])),
    messages: [...servers.values()].flatMap(({ received }) => received.map(({ message }) => message)),
  }
  console.log(JSON.stringify(counts))
}
process.exit()
