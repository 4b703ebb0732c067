// What an API server does to a queue: adding jobs of every kind, schedules, pausing, limits, repairs by hand.
import { flows, queue, queueName } from './clients.mjs';

const key = (job) => ({ id: job.id, name: job.name, timestamp: job.timestamp, repeatJobKey: job.repeatJobKey ?? null });

/** A flow's jobs as a tree of ids. */
const tree = (node) => ({
  id: node.job.id,
  queue: node.job.queueName,
  children: (node.children ?? []).map(tree),
});

/** Fills the default queue into a flow's nodes that name none. */
const inQueue = (node, name) => ({
  ...node,
  queueName: node.queueName ?? name,
  children: node.children?.map((child) => inQueue(child, name)),
});

async function found(args) {
  const job = await queue(args).getJob(args.job);
  if (!job) throw new Error(`there is no job ${args.job}`);
  return job;
}

export const operations = {
  add: async (args) => key(await queue(args).add(args.name, args.data, args.opts)),
  addBulk: async (args) => (await queue(args).addBulk(args.jobs)).map(key),
  /** `count` jobs whose data is `data` and `index`, in bulks of 500; `key` in data becomes key-INDEX. */
  addSeries: async (args) => {
    const ids = [];
    for (let from = 0; from < args.count; from += 500) {
      const jobs = [];
      for (let index = from; index < Math.min(from + 500, args.count); index++) {
        const data = { ...args.data, index };
        if (data.key) data.key = `${data.key}-${index}`;
        jobs.push({ name: args.name, data, opts: args.opts });
      }
      ids.push(...(await queue(args).addBulk(jobs)).map((job) => job.id));
    }
    return ids;
  },
  flow: async (args) => tree(await flows(args).add(inQueue(args.flow, queueName(args)), args.options)),

  upsertScheduler: async (args) => {
    const job = await queue(args).upsertJobScheduler(args.scheduler, args.repeat, args.template);
    return job ? key(job) : null;
  },
  removeScheduler: (args) => queue(args).removeJobScheduler(args.scheduler),
  schedulers: (args) => queue(args).getJobSchedulers(0, -1, true),
  scheduler: (args) => queue(args).getJobScheduler(args.scheduler),

  // Legacy repeatables exist in 5.x only.
  repeatables: (args) => queue(args).getRepeatableJobs(0, -1, true),
  removeRepeatable: (args) => queue(args).removeRepeatable(args.name, args.repeat, args.jobId),
  removeRepeatableByKey: (args) => queue(args).removeRepeatableByKey(args.key),

  pause: (args) => queue(args).pause(),
  resume: (args) => queue(args).resume(),
  setGlobalConcurrency: (args) => queue(args).setGlobalConcurrency(args.concurrency),
  removeGlobalConcurrency: (args) => queue(args).removeGlobalConcurrency(),
  setGlobalRateLimit: (args) => queue(args).setGlobalRateLimit(args.max, args.duration),
  removeGlobalRateLimit: (args) => queue(args).removeGlobalRateLimit(),

  retry: async (args) => (await found(args)).retry(args.state ?? 'failed', args.opts ?? {}),
  retryJobs: (args) => queue(args).retryJobs(args.opts),
  promote: async (args) => (await found(args)).promote(),
  remove: (args) => queue(args).remove(args.job),
  changePriority: async (args) => (await found(args)).changePriority(args.opts),
  changeDelay: async (args) => (await found(args)).changeDelay(args.delay),
  updateData: async (args) => (await found(args)).updateData(args.data),
  removeDeduplicationKey: (args) => queue(args).removeDeduplicationKey(args.key),
  drain: (args) => queue(args).drain(args.delayed ?? false),
  clean: (args) => queue(args).clean(args.grace ?? 0, args.limit ?? 0, args.type),
  obliterate: (args) => queue(args).obliterate({ force: args.force ?? false }),
};
