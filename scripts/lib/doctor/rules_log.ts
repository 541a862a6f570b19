/**
 * What replies of the server and lines of its log mean. They name the cause of a trouble that the doctor has seen itself: a
 * line whose trouble is over says nothing about today. To add a rule, add a row.
 */

interface Row {
  pattern: RegExp
  meaning: string
  /** Where one line heals it, whatever else. */
  fix?: string
}

// biome-ignore format: one rule a line
const ROWS: Row[] = [
  { pattern: /net_listen_unix\(.*Input\/output error|bind\(.*Input\/output error|private\/[\w-]+: Invalid argument/, meaning: 'Unix sockets cannot be made there: a bind mount of Docker Desktop' },
  { pattern: /Failed to start listeners|Address already in use/, meaning: 'a port or socket was taken already' },
  { pattern: /do not list domain .* in BOTH/, meaning: 'a domain is both in mydestination and a virtual mailbox domain' },
  { pattern: /No space left on device|Insufficient system storage|queue file write error|Disk quota exceeded/i, meaning: 'the disk is full', fix: 'df -h, and make room; npm run reset deletes all mail' },
  { pattern: /Permission denied/, meaning: 'Dovecot or Postfix may not read or write there' },
  { pattern: /[Pp]laintext authentication disallowed|cleartext authentication not allowed/, meaning: 'logins without TLS are refused' },
  { pattern: /Message too large|message size \d+ exceeds|5\.3\.4/, meaning: 'the message is larger than message_size_limit' },
  { pattern: /Quota exceeded|mailbox is full|over quota|5\.2\.2/i, meaning: 'the mailbox is full' },
  { pattern: /mailbox_size_limit is smaller than message_size_limit|file_size_limit/, meaning: 'a mailbox may be no larger than a message' },
  { pattern: /Relay access denied|Client host rejected: Access denied/i, meaning: 'the server trusts this client no more (mynetworks, or restrictions)' },
  { pattern: /cannot find your (reverse )?hostname|Domain not found|Host not found|Helo command rejected/i, meaning: 'a restriction asks the DNS' },
  { pattern: /Must issue a STARTTLS|Encryption required/i, meaning: 'the server insists on TLS' },
  { pattern: /milter|Service unavailable - try again later/i, meaning: 'a milter does not answer' },
  { pattern: /unknown mail transport|mail transport unavailable/i, meaning: 'Postfix has no such transport: it was sent a way out, and there is none' },
  { pattern: /deferred transport/i, meaning: 'defer_transports holds it' },
  { pattern: /mail for .* loops back|too many hops|mail forwarding loop/i, meaning: 'the mail goes in a circle' },
  { pattern: /table lookup problem|Temporary lookup failure|is unavailable\. open|map lookup (failure|error)|unavailable or bad|unsupported dictionary|cannot load/i, meaning: 'Postfix cannot read a table' },
  { pattern: /lmtp.*(Connection refused|No such file|Connection timed out)|connect to .*lmtp/i, meaning: "Dovecot's LMTP does not answer" },
  { pattern: /User (doesn't exist|unknown)|unknown user/i, meaning: 'nobody has that address' },
  { pattern: /no SASL authentication mechanisms|SASL: Connect to .* failed/, meaning: 'Postfix cannot ask Dovecot about passwords' },
  { pattern: /key values mismatch|cannot load (RSA )?certificate|Can't load (SSL certificate|private key)|cannot get RSA private key|error loading .*key/i, meaning: 'key and certificate do not belong together, or cannot be read' },
  { pattern: /bad (command startup|numerical|string|boolean)|unknown smtpd restriction|fatal:|panic:/i, meaning: 'a daemon gave up' },
]

/** What a reply or a line of the log means, with what it says; the text alone where nothing is known about it. */
export function explained(text: string): string {
  const row = ROWS.find(({ pattern }) => pattern.test(text))
  return row ? `${row.meaning}: ${text}` : text
}

/** The last line that says why, among those logged since the last start; undefined where none is known. */
export function causeIn(lines: readonly string[]): string | undefined {
  // What stands further up in the table says it better than "fatal:".
  for (const { pattern, meaning } of ROWS) {
    const line = lines.findLast(
      (text) => pattern.test(text) && /\b(fatal|panic|error|warning|status=(deferred|bounced)|reject)/i.test(text),
    )
    if (line) return `${meaning}: ${line}`
  }
  return undefined
}

/** The fix of what a text says, where one heals it whatever else is so. */
export function fixOf(text: string): string | undefined {
  return ROWS.find(({ pattern }) => pattern.test(text))?.fix
}
