// Prints the Lua scripts of npm's BullMQ 6 as one JSON object: "name-keys" -> text.
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';

// Those for require: the others have no mark of what they are, and Node 18 does not take them for modules.
const folder = new URL('node_modules/bullmq6/dist/cjs/scripts/', import.meta.url);
const require = createRequire(import.meta.url);
const scripts = {};
for (const file of readdirSync(folder)) {
  const match = /^(\w+)-(\d+)\.js$/.exec(file);
  if (!match) continue;
  const [script] = Object.values(require(new URL(file, folder).pathname));
  scripts[`${match[1]}-${match[2]}`] = script.content;
}
process.stdout.write(JSON.stringify(scripts));
