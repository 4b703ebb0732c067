return { out: Array(1e8).fill('y').join('').length };
