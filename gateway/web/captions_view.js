// @ts-check
/**
 * A transcript on the page: finished lines in a log that screen readers follow, the open utterance
 * behind it, and a view that stays at the newest text until somebody scrolls away from it.
 *
 * All text goes in as text, never as markup. app.js owns one.
 */

import { lineOf } from "./transcript.js";

const MAX_LINES = 1_000; // on the page; copies and downloads have them all
const NEAR_END_PX = 48;

/** @typedef {import("./transcript.js").Segment} Segment */
/** @typedef {import("./transcript.js").Transcript} Transcript */

/**
 * @typedef {object} CaptionElements
 * @property {HTMLElement} scroller
 * @property {HTMLElement} welcome shown while there is nothing
 * @property {HTMLElement} log
 * @property {HTMLElement} open
 * @property {HTMLElement} stable
 * @property {HTMLElement} volatile
 * @property {HTMLElement} latest the button back to the end
 */

export class CaptionsView {
  #elements;
  /** @type {Transcript | null} */
  #transcript = null;
  #numShown = 0; // segments of the transcript that were given a line, dropped ones included
  #isFollowing = true;

  /** @param {CaptionElements} elements */
  constructor(elements) {
    this.#elements = elements;
    const { scroller, latest } = elements;
    scroller.addEventListener("scroll", () => {
      const below_px = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
      this.#isFollowing = below_px < NEAR_END_PX;
      latest.hidden = this.#isFollowing;
    });
    latest.addEventListener("click", () => {
      this.#scrollToEnd();
      scroller.focus({ preventScroll: true });
    });
    new ResizeObserver(() => this.#isFollowing && this.#scrollToEnd()).observe(scroller);
  }

  /** Bring the page up to date with `transcript`, which may be another one. @param {Transcript} transcript */
  show(transcript) {
    const { welcome, log, open, stable, volatile } = this.#elements;
    if (transcript !== this.#transcript) {
      log.replaceChildren();
      this.#transcript = transcript;
      this.#numShown = Math.max(0, transcript.segments.length - MAX_LINES) + transcript.numDropped;
      this.#isFollowing = true;
    }
    const numNew = transcript.segments.length + transcript.numDropped - this.#numShown;
    this.#numShown += numNew;
    log.append(...(numNew > 0 ? transcript.segments.slice(-numNew).map(lineElement) : []));
    while (log.childElementCount > MAX_LINES) {
      log.firstElementChild?.remove();
    }
    open.hidden = transcript.open === null;
    stable.textContent = transcript.open?.stable ?? "";
    volatile.textContent = transcript.open?.volatile ?? "";
    welcome.hidden = transcript.segments.length > 0 || transcript.open !== null;
    if (this.#isFollowing) {
      this.#scrollToEnd();
    }
  }

  #scrollToEnd() {
    const { scroller } = this.#elements;
    scroller.scrollTop = scroller.scrollHeight;
  }
}

/** @param {Segment} segment @returns {HTMLElement} */
function lineElement(segment) {
  const line = document.createElement("div");
  line.className = "line";
  line.dataset.kind = segment.kind;
  const time = document.createElement("time");
  time.textContent = clockText(segment.start_s);
  time.setAttribute("aria-hidden", "true");
  const text = document.createElement("p");
  text.textContent = lineOf(segment);
  line.append(time, text);
  return line;
}

/** 3725 s as "1:02:05". @param {number} seconds @returns {string} */
export function clockText(seconds) {
  const whole_s = Math.floor(seconds);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole_s / 3600);
  const minutes = Math.floor(whole_s / 60) % 60;
  const start = hours > 0 ? `${hours}:${two(minutes)}` : String(minutes);
  return `${start}:${two(whole_s % 60)}`;
}
