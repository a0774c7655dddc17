// @ts-check
/**
 * Audio that is not in a transcript yet, so that a new connection can have it again.
 *
 * Pure. Positions are samples of the microphone since captions began, whatever connections came and
 * went. live_stream.js owns one. Bounded: past `maxSamples` the oldest audio goes, and `start` says
 * from where on audio is left.
 */

/** @typedef {{ start: number, pcm: Int16Array }} Block */

export class Backlog {
  /** @type {Block[]} */
  #blocks = [];
  #end = 0;

  /** @param {number} maxSamples */
  constructor(maxSamples) {
    this.maxSamples = maxSamples;
  }

  /** The first sample that is kept. */
  get start() {
    return this.#blocks.length > 0 ? this.#blocks[0].start : this.#end;
  }

  /** The sample after the last. */
  get end() {
    return this.#end;
  }

  /** Take the microphone's next samples. @param {Int16Array} pcm */
  append(pcm) {
    this.#blocks.push({ start: this.#end, pcm });
    this.#end += pcm.length;
    this.release(this.#end - this.maxSamples);
  }

  /** Forget what lies before `sample`; a block is kept while a part of it is. @param {number} sample */
  release(sample) {
    let count = 0;
    while (count < this.#blocks.length && blockEnd(this.#blocks[count]) <= sample) {
      count++;
    }
    this.#blocks.splice(0, count);
  }

  /**
   * Up to `maxSamples` samples from `sample` on, as they are kept; null when there are none yet.
   * Throws RangeError for samples that are gone.
   * @param {number} sample
   * @param {number} maxSamples
   * @returns {Int16Array | null}
   */
  read(sample, maxSamples) {
    if (sample < this.start) {
      throw new RangeError(`sample ${sample} is gone, the first kept is ${this.start}`);
    }
    const block = this.#blocks[this.#indexOf(sample)];
    if (block === undefined) {
      return null;
    }
    const from = sample - block.start;
    return block.pcm.subarray(from, from + maxSamples);
  }

  /** Index of the block that holds `sample`, by halving. @param {number} sample @returns {number} */
  #indexOf(sample) {
    let low = 0;
    let high = this.#blocks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (blockEnd(this.#blocks[middle]) <= sample) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
}

/** @param {Block} block @returns {number} */
function blockEnd(block) {
  return block.start + block.pcm.length;
}
