/** Sends bytes over SMTP exactly as they are, which no mail library does. */
import { connect } from 'node:net'

/** Delivers a message without a login. Throws with the server's reply when it is refused. */
export async function sendRaw(
  port: number,
  to: string | string[],
  message: Buffer,
  from = 'test@client.example',
): Promise<void> {
  const socket = connect({ host: '127.0.0.1', port })
  let text = ''
  let wake = () => {}
  socket.on('data', (chunk) => {
    text += chunk
    wake()
  })
  const ended = new Promise<never>((_, reject) => {
    socket.once('error', reject).once('close', () => reject(new Error(`the SMTP connection is closed: ${text}`)))
  })
  ended.catch(() => {})
  const reply = async (expected: string) => {
    while (!/^\d{3} .*\r\n/m.test(text)) await Promise.race([ended, new Promise<void>((resolve) => (wake = resolve))])
    if (!text.startsWith(expected)) throw new Error(text)
    text = ''
  }
  const say = async (command: string, expected: string) => {
    socket.write(`${command}\r\n`)
    await reply(expected)
  }
  try {
    await reply('220')
    await say('EHLO client.example', '250')
    await say(`MAIL FROM:<${from}> BODY=8BITMIME`, '250')
    for (const recipient of [to].flat()) await say(`RCPT TO:<${recipient}>`, '250')
    await say('DATA', '354')
    // RFC 5321 section 4.5.2: a dot more before each line that begins with one.
    socket.write(message.toString('latin1').replace(/^\./gm, '..'), 'latin1')
    await say(message.toString('latin1', message.length - 2) === '\r\n' ? '.' : '\r\n.', '250')
    await say('QUIT', '221')
  } finally {
    socket.destroy()
  }
}
