// @ts-check
/**
 * The caption page: joins the parts, and nothing else. Loaded by index.html.
 */

import { Captioner } from "./captioner.js";
import { CaptionsView, clockText } from "./captions_view.js";
import { Choices } from "./choices.js";
import { Documents } from "./documents.js";
import { copyText, download, liveName } from "./transcript_export.js";
import { FileUpload } from "./file_upload.js";
import { microphoneObstacle } from "./microphone.js";
import { Panel } from "./panel.js";
import { ApiError, fetchModels } from "./server_api.js";
import { readSetting, writeSetting } from "./settings.js";
import { mainText, ProblemView, setText, statusText } from "./status_view.js";
import { installThemeSwitch } from "./theme.js";
import { Toast } from "./toast.js";
import { keepAwake } from "./wake_lock.js";

/** @typedef {import("./captioner.js").CaptionState} CaptionState */
/** @typedef {import("./latency.js").Delays} Delays */

const REFRESH_MS = 250; // clock, countdown and delays
const METER_FALL = 0.85; // of the level, from block to block

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
function find(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) {
    throw new Error(`the page has no ${id}`);
  }
  return element;
}
const box = (/** @type {string} */ id) => find(id, HTMLElement);
const button = (/** @type {string} */ id) => find(id, HTMLButtonElement);
const select = (/** @type {string} */ id) => find(id, HTMLSelectElement);

class App {
  /** @type {CaptionState} */
  #state = { phase: "idle", isOn: false, problem: "", detail: "", retry_at_ms: 0 };
  #pageProblem = microphoneObstacle() ?? ""; // of the page or a file; captions have their own
  #pageDetail = "";
  #level = 0;
  #hasUnsaved = false;
  #captioner = new Captioner({
    onText: () => this.#textChanged(),
    onState: (state) => this.#stateChanged(state),
    onLevel: (peak) => this.#levelChanged(peak),
    onStarted: () => void this.#choices.offerMicrophones(),
  });
  #view = new CaptionsView({
    scroller: box("scroller"),
    welcome: box("welcome"),
    log: box("log"),
    open: box("open"),
    stable: box("stable"),
    volatile: box("volatile"),
    latest: box("latest"),
  });
  #documents = new Documents(box("tabs"), box("scroller"), this.#captioner.transcript, () =>
    this.#render(),
  );
  #problem = new ProblemView(
    {
      box: box("problem"),
      title: box("problem-title"),
      text: box("problem-text"),
      tokenForm: find("token-form", HTMLFormElement),
      token: find("token", HTMLInputElement),
      action: button("problem-action"),
      close: button("problem-close"),
    },
    (action) => this.#act(action),
    (token) => this.#useToken(token),
  );
  #choices = new Choices(
    {
      language: select("language"),
      model: select("model"),
      microphone: select("microphone"),
      microphoneField: box("microphone-field"),
      textSize: find("text-size", HTMLInputElement),
    },
    () => void this.#applyChoice(),
  );
  #panel = new Panel(box("panel"), button("panel-open"), button("panel-close"));
  #toast = new Toast(box("toast"));

  constructor() {
    takeTokenFromAddress();
    installThemeSwitch(button("theme"));
    this.#installButtons();
    this.#installUpload();
    setInterval(() => this.#refresh(), REFRESH_MS);
    window.addEventListener("online", () => this.#captioner.retry());
    window.addEventListener("offline", () => this.#captioner.dropConnection());
    window.addEventListener("pagehide", () => this.#captioner.leave());
    window.addEventListener("beforeunload", (event) => this.#hasUnsaved && event.preventDefault());
    this.#render();
    void this.#loadModels();
  }

  // Captions

  /** @returns {Record<string, unknown>} */
  get #hello() {
    const { language, model } = this.#choices;
    const token = readSetting("token");
    return { token, language: language || null, model: model || null, client: "earwire-page/1" };
  }

  #toggle() {
    if (this.#captioner.isOn) {
      void this.#captioner.pause();
    } else {
      this.#pageProblem = "";
      this.#documents.showLive();
      void this.#captioner.start(this.#hello, this.#choices.microphone);
    }
  }

  #textChanged() {
    this.#documents.setLive(this.#captioner.transcript);
    this.#hasUnsaved = this.#captioner.transcript.hasText;
    this.#render();
  }

  /** @param {CaptionState} state */
  #stateChanged(state) {
    this.#state = state;
    keepAwake(state.isOn);
    this.#render();
  }

  /** @param {number} peak 0 to 1 */
  #levelChanged(peak) {
    this.#level = Math.max(peak, this.#level * METER_FALL);
    box("meter-bar").style.transform = `scaleX(${Math.min(1, Math.sqrt(this.#level))})`;
  }

  // What is shown

  #render() {
    const { transcript } = this.#documents;
    const hasLiveText = this.#captioner.transcript.hasText;
    this.#view.show(transcript);
    box("status").dataset.phase = this.#state.phase;
    setText(box("status-text"), statusText(this.#state, hasLiveText));
    setText(box("main-text"), mainText(this.#state, hasLiveText));
    setText(box("lead"), this.#state.isOn ? "Listening." : "Start, and speak.");
    button("main").dataset.on = String(this.#state.isOn);
    for (const each of document.querySelectorAll("#copy, #clear, [data-download]")) {
      /** @type {HTMLButtonElement} */ (each).disabled = !transcript.hasText;
    }
    setText(button("clear"), this.#documents.isLive ? "Clear" : "Close");
    this.#refresh();
  }

  /** What changes with time alone. */
  #refresh() {
    const { problem, detail, phase, retry_at_ms, isOn } = this.#state;
    setText(box("clock"), clockText(this.#captioner.captured_s));
    if (!isOn) {
      this.#level = 0;
      box("meter-bar").style.transform = "scaleX(0)";
    }
    const { delays } = this.#captioner.meter;
    for (const cell of /** @type {NodeListOf<HTMLElement>} */ (
      document.querySelectorAll("[data-delay]")
    )) {
      setText(cell, delayText(delays[/** @type {keyof Delays} */ (cell.dataset.delay)]));
    }
    setText(box("delay-short"), delays.text_ms === null ? "" : `${delayText(delays.text_ms)} behind`);
    const hasToken = readSetting("token") !== "";
    const around = { hasToken, origin: location.origin };
    if (problem && phase === "waiting") {
      const retry_in_s = Math.max(0, retry_at_ms - performance.now()) / 1000;
      this.#problem.show(problem, { ...around, detail, retry_in_s, kept_s: this.#captioner.kept_s });
    } else if (problem) {
      this.#problem.show(problem, { ...around, detail });
    } else {
      this.#problem.show(this.#pageProblem, { ...around, detail: this.#pageDetail });
    }
  }

  // What can be done

  #installButtons() {
    button("main").addEventListener("click", () => this.#toggle());
    button("copy").addEventListener("click", () => void this.#copy());
    button("clear").addEventListener("click", () => this.#clear());
    for (const each of document.querySelectorAll("[data-download]")) {
      const { download: format } = /** @type {HTMLElement} */ (each).dataset;
      each.addEventListener("click", () => this.#save(/** @type {any} */ (format)));
    }
    /** @type {Record<string, () => void>} */
    const shortcuts = {
      KeyP: () => this.#toggle(),
      KeyC: () => void this.#copy(),
      KeyS: () => this.#save("txt"),
    };
    document.addEventListener("keydown", (event) => {
      const task = shortcuts[event.code];
      if (task && event.altKey && !event.ctrlKey && !event.metaKey && !event.repeat) {
        event.preventDefault();
        task();
      }
    });
  }

  async #copy() {
    const text = this.#documents.transcript.plainText();
    if (text) {
      const isCopied = await copyText(text);
      this.#toast.say(isCopied ? "Copied" : "The browser did not let the text be copied");
      this.#markSaved(isCopied);
    }
  }

  /** @param {"srt" | "vtt" | "txt"} format */
  #save(format) {
    const { transcript, isLive, title } = this.#documents;
    if (transcript.hasText) {
      const name = isLive ? liveName(new Date()) : title.replace(/\.[^.]*$/, "");
      download(transcript, format, name);
      this.#markSaved(true);
    }
  }

  /** @param {boolean} isSaved */
  #markSaved(isSaved) {
    this.#hasUnsaved = this.#hasUnsaved && !(isSaved && this.#documents.isLive);
  }

  #clear() {
    if (!this.#documents.isLive) {
      this.#documents.closeFile();
      return;
    }
    const old = this.#captioner.clear();
    this.#toast.say("Cleared", "Undo", () => {
      old.segments.push(...this.#captioner.transcript.segments);
      old.open = this.#captioner.transcript.open;
      this.#captioner.transcript = old;
      this.#textChanged();
    });
  }

  /** @param {import("./problems.js").Problem["action"]} action */
  #act(action) {
    if (action === "retry") {
      this.#captioner.retry();
    } else if (action === "reload") {
      location.reload();
    } else if (action === "any_language" || action === "any_model") {
      this.#choices.reset(action === "any_language" ? "language" : "model");
    }
    const isOfCaptions = this.#state.problem !== "";
    this.#pageProblem = "";
    if (isOfCaptions && ["start", "any_language", "any_model"].includes(action)) {
      this.#toggle();
    }
    this.#refresh();
  }

  /** @param {string} token */
  #useToken(token) {
    const wasLive = this.#state.problem === "unauthorized";
    writeSetting("token", token);
    this.#pageProblem = "";
    void this.#loadModels();
    if (wasLive && !this.#captioner.isOn) {
      this.#toggle();
    }
    this.#render();
  }

  /** A session keeps its language and its model: end it, and go on with another. */
  async #applyChoice() {
    if (this.#captioner.isOn) {
      await this.#captioner.pause();
      if (!this.#captioner.isOn) {
        this.#toggle(); // unless another change was quicker
      }
    }
  }

  async #loadModels() {
    try {
      this.#choices.offerModels(await fetchModels(readSetting("token")));
    } catch (error) {
      if (error instanceof ApiError && error.code === "unauthorized") {
        this.#pageProblem = error.code;
        this.#render();
      } // any other trouble shows when captions begin
    }
  }

  #installUpload() {
    new FileUpload(
      {
        input: find("file", HTMLInputElement),
        veil: box("drop-veil"),
        box: box("upload"),
        text: box("upload-text"),
        bar: find("upload-bar", HTMLProgressElement),
        cancel: button("upload-cancel"),
      },
      {
        options: () => ({
          model: this.#choices.modelOfFiles,
          language: this.#choices.language,
          token: readSetting("token"),
        }),
        onDone: (name, transcript) => {
          this.#panel.close();
          this.#documents.addFile(name, transcript);
          this.#toast.say(transcript.hasText ? `${name} is done` : `No words found in ${name}`);
        },
        onProblem: (code, detail) => {
          this.#panel.close();
          this.#pageProblem = code;
          this.#pageDetail = detail;
          this.#refresh();
        },
      },
    );
  }
}

/** @param {number | null} delay_ms @returns {string} */
function delayText(delay_ms) {
  if (delay_ms === null) {
    return "–";
  }
  return delay_ms < 1000 ? `${Math.round(delay_ms)} ms` : `${(delay_ms / 1000).toFixed(1)} s`;
}

/** `#token=…` in the address, as in a QR code: kept, and taken out of sight. */
function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    writeSetting("token", token);
    history.replaceState(null, "", location.pathname + location.search);
  }
}

new App();
