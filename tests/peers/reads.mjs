// What an API server, a dashboard and an operator read: jobs, counts, events.
import { base, drop, keep, library, plainRedis, queue, queueName } from './clients.mjs';

const STATES = ['active', 'waiting', 'waiting-children', 'prioritized', 'completed', 'failed', 'delayed', 'paused'];

/** Everything that the client knows of a job, by the client's own names. */
async function view(args, id) {
  // The state first: what is read after it is at least as new, so a job seen as completed has its return value.
  const state = await queue(args).getJobState(id);
  const job = await queue(args).getJob(id);
  if (!job) return null;
  const { logs } = await queue(args).getJobLogs(job.id);
  return {
    id: job.id,
    name: job.name,
    data: job.data,
    opts: job.opts,
    state,
    returnvalue: job.returnvalue ?? null,
    failedReason: job.failedReason ?? null,
    stacktrace: job.stacktrace ?? null,
    progress: job.progress,
    logs,
    attemptsMade: job.attemptsMade,
    attemptsStarted: job.attemptsStarted,
    stalledCounter: job.stalledCounter,
    timestamp: job.timestamp,
    processedOn: job.processedOn ?? null,
    finishedOn: job.finishedOn ?? null,
    processedBy: job.processedBy ?? null,
    delay: job.delay,
    priority: job.priority,
    parentKey: job.parentKey ?? null,
    repeatJobKey: job.repeatJobKey ?? null,
    deduplicationId: job.deduplicationId ?? null,
    deferredFailure: job.deferredFailure ?? null,
  };
}

/** Collected events of one `eventsStart`: each {event, …arguments}, in the stream's order. */
const collected = new Map();

const EVENTS = [
  'active', 'added', 'cleaned', 'completed', 'deduplicated', 'delayed', 'drained', 'duplicated', 'failed', 'paused',
  'progress', 'removed', 'resumed', 'retries-exhausted', 'stalled', 'waiting', 'waiting-children',
];

export const operations = {
  job: (args) => view(args, args.job),
  state: (args) => queue(args).getJobState(args.job),
  counts: (args) => queue(args).getJobCounts(),
  jobs: async (args) => {
    const jobs = await queue(args).getJobs(args.types, args.start ?? 0, args.end ?? -1, args.asc ?? true);
    return Promise.all(jobs.filter(Boolean).map((job) => view(args, job.id)));
  },
  ids: async (args) => {
    const jobs = await queue(args).getJobs(args.types, args.start ?? 0, args.end ?? -1, args.asc ?? true);
    return jobs.map((job) => job?.id ?? null);
  },
  isPaused: (args) => queue(args).isPaused(),
  meta: (args) => queue(args).getMeta(),
  workers: (args) => queue(args).getWorkers(),
  deduplicationJob: (args) => queue(args).getDeduplicationJobId(args.key),
  rateLimitTtl: (args) => queue(args).getRateLimitTtl(),
  childrenValues: async (args) => (await queue(args).getJob(args.job)).getChildrenValues(),
  ignoredFailures: async (args) => (await queue(args).getJob(args.job)).getIgnoredChildrenFailures(),
  dependencies: async (args) => (await queue(args).getJob(args.job)).getDependencies(),

  /** The reads that a dashboard makes of one queue: counts, a page of every state, each job as JSON with its logs. */
  dashboard: async (args) => {
    const board = queue(args);
    const pages = {};
    for (const state of STATES) {
      const jobs = await board.getJobs([state], 0, 9);
      pages[state] = await Promise.all(
        jobs.filter(Boolean).map(async (job) => ({
          ...job.toJSON(),
          state: await job.getState(),
          logs: (await board.getJobLogs(job.id)).logs,
        })),
      );
    }
    return {
      counts: await board.getJobCounts(...STATES),
      paused: await board.isPaused(),
      globalConcurrency: await board.getGlobalConcurrency(),
      schedulers: await board.getJobSchedulers(0, 9, true),
      metrics: [await board.getMetrics('completed'), await board.getMetrics('failed')],
      pages,
    };
  },

  /** Listens from now on; answers when the subscription is up. */
  eventsStart: async (args) => {
    const { QueueEvents } = library(args);
    const name = `events ${args.v} ${queueName(args)}`;
    const list = [];
    collected.set(name, list);
    // An explicit id, not '$': each read of '$' begins anew, and events between two reads would be missed.
    const redis = plainRedis();
    const [last] = await redis.xrevrange(`${args.prefix ?? 'bull'}:${queueName(args)}:events`, '+', '-', 'COUNT', 1);
    await redis.quit();
    const events = await keep(name, new QueueEvents(queueName(args), { ...base(args), lastEventId: last?.[0] ?? '0-0' }));
    for (const event of EVENTS) {
      // `drained`, `paused` and `resumed` have no arguments but their id.
      events.on(event, (details, id) => list.push({ event, ...(typeof details === 'object' ? details : {}), at: id ?? details }));
    }
    await events.waitUntilReady();
  },
  events: async (args) => collected.get(`events ${args.v} ${queueName(args)}`) ?? [],
  eventsStop: (args) => drop(`events ${args.v} ${queueName(args)}`),
  /** What an API server does that waits for an answer: the return value, or the failure as an error. */
  waitUntilFinished: async (args) => {
    const { QueueEvents } = library(args);
    const events = await keep(`wait ${args.v} ${queueName(args)}`, new QueueEvents(queueName(args), base(args)));
    await events.waitUntilReady();
    const job = await queue(args).getJob(args.job);
    return job.waitUntilFinished(events, args.ms ?? 20000);
  },
};
