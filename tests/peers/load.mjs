// A steady load on the worker's queue, as an API server makes it: RATE jobs a second, each with an id and key of its own.
//
//     node load.mjs '{"connection": {…ioredis…}, "rate": 50, "name": "test.effect", "prefix": "load", "spread": 20}'
//
// Prints `+ KEY` for each job that Redis said it has, `- KEY REASON` for each that it refused. It goes on over every
// fault. The line `probe KEY` on stdin adds one job more, at the front of the queue; `stop` ends the load: what is under
// way is awaited, then it prints `= COUNT` and ends.
import { createInterface } from 'node:readline';
import { Queue } from 'bullmq6';

const { connection, rate, name, prefix, spread } = JSON.parse(process.argv[2]);
/** How long the jobs that are under way when the load ends may take to be answered. */
const PATIENCE_MS = 30000;

const queue = new Queue('workflow-scheduler', {
  connection: { ...connection, maxRetriesPerRequest: null, retryStrategy: () => 100 },
  // The whole story of a row has to be in the event stream.
  streams: { events: { maxLen: 1_000_000 } },
});
queue.on('error', () => {});
await queue.waitUntilReady();

// A command that was under way when its connection broke is sent again: with an id of its own a job is added once.
const opts = { attempts: 1, removeOnComplete: false, removeOnFail: false };
const pending = new Set();
let number = 0;

function add(key, ms, more) {
  const adding = queue.add(name, { key, ms }, { ...opts, ...more, jobId: key }).then(
    () => console.log(`+ ${key}`),
    (error) => console.log(`- ${key} ${String(error).replaceAll('\n', ' ')}`),
  );
  pending.add(adding);
  adding.finally(() => pending.delete(adding));
}

const start = Date.now();
const timer = setInterval(() => {
  for (const due = Math.floor(((Date.now() - start) * rate) / 1000); number < due; number++) {
    add(`${prefix}-${number}`, number % spread);
  }
}, 10);

process.on('unhandledRejection', () => {});

async function stop() {
  clearInterval(timer);
  await Promise.race([Promise.all(pending), new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))]);
  console.log(`= ${number}`);
  process.exit(0);
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const [word, key] = line.split(' ');
  if (word === 'probe') add(key, 0, { lifo: true });
  else stop();
});
