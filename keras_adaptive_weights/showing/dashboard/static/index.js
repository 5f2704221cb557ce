// Entry point: TensorBoard imports this module into the plugin's frame and calls `render`.
import { App } from "./app.js";
import { followTheme } from "./theme.js";

const STYLES = ["page.css", "chart.css", "details.css"];

export async function render() {
  document.documentElement.lang = "en";
  document.title = "Adaptive Weights";
  followTheme();
  await Promise.all(STYLES.map(loadStyle));
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
