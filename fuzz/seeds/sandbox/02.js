const { list: [first, ...rest], missing = {} } = floh.variables; return { out: [first, rest, missing?.x?.[0] ?? null] };
