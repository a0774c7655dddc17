// @ts-check
/**
 * Copying and saving a transcript.
 */

import { cuesOf, renderSrt, renderVtt } from "./subtitles.js";

/** @typedef {import("./transcript.js").Transcript} Transcript */
/** @typedef {"srt" | "vtt" | "txt"} Format */

/** @type {Record<Format, { type: string, render: (transcript: Transcript) => string }>} */
const FORMATS = {
  srt: { type: "application/x-subrip", render: (of) => renderSrt(cuesOf(of.timedWords())) },
  vtt: { type: "text/vtt", render: (of) => renderVtt(cuesOf(of.timedWords())) },
  txt: { type: "text/plain;charset=utf-8", render: (of) => of.plainText() },
};

/** Save a transcript as a file. @param {Transcript} transcript @param {Format} format @param {string} name without ending */
export function download(transcript, format, name) {
  const { type, render } = FORMATS[format];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([render(transcript)], { type }));
  link.download = `${name}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // Safari reads it after the click
}

/** A name for what was said live: "captions 2026-01-31 14.05". @param {Date} date @returns {string} */
export function liveName(date) {
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `captions ${day} ${two(date.getHours())}.${two(date.getMinutes())}`;
}

/** True when the text is on the clipboard. @param {string} text @returns {Promise<boolean>} */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // pages without https have no clipboard of their own
  }
}

/** @param {string} text @returns {boolean} */
function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) {
    focused.focus();
  }
  return isCopied;
}
