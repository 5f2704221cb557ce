// Entry point: TensorBoard imports this module into the plugin's frame and calls `render`.
import { App } from "./app.js";
import { followTheme } from "./theme.js";

export async function render() {
  const loaded = Promise.all(["theme.css", "page.css", "chart.css", "details.css"].map(loadStyle));
  document.documentElement.lang = "en";
  document.title = "Adaptive Weights";
  followTheme();
  await loaded;
  await new App(document.body).start();
}

function loadStyle(name) {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL(name, import.meta.url).href;
  const loaded = new Promise((resolve) => style.addEventListener("load", resolve, { once: true }));
  document.head.append(style);
  return loaded;
}
