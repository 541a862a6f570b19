/** Before the tests: the packages that the native engine needs, so that no test file waits for another's apt. */
import { run, say } from '../scripts/lib/cli.ts'
import { installPackages } from '../scripts/lib/native.ts'

await run(async () => {
  if (process.getuid?.() !== 0) {
    say('The tests run Postfix and Dovecot of their own, which needs root: sudo npm test')
    return 'failed'
  }
  await installPackages()
  return 'ok'
})
