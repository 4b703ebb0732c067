return Promise.resolve(1).then(async (x) => { for await (const y of [x]) await y });
