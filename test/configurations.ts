/** Configurations in memory. */
import { type Configuration, FILES, type FileName } from '../scripts/lib/accounts/configuration.ts'

/** A configuration of these texts; the other files are empty. */
export function configurationOf(texts: Partial<Record<FileName, string>>): Configuration {
  return Object.fromEntries(FILES.map((name) => [name, texts[name] ?? ''])) as Configuration
}
