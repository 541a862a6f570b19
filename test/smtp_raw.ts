/** Sends bytes over SMTP exactly as they are, which no mail library does. */
import { RawClient, REPLY } from './raw_client.ts'

/** Delivers a message without a login. Throws with the server's reply when it is refused. */
export async function sendRaw(
  port: number,
  to: string | string[],
  message: Buffer,
  from = 'test@client.example',
): Promise<void> {
  const client = await RawClient.open(port, /^220 .*\r\n/m)
  const say = async (command: string, expected: string) => {
    const reply = await client.say(command, REPLY.smtp)
    if (!reply.startsWith(expected)) throw new Error(reply)
  }
  try {
    await say('EHLO client.example', '250')
    await say(`MAIL FROM:<${from}> BODY=8BITMIME`, '250')
    for (const recipient of [to].flat()) await say(`RCPT TO:<${recipient}>`, '250')
    await say('DATA', '354')
    // RFC 5321 section 4.5.2: a dot more before each line that begins with one.
    client.write(message.toString('latin1').replace(/^\./gm, '..'))
    await say(message.toString('latin1', message.length - 2) === '\r\n' ? '.' : '\r\n.', '250')
    await say('QUIT', '221')
  } finally {
    client.close()
  }
}
