// @ts-check
/**
 * Light or dark before the first paint: a plain script in the head, because modules come later.
 * theme.js takes over from it.
 */
{
  let theme = "system";
  try {
    theme = localStorage.getItem("earwire.theme") ?? theme;
  } catch {
    // No storage: the system decides.
  }
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const isChosen = theme === "dark" || theme === "light";
  document.documentElement.dataset.theme = isChosen ? theme : isDark ? "dark" : "light";
}
