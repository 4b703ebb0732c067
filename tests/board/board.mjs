// Serves Bull Board for the worker's queue, looks at it in Chromium and prints what a person would have read, as JSON.
//
//     REDIS_URL=redis://… node board.mjs '{"failed": id, "completed": id, "retry": id}'
//
// Each of the jobs may be left out: see look.mjs for what is read of it. The program of CHROMIUM, or Debian's.
import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';
import { Queue } from 'bullmq';
import express from 'express';
import { once } from 'node:events';
import { chromium } from 'playwright-core';
import { lookAt } from './look.mjs';

const QUEUE = 'workflow-scheduler';
/** What one step may take: the page asks its server every five seconds, and machines are busy. */
const STEP_MS = 30_000;

/** Serves the board on a free port of the loopback; returns its address. */
async function serve(queue) {
  const serverAdapter = new ExpressAdapter();
  createBullBoard({ queues: [new BullMQAdapter(queue)], serverAdapter });
  const server = express().use(serverAdapter.getRouter()).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${server.address().port}`;
}

/** Without a sandbox, because root has none and the page is our own; and with nobody to talk to but that page. */
function browse() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    chromiumSandbox: false,
    args: [
      '--disable-gpu',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--no-proxy-server',
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    ],
  });
}

const wanted = JSON.parse(process.argv[2] ?? '{}');
const { hostname: host, port } = new URL(process.env.REDIS_URL);
const queue = new Queue(QUEUE, { connection: { host, port: Number(port), maxRetriesPerRequest: null } });
queue.on('error', (error) => console.error(`queue: ${error}`));
const address = await serve(queue);
const browser = await browse();
// The window of a desk: in a narrow one the board hides parts. English, because the words are what is read.
const page = await browser.newPage({ viewport: { width: 1600, height: 1000 }, locale: 'en-US' });
page.setDefaultTimeout(STEP_MS);
const errors = [];
page.on('pageerror', (error) => errors.push(String(error)));
try {
  const seen = await lookAt(page, address, QUEUE, wanted);
  console.log(JSON.stringify({ browser: browser.version(), ...seen, errors }));
} catch (error) {
  console.error(error, errors, await page.locator('body').ariaSnapshot({ timeout: 2000 }).catch(String));
  process.exitCode = 1;
}
await browser.close();
// The server has nobody left, and the queue nothing that waits.
process.exit();
