// @ts-check
/**
 * A file from the chooser or dropped anywhere on the page, on its way to its transcript: one at a
 * time, with progress and a way to cancel. app.js gives it the options and takes the result.
 */

import { ApiError, transcribeFile } from "./server_api.js";
import { transcriptOfFile } from "./transcript.js";

/**
 * @typedef {object} UploadElements
 * @property {HTMLInputElement} input
 * @property {HTMLElement} veil shown while a file hovers over the page
 * @property {HTMLElement} box
 * @property {HTMLElement} text
 * @property {HTMLProgressElement} bar
 * @property {HTMLButtonElement} cancel
 */

/**
 * @typedef {object} UploadListener
 * @property {() => { model: string, language: string, token: string }} options
 * @property {(name: string, transcript: import("./transcript.js").Transcript) => void} onDone
 * @property {(code: string, detail: string) => void} onProblem
 */

export class FileUpload {
  #elements;
  #listener;
  /** @type {AbortController | null} of the file under way */
  #running = null;

  /** @param {UploadElements} elements @param {UploadListener} listener */
  constructor(elements, listener) {
    this.#elements = elements;
    this.#listener = listener;
    const { input, cancel } = elements;
    input.addEventListener("change", () => {
      const file = input.files?.[0];
      input.value = ""; // the same file may be chosen again
      void this.#start(file);
    });
    cancel.addEventListener("click", () => this.#running?.abort());
    this.#listenToDrops();
  }

  #listenToDrops() {
    const { veil } = this.#elements;
    const hasFile = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (hasFile(event)) {
        event.preventDefault();
        veil.hidden = false;
      }
    });
    document.addEventListener("dragleave", (event) => {
      veil.hidden = veil.hidden || event.relatedTarget === null; // it left the window
    });
    document.addEventListener("drop", (event) => {
      if (hasFile(event)) {
        event.preventDefault();
        veil.hidden = true;
        void this.#start(event.dataTransfer?.files[0]);
      }
    });
  }

  /** @param {File | undefined} file */
  async #start(file) {
    if (file === undefined || this.#running !== null) {
      return;
    }
    const running = new AbortController();
    this.#running = running;
    this.#show(file.name, 0);
    this.#elements.box.hidden = false;
    try {
      const onUpload = (/** @type {number} */ share) => this.#show(file.name, share);
      const options = this.#listener.options();
      const answer = await transcribeFile(file, options, onUpload, running.signal);
      this.#listener.onDone(file.name, transcriptOfFile(answer));
    } catch (error) {
      if (!(error instanceof ApiError)) {
        throw error;
      }
      if (error.code !== "cancelled") {
        this.#listener.onProblem(error.code, error.message);
      }
    } finally {
      this.#running = null;
      this.#elements.box.hidden = true;
    }
  }

  /** @param {string} name @param {number} share of the file that has left */
  #show(name, share) {
    const { text, bar } = this.#elements;
    if (share < 1) {
      text.textContent = `Sending ${name}`;
      bar.value = share;
    } else {
      text.textContent = `Transcribing ${name}`;
      bar.removeAttribute("value"); // how long it takes is not known
    }
  }
}
