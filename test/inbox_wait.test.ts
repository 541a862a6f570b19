/** The inbox live: waits, events, a server that goes away and comes back, and who may ask at all. */
import assert from 'node:assert/strict'
import { request } from 'node:http'
import { after, before, test } from 'node:test'
import { WebSocket } from 'ws'
import { BAR, FOO } from '../scripts/lib/accounts/accounts.ts'
import { serveInbox } from '../scripts/lib/inbox/http.ts'
import { htmlOf } from '../scripts/lib/inbox/view.ts'
import type { Mail } from '../scripts/lib/mail/mail.ts'
import { NativeProcesses } from '../scripts/lib/server/processes.ts'
import { until } from './harness.ts'
import { runIn } from './here.ts'
import { InboxWorld, type Json, someone } from './inbox_world.ts'

let world: InboxWorld
before(async () => {
  world = await InboxWorld.start()
})
after(() => world?.remove())

const latest = (query: string, more: string) => `GET /api/v1/message/latest?query=${encodeURIComponent(query)}&${more}`

/** How many requests wait. */
const waiting = () => world.index.listenerCount('change')

/** The events of a page, until it is closed. */
async function listen() {
  const socket = new WebSocket(`${world.url.replace('http', 'ws')}/api/events`)
  const events: Json[] = []
  socket.on('message', (text) => events.push(JSON.parse(String(text))))
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  const next = (isIt: (event: Json) => boolean) => until('the event', () => events.find(isIt))
  return { events, close: () => socket.close(), next }
}

test('a wait is answered by what is there, else by what comes', async () => {
  const to = someone()
  const id = await world.deliver(to, 'There')
  assert.equal((await world.ask(latest(`to:${to}`, 'wait=20'))).body.ID, id)
  const before = waiting()
  const newer = world.ask(latest(`to:${to}`, 'wait=120&since=now'))
  const search = world.ask(`GET /api/v1/search?query=to:${to}%20subject:second&wait=120`)
  const inBody = world.ask(latest(`to:${to} "only in the body"`, 'wait=120'))
  await until('all wait', () => waiting() === before + 3)
  const second = await world.post(to, ['Subject: Second', '', 'this stands only in the body'])
  assert.equal((await newer).body.ID, second)
  assert.deepEqual(
    (await search).body.messages.map(({ ID }: Json) => ID),
    [second],
  )
  assert.equal((await inBody).body.ID, second)
  const [{ Created }] = await world.search(`to:${to} subject:second`)
  const after = new Date(Date.parse(Created) + 1).toISOString()
  // As `date --iso-8601=seconds` prints it: in an address, a plus sign that nobody encoded is a space.
  const ahead = new Date(Date.parse(Created) + 9 * 3_600_000).toISOString().replace('Z', '+09:00')
  for (const since of [Created, ahead]) {
    assert.equal((await world.ask(latest(`to:${to}`, `since=${since}`))).body.ID, second)
  }
  assert.equal((await world.ask(latest(`to:${to}`, `since=${after}`))).status, 404)
  assert.equal((await world.ask(`GET /api/v1/search?query=to:${to}&since=${after}`)).body.messages.length, 0)
  // A message to several is answered with all of them.
  const several = [someone(), BAR, someone()]
  const copies = world.ask(latest(`to:${several[2]}`, 'wait=120'))
  await world.post(several, ['Subject: Several', '', 'text'])
  const { ID, EnvelopeTo } = (await copies).body
  assert.ok(EnvelopeTo.includes(several[2]))
  await until('all', async () => (await world.ask(`GET /api/v1/message/${ID}`)).body.EnvelopeTo.length === 3)
})

test('a wait in vain is 404 with what came instead, in time', async () => {
  const to = someone()
  const before = waiting()
  // What comes while it waits is told: a longer wait where the delivery took longer.
  for (const wait of [1, 4, 16, 64]) {
    const begin = performance.now()
    const answer = world.ask(latest('to:nobody@nowhere.example', `wait=${wait}`))
    // It may be over before this looks.
    await Promise.race([until('it waits', () => waiting() > before), answer])
    await world.deliver(to, 'Instead')
    const { status, body } = await answer
    assert.ok(performance.now() - begin >= wait * 1_000 - 100)
    assert.equal(status, 404)
    assert.match(body.Error, new RegExp(`\\b${wait} s`))
    const instead = body.Instead.map(({ EnvelopeTo }: Json) => EnvelopeTo)
    if (instead.length === 0 && wait < 64) continue
    assert.deepEqual(instead, [[to]])
    break
  }
})

test('300 waits at once get each its own mail, and those who went away leave nothing', async () => {
  const before = waiting()
  const addresses = Array.from({ length: 10 }, someone)
  const gone = new AbortController()
  const lost = Array.from({ length: 100 }, () =>
    world.ask(latest('to:never@nowhere.example', 'wait=600'), undefined, { signal: gone.signal }).catch(() => 'gone'),
  )
  const waits = Array.from({ length: 200 }, async (_, n) => {
    const to = addresses[n % addresses.length]
    const { status, body } = await world.ask(latest(`to:${to}`, 'wait=300'))
    assert.equal(status, 200, JSON.stringify(body))
    assert.ok(body.EnvelopeTo.includes(to))
  })
  await world.post(addresses, ['Subject: To ten', '', 'text'])
  await Promise.all(waits)
  gone.abort()
  await Promise.all(lost)
  await until('nobody waits', () => waiting() === before)
})

test('a page hears of new, changed and deleted mail, by whomever; who asks an inbox that just starts gets all', async () => {
  const page = await listen()
  const to = someone()
  const id = await world.post([to, FOO], ['Subject: Live', `To: ${to}`, '', 'live text'])
  const other = await serveInbox(world.settings, 0)
  try {
    assert.deepEqual((await page.next(({ Type }) => Type === 'server')).Data, { up: true })
    await page.next(({ Type }) => Type === 'stats')
    const { Data } = await page.next((event) => event.Type === 'new' && event.Data.ID === id)
    assert.equal(Data.Snippet, 'live text')
    // On a machine with much to do the second copy may come later.
    await page.next(({ Data }) => Data?.ID === id && Data.EnvelopeTo?.length === 2)
    assert.equal(page.events.filter(({ Type, Data }) => Type === 'new' && Data.ID === id).length, 1)
    const { total } = (await (await fetch(`${other.url}api/v1/messages`)).json()) as Json
    assert.equal(total, (await world.ask('GET /api/v1/messages')).body.total)
    // Somebody else reads and deletes over IMAP.
    await fetch(`${other.url}api/v1/message/${id}`)
    await page.next(({ Type, Data }) => Type === 'update' && Data.ID === id && Data.Read)
    await fetch(`${other.url}api/v1/messages`, { method: 'DELETE' })
    await page.next((event) => event.Type === 'delete' && event.Data.ID === id)
    await page.next((event) => event.Type === 'stats' && event.Data.Total === 0)
    const next = await world.deliver(to, 'Read me')
    await world.ask(`GET /api/v1/message/${next}`)
    await page.next(({ Type, Data }) => Type === 'update' && Data.ID === next && Data.Read)
  } finally {
    other.close()
    page.close()
  }
})

test('while the server is away the answer is 503; when it is back all is there and waits go on', async () => {
  const page = await listen()
  try {
    const [before, to] = [await world.deliver(someone(), 'Before'), someone()]
    const others = waiting()
    const answer = world.ask(latest(`to:${to}`, 'wait=300'))
    await until('it waits', () => waiting() > others)
    await new NativeProcesses(world.project.stateDir).end(60_000)
    await page.next(({ Type, Data }) => Type === 'server' && !Data.up)
    for (const path of ['messages', 'search?query=a', `message/${before}`, 'message/latest', 'mailboxes', 'tags']) {
      const { status, body } = await world.ask(`GET /api/v1/${path}`)
      assert.equal(status, 503, path)
      assert.match(body.Error, /away.*npm start/)
    }
    assert.equal((await world.ask('DELETE /api/v1/messages')).status, 503)
    assert.equal((await world.ask('GET /readyz')).status, 503)
    for (const path of ['livez', 'api/v1/info']) assert.equal((await world.ask(`GET /${path}`)).status, 200, path)
    const { code, stderr } = await runIn(world.project, {}, 'start')
    assert.equal(code, 0, stderr)
    await until('it is back', () => page.events.findLast(({ Type }) => Type === 'server')?.Data.up)
    const id = await world.post(to, ['Subject: After', '', 'text'])
    assert.equal((await answer).body.ID, id)
    assert.equal((await world.ask('GET /readyz')).text, 'ok')
    assert.equal((await world.ask(`GET /api/v1/message/${before}`)).body.Subject, 'Before')
  } finally {
    page.close()
  }
})

/** Asks with headers that fetch() does not let anybody set. */
function askWith(headers: Record<string, string>, method: string, path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const { port } = new URL(world.url)
    const asked = request({ host: '127.0.0.1', port, method, path, headers }, (response) => {
      response.resume().on('end', () => resolve(response.statusCode ?? 0))
    })
    asked.on('upgrade', (response, socket) => {
      socket.destroy()
      resolve(response.statusCode ?? 0)
    })
    asked.once('error', reject).end()
  })
}

test('no page of another site gets in, whatever name it has for this machine', async () => {
  const id = await world.deliver(someone())
  const { host, port } = new URL(world.url)
  const foreign = { host, origin: 'http://evil.example' }
  const cross = { host, 'sec-fetch-site': 'cross-site' }
  const link = { ...cross, 'sec-fetch-mode': 'navigate' }
  const key = { 'sec-websocket-key': `${'a'.repeat(22)}==`, 'sec-websocket-version': '13' }
  const upgrade = { connection: 'upgrade', upgrade: 'websocket', ...key }
  const [list, message, text] = ['/api/v1/messages', `/api/v1/message/${id}`, `/view/${id}.txt`]
  type Row = [headers: Record<string, string>, method: string, path: string, status: number]
  const table: Row[] = [
    ...[host, `localhost:${port}`, `[::1]:${port}`, 'LOCALHOST'].map((name): Row => [{ host: name }, 'GET', list, 200]),
    [{ host: `evil.example:${port}` }, 'GET', list, 403],
    [{ host: `127.0.0.1.evil.example:${port}` }, 'GET', '/', 403],
    [{ host: '169.254.1.1' }, 'GET', '/view/latest.txt', 403],
    [foreign, 'DELETE', list, 403],
    [{ host, origin: 'null' }, 'DELETE', list, 403],
    [{ host, origin: `http://127.0.0.1:${Number(port) + 1}` }, 'DELETE', list, 403],
    [cross, 'DELETE', list, 403],
    [link, 'POST', '/api/v1/send', 403],
    [cross, 'GET', message, 403],
    [link, 'GET', message, 403],
    [cross, 'GET', text, 403],
    [link, 'GET', text, 200],
    [{ host, origin: `http://${host}`, 'sec-fetch-site': 'same-origin' }, 'PUT', '/api/v1/tags', 400],
    [{ host, ...upgrade }, 'GET', '/api/events', 101],
    [{ ...foreign, ...upgrade }, 'GET', '/api/events', 403],
    [{ ...cross, ...upgrade }, 'GET', '/api/events', 403],
    [{ host, ...upgrade }, 'GET', '/api/other', 404],
  ]
  for (const [headers, method, path, status] of table) {
    assert.equal(await askWith(headers, method, path), status, JSON.stringify([headers, method, path]))
  }
  // A link from elsewhere shows a mail, and does not mark it as read.
  const { messages } = (await world.ask('GET /api/v1/messages')).body
  assert.equal(messages.find(({ ID }: Json) => ID === id).Read, false)
})

test('what a mail brings along runs nothing, reaches nothing and names no path', async () => {
  const hostile = [
    '<!DOCTYPE html><link rel=preconnect href=//evil.example><LINK REL="dns-prefetch" href="//evil.example">',
    '<li<linknk rel=preconnect href=//evil.example><img src="cid:../../etc/passwd"><img src="cid:pic"><script>1</script>',
  ].join('')
  const to = someone()
  const id = await world.post(to, [
    ...['Subject: Hostile', 'MIME-Version: 1.0', 'Content-Type: multipart/mixed; boundary=x', ''],
    ...['--x', 'Content-Type: text/html', '', hostile],
    ...['--x', 'Content-Type: text/html', 'Content-Disposition: attachment; filename="../../../etc/cron.d/evil.html"'],
    ...['', '<script>alert(1)</script>', '--x', 'Content-Type: image/svg+xml', 'Content-ID: <pic>'],
    ...['Content-Disposition: inline; filename="C:\\windows\\evil.svg"', '', '<svg onload="alert(1)"/>'],
    ...['--x', 'Content-Type: "text/html\r\n x-evil: 1"'],
    ...["Content-Disposition: attachment; filename*=UTF-8''a%0D%0AX-Evil%3A%201.png", '', 'x', '--x--'],
  ])
  const message = await world.wait(`to:${to}`)
  const view = await world.ask(`GET /view/${id}.html`)
  assert.doesNotMatch(view.text, /<link[\s/>]/i)
  assert.match(view.text, /^<!DOCTYPE html>.*src="cid:..\/..\/etc\/passwd".*src="data:image\/svg\+xml;base64,/s)
  assert.equal(
    view.headers.get('content-security-policy'),
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; " +
      "font-src data:; base-uri 'none'; form-action 'none'",
  )
  assert.equal(view.headers.get('x-dns-prefetch-control'), 'off')
  const files = [...message.Inline, ...message.Attachments]
  assert.deepEqual(files.map(({ FileName }) => FileName).sort(), ['aX-Evil: 1.png', 'evil.html', 'evil.svg'])
  for (const { PartID } of files) {
    const { headers } = await world.ask(`GET /api/v1/message/${id}/part/${PartID}`)
    assert.match(headers.get('content-disposition') ?? '', /^attachment; filename\*=UTF-8''[\w%.-]+$/)
    const others = ['content-security-policy', 'x-content-type-options', 'x-evil'].map((name) => headers.get(name))
    assert.deepEqual(others, ["sandbox; default-src 'none'", 'nosniff', null])
  }
  // A picture that a mail shows a hundred thousand times does not fill the memory.
  const file = { name: 'a.png', type: 'image/png', contentId: 'a', bytes: Buffer.alloc(5_000_000) }
  const shown = htmlOf('<img src="cid:a">'.repeat(100_000), { attachments: [file] } as unknown as Mail, false)
  assert.ok(shown.length < 70_000_000)
  assert.match(shown.slice(0, 100), /src="data:image\/png;base64,AAAA/)
})

test('a mail of 10 MB with 5,000 recipients in its header is a mail as others', async () => {
  const to = someone()
  const people = Array.from({ length: 5_000 }, (_, n) => `p${n}@c.jp`)
  await world.post(to, [`To: ${people.join(',\r\n ')}`, 'Subject: Large', '', `${'x'.repeat(74)}\r\n`.repeat(130_000)])
  const { To, Size } = await world.wait(`to:${to}`)
  assert.ok(To.length === 5_000 && Size > 9_800_000)
  assert.equal((await world.search('to:p4999@c.jp subject:large')).length, 1)
})
