// @ts-check
/**
 * Language, model, microphone and text size: the selects of the page, kept over visits.
 */

import { languageChoices } from "./languages.js";
import { listMicrophones } from "./microphone.js";
import { readSetting, writeSetting } from "./settings.js";

/** @typedef {"language" | "model" | "microphone"} Choice */

/**
 * @typedef {object} ChoiceElements
 * @property {HTMLSelectElement} language
 * @property {HTMLSelectElement} model
 * @property {HTMLSelectElement} microphone
 * @property {HTMLElement} microphoneField shown where there is more than one
 * @property {HTMLInputElement} textSize
 */

export class Choices {
  #elements;

  /** @param {ChoiceElements} elements @param {() => void} onChange of what a session depends on */
  constructor(elements, onChange) {
    this.#elements = elements;
    fill(elements.language, languageChoices().map(({ code, name }) => [name, code]));
    elements.language.value = readSetting("language");
    for (const name of /** @type {Choice[]} */ (["language", "model", "microphone"])) {
      elements[name].addEventListener("change", () => {
        writeSetting(name, elements[name].value);
        onChange();
      });
    }
    this.#installTextSize(elements.textSize);
  }

  get language() {
    return this.#elements.language.value;
  }

  get model() {
    return this.#elements.model.value;
  }

  get microphone() {
    return this.#elements.microphone.value || readSetting("microphone");
  }

  /** A transcription has to name a model; the server puts its own in place of one it lacks. */
  get modelOfFiles() {
    return this.model || this.#elements.model.options[1]?.value || "default";
  }

  /** Back to what the server decides. @param {Choice} name */
  reset(name) {
    this.#elements[name].value = "";
    writeSetting(name, "");
  }

  /** @param {string[]} models */
  offerModels(models) {
    this.#offer("model", models.map((id) => [id, id]));
  }

  /** The browser tells their names once the page has one of them. */
  async offerMicrophones() {
    const microphones = await listMicrophones();
    this.#offer("microphone", microphones.map(({ id, label }) => [label, id]));
    this.#elements.microphoneField.hidden = microphones.length < 2;
  }

  /** @param {Choice} name @param {[text: string, value: string][]} options */
  #offer(name, options) {
    const list = this.#elements[name];
    fill(list, options);
    list.value = readSetting(name);
    if (list.selectedIndex < 0) {
      this.reset(name); // what was chosen is no longer there
    }
  }

  /** @param {HTMLInputElement} range */
  #installTextSize(range) {
    range.value = readSetting("text_size", range.value);
    const apply = () => {
      const scale = 0.7 + 0.1 * Number(range.value);
      document.documentElement.style.setProperty("--text-scale", scale.toFixed(1));
    };
    range.addEventListener("input", () => {
      writeSetting("text_size", range.value);
      apply();
    });
    apply();
  }
}

/** The first option stays. @param {HTMLSelectElement} list @param {[text: string, value: string][]} options */
function fill(list, options) {
  list.length = 1;
  for (const [text, value] of options) {
    list.add(new Option(text, value));
  }
}
