// One worker of the benchmarks: node bench-worker.mjs 5|6 CONCURRENCY PREFIX, with REDIS_URL. What it prints and does with
// signals is said in tests/bench/worker.rs.
const [version, concurrency, prefix] = process.argv.slice(2);
const { Worker } = await import(version === '5' ? 'bullmq5' : 'bullmq6');
const url = new URL(process.env.REDIS_URL);
const notes = [];

const worker = new Worker(
  'workflow-scheduler',
  async ({ data }) => {
    if (data.at) notes.push(Number(process.hrtime.bigint()) / 1000 - data.at);
    if (data.ms) await new Promise((resolve) => setTimeout(resolve, data.ms));
  },
  {
    connection: { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null },
    prefix,
    concurrency: Number(concurrency),
    name: 'bench',
  },
);
worker.on('error', (error) => console.error(error));

let closing = false;
process.on('SIGTERM', async () => {
  if (closing) process.exit(0);
  closing = true;
  console.log('closing');
  await worker.close();
  process.exit(0);
});
process.stdin.on('end', () => {
  console.log(JSON.stringify(notes));
  process.exit(0);
});
process.stdin.resume();

await worker.waitUntilReady();
console.log('ready');
