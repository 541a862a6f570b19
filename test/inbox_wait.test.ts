/** The inbox live: waits, events, a server that goes away and comes back, and who may ask at all. */
import assert from 'node:assert/strict'
import { request } from 'node:http'
import { after, before, test } from 'node:test'
import { WebSocket } from 'ws'
import { serveInbox } from '../scripts/lib/inbox/http.ts'
import { htmlOf } from '../scripts/lib/inbox/view.ts'
import type { Mail } from '../scripts/lib/mail/mail.ts'
import { until } from './harness.ts'
import { BAR, FOO, InboxWorld, type Json, someone } from './inbox_world.ts'

let world: InboxWorld
before(async () => {
  world = await InboxWorld.start()
})
after(() => world?.remove())

const latest = (query: string, more: string) => `GET /api/v1/message/latest?query=${encodeURIComponent(query)}&${more}`

/** The events of a page, until it is closed. */
async function listen(): Promise<{
  events: Json[]
  close(): void
  next(isIt: (event: Json) => boolean): Promise<Json>
}> {
  const socket = new WebSocket(`${world.url.replace('http', 'ws')}/api/events?envelope=1`)
  const events: Json[] = []
  socket.on('message', (text) => events.push({ ...JSON.parse(String(text)), at: performance.now() }))
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  const next = (isIt: (event: Json) => boolean) => until('the event', () => events.find(isIt), 30_000)
  return { events, close: () => socket.close(), next }
}

test('a wait is answered by what is there, else by what comes', async () => {
  const to = someone()
  const id = await world.deliver(to, 'There')
  assert.equal((await world.ask(latest(`to:${to}`, 'wait=20'))).body.ID, id)
  const newer = world.ask(latest(`to:${to}`, 'wait=30&since=now'))
  const search = world.ask(`GET /api/v1/search?query=to:${to}%20subject:second&wait=30`)
  const inBody = world.ask(latest(`to:${to} "only in the body"`, 'wait=30'))
  await new Promise((resolve) => setTimeout(resolve, 300))
  const second = await world.post(to, ['Subject: Second', '', 'this stands only in the body'])
  assert.equal((await newer).body.ID, second)
  assert.deepEqual(
    (await search).body.messages.map(({ ID }: Json) => ID),
    [second],
  )
  assert.equal((await inBody).body.ID, second)
  const [{ Created }] = await world.search(`to:${to} subject:second`)
  const after = new Date(Date.parse(Created) + 1).toISOString()
  assert.equal((await world.ask(latest(`to:${to}`, `since=${Created}`))).body.ID, second)
  assert.equal((await world.ask(latest(`to:${to}`, `since=${after}`))).status, 404)
  // As `date --iso-8601=seconds` prints it: in an address, a plus sign that nobody encoded is a space.
  const ahead = new Date(Date.parse(Created) + 9 * 3_600_000).toISOString().replace('Z', '+09:00')
  assert.equal((await world.ask(latest(`to:${to}`, `since=${ahead}`))).body.ID, second)
  assert.equal((await world.ask(`GET /api/v1/search?query=to:${to}&since=${after}`)).body.messages.length, 0)
  // A message to several is answered with all of them.
  const several = [someone(), BAR, someone()]
  const waiting = world.ask(latest(`to:${several[2]}`, 'wait=30'))
  await world.post(several, ['Subject: Several', '', 'text'])
  const { ID, EnvelopeTo } = (await waiting).body
  assert.ok(EnvelopeTo.includes(several[2]))
  await until('all of them', async () => (await world.ask(`GET /api/v1/message/${ID}`)).body.EnvelopeTo.length === 3)
})

test('a wait in vain is 404 with what came instead, in time', async () => {
  const to = someone()
  const begin = performance.now()
  const waiting = world.ask(latest('to:nobody@nowhere.example', 'wait=3'))
  await world.deliver(to, 'Instead')
  const { status, body } = await waiting
  assert.ok(performance.now() - begin >= 2_900)
  assert.equal(status, 404)
  assert.match(body.Error, /3 s/)
  assert.deepEqual(
    body.Instead.map(({ EnvelopeTo }: Json) => EnvelopeTo),
    [[to]],
  )
})

test('1,000 waits at once get each its own mail, and those who went away leave nothing', async () => {
  const addresses = Array.from({ length: 1_000 }, someone)
  const gone = new AbortController()
  const lost = Array.from({ length: 100 }, () =>
    world.ask(latest('to:never@nowhere.example', 'wait=600'), undefined, { signal: gone.signal }).catch(() => 'gone'),
  )
  const waits = addresses.map((to) => world.ask(latest(`to:${to}`, 'wait=120')))
  for (let at = 0; at < addresses.length; at += 50) {
    await world.post(addresses.slice(at, at + 50), [`Subject: To fifty`, '', 'text'])
  }
  const answers = await Promise.all(waits)
  for (const [n, { status, body }] of answers.entries()) {
    assert.equal(status, 200, JSON.stringify(body))
    assert.ok(body.EnvelopeTo.includes(addresses[n]))
  }
  gone.abort()
  await Promise.all(lost)
  // Nobody is left to listen to the index.
  await until('no listeners', () => world.index.listenerCount('new') === 2)
  await world.ask('DELETE /api/v1/messages')
})

test('a page hears of new, changed and deleted mail, by whomever', async () => {
  const page = await listen()
  try {
    assert.deepEqual((await page.next(({ Type }) => Type === 'server')).Data, { up: true })
    await page.next(({ Type }) => Type === 'stats')
    const to = someone()
    const id = await world.post([to, FOO], ['Subject: Live', `To: ${to}`, '', 'live text'])
    const { Data } = await page.next((event) => event.Type === 'new' && event.Data.ID === id)
    assert.equal(Data.Snippet, 'live text')
    // On a machine with much to do the second copy may come later.
    await page.next(({ Data }) => Data.ID === id && Data.EnvelopeTo?.length === 2)
    assert.equal(page.events.filter(({ Type }) => Type === 'new').length, 1)
    // Somebody else reads and deletes, over IMAP or POP3.
    await world.project.run('reset', '--yes').then(({ code, stderr }) => assert.equal(code, 0, stderr))
    await page.next((event) => event.Type === 'delete' && event.Data.ID === id)
    await page.next((event) => event.Type === 'stats' && event.Data.Total === 0)
    const next = await world.deliver(to, 'Read me')
    await world.ask(`GET /api/v1/message/${next}`)
    await page.next(({ Type, Data }) => Type === 'update' && Data.ID === next && Data.Read)
  } finally {
    page.close()
  }
})

test('who asks at once when the inbox starts gets what is there, of all mailboxes', async () => {
  await world.deliver([BAR, someone()])
  const { total } = (await world.ask('GET /api/v1/messages')).body
  const early = await serveInbox(world.settings, 0)
  try {
    const response = await fetch(`${early.url}api/v1/messages`)
    assert.deepEqual([response.status, ((await response.json()) as Json).total], [200, total])
  } finally {
    early.close()
  }
})

test('while the server is away the answer is 503; when it is back all is there and waits go on', async () => {
  const page = await listen()
  try {
    const [before, to] = [await world.deliver(someone(), 'Before'), someone()]
    const waiting = world.ask(latest(`to:${to}`, 'wait=120'))
    assert.equal((await world.project.run('stop')).code, 0)
    await page.next(({ Type, Data }) => Type === 'server' && !Data.up)
    for (const path of ['messages', 'search?query=a', `message/${before}`, 'message/latest', 'mailboxes', 'tags']) {
      const { status, body } = await world.ask(`GET /api/v1/${path}`)
      assert.equal(status, 503, path)
      assert.match(body.Error, /away.*npm start/)
    }
    assert.equal((await world.ask('DELETE /api/v1/messages')).status, 503)
    assert.equal((await world.ask('GET /api/v1/info')).status, 200)
    await world.project.start()
    await page.next(({ Type, Data, at }) => Type === 'server' && Data.up && at > (page.events[0]?.at ?? 0) + 1)
    const id = await world.post(to, ['Subject: After', '', 'text'])
    assert.equal((await waiting).body.ID, id)
    assert.equal((await world.ask(`GET /api/v1/message/${before}`)).body.Subject, 'Before')
  } finally {
    page.close()
  }
})

/** Asks with headers that fetch() does not let anybody set. */
function askWith(headers: Record<string, string>, method = 'GET', path = '/api/v1/messages'): Promise<number> {
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
  const [foreign, cross] = ['http://evil.example', { 'sec-fetch-site': 'cross-site' }]
  const link = { ...cross, 'sec-fetch-mode': 'navigate' }
  const upgrade = {
    connection: 'upgrade',
    upgrade: 'websocket',
    'sec-websocket-key': `${'a'.repeat(22)}==`,
    'sec-websocket-version': '13',
  }
  const table: [Record<string, string>, string, string, number][] = [
    [{ host }, 'GET', '/api/v1/messages', 200],
    [{ host: `localhost:${port}` }, 'GET', '/api/v1/messages', 200],
    [{ host: `[::1]:${port}` }, 'GET', '/api/v1/messages', 200],
    [{ host: 'LOCALHOST' }, 'GET', '/api/v1/messages', 200],
    [{ host: `evil.example:${port}` }, 'GET', '/api/v1/messages', 403],
    [{ host: `127.0.0.1.evil.example:${port}` }, 'GET', '/', 403],
    [{ host: '169.254.1.1' }, 'GET', '/view/latest.txt', 403],
    [{ host, origin: foreign }, 'GET', '/api/v1/messages', 403],
    [{ host, origin: 'null' }, 'DELETE', '/api/v1/messages', 403],
    [{ host, origin: foreign }, 'DELETE', '/api/v1/messages', 403],
    [{ host, origin: `http://127.0.0.1:${Number(port) + 1}` }, 'DELETE', '/api/v1/messages', 403],
    [{ host, origin: `https://${host}` }, 'DELETE', '/api/v1/messages', 403],
    [{ host, ...cross }, 'DELETE', '/api/v1/messages', 403],
    [{ host, 'sec-fetch-site': 'same-site' }, 'DELETE', '/api/v1/messages', 403],
    [{ host, ...link }, 'DELETE', '/api/v1/messages', 403],
    [{ host, ...link }, 'POST', '/api/v1/send', 403],
    [{ host, ...cross }, 'GET', `/api/v1/message/${id}`, 403],
    [{ host, ...link }, 'GET', `/api/v1/message/${id}`, 403],
    [{ host, ...cross }, 'GET', `/view/${id}.txt`, 403],
    [{ host, ...link }, 'GET', `/view/${id}.txt`, 200],
    [{ host, origin: `http://${host}`, 'sec-fetch-site': 'same-origin' }, 'PUT', '/api/v1/tags', 400],
    [{ host, ...upgrade }, 'GET', '/api/events', 101],
    [{ host, ...upgrade, origin: `http://${host}` }, 'GET', '/api/events', 101],
    [{ host, ...upgrade, origin: foreign }, 'GET', '/api/events', 403],
    [{ host: 'evil.example', ...upgrade, origin: 'http://evil.example' }, 'GET', '/api/events', 403],
    [{ host, ...upgrade, ...cross }, 'GET', '/api/events', 403],
    [{ host, ...upgrade }, 'GET', '/api/other', 404],
  ]
  for (const [headers, method, path, status] of table) {
    assert.equal(await askWith(headers, method, path), status, JSON.stringify([headers, method, path]))
  }
  const { messages } = (await world.ask('GET /api/v1/messages')).body
  // A link from elsewhere shows a mail, and does not mark it as read.
  assert.equal(messages.find(({ ID }: Json) => ID === id).Read, false)
})

test('what a mail brings along runs nothing, reaches nothing and names no path', async () => {
  const hostile = [
    '<!DOCTYPE html><link rel=preconnect href=//evil.example><LINK REL="dns-prefetch" href="//evil.example">',
    '<li<linknk rel=preconnect href=//evil.example><base href="http://evil.example/">',
    '<img src="cid:../../etc/passwd"><img src="cid:pic"><script>1</script>',
  ].join('')
  const to = someone()
  const id = await world.post(to, [
    'Subject: Hostile',
    'MIME-Version: 1.0',
    'Content-Type: multipart/mixed; boundary=x',
    '',
    '--x',
    'Content-Type: text/html',
    '',
    hostile,
    '--x',
    'Content-Type: text/html; name="../../../etc/cron.d/evil.html"',
    'Content-Disposition: attachment; filename="../../../etc/cron.d/evil.html"',
    '',
    '<script>alert(1)</script>',
    '--x',
    'Content-Type: image/svg+xml',
    'Content-ID: <pic>',
    'Content-Disposition: inline; filename="C:\\windows\\evil.svg"',
    '',
    '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    '--x',
    'Content-Type: "text/html\r\n x-evil: 1"',
    "Content-Disposition: attachment; filename*=UTF-8''a%0D%0AX-Evil%3A%201.png",
    '',
    'x',
    '--x--',
  ])
  const message = await world.wait(`to:${to}`)
  assert.equal(message.ID, id)
  const view = await world.ask(`GET /view/${id}.html`)
  assert.doesNotMatch(view.text, /<link[\s/>]/i)
  assert.match(view.text, /^<!DOCTYPE html>/)
  assert.match(view.text, /src="cid:..\/..\/etc\/passwd"/)
  assert.match(view.text, /src="data:image\/svg\+xml;base64,/)
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
    assert.equal(headers.get('content-security-policy'), "sandbox; default-src 'none'")
    assert.equal(headers.get('x-content-type-options'), 'nosniff')
    assert.equal(headers.get('x-evil'), null)
  }
})

test('a picture that a mail shows a hundred thousand times does not fill the memory', () => {
  const bytes = Buffer.alloc(5_000_000)
  const file = { name: 'a.png', type: 'image/png', contentId: 'a', inline: true, part: '2', bytes }
  const shown = htmlOf('<img src="cid:a">'.repeat(100_000), { attachments: [file] } as unknown as Mail, false)
  assert.ok(shown.length < 70_000_000)
  assert.match(shown.slice(0, 100), /src="data:image\/png;base64,AAAA/)
})

test('a header with 5,000 recipients and a mail of 10 MB are mails as others', async () => {
  const [many, large] = [someone(), someone()]
  const people = Array.from({ length: 5_000 }, (_, n) => `p${n}@c.jp`)
  await world.post(many, [`To: ${people.join(',\r\n ')}`, 'Subject: Many', '', 'text'])
  const message = await world.wait(`to:${many}`, 60)
  assert.equal(message.To.length, 5_000)
  assert.equal((await world.search('to:p4999@c.jp subject:many')).length, 1)
  const line = `${'x'.repeat(74)}\r\n`
  await world.post(large, ['Subject: Large', '', line.repeat(130_000)])
  assert.ok((await world.wait(`to:${large}`, 60)).Size > 9_800_000)
})
