/**
 * What npm's scripts run: "node scripts/lib/launch.mjs start" runs scripts/start.ts, by tsx where Node cannot strip types
 * itself. Plain JavaScript, so that an old Node gets as far as to say that it is too old, and a checkout without its
 * packages what to type.
 */
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

// The oldest Node that html-to-text runs on; package.json's "engines" says the same.
const OLDEST = '20.19'
/** The scripts that are given files. npm has gone to the project's folder: the files lie where npm was called. */
const WITH_FILES = ['send_email', 'pop_email']

const [name, ...args] = process.argv.slice(2)
const script = join(dirname(dirname(fileURLToPath(import.meta.url))), `${name}.ts`)

if (process.versions.node.localeCompare(OLDEST, 'en', { numeric: true }) < 0) {
  fail(`Node ${process.versions.node} is too old: ${OLDEST} or newer is needed. See https://nodejs.org/`)
} else {
  process.argv = [process.argv[0], script, ...args]
  if (WITH_FILES.includes(name) && process.env.INIT_CWD) process.chdir(process.env.INIT_CWD)
  const tsx = process.features.typescript ? Promise.resolve() : import('tsx/esm')
  tsx
    .then(() => import(pathToFileURL(script).href))
    .catch((error) => {
      if (!/^Cannot find package/.test(error.message)) throw error
      fail('The packages are not installed. Type: npm ci')
    })
}

function fail(sentence) {
  console.error(sentence)
  process.exitCode = 1
}
