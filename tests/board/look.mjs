// What a person does at Bull Board, by what is written on the screen and not by what the page asks its server.
import { setTimeout } from 'node:timers/promises';

/** The way to a job: the queue in the list, the tab of its state, its number. It is there when its own page is shown. */
async function openJob(page, queue, state, id) {
  await page.getByRole('complementary').getByRole('link', { name: queue, exact: true }).click();
  await tab(page, queue, state).click();
  await jobLink(page, id).click();
  await page.getByRole('main').getByText(`#${id}`, { exact: true }).waitFor();
  await page.getByRole('tablist').waitFor();
}

function tab(page, queue, state) {
  return page.getByRole('main').locator(`a[href="/queue/${queue}?status=${state}"]`).first();
}

/** The link with a job's number and name, in a list of jobs. */
function jobLink(page, id) {
  return page.getByRole('main').getByRole('link', { name: new RegExp(`^#${id}(?!\\d)`) });
}

/** The numbers beside the names of the states; a state without a number has no job. */
async function counts(page, queue) {
  await tab(page, queue, 'completed').waitFor();
  const links = page.getByRole('main').locator(`a[href^="/queue/${queue}?status="]`);
  const rows = await links.evaluateAll((all) =>
    all.map((link) => [...link.querySelectorAll('span')].map((span) => span.textContent.trim()).filter(Boolean)),
  );
  return Object.fromEntries(rows.map(([state, number]) => [state.toLowerCase(), Number(number ?? 0)]));
}

/** What one of the tabs on a job's page shows. */
async function panel(page, name) {
  await page.getByRole('tab', { name, exact: true }).click();
  const shown = page.getByRole('tabpanel', { name, exact: true });
  await shown.waitFor();
  return shown;
}

/** A part of the tree that shows a job's data, without its white space. */
async function branch(shown, name) {
  const item = shown.getByRole('treeitem').filter({ hasText: new RegExp(`^\\W*${name}:`) });
  // The last is the innermost: what holds it has its text too.
  return (await item.last().textContent()).replace(/\s|[▾▸]|,$/g, '');
}

async function readFailed(page, queue, id) {
  await openJob(page, queue, 'failed', id);
  return { error: await (await panel(page, 'Error')).locator('code').innerText() };
}

async function readCompleted(page, queue, id) {
  await openJob(page, queue, 'completed', id);
  const data = await panel(page, 'Data');
  const seen = { data: await branch(data, 'jobData'), returned: await branch(data, 'returnValue') };
  const circle = page.getByRole('main').getByRole('progressbar').locator('svg');
  seen.progress = (await circle.count()) > 0 ? await circle.textContent() : null;
  // They are fetched when the tab is opened; until they are drawn it says that there are none.
  const fetched = page.waitForResponse((response) => response.url().endsWith('/logs'));
  const lines = (await panel(page, 'Logs')).locator('ol').getByRole('listitem');
  await fetched;
  await lines.first().waitFor({ timeout: 3000 }).catch(() => {});
  seen.logs = (await lines.allTextContents()).map((line) => line.trim());
  return seen;
}

/** Asks until the answer is yes. */
async function until(what, probe) {
  for (const end = Date.now() + 30_000; !(await probe()); await setTimeout(50)) {
    if (Date.now() > end) throw new Error(`not within 30 s: ${what}`);
  }
}

/** The button whose hint says so, among those of a job. */
async function button(page, job, hint) {
  for (const candidate of await job.getByRole('button').all()) {
    await candidate.hover();
    const shown = page.getByText(hint, { exact: true }).waitFor({ timeout: 5000 });
    if (await shown.then(() => true, () => false)) return candidate;
  }
  throw new Error(`no button says ${hint}`);
}

/** Presses Retry, says yes, and follows the job to where it waits. */
async function retry(page, queue, id) {
  await page.getByRole('complementary').getByRole('link', { name: queue, exact: true }).click();
  await tab(page, queue, 'failed').click();
  const link = jobLink(page, id);
  await link.waitFor();
  const before = await counts(page, queue);
  // The job's own buttons are the first list after its link.
  await (await button(page, link.locator('xpath=following::ul[1]'), 'Retry')).click();
  const question = page.getByRole('dialog').or(page.getByRole('alertdialog'));
  const asked = await question.innerText();
  await question.getByRole('button', { name: 'Confirm' }).click();
  await until('the failed job has left', async () => (await counts(page, queue)).failed < before.failed);
  await tab(page, queue, 'waiting').click();
  await jobLink(page, id).waitFor();
  return { asked, before, after: await counts(page, queue) };
}

/** The workers that are listed as connected, each as it is written there. */
async function workers(page) {
  await page.getByRole('button', { name: 'Queue info' }).click();
  const dialog = page.getByRole('dialog', { name: 'Queue info' });
  await dialog.getByRole('button', { name: 'Connected workers' }).click();
  const list = dialog.getByRole('listitem');
  await list.or(dialog.getByText('Nothing is consuming this queue.')).first().waitFor();
  const seen = (await list.allInnerTexts()).map((text) => text.replace(/\s+/g, ' ').trim());
  await dialog.getByRole('button', { name: 'Close' }).click();
  await dialog.waitFor({ state: 'hidden' });
  return seen;
}

/** Reads the queue's page, and does what is wanted of jobs: `failed` and `completed` are read, `retry` is retried. */
export async function lookAt(page, address, queue, { failed, completed, retry: again }) {
  await page.goto(address);
  await page.getByRole('main').getByRole('link', { name: queue, exact: true }).click();
  await page.getByRole('heading', { name: queue }).waitFor();
  const seen = { counts: await counts(page, queue), workers: await workers(page) };
  if (failed) seen.failed = await readFailed(page, queue, failed);
  if (completed) seen.completed = await readCompleted(page, queue, completed);
  if (again) seen.retried = await retry(page, queue, again);
  return seen;
}
