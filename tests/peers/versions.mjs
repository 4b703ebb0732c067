// Prints the versions of the clients that the tests talk to, one per line.
import { readFileSync } from 'node:fs';

for (const name of ['bullmq5', 'bullmq6', 'cron-parser']) {
  const manifest = new URL(`node_modules/${name}/package.json`, import.meta.url);
  console.log(name, JSON.parse(readFileSync(manifest)).version);
}
