// @ts-check
/**
 * Keeps a phone's screen on while it listens, where the browser can.
 */

let isWanted = false;
/** @type {WakeLockSentinel | null} */
let lock = null;

/** @param {boolean} isOn */
export function keepAwake(isOn) {
  if (isOn !== isWanted) {
    isWanted = isOn;
    void update();
  }
}

async function update() {
  if (!isWanted) {
    await lock?.release();
    lock = null;
  } else if ("wakeLock" in navigator && document.visibilityState === "visible") {
    // Refused when the battery is low, for instance: then the screen goes dark as ever.
    lock = await navigator.wakeLock.request("screen").catch(() => null);
    if (!isWanted) {
      await update(); // it was switched off meanwhile
    }
  }
}

// The browser takes the lock away from a page out of sight.
document.addEventListener("visibilitychange", () => void update());
