// @ts-check
/**
 * A short word about what was done, for some seconds, with a way to take it back where there is one.
 */

const SHOWN_MS = 4_000;
const SHOWN_WITH_ACTION_MS = 10_000;

export class Toast {
  #element;
  #timer = 0;

  /** @param {HTMLElement} element with role="status" */
  constructor(element) {
    this.#element = element;
  }

  /** @param {string} text @param {string} [label] of a button @param {() => void} [action] */
  say(text, label = "", action = undefined) {
    clearTimeout(this.#timer);
    this.#element.replaceChildren(text);
    if (action !== undefined) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.addEventListener("click", () => {
        this.#element.replaceChildren();
        action();
      });
      this.#element.append(button);
    }
    const shown_ms = action === undefined ? SHOWN_MS : SHOWN_WITH_ACTION_MS;
    this.#timer = window.setTimeout(() => this.#element.replaceChildren(), shown_ms);
  }
}
