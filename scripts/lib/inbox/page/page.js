/**
 * The inbox as a page: all mail as one live list, and one mail in every view. Nothing of a mail becomes HTML of this page:
 * it is set as text, and its HTML is shown in a frame that has neither scripts nor an origin.
 */
import { addressOf, api, begin, copy, draw, find, go, KEYS, mark, markFound, more } from './inbox.js'
import { remove, removeFound, say, senderOf, state, subjectOf, VIEWS } from './inbox.js'
import { html, render, useEffect, useRef, useState } from './vendor/htm-preact.js'
import { fullTime, help, number, shortTime, size, words } from './words.js'

/** Characters of a text that are shown: no browser lays out 10 MB in a moment. */
const SHOWN = 500_000

const isCurrent = (value) => (value ? 'true' : undefined)
const Icon = ({ name }) => html`<svg aria-hidden="true"><use href=${`#${name}`} /></svg>`
const Button = ({ icon, label, ...rest }) =>
  html`<button type="button" class="icon" title=${label} aria-label=${label} ...${rest}><${Icon} name=${icon} /></button>`
/** The first of many things, and how many more there are. */
const firstOf = (items) => (items.length > 50 ? [...items.slice(0, 50), words.more(items.length - 50)] : items)

function Page() {
  const { id, isInboxAway, isServerAway, said } = state
  const table = (lines) => html`<dl>${lines.map(([key, text]) => html`<dt><kbd>${key}</kbd></dt><dd>${text}</dd>`)}</dl>`
  return html`<header class="top">
      <h1><a href="#">${words.title}</a></h1>
      <${Search} />
      <${Button} icon="help" label=${words.keys} onClick=${KEYS['?']} />
    </header>
    ${(isInboxAway || isServerAway) && html`<p class="away" role="alert">${isInboxAway ? words.away : words.serverAway}</p>`}
    <main class=${id ? 'reading' : ''}><${Mailboxes} /><${List} /><${Message} id=${id} /></main>
    <p class=${`said ${said.isQuiet ? 'unseen' : ''}`} role="status">${said.text}</p>
    <div id="keys" popover="auto" role="dialog" aria-label=${words.keys}>${help.map(table)}</div>`
}

function Search() {
  const field = useRef()
  const timer = useRef()
  useEffect(() => {
    if (document.activeElement !== field.current) field.current.value = state.query
  }, [state.query])
  const onInput = () => {
    clearTimeout(timer.current)
    timer.current = setTimeout(() => go({ q: field.current.value }, true), 200)
  }
  return html`<div role="search"><label class="search"><${Icon} name="search" />
    <input type="search" ref=${field} onInput=${onInput} aria-label=${words.search} placeholder=${words.search} autocomplete="off" />
  </label></div>`
}

function Mailboxes() {
  const link = ({ Name, Total, Unread }) => {
    const [local, domain] = Name.split('@')
    return html`<li key=${Name}>
      <a href=${addressOf({ mailbox: Name, id: '' })} title=${words.found(Total)} aria-current=${isCurrent(Name === state.mailbox)}>
        <span>${local || words.all}${domain && html`<small>@${domain}</small>`}</span>
        ${Unread > 0 && html`<b aria-label=${`${number(Unread)} ${words.unread}`}>${number(Unread)}</b>`}
      </a>
    </li>`
  }
  return html`<nav aria-label=${words.mailboxes}><ul>${[{ Name: '', ...state.everything }, ...state.mailboxes].map(link)}</ul></nav>`
}

function List() {
  const { mails, total, isLoaded } = state
  const onScroll = ({ target: { scrollTop, clientHeight, scrollHeight } }) =>
    scrollTop + 3 * clientHeight > scrollHeight && more()
  return html`<section class="list" aria-label=${words.list} aria-busy=${!isLoaded}>
    <div class="tools"><span>${isLoaded && words.found(total)}</span>
      <${Button} icon="read" label=${words.allRead} disabled=${total === 0} onClick=${markFound} />
      <${Button} icon="trash" label=${words.deleteFound(total)} disabled=${total === 0} onClick=${removeFound} />
    </div>
    <div class="scroller" onScroll=${onScroll}>
      ${isLoaded && total === 0 && html`<${Nothing} />`}
      <ul role="list">${mails.map((mail) => html`<${Row} key=${mail.ID} mail=${mail} />`)}</ul>
    </div>
  </section>`
}
function Nothing() {
  const { problem, query, mailbox } = state
  if (problem) return html`<div class="nothing"><p>${words.failed(problem)}</p></div>`
  if (query || mailbox) return html`<div class="nothing"><h2>${words.noneFound}</h2></div>`
  return html`<div class="nothing"><h2>${words.none}</h2><p>${words.noneHint}</p><code>npm run send-email</code></div>`
}
function Row({ mail }) {
  const { ID, Read, Created, Attachments, EnvelopeTo } = mail
  const isOpen = ID === state.id
  return html`<li class=${`row ${Read ? '' : 'unread'} ${isOpen ? 'open' : ''}`}>
    <a id=${`row-${ID}`} href=${addressOf({ id: ID })} aria-current=${isCurrent(isOpen)}>
      <span class="from" dir="auto">${!Read && html`<i role="img" aria-label=${words.unread}></i>`}${senderOf(mail)}</span>
      <time datetime=${Created} title=${fullTime(Created)}>${shortTime(Created)}</time>
      <span class="subject" dir="auto">${subjectOf(mail)}</span>
      ${Attachments > 0 && html`<span class="mark" role="img" aria-label=${words.attachment}><${Icon} name="clip" /></span>`}
      <span class="recipient">${EnvelopeTo.slice(0, 20).join(', ')}</span>
    </a>
  </li>`
}

function Message({ id }) {
  const [mail, setMail] = useState()
  useEffect(() => {
    if (!id) return setMail()
    const stop = new AbortController()
    // "latest" is an ID too.
    const show = (found) => (found.ID === id ? setMail(found) : go({ id: found.ID }, true))
    const fail = ({ status, message }) =>
      stop.signal.aborted || setMail({ ID: id, problem: status === 404 ? words.gone : words.failed(message) })
    api(`message/${encodeURIComponent(id)}`, { signal: stop.signal }).then((response) => response.json()).then(show, fail)
    return () => stop.abort()
    // What could not be read, as the server was away, is asked for again when the list changes.
  }, [id, mail?.problem && state.mails])
  const hint = !id && state.total > 0 && html`<p class="nothing">${words.open}</p>`
  if (!id || !mail) return html`<article aria-busy=${id !== ''}>${hint}</article>`
  const isRead = find(id)?.Read !== false
  const view = state.view === 'html' && !mail.HTML ? 'text' : state.view
  const back = html`<${Button} icon="back" class="icon back" label=${words.back} onClick=${() => go({ id: '' })} />`
  if (mail.problem) return html`<article><div class="tools">${back}</div><p class="nothing">${mail.problem}</p></article>`
  return html`<article aria-busy=${mail.ID !== id} aria-labelledby="subject">
    <div class="tools">
      ${back}<span><time datetime=${mail.Date}>${fullTime(mail.Date)}</time></span>
      <${Button} icon=${isRead ? 'unread' : 'read'} label=${isRead ? words.asUnread : words.asRead} onClick=${() => mark(id, !isRead)} />
      <a class="icon" title=${words.download} aria-label=${words.download} href=${`api/v1/message/${mail.ID}/raw?dl=1`} download>
        <${Icon} name="download" /></a>
      <${Button} icon="trash" label=${words.delete} onClick=${() => remove(id)} />
    </div>
    <div class="head" key=${mail.ID}>
      <h2 id="subject" dir="auto">${subjectOf(mail)}</h2>
      <${People} ...${mail} /><${Finds} ...${mail} /><${Files} ...${mail} />
    </div>
    <${Tabs} views=${VIEWS.filter((name) => name !== 'html' || mail.HTML)} view=${view} />
    <${View} mail=${mail} view=${view} key=${`${mail.ID} ${view}`} />
  </article>`
}
/** Who the mail names, and the envelope: who SMTP was told. */
function People({ From, To, Cc, Bcc, ReplyTo, ReturnPath, EnvelopeTo }) {
  const full = ({ Name, Address }) => (Name ? `${Name} <${Address}>` : Address || words.nobody)
  const lines = Object.entries({ from: [From].filter(Boolean), to: To, cc: Cc, bcc: Bcc, replyTo: ReplyTo })
  const line = ([name, people]) =>
    people.length > 0 && html`<dt>${words[name]}</dt><dd>${firstOf(people.map(full)).join(', ')}</dd>`
  return html`<dl>
    ${lines.map(line)}
    <dt>${words.envelope}</dt>
    <dd>${ReturnPath || '<>'} → ${firstOf(EnvelopeTo).join(', ')}</dd>
  </dl>`
}
/** What tests and people look for in a mail: its codes to copy, its links to open and to copy. */
function Finds({ Code, Links }) {
  const links = (Links ?? []).filter((link) => /^https?:/i.test(link))
  if (!Code && links.length === 0) return null
  const link = (url) => html`<span class="link">
    <a href=${url} title=${url} target="_blank" rel="noopener noreferrer">
      <${Icon} name="link" /><span>${url.replace(/^https?:\/\//i, '')}</span></a>
    <${Button} icon="copy" label=${words.copy(url)} onClick=${() => copy(url)} />
  </span>`
  return html`<div class="finds" role="group" aria-label=${words.finds}>
    ${Code && html`<button type="button" class="code" title=${words.copy(Code)} aria-label=${words.copy(Code)} onClick=${() => copy(Code)}>
      ${Code}<${Icon} name="copy" /></button>`}
    ${firstOf(links.map(link))}
  </div>`
}
function Files({ ID, Attachments = [], Inline = [] }) {
  const files = [...Attachments, ...Inline]
  const path = (part) => `api/v1/message/${ID}/part/${part}`
  const file = ({ PartID, FileName, ContentType, Size }) => html`<a href=${path(PartID)} title=${ContentType} download>
    <${Icon} name="clip" /><span dir="auto">${FileName || ContentType}</span><small>${size(Size)}</small></a>`
  if (files.length === 0) return null
  return html`<div class="files" role="group" aria-label=${words.attachments}>${firstOf(files.map(file))}</div>`
}

function Tabs({ views, view }) {
  const tab = (name) => html`<button type="button" role="tab" id=${`tab-${name}`} aria-controls="view" aria-selected=${name === view}
    onClick=${() => draw({ view: name })}>${words[name]}</button>`
  return html`<div class="tabs">
    <div role="tablist" aria-label=${words.views}>${views.map(tab)}</div>
    <${Button} icon="narrow" label=${words.narrow} aria-pressed=${state.isNarrow} onClick=${KEYS.w} />
  </div>`
}
function View({ mail, view }) {
  const [text, setText] = useState(view === 'text' ? mail.Text : '')
  useEffect(() => {
    const path = { source: 'raw', headers: 'headers' }[view]
    const read = () => api(`message/${mail.ID}/${path}`).then((response) => response.text())
    if (path) read().then(setText, (error) => say(words.failed(error.message)))
  }, [])
  const field = ([name, values]) => values.map((value) => html`<dt>${name}</dt><dd>${value.slice(0, SHOWN)}</dd>`)
  const look = `view ${view} ${state.isNarrow ? 'narrow' : ''}`
  return html`<div class=${look} id="view" role="tabpanel" aria-labelledby=${`tab-${view}`} tabindex="0">
    ${view === 'html' && html`<iframe title=${words.frame(subjectOf(mail))} src=${`view/${mail.ID}.html?embed=1`}
      referrerpolicy="no-referrer" sandbox="allow-popups allow-popups-to-escape-sandbox"></iframe>`}
    ${view === 'headers' && html`<dl>${Object.entries(JSON.parse(text || '{}')).flatMap(field)}</dl>`}
    ${(view === 'text' || view === 'source') && html`<pre dir="auto">${text.slice(0, SHOWN)}</pre>
      ${text.length > SHOWN && html`<p class="cut">${words.cut(size(mail.Size))}</p>`}`}
  </div>`
}

begin(() => render(html`<${Page} />`, document.getElementById('page')))
