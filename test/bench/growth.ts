/** How the server fares with a mailbox that grows: the newest mails read, one mail sent, many mails sent. */
import { execFileSync } from 'node:child_process'
import { chownSync, writeFileSync } from 'node:fs'
import { BAR, FOO } from '../../scripts/lib/accounts/accounts.ts'
import { VMAIL_ID } from '../../scripts/lib/server/native_configuration.ts'
import { smtpClient } from '../deliveries.ts'
import type { Project } from '../harness.ts'
import {
  type Add,
  countOf,
  HOST,
  isInstalled,
  openMailbox,
  quantile,
  readable,
  scriptSeconds,
  secondsOf,
  timed,
} from './measure.ts'

/** The figures of one size of a mailbox, for the plot. */
export interface Growth {
  mails: number
  /** Milliseconds: a POP3 session that reads the newest ten; one mail from sending to readable. */
  newest: number
  delivery: number
  /** Mails a second. */
  accepted: number
  readable: number
}

/** Milliseconds from the begin of the SMTP dialogue until POP3 shows the mail, `samples` times. */
export async function deliveryTimes(project: Project, to: string, mailbox: string, samples: number): Promise<number[]> {
  const milliseconds: number[] = []
  for (let n = 0; n < samples; n++) {
    const before = await countOf(project, mailbox)
    const [seconds] = await timed(async () => {
      const connection = await smtpClient({ host: HOST, ports: project.ports })
      const message = `From: ${FOO}\r\nSubject: ${n}\r\n\r\n${'x'.repeat(1_000)}\r\n`
      await new Promise<void>((resolve, reject) => {
        connection.send({ from: FOO, to: [to] }, message, (error) => (error ? reject(error) : resolve()))
      })
      connection.quit()
      await readable(project, mailbox, before + 1, 2)
    })
    milliseconds.push(seconds * 1000)
  }
  return milliseconds
}

export async function measureGrowth(project: Project, add: Add, sizes: number[]): Promise<Growth[]> {
  const results: Growth[] = []
  for (const mails of sizes) {
    await fill(project, BAR, mails)
    const newest: number[] = []
    const script: number[] = []
    for (let round = 0; round < 5; round++) {
      newest.push((await timed(() => readNewest(project)))[0] * 1000)
      script.push((await scriptSeconds(project, 'pop_email', '--last', '10', '--json')) * 1000)
    }
    const delivery = quantile(await deliveryTimes(project, BAR, BAR, 11))
    const result = { mails, newest: quantile(newest), delivery, ...(await rates(project)) }
    add(`${mails} mails in the mailbox: a POP3 session reads the newest 10`, result.newest, 'ms')
    add(`${mails} mails: pop_email --last 10 --json, start-up included`, quantile(script), 'ms')
    add(`${mails} mails: send to readable, median`, result.delivery, 'ms')
    add(`${mails} mails: 500 more, accepted`, result.accepted, 'mails/s')
    add(`${mails} mails: 500 more, readable`, result.readable, 'mails/s')
    results.push(result)
  }
  return results
}

/** Adds mails until the mailbox has `mails`. Over SMTP it would take minutes: these are put where Dovecot finds new ones. */
export async function fill(project: Project, mailbox: string, mails: number, recipient = mailbox): Promise<void> {
  const [local, domain] = mailbox.split('@')
  const folders = ['', `/${local}`, `/${local}/new`].map((below) => `${project.stateDir}/mail/${domain}${below}`)
  const folder = folders[2] as string
  // Dovecot has not made them where nothing was delivered yet.
  execFileSync('install', ['-d', '-o', String(VMAIL_ID), '-g', String(VMAIL_ID), '-m', '700', ...folders])
  const have = await countOf(project, mailbox)
  for (let n = have; n < mails; n++) {
    const trace = `Return-Path: <${FOO}>\nX-Original-To: ${recipient}\nDelivered-To: ${mailbox}\n`
    const mail = `${trace}Subject: ${n}\nFrom: ${FOO}\n\n${`${'x'.repeat(70)}\n`.repeat(27)}`
    const lines = mail.split('\n').length - 1
    const file = `${folder}/${1_700_000_000 + n}.M0P${n}.bench,S=${mail.length},W=${mail.length + lines}`
    writeFileSync(file, mail)
    chownSync(file, VMAIL_ID, VMAIL_ID)
  }
  // The first session after that reads them all; the second is as every later one.
  await readable(project, mailbox, mails, 100)
}

async function readNewest(project: Project): Promise<void> {
  const session = await openMailbox(project, BAR)
  for (const message of await session.list(10)) await session.retrieve(message)
  await session.quit()
}

async function rates(project: Project): Promise<{ accepted: number; readable: number }> {
  if (!isInstalled('smtp-source')) return { accepted: Number.NaN, readable: Number.NaN }
  const mails = 500
  const before = await countOf(project, BAR)
  const options = ['-s', '10', '-d', '-m', String(mails), '-l', '2048', '-f', FOO, '-t', BAR]
  const [whole, accepted] = await timed(async () => {
    const [seconds] = await secondsOf(project, 'smtp-source', [...options, `${HOST}:${project.ports.smtp}`])
    await readable(project, BAR, before + mails, 25)
    return seconds
  })
  return { accepted: mails / accepted, readable: mails / whole }
}
