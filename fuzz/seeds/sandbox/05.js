let out = 0; for (const key in { a: 1, 'b': 2n, [`c${out}`]: null }) { if (key === 'b') continue; out += key.length } return { out };
