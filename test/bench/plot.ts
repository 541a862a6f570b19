/** Rates side by side, as a picture: a bar for each, and a thin line for the spread of its repetitions. */
import { type Figure, readably } from './measure.ts'

/** Pixels of a row, of the names, and of the longest bar. */
const [ROW, NAMES, BARS] = [20, 400, 340]

/** An SVG document with the groups of figures that are rates; `caption` says where they are from. */
export function plot(figures: Figure[], caption: string): string {
  const rates = figures.filter(({ unit }) => unit === 'mails/s')
  const groups = [...new Set(rates.map(({ group }) => group))]
  const rows = groups.flatMap((group) => {
    const figures = rates.filter((figure) => figure.group === group)
    const scale = BARS / Math.max(...figures.map(({ most }) => most))
    return [group, ...figures.map((figure) => ({ figure, scale }))]
  })
  const drawn = rows.map((each, index) => {
    const y = 8 + index * ROW
    if (typeof each === 'string') return `<text x="8" y="${y + 15}" font-weight="bold">${xml(each)}</text>`
    return bar(each.figure, each.scale, y)
  })
  const [width, height] = [NAMES + BARS + 110, 8 + (rows.length + 2) * ROW]
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<rect width="${width}" height="${height}" fill="#fff"/>
${drawn.join('\n')}
<text x="8" y="${height - 8}" fill="#666">${xml(caption)}</text>
</svg>
`
}

function bar({ what, median, least, most }: Figure, scale: number, y: number): string {
  const isPeer = !/send_email|pop_email/.test(what)
  const middle = y + ROW / 2
  const end = NAMES + most * scale
  return `<text x="${NAMES - 8}" y="${middle + 4}" text-anchor="end">${xml(what)}</text>
<rect x="${NAMES}" y="${y + 3}" width="${(median * scale).toFixed(1)}" height="${ROW - 6}" fill="${isPeer ? '#8fb8cc' : '#0b6e99'}"/>
<line x1="${(NAMES + least * scale).toFixed(1)}" x2="${end.toFixed(1)}" y1="${middle}" y2="${middle}" stroke="#c4530a"/>
<text x="${(end + 6).toFixed(1)}" y="${middle + 4}">${readably(median)} mails/s</text>`
}

function xml(text: string): string {
  return text.replace(/[&<>]/g, (character) => `&#${character.charCodeAt(0)};`)
}
