// The card that explains a client of a GPU: it follows the pointer's target or the keyboard's
// focus, stays where a click pins it, and goes with Escape. On a narrow window it lies along the
// bottom.
import { h } from "../dom.ts";

const GAP_PX = 8;

export class Inspector {
  private readonly card = h("div", {
    class: "inspector",
    id: "inspector",
    role: "tooltip",
    hidden: true,
  });
  private target: HTMLElement | undefined;
  private pinned = false;

  constructor() {
    document.body.append(this.card);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
    document.addEventListener("click", (event) => {
      if (!(event.target instanceof Node)) return;
      if (!this.card.contains(event.target) && !this.target?.contains(event.target)) this.close();
    });
    window.addEventListener("resize", () => this.close());
    window.addEventListener("scroll", () => this.follow(), { passive: true });
  }

  // Shows `content()` for `element` whenever that is hovered, focused or clicked.
  explain(element: HTMLElement, content: () => Node): void {
    const show = (): void => {
      if (this.pinned && this.target !== element) return;
      this.show(element, content());
    };
    const hide = (): void => {
      if (!this.pinned && this.target === element) this.close();
    };
    element.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") show();
    });
    element.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && document.activeElement !== element) hide();
    });
    element.addEventListener("focus", () => {
      this.pinned = false;
      show();
    });
    element.addEventListener("blur", () => {
      this.pinned = false;
      hide();
    });
    element.addEventListener("click", () => {
      this.pinned = false;
      show();
      this.pinned = true;
    });
  }

  private show(element: HTMLElement, content: Node): void {
    this.target?.removeAttribute("aria-describedby");
    this.target = element;
    element.setAttribute("aria-describedby", this.card.id);
    this.card.replaceChildren(content);
    this.card.hidden = false;
    this.follow();
  }

  private close(): void {
    this.target?.removeAttribute("aria-describedby");
    this.target = undefined;
    this.pinned = false;
    this.card.hidden = true;
  }

  // Below the target where there is room, otherwise above it; always within the window.
  private follow(): void {
    if (!this.target) return;
    const at = this.target.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.card;
    const room = document.documentElement.clientWidth - width - GAP_PX;
    const left = Math.max(GAP_PX, Math.min(at.left + at.width / 2 - width / 2, room));
    const below = at.bottom + GAP_PX;
    const fitsBelow = below + height <= window.innerHeight - GAP_PX;
    const top = fitsBelow ? below : Math.max(GAP_PX, at.top - GAP_PX - height);
    this.card.style.setProperty("left", `${left}px`);
    this.card.style.setProperty("top", `${top}px`);
  }
}
