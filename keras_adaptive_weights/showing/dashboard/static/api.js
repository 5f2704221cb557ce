// Requests to the plugin's own routes, and nothing else.

const BASE = new URL("../", import.meta.url);

async function get(route, parameters = {}) {
  const url = new URL(route, BASE);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  const response = await fetch(url);
  const values = await response.json();
  if (!response.ok) throw new Error(values.error ?? `status ${response.status}`);
  return values;
}

export const fetchRuns = async () => (await get("runs")).runs;
export const fetchEvents = (run, after) => get("events", { run, after });
export const fetchPresent = (run) => get("present", { run });
export const fetchSeries = (run, from, to, points) => get("series", { run, from, to, points });
