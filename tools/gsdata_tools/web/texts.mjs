// Texts of a file, as the page shows them: no longer than is good for a browser, and with nothing in them that cannot be seen.

// Controls, separators of lines, and what turns the direction of a line around or is not there to see; not the joiners of scripts and emoji.
const UNSEEN = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]|(?![\u200c\u200d])\p{Cf}/gu;
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** The first `most` characters of a text; what is not seen as its escape, as gsd-inspect prints it (`\x1b`, `\u202e`). */
export function visible(text, most) {
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return cut.replace(UNSEEN, (c) => SHORT[c] ?? escaped(c.codePointAt(0)));
}

function escaped(code) {
  const [letter, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
  return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
}
