const a = [1, , 3.5e-7, 0x1F, 1_000n, null, undefined, NaN, -0]; return { out: a.flat().sort().reverse().concat(a).slice(1, -1).join() };
