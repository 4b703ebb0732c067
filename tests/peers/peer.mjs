// A BullMQ client of either major version, driven by JSON lines.
//
// Each line on stdin is {"id": n, "v": 5 | 6, "op": "…", …arguments}; the answer on stdout is {"id": n, "ok": value} or
// {"id": n, "error": "…"}. REDIS_URL says where. The queue is workflow-scheduler under the prefix bull unless a call
// says otherwise ("queue", "prefix"). The process ends when stdin does.
import { createInterface } from 'node:readline';
import { operations as queues } from './queues.mjs';
import { operations as reads } from './reads.mjs';
import { operations as workers } from './workers.mjs';
import { closeAll } from './clients.mjs';

const operations = { ping: async () => 'pong', ...queues, ...reads, ...workers };

async function answer(line) {
  let id = null;
  try {
    const { id: number, op, ...args } = JSON.parse(line);
    id = number;
    if (!Object.hasOwn(operations, op)) throw new Error(`unknown operation ${op}`);
    const value = await operations[op](args);
    return { id, ok: value === undefined ? null : value };
  } catch (error) {
    return { id, error: String(error?.stack ?? error) };
  }
}

// A BullMQ object whose connection breaks emits errors; the tests break connections on purpose.
process.on('unhandledRejection', (error) => console.error('unhandled rejection:', error));

const lines = createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on('line', async (line) => {
  process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
});
lines.on('close', async () => {
  await Promise.race([closeAll(), new Promise((resolve) => setTimeout(resolve, 2000))]);
  process.exit(0);
});
