/** Sends bytes over SMTP exactly as they are, which no mail library does. */
import { RawClient, REPLY } from './raw_client.ts'

/** One transaction without a login, as far as it came. */
export interface Dialogue {
  /** The replies to RCPT. */
  recipients: string[]
  /** The reply to the message, where a recipient was accepted; none where the server hung up. */
  message?: string | undefined
  /** Whether the server has hung up. */
  closed: boolean
}

/** Says a whole transaction, whatever the server answers. Throws where there is no server. */
export async function transact(port: number, from: string, to: string[], message: Buffer): Promise<Dialogue> {
  const client = await RawClient.open(port, REPLY.smtp)
  const say = (command: string) => {
    client.write(`${command}\r\n`)
    return client.reply().catch(() => undefined)
  }
  const dialogue: Dialogue = { recipients: [], closed: false }
  try {
    await say('EHLO client.example')
    await say(`MAIL FROM:<${from}> BODY=8BITMIME`)
    for (const recipient of to) {
      const reply = await say(`RCPT TO:<${recipient}>`)
      if (reply) dialogue.recipients.push(reply)
    }
    if (dialogue.recipients.some((reply) => reply.startsWith('250')) && (await say('DATA'))?.startsWith('354')) {
      // RFC 5321 section 4.5.2: a dot more before each line that begins with one.
      const text = message.toString('latin1').replace(/^\./gm, '..')
      dialogue.message = await say(text.endsWith('\r\n') ? `${text}.` : `${text}\r\n.`)
    }
    dialogue.closed = (await say('NOOP')) === undefined
    return dialogue
  } finally {
    client.close()
  }
}

/** Delivers a message without a login; gives the reply. Throws with the server's words when anything is refused. */
export async function sendRaw(
  port: number,
  to: string | string[],
  message: Buffer,
  from = 'test@client.example',
): Promise<string> {
  const { recipients, message: reply = 'the server hung up' } = await transact(port, from, [to].flat(), message)
  const refused = [...recipients, reply].find((each) => !each.startsWith('250'))
  if (refused !== undefined) throw new Error(refused)
  return reply
}
