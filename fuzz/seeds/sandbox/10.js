try { JSON.parse('{') } catch ({ message }) { return { out: message } } finally { floh.uuid() }
