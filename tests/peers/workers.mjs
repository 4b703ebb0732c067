// A Node worker beside ours: what it processed is what the tests count.
import { base, drop, keep, kept, library, queueName } from './clients.mjs';

const records = new Map();
const keyOf = (args) => `worker ${args.v} ${queueName(args)} ${args.label ?? ''}`;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The jobs for tests, as our worker's feature test-jobs has them (test.effect is only recorded), and a few of Node's own. */
async function handle(job, bullmq) {
  const data = job.data ?? {};
  switch (job.name) {
    case 'test.sleep':
      await sleep(data.ms ?? 0);
      return { slept: data.ms ?? 0 };
    case 'test.effect':
      await sleep(data.ms ?? 0);
      return { key: data.key };
    case 'test.fail':
      throw data.unrecoverable ? new bullmq.UnrecoverableError(data.reason) : new Error(data.reason);
    case 'test.progress':
      for (let step = 1; step <= data.steps; step++) {
        await job.updateProgress(Math.round((100 * step) / data.steps));
        await job.log(`step ${step} of ${data.steps}`);
      }
      return { steps: data.steps };
    case 'node.children':
      return job.getChildrenValues();
    case 'node.ignored':
      return job.getIgnoredChildrenFailures();
    default:
      return data;
  }
}

export const operations = {
  /** Starts a worker with `concurrency`; `options` go to BullMQ as they are. Answers when it is ready. */
  workerStart: async (args) => {
    const bullmq = library(args);
    const record = { started: [], completed: [], failed: [], stalled: [], errors: [] };
    records.set(keyOf(args), record);
    const worker = new bullmq.Worker(
      queueName(args),
      async (job) => {
        record.started.push({
          id: job.id, name: job.name, data: job.data, attemptsMade: job.attemptsMade, at: Date.now(),
          ...(args.withOpts ? { opts: job.opts } : {}),
        });
        return handle(job, bullmq);
      },
      { ...base(args), concurrency: args.concurrency ?? 1, name: args.workerName, ...args.options },
    );
    worker.on('completed', (job) => record.completed.push(job.id));
    worker.on('failed', (job, error) => record.failed.push({ id: job?.id, reason: error.message }));
    worker.on('stalled', (id) => record.stalled.push(id));
    worker.on('error', (error) => record.errors.push(String(error)));
    await keep(keyOf(args), worker);
    await worker.waitUntilReady();
  },
  workerRecord: async (args) => {
    const record = records.get(keyOf(args));
    if (!record) throw new Error(`no worker was started as ${keyOf(args)}`);
    return record;
  },
  workerPause: (args) => kept(keyOf(args)).pause(args.force ?? false),
  workerResume: async (args) => kept(keyOf(args)).resume(),
  workerStop: (args) => drop(keyOf(args), args.force ?? false),
};
