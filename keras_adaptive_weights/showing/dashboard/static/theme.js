// TensorBoard marks its body with the class "dark-mode". The frame has the same origin, so that class is what is
// followed; where the page is opened by itself, the system's preference is.
import { LOOK } from "./look.js";

export function followTheme() {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const host = hostBody();
  const apply = () => paint((host ? host.classList.contains("dark-mode") : system.matches) ? "dark" : "light");
  apply();
  if (host) {
    new MutationObserver(apply).observe(host, { attributes: true, attributeFilter: ["class"] });
  } else {
    system.addEventListener("change", apply);
  }
}

function paint(theme) {
  const root = document.documentElement;
  root.dataset.theme = theme;
  root.style.colorScheme = theme;
  for (const [role, color] of Object.entries(LOOK.themes[theme])) root.style.setProperty(`--${role}`, color);
}

function hostBody() {
  try {
    return window.parent !== window ? window.parent.document.body : null;
  } catch {
    return null; // embedded by a page of another origin
  }
}
