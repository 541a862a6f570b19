/** The inbox's API on a real server: each route and field, the search, the joining of copies, failing input. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { Ajv } from 'ajv'
import { MailpitClient } from 'mailpit-api'
import { BAR, CATCHALL, FOO, VIRTUAL_DOMAIN } from '../scripts/lib/accounts/accounts.ts'
import { ROOT } from '../scripts/lib/settings.ts'
import { until } from './harness.ts'
import { InboxWorld, type Json, someone } from './inbox_world.ts'

let world: InboxWorld
before(async () => {
  world = await InboxWorld.start()
})
after(() => world?.remove())

const description = JSON.parse(readFileSync(join(ROOT, 'scripts/lib/inbox/openapi.json'), 'utf8'))
const ajv = new Ajv({ strict: false }).addSchema(description, 'api')
/** Asserts that a value is what openapi.json calls by that name. */
function assertIs(name: string, value: Json): void {
  const validate = ajv.getSchema(`api#/components/schemas/${name}`)
  assert.ok(validate?.(value), `${name}: ${JSON.stringify(validate?.errors?.[0])} in ${JSON.stringify(value)}`)
}

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

test('a message has every field, and what a test wants beside', async () => {
  const [to, hidden] = [someone(), someone()]
  const sent = await world.ask('POST /api/v1/send', {
    ...{ From: { Name: '予約', Email: 'shop@sender.example' }, To: [{ Email: to, Name: 'Someone' }] },
    ...{ Cc: [{ Email: BAR }], Bcc: [hidden], ReplyTo: [{ Email: 'reply@sender.example' }] },
    ...{ Subject: 'Ihre Bestellung für 予約', Text: 'Your code is 482193. https://shop.example/confirm?t=1' },
    HTML: '<p>Hi <img src="cid:logo@shop"> <img src="cid:logo%40shop"> <a href="https://shop.example/html">x</a>',
    Attachments: [
      { Filename: 'übersicht.txt', Content: Buffer.from('hello').toString('base64') },
      { Filename: 'logo.png', Content: PNG, ContentType: 'image/png', ContentID: 'logo@shop' },
    ],
    Headers: { 'X-Campaign': 'spring', 'List-Unsubscribe': '<https://shop.example/off>, <mailto:off@shop.example>' },
    Tags: ['welcome', 'a b'],
  })
  assert.equal(sent.status, 200, sent.text)
  // Who would end an idle connection tells so; a client that asks at that moment would be reset.
  assert.equal(sent.headers.get('keep-alive'), null)
  assertIs('Sent', sent.body)
  const { ID } = sent.body
  const listed = (await world.ask('GET /api/v1/messages?limit=1')).body
  const { body: message } = await world.ask(`GET /api/v1/message/${ID}`)
  assertIs('Messages', listed)
  assertIs('Message', message)
  const [summary] = listed.messages
  assert.deepEqual([summary.Read, summary.Attachments], [false, 1])
  assert.match(summary.Snippet, /Your code is 482193/)
  for (const one of [summary, message]) {
    assert.deepEqual([one.ID, one.Subject, one.Tags], [ID, 'Ihre Bestellung für 予約', ['a b', 'welcome']])
    const people = [one.From, ...one.To, ...one.Cc, ...one.Bcc, ...one.ReplyTo]
    const named = people.map(({ Name, Address }: Json) => `${Name}<${Address}>`)
    const others = [`Someone<${to}>`, `<${BAR}>`, `<${hidden}>`, '<reply@sender.example>']
    assert.deepEqual(named, ['予約<shop@sender.example>', ...others])
    assert.deepEqual([...one.EnvelopeTo].sort(), [to, BAR, hidden].sort())
    assert.deepEqual([...one.Mailboxes].sort(), [BAR, CATCHALL])
  }
  const { Text, HTML, ReturnPath, ListUnsubscribe, Links, Code, Inline, Attachments } = message
  assert.equal(Text.trim(), 'Your code is 482193. https://shop.example/confirm?t=1')
  assert.match(HTML, /cid:logo@shop/)
  assert.deepEqual([ReturnPath, Code, Inline.length], ['shop@sender.example', '482193', 1])
  assert.deepEqual(ListUnsubscribe.Links, ['https://shop.example/off', 'mailto:off@shop.example'])
  assert.deepEqual(Links, ['https://shop.example/confirm?t=1', 'https://shop.example/html'])
  const [{ FileName, ContentType, Size, Checksums, PartID }] = Attachments
  assert.deepEqual([FileName, ContentType, Size], ['übersicht.txt', 'text/plain', 5])
  assert.equal(Checksums.MD5, '5d41402abc4b2a76b9719d911017c592')

  const headers = (await world.ask(`GET /api/v1/message/${ID}/headers`)).body
  assertIs('Headers', headers)
  assert.deepEqual(headers['X-Campaign'], ['spring'])
  const raw = await world.ask(`GET /api/v1/message/${ID}/raw`)
  assert.match(raw.text, /^X-Campaign: spring\r$/m)
  assert.equal(raw.headers.get('content-disposition'), null)
  const download = await world.ask(`GET /api/v1/message/${ID}/raw?dl=1`)
  assert.match(download.headers.get('content-disposition') ?? '', /^attachment; filename\*=UTF-8''\w+\.eml$/)
  assert.equal((await world.ask(`GET /api/v1/message/${ID}/part/${PartID}`)).text, 'hello')
  const html = await world.ask(`GET //view/${ID}.html`)
  assert.equal(html.text.split(`src="data:image/png;base64,${PNG}"`).length, 3)
  assert.match(html.headers.get('content-security-policy') ?? '', /^sandbox allow-popups .*default-src 'none'/)
  assert.match(html.text, /<a href="https:\/\/shop.example\/html">/)
  const embedded = await world.ask(`GET /view/${ID}.html?embed=1`)
  assert.match(embedded.text, /<a target="_blank" rel="noreferrer noopener" href="https:/)
  assert.match((await world.ask(`GET /view/${ID}.txt`)).text, /Your code is/)
  assert.equal((await world.ask(`GET /view/${await world.deliver(someone())}.html`)).status, 404)
})

test('copies of one message are one; its ID is the queue id, and the same after a restart', async () => {
  const recipients = [BAR, FOO, someone(), someone()]
  const id = await world.deliver(recipients, 'To all')
  await until('all copies', async () => (await world.search('subject:"To all"'))[0]?.EnvelopeTo.length === 4)
  const [one, ...others] = await world.search('subject:"To all"')
  assert.deepEqual([one.ID, others.length, [...one.EnvelopeTo].sort()], [id, 0, [...recipients].sort()])
  assert.deepEqual(one.Bcc.map(({ Address }: Json) => Address).sort(), recipients.slice(1).sort())
  const list = async () =>
    (await world.ask('GET /api/v1/messages?limit=0')).body.messages.map(({ ID, Created }: Json) => `${ID} ${Created}`)
  const all = await list()
  world.close()
  await world.open()
  assert.deepEqual(await list(), all)
  assert.equal((await world.ask('DELETE /api/v1/messages', { IDs: [id] })).text, 'ok')
  assert.deepEqual(await world.search('subject:"To all"'), [])
})

test('a domain that is not ASCII is the same in either form: in header, envelope and query', async () => {
  const ascii = someone().replace('@', '@xn--r8jz45g.')
  for (const local of ['', '例']) {
    const to = local + ascii.replace('xn--r8jz45g', '例え')
    const { body } = await world.ask('POST /api/v1/send', { From: { Email: to }, To: [{ Email: to }], Subject: 'IDN' })
    for (const query of [`to:${to}`, `to:${local}${ascii}`, `from:${to}`, `from:${local}${ascii}`]) {
      const [message] = await world.search(query)
      assert.deepEqual([message?.ID, message?.Bcc], [body.ID, []], query)
    }
  }
})

test('a mail that was sent before keeps apart, and a forged recipient does not count', async () => {
  const first = await world.deliver(someone(), 'First')
  const source = (await world.ask(`GET /api/v1/message/${first}/raw`)).text
  const to = someone()
  const second = await world.post(to, `X-Original-To: forged@x.example\r\n${source}`)
  const { ID, EnvelopeTo } = await world.wait(`to:${to}`)
  assert.notEqual(second, first)
  assert.deepEqual([ID, EnvelopeTo], [second, [to]])
  assert.equal((await world.ask(`GET /api/v1/message/${first}`)).status, 200)
})

test('search knows the words of Mailpit', async () => {
  const to = someone()
  const text = Buffer.from('Der Umsatz im März: hundred thousand').toString('base64')
  const id = await world.post(to, [
    ...['From: "Ann Müller" <ann@shop.example>', 'To: team@shop.example', 'Cc: boss@shop.example'],
    ...['Reply-To: noreply@shop.example', 'Subject: Monthly report for March', 'Message-ID: <unique-77@shop.example>'],
    ...['MIME-Version: 1.0', 'Content-Type: multipart/mixed; boundary=x', ''],
    ...['--x', 'Content-Type: text/plain; charset=utf-8', 'Content-Transfer-Encoding: base64', '', text],
    ...[
      '--x',
      'Content-Type: application/pdf',
      'Content-Disposition: attachment; filename="=?utf-8?Q?t=C3=A9.pdf?="',
      '',
    ],
    ...['x'.repeat(3000), '--x--'],
  ])
  await world.wait(`to:${to}`)
  await world.ask('PUT /api/v1/tags', { IDs: [id], Tags: ['Invoice'] })
  const day = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10)
  const finds = `${to} | to:${to.toUpperCase()} | to:${to.slice(0, 9)} | to:team@shop.example | from:ann@shop.example
    from:@shop.ex | from:müller | from:"ann müller" | cc:boss@shop.example | bcc:${to} | reply-to:noreply
    addressed:boss@shop.example | addressed:${to} | subject:"report for" | subject:REPORT -subject:april
    message-id:unique-77 | message-id:<unique-77@shop.example> | tag:invoice | is:tagged is:read | has:attachment
    has:attachments -has:inline | larger:2k smaller:1M | after:${day(-1)} before:${day(1)} | hundred | März umsatz
    "hundred thousand" | "hundred\tthousand" | té.pdf | -nowhere-to-be-found | after:${day(-1)}&tz=Asia/Tokyo`
  const misses = `to:${to.slice(1)} | to:boss@shop.example | from:nn@shop.example | subject:"for report" | tag:inv
    !subject:report | is:unread | larger:1M | before:${day(-1)} | "thousand hundred" | -hundred | constructor:x | delivered
    monthly nowhere-to-be-found | http://nowhere.example:80/`
  for (const [queries, isFound] of [[finds, true] as const, [misses, false] as const]) {
    for (const query of queries.split(/\s*[|\n]\s*/)) {
      const [words = '', ...more] = query.split('&')
      const path = ['GET /api/v1/search?query=', encodeURIComponent(words), ...more.map((one) => `&${one}`)].join('')
      const { body } = await world.ask(path)
      const isThere = body.messages.some(({ ID }: Json) => ID === id)
      assert.equal(isThere, isFound, query)
    }
  }
})

test('what makes no sense changes nothing, and says why: queries, waits, numbers, bodies, paths', async () => {
  const to = someone()
  const id = await world.deliver(to)
  const queries = ',%20,%22,a%20%22b,%22%22,%00,to:,is:old,has:virus,larger:big,before:soon,after:2026-11-26&tz=Mars/X'
  const waits = 'wait=-1,wait=x,wait=10s,wait=601,wait=,since=,since=yesterday,since=5,since=2026-99-99T00:00:00Z'
  const bad = [
    ...queries.split(',').map((query) => `GET /api/v1/search?query=${query}`),
    ...waits.split(',').map((words) => `GET /api/v1/message/latest?query=a&${words}`),
    ...['start=-1', 'limit=many', 'mailbox=nobody'].map((words) => `GET /api/v1/messages?${words}`),
    ...['DELETE /api/v1/tags/%zz', 'DELETE /api/v1/search', 'GET /api/v1/chaos'],
  ]
  const unknown = [
    ...['nothing', 'message/unknown/raw', 'message/..%2F..%2Fetc%2Fpasswd', `message/${id}/part/9`].map(
      (path) => `GET /api/v1/${path}`,
    ),
    ...['GET /view/unknown.html', 'GET /..%2Fpackage.json', 'GET /page.ts'],
  ]
  const From = { Email: 'a@b.example' }
  const good = { From, To: [From] }
  const bodies = {
    'DELETE /api/v1/messages': [
      ...['{', '[]', 'null', '"all"', 'ids=1', `IDs=${id}&Search=x`, { IDs: id }, { IDs: null }, { ids: [id] }],
    ],
    'PUT /api/v1/messages': [`IDs=${id}&Read=true`, { Read: 'yes' }, { Search: '"' }],
    'PUT /api/v1/tags': [
      { IDs: [], Tags: ['a'] },
      { IDs: [id], Tags: ['a\r\nb'] },
    ],
    'PUT /api/v1/tags/none': [{}],
    'POST /api/v1/send': [
      ...[{ From }, { From, To: [{ Email: 'nobody' }] }, { From, To: [{ Email: `nobodyhere@${VIRTUAL_DOMAIN}` }] }],
      { From, To: [{ Email: 'a@b.example\r\nRCPT TO:<c@d.example>' }] },
      { From, To: [{ ...From, Name: 'x\r\nBcc: c@d.example' }] },
      { ...good, Subject: 'a\r\nBcc: c@d.example' },
      ...[{ 'X-A': 'a\nb' }, { 'X A:': 'a' }].map((Headers) => ({ ...good, Headers })),
      { ...good, Text: { path: '/etc/passwd' } },
      ...[{ path: '/etc/passwd' }, { Content: '!' }].map((one) => ({
        ...good,
        Attachments: [{ Filename: 'a', ...one }],
      })),
    ],
  }
  type Row = [what: string, sent: unknown, status: number]
  const table: Row[] = [
    ...bad.map((what): Row => [what, undefined, 400]),
    ...unknown.map((what): Row => [what, undefined, 404]),
    ...Object.entries(bodies).flatMap(([what, all]) => all.map((body): Row => [what, body, 400])),
    ['POST /api/v1/send', 'x'.repeat(31_000_000), 413],
    ['POST /api/v1/messages', {}, 405],
  ]
  for (const [what, sent, wanted] of table) {
    const { status, body } = await world.ask(what, sent)
    assert.equal(status, wanted, `${what} ${JSON.stringify(sent)?.slice(0, 200)}: ${JSON.stringify(body)}`)
    assertIs('Error', body)
    assert.doesNotMatch(body.Error, /undefined|NaN|\n|at .*:\d+:\d+/, what)
  }
  assert.equal((await world.ask('DELETE /api/v1/messages', { IDs: ['unknown'] })).text, 'ok')
  assert.equal((await world.search(`to:${to}`)).length, 1)
})

test('what is read, tagged and deleted is so for all: by IDs, by query, all of it; pages of a list', async () => {
  const to = someone()
  const ids: string[] = []
  for (const subject of ['one', 'two', 'three']) ids.push(await world.deliver(to, subject))
  const pages = ['limit=2', 'start=2&limit=2', 'start=9'].map(async (page) => {
    const { messages } = (await world.ask(`GET /api/v1/search?query=to:${to}&${page}`)).body
    return messages.map(({ Subject }: Json) => Subject).join()
  })
  assert.deepEqual(await Promise.all(pages), ['three,two', 'one', ''])
  assert.equal((await world.ask('GET /api/v1/message/latest/raw')).text.includes('Subject: three'), true)
  const states = async () => (await world.search(`to:${to}`)).map(({ Subject, Read }) => `${Subject} ${Read}`).reverse()
  await world.ask('PUT /api/v1/messages', { IDs: [ids[0]], Read: true })
  assert.deepEqual(await states(), ['one true', 'two false', 'three false'])
  await world.ask('PUT /api/v1/messages', { Search: `to:${to} subject:two`, Read: true })
  await world.ask('PUT /api/v1/messages', { IDs: [ids[0]], Read: false })
  assert.deepEqual(await states(), ['one false', 'two true', 'three false'])
  // Tags that differ in letter case alone are one.
  await world.ask('PUT /api/v1/tags', { IDs: ids.slice(0, 2), Tags: ['Read test'] })
  assert.equal((await world.search('tag:"read test"')).length, 2)
  await world.ask('PUT /api/v1/tags/read%20test', { Name: 'READ TEST' })
  await world.ask('PUT /api/v1/tags', { IDs: [ids[0]], Tags: ['reAd tesT'] })
  const { body: tags } = await world.ask('GET /api/v1/tags')
  assert.deepEqual(
    tags.filter((one: string) => /^read test$/i.test(one)),
    ['READ TEST'],
  )
  const headers = { 'content-type': 'application/x-www-form-urlencoded' }
  await world.ask('DELETE /api/v1/messages', `IDs=${ids[0]}`, { headers })
  assert.deepEqual(await states(), ['two true', 'three false'])
  await world.ask(`DELETE /api/v1/search?query=${encodeURIComponent(`to:${to} subject:two`)}`)
  assert.deepEqual(await states(), ['three false'])
  const foo = await world.deliver(FOO)
  const { body: boxes } = await world.ask('GET /api/v1/mailboxes')
  assertIs('Mailboxes', boxes)
  assert.ok(boxes.find(({ Name }: Json) => Name === FOO).Unread > 0)
  const inFoo = (await world.ask(`GET /api/v1/messages?mailbox=${FOO.toUpperCase()}`)).body
  assert.ok(inFoo.messages.every(({ Mailboxes }: Json) => Mailboxes.includes(FOO)))
  await world.ask(`DELETE /api/v1/messages?mailbox=${FOO}`, {})
  assert.equal((await world.ask(`GET /api/v1/message/${foo}`)).status, 404)
  assert.equal((await world.search(`to:${to}`)).length, 1)
  await world.ask('DELETE /api/v1/messages')
  const { body } = await world.ask('GET /api/v1/messages')
  assert.deepEqual([body.total, body.unread, body.messages_count, body.messages], [0, 0, 0, []])
})

test('a client that offers HTTP/2 gets its answer, as do its next requests', async () => {
  const { hostname, port } = new URL(world.url)
  const socket = connect(Number(port), hostname)
  const offer = `Host: ${hostname}:${port}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA`
  let answers = ''
  socket.setEncoding('utf8').on('data', (text) => {
    answers += text
  })
  const body = '{"IDs":["unknown"]}'
  socket.write(`GET /api/v1/tags HTTP/1.1\r\n${offer}\r\n\r\n`)
  await until('the first answer', () => answers.includes('\r\n\r\n['))
  socket.write(
    `DELETE /api/v1/messages HTTP/1.1\r\n${offer}\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 5)}`,
  )
  // The rest comes apart.
  await world.ask('GET /api/v1/webui')
  socket.write(`${body.slice(5)}GET /api/v1/webui HTTP/1.1\r\nHost: ${hostname}\r\n\r\n`)
  await until('the other answers', () => answers.includes('"MessageRelay"'))
  assert.equal(answers.match(/HTTP\/1.1 200 OK/g)?.length, 3, answers)
  socket.destroy()
})

test('mailpit-api from npm works unchanged', async () => {
  const mailpit = new MailpitClient(world.url)
  const to = someone()
  const { ID } = await mailpit.sendMessage({
    ...{ From: { Email: 'a@b.example' }, To: [{ Email: to }], Subject: 'By mailpit-api', Text: 'text' },
    ...{ HTML: '<b>html</b>', Attachments: [{ Filename: 'a.txt', Content: 'aGVsbG8=' }], Tags: ['client'] },
  })
  const message = await mailpit.waitForMessage({ query: `to:${to}` })
  assert.equal(message.ID, ID)
  assert.equal((await mailpit.waitForMessages({ query: `to:${to}`, count: 1, exact: true })).messages_count, 1)
  assert.equal((await mailpit.listMessages()).messages[0]?.ID, ID)
  assert.equal((await mailpit.getMessageHeaders(ID)).Subject?.[0], 'By mailpit-api')
  assert.match(await mailpit.renderMessageHTML(ID), /<b>html/)
  assert.ok((await mailpit.getTags()).includes('client'))
  await mailpit.setTags({ IDs: [ID], Tags: ['other'] })
  await mailpit.renameTag('other', 'third')
  assert.deepEqual((await mailpit.getMessageSummary(ID)).Tags, ['third'])
  await mailpit.deleteTag('third')
  await mailpit.setReadStatus({ IDs: [ID], Read: false })
  assert.equal((await mailpit.searchMessages({ query: `to:${to} is:unread` })).messages.length, 1)
  const info = await mailpit.getInfo()
  assertIs('Info', info)
  assertIs('WebUI', await mailpit.getConfiguration())
  assert.ok(info.Messages > 0)
  await assert.rejects(mailpit.getChaosTriggers(), /400/)
  await mailpit.deleteMessagesBySearch({ query: `to:${to}` })
  await assert.rejects(mailpit.getMessageSummary(ID), /404/)
  await mailpit.deleteMessages()
  assert.equal((await mailpit.listMessages()).total, 0)
})
