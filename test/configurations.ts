/** Configurations in memory, and the form of the tables that the accounts write to. */
import { type Configuration, FILES, type FileName } from '../scripts/lib/accounts/configuration.ts'

/** A configuration of these texts; the other files are empty. */
export function configurationOf(texts: Partial<Record<FileName, string>>): Configuration {
  return Object.fromEntries(FILES.map((name) => [name, texts[name] ?? ''])) as Configuration
}

/** The pattern table that catches all mail, with an "if" for each domain of accounts. */
export const PATTERNS = `# Everything outside the virtual mailbox domains is caught.
if !/@development-virtual\\.example\\.com$/
if !/@development-mail-server\\.example\\.com$/
# Mail that has to bounce on demand is not.
if !/\\+fail-(bounce|full)@/
/^/ catchall@development-mail-server.example.com
endif
endif
endif
`
