// @ts-check
/**
 * How far the text is behind the voice: what a page can know, and nothing that it can not.
 *
 * Pure. Three clocks that are never mixed: the page's (when samples came from the audio thread, when
 * a text came), the server's (the stages of a text, compared only with each other), and the round
 * trip of a ping on the page's. What lies before the audio thread, the sound card and the driver, is
 * in none of them.
 */

const MAX_MARKS = 6_000; // two minutes of 20 ms blocks
const MAX_READINGS = 25; // the medians are over so many
const RING_RATE_HZ = 16_000;
const NS_PER_MS = 1e6;

/** @typedef {import("./frames.js").ServerMessage} ServerMessage */

/**
 * Medians in ms, null where nothing was measured yet.
 * @typedef {object} Delays
 * @property {number | null} text_ms from the last audio in a partial to that partial on the page
 * @property {number | null} final_ms from the end of a phrase to its final text, the pause included
 * @property {number | null} wait_ms in the server: until recognition began
 * @property {number | null} engine_ms in the server: recognition
 * @property {number | null} network_ms there and back
 */

export class LatencyMeter {
  /** @type {{ end_s: number, at_ms: number }[]} */
  #marks = [];
  #hasForgotten = false;
  #readings = { text_ms: [], final_ms: [], wait_ms: [], engine_ms: [], network_ms: [] };

  /** Audio up to `end_s` seconds of the stream was there at `at_ms`. @param {number} end_s @param {number} at_ms */
  mark(end_s, at_ms) {
    this.#marks.push({ end_s, at_ms });
    if (this.#marks.length > 2 * MAX_MARKS) {
      this.#marks.splice(0, MAX_MARKS);
      this.#hasForgotten = true;
    }
  }

  /**
   * A message came; true when a delay could be read off it.
   * @param {ServerMessage} message
   * @param {number} base_s where its session begins
   * @param {number} at_ms
   */
  read(message, base_s, at_ms) {
    const isFinal = message.type === "final";
    if ((!isFinal && message.type !== "partial") || message.end_sample === message.start_sample) {
      return false;
    }
    const heard_ms = this.#heardAt(base_s + message.end_sample / RING_RATE_HZ);
    if (heard_ms === null) {
      return false;
    }
    this.#keep(isFinal ? "final_ms" : "text_ms", at_ms - heard_ms);
    const [receive_ns, , batch_ns, done_ns] = message.stages ?? [0, 0, 0, 0];
    if (!isFinal && receive_ns && batch_ns && done_ns) {
      this.#keep("wait_ms", (batch_ns - receive_ns) / NS_PER_MS);
      this.#keep("engine_ms", (done_ns - batch_ns) / NS_PER_MS);
    }
    return true;
  }

  /** @param {number} rtt_ms */
  roundTrip(rtt_ms) {
    this.#keep("network_ms", rtt_ms);
  }

  /** @returns {Delays} */
  get delays() {
    const { text_ms, final_ms, wait_ms, engine_ms, network_ms } = this.#readings;
    return {
      text_ms: median(text_ms),
      final_ms: median(final_ms),
      wait_ms: median(wait_ms),
      engine_ms: median(engine_ms),
      network_ms: median(network_ms),
    };
  }

  /** @param {keyof Delays} name @param {number} value_ms */
  #keep(name, value_ms) {
    /** @type {number[]} */
    const readings = this.#readings[name];
    readings.push(Math.max(0, value_ms));
    if (readings.length > MAX_READINGS) {
      readings.shift();
    }
  }

  /** When the audio that ends at `end_s` was there. @param {number} end_s @returns {number | null} */
  #heardAt(end_s) {
    let low = 0;
    let high = this.#marks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#marks[middle].end_s < end_s) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const isKnown = low < this.#marks.length && (low > 0 || !this.#hasForgotten);
    return isKnown ? this.#marks[low].at_ms : null;
  }
}

/** @param {number[]} values @returns {number | null} */
function median(values) {
  if (values.length === 0) {
    return null;
  }
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}
