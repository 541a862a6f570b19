/** What the page shows and does, without its looks: the state, the API (Mailpit's), the events, and what buttons and keys do. */
import { number, words } from './words.js'

/** The height of a row in pixels, as style.css has it: by it the list knows which rows are on the screen. */
export const ROW = 4.75 * Number.parseFloat(getComputedStyle(document.documentElement).fontSize)
/** How many rows are fetched before and behind those on the screen. */
const AROUND = 50
export const VIEWS = ['html', 'text', 'headers', 'source']
const isPhone = matchMedia('(max-width: 45rem)')

export const state = {
  // What the address says after #, so that going back, reloading and bookmarks work.
  id: '', query: '', mailbox: '',
  // The rows that are here, from the `start`th of the `total` that were found, and those of them that are on the screen.
  mails: [], start: 0, total: 0, seen: { first: 0, last: 20 }, isLoaded: false, problem: '',
  // All mail and the mailboxes, whatever is found.
  everything: { Total: 0, Unread: 0 }, mailboxes: [], isInboxAway: false, isServerAway: false,
  // IDs, and the row from which shift extends the choice.
  chosen: new Set(), choseLast: 0,
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
export const addressOf = (change) => `#${new URLSearchParams(Object.entries({ ...route(), ...change }).filter(([, value]) => value))}`
export const go = (change, isReplacing) => location[isReplacing ? 'replace' : 'assign'](addressOf(change))

/** Throws what the server says where the answer is no 2xx; then the error has a status. */
export async function api(path, options) {
  const response = await fetch(`api/v1/${path}`, options)
  if (response.ok) return response
  const message = await response.json().then((answer) => answer.Error, () => response.statusText)
  throw Object.assign(new Error(message), { status: response.status })
}
const get = async (path, options) => (await api(path, options)).json()
const send = (method, path, body = {}) =>
  api(path, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
/** The path of what is found: all mail, or that of the mailbox and the search. */
function found(more, route = state.query.trim() ? 'search' : 'messages') {
  const { mailbox, query } = state
  const tz = Intl.DateTimeFormat().resolvedOptions().timeZone
  return `${route}?${new URLSearchParams({ ...(query.trim() && { query, tz }), ...(mailbox && { mailbox }), ...more })}`
}
const rows = async (start, limit) => (await get(found({ start, limit, envelope: 1 }))).messages

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
    try {
      const page = found({ start, limit: state.seen.last + AROUND - start, envelope: 1 })
      get('mailboxes').then((mailboxes) => draw({ mailboxes }), () => {})
      const answer = await get(page)
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
  state.chosen.clear()
  document.querySelector('.scroller').scrollTop = 0
  draw({ isLoaded: false, at: -1, seen: { first: 0, last: 20 } })
  load().then(() => say(state.problem || words.found(state.total), true))
}

/** Follows the events, and connects again for as long as the page is open. */
function connect(pause = 250) {
  const socket = new WebSocket(new URL('api/events?envelope=1', location.href.replace(/^http/, 'ws')))
  let next = Math.min(pause * 1.5, 3000)
  socket.onopen = () => {
    next = 250
    draw({ isInboxAway: false })
    load()
  }
  socket.onclose = () => {
    draw({ isInboxAway: true })
    setTimeout(connect, pause, next)
  }
  socket.onmessage = ({ data }) => {
    const { Type, Data } = JSON.parse(data)
    if (Type === 'server') draw({ isServerAway: !Data.up })
    if (Type === 'new') arrive(Data)
    if (Type === 'delete') state.chosen.delete(Data.ID)
    load()
  }
}

/** Shows a new mail at once where it is sure to stand first; the answer that is on its way has it in any case. */
function arrive(mail) {
  const { query, mailbox, start, mails, total } = state
  const isFirst = start === 0 && !query.trim() && (!mailbox || mail.Mailboxes.includes(mailbox)) && !find(mail.ID)
  if (isFirst) Object.assign(state, { mails: [mail, ...mails], total: total + 1 })
  say(words.arrived(senderOf(mail), subjectOf(mail)), true)
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
  const mail = row(at) ?? (await rows(at, 1))[0]
  if (!mail) return
  const scroller = document.querySelector('.scroller')
  scroller.scrollTop = Math.max((at + 1) * ROW - scroller.clientHeight, Math.min(scroller.scrollTop, at * ROW))
  const wasOpen = state.id !== ''
  draw({ at, focus: mail.ID, isStepped: true })
  go({ id: mail.ID }, wasOpen)
}
/** Chooses a row, or all from the one that was chosen last. */
export async function choose(index, isOn, isRange) {
  const [first, last] = isRange ? [index, state.choseLast].sort((a, b) => a - b) : [index, index]
  const isHere = row(first) && row(last)
  const { start, mails: here } = state
  const mails = isHere ? here.slice(first - start, last - start + 1) : await rows(first, last - first + 1)
  for (const { ID } of mails) state.chosen[isOn ? 'add' : 'delete'](ID)
  draw({ choseLast: index })
}
/** What a key is about: the chosen mails, else the open one. */
const meant = () => (state.chosen.size > 0 ? [...state.chosen] : [state.id].filter(Boolean))

// An empty list of IDs would mean all mail.
export const mark = (IDs, Read) => attempt(async () => IDs.length > 0 && (await send('PUT', 'messages', { IDs, Read })))
export const markFound = () => attempt(() => send('PUT', found({}, 'messages'), { Read: true, Search: state.query.trim() }))
async function erase(IDs) {
  const isLeft = ({ ID }) => !IDs.includes(ID)
  const here = state.mails.findIndex(({ ID }) => ID === state.id)
  const below = state.mails.slice(here).find(isLeft) ?? state.mails.slice(0, here).findLast(isLeft)
  const next = here < 0 || isPhone.matches ? undefined : below
  await send('DELETE', 'messages', { IDs })
  for (const id of IDs) state.chosen.delete(id)
  say(words.deleted(IDs.length))
  load()
  if (!IDs.includes(state.id)) return
  draw({ focus: next?.ID ?? '', isStepped: true })
  go({ id: next?.ID }, true)
}
/** One mail goes at once; before several do it is asked. */
export function remove(IDs) {
  if (IDs.length === 1) attempt(() => erase(IDs))
  if (IDs.length > 1) draw({ dialog: { question: words.askDelete(IDs.length), about: words.askChosen, work: () => erase(IDs) } })
}
export function removeFound() {
  const { total, query, mailbox } = state
  const limits = [query.trim() && words.askSearch(query), mailbox && words.askMailbox(mailbox)].filter(Boolean)
  const about = limits.join(' ') || words.askAll
  const work = async () => {
    say(words.working)
    await send('DELETE', found())
    say(words.deleted(total))
    load()
    go({ id: '' }, true)
  }
  draw({ dialog: { question: words.askDelete(total), about, work } })
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

/** What keys do. */
export const KEYS = {
  j: () => step(1),
  k: () => step(state.at < 0 ? 1 : -1),
  x: () => state.at >= 0 && choose(state.at, !state.chosen.has(state.id)),
  u: () => mark(meant(), !meant().every((id) => find(id)?.Read !== false)),
  Delete: () => remove(meant()),
  '#': () => remove(meant()),
  c: () => document.querySelector('.code')?.click(),
  w: () => draw({ isNarrow: !state.isNarrow }),
  '/': () => document.querySelector('input[type=search]').focus(),
  '?': () => draw({ dialog: {} }),
  Escape: () => {
    if (state.chosen.size > 0) state.chosen.clear()
    else if (state.id) go({ id: '' })
    else go({ q: '' })
    draw()
  },
  ...Object.fromEntries(VIEWS.map((view, index) => [index + 1, () => document.getElementById(`tab-${view}`)?.click()])),
}
function onKey(event) {
  const { ctrlKey, metaKey, altKey, target, key } = event
  if (ctrlKey || metaKey || altKey || state.dialog) return
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
