"""The look of the HTML report: one small style sheet, light and dark, from phone to wide screen."""

from __future__ import annotations

CSS = """
:root { --ink: #22262b; --soft: #5c6670; --page: #ffffff; --panel: #f5f6f8; --rule: #dfe3e8; --grid: #e4e7eb;
  --accent: #b34700; --halo: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a2abb5; --page: #15181c; --panel: #1e2227; --rule: #333a42; --grid: #2d333a;
    --accent: #ff9a52; --halo: #15181c;
    --method-0: #d3d8de; --method-1: #4a9fe0; --method-2: #22bf92; --method-3: #e59ac4; --method-4: #ff8a3d;
    --method-5: #8ad0ff; --method-6: #ffb52e; --method-7: #d0668f; --method-8: #c0c04a; --method-9: #5fd0bd;
    --method-10: #d06ad0; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, main { max-width: 82rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2.5rem); }
header { padding-top: 2.2rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 0 0 .8rem; padding-top: 1.4rem; border-top: 1px solid var(--rule); }
section { margin-top: 1.6rem; }
p, ul { max-width: 52rem; }
li { margin: .3rem 0; }
.lead { color: var(--soft); margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: .35rem .9rem; margin-top: 1rem; font-size: .9rem; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
main { padding-bottom: 4rem; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .86em; }
code { background: var(--panel); padding: .1em .3em; border-radius: .25em; overflow-wrap: anywhere; }
pre { background: var(--panel); padding: .8rem 1rem; border-radius: .5rem; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: 0 0 .8rem; }
.table { overflow-x: auto; border: 1px solid var(--rule); border-radius: .5rem; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .82rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .5rem; vertical-align: top; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
th.text, td.text { text-align: left; }
td small { display: block; color: var(--soft); font-size: .82em; line-height: 1.25; }
td.text { white-space: normal; overflow-wrap: break-word; }
tr > :first-child { position: sticky; left: 0; background: var(--page); font-weight: 600; }
thead th { white-space: normal; vertical-align: bottom; }
thead th, thead tr > :first-child { background: var(--panel); color: var(--soft); font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
tr.base > *, tr.control > * { color: var(--soft); }
tr.control > :first-child { padding-left: 1.5rem; font-weight: 400; }
.caption, figcaption { color: var(--soft); font-size: .85rem; margin: .5rem 0 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); gap: 1.2rem;
  margin: 1rem 0; }
figure { margin: 0; padding: .8rem; border: 1px solid var(--rule); border-radius: .5rem; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 36rem; margin: 0 auto; }
figcaption { margin: .4rem 0 0; }
.sample { border: 1px solid var(--rule); border-radius: .5rem; padding: .9rem; margin: 0 0 1rem; }
.sample dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .35rem 1rem; margin: 0; }
.sample dt { color: var(--soft); font-size: .88rem; }
.sample dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
@media (max-width: 36rem) {
  .sample dl { grid-template-columns: 1fr; gap: .1rem; }
  .sample dd { margin-bottom: .5rem; }
}
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); }
details[open] > summary { margin-bottom: .6rem; }
@media print { .table { overflow: visible; } nav { display: none; } figure, .sample { break-inside: avoid; } }
"""
