return { out: /^(a+)+$/.test('a'.repeat(40) + '!') };
