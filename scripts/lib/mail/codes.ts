/**
 * One-time codes in a mail. What is beside "code", コード, PIN and the like comes first; dates, prices, order numbers,
 * telephone numbers and what else has digits are none, and a mail that has nothing else has no code.
 */
import { textOfHtml } from './links.ts'
import type { Mail } from './mail.ts'

/** The one-time code as it is typed: a hyphen stays, a space that only groups does not. Undefined where the mail has none. */
export function codeOf(mail: Mail): string | undefined {
  // The subject may say what the number in the text is.
  const texts = [mail.readableText, mail.html === null ? '' : textOfHtml(mail.html)]
  const found = texts.flatMap((text) => codesIn(`${mail.subject}\n${text}`))
  return found.sort((one, other) => other.score - one.score)[0]?.code
}

/** A code stands at the beginning; a mail of 20 MB is not searched to its end. */
const LONGEST = 100_000

/** What a code is called. */
const NAME = String.raw`(?<![a-z])(?:(?:[a-zäöüß]{1,30}-?)?codes?|code?|c[óo]digo|codice|(?:[a-zäöü]{1,20}-?)?pin|otp|(?:sms|push|photo|chip|[mi])?-?tan|token|(?:one-?\s?time|temporary)\s(?:password|passcode)|einmal-?(?:passwort|kennwort)|(?:verification|confirmation|security|access|authentication|authorization)\s(?:number|key)|(?:bestätigungs|sicherheits|prüf|verifizierungs)(?:nummer|zahl|ziffern)|(?:aktivierungs|bestätigungs|freischalt|sicherheits|zugangs)schlüssel)(?![a-z])|コード|(?:認証|確認|暗証|検証|照合|承認|ログイン|セキュリティ)(?:番号|キー|用の?番号|用?の?数字)|(?:ワンタイム|仮|一時)パスワード|验证码|驗證碼|인증\s?(?:번호|코드)`
/** What is called like a code and is none. */
const OTHER_NAME =
  /(?:zip|postal|post|promo(?:tion(?:al)?)?|discount|coupon|voucher|gift|qr|bar|error|status|exit|dress|source|country|area|tracking|booking|product|item|order|reference|referral|sort|swift|bank|routing|tax|colou?r|morse|rabatt|gutschein|fehler|aktions|länder|vorwahl|artikel|bestell|buchungs)[-\s]?codes?|(?:レ|バー|QR|エラー|クーポン|商品|割引|紹介|国|ソース|銘柄|証券|店舗|銀行|支店|文字|キャンペーン)[-\s]?コード/gi
/** What a number is called that is no code. */
const NUMBERS =
  'orders?|transaction|invoice|ticket|case|ref(?:erence|\\.)?|customer|client|account|member(?:ship)?|booking|reservation|tracking|shipment|parcel|package|delivery|policy|contract|serial|model|flight|room|floor|suite|street|phone|tel|fax|mobile|card|iban|vat|version|build|part|item|sku|id|amount|total|balance|zip|po box|ending(?:\\sin)?|' +
  '\\w{0,20}(?:bestell|rechnung|kunden|auftrag|sendung|vorgang|konto|artikel|telefon|mitglied|vertrag|buchung|paket|postleitzahl|plz|hrb|ust)\\w{0,20}|' +
  '(?:ご?注文|受注|伝票|追跡|問い?合わ?せ|お客様|会員|顧客|請求書?|電話|予約|口座|管理|郵便|商品|製品|契約|受付|整理|領収書?)(?:番号|ID|No\\.?)?|送り状|型番|品番|合計|金額|下4桁|末尾'
/** What has digits and is no code. */
const NO_CODE = [
  // Links and addresses.
  /\b[a-z][a-z0-9+.-]{1,30}:\/\/\S+|\bwww\.\S+|(?<![^\s<>@])[^\s<>@]{1,64}@[\w.-]{1,255}/gi,
  // Dates, years, times.
  /\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b|\b\d{1,2}[/.]\s?\d{1,2}[/.]\s?\d{2,4}\b|\b\d{1,2}-\d{1,2}-(?:19|20)\d\d\b/g,
  /\b(?:\d{1,2}(?:st|nd|rd|th)?[ .]{1,2})?(?:jan|feb|mar|mär|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-zä]{0,6}[ .,]{1,2}(?:\d{1,2}(?:st|nd|rd|th)?[ ,]{1,2})?\d{4}\b/gi,
  /\d{1,4}年|\d{1,2}月|\d{1,2}日|\d{1,2}時|\b(?:19|20)\d\d\s?[-–]\s?(?:19|20)\d\d\b|(?:©|\(c\)|copyright)\s{0,3}\d{4}/gi,
  /\b\d{1,2}:\d{2}(?::\d{2})?\b/g,
  // Telephone numbers and Japanese post codes.
  /[+(]\d[\d() ./-]{6,20}\d|\b0\d{1,4}[- ]\d{1,4}[- ]\d{3,4}\b|\b\d{3}[-. ]\d{3}[-. ]\d{4}\b|\b0\d{2,4}[ /]\d{5,8}\b/g,
  /(?:\b(?:tel|phone|fax|telefon|mobil)|電話)\w{0,10}[^\d\n]{0,10}\d[\d() ./-]{5,20}/gi,
  /〒\s?\d{3}-?\d{4}|\b[A-Z]{2} \d{5}(?:-\d{4})?\b|\bD-\d{5}\b/g,
  // Prices, numbers with a point or a unit, and the last digits of a card.
  /[#!$€£¥]\s?\d[\d.,]*|\d[\d.,]*\s?(?:€|EUR|USD|GBP|JPY|CHF|円|ドル|dollars?|euros?|%|\$)/gi,
  /\b\d{1,3}(?:[.,]\d{3})+\b|\b\d+(?:[.,]\d+)+\b/g,
  /\b\d+\s?(?:min(?:ute)?[ns]?|h(?:ou)?rs?|sec(?:ond)?s?|days?|Minuten|Stunden|Sekunden|Tagen?|分|秒|時間|[kKMG]B|px|km|kg|pcs|points?|Punkte|点|件|名|人|people)(?![a-z])/g,
  /(?<![*x•])[*x•]{2,}[ -]?\d{4}\b|\bv\d+\b/gi,
]
/** As in "the code to confirm your account: 482913". */
const CODE_FOR = String.raw`:(?<=(?:${NAME}) (?:to|for|zu[mr]?|für)(?!\p{L})[^.!?:\n]{0,60}:)`
const LABELLED = new RegExp(
  String.raw`(?:(?<![a-zäöüß])(?:${NUMBERS})(?![a-zäöüß])(?!${CODE_FOR})|\b(?:no|nr)\.)(?:(?!${NAME})[^\d\n.!?。|]){0,25}?[:#]? ?(?:[A-Z]{1,5}-?)?\d[\w-]*`,
  'giu',
)

/** Digits, or capital letters with digits, in one piece or in groups; letters alone where nothing but a name is beside them. */
const CANDIDATE =
  /(?<![\w@])(?<!\w[-.,/])(?<!\d:)(?:\d(?: \d){3,7}|\d{2,4}(?: \d{2,4}){1,3}|[A-Za-z0-9]{1,8}(?:-[A-Za-z0-9]{2,8}){1,4}|[A-Za-z0-9]{4,10})(?![\w@/]|[-.,:][A-Za-z0-9])/g

function codesIn(text: string): { code: string; score: number }[] {
  const bare = [OTHER_NAME, ...NO_CODE, LABELLED].reduce(
    (rest, pattern) => rest.replace(pattern, (match) => '|'.repeat(match.length)),
    text
      .slice(0, LONGEST)
      .replace(/[，：；]/g, '$& ')
      .normalize('NFKC')
      .replace(/[‐‑–−]/g, '-')
      .replace(/[ \t\u00a0]+/g, ' '),
  )
  const lines = bare
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
  return lines.flatMap((line, index) =>
    [...line.matchAll(CANDIDATE)].flatMap(({ 0: candidate, index: at }) => {
      const shape = shapeOf(candidate)
      const score = shape === 'none' ? 0 : scoreOf(lines, index, at, at + candidate.length, shape)
      return score > 0 ? [{ code: candidate.replaceAll(' ', ''), score }] : []
    }),
  )
}

/** `likely` is a code wherever it is named; `unlikely` (a year, a word, lower case) only directly beside its name. */
function shapeOf(candidate: string): 'likely' | 'unlikely' | 'none' {
  const length = candidate.replace(/[ -]/g, '').length
  const [letters, digits] = [/[A-Za-z]/.test(candidate), /\d/.test(candidate)]
  if (length < 4 || length > 16) return 'none'
  if (!digits) return /^[A-Z-]+$/.test(candidate) && !NAMES.test(candidate) ? 'unlikely' : 'none'
  if (letters) return /[a-z]/.test(candidate) ? 'unlikely' : 'likely'
  const isDate = /^(?:19|20)\d\d(?:(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))?$/.test(candidate)
  return isDate || length > 8 ? 'unlikely' : 'likely'
}

const NAMES = new RegExp(NAME, 'iu')
/** A name of a code, and what stands between it and the code. */
const BEFORE = new RegExp(`(?:${NAME})((?:(?!${NAME}).)*)$`, 'iu')
const AFTER = new RegExp(`^(.*?)(?:${NAME})`, 'iu')
/** Between a name and its code: "code is", "Code: ", コードは「, "code to sign in to Shop is". */
const JOINED =
  /^[^.!?。]*(?:[:=>]|(?<![a-z])(?:is|are|ist|lautet|est|es|è)|は|が|是|为|為|->|→)[\s"'“”„»«「『【([*_]*$|^[\s"'“”„»«「『【([*_-]*$/i
/** Between a code and its name: "is your", "as", "ist Ihr", が. */
const JOINING = /^[\s"'”“»«」』】)\]*_]*(?:is|as|ist|als|est|es|が|は|を|-|:)(?![a-z])[^.!?。|]*$/i
/** What asks for a code without calling it one. */
const ASKED =
  /(?:enter|type in|use|following number|digits|ziffern|geben sie|gib|(?:verwenden?|nutzen?)(?: sie)?|数字)[\s:]*$/i
/** What follows such a code: the end of the sentence or what it is for; a noun would be what is counted. */
const ASKED_END =
  /^[\s"'”“»«」』】)\]*_]*(?:[.,;:!。、|]|$|(?:to|as|for|on|in|at|when|within|um|zum?|zur|als|ein)(?!\p{L}))/iu
/** What asks for a code behind it. */
const ASKED_AFTER = /^[\s"'”“」』】)\]*_]*を(?:ご?入力|ご?使用|お?使い|打ち込)/
/** Words of a mail in which a code may stand alone on its line without being called one. */
const OCCASION =
  /sign(?:ing)?[- ]?(?:in|up)|log[- ]?in|verif|confirm|authenticat|an(?:zu)?meld|bestätig|ein(?:zu)?loggen|ログイン|認証|本人確認|サインイン|確認/i

function scoreOf(lines: string[], index: number, begin: number, end: number, shape: 'likely' | 'unlikely'): number {
  const line = lines[index] as string
  const between = BEFORE.exec(line.slice(Math.max(0, begin - 100), begin))?.[1]
  if (between !== undefined && JOINED.test(between)) return 200 - between.length
  const following = AFTER.exec(line.slice(end, end + 80))?.[1]
  if (following !== undefined && JOINING.test(following)) return 180 - following.length
  const isAlone = !/[\p{L}\p{N}]/u.test(line.slice(0, begin) + line.slice(end))
  const near = [-1, -2, 1, -3].findIndex((distance) => NAMES.test(lines[index + distance] ?? ''))
  if (isAlone && near >= 0) return (shape === 'likely' ? 150 : 90) - near * 10
  if (shape === 'unlikely' || !lines.some((other) => OCCASION.test(other))) return 0
  if (between !== undefined && !/[.!?。]\s/.test(between)) return 100 - between.length
  if (following !== undefined && !/[.!?。]/.test(following)) return 80 - following.length
  const isAsked = ASKED.test(line.slice(Math.max(0, begin - 40), begin)) && ASKED_END.test(line.slice(end))
  return isAlone || isAsked || ASKED_AFTER.test(line.slice(end)) ? 20 : 0
}
