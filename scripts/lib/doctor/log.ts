/**
 * What replies of the server and lines of its log mean. They name the cause of a trouble that the doctor has seen itself: a
 * line whose trouble is over says nothing about today. To add a rule, add a row.
 */

// biome-ignore format: one rule a line
const MEANINGS: [pattern: RegExp, meaning: string][] = [
  [/net_listen_unix\(.*Input\/output error|bind\(.*Input\/output error|private\/[\w-]+: Invalid argument/, 'Unix sockets cannot be made there: a bind mount of Docker Desktop'],
  [/Failed to start listeners|Address already in use/, 'a port or socket was taken already'],
  [/do not list domain .* in BOTH/, 'a domain is both in mydestination and a virtual mailbox domain'],
  [/\breject: (header|body|mime)/, 'header_checks or body_checks refuse it'],
  [/\bdiscard: (header|body|mime)/, 'header_checks or body_checks throw it away'],
  [/\bhold: (header|body|mime)/, 'header_checks or body_checks hold it in the queue'],
  [/No space left on device|Insufficient system storage|queue file write error|Disk quota exceeded/i, 'the disk is full'],
  [/Permission denied/, 'Dovecot or Postfix may not read or write there'],
  [/[Pp]laintext authentication disallowed|cleartext authentication not allowed/, 'logins without TLS are refused'],
  [/Message too large|message size \d+ exceeds|5\.3\.4/, 'the message is larger than message_size_limit'],
  [/Quota exceeded|mailbox is full|over quota|5\.2\.2/i, 'the mailbox is full'],
  [/mailbox_size_limit is smaller than message_size_limit|file_size_limit/, 'a mailbox may be no larger than a message'],
  [/Relay access denied|Client host rejected: Access denied/i, 'the server trusts this client no more (mynetworks, or restrictions)'],
  [/cannot find your (reverse )?hostname|Domain not found|Host not found|Helo command rejected/i, 'a restriction asks the DNS'],
  [/Must issue a STARTTLS|Encryption required/i, 'the server insists on TLS'],
  [/milter|Service unavailable - try again later/i, 'a milter does not answer'],
  [/unknown mail transport|mail transport unavailable/i, 'Postfix has no such transport, as where mail is sent a way out, or cannot reach it'],
  [/deferred transport/i, 'defer_transports holds it'],
  [/mail for .* loops back|too many hops|mail forwarding loop/i, 'the mail goes in a circle'],
  [/table lookup problem|Temporary lookup failure|is unavailable\. open|map lookup (failure|error)|unavailable or bad|unsupported dictionary|cannot load/i, 'Postfix cannot read a table'],
  [/lmtp.*(Connection refused|No such file|Connection timed out)|connect to .*lmtp/i, "Dovecot's LMTP does not answer"],
  [/User (doesn't exist|unknown)|unknown user/i, 'nobody has that address'],
  [/no SASL authentication mechanisms|SASL: Connect to .* failed/, 'Postfix cannot ask Dovecot about passwords'],
  [/key values mismatch|cannot load (RSA )?certificate|Can't load (SSL certificate|private key)|cannot get RSA private key|error loading .*key/i, 'key and certificate do not belong together, or cannot be read'],
  [/Plugin '.*' not found|load required plugin/, 'Dovecot has no such plugin'],
  [/initialize SSL|SSL context initialization/, 'Dovecot cannot set up TLS'],
  [/bad (command startup|numerical|string|boolean)|unknown smtpd restriction|fatal:|panic:/i, 'a daemon gave up'],
]

/** What a reply or a line of the log means, with what it says; the text alone where nothing is known about it. */
export function explained(text: string): string {
  const meaning = MEANINGS.find(([pattern]) => pattern.test(text))?.[1]
  return meaning && !text.startsWith(meaning) ? `${meaning}: ${text}` : text
}

/** The last line that says why, among those logged since the last start; undefined where none is known. */
export function causeIn(lines: readonly string[]): string | undefined {
  // The doctor's own question about an unknown user is refused as it should be.
  const foreign = lines.filter((line) => !/\bto=<nobody-[\da-f]{8}@/.test(line))
  const bad = foreign.filter((line) => /\b(fatal|panic|error|warning|status=(deferred|bounced)|reject)/i.test(line))
  // What stands further up in the table says it better than "fatal:".
  const line = MEANINGS.map(([pattern]) => bad.findLast((text) => pattern.test(text))).find((found) => found)
  return line && explained(line)
}
