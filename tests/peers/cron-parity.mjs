// What npm's cron-parser makes of expressions. Reads JSON lines {expression, zone, seed, starts, count} and prints one
// line for each: {"refused": "why"}, or {"runs": [[ms, ...], ...]}, one list for each start. As in BullMQ, each
// occurrence is computed by a fresh parse from the one before; a list ends early where there is no next occurrence.
import { createInterface } from 'node:readline';
import { CronExpressionParser } from 'cron-parser';

function next(question, from) {
  const options = { currentDate: new Date(from), tz: question.zone };
  if (question.seed) options.hashSeed = question.seed;
  const interval = CronExpressionParser.parse(question.expression, options);
  try {
    return interval.next().getTime();
  } catch {
    return undefined;
  }
}

function answer(question) {
  const runs = [];
  for (const start of question.starts) {
    const run = [];
    for (let from = start; run.length < question.count; ) {
      try {
        from = next(question, from);
      } catch (error) {
        return { refused: error.message };
      }
      if (from === undefined) break;
      run.push(from);
    }
    runs.push(run);
  }
  return { runs };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(answer(JSON.parse(line))));
}
