/** The inbox's page in a real browser, before a real server. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, afterEach, before, describe, test } from 'node:test'
import type { Locator, Page } from 'playwright-core'
import { BAR, FOO } from '../../scripts/lib/accounts/accounts.ts'
import { until } from '../harness.ts'
import { mail } from '../mailboxes.ts'
import { Inbox, skip } from './browser.ts'

const BAZ = FOO.replace('foo', 'baz')
const ATTACHED = Buffer.from('%PDF-1.4 \x00\xff as it is', 'latin1')

function letter(subject: string, { from = 'Ann Shop <ann@shop.example>', html = '', text = 'Hello.', file = '' } = {}) {
  const part = (type: string, content: string, ...more: string[]) => [
    ...['--limit', `Content-Type: ${type}`, ...more, '', content],
  ]
  const encoded = ['Content-Transfer-Encoding: base64', `Content-Disposition: attachment; filename="${file}"`]
  return mail(
    ...[`From: ${from}`, 'To: Reader <reader@client.example>', `Subject: ${subject}`, 'MIME-Version: 1.0'],
    ...['Content-Type: multipart/mixed; boundary=limit', '', ...part('text/plain; charset=utf-8', text)],
    ...(html ? part('text/html; charset=utf-8', html) : []),
    ...(file ? part('application/pdf', ATTACHED.toString('base64'), ...encoded) : []),
    '--limit--',
  )
}

/** Waits until the locator has these texts. */
async function shows(locator: Locator, expected: string[] | ((texts: string[]) => boolean), what = 'texts') {
  let texts: string[] = []
  const isThere = () =>
    typeof expected === 'function' ? expected(texts) : JSON.stringify(texts) === JSON.stringify(expected)
  const look = async () => {
    texts = (await locator.allTextContents()).map((text) => text.trim())
    return isThere()
  }
  await until(what, look, 30_000).catch(() => assert.deepEqual(texts, expected, what))
}
const scroll = (page: Page, top: number) => page.evaluate(`document.querySelector('.scroller').scrollTop = ${top}`)
/** Answers the browser's next question, after a look at it. */
const answer = (page: Page, question: RegExp, isYes: boolean) =>
  page.once('dialog', (dialog) => {
    assert.match(dialog.message(), question)
    void (isYes ? dialog.accept() : dialog.dismiss())
  })
const subjects = (page: Page) => page.locator('.row .subject')
const article = (page: Page) => page.getByRole('article')
const tab = (page: Page, name: string) => page.getByRole('tab', { name, exact: true })
const opened = (page: Page, name: string) => article(page).getByRole('heading', { name }).waitFor()
const CLIPBOARD = { permissions: ['clipboard-read', 'clipboard-write'] }
const pasted = (page: Page, text: string) =>
  until(text, async () => (await page.evaluate('navigator.clipboard.readText()')) === text)

describe('the inbox page', { skip }, () => {
  let inbox: Inbox
  before(async () => {
    inbox = await Inbox.start()
  })
  afterEach(async () => inbox?.closePages())
  after(async () => inbox?.remove())

  const arrived = (word: string, count: number) => {
    const look = async () => (await inbox.world.ask(`GET /api/v1/search?query=subject:${word}`)).body.messages_count
    return until(`${count} of ${word}`, async () => (await look()) === count, 120_000)
  }
  /** Delivers mails with this word in the subject, and opens a page on which only they are found. */
  const openWith = async (word: string, to: string, mails: Buffer[], options = {}) => {
    await inbox.deliver(to, ...mails)
    await arrived(word, mails.length)
    return inbox.open(`#q=subject:${word}`, options)
  }

  test('without mail it says so, and the first mail appears by itself', async () => {
    const page = await inbox.open()
    assert.equal(await page.title(), 'Inbox')
    await page.getByRole('heading', { name: 'No mail yet' }).waitFor()
    await inbox.deliver(BAR, letter('first'))
    await shows(subjects(page), ['first'])
    await until('the title', async () => (await page.title()) === '(1) Inbox')
    await page.getByRole('status').filter({ hasText: 'New mail from Ann Shop: first' }).waitFor({ state: 'attached' })
  })

  test('lists all mailboxes newest first: sender, recipient, subject, time, attachment, unread', async () => {
    await inbox.deliver('someone@gmail.com', letter('list-1', { from: 'a@client.example' }))
    await inbox.deliver([FOO, BAR], letter('list-2', { file: 'bill.pdf' }))
    const page = await inbox.open('#q=subject:list')
    await shows(subjects(page), ['list-2', 'list-1'])
    await shows(page.locator('.row .from'), ['Ann Shop', 'a@client.example'])
    await shows(
      page.locator('.row .recipient'),
      ([first = '', second]) => first.includes(FOO) && first.includes(BAR) && second === 'someone@gmail.com',
    )
    await shows(page.locator('.row time'), (texts) => texts.every((text) => /^\d\d:\d\d$/.test(text)))
    assert.equal(await page.getByRole('img', { name: 'with attachment' }).count(), 1)
    assert.equal(await page.getByRole('img', { name: 'unread' }).count(), 2)
  })

  test('a mailbox shows its own mail, with its unread count, and all of it is deleted without that of others', async () => {
    await inbox.deliver(BAZ, letter('box-1'), letter('box-2'))
    await inbox.deliver(FOO, letter('box-3'))
    const page = await inbox.open()
    const baz = page.getByRole('navigation').getByRole('link').filter({ hasText: 'baz' })
    await shows(baz.locator('b'), ['2'])
    await baz.click()
    await shows(subjects(page), ['box-2', 'box-1'])
    assert.equal(await baz.getAttribute('aria-current'), 'true')
    await page.getByText('box-1').click()
    await shows(baz.locator('b'), ['1'])
    await page.reload()
    await shows(subjects(page), ['box-2', 'box-1'])
    answer(page, /^Delete 2 mails for good\?\nAll mail in baz@/, true)
    await page.getByRole('button', { name: /^Delete all/ }).click()
    await page.getByRole('heading', { name: 'Nothing found' }).waitFor()
    await arrived('box', 1)
  })

  test('a new mail is there by itself, and who reads further down keeps the same mails on the screen', async () => {
    const mails = Array.from({ length: 30 }, (_, i) => letter(`still-${i}`))
    const page = await openWith('still', 'still@gmail.com', mails)
    await inbox.deliver('still@gmail.com', letter('still-30'))
    await page.locator('.row').getByText('still-30', { exact: true }).waitFor()
    await scroll(page, 1000)
    const place = () => page.getByText('still-12', { exact: true }).boundingBox()
    await until('it is drawn', place)
    const before = await place()
    await inbox.deliver('still@gmail.com', letter('still-new'))
    await shows(page.locator('.list .tools'), ['32 mails'])
    await until('it stays', async () => Math.abs(((await place())?.y ?? 0) - (before?.y ?? 0)) < 2)
  })

  test("searches with Mailpit's words as one types", async () => {
    const pear = letter('orchard pear', { text: 'a juicy thing', file: 'pear.pdf' })
    const page = await openWith('orchard', 'orchard@gmail.com', [letter('orchard apple'), pear])
    const field = page.getByRole('searchbox', { name: 'Search mail' })
    const cases: [string, string[]][] = [
      ['to:orchard@gmail.com', ['orchard pear', 'orchard apple']],
      ['subject:orchard -apple', ['orchard pear']],
      ['"orchard apple"', ['orchard apple']],
      ['juicy has:attachment', ['orchard pear']],
    ]
    for (const [query, expected] of cases) {
      await field.fill(query)
      await shows(subjects(page), expected, query)
    }
    await field.fill('to:rchard@gmail.com')
    await page.getByRole('heading', { name: 'Nothing found' }).waitFor()
    await field.fill('larger:much')
    await page.getByText('That did not work: ').first().waitFor()
    await field.fill('')
    await shows(subjects(page), (texts) => texts.length > 2)
  })

  test('shows a mail in every view, its envelope, code, links and files', async () => {
    const link = '<a href="https://shop.example/a?b=1&amp;c=2">go</a>'
    const html = `<!doctype html><p id=hello>Hello <b>reader</b>, 918273 is your code</p>${link}`
    const text = 'Your code is 918273\nhttps://shop.example/a?b=1&c=2\n'
    const mails = [letter('views', { html, text, file: 'bill.pdf' })]
    const page = await openWith('views', 'views@gmail.com', mails, CLIPBOARD)
    await subjects(page).click()
    await opened(page, 'views')
    await shows(page.frameLocator('iframe').locator('#hello'), ['Hello reader, 918273 is your code'])
    const people = ['Ann Shop <ann@shop.example>', 'Reader <reader@client.example>', 'views@gmail.com']
    await shows(article(page).locator('.head dl > dd'), [...people, 'sender@client.example → views@gmail.com'])
    await page.getByRole('button', { name: 'Copy 918273' }).click()
    await page.getByRole('status').filter({ hasText: 'Copied' }).waitFor()
    await pasted(page, '918273')
    const shown = article(page).getByRole('link', { name: 'shop.example/a?b=1&c=2' })
    assert.equal(await shown.getAttribute('href'), 'https://shop.example/a?b=1&c=2')
    assert.equal(await shown.getAttribute('rel'), 'noopener noreferrer')
    await page.getByRole('button', { name: 'Copy https://shop.example/a?b=1&c=2' }).click()
    await pasted(page, 'https://shop.example/a?b=1&c=2')

    const saved = async (click: Promise<unknown>) => {
      const [download] = await Promise.all([page.waitForEvent('download'), click])
      return { name: download.suggestedFilename(), bytes: readFileSync(await download.path()) }
    }
    const file = page.getByRole('group', { name: 'Attachments' }).getByRole('link')
    assert.match((await file.textContent()) ?? '', /bill\.pdf\s*20 B/)
    assert.deepEqual(await saved(file.click()), { name: 'bill.pdf', bytes: ATTACHED })
    const raw = await saved(page.getByRole('link', { name: 'Download raw mail' }).click())
    assert.match(raw.name, /\.eml$/)
    assert.match(raw.bytes.toString(), /^Return-Path: <sender@client\.example>\r?\n[\s\S]*Subject: views\r?\n/)

    await tab(page, 'Text').click()
    await shows(article(page).locator('pre'), [text.trim()])
    await tab(page, 'Headers').click()
    await shows(article(page).locator('.headers dt'), (names) => names.includes('X-Original-To'))
    assert.equal(await tab(page, 'Headers').getAttribute('aria-selected'), 'true')
    await tab(page, 'Source').click()
    await shows(article(page).locator('pre'), ([source = '']) => source.includes('Content-Type: multipart/mixed'))
    await tab(page, 'HTML').click()
    const width = async () => (await page.locator('iframe').boundingBox())?.width ?? 0
    await until('wide', async () => (await width()) > 600)
    await page.getByRole('button', { name: 'Narrow preview' }).click()
    await until('narrow', async () => (await width()) < 380)

    // Every control has a name, and Tab reaches list and mail.
    const nameless = await page.evaluate(`[...document.querySelectorAll('button, a, input, iframe, [role=img]')]
      .filter((one) => !(one.ariaLabel || one.title || one.textContent.trim())).map((one) => one.outerHTML)`)
    assert.deepEqual(nameless, [])
    const reached = new Set<unknown>()
    for (let i = 0; i < 30; i++) {
      await page.keyboard.press('Tab')
      reached.add(await page.evaluate('document.activeElement.closest("header, nav, .list, article")?.tagName'))
    }
    for (const name of ['HEADER', 'NAV', 'SECTION', 'ARTICLE']) assert.ok(reached.has(name), name)
  })

  test('marks as read and unread; deletes one at once, and all that is found after a question', async () => {
    const names = ['gone-0', 'gone-1', 'gone-2', 'gone-3']
    await inbox.deliver('stays@gmail.com', letter('stays'))
    const mails = names.map((name) => letter(name))
    const page = await openWith('gone', 'gone@gmail.com', mails)
    const unread = (count: number) =>
      until(`${count} unread`, async () => (await page.locator('.row.unread').count()) === count)
    await unread(4)
    await page.getByText('gone-3').click()
    await unread(3)
    await page.keyboard.press('u')
    await unread(4)
    await page.getByRole('button', { name: 'Mark all as read' }).click()
    await unread(0)
    await article(page).getByRole('button', { name: 'Mark as unread' }).click()
    await unread(1)

    await article(page).getByRole('button', { name: 'Delete' }).click()
    await shows(subjects(page), ['gone-2', 'gone-1', 'gone-0'])
    // The next one is open then.
    await opened(page, 'gone-2')
    await page.keyboard.press('#')
    await shows(subjects(page), ['gone-1', 'gone-0'])
    for (const isYes of [false, true]) {
      await shows(subjects(page), ['gone-1', 'gone-0'])
      answer(page, /^Delete 2 mails for good\?\nAll mail found with “subject:gone”\.$/, isYes)
      await page.getByRole('button', { name: 'Delete all 2 mails' }).click()
    }
    await page.getByRole('heading', { name: 'Nothing found' }).waitFor()
    await arrived('stays', 1)
  })

  test('everything goes by keys', async () => {
    const mails = [letter('keys-1', { text: 'code 552211' }), letter('keys-2'), letter('keys-3')]
    const page = await openWith('keys', 'keys@gmail.com', mails, CLIPBOARD)
    const focused = () => page.evaluate('document.activeElement.textContent')
    await page.keyboard.press('j')
    await opened(page, 'keys-3')
    assert.match(String(await focused()), /keys-3/)
    for (const key of 'jjj') await page.keyboard.press(key)
    await opened(page, 'keys-1')
    await page.keyboard.press('c')
    await pasted(page, '552211')
    await page.keyboard.press('ArrowUp')
    await opened(page, 'keys-2')
    await page.keyboard.press('4')
    await shows(article(page).locator('pre'), ([source = '']) => source.includes('Subject: keys-2'))
    await page.keyboard.press('k')
    await opened(page, 'keys-3')
    // A key right after the help was closed counts.
    for (let round = 0; round < 3; round++) {
      if (round > 0) await page.keyboard.press('j')
      await page.keyboard.press('?')
      await page.getByRole('dialog', { name: 'Keys and search' }).waitFor()
      await page.keyboard.press('j')
      await page.keyboard.press('Escape')
      await page.getByRole('dialog').waitFor({ state: 'hidden' })
      await page.keyboard.press('Escape')
      await page.getByText('Choose a mail to read it here.').waitFor()
    }
    assert.match(String(await focused()), /keys-\d/)
    await page.keyboard.press('/')
    await page.keyboard.type(' -keys-3')
    await shows(subjects(page), ['keys-2', 'keys-1'])
    // Letters in the search are letters.
    await page.keyboard.type(' jk#u')
    await page.getByRole('heading', { name: 'Nothing found' }).waitFor()
    await arrived('keys', 3)
  })

  test('on a phone list and mail have the screen to themselves, and nothing is wider', async () => {
    const text = `https://a.example/${'path/'.repeat(80)}`
    const long = letter(`phone ${'long'.repeat(60)}`, { html: '<p>x</p>', text })
    const phone = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true }
    const page = await openWith('phone', 'phone@gmail.com', [long], phone)
    const width = () => page.evaluate('document.documentElement.scrollWidth')
    await subjects(page).waitFor()
    assert.equal(await width(), 360)
    await subjects(page).tap()
    await page.locator('iframe').waitFor()
    assert.equal(await page.locator('.list').isVisible(), false)
    for (const name of ['HTML', 'Text', 'Headers', 'Source']) {
      await tab(page, name).tap()
      assert.equal(await width(), 360, name)
    }
    await page.getByRole('button', { name: 'Back to the list' }).tap()
    await subjects(page).waitFor()
    await page.goBack()
    await opened(page, 'phone')
    await page.goto(`${inbox.url}#id=abc123`)
    await article(page).getByText('This mail is not here any more.').waitFor()
  })

  test('is dark where the system is, and speaks Japanese where the browser does', async () => {
    const japanese = [letter('=?utf-8?B?5pel5pys6Kqe?= japanese')]
    const page = await openWith('japanese', 'ja@gmail.com', japanese, { locale: 'ja-JP', colorScheme: 'dark' })
    const luminance = async () => {
      const color = String(await page.evaluate('getComputedStyle(document.querySelector(".list")).backgroundColor'))
      return Math.max(...(color.match(/\d+/g) ?? []).map(Number))
    }
    assert.ok((await luminance()) < 60)
    await page.emulateMedia({ colorScheme: 'light' })
    assert.ok((await luminance()) > 240)
    assert.equal(await page.locator('html').getAttribute('lang'), 'ja')
    assert.match(await page.title(), /^\(\d+\) 受信箱$/)
    await page.getByRole('searchbox', { name: 'メールを検索' }).waitFor()
    await shows(page.locator('.list .tools'), ['1通'])
    await subjects(page).click()
    await opened(page, '日本語 japanese')
    await shows(article(page).locator('dt'), ['差出人', '宛先', 'Bcc', 'エンベロープ'])
  })

  test('says when the inbox or the mail server is away, and goes on by itself when it is back', async () => {
    const page = await inbox.open('#q=subject:away')
    const alert = page.getByRole('alert')
    inbox.world.close()
    await alert.getByText('The inbox does not answer.').waitFor()
    await inbox.deliver('away@gmail.com', letter('away-1'))
    await inbox.world.open(Number(new URL(inbox.url).port))
    await alert.waitFor({ state: 'detached' })
    await shows(subjects(page), ['away-1'])

    assert.equal((await inbox.world.project.run('stop')).code, 0)
    await alert.getByText('The mail server does not answer.').waitFor()
    await shows(subjects(page), ['away-1'])
    await subjects(page).click()
    await article(page).getByText('That did not work').waitFor()
    await inbox.world.project.start()
    await alert.waitFor({ state: 'detached' })
    await opened(page, 'away-1')
    await inbox.deliver('away@gmail.com', letter('away-2'))
    await shows(subjects(page), ['away-2', 'away-1'])
  })

  test('of many mails more are fetched as one scrolls', async () => {
    await Promise.all(Array.from({ length: 120 }, (_, i) => inbox.deliver('many@gmail.com', letter(`many-${i}`))))
    await arrived('many', 120)
    const page = await inbox.open('#q=subject:many')
    await shows(page.locator('.list .tools'), ['120 mails'])
    assert.equal(await page.locator('.row').count(), 100)
    // The last of those that are here leads on.
    await subjects(page).nth(99).click()
    await opened(page, String(await subjects(page).nth(99).textContent()))
    await page.keyboard.press('j')
    await until('all', async () => (await page.locator('.row').count()) === 120)
    await opened(page, String(await subjects(page).nth(100).textContent()))
    await page.reload()
    await shows(subjects(page), (texts) => texts.length === 100)
    await scroll(page, 100_000)
    await shows(subjects(page), (texts) => texts.length === 120)
  })
})
