// The errors of FORMAT.md: `offset` is where in the file.

export class FormatError extends Error {
  constructor(offset, text) {
    super(`offset ${offset}: ${text}`);
    this.name = new.target.name;
    this.offset = offset;
  }
}

export class VersionError extends FormatError {}

export class ChecksumError extends FormatError {}

export class LimitError extends FormatError {}

/** Refuse the file unless the condition holds. */
export function need(condition, offset, text, error = FormatError) {
  if (!condition) throw new error(offset, text);
}
