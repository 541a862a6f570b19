/** Checks the bodies of requests against the API's own description. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { refuse } from './guard.ts'

/** The API's description, which is served as well. */
export const DESCRIPTION = fileURLToPath(new URL('openapi.json', import.meta.url))

let ajv: import('ajv').Ajv | undefined

/** Refuses with 400 a body that is not what openapi.json has for the route, which is named as "PUT /api/v1/messages". */
export async function check(route: string, body: unknown): Promise<void> {
  const [method = '', path = ''] = route.split(' ')
  if (method === 'GET') return
  // Loaded when the first body comes.
  const { Ajv } = await import('ajv')
  ajv ??= new Ajv({ strict: false, verbose: true }).addSchema(JSON.parse(readFileSync(DESCRIPTION, 'utf8')), 'api')
  const place = `paths/${path.replaceAll('/', '~1')}/${method.toLowerCase()}/requestBody/content/application~1json/schema`
  const validate = ajv.getSchema(`api#/${place}`)
  if (!validate || validate(body)) return
  const [{ instancePath = '', message = '', parentSchema } = {}] = validate.errors ?? []
  refuse(400, `The body${instancePath}: ${parentSchema?.description ?? message}`)
}
