// @ts-check
/**
 * Timed words to subtitle cues, and cues to SubRip and WebVTT: the rules of `earwire transcribe`
 * (protocol/subtitles.py; a test compares the two), so that a page and a terminal save the same file.
 *
 * Pure. A cue is at most two lines of 42 characters, is cut at a sentence, else at a clause, else at
 * the last word that fits (a word longer than a line within it), and is shown at least MIN_CUE_S
 * where the next one leaves room.
 */

import { gap } from "./joined_text.js";

const MAX_LINE_CHARS = 42;
const MAX_LINES = 2;
const MAX_CUE_S = 7;
const MIN_CUE_S = 1;
const MAX_PAUSE_S = 1.5; // a silence this long inside a segment takes the text away
const MIN_FILL = 0.5; // cut at a sentence or clause only when this much of a cue is used
const PIECE_CHARS = MAX_LINE_CHARS / 6; // where a word longer than a line may be cut
const SENTENCE_END = [".", "!", "?", "…"];
const CLAUSE_END = [",", ";", ":", "-"];

/** @typedef {{ text: string, start_s: number, end_s: number }} TimedWord */
/** A word, or a piece of one. @typedef {TimedWord & { continues: boolean }} Piece */
/** @typedef {{ start_s: number, end_s: number, text: string }} Cue */

/**
 * The cues of all segments; a cue never spans two segments.
 * @param {TimedWord[][]} segments
 * @returns {Cue[]}
 */
export function cuesOf(segments) {
  const cues = [];
  for (const words of segments) {
    let rest = words.flatMap(piecesOf);
    while (rest.length > 0) {
      const count = cut(rest);
      const shown = rest.slice(0, count);
      const { start_s } = shown[0];
      cues.push({ start_s, end_s: shown[count - 1].end_s, text: linesOf(shown).join("\n") });
      rest = rest.slice(count);
    }
  }
  return stretch(cues);
}

/**
 * Words without times, spread over [start, end) by their length.
 * @param {string} text
 * @param {number} start_s
 * @param {number} end_s
 * @returns {TimedWord[]}
 */
export function spreadWords(text, start_s, end_s) {
  const words = text.split(/\s+/).filter(Boolean);
  const total = words.reduce((sum, word) => sum + length(word) + 1, 0);
  let position = 0;
  return words.map((word) => {
    const begin = start_s + ((end_s - start_s) * position) / total;
    position += length(word) + 1;
    return { text: word, start_s: begin, end_s: start_s + ((end_s - start_s) * position) / total };
  });
}

/** SubRip. @param {Cue[]} cues @returns {string} */
export function renderSrt(cues) {
  return cues
    .map((cue, i) => `${i + 1}\n${times(cue, ",")}\n${cue.text}\n\n`)
    .join("");
}

/** WebVTT; its cue text is markup, so <, > and & are escaped. @param {Cue[]} cues @returns {string} */
export function renderVtt(cues) {
  return "WEBVTT\n\n" + cues.map((cue) => `${times(cue, ".")}\n${escapeVtt(cue.text)}\n\n`).join("");
}

/** @param {Cue} cue @param {string} separator @returns {string} */
function times(cue, separator) {
  return `${timestamp(cue.start_s, separator)} --> ${timestamp(cue.end_s, separator)}`;
}

/** @param {number} seconds @param {string} separator @returns {string} */
function timestamp(seconds, separator) {
  const total_ms = Math.round(Math.max(0, seconds) * 1000);
  const pad = (/** @type {number} */ value, /** @type {number} */ digits) =>
    String(value).padStart(digits, "0");
  const total_s = Math.floor(total_ms / 1000);
  const hours = pad(Math.floor(total_s / 3600), 2);
  const minutes = pad(Math.floor(total_s / 60) % 60, 2);
  return `${hours}:${minutes}:${pad(total_s % 60, 2)}${separator}${pad(total_ms % 1000, 3)}`;
}

/** @param {string} text @returns {string} */
function escapeVtt(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/**
 * The word, if it says anything; one longer than a line in pieces, with times by their length.
 * @param {TimedWord} word
 * @returns {Piece[]}
 */
function piecesOf({ text, start_s, end_s }) {
  const letters = [...text.trim()];
  if (letters.length <= MAX_LINE_CHARS) {
    return letters.length > 0 ? [{ text: letters.join(""), start_s, end_s, continues: false }] : [];
  }
  const pieces = [];
  let begin = start_s;
  for (let position = 0; position < letters.length; position += PIECE_CHARS) {
    const piece = letters.slice(position, position + PIECE_CHARS);
    const until = position + piece.length;
    const end = start_s + ((end_s - start_s) * until) / letters.length;
    pieces.push({ text: piece.join(""), start_s: begin, end_s: end, continues: position > 0 });
    begin = end;
  }
  return pieces;
}

/** @param {Piece[]} words @returns {string[]} */
function linesOf(words) {
  const text = words
    .reduce((line, word) => line + (word.continues ? "" : gap(line, word.text)) + word.text, "")
    .trim();
  const lines = wrap(text, MAX_LINE_CHARS);
  if (lines.length !== MAX_LINES) {
    return lines;
  }
  // Two lines of like length read better than a full one and a single word.
  for (let width = Math.floor(length(text) / 2); width < MAX_LINE_CHARS; width++) {
    const narrow = wrap(text, width, false);
    if (narrow.length === MAX_LINES && narrow.every((line) => length(line) <= MAX_LINE_CHARS)) {
      return narrow;
    }
  }
  return lines;
}

/**
 * Greedy lines of at most `width` characters; a longer word is broken, or stands alone.
 * @param {string} text
 * @param {number} width
 * @param {boolean} [breakLong]
 * @returns {string[]}
 */
function wrap(text, width, breakLong = true) {
  /** @type {string[]} */
  const lines = [];
  let line = "";
  for (let word of text.split(/\s+/)) {
    while (breakLong && length(word) > width) {
      const room = line ? width - length(line) - 1 : width;
      if (room > 0) {
        line = line ? `${line} ${head(word, room)}` : head(word, room);
        word = tail(word, room);
      }
      lines.push(line);
      line = "";
    }
    if (line && length(line) + 1 + length(word) > width) {
      lines.push(line);
      line = word;
    } else {
      line = line ? `${line} ${word}` : word;
    }
  }
  if (line) {
    lines.push(line);
  }
  return lines;
}

/** How many words the next cue takes: at least one. @param {Piece[]} words @returns {number} */
function cut(words) {
  let fitting = 1;
  while (fitting < words.length) {
    if (words[fitting].start_s - words[fitting - 1].end_s > MAX_PAUSE_S) {
      return fitting;
    }
    if (!fits(words.slice(0, fitting + 1))) {
      break;
    }
    fitting++;
  }
  if (fitting === words.length) {
    return fitting;
  }
  const least = Math.max(1, Math.floor(fitting * MIN_FILL));
  for (const ends of [SENTENCE_END, CLAUSE_END]) {
    for (let count = fitting; count >= least; count--) {
      const word = words[count - 1].text.trimEnd().replace(/["')\]]+$/, "");
      if (ends.some((end) => word.endsWith(end))) {
        return count;
      }
    }
  }
  return fitting;
}

/** @param {Piece[]} words @returns {boolean} */
function fits(words) {
  const lasts_s = words[words.length - 1].end_s - words[0].start_s;
  return lasts_s <= MAX_CUE_S && linesOf(words).length <= MAX_LINES;
}

/** Give short cues time from the gap behind them; end each before the next. @param {Cue[]} cues @returns {Cue[]} */
function stretch(cues) {
  return cues.map((cue, i) => {
    const end_s = Math.max(cue.end_s, cue.start_s + MIN_CUE_S);
    const limit_s = i + 1 < cues.length ? Math.max(cues[i + 1].start_s, cue.start_s) : Infinity;
    return { ...cue, end_s: Math.min(end_s, limit_s) };
  });
}

/** In characters, not in UTF-16 units. @param {string} text */
function length(text) {
  return [...text].length;
}

/** @param {string} text @param {number} count */
function head(text, count) {
  return [...text].slice(0, count).join("");
}

/** @param {string} text @param {number} count */
function tail(text, count) {
  return [...text].slice(count).join("");
}
