/** What the page says, in English and Japanese; the browser's language decides. And figures and dates as it writes them. */
const language = navigator.language
const isJapanese = language.startsWith('ja')
document.documentElement.lang = isJapanese ? 'ja' : 'en'

export const number = (value) => value.toLocaleString(language)
const mails = (count) => (count === 1 ? '1 mail' : `${number(count)} mails`)

const table = {
  title: ['Inbox', '受信箱'],
  all: ['All mail', 'すべてのメール'],
  mailboxes: ['Mailboxes', 'メールボックス'],
  search: ['Search mail', 'メールを検索'],
  keys: ['Keys and search', 'キー操作と検索'],
  list: ['List of mail', 'メール一覧'],
  found: [mails, (count) => `${number(count)}通`],
  unread: ['unread', '未読'],
  attachment: ['with attachment', '添付ファイルあり'],
  allRead: ['Mark all as read', 'すべて既読にする'],
  asRead: ['Mark as read', '既読にする'],
  asUnread: ['Mark as unread', '未読にする'],
  delete: ['Delete', '削除'],
  deleteFound: [(count) => `Delete all ${mails(count)}`, (count) => `${number(count)}通をすべて削除`],
  askDelete: [(count) => `Delete ${mails(count)} for good?`, (count) => `${number(count)}通のメールを完全に削除しますか？`],
  askAll: ['All mail in all mailboxes.', 'すべてのメールボックスの全メールが削除されます。'],
  askMailbox: [(mailbox) => `All mail in ${mailbox}.`, (mailbox) => `${mailbox}の全メールが削除されます。`],
  askSearch: [(query) => `All mail found with “${query}”.`, (query) => `「${query}」の検索結果がすべて削除されます。`],
  deleted: [(count) => `${mails(count)} deleted`, (count) => `${number(count)}通を削除しました`],
  working: ['One moment…', '処理しています…'],
  back: ['Back to the list', '一覧に戻る'],
  noSubject: ['(no subject)', '（件名なし）'],
  nobody: ['(no sender)', '（差出人なし）'],
  from: ['From', '差出人'],
  to: ['To', '宛先'],
  cc: ['Cc', 'Cc'],
  bcc: ['Bcc', 'Bcc'],
  replyTo: ['Reply-To', '返信先'],
  envelope: ['Envelope', 'エンベロープ'],
  more: [(count) => `${number(count)} more`, (count) => `ほか${number(count)}件`],
  download: ['Download raw mail', '元のメールをダウンロード'],
  finds: ['Code and links', '認証コードとリンク'],
  copy: [(text) => `Copy ${text}`, (text) => `${text}をコピー`],
  copied: ['Copied', 'コピーしました'],
  attachments: ['Attachments', '添付ファイル'],
  views: ['Views', '表示形式'],
  html: ['HTML', 'HTML'],
  text: ['Text', 'テキスト'],
  headers: ['Headers', 'ヘッダー'],
  source: ['Source', 'ソース'],
  narrow: ['Narrow preview', '狭い画面でのプレビュー'],
  frame: [(subject) => `“${subject}” as HTML`, (subject) => `「${subject}」のHTML表示`],
  cut: [(size) => `The beginning of ${size}`, (size) => `全体（${size}）の先頭部分`],
  gone: ['This mail is not here any more.', 'このメールはもうありません。'],
  none: ['No mail yet', 'メールはまだありません'],
  noneHint: ['Mail to any address arrives here. Try it:', 'どの宛先に送ったメールもここに届きます。送信してみましょう。'],
  noneFound: ['Nothing found', '見つかりませんでした'],
  open: ['Choose a mail to read it here.', 'メールを選ぶと、ここに表示されます。'],
  arrived: [(from, subject) => `New mail from ${from}: ${subject}`, (from, subject) => `${from}から新着メール：${subject}`],
  away: ['The inbox does not answer.', '受信箱のサーバーから応答がありません。'],
  serverAway: ['The mail server does not answer. Type: npm start', 'メールサーバーから応答がありません。npm startで起動できます。'],
  failed: [(why) => `That did not work: ${why}`, (why) => `処理できませんでした：${why}`],
}
/** The keys, and the words of the search. */
const HELP = [
  [
    ['j  k', 'next, previous mail', '次・前のメール'],
    ['Enter', 'open', '開く'],
    ['u', 'read, unread', '既読・未読の切り替え'],
    ['Del  #', 'delete', '削除'],
    ['c', 'copy the code', '認証コードをコピー'],
    ['1  2  3  4', 'HTML, text, headers, source', 'HTML・テキスト・ヘッダー・ソース'],
    ['w', 'narrow, wide', '表示幅の切り替え'],
    ['/', 'search', '検索'],
    ['Esc', 'back', '戻る'],
  ],
  [
    ['to:ann@shop.example', 'a whole address', 'アドレス全体'],
    ['from:shop', 'a part; also cc: bcc: subject:', '一部。cc: bcc: subject:も可'],
    ['"two words"', 'as it stands', '語句をそのまま'],
    ['-word', 'without it', '含まないもの'],
    ['is:unread', 'or is:read', 'is:readも可'],
    ['has:attachment', 'or has:inline', 'has:inlineも可'],
    ['after:2026-11-01', 'or before:', 'before:も可'],
    ['larger:1M', 'or smaller:', 'smaller:も可'],
  ],
]
const side = isJapanese ? 1 : 0
export const words = Object.fromEntries(Object.entries(table).map(([name, sides]) => [name, sides[side]]))
export const help = HELP.map((lines) => lines.map(([key, ...sides]) => [key, sides[side]]))

export function size(bytes) {
  const [value, unit] = bytes < 1000 ? [bytes, 'B'] : bytes < 999_500 ? [bytes / 1e3, 'kB'] : [bytes / 1e6, 'MB']
  return `${value.toLocaleString(language, { maximumFractionDigits: unit === 'MB' ? 1 : 0 })} ${unit}`
}

export const fullTime = (text) => new Date(text).toLocaleString(language, { dateStyle: 'medium', timeStyle: 'medium' })
/** The time today, the date before. */
export function shortTime(text) {
  const time = new Date(text)
  const isToday = time.toDateString() === new Date().toDateString()
  return isToday ? time.toLocaleTimeString(language, { timeStyle: 'short' }) : time.toLocaleDateString(language)
}
