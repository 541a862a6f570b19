/** Checks the bodies of requests against the API's own description. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { refuse } from './guard.ts'

/** The API's description, which is served as well. */
export const DESCRIPTION = fileURLToPath(new URL('openapi.json', import.meta.url))
/** What the description calls the bodies. */
const BODIES: Record<string, string> = {
  'PUT /api/v1/messages': 'ReadStatus',
  'DELETE /api/v1/messages': 'IDs',
  'POST /api/v1/send': 'Send',
  'PUT /api/v1/tags': 'SetTags',
  'PUT /api/v1/tags/TAG': 'TagName',
}

/** Refuses with 400 a body that is not what openapi.json has for the route, which is named as "PUT /api/v1/messages". */
export async function check(route: string, body: unknown): Promise<void> {
  const validate = BODIES[route] && (await validators()).getSchema(`api#/components/schemas/${BODIES[route]}`)
  if (!validate || validate(body)) return
  const [{ instancePath = '', message = '', parentSchema } = {}] = validate.errors ?? []
  refuse(400, `The body${instancePath}: ${parentSchema?.description ?? message}`)
}

let ajv: import('ajv').Ajv | undefined
/** Loaded when the first body comes. */
async function validators() {
  const { Ajv } = await import('ajv')
  ajv ??= new Ajv({ strict: false, verbose: true }).addSchema(JSON.parse(readFileSync(DESCRIPTION, 'utf8')), 'api')
  return ajv
}
