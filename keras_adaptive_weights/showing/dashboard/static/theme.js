// TensorBoard marks its body with the class "dark-mode". The frame has the same origin, so that class is what is
// followed; where the page is opened by itself, the system's preference is.

export function followTheme() {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const host = hostBody();
  const apply = () => {
    const dark = host ? host.classList.contains("dark-mode") : system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  };
  apply();
  if (host) {
    new MutationObserver(apply).observe(host, { attributes: true, attributeFilter: ["class"] });
  } else {
    system.addEventListener("change", apply);
  }
}

function hostBody() {
  try {
    return window.parent !== window ? window.parent.document.body : null;
  } catch {
    return null; // embedded by a page of another origin
  }
}
