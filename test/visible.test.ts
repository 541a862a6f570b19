/** Text from mails and servers on a terminal and in JSON. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { jsonLine, visible, visibleLine } from '../scripts/lib/mail/visible.ts'

test('what is unsafe is visible on a terminal and in JSON', () => {
  const text = 'a\x1b[31m\x07\x9b2J\u202ecod.exe\u2066\u2028\r\n\tb\rc\x7f'
  assert.equal(visible(text), 'a\\x1b[31m\\x07\\x9b2J\\u202ecod.exe\\u2066\\u2028\n\tb\\x0dc\\x7f')
  assert.equal(visibleLine('a\r\n\tb'), 'a\\x0d\\x0a\\x09b')
  // Written out anew here, so that a gap in the module's own list is noticed.
  assert.doesNotMatch(jsonLine({ text }), /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/)
  assert.deepEqual(JSON.parse(jsonLine({ text })), { text })
})
