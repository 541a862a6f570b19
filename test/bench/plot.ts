/** The growth of a mailbox as a picture: latency on the left, throughput on the right, both against the mails in it. */
import type { Growth } from './growth.ts'

interface Line {
  name: string
  colour: string
  value: (growth: Growth) => number
}

const LATENCY: Line[] = [
  { name: 'the newest 10 read over POP3', colour: '#0b6e99', value: ({ newest }) => newest },
  { name: 'one mail, sent to readable', colour: '#c4530a', value: ({ delivery }) => delivery },
]
const THROUGHPUT: Line[] = [
  { name: 'accepted', colour: '#0b6e99', value: ({ accepted }) => accepted },
  { name: 'readable', colour: '#c4530a', value: ({ readable }) => readable },
]

/** Pixels of one panel, its frame left out. */
const WIDTH = 300
const HEIGHT = 180
/** Where the frames begin, below title and legend. */
const TOP = 62

/** An SVG document of two panels; `caption` says where the figures are from. */
export function plot(growth: Growth[], caption: string): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 320" font-family="sans-serif" font-size="12">
<rect width="780" height="320" fill="#fff"/>
${panel(growth, LATENCY, 'milliseconds (median)', 60)}
${panel(growth, THROUGHPUT, 'mails a second', 450)}
<text x="390" y="308" text-anchor="middle" fill="#666">${xml(caption)}</text>
</svg>
`
}

function panel(growth: Growth[], lines: Line[], title: string, left: number): string {
  const sizes = growth.map(({ mails }) => Math.log10(mails))
  const [least = 0, most = 1] = [Math.min(...sizes), Math.max(...sizes)]
  const top = niceTop(Math.max(...lines.flatMap(({ value }) => growth.map(value))))
  const x = (mails: number) => left + ((Math.log10(mails) - least) / (most - least || 1)) * WIDTH
  const y = (value: number) => TOP + HEIGHT - (value / top) * HEIGHT
  const grid = [0, 0.25, 0.5, 0.75, 1].map((part) => {
    const at = y(part * top)
    return `<line x1="${left}" x2="${left + WIDTH}" y1="${at}" y2="${at}" stroke="#ddd"/><text x="${left - 6}" y="${at + 4}" text-anchor="end">${part * top}</text>`
  })
  const ticks = growth.map(
    ({ mails }) =>
      `<text x="${x(mails)}" y="${TOP + HEIGHT + 18}" text-anchor="middle">${mails.toLocaleString('en')}</text>`,
  )
  const curves = lines.map(({ name, colour, value }, index) => {
    const points = growth.map((one) => `${x(one.mails).toFixed(1)},${y(value(one)).toFixed(1)}`)
    const dots = points.map((point) => `<circle cx="${point.replace(',', '" cy="')}" r="3" fill="${colour}"/>`).join('')
    const legend = `<text x="${left}" y="${36 + index * 15}" fill="${colour}">${xml(name)}</text>`
    return `<polyline points="${points.join(' ')}" fill="none" stroke="${colour}" stroke-width="2"/>${dots}${legend}`
  })
  const heading = `<text x="${left}" y="18" font-weight="bold">${xml(title)}</text>`
  const below = `<text x="${left + WIDTH / 2}" y="${TOP + HEIGHT + 36}" text-anchor="middle">mails in the mailbox</text>`
  return [heading, ...grid, ...ticks, below, ...curves].join('\n')
}

/** The next round number above: 1, 2 or 4 and its like, so that a quarter of it is round too. */
function niceTop(value: number): number {
  const unit = 10 ** Math.floor(Math.log10(value || 1))
  return ([1, 2, 4, 8, 10].find((factor) => factor * unit >= value) ?? 10) * unit
}

function xml(text: string): string {
  return text.replace(/[&<>]/g, (character) => `&#${character.charCodeAt(0)};`)
}
