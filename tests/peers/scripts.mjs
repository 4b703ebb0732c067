// Prints the Lua scripts of npm's BullMQ 6 as one JSON object: "name-keys" -> text.
import { readdirSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const folder = new URL('node_modules/bullmq6/dist/esm/scripts/', import.meta.url);
const scripts = {};
for (const file of readdirSync(folder)) {
  const match = /^(\w+)-(\d+)\.js$/.exec(file);
  if (!match) continue;
  const [script] = Object.values(await import(pathToFileURL(new URL(file, folder).pathname)));
  scripts[`${match[1]}-${match[2]}`] = script.content;
}
process.stdout.write(JSON.stringify(scripts));
