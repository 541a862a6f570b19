/**
 * Letters to the whole world, made from a seed: addresses of every form that SMTP knows, and all that makes a mail server
 * write to the world by itself, as bounces, aliases, automatic replies and delivery status notifications.
 */
import { BAR, CATCHALL, FOO, VIRTUAL_DOMAIN } from '../scripts/lib/accounts/accounts.ts'
import { HOSTNAME } from '../scripts/lib/settings.ts'
import type { Letter } from './poster.ts'

/** A letter and what has to become of it: one of these three, where more than one is given either of them. */
export interface Expected extends Letter {
  kind: string
  /** Copies by mailbox. */
  copies?: Record<string, number>
  /** The mailbox that gets the bounce. */
  bounce?: string
  /** The reply that refuses it. */
  refused?: RegExp
  /** Notifications of success to the sender, who is abroad. */
  notices: number
}

/** Aliases that lead abroad, and a mailbox that is soon full: lines for the files of the configuration folder. */
export const CONFIGURATION = {
  'postfix-virtual.cf': [
    `abroad@${VIRTUAL_DOMAIN} friend@gmail.com`,
    `team@${VIRTUAL_DOMAIN} ${BAR}, partner@abroad.example`,
    '@shop.example boss@outlook.com',
  ],
  'postfix-regexp.cf': [`/^customer-(.*)@${VIRTUAL_DOMAIN.replaceAll('.', '\\.')}$/ $1@customer.example`],
  'postfix-aliases.cf': ['newsletter: subscriber@list.example', 'press: "press office"@paper.example'],
  'dovecot-quotas.cf': [`baz@${VIRTUAL_DOMAIN}:12k`],
}

const BAZ = `baz@${VIRTUAL_DOMAIN}`
const UNIX_USERS = 'root daemon bin mail news uucp proxy www-data backup list nobody postfix dovecot'.split(' ')
const ROLES = 'postmaster abuse hostmaster webmaster mailer-daemon double-bounce noreply bounces'.split(' ')
const LISTS = 'owner-news news-owner news-request bounce+reader=gmail.com'.split(' ')
const PROVIDERS = 'gmail.com outlook.com yahoo.co.jp icloud.com docomo.ne.jp gmx.de mail.ru qq.com'.split(' ')
const TOP_LEVEL = 'com net org jp co.jp de io museum test invalid example local internal xn--p1ai'.split(' ')
const LETTERS = 'abcdefghijklmnopqrstuvwxyz'
const LOOKALIKES = [
  `not-${VIRTUAL_DOMAIN}`,
  `${VIRTUAL_DOMAIN}.evil.example`,
  `${VIRTUAL_DOMAIN}m`,
  VIRTUAL_DOMAIN.replaceAll('.', '-'),
  VIRTUAL_DOMAIN.replace('-', '.'),
]

/** Choices that are the same for the same seed. */
class Dice {
  #state: number

  constructor(seed: number) {
    this.#state = seed
  }

  /** An integer from 0 to below `limit`, by mulberry32. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T
  }

  text(characters: string, length: number): string {
    return Array.from({ length }, () => characters[this.below(characters.length)]).join('')
  }

  /** Begins with a letter, since a domain of digits alone is none. */
  get word(): string {
    return this.text(LETTERS, 1) + this.text(`${LETTERS}0123456789`, this.below(12))
  }

  /** Somebody else's domain. */
  get domain(): string {
    return this.below(4) === 0 ? this.pick(PROVIDERS) : `${this.word}.${this.pick(TOP_LEVEL)}`
  }
}

type Form = (dice: Dice) => string

/** Addresses that are nobody's here, by their form, as they stand between the angle brackets. All have to be caught. */
const FOREIGN: Record<string, Form> = {
  plain: (dice) => `${dice.word}@${dice.domain}`,
  dotted: (dice) => `${dice.word}.${dice.word}.${dice.word}@${dice.domain}`,
  tagged: (dice) => `${dice.word}+${dice.word}@${dice.domain}`,
  'upper case': (dice) => `${dice.word}.${dice.word}@${dice.domain}`.toUpperCase(),
  subdomain: (dice) => `${dice.word}@${dice.word}.${dice.word}.${dice.domain}`,
  'all characters of an atom': (dice) => `a${dice.text("!#$%&'*+/=?^_`{|}~-", 8)}z@${dice.domain}`,
  'dots out of place': (dice) => dice.pick(['.a@', 'a.@', 'a..b@']) + dice.domain,
  'Unix user': (dice) => `${dice.pick(UNIX_USERS)}@${dice.domain}`,
  role: (dice) => `${dice.pick(ROLES)}@${dice.domain}`,
  list: (dice) => `${dice.pick(LISTS)}@${dice.domain}`,
  'name of an account': (dice) => `${dice.pick(['foo', 'bar', 'baz', 'catchall', 'abroad', 'team'])}@${dice.domain}`,
  'file, command or list': (dice) =>
    `${dice.pick(['/etc/passwd', '"|true"', '":include:/etc/passwd"'])}@${dice.domain}`,
  'quoted space': (dice) => `"${dice.word} ${dice.word}"@${dice.domain}`,
  'quoted at': (dice) => `"${dice.word}@${dice.domain}"@${dice.domain}`,
  'quoted at, localhost': (dice) => `"${dice.word}@${dice.domain}"@localhost`,
  'quoted at, server': (dice) => `"${dice.word}@${dice.domain}"@${HOSTNAME}`,
  'quoted at, bare': (dice) => `"${dice.word}@${dice.domain}"`,
  'quoted specials': (dice) => `"${dice.word},;:()[]<>"@${dice.domain}`,
  'quoted pairs': (dice) => `"${dice.word}\\"\\\\${dice.word}"@${dice.domain}`,
  'two ats': (dice) => `${dice.word}@${dice.domain}@${dice.domain}`,
  'percent hack': (dice) => `${dice.word}%${dice.domain}@${dice.domain}`,
  'percent hack, localhost': (dice) => `${dice.word}%${dice.domain}@localhost`,
  'percent hack, server': (dice) => `${dice.word}%${dice.domain}@${HOSTNAME}`,
  'percent hack, loopback': (dice) => `${dice.word}%${dice.domain}@[127.0.0.1]`,
  'percent hack, bare': (dice) => `${dice.word}%${dice.domain}`,
  'bang path': (dice) => `${dice.domain}!${dice.word}!${dice.word}`,
  'bang path, foreign': (dice) => `${dice.domain}!${dice.word}@${dice.domain}`,
  'bang path, localhost': (dice) => `${dice.domain}!${dice.word}@localhost`,
  'IPv4 literal': (dice) => `${dice.word}@[${1 + dice.below(126)}.${dice.below(256)}.${dice.below(256)}.25]`,
  'IPv6 literal': (dice) => `${dice.word}@[IPv6:2001:db8::${(1 + dice.below(0xffff)).toString(16)}]`,
  'loopback literal': (dice) => `${dice.word}@${dice.pick(['[127.0.0.1]', '[IPv6:::1]'])}`,
  'internationalised domain': (dice) => `${dice.word}@xn--eckwd4c7cu47r2wf.${dice.pick(TOP_LEVEL)}`,
  '8-bit local part': (dice) => `ユーザー${dice.word}@${dice.domain}`,
  'trailing dot': (dice) => `${dice.word}@${dice.domain}.`,
  'underscore in the domain': (dice) => `${dice.word}@_${dice.word}.${dice.domain}`,
  'single label': (dice) => `${dice.word}@${dice.pick(['intranet', 'com', 'localhost', 'mail', 'smtp', 'error'])}`,
  bare: (dice) => dice.word,
  comment: (dice) => `${dice.word}(comment)@${dice.domain}`,
  'local part of 64': (dice) => `${dice.text('abcdefgh', 64)}@${dice.domain}`,
  'local part of 400': (dice) => `${dice.text('abcdefgh', 400)}@${dice.domain}`,
  'domain of 253': (dice) =>
    `${dice.word}@${[63, 63, 63, 58].map((length) => dice.text('abcdefgh', length)).join('.')}.jp`,
  'below the virtual domain': (dice) => `bar@${dice.word}.${VIRTUAL_DOMAIN}`,
  'like the virtual domain': (dice) => `bar@${dice.pick(LOOKALIKES)}`,
  'virtual domain in the local part': (dice) => `"bar@${VIRTUAL_DOMAIN}"@${dice.domain}`,
  server: (dice) => `${dice.word}@${HOSTNAME}`,
}

/** The same for SMTP alone: in a header, and so for sendmail, these are lists of addresses. */
const ROUTES: Record<string, Form> = {
  'source route': (dice) => `@${dice.domain},@${dice.domain}:${dice.word}@${dice.domain}`,
  'source route, localhost': (dice) => `@localhost:${dice.word}@${dice.domain}`,
}

const MALFORMED = /^501 5\.1\.3 Bad recipient address syntax/
const UNKNOWN = /^550 5\.1\.1 <.*>: Recipient address rejected: User unknown in virtual mailbox table/

/** What no server has to take: not an address, or nobody of the virtual mailbox domain. Each with the reply. */
const REFUSED: [Form, RegExp][] = [
  [() => '', MALFORMED],
  [(dice) => `@${dice.domain}:`, MALFORMED],
  [(dice) => `${dice.word} ${dice.word}@${dice.domain}`, MALFORMED],
  [(dice) => `${dice.word}@${dice.domain}:25`, MALFORMED],
  [(dice) => `${dice.word}@smtp:[1.2.3.4]`, MALFORMED],
  [(dice) => `${dice.word}@[${dice.domain}]`, MALFORMED],
  [(dice) => `${dice.word}@${1 + dice.below(126)}.1.2.3`, MALFORMED],
  [(dice) => `nobody-${dice.word}@${VIRTUAL_DOMAIN}`, UNKNOWN],
  [(dice) => `${dice.word}%${dice.domain}@${VIRTUAL_DOMAIN}`, UNKNOWN],
  [(dice) => `${dice.domain}!${dice.word}@${VIRTUAL_DOMAIN}`, UNKNOWN],
  [(dice) => `"${dice.word}@${dice.domain}"@${VIRTUAL_DOMAIN}`, UNKNOWN],
  [(dice) => `${dice.word}@${dice.domain}@${VIRTUAL_DOMAIN}`, UNKNOWN],
]

/** What every letter has, and in which fields mail servers look for somebody to write to. */
function header(dice: Dice): string[] {
  const field = dice.pick(['Disposition-Notification-To', 'Return-Receipt-To', 'Errors-To', 'Reply-To', 'X-Nothing'])
  return [`From: ${FOREIGN.plain?.(dice)}`, `${field}: ${FOREIGN.plain?.(dice)}`]
}

/** `count` letters to foreign addresses, and a fifth more of all other kinds together. Their ids begin with `name`. */
export function lettersToTheWorld(name: string, count: number, seed: number): Expected[] {
  const dice = new Dice(seed)
  const letters: Expected[] = []
  const foreign = Object.values(FOREIGN)
  const anywhere = Object.values({ ...FOREIGN, ...ROUTES })
  const someone = FOREIGN.plain as Form
  const add = (kind: string, letter: Partial<Expected>) => {
    const usual = { via: 'smtp' as const, from: someone(dice), to: [someone(dice)], header: header(dice), size: 100 }
    const id = `letter-${name}-${letters.length}-${kind.replaceAll(' ', '-')}`
    letters.push({ id, kind, ...usual, notices: 0, ...letter })
  }
  const times = (part: number, make: (index: number) => void, least = 2) => {
    for (let index = 0; index < Math.max(least, Math.round(count * part)); index++) make(index)
  }
  /** Plain in every second letter, lest all of a kind are at the server's own name. */
  const anyone = (index: number) => (index % 2 === 0 ? someone(dice) : dice.pick(foreign)(dice))
  const caught = { copies: { [CATCHALL]: 1 } }

  times(1, (index) => {
    const roll = dice.below(100)
    const via = roll < 70 ? 'smtp' : roll < 94 ? 'submission' : roll < 96 ? 'sendmail' : 'sendmail -t'
    const forms = via.startsWith('sendmail') ? foreign : anywhere
    const form = forms[index % forms.length] as Form
    const to = index % 50 === 0 ? [form(dice), someone(dice), someone(dice)] : [form(dice)]
    const from = via.startsWith('sendmail')
      ? someone(dice)
      : dice.pick([someone(dice), someone(dice), '', FOO, dice.pick(anywhere)(dice)])
    add('foreign', { via, from, to, copies: { [CATCHALL]: to.length } })
  })
  times(0.03, (index) => {
    const automatic = ['Auto-Submitted: auto-replied', 'Precedence: bulk', 'In-Reply-To: <x@shop.example>']
    add('reply', { from: '', to: [anyone(index)], header: [...header(dice), ...automatic], ...caught })
  })
  times(0.01, () => add('virtual alias', { to: [`abroad@${VIRTUAL_DOMAIN}`], ...caught }))
  times(0.01, () => add('domain alias', { to: [`${dice.word}@shop.example`], ...caught }))
  times(0.01, () => add('regexp alias', { to: [`customer-${dice.word}@${VIRTUAL_DOMAIN}`], ...caught }))
  times(0.01, () => add('local alias', { to: [`${dice.pick(['newsletter', 'press'])}@${dice.domain}`], ...caught }))
  times(0.01, () => add('mixed alias', { to: [`team@${VIRTUAL_DOMAIN}`], copies: { [BAR]: 1, [CATCHALL]: 1 } }))
  times(0.01, () => add('notice', { notify: 'SUCCESS,FAILURE', ...caught, notices: 1 }))
  const full = { to: [BAZ], size: 5000, copies: { [BAZ]: 1 }, bounce: CATCHALL }
  times(0.02, (index) => add('full mailbox', { from: anyone(index), ...full }), 4)
  times(0.01, (index) => {
    const unknown = `nobody-${dice.word}@${VIRTUAL_DOMAIN}`
    add('unknown account', { via: 'sendmail', from: anyone(index), to: [unknown], bounce: CATCHALL })
  })
  // Its bounce cannot be delivered either: the postmaster, who is the catchall, gets it.
  times(0.01, (index) => {
    const from = index % 2 === 0 ? '' : `noreply-${dice.word}@${VIRTUAL_DOMAIN}`
    const unknown = `nobody-${dice.word}@${VIRTUAL_DOMAIN}`
    add('double bounce', { via: 'sendmail', from, to: [unknown], bounce: CATCHALL })
  })
  // What was caught once and is sent again, whole: local(8) would believe in a loop.
  times(0.01, (index) => {
    const to = someone(dice)
    add('loop', { from: anyone(index), to: [to], header: [`Delivered-To: ${to}`], ...caught })
  })
  const hops = Array.from({ length: 60 }, (_, hop) => `Received: from a by b; hop ${hop}`)
  times(0.005, () => add('hops', { header: hops, refused: /^554 5\.4\.0 Error: too many hops/ }))
  times(0.005, () => add('hops of sendmail', { via: 'sendmail', header: hops, bounce: CATCHALL }))
  times(0.021, (index) => {
    const [form, refused] = REFUSED[index % REFUSED.length] as (typeof REFUSED)[number]
    add('refused', { to: [form(dice)], refused })
  })
  return letters
}
