/** The options of pop_email: what they mean together, which mailboxes they name, and for how long it waits. */
import { CATCHALL, findAccount, type Login, masterLogin, readAccounts } from '../accounts/accounts.ts'
import { Failure, type Io, type parse } from '../cli.ts'
import { setting } from '../settings.ts'
import { CLIENT_OPTIONS, FLAG, ONE, resolveClient } from './client_options.ts'
import { FILTER_OPTIONS, parseCount, parseTime } from './filters.ts'
import type { Mailbox, Wait } from './mailbox.ts'
import type { Pop3Server } from './pop3.ts'
import { visibleLine } from './visible.ts'

/** What to show; one at a time, but for the two that save. */
const VIEW_OPTIONS = {
  ...{ list: FLAG, headers: FLAG, html: FLAG, links: ONE, code: FLAG, raw: FLAG, json: FLAG },
  ...{ save: ONE, 'save-attachments': ONE },
} as const

/** For `parse`. */
export const POP_OPTIONS = {
  ...{ account: ONE, all: FLAG, wait: ONE, expect: ONE, new: FLAG, delete: FLAG },
  ...{ ...CLIENT_OPTIONS, ...FILTER_OPTIONS, ...VIEW_OPTIONS },
} as const

type PopValues = ReturnType<typeof parse<typeof POP_OPTIONS>>['values']

/** What these options mean without a value. `parseArgs` knows no option whose value may be left out. */
const OTHERWISE: Record<string, string | undefined> = { '--wait': '30', '--links': '/^/' }
/** What stands behind one of them and is no option is meant as its value, also where it is a wrong one. */
const isValue = (arg: string) => /^-?\d|^[^-]/.test(arg)

/** `--wait` and `--wait 10` become `--wait=...`, and `--links` the same. */
export function withValues(args: string[]): string[] {
  return args.flatMap((arg, index) => {
    const [before = '', next = ''] = [args[index - 1], args[index + 1]]
    if (OTHERWISE[arg]) return [`${arg}=${isValue(next) ? next : OTHERWISE[arg]}`]
    return OTHERWISE[before] && isValue(arg) ? [] : [arg]
  })
}

/** What is waited for, from `now` on (milliseconds since 1970); undefined without --wait. */
export function parseWait(
  { wait, expect, new: onlyNew = false }: PopValues,
  now: number,
): (Wait & { seconds: number }) | undefined {
  if (wait === undefined) {
    if (expect === undefined && !onlyNew) return undefined
    throw new Failure('usage', `--${onlyNew ? 'new' : 'expect'} needs --wait: it says what is waited for.`)
  }
  const [time, rule] = [/\d$/.test(wait) ? `${wait}s` : wait, 'a time as 10, 10s or 500ms']
  const seconds = parseTime(`--wait=${wait}`, time, rule) / 1_000
  const count = expect === undefined ? 1 : parseCount('--expect', expect)
  return { seconds, expect: count, onlyNew, begin: now, end: now + seconds * 1_000 }
}

/** The one thing to show, by its option; `text` without one. */
export function chooseView(values: PopValues): keyof typeof VIEW_OPTIONS | 'text' {
  const chosen = (Object.keys(VIEW_OPTIONS) as (keyof typeof VIEW_OPTIONS)[]).filter(
    (name) => values[name] !== undefined,
  )
  if (chosen.length > 1 && !chosen.every((name) => name.startsWith('save'))) {
    throw new Failure('usage', `${chosen.map((name) => `--${name}`).join(' and ')}: choose one of them.`)
  }
  return chosen[0] ?? 'text'
}

/** The server and the mailboxes that are meant. A hint on stderr says where it looks, when that is not what was typed. */
export async function chooseMailboxes(
  values: PopValues,
  io: Io,
): Promise<{ server: Pop3Server; mailboxes: Mailbox[]; values: PopValues }> {
  const { account, all, user, password, 'password-stdin': fromStdin, to = [] } = values
  const byPassword = password !== undefined || fromStdin === true
  if ((account !== undefined && all) || ((account !== undefined || all) && (user !== undefined || byPassword))) {
    throw new Failure('usage', 'Choose the mailbox in one way: --account, --all, or --user with its password.')
  }
  const chosen = account ?? user ?? setting('POP3_USER')
  const hasPassword = byPassword || (account === undefined && chosen !== undefined && setting('POP3_PASSWORD'))
  const caught = all || hasPassword ? undefined : await caughtAddress(chosen ?? (to.length === 1 ? to[0] : undefined))
  if (account === undefined && !all && !caught) {
    const { server, login } = await resolveClient('pop3', values, io)
    if (!login) throw new Failure('usage', 'POP3 has no access without a login. See --help.')
    return { server, mailboxes: [mailboxOf(login.user, login)], values }
  }
  if (caught) io.say(`${caught} has no account here, so its mail is in the catchall: looking into --account catchall.`)
  // The master user opens every mailbox, also where nobody here knows the password.
  const accounts = all ? readAccounts() : [findAccount(caught ? CATCHALL : (account ?? ''))]
  const mailboxes = accounts.map(({ address }) => mailboxOf(address, masterLogin(address)))
  const { server } = await resolveClient('pop3', { ...values, ...mailboxes[0]?.login }, io)
  // Who names an address wants its mail, not that of all others.
  return { server, mailboxes, values: chosen && caught ? { ...values, to: [...to, caught] } : values }
}

/** The whole address that a text is or has in angle brackets, where nobody here has it and the catchall gets its mail. */
async function caughtAddress(text = ''): Promise<string | undefined> {
  const [, address, domain] = /^(?:[^<>]*<)?([^\s@<>"/*,]+(@[^\s@<>"/*,]+\.[^\s@<>"/*,]+))>?$/.exec(text.trim()) ?? []
  const names = [address, domain].map((name) => name?.toLowerCase() ?? '')
  if (!address || readAccounts().some((account) => account.address.toLowerCase() === names[0])) return undefined
  const { readConfigured } = await import('../accounts/configuration.ts')
  const { lookUp, parseAliases } = await import('../accounts/tables.ts')
  // These two alone: what is wrong with another file keeps nobody from the mail.
  const aliases = parseAliases(readConfigured('postfix-virtual.cf')).filter(({ alias }) => names.includes(alias))
  const targets = aliases[0]?.recipients ?? [lookUp(readConfigured('postfix-regexp.cf'), names[0] ?? '')?.result]
  return targets.some((target) => target?.toLowerCase() === CATCHALL) ? address : undefined
}

/** What to do about a login that the server refuses: two sentences for stderr. */
export async function adviceFor(user: string): Promise<string> {
  const isKnown = readAccounts().some(({ address }) => address.toLowerCase() === user.toLowerCase())
  const caught = (await caughtAddress(user)) && `; its mail is in the catchall: --account ${user}`
  const fact = isKnown ? '' : `${visibleLine(user)} has no account here${caught ?? ''}. `
  return `${fact}See which accounts there are: npm run add-account -- --list`
}

function mailboxOf(account: string, login: Login): Mailbox {
  return { account, login, verdicts: new Map() }
}
