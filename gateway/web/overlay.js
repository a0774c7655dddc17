// @ts-check
/**
 * The caption bar for OBS: starts by itself, shows the last lines, and gets out of the way. Loaded
 * by overlay.html; its address holds its settings (overlay_options.js).
 */

import { Captioner } from "./captioner.js";
import { gap } from "./joined_text.js";
import { findMicrophone } from "./microphone.js";
import { overlayOptions } from "./overlay_options.js";
import { problemOf } from "./problems.js";

const RESTART_MS = 10_000; // after what only a person could mend: nobody is there to press a button
const MAX_SHOWN_CHARS = 2_000; // far more than fits
const FOR_GOOD = ["insecure", "no_media", "no_worklet"];

const options = overlayOptions(location.search, location.hash);
const bar = element("bar");
const done = element("done");
const volatile = element("volatile");
const message = element("message");
let hideTimer = 0;
let restartTimer = 0;

const captioner = new Captioner({
  onText: showText,
  onState: showState,
  onLevel: () => undefined,
  onStarted: () => undefined,
});

/** @param {string} id @returns {HTMLElement} */
function element(id) {
  const found = document.getElementById(id);
  if (found === null) {
    throw new Error(`the page has no ${id}`);
  }
  return found;
}

function applyOptions() {
  const { style } = document.documentElement;
  style.setProperty("--size", `${options.size_px}px`);
  style.setProperty("--lines", String(options.lines));
  style.setProperty("--color", options.color);
  style.setProperty("--box", `${options.box_percent}%`);
  style.setProperty("--width", `${options.width_percent}%`);
  document.body.dataset.position = options.position;
  document.body.dataset.align = options.align;
}

function showText() {
  const { segments, open } = captioner.transcript;
  const last = segments.slice(-4 * options.lines).map((segment) => segment.text);
  const said = [...last, open?.stable ?? ""].reduce((text, next) => text + gap(text, next) + next, "");
  done.textContent = said.slice(-MAX_SHOWN_CHARS);
  const draft = options.drafts ? (open?.volatile ?? "") : "";
  const begun = done.textContent ? draft.trimStart() : draft;
  volatile.textContent = gap(said, begun) + begun;
  bar.hidden = done.textContent + volatile.textContent === "";
  clearTimeout(hideTimer);
  if (options.hide_s > 0 && !bar.hidden) {
    // After silence the next words begin an empty bar.
    hideTimer = window.setTimeout(() => captioner.clear(), options.hide_s * 1000);
  }
}

/** @param {import("./captioner.js").CaptionState} state */
function showState({ phase, problem, detail, isOn }) {
  const isWaiting = phase === "waiting";
  const around = { detail, origin: location.origin, hasToken: options.token !== "" };
  const { title, text } = problemOf(problem, isWaiting ? { ...around, retry_in_s: 0 } : around);
  message.hidden = problem === "" || !options.messages;
  message.textContent = message.hidden ? "" : `${title}. ${isWaiting ? "" : text}`.trim();
  if (problem === "gesture") {
    document.addEventListener("pointerdown", () => void start(), { once: true });
  } else if (problem && !isOn && !isWaiting && !FOR_GOOD.includes(problem)) {
    clearTimeout(restartTimer);
    restartTimer = window.setTimeout(start, RESTART_MS);
  }
}

async function start() {
  const { token, language, model, microphone } = options;
  const hello = {
    token,
    language: language || null,
    model: model || null,
    client: "earwire-overlay/1",
  };
  await captioner.start(hello, await findMicrophone(microphone));
}

applyOptions();
window.addEventListener("online", () => captioner.retry());
window.addEventListener("offline", () => captioner.dropConnection());
window.addEventListener("pagehide", () => captioner.leave());
void start();
