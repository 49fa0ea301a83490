"""The page and the look of a report."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:" />
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

# Pictures are drawn on white, so in the dark look they keep a white card.
STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1b1b1b; --soft: #5a5a5a; --line: #cfcfcf;
  --card: #f4f6f8; --link: #005a8f; --good: #00664b; --bad: #a83f00; --unknown: #6b5200; --note: #005a8f; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --text: #e8e8e8; --soft: #a9b0b6; --line: #3a4046;
  --card: #1e2328; --link: #7cc4f0; --good: #4fd3ab; --bad: #ff9a5c; --unknown: #e8c95c; --note: #7cc4f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 48rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
p { margin: .6rem 0; max-width: 44rem; }
ul, ol { padding-left: 1.4rem; }
a { color: var(--link); }
.verdict { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .9rem 1.1rem;
  margin: 1.2rem 0; }
.verdict h2 { border: 0; margin: 0 0 .4rem; padding: 0; }
.verdict ul { list-style: none; margin: 0; padding: 0; }
.verdict li { margin: .4rem 0; padding-left: 1.7rem; text-indent: -1.7rem; }
.mark { display: inline-block; width: 1.35rem; text-indent: 0; font-weight: 700; }
.good .mark, .good strong { color: var(--good); }
.bad .mark, .bad strong { color: var(--bad); }
.unknown .mark, .unknown strong { color: var(--unknown); }
.note .mark, .note strong { color: var(--note); }
nav ol { columns: 16rem; margin: .8rem 0; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .95rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .35rem; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { border-bottom: 2px solid var(--soft); }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; }
figure { margin: 1.2rem 0; }
img { display: block; max-width: min(100%, 46rem); height: auto; background: #ffffff; padding: .5rem;
  border-radius: .35rem; border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .92rem; margin-top: .4rem; max-width: 44rem; }
@media print { nav { display: none; } figure, table { break-inside: avoid; } }
"""
