/** What the page shows and does, without its looks: the state, the API (Mailpit's), the events, and what buttons and keys do. */
import { number, words } from './words.js'

/** The height of a row in pixels, as style.css has it: by it the list knows which rows are on the screen. */
export const ROW = 4.75 * Number.parseFloat(getComputedStyle(document.documentElement).fontSize)
/** How many rows are fetched before and behind those on the screen. */
const AROUND = 50
export const VIEWS = ['html', 'text', 'headers', 'source']

export const state = {
  // What the address says after #, so that going back, reloading and bookmarks work.
  id: '', query: '', mailbox: '',
  // The rows that are here, from the `start`th of the `total` that were found, and those of them that are on the screen.
  mails: [], start: 0, total: 0, seen: { first: 0, last: 20 }, isLoaded: false, problem: '',
  // All mail and the mailboxes, whatever is found.
  everything: { Total: 0, Unread: 0 }, mailboxes: [], isInboxAway: false, isServerAway: false,
  // Where the open mail is in the list, whether a key led there, and the ID of the row that is to have the focus.
  at: -1, isStepped: false, focus: '',
  view: 'html', isNarrow: false, dialog: undefined, said: { text: '', isQuiet: true },
}
let paint = () => {}
/** Takes over a change and brings the document up to it. */
export function draw(change) {
  Object.assign(state, change)
  const { Unread } = state.everything
  document.title = Unread > 0 ? `(${number(Unread)}) ${words.title}` : words.title
  paint()
}
export const row = (index) => state.mails[index - state.start]
const indexOf = (id) => state.mails.findIndex(({ ID }) => ID === id) + state.start
export const find = (id) => state.mails.find(({ ID }) => ID === id)
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
const send = (method, path, body = {}) =>
  api(path, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
/** The path of what is found: all mail, or that of the mailbox and the search. */
function found(more, route = state.query.trim() ? 'search' : 'messages') {
  const { mailbox, query } = state
  const tz = Intl.DateTimeFormat().resolvedOptions().timeZone
  return `${route}?${new URLSearchParams({ ...(query.trim() && { query, tz }), ...(mailbox && { mailbox }), ...more })}`
}
const page = (start, limit) => get(found({ start, limit, envelope: 1 }))

let isStale = false
let rounds
/** Fetches the rows on the screen and around it. What asks for them meanwhile is served by one more round. */
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
    const start = Math.max(0, state.seen.first - AROUND)
    get('mailboxes').then((mailboxes) => draw({ mailboxes }), () => {})
    try {
      const answer = await page(start, state.seen.last + AROUND - start)
      if (what !== found()) continue
      const { messages: mails, messages_count: total, total: Total, unread: Unread } = answer
      Object.assign(state, { mails, start, total, everything: { Total, Unread }, isLoaded: true, problem: '' })
      if (find(state.id)) state.at = indexOf(state.id)
    } catch ({ status, message }) {
      // Else the inbox or the mail server is away, which the events tell; what is on the screen stays.
      if (status < 500) Object.assign(state, { mails: [], total: 0, isLoaded: true, problem: message })
    }
    draw()
    // A thousand mails in a second are no thousand rounds.
    if (isStale) await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** Takes over what the address says. */
function follow() {
  const { id = '', q: query = '', mailbox = '' } = route()
  const isOther = query !== state.query || mailbox !== state.mailbox
  if (!id) state.focus = state.id
  if (find(id)) state.at = indexOf(id)
  draw({ id, query, mailbox })
  if (!isOther) return
  document.querySelector('.scroller').scrollTop = 0
  draw({ isLoaded: false, at: -1, seen: { first: 0, last: 20 } })
  load().then(() => say(state.problem || words.found(state.total), true))
}

/** Follows the events, and connects again for as long as the page is open. */
function connect() {
  const socket = new WebSocket(new URL('api/events?envelope=1', location.href.replace(/^http/, 'ws')))
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
export async function attempt(work) {
  try {
    await work()
  } catch (error) {
    say(words.failed(error.message))
  }
}

/** Opens the mail that is `by` rows below the open one. */
export async function step(by) {
  const at = Math.max(0, Math.min(state.at + by, state.total - 1))
  const mail = row(at) ?? (await page(at, 1)).messages[0]
  if (!mail) return
  const scroller = document.querySelector('.scroller')
  scroller.scrollTop = Math.max((at + 1) * ROW - scroller.clientHeight, Math.min(scroller.scrollTop, at * ROW))
  const wasOpen = state.id !== ''
  draw({ at, focus: mail.ID, isStepped: true })
  go({ id: mail.ID }, wasOpen)
}
export const mark = (id, Read) => attempt(() => send('PUT', 'messages', { IDs: [id], Read }))
export const markFound = () =>
  attempt(() => send('PUT', found({}, 'messages'), { Read: true, Search: state.query.trim() }))
/** Deletes the open mail; the one below it is open then, or above it. */
export const remove = (id) =>
  attempt(async () => {
    const next = find(id) && (row(state.at + 1) ?? row(state.at - 1))
    await send('DELETE', 'messages', { IDs: [id] })
    say(words.deleted(1))
    load()
    if (state.id !== id) return
    draw({ focus: next?.ID ?? '', isStepped: true })
    go({ id: next?.ID }, true)
  })
/** Deletes all that is found, after a question. */
export function removeFound() {
  const { total, query, mailbox } = state
  const limits = [query.trim() && words.askSearch(query), mailbox && words.askMailbox(mailbox)].filter(Boolean)
  const work = async () => {
    say(words.working)
    await send('DELETE', found())
    say(words.deleted(total))
    load()
    go({ id: '' }, true)
  }
  draw({ dialog: { question: words.askDelete(total), about: limits.join(' ') || words.askAll, work } })
}
export const copy = (text) =>
  attempt(async () => {
    if (navigator.clipboard) await navigator.clipboard.writeText(text)
    else {
      // Browsers give a clipboard to https and to this machine alone; BIND_ADDRESS may have opened the page to others.
      const field = Object.assign(document.createElement('textarea'), { value: text })
      document.body.append(field)
      field.select()
      document.execCommand('copy')
      field.remove()
    }
    say(words.copied)
  })

/** What keys do; those of a mail need an open one. */
export const KEYS = {
  j: () => step(1),
  k: () => step(state.at < 0 ? 1 : -1),
  u: () => state.id && mark(state.id, find(state.id)?.Read === false),
  Delete: () => state.id && remove(state.id),
  '#': () => state.id && remove(state.id),
  c: () => document.querySelector('.code')?.click(),
  w: () => draw({ isNarrow: !state.isNarrow }),
  '/': () => document.querySelector('input[type=search]').focus(),
  '?': () => draw({ dialog: {} }),
  Escape: () => go(state.id ? { id: '' } : { q: '' }),
  ...Object.fromEntries(VIEWS.map((view, index) => [index + 1, () => document.getElementById(`tab-${view}`)?.click()])),
}
function onKey(event) {
  const { ctrlKey, metaKey, altKey, target, key } = event
  // The browser tells of a dialog that it has closed some moments later: the dialog itself knows.
  if (ctrlKey || metaKey || altKey || document.querySelector('dialog[open]')) return
  if (target.matches('[type=search]')) return key === 'Escape' && target.blur()
  const name = (target.closest('.list') && { ArrowDown: 'j', ArrowUp: 'k' }[key]) || key
  if (!Object.hasOwn(KEYS, name)) return
  event.preventDefault()
  attempt(KEYS[name])
}

/** Begins: `painting` brings the document up to the state. */
export function begin(painting) {
  paint = painting
  const { q: query = '', mailbox = '' } = route()
  draw({ query, mailbox })
  addEventListener('hashchange', follow)
  addEventListener('keydown', onKey)
  follow()
  connect()
}
