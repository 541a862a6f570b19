import { join } from 'node:path'
import { ROOT } from '../settings.ts'
import { type Check, EXPLAINS, type Finding, failure, verdict } from './check.ts'
import { inConfig } from './facts.ts'
import { deleteLine } from './fixes.ts'
import { program } from './program.ts'

/** Settings of Dovecot that the project's files, or a user's lines in them, have to get right. */
const DOVECOT: [name: string, right: RegExp, why: string, explains?: readonly string[]][] = [
  ['ssl', /^(yes|no)$/, 'logins without TLS are refused', EXPLAINS.answers],
  ['disable_plaintext_auth', /^no$/, 'logins without TLS are refused', EXPLAINS.answers],
  ['auth_allow_cleartext', /^yes$/, 'logins without TLS are refused', EXPLAINS.answers],
  ['auth_mechanisms', /\bplain\b/i, 'nobody can log in with a password as it is', EXPLAINS.answers],
  ['auth_master_user_separator', /^\*$/, 'the scripts log in as the master user by it', EXPLAINS.answers],
  ['submission_host', /^$|^(127\.|localhost|\[?::1)/, 'Dovecot hands mail to another machine'],
  ['lmtp_proxy', /^no$/, 'Dovecot hands mail to another machine'],
  ['mail_max_userip_connections', /^(0|\d{2,})$/, 'a few clients at once are too many'],
  ['protocols', /\blmtp\b/, 'Dovecot takes no mail from Postfix', EXPLAINS.answers],
  ['mail_(location|path|driver)', /^$/, 'mail lies elsewhere than the engine thinks', EXPLAINS.mail],
  ['mail_(uid|gid)', /^(5000|docker|vmail)$/, 'the mail folder belongs to 5000', EXPLAINS.mail],
  ['listen', /^$/, 'Dovecot does not listen where the ports lead', EXPLAINS.answers],
  [
    '(quota_rule|quota_storage_size|quota_max_mail_size|quota_mail_size)',
    /^(?!\D*[0-9]{1,4}[bk]?$)/i,
    'mailboxes are full after a mail or two',
  ],
]

const dovecot: Check = {
  name: 'dovecot',
  title: 'Dovecot reads its settings, and lets every client in',
  async run(facts) {
    const problems: Finding[] = []
    for (const [name, minor] of [
      ['dovecot.cf', '2.3'],
      ['dovecot-2.4.cf', '2.4'],
    ] as const) {
      const file = inConfig(name)
      const text = facts.read(file) ?? ''
      const [open, close] = [/\{\s*$/gm, /^\s*\}/gm].map((brace) => text.match(brace)?.length ?? 0)
      if (open !== close)
        problems.push(
          failure(`${file} opens ${open} braces and closes ${close}`, undefined, { explains: EXPLAINS.start }),
        )
      if (text !== '' && !/^\s*master\s*=\s*yes/m.test(text))
        problems.push(
          failure(`${file} has no passdb with master = yes, and the scripts cannot log in`, undefined, {
            explains: EXPLAINS.answers,
          }),
        )
      for (const [index, line] of text.split('\n').entries()) {
        const [, key = '', value = ''] = /^\s*(\w+)\s*=\s*(.*?)\s*$/.exec(line) ?? []
        const row = key && DOVECOT.find(([wanted, right]) => new RegExp(`^${wanted}$`).test(key) && !right.test(value))
        if (row)
          problems.push({
            level: 'failure',
            evidence: `${file} line ${index + 1}: ${key} = ${value}: ${row[2]}`,
            fix: deleteLine(file, index + 1),
            ...(row[3] ? { explains: row[3] } : {}),
          })
      }
      // The installed Dovecot knows which settings there are; its own version's file alone.
      const { engine } = await facts.choice()
      if (engine?.name !== 'native' || (await facts.refusal()) === undefined) continue
      const version = await program(['dovecot', '--version'])
      if (!version.stdout.startsWith(minor) || text === '') continue
      const tried = await program(['doveconf', '-c', join(ROOT, file), 'protocols'])
      const [, at, said] = /(?:line|:) ?(\d+): (.*)/.exec(tried.stderr) ?? []
      if (tried.exitCode !== 0)
        problems.push(
          failure(
            `${file}${at ? ` line ${at}` : ''}: ${said ?? tried.stderr.trim()}`,
            at && /Unknown setting/.test(tried.stderr) ? deleteLine(file, Number(at)) : undefined,
            { explains: EXPLAINS.start },
          ),
        )
    }
    return verdict(problems, `${DOVECOT.length} rules`)
  },
}

export const dovecotChecks: Check[] = [dovecot]
