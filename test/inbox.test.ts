/** The inbox's API on a real server: each route and field, the search, the joining of copies, failing input. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Ajv } from 'ajv'
import { MailpitClient } from 'mailpit-api'
import { ROOT } from '../scripts/lib/settings.ts'
import { until } from './harness.ts'
import { BAR, CATCHALL, DOMAIN, FOO, InboxWorld, type Json, someone } from './inbox_world.ts'

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
    From: { Name: '予約', Email: 'shop@sender.example' },
    To: [{ Email: to, Name: 'Someone' }],
    Cc: [{ Email: BAR }],
    Bcc: [hidden],
    ReplyTo: [{ Email: 'reply@sender.example' }],
    Subject: 'Ihre Bestellung für 予約',
    Text: 'Your code is 482193. https://shop.example/confirm?t=1',
    HTML: '<p>Hi <img src="cid:logo@shop"> <a href="https://shop.example/html">x</a>',
    Attachments: [
      { Filename: 'übersicht.txt', Content: Buffer.from('hello').toString('base64') },
      { Filename: 'logo.png', Content: PNG, ContentType: 'image/png', ContentID: 'logo@shop' },
    ],
    Headers: { 'X-Campaign': 'spring', 'List-Unsubscribe': '<https://shop.example/off>, <mailto:off@shop.example>' },
    Tags: ['welcome', 'a b'],
  })
  assert.equal(sent.status, 200, sent.text)
  assertIs('Sent', sent.body)
  const { ID } = sent.body
  assert.match(ID, /^[A-Za-z0-9]+$/)
  const listed = (await world.ask('GET /api/v1/messages?limit=1&envelope=1')).body
  assertIs('Messages', listed)
  const [summary] = listed.messages
  assert.equal(summary.ID, ID)
  assert.equal(summary.Read, false)
  assert.equal(summary.Attachments, 1)
  assert.match(summary.Snippet, /Your code is 482193/)
  const { body: message } = await world.ask(`GET /api/v1/message/${ID}`)
  assertIs('Message', message)
  for (const one of [summary, message]) {
    assert.deepEqual(one.From, { Name: '予約', Address: 'shop@sender.example' })
    assert.deepEqual(one.To, [{ Name: 'Someone', Address: to }])
    assert.deepEqual(one.Cc, [{ Name: '', Address: BAR }])
    assert.deepEqual(one.Bcc, [{ Name: '', Address: hidden }])
    assert.deepEqual(one.ReplyTo, [{ Name: '', Address: 'reply@sender.example' }])
    assert.equal(one.Subject, 'Ihre Bestellung für 予約')
    assert.deepEqual(one.Tags, ['a b', 'welcome'])
    assert.deepEqual([...one.EnvelopeTo].sort(), [to, BAR, hidden].sort())
    assert.deepEqual([...one.Mailboxes].sort(), [BAR, CATCHALL].sort())
  }
  assert.equal(message.Text.trim(), 'Your code is 482193. https://shop.example/confirm?t=1')
  assert.match(message.HTML, /cid:logo@shop/)
  assert.equal(message.ReturnPath, 'shop@sender.example')
  assert.deepEqual(message.ListUnsubscribe.Links, ['https://shop.example/off', 'mailto:off@shop.example'])
  assert.deepEqual(message.Links, ['https://shop.example/confirm?t=1', 'https://shop.example/html'])
  assert.equal(message.Code, '482193')
  assert.equal(message.Inline.length, 1)
  const [file] = message.Attachments
  assert.deepEqual([file.FileName, file.ContentType, file.Size], ['übersicht.txt', 'text/plain', 5])
  assert.equal(file.Checksums.MD5, '5d41402abc4b2a76b9719d911017c592')
  // Mailpit's clients get what they know, unless they ask for more.
  const [plain] = (await world.ask('GET /api/v1/messages?limit=1')).body.messages
  assert.deepEqual([plain.EnvelopeTo, plain.Mailboxes], [undefined, undefined])
  const [again] = await world.search(`to:${to}`)
  assert.equal(again.Read, true)

  const headers = (await world.ask(`GET /api/v1/message/${ID}/headers`)).body
  assertIs('Headers', headers)
  assert.deepEqual(headers['X-Campaign'], ['spring'])
  const raw = await world.ask(`GET /api/v1/message/${ID}/raw`)
  assert.match(raw.text, /^X-Campaign: spring\r$/m)
  assert.equal(raw.headers.get('content-disposition'), null)
  const download = await world.ask(`GET /api/v1/message/${ID}/raw?dl=1`)
  assert.match(download.headers.get('content-disposition') ?? '', /^attachment; filename\*=UTF-8''\w+\.eml$/)
  assert.equal((await world.ask(`GET /api/v1/message/${ID}/part/${file.PartID}`)).text, 'hello')
  const html = await world.ask(`GET //view/${ID}.html`)
  assert.match(html.text, new RegExp(`src="data:image/png;base64,${PNG.replaceAll('+', '\\+')}"`))
  assert.match(
    html.headers.get('content-security-policy') ?? '',
    /^sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'/,
  )
  assert.match(html.text, /<a href="https:\/\/shop.example\/html">/)
  const embedded = await world.ask(`GET /view/${ID}.html?embed=1`)
  assert.match(embedded.text, /<a target="_blank" rel="noreferrer noopener" href="https:/)
  assert.match((await world.ask(`GET /view/${ID}.txt`)).text, /Your code is/)
  const textOnly = await world.deliver(someone())
  assert.equal((await world.ask(`GET /view/${textOnly}.html`)).status, 404)
})

test('copies of one message are one; its ID is the queue id, and the same after a restart', async () => {
  const recipients = [BAR, FOO, someone(), someone()]
  const id = await world.deliver(recipients, 'To all')
  await until('all copies', async () => (await world.search('subject:"To all"'))[0]?.EnvelopeTo.length === 4)
  const [one, ...others] = await world.search('subject:"To all"')
  assert.equal(one.ID, id)
  assert.equal(others.length, 0)
  assert.deepEqual([...one.EnvelopeTo].sort(), [...recipients].sort())
  assert.deepEqual(one.Bcc.map(({ Address }: Json) => Address).sort(), recipients.slice(1).sort())
  const all = await world.ask('GET /api/v1/messages?limit=0')
  world.close()
  await world.open()
  const ids = (list: Json) => list.messages.map(({ ID, Created }: Json) => `${ID} ${Created}`)
  assert.deepEqual(ids((await world.ask('GET /api/v1/messages?limit=0')).body), ids(all.body))
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
  const message = await world.wait(`to:${to}`)
  assert.equal(message.ID, second)
  assert.notEqual(second, first)
  assert.deepEqual(message.EnvelopeTo, [to])
  assert.equal((await world.ask(`GET /api/v1/message/${first}`)).status, 200)
})

test('search knows the words of Mailpit', async () => {
  const to = someone()
  const id = await world.post(to, [
    'From: "Ann Müller" <ann@shop.example>',
    'To: team@shop.example',
    'Cc: boss@shop.example',
    'Reply-To: noreply@shop.example',
    'Subject: Monthly report for March',
    'Message-ID: <unique-77@shop.example>',
    'MIME-Version: 1.0',
    'Content-Type: multipart/mixed; boundary=x',
    '',
    '--x',
    'Content-Type: text/plain; charset=utf-8',
    'Content-Transfer-Encoding: base64',
    '',
    Buffer.from('Der Umsatz im März: hundred thousand').toString('base64'),
    '--x',
    'Content-Type: application/pdf',
    'Content-Disposition: attachment; filename="report.pdf"',
    '',
    'x'.repeat(3000),
    '--x--',
  ])
  await world.wait(`to:${to}`)
  await world.ask('PUT /api/v1/tags', { IDs: [id], Tags: ['Invoice'] })
  const day = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10)
  const table: [string, boolean][] = [
    [to, true],
    [`to:${to.toUpperCase()}`, true],
    [`to:${to.slice(1)}`, false],
    [`to:${to.slice(0, 9)}`, true],
    ['to:team@shop.example', true],
    ['to:boss@shop.example', false],
    ['from:ann@shop.example', true],
    ['from:nn@shop.example', false],
    ['from:@shop.ex', true],
    ['from:müller', true],
    ['from:"ann müller"', true],
    ['cc:boss@shop.example', true],
    [`bcc:${to}`, true],
    ['reply-to:noreply', true],
    ['addressed:boss@shop.example', true],
    [`addressed:${to}`, true],
    ['subject:"report for"', true],
    ['subject:"for report"', false],
    ['subject:REPORT -subject:april', true],
    ['!subject:report', false],
    ['message-id:unique-77', true],
    ['message-id:<unique-77@shop.example>', true],
    ['tag:invoice', true],
    ['tag:inv', false],
    ['is:tagged is:read', true],
    ['is:unread', false],
    ['has:attachment', true],
    ['has:attachments -has:inline', true],
    ['larger:2k smaller:1M', true],
    ['larger:1M', false],
    [`after:${day(-1)} before:${day(1)}`, true],
    [`before:${day(-1)}`, false],
    ['hundred', true],
    ['"hundred thousand"', true],
    ['"thousand hundred"', false],
    ['März umsatz', true],
    ['-hundred', false],
    ['-nowhere-to-be-found', true],
    ['monthly nowhere-to-be-found', false],
    ['http://nowhere.example:80/', false],
    ['constructor:x', false],
    ['"hundred\r\n thousand"', true],
  ]
  for (const [query, isFound] of table) {
    const found = (await world.search(query)).some(({ ID }) => ID === id)
    assert.equal(found, isFound, query)
  }
})

test('a query, wait, since, number or mailbox that makes no sense is 400 and says why', async () => {
  const paths = [
    ...[
      '',
      '%20',
      '%22',
      'a%20%22b',
      '%22%22',
      '%00',
      'to:',
      'subject:%22%22',
      'is:old',
      'has:virus',
      'larger:big',
      'before:soon',
    ].map((query) => `/api/v1/search?query=${query}`),
    ...['-1', 'x', '10s', '1e3', '601', ''].map((wait) => `/api/v1/message/latest?query=a&wait=${wait}`),
    ...['', 'yesterday', '5', '2026-11-26', '2026-99-99T00:00:00Z'].map(
      (since) => `/api/v1/search?query=a&since=${since}`,
    ),
    '/api/v1/messages?start=-1',
    '/api/v1/messages?limit=many',
    '/api/v1/messages?mailbox=nobody',
    '/api/v1/search?query=after:2026-11-26&tz=Mars/Phobos',
    '/api/v1/tags/%zz',
  ]
  for (const path of paths) {
    const { status, body } = await world.ask(`${path.includes('/tags/') ? 'DELETE' : 'GET'} ${path}`)
    assert.equal(status, 400, `${path}: ${JSON.stringify(body)}`)
    assertIs('Error', body)
    assert.doesNotMatch(body.Error, /undefined|NaN|\n/, path)
  }
})

test('bodies that are no JSON, of wrong types or too large change nothing', async () => {
  const to = someone()
  const id = await world.deliver(to)
  const person = { Email: 'a@b.example' }
  const table: [string, unknown, number][] = [
    ['DELETE /api/v1/messages', '{', 400],
    ['DELETE /api/v1/messages', '[]', 400],
    ['DELETE /api/v1/messages', 'null', 400],
    ['DELETE /api/v1/messages', '"all"', 400],
    ['DELETE /api/v1/messages', 'ids=1', 400],
    ['DELETE /api/v1/messages', { IDs: id }, 400],
    ['DELETE /api/v1/messages', { IDs: [1] }, 400],
    ['DELETE /api/v1/messages', { IDs: null }, 400],
    ['DELETE /api/v1/messages', { ids: [id] }, 400],
    ['DELETE /api/v1/messages', `IDs=${id}&Search=x`, 400],
    ['PUT /api/v1/messages', { ids: [id], Read: true }, 400],
    ['PUT /api/v1/messages', `IDs=${id}&Read=true`, 400],
    ['DELETE /api/v1/messages', { IDs: ['unknown'] }, 200],
    ['DELETE /api/v1/search', undefined, 400],
    ['PUT /api/v1/messages', { Read: 'yes' }, 400],
    ['PUT /api/v1/messages', { Search: '"' }, 400],
    ['PUT /api/v1/tags', { IDs: [id] }, 400],
    ['PUT /api/v1/tags', { IDs: [], Tags: ['a'] }, 400],
    ['PUT /api/v1/tags', { IDs: [id], Tags: ['x'.repeat(25)] }, 400],
    ['PUT /api/v1/tags', { IDs: [id], Tags: ['a\r\nb'] }, 400],
    ['PUT /api/v1/tags/none', {}, 400],
    ['POST /api/v1/send', {}, 400],
    ['POST /api/v1/send', { From: person }, 400],
    ['POST /api/v1/send', { From: person, To: [] }, 400],
    ['POST /api/v1/send', { From: person, To: [{ Email: 'nobody' }] }, 400],
    ['POST /api/v1/send', { From: person, To: [{ Email: 'a@b.example\r\nRCPT TO:<c@d.example>' }] }, 400],
    ['POST /api/v1/send', { From: person, To: [{ Email: 'a@b.example', Name: 'x\r\nBcc: c@d.example' }] }, 400],
    ['POST /api/v1/send', { From: { Email: 'a@b.example> SIZE=1' }, To: [person] }, 400],
    ['POST /api/v1/send', { From: person, To: [person], Subject: 'a\r\nBcc: c@d.example' }, 400],
    ['POST /api/v1/send', { From: person, To: [person], Headers: { 'X-A': 'a\nb' } }, 400],
    ['POST /api/v1/send', { From: person, To: [person], Headers: { 'X A:': 'a' } }, 400],
    ['POST /api/v1/send', { From: person, To: [person], Text: { path: '/etc/passwd' } }, 400],
    ['POST /api/v1/send', { From: person, To: [person], HTML: { href: 'http://127.0.0.1/' } }, 400],
    ['POST /api/v1/send', { From: person, To: [person], Attachments: [{ Filename: 'a', path: '/etc/passwd' }] }, 400],
    ['POST /api/v1/send', { From: person, To: [person], Attachments: [{ Filename: 'a', Content: '!' }] }, 400],
    ['POST /api/v1/send', { From: person, To: [{ Email: `nobodyhere@${DOMAIN}` }] }, 400],
    ['POST /api/v1/send', 'x'.repeat(31_000_000), 413],
    ['POST /api/v1/messages', {}, 405],
    ['GET /api/v1/nothing', undefined, 404],
    ['GET /api/v1/message/unknown', undefined, 404],
    ['GET /api/v1/message/unknown/raw', undefined, 404],
    ['GET /api/v1/message/..%2F..%2Fetc%2Fpasswd', undefined, 404],
    [`GET /api/v1/message/${id}/part/9`, undefined, 404],
    [`GET /api/v1/message/${id}/part/1/thumb`, undefined, 404],
    ['GET /view/unknown.html', undefined, 404],
    ['GET /..%2Fpackage.json', undefined, 404],
    ['GET /api/v1/chaos', undefined, 400],
  ]
  for (const [what, sent, wanted] of table) {
    const { status, body } = await world.ask(what, sent)
    assert.equal(status, wanted, `${what} ${JSON.stringify(sent)?.slice(0, 200)}: ${JSON.stringify(body)}`)
    if (wanted === 200) continue
    assertIs('Error', body)
    assert.doesNotMatch(body.Error, /undefined|at .*:\d+:\d+/, what)
  }
  assert.equal((await world.search(`to:${to}`)).length, 1)
})

test('what is read, tagged and deleted is so for all: by IDs, by query, all of it', async () => {
  const tag = 'read test'
  const to = someone()
  const ids = []
  for (const subject of ['one', 'two', 'three']) ids.push(await world.deliver(to, subject))
  const states = async () => (await world.search(`to:${to}`)).map(({ Subject, Read }) => `${Subject} ${Read}`).reverse()
  await world.ask('PUT /api/v1/messages', { IDs: [ids[0]], Read: true })
  assert.deepEqual(await states(), ['one true', 'two false', 'three false'])
  await world.ask('PUT /api/v1/messages', { Search: `to:${to} subject:two`, Read: true })
  await world.ask('PUT /api/v1/messages', { IDs: [ids[0]], Read: false })
  assert.deepEqual(await states(), ['one false', 'two true', 'three false'])
  await world.ask('PUT /api/v1/tags', { IDs: ids.slice(0, 2), Tags: [tag] })
  assert.ok((await world.ask('GET /api/v1/tags')).body.includes(tag))
  assert.equal((await world.search(`tag:"${tag}"`)).length, 2)
  await world.ask(`PUT /api/v1/tags/${encodeURIComponent(tag)}`, { Name: 'Renamed' })
  assert.equal((await world.search('tag:renamed')).length, 2)
  await world.ask('DELETE /api/v1/tags/Renamed')
  assert.ok(!(await world.ask('GET /api/v1/tags')).body.includes('Renamed'))
  await world.ask('DELETE /api/v1/messages', `IDs=${ids[0]}`, {
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
  })
  assert.deepEqual(await states(), ['two true', 'three false'])
  await world.ask(`DELETE /api/v1/search?query=${encodeURIComponent(`to:${to} subject:two`)}`)
  assert.deepEqual(await states(), ['three false'])
  const foo = await world.deliver(FOO)
  const { body: boxes } = await world.ask('GET /api/v1/mailboxes')
  assertIs('Mailboxes', boxes)
  assert.ok(boxes.find(({ Name }: Json) => Name === FOO).Unread > 0)
  const inFoo = (await world.ask(`GET /api/v1/messages?envelope=1&mailbox=${FOO.toUpperCase()}`)).body
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
  const offer = `Host: ${hostname}:${port}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB`
  let answers = ''
  socket.setEncoding('utf8').on('data', (text) => {
    answers += text
  })
  const body = '{"IDs":["unknown"]}'
  const length = `Content-Length: ${body.length}`
  socket.write(`GET /api/v1/tags HTTP/1.1\r\n${offer}\r\n\r\n`)
  await until('the first answer', async () => answers.includes('\r\n\r\n['))
  socket.write(`DELETE /api/v1/messages HTTP/1.1\r\n${offer}\r\n${length}\r\n\r\n${body.slice(0, 5)}`)
  await sleep(50)
  socket.write(`${body.slice(5)}GET /api/v1/webui HTTP/1.1\r\nHost: ${hostname}\r\n\r\n`)
  await until('the other answers', async () => answers.includes('"MessageRelay"'))
  assert.equal(answers.match(/HTTP\/1.1 200 OK/g)?.length, 3, answers)
  socket.destroy()
})

test('pages of a list', async () => {
  const to = someone()
  for (let n = 0; n < 5; n++) await world.deliver(to, `Number ${n}`)
  const subjects = async (query: string) =>
    (await world.ask(`GET /api/v1/search?query=to:${to}&${query}`)).body.messages.map(({ Subject }: Json) => Subject)
  assert.deepEqual(await subjects('limit=2'), ['Number 4', 'Number 3'])
  assert.deepEqual(await subjects('start=3&limit=2'), ['Number 1', 'Number 0'])
  assert.deepEqual(await subjects('start=9'), [])
  const latest = await world.ask('GET /api/v1/message/latest')
  assert.equal(latest.body.Subject, 'Number 4')
})

test('mailpit-api from npm works unchanged', async () => {
  const mailpit = new MailpitClient(world.url)
  const to = someone()
  const { ID } = await mailpit.sendMessage({
    From: { Email: 'a@b.example' },
    To: [{ Email: to }],
    Subject: 'By mailpit-api',
    Text: 'text',
    HTML: '<b>html</b>',
    Attachments: [{ Filename: 'a.txt', Content: 'aGVsbG8=' }],
    Tags: ['client'],
  })
  const message = await mailpit.waitForMessage({ query: `to:${to}` })
  assert.equal(message.ID, ID)
  assert.equal((await mailpit.waitForMessages({ query: `to:${to}`, count: 1, exact: true })).messages_count, 1)
  assert.equal((await mailpit.listMessages()).messages[0]?.ID, ID)
  assert.equal((await mailpit.getMessageHeaders(ID)).Subject?.[0], 'By mailpit-api')
  const part = await mailpit.getMessageAttachment(ID, message.Attachments[0]?.PartID ?? '')
  assert.equal(await part.text(), 'hello')
  assert.match(await mailpit.getMessageSource(ID), /By mailpit-api/)
  assert.match(await mailpit.renderMessageHTML(ID), /<b>html/)
  assert.match(await mailpit.renderMessageText(ID), /text/)
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
