/**
 * Posts letters as they are, over several SMTP connections and by sendmail: what no mail library would send. A program,
 * as it runs beside the server in the server's own namespace: an Errand as JSON on stdin, its Posted[] on stdout.
 */
import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { FOO } from '../scripts/lib/accounts/accounts.ts'
import { RawClient, REPLY } from './raw_client.ts'

export interface Letter {
  /** Stands in the subject, by which the letter is found again. */
  id: string
  /** SMTP without a login, submission with foo's, sendmail with the recipients behind it or, with -t, in the header. */
  via: 'smtp' | 'submission' | 'sendmail' | 'sendmail -t'
  /** Envelope sender and recipients as they stand between the angle brackets. */
  from: string
  to: string[]
  /** Fields before the subject. */
  header: string[]
  /** Bytes of the body. */
  size: number
  /** Asks for delivery status notifications (RFC 3461): "SUCCESS,FAILURE". */
  notify?: string
}

export interface Errand {
  ports: { smtp: number; submission: number }
  /** Postfix's config_directory, for sendmail. */
  configuration: string
  letters: Letter[]
}

/** What became of a letter. */
export interface Posted {
  id: string
  accepted: string[]
  /** The refusing reply for each recipient that was not accepted; a refused sender or message refuses them all. */
  refused: { to: string; reply: string }[]
}

/** A connection for so many letters; each makes Postfix start several processes. */
const LETTERS_A_CONNECTION = 150
const SENDMAILS = 4

const { ports, configuration, letters }: Errand = JSON.parse(await text(process.stdin))
const posted: Posted[] = []

function messageOf({ id, header, size }: Letter): string {
  const lines = Math.ceil(size / 72)
  const body = Array.from({ length: lines }, () => `${'x'.repeat(70)}\r\n`).join('')
  return [...header, `Subject: ${id}`, '', body || '\r\n'].join('\r\n')
}

/** Says commands in one go (RFC 2920) and gives the last line of each reply. */
async function say(client: RawClient, ...commands: string[]): Promise<string[]> {
  client.write(Buffer.from(`${commands.join('\r\n')}\r\n`))
  const replies: string[] = []
  for (const _ of commands) replies.push((await client.reply()).split('\r\n').at(-1) ?? '')
  return replies
}

async function connectTo(via: Letter['via']): Promise<RawClient> {
  const client = await RawClient.open(via === 'submission' ? ports.submission : ports.smtp, REPLY.smtp)
  const commands = ['EHLO poster.example']
  if (via === 'submission') commands.push(`AUTH PLAIN ${Buffer.from(`\0${FOO}\0foo`).toString('base64')}`)
  for (const command of commands) {
    const [reply = ''] = await say(client, command)
    if (!reply.startsWith('2')) throw new Error(`${command}: ${reply}`)
  }
  return client
}

/** One letter over SMTP. */
async function post(client: RawClient, letter: Letter): Promise<Posted> {
  const { id, from, to, notify } = letter
  const result: Posted = { id, accepted: [], refused: [] }
  const mail = `MAIL FROM:<${from}> BODY=8BITMIME${notify ? ' RET=HDRS' : ''}`
  const recipients = to.map((recipient) => `RCPT TO:<${recipient}>${notify ? ` NOTIFY=${notify}` : ''}`)
  const [sender = '', ...replies] = await say(client, mail, ...recipients, 'DATA')
  for (const [index, recipient] of to.entries()) {
    const reply = replies[index] ?? ''
    if (reply.startsWith('2')) result.accepted.push(recipient)
    else result.refused.push({ to: recipient, reply: sender.startsWith('2') ? reply : sender })
  }
  if (!replies.at(-1)?.startsWith('354')) return result
  const [reply = ''] = await say(client, `${messageOf(letter).replace(/^\./gm, '..')}.`)
  if (reply.startsWith('2')) return result
  const refused = result.accepted.map((recipient) => ({ to: recipient, reply }))
  return { id, accepted: [], refused: [...result.refused, ...refused] }
}

async function postAll(via: 'smtp' | 'submission', queue: Letter[]): Promise<void> {
  let connection: RawClient | undefined
  for (let letter = queue.shift(); letter; letter = queue.shift()) {
    connection ??= await connectTo(via)
    const result = await post(connection, letter)
    posted.push(result)
    if (result.refused.length === 0) continue
    // Postfix answers a client with many errors more and more slowly.
    connection.close()
    connection = undefined
  }
  await connection?.say('QUIT', REPLY.smtp)
  connection?.close()
}

/** One letter by Postfix's sendmail, which takes everything or nothing. */
async function hand(letter: Letter): Promise<void> {
  const { id, from, to, via, notify } = letter
  const recipients = via === 'sendmail' ? ['--', ...to] : ['-t']
  const options = ['-C', configuration, '-i', '-f', from, ...(notify ? ['-N', notify.toLowerCase()] : [])]
  const child = spawn('/usr/sbin/sendmail', [...options, ...recipients], { stdio: ['pipe', 'ignore', 'pipe'] })
  const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
  const field = via === 'sendmail -t' ? `To: ${to.join(', ')}\n` : ''
  child.stdin.end(field + messageOf(letter).replaceAll('\r\n', '\n'))
  const words = (await text(child.stderr)).trim()
  const failed = (await ended) !== 0
  posted.push({ id, accepted: failed ? [] : to, refused: failed ? to.map((each) => ({ to: each, reply: words })) : [] })
}

async function handAll(queue: Letter[]): Promise<void> {
  for (let letter = queue.shift(); letter; letter = queue.shift()) await hand(letter)
}

const queueOf = (...ways: Letter['via'][]) => letters.filter(({ via }) => ways.includes(via))
const connections = (queue: Letter[]) => Math.ceil(queue.length / LETTERS_A_CONNECTION)
const [smtp, submission, sendmail] = [queueOf('smtp'), queueOf('submission'), queueOf('sendmail', 'sendmail -t')]
await Promise.all([
  ...Array.from({ length: connections(smtp) }, () => postAll('smtp', smtp)),
  ...Array.from({ length: connections(submission) }, () => postAll('submission', submission)),
  ...Array.from({ length: SENDMAILS }, () => handAll(sendmail)),
])
process.stdout.write(JSON.stringify(posted))
