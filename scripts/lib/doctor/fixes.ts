/** Fixes as they are printed: each can be typed as it stands. */

export const deleteLine = (file: string, line: number) => `Delete line ${line} of ${file}`
export const writeLine = (file: string, line: number, text: string) => `Write line ${line} of ${file} as: ${text}`
export const addLine = (file: string, text: string) => `Write into ${file}: ${text}`
export const addFirst = (file: string, text: string) => `Write as the first line of ${file}: ${text}`
export const restore = (file: string) => `git checkout -- ${file}`
