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
export const fetchEvents = (run, term, after) => get("events", { run, term, after });
export const fetchPresent = (run, term) => get("present", { run, term });
export const fetchSeries = (run, term, from, to, points) => get("series", { run, term, from, to, points });
