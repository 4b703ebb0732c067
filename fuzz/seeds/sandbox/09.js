const f = function* () { const got = yield* [1, 2]; return got }; return { out: [...f()] };
