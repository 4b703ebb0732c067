return { out: { toJSON() { throw new Error('no') }, [Symbol.toPrimitive]: () => 1, get x() { return this } } };
