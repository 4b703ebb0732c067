with (new Uint8Array(8)) { fill(7); return { out: [...subarray(1)].at(-1) } }
