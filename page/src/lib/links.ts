/** Where the lessons are: beside the page on the site, else in the repository. */
declare const __LESSONS__: { base: string; suffix: string; names: Record<string, string> };

export const lesson = (number: string): string => `${__LESSONS__.base}${__LESSONS__.names[number] ?? ''}${__LESSONS__.suffix}`;
