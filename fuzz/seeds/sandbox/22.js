return { out: JSON.stringify([floh], (key, value) => (value === floh ? arguments : value), '\t') };
