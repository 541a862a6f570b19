/** What the page shows and does, without its looks: the state, the API (Mailpit's), the events, and what buttons and keys do. */
import { number, words } from './words.js'

/** How many rows are fetched at first, and more of them where the reader nears their end. */
const ROWS = 100
export const VIEWS = ['html', 'text', 'headers', 'source']

export const state = {
  // What the address says after #, so that going back, reloading and bookmarks work.
  id: '', query: '', mailbox: '',
  // The newest of the `total` mails that were found.
  mails: [], total: 0, limit: ROWS, isLoaded: false, problem: '',
  // All mail and the mailboxes, whatever is found.
  everything: { Total: 0, Unread: 0 }, mailboxes: [], isInboxAway: false, isServerAway: false,
  view: 'html', isNarrow: false, said: { text: '', isQuiet: true },
}
let paint = () => {}
/** Takes over a change and brings the document up to it. */
export function draw(change) {
  Object.assign(state, change)
  const { Unread } = state.everything
  document.title = Unread > 0 ? `(${number(Unread)}) ${words.title}` : words.title
  paint()
}
const indexOf = (id) => state.mails.findIndex(({ ID }) => ID === id)
export const find = (id) => state.mails[indexOf(id)]
const focusRow = (id) => document.getElementById(`row-${id}`)?.focus()
export const senderOf = ({ From }) => From?.Name || From?.Address || words.nobody
export const subjectOf = ({ Subject }) => Subject || words.noSubject

const route = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)))
export const addressOf = (change) =>
  `#${new URLSearchParams(Object.entries({ ...route(), ...change }).filter(([, value]) => value))}`
export const go = (change, isReplacing) => location[isReplacing ? 'replace' : 'assign'](addressOf(change))

/** Throws what the server says where the answer is no 2xx; then the error has a status. */
export async function api(path, options) {
  const response = await fetch(`api/v1/${path}`, options)
  if (response.ok) return response
  const message = await response.json().then((answer) => answer.Error, () => response.statusText)
  throw Object.assign(new Error(message), { status: response.status })
}
const get = async (path) => (await api(path)).json()
const send = (method, path, body = {}) => api(path, { method, body: JSON.stringify(body) })
/** The path of what is found: all mail, or that of the mailbox and the search. */
function found(more, route = state.query.trim() ? 'search' : 'messages') {
  const { mailbox, query } = state
  const tz = Intl.DateTimeFormat().resolvedOptions().timeZone
  return `${route}?${new URLSearchParams({ ...(query.trim() && { query, tz }), ...(mailbox && { mailbox }), ...more })}`
}

let isStale = false
let rounds
/** Fetches the rows. What asks for them meanwhile is served by one more round. */
export function load() {
  isStale = true
  rounds ??= loadAll().finally(() => {
    rounds = undefined
  })
  return rounds
}
async function loadAll() {
  while (isStale) {
    isStale = false
    const what = found()
    get('mailboxes').then((mailboxes) => draw({ mailboxes }), () => {})
    try {
      const answer = await get(found({ limit: state.limit }))
      if (what !== found()) continue
      const { messages: mails, messages_count: total, total: Total, unread: Unread } = answer
      Object.assign(state, { mails, total, everything: { Total, Unread }, isLoaded: true, problem: '' })
    } catch ({ status, message }) {
      // Else the inbox or the mail server is away, which the events tell; what is on the screen stays.
      if (status < 500) Object.assign(state, { mails: [], total: 0, isLoaded: true, problem: message })
    }
    draw()
    // A thousand mails in a second are no thousand rounds.
    if (isStale) await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
/** Fetches more rows, where there are more. */
export async function more() {
  if (state.mails.length >= state.total) return
  state.limit = state.mails.length + ROWS
  await load()
}

/** Takes over what the address says. */
function follow() {
  const { id = '', q: query = '', mailbox = '' } = route()
  const isOther = query !== state.query || mailbox !== state.mailbox
  const before = state.id
  draw({ id, query, mailbox })
  if (!id) focusRow(before)
  if (!isOther) return
  document.querySelector('.scroller').scrollTop = 0
  draw({ isLoaded: false, limit: ROWS })
  load().then(() => say(state.problem || words.found(state.total), true))
}

/** Follows the events, and connects again for as long as the page is open. */
function connect() {
  const socket = new WebSocket(new URL('api/events', location.href.replace(/^http/, 'ws')))
  socket.onopen = () => {
    draw({ isInboxAway: false })
    load()
  }
  socket.onclose = () => {
    draw({ isInboxAway: true })
    setTimeout(connect, 500)
  }
  socket.onmessage = ({ data }) => {
    const { Type, Data } = JSON.parse(data)
    if (Type === 'server') draw({ isServerAway: !Data.up })
    if (Type === 'new') say(words.arrived(senderOf(Data), subjectOf(Data)), true)
    load()
  }
}

/** Says something to screen readers, and for a moment on the screen. */
export function say(text, isQuiet = false) {
  clearTimeout(state.said.timer)
  draw({ said: { text, isQuiet, timer: setTimeout(() => draw({ said: { text: '', isQuiet: true } }), 4000) } })
}
/** Does what a button or a key asks for, and says why where it fails. */
async function attempt(work) {
  try {
    await work()
  } catch (error) {
    say(words.failed(error.message))
  }
}

/** Opens the mail that is `by` rows below the open one. */
async function step(by) {
  const at = Math.max(0, indexOf(state.id) + by)
  if (at >= state.mails.length) await more()
  const mail = state.mails[at]
  if (!mail) return
  focusRow(mail.ID)
  go({ id: mail.ID }, state.id !== '')
}
export const mark = (id, Read) => attempt(() => send('PUT', 'messages', { IDs: [id], Read }))
export const markFound = () =>
  attempt(() => send('PUT', found({}, 'messages'), { Read: true, Search: state.query.trim() }))
/** Deletes the open mail; the one below it is open then, or above it. */
export const remove = (id) =>
  attempt(async () => {
    const at = indexOf(id)
    const next = state.mails[at + 1] ?? state.mails[at - 1]
    await send('DELETE', 'messages', { IDs: [id] })
    say(words.deleted(1))
    await load()
    if (state.id !== id) return
    focusRow(next?.ID)
    go({ id: next?.ID }, true)
  })
/** Deletes all that is found, after a question. */
export const removeFound = () =>
  attempt(async () => {
    const { total, query, mailbox } = state
    const limits = [query.trim() && words.askSearch(query), mailbox && words.askMailbox(mailbox)].filter(Boolean)
    if (!confirm(`${words.askDelete(total)}\n${limits.join(' ') || words.askAll}`)) return
    say(words.working)
    await send('DELETE', found())
    say(words.deleted(total))
    load()
    go({ id: '' }, true)
  })
export const copy = (text) =>
  attempt(async () => {
    // Browsers give a clipboard to https and to this machine alone; BIND_ADDRESS may have opened the page to others.
    if (!navigator.clipboard) return prompt(words.copy(''), text)
    await navigator.clipboard.writeText(text)
    say(words.copied)
  })

/** What keys do; those of a mail need an open one. */
export const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  u: () => state.id && mark(state.id, find(state.id)?.Read === false),
  Delete: () => state.id && remove(state.id),
  '#': () => state.id && remove(state.id),
  c: () => document.querySelector('.code')?.click(),
  w: () => draw({ isNarrow: !state.isNarrow }),
  '/': () => document.querySelector('input[type=search]').focus(),
  '?': () => document.getElementById('keys').showPopover(),
  Escape: () => go(state.id ? { id: '' } : { q: '' }),
  ...Object.fromEntries(VIEWS.map((view, index) => [index + 1, () => document.getElementById(`tab-${view}`)?.click()])),
}
function onKey(event) {
  const { ctrlKey, metaKey, altKey, target, key } = event
  if (ctrlKey || metaKey || altKey || document.querySelector(':popover-open')) return
  if (target.matches('[type=search]')) return key === 'Escape' && target.blur()
  const name = (target.closest('.list') && { ArrowDown: 'j', ArrowUp: 'k' }[key]) || key
  if (!Object.hasOwn(KEYS, name)) return
  event.preventDefault()
  attempt(KEYS[name])
}

/** Begins: `painting` brings the document up to the state. */
export function begin(painting) {
  paint = painting
  addEventListener('hashchange', follow)
  addEventListener('keydown', onKey)
  follow()
  connect()
}
