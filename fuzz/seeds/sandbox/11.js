'use strict'; return { out: 'Ada Lovelace'.replace(/(?<first>\p{Lu}\S*)\s+(.*)/u, '$2, $<first>') };
