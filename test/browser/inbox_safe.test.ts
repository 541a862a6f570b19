/**
 * Hostile mail in a real browser. A trap answers for every name that a mail has: whatever leads Chromium there arrives in it,
 * and Chromium's own network log has it.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { after, afterEach, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { BrowserContext, Page } from 'playwright-core'
import { until } from '../harness.ts'
import { mail } from '../mailboxes.ts'
import { Inbox, skip } from './browser.ts'

/** Says that a script ran: to the console, which the test reads, and to the trap. */
const RUN = (name: string) =>
  `console.log('RAN ${name}');fetch('http://${name}.trap.example/');new Image().src='http://${name}.trap.example/'`
const url = (name: string) => `http://${name}.trap.example/x`

/** What mail has been seen to do to the programs that show it. */
const HOSTILE: Record<string, string> = {
  script: `<script>${RUN('script')}</script><script src="${url('script-src')}"></script><script type=module>import '${url('module')}'</script>`,
  handlers: `<img src=x onerror="${RUN('onerror')}"><body onload="${RUN('onload')}"><details open ontoggle="${RUN('toggle')}">
    <input autofocus onfocus="${RUN('focus')}"><video><source onerror="${RUN('source')}"></video><style onload="${RUN('style')}"></style>`,
  speculation: `<script type=speculationrules>{"prefetch":[{"source":"list","urls":["${url('speculation')}"]}]}</script>`,
  svg: `<svg onload="${RUN('svg')}"><script>${RUN('svg-script')}</script><image href="${url('svg-image')}"/><use href="${url('svg-use')}#a"/>
    <foreignObject><iframe srcdoc="<script>${RUN('foreign')}</script>"></iframe></foreignObject>
    <img src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='${RUN('svg-img')}'><image href='${url('svg-in-img')}'/></svg>">
    <animate attributeName=href values="javascript:${RUN('animate')}"/></svg>`,
  math: `<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=${RUN('mutation')}&gt;">`,
  refresh: `<meta http-equiv=refresh content="0;url=${url('refresh')}"><meta http-equiv=refresh content="0;url=javascript:${RUN('refresh-js')}">`,
  base: `<base href="${url('base')}/" target=_top><img src=relative.png><link rel=stylesheet href=relative.css>`,
  forms: `<form id=f action="${url('form')}"><input name=secret value=1><button id=submit>Go</button></form>
    <form action="javascript:${RUN('form-js')}"><button id=submit-js>Go</button></form>`,
  css: `<style>@import '${url('import')}';@import url(//import2.trap.example/);@font-face{font-family:f;src:url(${url('font')})}
    *{font-family:f;background:url(${url('background')});cursor:url(${url('cursor')}),auto;list-style:url(${url('list')})}
    body:before{content:url(${url('content')})}</style><p style="background:image-set('${url('image-set')}' 1x)">text`,
  images: `<img src="${url('img')}"><img srcset="${url('srcset')} 2x"><picture><source srcset="${url('picture')}"><img></picture>
    <video poster="${url('poster')}" src="${url('video')}" autoplay></video><audio src="${url('audio')}" autoplay></audio>
    <input type=image src="${url('input')}"><body background="${url('body')}"><table background="${url('table')}"><img src=//scheme.trap.example/>`,
  links: [
    'stylesheet',
    'preconnect',
    'dns-prefetch',
    'preload',
    'prefetch',
    'prerender',
    'modulepreload',
    'icon',
    'manifest',
    'import',
  ]
    .map(
      (rel) =>
        `<link rel="${rel}" as=image href="${url(`link-${rel}`)}"><LINK REL="${rel}" HREF="//link2-${rel}.trap.example/">`,
    )
    .join(''),
  'dns of links': `<meta http-equiv=x-dns-prefetch-control content=on>${url('text-link')} <a href="${url('a-dns')}">a link</a><a href="${url('a-ping')}" ping="${url('ping')}">b</a>`,
  frames: `<iframe src="${url('iframe')}"></iframe><iframe srcdoc="<script>${RUN('srcdoc')}</script><img src=${url('srcdoc-img')}>"></iframe>
    <iframe src="javascript:${RUN('iframe-js')}"></iframe><iframe src="data:text/html,<script>${RUN('iframe-data')}</script>"></iframe><iframe src="/"></iframe>
    <IFRAME/src=${url('iframe2')}></IFRAME><iframe
src=${url('iframe3')} loading=lazy></iframe><portal src="${url('portal')}"></portal><fencedframe></fencedframe>`,
  frameset: `<frameset><frame src="${url('frame')}"><FRAME src='${url('frame2')}'></frameset>`,
  objects: `<object data="${url('object')}"></object><embed src="${url('embed')}"><object data="data:text/html,<script>${RUN('object')}</script>"></object>
    <embed type=image/svg+xml src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='${RUN('embed')}'/>"><applet code="${url('applet')}">`,
  'javascript links': `<a id=js href="javascript:${RUN('js-link')}">one</a> <a id=js2 target=_blank href="java&#x0A;script:${RUN('js-link2')}">two</a>
    <a id=data href="data:text/html,<script>${RUN('data-link')}</script>">three</a> <a id=top target=_top href="/api/v1/messages">four</a>
    <a id=parent target=_parent href="javascript:${RUN('parent')}">five</a>`,
  broken: `<<script>${RUN('broken')}//<</script><lin\0k rel=preconnect href=${url('null')}><li<linknk rel=preconnect href=${url('nested')}><<iframe src=${url('twice')}><ifr<!-- -->ame src=${url('comment')}>
    <img src="${url('no-end')}" <link rel=preconnect href="${url('no-end2')}"`,
}
/** What is clicked, where a mail has it: nothing comes of it. */
const CLICKED = ['#submit', '#submit-js', '#js', '#js2', '#data', '#top', '#parent']

const NAMES = [
  '<img src=x onerror=console.log("RAN")>',
  '"><script>console.log("RAN")</script>',
  "');console.log('RAN');('",
  '#{console.log("RAN")} {{7*7}} &lt;b&gt; &amp;',
  '</title></style></textarea><svg onload=console.log("RAN")>',
  'javascript:console.log("RAN")',
  '__proto__',
  'right\u202eto left\u2066',
]
const encoded = (text: string) => `=?utf-8?B?${Buffer.from(text).toString('base64')}?=`
const page = (subject: string, html: string) =>
  mail(
    'From: a@client.example',
    `Subject: ${subject}`,
    'MIME-Version: 1.0',
    'Content-Type: text/html; charset=utf-8',
    '',
    html.replaceAll('\n', '\r\n'),
  )

describe('hostile mail', { skip }, () => {
  let inbox: Inbox
  let trap: Server
  /** What reached the trap: the first bytes of each connection. */
  let caught: string[] = []
  let context: BrowserContext
  /** What scripts of mails said, and the requests to anything but the inbox. */
  let said: string[] = []
  let takeStrays: () => string[]
  let log = ''

  before(async () => {
    trap = createServer((socket) => {
      const at = caught.push('a connection') - 1
      socket.on('error', () => {})
      socket.once('data', (data) => {
        caught[at] = JSON.stringify(data.toString('latin1', 0, 1_000))
        socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAccess-Control-Allow-Origin: *\r\n\r\n')
      })
    })
    await new Promise<void>((resolve) => trap.listen(0, '127.0.0.1', resolve))
    inbox = await Inbox.start()
  })
  after(async () => {
    trap.close()
    await inbox?.remove()
  })
  afterEach(async () => inbox?.closePages())

  /** The page in a browser for which every name in the mails is the trap. */
  async function open(hash = ''): Promise<Page> {
    const { port } = trap.address() as { port: number }
    log = join(inbox.project.dir, 'net-log.json')
    const flags = [
      `--host-resolver-rules=MAP *.example 127.0.0.1:${port}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1`,
      `--log-net-log=${log}`,
    ]
    context = await inbox.launch({ flags })
    caught = []
    said = []
    const strays: string[] = []
    const note = (to: string) => to.startsWith(inbox.url) || to.startsWith('data:image/') || strays.push(to)
    context.on('console', (message) => said.push(message.text()))
    context.on('response', (response) => note(response.url()))
    // What the policy forbids fails without having been sent.
    context.on('requestfailed', (request) => {
      const error = request.failure()?.errorText ?? ''
      if (!/^(csp|origin)$/.test(error)) note(`${request.url()} ${error}`)
    })
    takeStrays = () => strays.splice(0)
    const first = context.pages()[0] as Page
    await first.goto(`${inbox.url}${hash}`)
    await first.locator('.list[aria-busy=false]').waitFor()
    return first
  }
  /** What ran and what went anywhere since the last time. */
  function traces(): string[] {
    const ran = said.splice(0).filter((text) => text.startsWith('RAN'))
    return [...ran, ...takeStrays(), ...caught.splice(0).map((first) => `the trap: ${first}`)]
  }

  test('runs nothing, reaches nothing, and cannot read the page: in the page and as a page of its own', async (t) => {
    for (const [name, html] of Object.entries(HOSTILE))
      await inbox.deliver('hostile@gmail.com', page(`hostile ${name}`, html))
    const count = Object.keys(HOSTILE).length
    const list = () => inbox.api('search?query=subject:hostile&limit=100').then((answer) => answer.json())
    await until('all are there', async () => ((await list()) as { messages_count: number }).messages_count === count)
    const found: string[] = []
    const shown = await open('#q=subject:hostile')
    const { messages } = (await list()) as { messages: { ID: string; Subject: string }[] }
    for (const { ID, Subject } of messages) {
      await shown.goto(`${inbox.url}#q=subject:hostile&id=${ID}`)
      await shown.getByRole('heading', { name: Subject, exact: true }).waitFor()
      const element = await shown.locator(`iframe[src*="${ID}"]`).elementHandle()
      const frame = await until('the frame', async () => (await element?.contentFrame()) ?? undefined)
      await frame.waitForLoadState('domcontentloaded')
      for (const selector of CLICKED) {
        const target = frame.locator(selector)
        if ((await target.count()) > 0)
          await target.click({ force: true, noWaitAfter: true, timeout: 5_000 }).catch(() => {})
      }
      for (const other of context.pages()) if (other !== shown) await other.close()
      assert.equal(await frame.evaluate('origin'), 'null', Subject)
      assert.match(
        String(await frame.evaluate('(() => { try { return parent.document.body } catch (e) { return e.name } })()')),
        /SecurityError/,
      )
      assert.match(
        String(await frame.evaluate('(() => { try { return localStorage } catch (e) { return e.name } })()')),
        /SecurityError/,
      )
      assert.match(shown.url(), new RegExp(`id=${ID}$`), Subject)
      await sleep(150)
      found.push(...traces().map((trace) => `${Subject}: ${trace}`))

      const own = await context.newPage()
      await own.goto(`${inbox.url}view/${ID}.html`)
      assert.equal(await own.evaluate('origin'), 'null')
      await sleep(150)
      assert.equal(own.url(), `${inbox.url}view/${ID}.html`, Subject)
      await own.close()
      found.push(...traces().map((trace) => `${Subject} alone: ${trace}`))
    }
    await sleep(1_000)
    await context.close()
    const names = readFileSync(log, 'utf8').match(/[\w-]+\.trap\.example/g) ?? []
    assert.deepEqual([...found, ...traces(), ...new Set(names)], [])
    t.diagnostic(`${count} mails, twice each: 0 connections, 0 requests, 0 names asked for`)
  })

  test('a link that somebody clicks opens a window of its own, which knows nothing of the inbox', async () => {
    await inbox.deliver('link@gmail.com', page('wanted', '<a id=a href="http://wanted.example/path">go</a>'))
    const shown = await open('#q=subject:wanted')
    await shown.locator('.row .subject').click()
    const links = [
      shown.frameLocator('iframe').locator('#a'),
      shown.getByRole('article').getByRole('link', { name: 'wanted.example/path' }),
    ]
    await links[0]?.waitFor()
    await links[1]?.hover()
    await sleep(300)
    assert.deepEqual(traces(), [])
    for (const link of links) {
      const [opened] = await Promise.all([context.waitForEvent('page'), link.click()])
      await opened.waitForLoadState()
      assert.equal(opened.url(), 'http://wanted.example/path')
      assert.equal(await opened.evaluate('opener'), null)
      await opened.close()
    }
    const asked = caught.filter((request) => request.startsWith('"GET /path'))
    assert.equal(asked.length, 2)
    for (const request of asked) assert.doesNotMatch(request, /referer:|127\.0\.0\.1/i)
  })

  test('subjects, senders and file names are text', async () => {
    for (const name of NAMES) {
      const file = [
        ...[
          '--limit',
          'Content-Type: text/html',
          `Content-Disposition: attachment; filename*=utf-8''${encodeURIComponent(`../../${name}.html`)}`,
        ],
        ...['', '<script>console.log("RAN file")</script>'],
      ]
      await inbox.deliver(
        'names@gmail.com',
        mail(
          ...[
            `From: ${encoded(name)} <names@client.example>`,
            `Subject: ${encoded(`${name} names`)}`,
            'MIME-Version: 1.0',
          ],
          ...['Content-Type: multipart/mixed; boundary=limit', '', '--limit', '', `text ${name}`, ...file, '--limit--'],
        ),
      )
    }
    const shown = await open('#q=subject:names')
    await until('all', async () => (await shown.locator('.row .subject').count()) === NAMES.length)
    const elements = () =>
      shown.locator('#page :is(img, script, style, textarea, b > *), #page [onerror], #page [onload]').count()
    for (const [index, name] of [...NAMES].reverse().entries()) {
      assert.equal(await shown.locator('.row .subject').nth(index).textContent(), `${name} names`)
      await shown.locator('.row .subject').nth(index).click()
      await shown.getByRole('heading', { level: 2, name: `${name} names` }).waitFor()
      assert.equal(await shown.locator('.head dd').first().textContent(), `${name} <names@client.example>`)
      await until('the text', async () => (await shown.locator('pre').textContent())?.trim() === `text ${name}`)
      const link = shown.getByRole('group', { name: 'Attachments' }).getByRole('link')
      assert.doesNotMatch((await link.locator('span').textContent()) ?? '', /[/\\]/)
      const [download] = await Promise.all([shown.waitForEvent('download'), link.click()])
      assert.doesNotMatch(download.suggestedFilename(), /[/\\]|^\./)
      assert.equal(await elements(), 0)
      assert.equal(context.pages().length, 1)
    }
    assert.deepEqual(traces(), [])
  })

  test('no attachment is shown as a page, whatever its type', async () => {
    const types = [
      'text/html',
      'image/svg+xml',
      'application/xhtml+xml',
      'text/xml',
      'application/pdf',
      'text/plain',
      'message/rfc822',
      'multipart/related',
    ]
    for (const type of types) {
      const body = `<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><script>console.log('RAN ${type}')</script></html>`
      await inbox.deliver(
        'types@gmail.com',
        mail(
          ...[
            'From: a@client.example',
            'Subject: types',
            'MIME-Version: 1.0',
            'Content-Type: multipart/mixed; boundary=limit',
            '',
          ],
          ...[
            '--limit',
            '',
            'text',
            '--limit',
            `Content-Type: ${type}`,
            'Content-Disposition: attachment; filename=a',
            '',
            body,
            '--limit--',
          ],
        ),
      )
    }
    const shown = await open('#q=subject:types')
    await until('all', async () => (await shown.locator('.row .subject').count()) === types.length)
    const { messages } = (await (await inbox.api('search?query=subject:types')).json()) as {
      messages: { ID: string }[]
    }
    for (const { ID } of messages) {
      const message = (await (await inbox.api(`message/${ID}`)).json()) as {
        Attachments: { PartID: string }[]
        Inline: { PartID: string }[]
      }
      for (const { PartID } of [...message.Attachments, ...message.Inline]) {
        const path = `${inbox.url}api/v1/message/${ID}/part/${PartID}`
        const answer = await fetch(path)
        assert.match(answer.headers.get('content-disposition') ?? '', /^attachment/)
        const tab = await context.newPage()
        await tab.goto(path).catch(() => {})
        assert.equal(tab.url(), 'about:blank')
        await tab.close()
      }
    }
    assert.deepEqual(traces(), [])
  })

  test('addresses behind # lead nowhere else', async () => {
    const shown = await open()
    for (const hash of [
      'id=../../x',
      'id=..',
      'id=%2e%2e%2fmessages',
      'id=<script>',
      'q=<img src=x onerror=console.log("RAN")>',
      'mailbox=__proto__',
      'x=1&id=%00',
    ]) {
      await shown.goto(`${inbox.url}#${hash}`)
      await shown.reload()
      await shown.locator('.list[aria-busy=false]').waitFor()
    }
    assert.deepEqual(traces(), [])
  })

  test('a mail of 10 MB, and one with 5,000 recipients in its header, are opened like any other', async (t) => {
    const line = `${'0123456789 '.repeat(7)}\r\n`
    const long = line.repeat(9_900_000 / line.length)
    await inbox.deliver('big@gmail.com', page('big html', `<pre>${long}</pre>`))
    await inbox.deliver('big@gmail.com', mail('From: a@client.example', 'Subject: big text', '', long))
    const people = Array.from({ length: 5_000 }, (_, i) => `u${i}@c.example`).join(',\r\n ')
    await inbox.deliver(
      'big@gmail.com',
      mail('From: a@client.example', `To: ${people}`, 'Subject: big header', '', 'text'),
    )
    const shown = await open('#q=subject:big')
    const article = shown.getByRole('article')
    const choose = (subject: string) => shown.locator('.row').getByText(subject).click()
    await until('all', async () => (await shown.locator('.row .subject').count()) === 3)
    const times: Record<string, number> = {}
    const time = async (name: string, work: () => Promise<unknown>) => {
      const start = performance.now()
      await work()
      times[name] = Math.round(performance.now() - start)
    }
    await time('5,000 recipients', async () => {
      await choose('big header')
      await article.getByRole('button', { name: '4,997 more' }).click()
      await article.getByRole('button', { name: '3,997 more' }).waitFor()
    })
    await shown.getByRole('tab', { name: 'Headers' }).click()
    await until('the header', async () =>
      /u4999@c\.example/.test((await article.locator('.headers').textContent()) ?? ''),
    )
    await time('10 MB as source', async () => {
      await choose('big text')
      await shown.getByRole('tab', { name: 'Source' }).click()
      await article.getByText('This is the beginning of 9.').waitFor()
    })
    await time('10 MB of text', async () => {
      await shown.getByRole('tab', { name: 'Text' }).click()
      await article.getByText('This is the beginning of 9.').waitFor()
      assert.equal((await article.locator('pre').textContent())?.length, 500_000)
    })
    await time('10 MB of HTML', async () => {
      await choose('big html')
      await shown.getByRole('tab', { name: 'HTML' }).click()
      await shown.frameLocator('iframe').locator('pre').waitFor()
    })
    await choose('big header')
    await shown.getByRole('heading', { name: 'big header' }).waitFor()
    t.diagnostic(
      Object.entries(times)
        .map(([name, ms]) => `${name}: ${ms} ms`)
        .join(', '),
    )
  })
})
