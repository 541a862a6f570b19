/** Addresses that a mail server could get wrong, to ask where their mail would go. */

const WORDS = ['alice', 'bob', 'info', 'sales', 'no-reply', 'root', 'news', 'mail', 'postmaster', 'owner-list', 'x']
const TOP_LEVELS = ['com', 'net', 'org', 'io', 'jp', 'co.jp', 'de', 'example', 'test', 'museum']
const PROVIDERS = ['gmail.com', 'outlook.com', 'yahoo.co.jp', 'icloud.com', 'docomo.ne.jp', 'qq.com', 'example.com']
const IDN = ['bücher.example', 'xn--bcher-kva.example', '例え.jp', 'xn--r8jz45g.jp', 'почта.рф']

/**
 * Generates `count` addresses: random domains, providers, address literals, subdomains and look-alikes of the virtual
 * mailbox domains, upper case, quoted local parts, percent and bang paths, source routes (RFC 5321 appendix C and F),
 * international domains. Different ones at each call.
 */
export function generateAddresses(virtualDomains: readonly string[], count: number): string[] {
  const pick = <T>(list: readonly T[]) => list[Math.floor(Math.random() * list.length)] as T
  const number = (limit: number) => Math.floor(Math.random() * limit)
  const word = () => Math.random().toString(36).slice(2, 9) || 'w'
  const local = () => (number(3) === 0 ? word() : pick(WORDS))
  const foreign = () => (number(4) === 0 ? pick(PROVIDERS) : `${word()}.${pick(TOP_LEVELS)}`)
  const own = () => pick(virtualDomains.length > 0 ? virtualDomains : ['development-virtual.example.com'])
  const ip = () => [203, 0, 113, number(256)].join('.')
  const forms: (() => string)[] = [
    () => `${local()}@${foreign()}`,
    () => `${local()}@${word()}.${word()}.${pick(TOP_LEVELS)}`,
    () => `${local()}@${pick(PROVIDERS)}`,
    () => `${local()}@[${ip()}]`,
    () => `${local()}@[IPv6:2001:db8::${number(65_536).toString(16)}]`,
    () => `${local()}@${word()}.${own()}`,
    // Look-alikes: something in front, something behind, a dot that is none, another top level.
    () => `${local()}@${word()}${own()}`,
    () => `${local()}@${own()}.${foreign()}`,
    () => `${local()}@${own().replace('.', pick(['x', '-', '_']))}`,
    () => `${local()}@${own().replace(/\w+$/, pick(['co', 'cn', 'example']))}`,
    () => `${local()}@${foreign()}`.toUpperCase(),
    () => `"${local()} ${word()}"@${foreign()}`,
    () => `"${local()}@${own()}"@${foreign()}`,
    () => `${local()}@${own()}@${foreign()}`,
    () => `${local()}%${foreign()}@${own()}`,
    () => `${local()}%${own()}@${foreign()}`,
    () => `${local()}%${foreign()}@localhost`,
    () => `${foreign()}!${local()}`,
    () => `${foreign()}!${local()}@${own()}`,
    () => `@${foreign()}:${local()}@${foreign()}`,
    () => `@${own()},@${foreign()}:${local()}@${foreign()}`,
    () => `${local()}@${pick(IDN)}`,
    () => `${pick(['ユーザー', 'jürgen'])}@${pick(IDN)}`,
    () => `${local()}+${word()}@${foreign()}`,
    () => `${local()}=${own()}@${foreign()}`,
    () => `${word().repeat(12).slice(0, 64)}@${foreign()}`,
    () => `${local()}@${foreign()}.`,
    () => local(),
  ]
  return Array.from({ length: count }, (_, index) => (forms[index % forms.length] as () => string)())
}
