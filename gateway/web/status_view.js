// @ts-check
/**
 * How captions are going: the line at the top, the main button, and the box that says what went
 * wrong and what to do. app.js feeds it; the words for problems come from problems.js.
 */

import { problemOf } from "./problems.js";

/** @typedef {import("./captioner.js").CaptionState} CaptionState */
/** @typedef {import("./problems.js").Problem} Problem */

/** @type {Record<string, string>} */
const PHASES = {
  starting: "Asking for the microphone",
  connecting: "Connecting",
  live: "Listening",
  finishing: "Last words",
  waiting: "Waiting for the server",
};

/** @type {Record<string, string>} */
const ACTIONS = {
  start: "Try again",
  retry: "Try now",
  reload: "Load again",
  any_language: "Detect the language",
  any_model: "Use the server’s model",
};

/** @param {CaptionState} state @param {boolean} hasText @returns {string} */
export function statusText(state, hasText) {
  return PHASES[state.phase] ?? (hasText ? "Paused" : "Ready");
}

/** @param {CaptionState} state @param {boolean} hasText @returns {string} of the main button */
export function mainText(state, hasText) {
  if (state.isOn) {
    return "Pause";
  }
  return hasText ? "Go on" : "Start";
}

/**
 * @typedef {object} ProblemElements
 * @property {HTMLElement} box
 * @property {HTMLElement} title
 * @property {HTMLElement} text
 * @property {HTMLFormElement} tokenForm
 * @property {HTMLInputElement} token
 * @property {HTMLButtonElement} action
 * @property {HTMLButtonElement} close
 */

export class ProblemView {
  #elements;
  #shown = "";
  #isDismissed = false;

  /**
   * @param {ProblemElements} elements
   * @param {(action: Problem["action"]) => void} onAction
   * @param {(token: string) => void} onToken
   */
  constructor(elements, onAction, onToken) {
    this.#elements = elements;
    elements.action.addEventListener("click", () => {
      onAction(/** @type {Problem["action"]} */ (elements.action.dataset.action));
    });
    elements.close.addEventListener("click", () => {
      this.#isDismissed = true;
      elements.box.hidden = true;
    });
    elements.tokenForm.addEventListener("submit", (event) => {
      event.preventDefault();
      onToken(elements.token.value.trim());
    });
  }

  /** @param {string} code "" hides it @param {import("./problems.js").Circumstances} [around] */
  show(code, around = {}) {
    const { box, title, text, tokenForm, token, action } = this.#elements;
    if (code !== this.#shown) {
      this.#shown = code;
      this.#isDismissed = false;
    }
    box.hidden = code === "" || this.#isDismissed;
    if (box.hidden) {
      return;
    }
    const problem = problemOf(code, around);
    setText(title, problem.title);
    setText(text, problem.text);
    box.dataset.kind = problem.kind;
    box.dataset.code = code;
    // A countdown is read once, not every second.
    box.setAttribute("aria-live", problem.kind === "wait" ? "off" : "assertive");
    const asksToken = problem.action === "token";
    if (asksToken && tokenForm.hidden) {
      tokenForm.hidden = false;
      token.focus();
    }
    tokenForm.hidden = !asksToken;
    action.hidden = !(problem.action in ACTIONS);
    action.dataset.action = problem.action;
    setText(action, ACTIONS[problem.action] ?? "");
  }
}

/** Only what differs: a screen reader need not hear it again. @param {HTMLElement} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}
