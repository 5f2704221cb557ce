// The visual language that the pictures share: colours, markers and panels, as they are in look.json.
export const LOOK = await (await fetch(new URL("look.json", import.meta.url))).json();
