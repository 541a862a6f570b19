/** One-time codes in a mail. */
import { textOfHtml } from './links.ts'
import type { Mail } from './mail.ts'

/** What has digits and is no code: links, addresses, dates with a month's name, years in Japanese, phone numbers. */
const NO_CODE = [
  /\b[a-z][a-z0-9+.-]{1,30}:\/\/\S+|\bwww\.\S+|(?<![^\s<>@])[^\s<>@]{1,64}@[\w.-]{1,255}/gi,
  /\b(?:\d{1,2}(?:st|nd|rd|th)?[ .]{1,2})?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}[ .,]{1,2}(?:\d{1,2}(?:st|nd|rd|th)?[ ,]{1,2})?\d{4}\b/gi,
  /\d{4}年/g,
  /[+(]\d[\d() .-]{6,20}\d|\b0\d{1,4}[ -]\d{1,4}[ -]\d{3,4}\b/g,
  /[#$€£¥]\s?\d+|(?:©|\(c\))\s?\d{4}/gi,
]
/** Joined to nothing: no letter, digit or underscore beside it, no "12:3456", "1,234", "2026-11-22" or "3.1415". */
const ALONE = /(?<![A-Za-z0-9_])(?<![A-Za-z0-9][-./,+]|\d:)\d{4,8}(?![A-Za-z0-9_])(?![-./,:+][A-Za-z0-9])/g

/** The one-time codes of a mail, best first. */
export function codesOf(mail: Mail): string[] {
  const texts = [mail.readableText, mail.html === null ? '' : textOfHtml(mail.html), mail.subject]
  return [...new Set(texts.flatMap(codesIn))]
}

/** The one-time code, or undefined where the mail has none. */
export function codeOf(mail: Mail): string | undefined {
  return codesOf(mail)[0]
}

function codesIn(text: string): string[] {
  const bare = NO_CODE.reduce((rest, pattern) => rest.replace(pattern, ' | '), text.slice(0, 100_000).normalize('NFKC'))
  return bare.match(ALONE) ?? []
}
