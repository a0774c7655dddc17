// @ts-check
/**
 * On the audio thread: the microphone's float samples as 20 ms blocks of 16-bit PCM.
 *
 * microphone.js loads it. Alone in its file and without imports, because not every browser lets a
 * worklet import; outside of one (in tests) only PcmBlocks is of use.
 */

const BLOCKS_PER_SECOND = 50;

/** Collects samples of any number into blocks of one size. */
export class PcmBlocks {
  #block;
  #filled = 0;
  #peak = 0;

  /** @param {number} blockSamples @param {(pcm: Int16Array, peak: number) => void} onBlock */
  constructor(blockSamples, onBlock) {
    this.blockSamples = blockSamples;
    this.onBlock = onBlock;
    this.#block = new Int16Array(blockSamples);
  }

  /** @param {Float32Array} samples of full scale 1.0; louder ones are clipped */
  push(samples) {
    for (const sample of samples) {
      const scaled = Math.round(sample * 32768);
      this.#block[this.#filled++] = Math.max(-32768, Math.min(32767, scaled));
      this.#peak = Math.max(this.#peak, Math.abs(sample));
      if (this.#filled === this.blockSamples) {
        this.flush();
      }
    }
  }

  /** Hand out what there is. */
  flush() {
    if (this.#filled > 0) {
      this.onBlock(this.#block.subarray(0, this.#filled), this.#peak);
      this.#block = new Int16Array(this.blockSamples);
      this.#filled = 0;
      this.#peak = 0;
    }
  }
}

if ("registerProcessor" in globalThis) {
  const { AudioWorkletProcessor, registerProcessor, sampleRate } = /** @type {any} */ (globalThis);

  /** Posts { pcm, peak } for each block; says { flushed: true } when it was told to end. */
  class Capture extends AudioWorkletProcessor {
    #isOpen = true;
    #blocks = new PcmBlocks(Math.round(sampleRate / BLOCKS_PER_SECOND), (pcm, peak) =>
      this.port.postMessage({ pcm, peak }, [pcm.buffer]),
    );

    constructor() {
      super();
      this.port.onmessage = () => {
        this.#isOpen = false;
        this.#blocks.flush();
        this.port.postMessage({ flushed: true });
      };
    }

    /** @param {Float32Array[][]} inputs */
    process(inputs) {
      const samples = inputs[0]?.[0]; // the node asked for one channel: the browser mixed them
      if (samples !== undefined && this.#isOpen) {
        this.#blocks.push(samples);
      }
      return this.#isOpen;
    }
  }
  registerProcessor("earwire-capture", Capture);
}
