// @ts-check
/**
 * The transcripts of this page: the live one and those of files, as tabs. The tabs show once there
 * is more than the live one. app.js owns one.
 */

export const MAX_FILES = 8; // the oldest goes first

/** @typedef {import("./transcript.js").Transcript} Transcript */
/** @typedef {{ title: string, transcript: Transcript, tab: HTMLButtonElement }} Page */

export class Documents {
  #list;
  #scroller;
  #onChoose;
  /** @type {Page[]} */
  #pages;
  #chosen;

  /**
   * @param {HTMLElement} list with role="tablist"
   * @param {HTMLElement} scroller what the tabs switch
   * @param {Transcript} live
   * @param {() => void} onChoose
   */
  constructor(list, scroller, live, onChoose) {
    this.#list = list;
    this.#scroller = scroller;
    this.#onChoose = onChoose;
    this.#pages = [this.#page("Live", live)];
    this.#chosen = this.#pages[0];
    list.addEventListener("keydown", (event) => this.#key(event));
    this.#render();
  }

  get transcript() {
    return this.#chosen.transcript;
  }

  get title() {
    return this.#chosen.title;
  }

  get isLive() {
    return this.#chosen === this.#pages[0];
  }

  /** The live transcript, which may be a new one. @param {Transcript} transcript */
  setLive(transcript) {
    this.#pages[0].transcript = transcript;
  }

  showLive() {
    this.#choose(this.#pages[0]);
  }

  /** @param {string} title @param {Transcript} transcript */
  addFile(title, transcript) {
    if (this.#pages.length > MAX_FILES) {
      this.#pages.splice(1, 1);
    }
    this.#pages.push(this.#page(title, transcript));
    this.#choose(this.#pages[this.#pages.length - 1]);
  }

  /** Take the chosen file's transcript away. */
  closeFile() {
    if (!this.isLive) {
      this.#pages.splice(this.#pages.indexOf(this.#chosen), 1);
      this.#choose(this.#pages[0]);
    }
  }

  /** @param {string} title @param {Transcript} transcript @returns {Page} */
  #page(title, transcript) {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.className = "tab";
    tab.textContent = tab.title = title;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", this.#scroller.id);
    const page = { title, transcript, tab };
    tab.addEventListener("click", () => this.#choose(page));
    return page;
  }

  /** @param {Page} page */
  #choose(page) {
    this.#chosen = page;
    this.#render();
    this.#onChoose();
  }

  #render() {
    this.#list.hidden = this.#pages.length === 1;
    this.#list.replaceChildren(...this.#pages.map((page) => page.tab));
    for (const page of this.#pages) {
      const isChosen = page === this.#chosen;
      page.tab.setAttribute("aria-selected", String(isChosen));
      page.tab.tabIndex = isChosen ? 0 : -1;
    }
  }

  /** Arrows, Home and End, as tabs have it. @param {KeyboardEvent} event */
  #key(event) {
    const last = this.#pages.length - 1;
    const at = this.#pages.indexOf(this.#chosen);
    const targets = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last };
    if (event.key in targets) {
      event.preventDefault();
      const to = targets[/** @type {keyof typeof targets} */ (event.key)];
      const page = this.#pages[(to + this.#pages.length) % this.#pages.length];
      this.#choose(page);
      page.tab.focus();
    }
  }
}
