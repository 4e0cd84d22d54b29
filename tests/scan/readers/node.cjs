// Libraries from npm: node.cjs FOLDER NAME, the folder being the one that has them; the contract is in __init__.py.
const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');

const [folder, name] = process.argv.slice(2);
const library = require(path.join(folder, 'node_modules', name));
const base64 = (octets) => Buffer.from(octets || '').toString('base64');
const attached = (message) => message.attachments.map((each) => [base64(each.filename), base64(each.content)]);

async function mailparser(content) {
  const options = { skipHtmlToText: true, skipTextToHtml: true, skipImageLinks: true };
  const message = await library.simpleParser(content, options);
  return [...attached(message), ['', base64(message.text)]];
}

async function postalMime(content) {
  return attached(await (library.default || library).parse(content));
}

function nodes(node) {
  const disposition = (node.headers['content-disposition'] || [{}])[0].params || {};
  const type = (node.contentType || {}).params || {};
  const own = [base64(disposition.filename || type.name), base64(node.content)];
  return [own, ...(node.childNodes || []).flatMap(nodes)];
}

const readers = {
  mailparser,
  'postal-mime': postalMime,
  'emailjs-mime-parser': async (content) => nodes(library.default(content)),
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer = [];
    try {
      answer = await readers[name](fs.readFileSync(line));
    } catch {
      // it cannot read that
    }
    console.log(JSON.stringify(answer));
  }
})();
