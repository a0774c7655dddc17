// @ts-check
/**
 * The switch between light, dark and what the system says. style.css reads `data-theme`.
 */

import { readSetting, writeSetting } from "./settings.js";

const CHOICES = ["system", "light", "dark"];
/** @type {Record<string, string>} */
const LABELS = { system: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

/** Make `button` go through the themes. @param {HTMLButtonElement} button */
export function installThemeSwitch(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const theme = chosenTheme();
    const resolved = theme === "system" ? (system.matches ? "dark" : "light") : theme;
    document.documentElement.dataset.theme = resolved;
    button.dataset.choice = theme;
    button.setAttribute("aria-label", LABELS[theme]);
    button.title = LABELS[theme];
  };
  button.addEventListener("click", () => {
    const next = (CHOICES.indexOf(chosenTheme()) + 1) % CHOICES.length;
    writeSetting("theme", CHOICES[next]);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

/** @returns {string} one of CHOICES, whatever the browser kept */
function chosenTheme() {
  const theme = readSetting("theme");
  return CHOICES.includes(theme) ? theme : CHOICES[0];
}
