/** Checks the bodies of requests against the API's own description. */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { refuse } from './guard.ts'

type Validator = import('ajv').ValidateFunction
let validators: Promise<Map<string, Validator>> | undefined

/** Refuses with 400 a body that is not what openapi.json has for the route, which is named as "PUT /api/v1/messages". */
export async function check(route: string, body: unknown): Promise<void> {
  // ajv is loaded when the first body comes.
  validators ??= load()
  const validate = (await validators).get(route)
  if (!validate || validate(body)) return
  const [{ instancePath = '', message = '', parentSchema } = {}] = validate.errors ?? []
  refuse(400, `The body${instancePath}: ${parentSchema?.description ?? message}`)
}

async function load(): Promise<Map<string, Validator>> {
  const { Ajv } = await import('ajv')
  const description = JSON.parse(readFileSync(join(dirname(fileURLToPath(import.meta.url)), 'openapi.json'), 'utf8'))
  const ajv = new Ajv({ strict: false, verbose: true }).addSchema(description, 'api')
  const validators = new Map<string, Validator>()
  for (const [path, methods] of Object.entries<Record<string, { requestBody?: object }>>(description.paths)) {
    for (const [method, { requestBody }] of Object.entries(methods)) {
      if (!requestBody) continue
      const pointer = `${path.replaceAll('/', '~1')}/${method}/requestBody/content/application~1json/schema`
      validators.set(
        `${method.toUpperCase()} ${path.replace(/[{}]/g, '')}`,
        ajv.compile({ $ref: `api#/paths/${encodeURI(pointer)}` }),
      )
    }
  }
  return validators
}
