// The BullMQ objects of this process, made when first asked for: one per class, version, queue and prefix.
import { Redis } from 'ioredis';
import * as bullmq5 from 'bullmq5';
import * as bullmq6 from 'bullmq6';

const libraries = { 5: bullmq5, 6: bullmq6 };
const made = new Map();

/** How every object connects: by the URL's parts, so that both versions make connections of their own. */
function connection() {
  const url = new URL(process.env.REDIS_URL);
  return {
    host: url.hostname,
    port: Number(url.port),
    db: Number(url.pathname.slice(1) || 0),
    username: url.username || undefined,
    password: url.password || undefined,
    maxRetriesPerRequest: null,
  };
}

/** A connection without BullMQ, for the caller to close. */
export function plainRedis() {
  return new Redis(connection());
}

/** The options that every class takes, from a call's arguments. */
export function base({ prefix = 'bull' }) {
  return { connection: connection(), prefix };
}

export function queueName({ queue = 'workflow-scheduler' }) {
  return queue;
}

/** The library of the version that a call names. */
export function library({ v }) {
  const found = libraries[v];
  if (!found) throw new Error(`"v" is 5 or 6, not ${v}`);
  return found;
}

function once(kind, args, make) {
  const key = [kind, args.v, queueName(args), args.prefix ?? 'bull'].join(' ');
  if (!made.has(key)) {
    const object = make();
    object.on?.('error', (error) => console.error(`${key}: ${error}`));
    made.set(key, object);
  }
  return made.get(key);
}

/** Its event stream keeps everything: tests read a job's whole story there. */
export function queue(args) {
  const options = () => ({ ...base(args), streams: { events: { maxLen: 1_000_000 } } });
  return once('queue', args, () => new (library(args).Queue)(queueName(args), options()));
}

export function flows(args) {
  return once('flows', args, () => new (library(args).FlowProducer)(base(args)));
}

/** Keeps an object that a call made, so that it is closed at the end; closes the one that it replaces. */
export async function keep(key, object) {
  await made.get(key)?.close();
  object.on?.('error', (error) => console.error(`${key}: ${error}`));
  made.set(key, object);
  return object;
}

export function kept(key) {
  const object = made.get(key);
  if (!object) throw new Error(`nothing was started as ${key}`);
  return object;
}

export async function drop(key, ...how) {
  const object = kept(key);
  made.delete(key);
  await object.close(...how);
}

export async function closeAll() {
  await Promise.allSettled([...made.values()].map((object) => object.close()));
}
