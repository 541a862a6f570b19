/** Fixes as they are printed: each can be typed as it stands. */
import type { Line } from './facts.ts'

type Place = number | Pick<Line, 'line' | 'end'>

const linesOf = (place: Place) => {
  if (typeof place === 'number') return `line ${place}`
  return place.line === place.end ? `line ${place.line}` : `lines ${place.line}-${place.end}`
}

export const deleteLine = (file: string, place: Place) => `Delete ${linesOf(place)} of ${file}`
export const writeLine = (file: string, place: Place, text: string) => `Write ${linesOf(place)} of ${file} as: ${text}`
export const addLine = (file: string, text: string) => `Write into ${file}: ${text}`
export const restore = (file: string) => `git checkout -- ${file}`
