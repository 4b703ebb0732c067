// Adds jobs with npm's BullMQ, as an API server would, waits for them, and tells what became of each.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const require = createRequire(fileURLToPath(new URL('../tests/peers/package.json', import.meta.url)));
const { Queue, QueueEvents } = require('bullmq6');

const connection = { path: process.env.REDIS_SOCKET };
const queue = new Queue('workflow-scheduler', { connection });
const events = new QueueEvents('workflow-scheduler', { connection });
await events.waitUntilReady();

const jobs = [
  await queue.add('stuck-run-recovery', {}),
  await queue.add('audit-checkpoint', {}),
  await queue.add('send-birthday-card', { to: 'Ada' }),
  await queue.add('audit-checkpoint', {}, { delay: 1500 }),
];

const rows = [];
for (const job of jobs) {
  await job.waitUntilFinished(events, 30_000).catch(() => {});
  const done = await queue.getJob(job.id);
  const state = await done.getState();
  rows.push({
    job: done.id,
    name: done.name,
    worker: done.processedBy,
    outcome: state,
    ms: done.finishedOn - done.processedOn,
    result: state === 'completed' ? JSON.stringify(done.returnvalue) : done.failedReason,
  });
}
console.table(rows);

await events.close();
await queue.close();
const expected = ['completed', 'completed', 'failed', 'completed'];
if (rows.some((row, index) => row.outcome !== expected[index])) {
  console.error('These are not the outcomes that were expected.');
  process.exit(1);
}
