/** The environment variables of docker-mailserver, by release. */

/** Known to 10.5.0 and to 15.1.0. */
const BOTH = `
  AMAVIS_LOGLEVEL DEFAULT_RELAY_HOST DOVECOT_AUTH_BIND DOVECOT_BASE DOVECOT_DEFAULT_PASS_SCHEME DOVECOT_DN
  DOVECOT_DNPASS DOVECOT_INET_PROTOCOLS DOVECOT_LDAP_VERSION DOVECOT_MAILBOX_FORMAT DOVECOT_PASS_ATTRS
  DOVECOT_PASS_FILTER DOVECOT_TLS DOVECOT_URIS DOVECOT_USER_ATTRS DOVECOT_USER_FILTER ENABLE_AMAVIS ENABLE_CLAMAV
  ENABLE_DNSBL ENABLE_FAIL2BAN ENABLE_FETCHMAIL ENABLE_MANAGESIEVE ENABLE_POP3 ENABLE_POSTGREY ENABLE_QUOTAS
  ENABLE_SASLAUTHD ENABLE_SPAMASSASSIN ENABLE_SPAMASSASSIN_KAM ENABLE_SRS ENABLE_UPDATE_CHECK FAIL2BAN_BLOCKTYPE
  FETCHMAIL_PARALLEL FETCHMAIL_POLL LDAP_BIND_DN LDAP_BIND_PW LDAP_QUERY_FILTER_ALIAS LDAP_QUERY_FILTER_DOMAIN
  LDAP_QUERY_FILTER_GROUP LDAP_QUERY_FILTER_SENDERS LDAP_QUERY_FILTER_USER LDAP_SEARCH_BASE LDAP_SERVER_HOST
  LDAP_START_TLS LOGROTATE_INTERVAL LOGWATCH_INTERVAL LOGWATCH_RECIPIENT LOGWATCH_SENDER MOVE_SPAM_TO_JUNK
  NETWORK_INTERFACE OVERRIDE_HOSTNAME PERMIT_DOCKER PFLOGSUMM_RECIPIENT PFLOGSUMM_SENDER PFLOGSUMM_TRIGGER
  POSTFIX_DAGENT POSTFIX_INET_PROTOCOLS POSTFIX_MAILBOX_SIZE_LIMIT POSTFIX_MESSAGE_SIZE_LIMIT
  POSTGREY_AUTO_WHITELIST_CLIENTS POSTGREY_DELAY POSTGREY_MAX_AGE POSTGREY_TEXT POSTMASTER_ADDRESS POSTSCREEN_ACTION
  RELAY_HOST RELAY_PASSWORD RELAY_PORT RELAY_USER REPORT_RECIPIENT REPORT_SENDER SASLAUTHD_LDAP_AUTH_METHOD
  SASLAUTHD_LDAP_BIND_DN SASLAUTHD_LDAP_FILTER SASLAUTHD_LDAP_MECH SASLAUTHD_LDAP_PASSWORD
  SASLAUTHD_LDAP_PASSWORD_ATTR SASLAUTHD_LDAP_SEARCH_BASE SASLAUTHD_LDAP_SERVER SASLAUTHD_LDAP_START_TLS
  SASLAUTHD_LDAP_TLS_CACERT_DIR SASLAUTHD_LDAP_TLS_CACERT_FILE SASLAUTHD_LDAP_TLS_CHECK_PEER SASLAUTHD_MECHANISMS
  SASLAUTHD_MECH_OPTIONS SA_KILL SA_SHORTCIRCUIT_BAYES_HAM SA_SHORTCIRCUIT_BAYES_SPAM SA_TAG SA_TAG2 SMTP_ONLY
  SPAMASSASSIN_SPAM_TO_INBOX SPOOF_PROTECTION SRS_DOMAINNAME SRS_EXCLUDE_DOMAINS SRS_SECRET SRS_SENDER_CLASSES
  SSL_ALT_CERT_PATH SSL_ALT_KEY_PATH SSL_CERT_PATH SSL_KEY_PATH SSL_TYPE SUPERVISOR_LOGLEVEL TLS_LEVEL
  UPDATE_CHECK_INTERVAL VIRUSMAILS_DELETE_DELAY`
/** Known to 10.5.0 alone. */
const OLD = `
  DMS_DEBUG ENABLE_LDAP ENABLE_POSTFIX_VIRTUAL_TRANSPORT ONE_DIR POSTFIX REPORT_INTERVAL SASL_PASSWD SA_SPAM_SUBJECT`
/** Known to 15.1.0 alone. */
const NEW = `
  ACCOUNT_PROVISIONER CLAMAV_MESSAGE_SIZE_LIMIT DMS_CONFIG_POLL DMS_DOMAINNAME DMS_FQDN DMS_HOSTNAME DMS_VMAIL_GID
  DMS_VMAIL_UID ENABLE_GETMAIL ENABLE_IMAP ENABLE_MTA_STS ENABLE_OAUTH2 ENABLE_OPENDKIM ENABLE_OPENDMARC
  ENABLE_POLICYD_SPF ENABLE_RSPAMD ENABLE_RSPAMD_REDIS GETMAIL_POLL LOGROTATE_COUNT LOG_LEVEL MARK_SPAM_AS_READ
  OAUTH2_INTROSPECTION_URL POSTFIX_REJECT_UNKNOWN_CLIENT_HOSTNAME RSPAMD_CHECK_AUTHENTICATED RSPAMD_GREYLISTING
  RSPAMD_HFILTER RSPAMD_HFILTER_HOSTNAME_UNKNOWN_SCORE RSPAMD_LEARN RSPAMD_NEURAL SPAM_SUBJECT TZ`

const words = (text: string) => text.trim().split(/\s+/)
const RELEASES: Record<string, ReadonlySet<string>> = {
  '10.5.0': new Set([...words(BOTH), ...words(OLD)]),
  '15.1.0': new Set([...words(BOTH), ...words(NEW)]),
}

/** The releases that know a variable. */
export function releasesOf(name: string): string[] {
  return Object.keys(RELEASES).filter((release) => RELEASES[release]?.has(name))
}

/** The listed release whose variables a release has: the same or the one before; undefined in between and unknown. */
export function nearestRelease(release: string): string | undefined {
  const major = Number.parseInt(release, 10)
  return major <= 10 ? '10.5.0' : major >= 15 ? '15.1.0' : undefined
}

/** The known name that takes the fewest letters to get to; undefined where none is near. */
export function nearestName(name: string): string | undefined {
  const wanted = name.toUpperCase()
  let best: { name: string; distance: number } | undefined
  for (const known of new Set(Object.values(RELEASES).flatMap((names) => [...names]))) {
    const distance = editDistance(wanted, known)
    if (!best || distance < best.distance) best = { name: known, distance }
  }
  return best && best.distance <= Math.max(2, wanted.length / 3) ? best.name : undefined
}

/** Letters to insert, delete, replace or swap with their neighbour to get from one word to the other. */
function editDistance(a: string, b: string): number {
  let [before, row] = [[] as number[], Array.from({ length: b.length + 1 }, (_, index) => index)]
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const replace = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next[j] = Math.min(replace, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1)
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      if (isSwap) next[j] = Math.min(next[j] ?? 0, (before[j - 2] ?? 0) + 1)
    }
    before = row
    row = next
  }
  return row[b.length] ?? 0
}
