return (function deep(x) { return deep(x + 1) })(0);
