Object.prototype.out = 1; Object.defineProperty(Array.prototype, 'toString', { value: eval }); return Object.create(null);
