// @ts-check
/**
 * The settings on a phone: a sheet over the page, which takes the focus and gives it back. On a wide
 * window the same panel stands beside the text and this does nothing.
 */

const BEHIND = ".top, .sheet, .controls, .problem";

export class Panel {
  #panel;
  #opener;
  #closer;

  /** @param {HTMLElement} panel @param {HTMLButtonElement} opener @param {HTMLButtonElement} closer */
  constructor(panel, opener, closer) {
    this.#panel = panel;
    this.#opener = opener;
    this.#closer = closer;
    opener.addEventListener("click", () => this.#set(true));
    closer.addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    document.addEventListener("pointerdown", ({ target }) => {
      if (target instanceof Node && !panel.contains(target)) {
        this.close();
      }
    });
    matchMedia("(min-width: 58.01rem)").addEventListener("change", () => this.close());
  }

  close() {
    if (this.#panel.dataset.open === "true") {
      this.#set(false);
    }
  }

  /** @param {boolean} isOpen */
  #set(isOpen) {
    this.#panel.dataset.open = String(isOpen);
    this.#opener.setAttribute("aria-expanded", String(isOpen));
    for (const element of document.querySelectorAll(BEHIND)) {
      element.toggleAttribute("inert", isOpen);
    }
    (isOpen ? this.#closer : this.#opener).focus();
  }
}
