return { out: floh.variables.list.map((x) => [x, typeof x]) };
