class B extends Array { constructor(...all) { super(...all) } get length() { return 3 } } return { out: [new B(1, 2)] };
