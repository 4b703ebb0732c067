return { out: new Date(8.64e15).toISOString() + String(Symbol('x')) + new Map([[1, new Set([2])]]).size };
