var n = 0; label: do { switch (n++) { case 1: break label; default: n **= 2 } } while (n < 9); return { out: n };
