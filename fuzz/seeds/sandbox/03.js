class A { #n = 0; static #all = 1; get n() { return this.#n++ } static all() { return A.#all } } return { out: new A().n };
