return { out: new Proxy([], { get: (target, key) => (key === 'length' ? 5 : Reflect.get(target, key)) }) };
