// @ts-check
/**
 * What was said: final segments in order, the open utterance behind them, and named gaps.
 *
 * Pure. Messages of the server, or a file's answer, come in; captions_view.js shows it and
 * subtitles.js renders it. Times are seconds of the microphone's audio, pauses left out.
 */

import { gap } from "./joined_text.js";
import { spreadWords } from "./subtitles.js";

export const MAX_SEGMENTS = 20_000; // a day of talk; past it the oldest go
const RING_RATE_HZ = 16_000;

/** @typedef {import("./frames.js").ServerMessage} ServerMessage */
/** @typedef {{ text: string, start_s: number, end_s: number }} TimedWord */

/**
 * "text": final. "draft": shown, but its final never came. "gap": audio without text.
 * @typedef {object} Segment
 * @property {"text" | "draft" | "gap"} kind
 * @property {number} start_s
 * @property {number} end_s
 * @property {string} text empty in a gap
 * @property {TimedWord[]} words
 */

/** @typedef {{ start_s: number, end_s: number, stable: string, volatile: string }} Open */

export class Transcript {
  /** @type {Segment[]} */
  segments = [];
  /** The utterance that is being spoken. @type {Open | null} */
  open = null;
  numDropped = 0; // segments that went because of MAX_SEGMENTS

  /**
   * Take a message; true when something to show has changed.
   * @param {ServerMessage} message
   * @param {number} base_s where the message's session begins
   */
  add(message, base_s) {
    if (message.type !== "partial" && message.type !== "final") {
      return false;
    }
    const start_s = base_s + message.start_sample / RING_RATE_HZ;
    const end_s = base_s + message.end_sample / RING_RATE_HZ;
    if (message.type === "partial") {
      const stable = String(message.stable).trimStart();
      const volatile_ = stable ? String(message.volatile) : String(message.volatile).trimStart();
      this.open = { start_s, end_s, stable, volatile: gap(stable, volatile_) + volatile_ };
      return true;
    }
    this.open = null;
    const text = String(message.text).trim();
    if (text) {
      const words = (message.words ?? []).map((/** @type {any[]} */ word) => ({
        text: String(word[0]).trim(),
        start_s: base_s + word[1] / RING_RATE_HZ,
        end_s: base_s + word[2] / RING_RATE_HZ,
      }));
      this.push({ kind: "text", start_s, end_s, text, words });
    }
    return true;
  }

  /** This audio will have no text; what was shown of it stays, as a draft. @param {number} start_s @param {number} end_s */
  lose(start_s, end_s) {
    const open = this.open;
    this.open = null;
    const text = open === null ? "" : (open.stable + open.volatile).trim();
    if (open !== null && text) {
      const draft_end_s = Math.min(open.end_s, end_s);
      this.push({ kind: "draft", start_s: open.start_s, end_s: draft_end_s, text, words: [] });
      start_s = Math.max(start_s, draft_end_s);
    }
    if (end_s > start_s) {
      this.push({ kind: "gap", start_s, end_s, text: "", words: [] });
    }
  }

  /** @param {Segment} segment */
  push(segment) {
    this.segments.push(segment);
    if (this.segments.length > MAX_SEGMENTS) {
      this.segments.shift();
      this.numDropped++;
    }
  }

  /** Is there anything to copy or to save? */
  get hasText() {
    return this.segments.some((segment) => segment.kind !== "gap") || this.open !== null;
  }

  /** Each segment's words, with times spread over it where the model gave none. */
  timedWords() {
    return this.segments
      .filter((segment) => segment.kind !== "gap")
      .map(({ words, text, start_s, end_s }) =>
        words.length > 0 ? words : spreadWords(text, start_s, end_s),
      );
  }

  /** One paragraph a segment, gaps in brackets, the open utterance last. */
  plainText() {
    const lines = this.segments.map(lineOf);
    if (this.open !== null) {
      lines.push((this.open.stable + this.open.volatile).trim());
    }
    return lines.length > 0 ? lines.join("\n") + "\n" : "";
  }
}

/** How a segment reads. @param {Segment} segment @returns {string} */
export function lineOf(segment) {
  if (segment.kind !== "gap") {
    return segment.text;
  }
  return `[${(segment.end_s - segment.start_s).toFixed(1)} s were lost]`;
}

/**
 * The transcript of a file from the answer of POST /v1/audio/transcriptions (verbose_json).
 * @param {any} answer
 * @returns {Transcript}
 */
export function transcriptOfFile(answer) {
  const transcript = new Transcript();
  const words = [...(answer.words ?? [])];
  const whole = { start: 0, end: answer.duration ?? 0, text: answer.text ?? "" };
  const segments = answer.segments?.length > 0 ? answer.segments : [whole];
  for (const [i, { start, end, text }] of segments.entries()) {
    const until = i + 1 < segments.length ? segments[i + 1].start : Infinity;
    /** @type {TimedWord[]} */
    const own = [];
    while (words.length > 0 && words[0].start < until) {
      const word = words.shift();
      own.push({ text: String(word.word).trim(), start_s: word.start, end_s: word.end });
    }
    if (String(text).trim()) {
      const segment = { start_s: start, end_s: end, text: String(text).trim(), words: own };
      transcript.push({ kind: "text", ...segment });
    }
  }
  return transcript;
}
