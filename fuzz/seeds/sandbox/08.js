for (let text = 'x'; ; text += text) floh.log.info(text.length);
