/** The inbox's page in a real browser, before a real server. */
import assert from 'node:assert/strict'
import { chownSync, readFileSync, renameSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, afterEach, before, describe, test } from 'node:test'
import type { Locator, Page } from 'playwright-core'
import { VMAIL_ID } from '../../scripts/lib/server/native_configuration.ts'
import { until } from '../harness.ts'
import { BAR, FOO, mail } from '../mailboxes.ts'
import { Inbox, skip } from './browser.ts'

const BAZ = 'baz@development-virtual.example.com'
const ATTACHED = Buffer.from('%PDF-1.4 \x00\xff as it is', 'latin1')

function letter(
  subject: string,
  { from = 'Ann Shop <ann@shop.example>', html = '', text = 'Hello.', file = '' } = {},
): Buffer {
  const part = (type: string, content: string, ...more: string[]) => [
    '--limit',
    `Content-Type: ${type}`,
    ...more,
    '',
    content,
  ]
  return mail(
    `From: ${from}`,
    'To: Reader <reader@client.example>',
    `Subject: ${subject}`,
    'MIME-Version: 1.0',
    'Content-Type: multipart/mixed; boundary=limit',
    '',
    ...part('text/plain; charset=utf-8', text),
    ...(html ? part('text/html; charset=utf-8', html) : []),
    ...(file
      ? part(
          'application/pdf',
          ATTACHED.toString('base64'),
          `Content-Disposition: attachment; filename="${file}"`,
          'Content-Transfer-Encoding: base64',
        )
      : []),
    '--limit--',
  )
}

/** The locator's texts once they are the expected ones. */
async function shows(
  locator: Locator,
  expected: string[] | ((texts: string[]) => boolean),
  what = 'texts',
): Promise<void> {
  let texts: string[] = []
  const isThere =
    typeof expected === 'function' ? expected : (found: string[]) => JSON.stringify(found) === JSON.stringify(expected)
  try {
    await until(
      what,
      async () => {
        texts = (await locator.allTextContents()).map((text) => text.trim())
        return isThere(texts)
      },
      30_000,
    )
  } catch {
    assert.deepEqual(texts, expected, what)
  }
}
/** The height of a row in pixels. */
const ROW = 76
const scroll = (page: Page, top: number) => page.evaluate(`document.querySelector('.scroller').scrollTop = ${top}`)
const subjects = (page: Page) => page.locator('.row .subject')
const article = (page: Page) => page.getByRole('article')
const tab = (page: Page, name: string) => page.getByRole('tab', { name, exact: true })

describe('the inbox page', { skip }, () => {
  let inbox: Inbox
  before(async () => {
    inbox = await Inbox.start()
  })
  afterEach(async () => inbox?.closePages())
  after(async () => inbox?.remove())

  /** A page on which only mails with this word in the subject are found. */
  const openWith = (word: string, options = {}) => inbox.open(`#q=subject:${word}`, options)
  const arrived = (word: string, count: number) =>
    until(
      `${count} of ${word}`,
      async () => {
        const { messages_count } = (await (await inbox.api(`search?query=subject:${word}`)).json()) as {
          messages_count: number
        }
        return messages_count === count
      },
      120_000,
    )

  test('without mail it says so, and the first mail appears by itself', async () => {
    const page = await inbox.open()
    assert.equal(await page.title(), 'Inbox')
    await page.getByRole('heading', { name: 'No mail yet' }).waitFor()
    await inbox.deliver(BAR, letter('first'))
    await shows(subjects(page), ['first'])
    await until('the title', async () => (await page.title()) === '(1) Inbox')
  })

  test('lists all mailboxes newest first: sender, recipient, subject, time, attachment, unread', async () => {
    await inbox.deliver('someone@gmail.com', letter('list-1', { from: 'a@client.example' }))
    await inbox.deliver([FOO, BAR], letter('list-2', { file: 'bill.pdf' }))
    const page = await openWith('list')
    await shows(subjects(page), ['list-2', 'list-1'])
    await shows(page.locator('.row .from'), ['Ann Shop', 'a@client.example'])
    await shows(
      page.locator('.row .recipient'),
      (texts) => texts[0]?.includes(FOO) === true && texts[0].includes(BAR) && texts[1] === 'someone@gmail.com',
    )
    await shows(page.locator('.row time'), (texts) => texts.every((text) => /^\d\d:\d\d$/.test(text)))
    assert.equal(await page.getByRole('img', { name: 'with attachment' }).count(), 1)
    assert.equal(await page.getByRole('img', { name: 'unread' }).count(), 2)
    const [first] = await page
      .getByRole('listitem')
      .filter({ has: page.locator('.subject') })
      .all()
    assert.equal(await first?.getAttribute('aria-setsize'), '2')
    assert.equal(await first?.getAttribute('aria-posinset'), '1')
  })

  test('a mailbox shows its own mail, with its unread count', async () => {
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
  })

  test('a new mail is there moments after its 250, whatever is shown', async (t) => {
    for (const [shown, hash] of Object.entries({ 'all mail': '', 'a search': '#q=subject:live' })) {
      const page = await inbox.open(hash)
      const times: number[] = []
      for (let i = 0; i < 12; i++) {
        const subject = `live-${i} in ${shown}`
        await inbox.deliver('live@gmail.com', letter(subject))
        const accepted = performance.now()
        await page.locator('.row').getByText(subject, { exact: true }).waitFor()
        times.push(performance.now() - accepted)
      }
      times.sort((one, other) => one - other)
      t.diagnostic(
        `${shown}: on the screen p50 ${times[6]?.toFixed(0)} ms, at most ${times.at(-1)?.toFixed(0)} ms after its 250`,
      )
      await page
        .getByRole('status')
        .filter({ hasText: `New mail from Ann Shop: live-11 in ${shown}` })
        .waitFor({ state: 'attached' })
      await inbox.closePages()
    }
  })

  test('who reads further down keeps the same mails on the screen when new ones come', async () => {
    await inbox.deliver('still@gmail.com', ...Array.from({ length: 40 }, (_, i) => letter(`still-${i}`)))
    await arrived('still', 40)
    const page = await openWith('still')
    await scroll(page, 1000)
    const place = () => page.getByText('still-20', { exact: true }).boundingBox()
    await until('it is drawn', place)
    const before = await place()
    await inbox.deliver('still@gmail.com', letter('still-new'))
    await shows(page.locator('.list .tools'), ['41 mails'])
    await until('it stays', async () => Math.abs(((await place())?.y ?? 0) - (before?.y ?? 0)) < 2)
  })

  test("searches with Mailpit's words as one types", async () => {
    await inbox.deliver(
      'orchard@gmail.com',
      letter('orchard apple'),
      letter('orchard pear', { text: 'a juicy thing', file: 'pear.pdf' }),
    )
    await arrived('orchard', 2)
    const page = await inbox.open()
    const field = page.getByRole('searchbox', { name: 'Search mail' })
    const cases: [string, string[]][] = [
      ['to:orchard@gmail.com', ['orchard pear', 'orchard apple']],
      ['subject:orchard -apple', ['orchard pear']],
      ['to:orchard@gmail.com has:attachment', ['orchard pear']],
      ['juicy', ['orchard pear']],
      ['"orchard apple"', ['orchard apple']],
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
    const html =
      '<!doctype html><p id=hello>Hello <b>reader</b>, 918273 is your code</p><a href="https://shop.example/a?b=1&amp;c=2">go</a>'
    const text = 'Your code is 918273\nhttps://shop.example/a?b=1&c=2\n'
    await inbox.deliver('views@gmail.com', letter('views', { html, text, file: 'bill.pdf' }))
    await arrived('views', 1)
    const page = await openWith('views', { permissions: ['clipboard-read', 'clipboard-write'] })
    await subjects(page).click()
    await page.getByRole('heading', { name: 'views' }).waitFor()
    await shows(page.frameLocator('iframe').locator('#hello'), ['Hello reader, 918273 is your code'])
    await shows(article(page).locator('.head dl > dd'), [
      'Ann Shop <ann@shop.example>',
      'Reader <reader@client.example>',
      'views@gmail.com',
      'sender@client.example → views@gmail.com',
    ])
    const pasted = () => page.evaluate('navigator.clipboard.readText()')
    await page.getByRole('button', { name: 'Copy 918273' }).click()
    await page.getByRole('status').filter({ hasText: 'Copied' }).waitFor()
    assert.equal(await pasted(), '918273')
    const link = article(page).getByRole('link', { name: 'shop.example/a?b=1&c=2' })
    assert.equal(await link.getAttribute('href'), 'https://shop.example/a?b=1&c=2')
    assert.equal(await link.getAttribute('rel'), 'noopener noreferrer')
    await page.getByRole('button', { name: 'Copy https://shop.example/a?b=1&c=2' }).click()
    await until('the link is copied', async () => (await pasted()) === 'https://shop.example/a?b=1&c=2')

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
    await page.keyboard.press('ArrowRight')
    await shows(
      article(page).locator('.headers dt'),
      (names) => names.includes('Subject') && names.includes('X-Original-To'),
    )
    assert.equal(await tab(page, 'Headers').getAttribute('aria-selected'), 'true')
    await tab(page, 'Source').click()
    await shows(article(page).locator('pre'), ([source]) => source?.includes('Content-Type: multipart/mixed') === true)
    await tab(page, 'HTML').click()
    const width = async () => (await page.locator('iframe').boundingBox())?.width ?? 0
    await until('wide', async () => (await width()) > 600)
    await page.getByRole('button', { name: 'Narrow preview' }).click()
    await until('narrow', async () => (await width()) < 380)
  })

  test('marks as read and unread', async () => {
    await inbox.deliver('marks@gmail.com', letter('marks-1'), letter('marks-2'), letter('marks-3'))
    await arrived('marks', 3)
    const page = await openWith('marks')
    const unread = async (count: number) =>
      until(`${count} unread`, async () => (await page.locator('.row.unread').count()) === count)
    await unread(3)
    await page.getByText('marks-2').click()
    await unread(2)
    await page.keyboard.press('u')
    await unread(3)
    await page.getByRole('checkbox', { name: 'Choose “marks-3”' }).check()
    await page.getByRole('checkbox', { name: 'Choose “marks-1”' }).click({ modifiers: ['Shift'] })
    await page.getByText('3 chosen').waitFor()
    await page.locator('.list').getByRole('button', { name: 'Mark as read' }).click()
    await unread(0)
    await page.locator('.list').getByRole('button', { name: 'Mark as unread' }).click()
    await unread(3)
    await page.getByRole('button', { name: 'Choose none' }).click()
    await page.getByRole('button', { name: 'Mark all as read' }).click()
    await unread(0)
  })

  test('deletes one at once, and chosen and found ones after a question', async () => {
    const names = Array.from({ length: 7 }, (_, i) => `gone-${i}`)
    await inbox.deliver('gone@gmail.com', ...names.map((name) => letter(name)))
    await inbox.deliver('stays@gmail.com', letter('stays'))
    await arrived('gone', 7)
    const page = await openWith('gone')
    await page.getByText('gone-6').click()
    await article(page).getByRole('button', { name: 'Delete' }).click()
    await shows(subjects(page), names.slice(0, 6).reverse())
    // The next one is open then.
    await page.getByRole('heading', { name: 'gone-5' }).waitFor()
    await page.keyboard.press('Delete')
    await shows(subjects(page), names.slice(0, 5).reverse())

    for (const name of ['gone-4', 'gone-3']) await page.getByRole('checkbox', { name: `Choose “${name}”` }).check()
    await page.keyboard.press('#')
    const dialog = page.getByRole('dialog', { name: 'Delete 2 mails for good?' })
    await dialog.getByRole('button', { name: 'Cancel' }).click()
    await dialog.waitFor({ state: 'detached' })
    assert.equal(await subjects(page).count(), 5)
    await page.keyboard.press('#')
    await dialog.getByRole('button', { name: 'Delete' }).click()
    await shows(subjects(page), ['gone-2', 'gone-1', 'gone-0'])

    await page.getByRole('button', { name: 'Delete all 3 mails' }).click()
    const all = page.getByRole('dialog', { name: 'Delete 3 mails for good?' })
    await all.getByText('subject:gone').waitFor()
    await page.keyboard.press('Escape')
    await all.waitFor({ state: 'detached' })
    await page.getByRole('button', { name: 'Delete all 3 mails' }).click()
    await all.getByRole('button', { name: 'Delete' }).click()
    await page.getByRole('heading', { name: 'Nothing found' }).waitFor()
    await arrived('stays', 1)
  })

  test('all of a mailbox are those of this mailbox alone', async () => {
    await inbox.deliver(BAZ, letter('alone-baz'))
    await inbox.deliver(FOO, letter('alone-foo'))
    await arrived('alone', 2)
    const page = await inbox.open(`#mailbox=${BAZ}`)
    await page.getByRole('button', { name: /^Delete all/ }).click()
    await page.getByRole('dialog').getByText(`All mail in ${BAZ}.`).waitFor()
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click()
    await page.getByRole('heading', { name: 'Nothing found' }).waitFor()
    await arrived('alone', 1)
  })

  test('everything goes by keys', async () => {
    await inbox.deliver('keys@gmail.com', letter('keys-1', { text: 'code 552211' }), letter('keys-2'), letter('keys-3'))
    await arrived('keys', 3)
    const page = await openWith('keys', { permissions: ['clipboard-read', 'clipboard-write'] })
    const opened = (name: string) => article(page).getByRole('heading', { name }).waitFor()
    const focused = () => page.evaluate('document.activeElement.textContent')
    await page.keyboard.press('j')
    await opened('keys-3')
    assert.match(String(await focused()), /keys-3/)
    await page.keyboard.press('j')
    await page.keyboard.press('j')
    await page.keyboard.press('j')
    await opened('keys-1')
    await page.keyboard.press('c')
    await until('copied', async () => (await page.evaluate('navigator.clipboard.readText()')) === '552211')
    await page.keyboard.press('ArrowUp')
    await opened('keys-2')
    await page.keyboard.press('x')
    await page.getByText('1 chosen').waitFor()
    await page.keyboard.press('Escape')
    await page.getByText('3 mails', { exact: true }).waitFor()
    await page.keyboard.press('4')
    await shows(article(page).locator('pre'), ([source]) => source?.includes('Subject: keys-2') === true)
    await page.keyboard.press('k')
    await opened('keys-3')
    await page.keyboard.press('?')
    await page.getByRole('dialog', { name: 'Keys and search' }).waitFor()
    await page.keyboard.press('Escape')
    await page.getByRole('dialog').waitFor({ state: 'detached' })
    await page.keyboard.press('Escape')
    await page.getByText('Choose a mail to read it here.').waitFor()
    assert.match(String(await focused()), /keys-3/)
    await page.keyboard.press('/')
    await page.keyboard.type(' -keys-3')
    await shows(subjects(page), ['keys-2', 'keys-1'])
    // Letters in the search are letters.
    await page.keyboard.type(' jkx#u')
    await page.getByRole('heading', { name: 'Nothing found' }).waitFor()
    await arrived('keys', 3)
  })

  test('every control has a name, and Tab reaches list and mail', async () => {
    await inbox.deliver('names@gmail.com', letter('names', { html: '<p>x</p>', file: 'a.pdf' }))
    await arrived('names', 1)
    const page = await openWith('names')
    await subjects(page).click()
    await page.locator('iframe').waitFor()
    const nameless = await page.evaluate(`[...document.querySelectorAll('button, a, input, iframe, [role=img]')]
      .filter((one) => !(one.ariaLabel || one.title || one.textContent.trim())).map((one) => one.outerHTML)`)
    assert.deepEqual(nameless, [])
    const reached = new Set<unknown>()
    for (let i = 0; i < 40; i++) {
      await page.keyboard.press('Tab')
      reached.add(await page.evaluate('document.activeElement.closest("header, nav, .list, article")?.tagName'))
    }
    for (const name of ['HEADER', 'NAV', 'SECTION', 'ARTICLE']) assert.ok(reached.has(name), name)
  })

  test('on a phone list and mail have the screen to themselves, and nothing is wider', async () => {
    await inbox.deliver(
      'phone@gmail.com',
      letter(`phone ${'long'.repeat(60)}`, { html: '<p>x</p>', text: `https://shop.example/${'path/'.repeat(80)}` }),
    )
    await arrived('phone', 1)
    const page = await openWith('phone', { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true })
    const width = () => page.evaluate('document.documentElement.scrollWidth')
    await subjects(page).waitFor()
    assert.equal(await width(), 360)
    await subjects(page).tap()
    await page.locator('iframe').waitFor()
    assert.equal(await page.locator('.list').isVisible(), false)
    assert.equal(await width(), 360)
    for (const name of ['HTML', 'Text', 'Headers', 'Source']) {
      await tab(page, name).tap()
      assert.equal(await width(), 360, name)
    }
    await page.getByRole('button', { name: 'Back to the list' }).tap()
    await subjects(page).waitFor()
    await page.goBack()
    await page.getByRole('heading', { name: 'phone' }).waitFor()
  })

  test('is dark where the system is', async () => {
    const luminance = async (colorScheme: 'light' | 'dark') => {
      const page = await inbox.open('', { colorScheme })
      const color = String(await page.evaluate('getComputedStyle(document.querySelector(".list")).backgroundColor'))
      return Math.max(...(color.match(/\d+/g) ?? []).map(Number))
    }
    assert.ok((await luminance('light')) > 240)
    assert.ok((await luminance('dark')) < 60)
  })

  test('speaks Japanese where the browser does', async () => {
    await inbox.deliver('ja@gmail.com', letter('=?utf-8?B?5pel5pys6Kqe?= japanese'))
    await arrived('japanese', 1)
    const page = await openWith('japanese', { locale: 'ja-JP' })
    assert.equal(await page.locator('html').getAttribute('lang'), 'ja')
    assert.match(await page.title(), /^\(\d+\) 受信箱$/)
    await page.getByRole('searchbox', { name: 'メールを検索' }).waitFor()
    await page.getByText('1通', { exact: true }).waitFor()
    await subjects(page).click()
    await page.getByRole('heading', { name: '日本語 japanese' }).waitFor()
    await shows(article(page).locator('dt'), ['差出人', '宛先', 'Bcc', 'エンベロープ'])
  })

  test('says when the inbox or the mail server is away, and goes on by itself when it is back', async () => {
    const page = await openWith('away')
    const alert = page.getByRole('alert')
    await inbox.end()
    await alert.getByText('The inbox does not answer.').waitFor()
    await inbox.deliver('away@gmail.com', letter('away-1'))
    await inbox.run()
    await alert.waitFor({ state: 'detached' })
    await shows(subjects(page), ['away-1'])

    assert.equal((await inbox.project.run('stop')).code, 0)
    await alert.getByText('The mail server does not answer.').waitFor()
    await shows(subjects(page), ['away-1'])
    await subjects(page).click()
    await article(page).getByText('That did not work').waitFor()
    await inbox.project.start()
    await alert.waitFor({ state: 'detached' })
    await article(page).getByRole('heading', { name: 'away-1' }).waitFor()
    await inbox.deliver('away@gmail.com', letter('away-2'))
    await shows(subjects(page), ['away-2', 'away-1'])
  })

  test('a bookmark of a mail that is gone says so', async () => {
    const page = await inbox.open('#id=abc123')
    await article(page).getByText('This mail is not here any more.').waitFor()
  })

  test('10,000 mails: only the rows on the screen are fetched and drawn', async (t) => {
    const folder = join(inbox.project.stateDir, 'mail', 'development-virtual.example.com', 'baz')
    for (let i = 0; i < 10_000; i++) {
      const name = `1700000000.${i}.many`
      const path = join(folder, 'tmp', name)
      writeFileSync(
        path,
        mail('X-Original-To: many@client.example', 'From: a@client.example', `Subject: many-${i}`, '', 'text'),
      )
      chownSync(path, VMAIL_ID, VMAIL_ID)
      // Dovecot's time of arrival.
      utimesSync(path, 1_700_000_000 + i, 1_700_000_000 + i)
      renameSync(path, join(folder, 'new', name))
    }
    await arrived('many', 10_000)

    const page = await inbox.open(`#mailbox=${BAZ}`)
    const bytes: number[] = []
    page.on(
      'response',
      (response) =>
        void response.body().then(
          (body) => bytes.push(body.length),
          () => {},
        ),
    )
    const begin = performance.now()
    await page.reload()
    await page.getByText('many-9999', { exact: true }).waitFor()
    t.diagnostic(
      `first rows after ${(performance.now() - begin).toFixed(0)} ms, ${bytes.reduce((sum, length) => sum + length, 0)} bytes`,
    )
    assert.ok((await page.locator('.row').count()) < 60)
    const times: number[] = []
    for (const index of [5_000, 100, 9_999, 2_500, 7_500]) {
      const start = performance.now()
      await scroll(page, index * ROW)
      await page.getByText(`many-${9_999 - index}`, { exact: true }).waitFor()
      times.push(Math.round(performance.now() - start))
      assert.ok((await page.locator('.row').count()) < 60)
    }
    t.diagnostic(`after a jump to anywhere: ${times.join(', ')} ms`)
    await scroll(page, 0)
    await inbox.deliver(BAZ, letter('many-new'))
    await page.getByText('many-new', { exact: true }).waitFor()
    await page.getByRole('button', { name: /^Delete all/ }).click()
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click()
    await page.getByRole('heading', { name: 'Nothing found' }).waitFor({ timeout: 120_000 })
  })
})
